"""The URLs of test_panel.py. Their views run the calls of the tests."""

from django.http import HttpResponse
from django.urls import include, path

page = "<!doctype html><title>Page</title><body><p>Page</p></body>"
calls = {}


def view(request, name):
    calls[name]()
    return HttpResponse(page)


async def async_view(request, name):
    await calls[name]()
    return HttpResponse(page)


urlpatterns = [
    path("__debug__/", include("debug_toolbar.urls")),
    path("async/<name>/", async_view),
    path("<name>/", view),
]
