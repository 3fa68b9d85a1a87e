"""
A package with its own way to run SELECTs, in ordinary use: with Django's
manager, and with ours.

    python -m tests.selects.patchers silk

Each package runs in its own process, because these packages patch Django's
compiler.
"""

import sys

from django.apps import AppConfig
from django.conf import settings
from django.http import HttpResponse
from django.urls import include, path

PACKAGE = sys.argv[1] if __name__ == "__main__" else None
CALLS = 4  # calls of each lookup: if a kept SELECT is run, then by the third one


class App(AppConfig):
    name, label = "__main__", "patchers"
    path = "."
    default_auto_field = "django.db.models.BigAutoField"


def make_model():
    from django.db import connection, models

    from getorcreateplus import NonAtomicManager, PlusManager

    class Row(models.Model):
        name = models.CharField(max_length=20, unique=True)
        size = models.IntegerField(default=0)

        objects = models.Manager()
        ours = NonAtomicManager()
        cached = PlusManager()

        class Meta:
            app_label = "patchers"

    with connection.schema_editor() as editor:
        editor.create_model(Row)
    return Row


def look(manager, name="a"):
    """Look up several times, and return the results."""
    return [manager.get(name=name).size for _ in range(CALLS)]


def look_up_in_view(request):
    from django.apps import apps

    row = apps.get_model("patchers", "Row")
    look(getattr(row, request.GET["manager"]))
    return HttpResponse()


def silk():
    """It records each query of a request."""
    from django.core.management import call_command
    from django.test import Client
    from silk.models import Request, SQLQuery

    call_command("migrate", verbosity=0)
    row = make_model()
    row.objects.create(name="a")
    look(row.ours)  # The SQL is kept before silk patches the compiler.
    counts = []
    for manager in ("objects", "ours", "objects"):
        assert Client().get(f"/look/?manager={manager}").status_code == 200
        request = Request.objects.latest("start_time")
        found = SQLQuery.objects.filter(request=request, query__contains="patchers_row")
        counts.append(found.count())
    assert counts == [CALLS] * 3, counts
    obj, created = row.cached.get_or_create(name="a")
    assert (obj.name, created) == ("a", False)


def cachalot():
    """It serves a SELECT from its cache, until a write to the table."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    row = make_model()
    row.objects.create(name="a")
    for manager in (row.objects, row.ours):
        row.objects.filter(name="a").update(size=1)
        with CaptureQueriesContext(connection) as queries:
            assert look(manager) == [1] * CALLS
        assert len(queries) == 1, (manager.name, len(queries))
        row.objects.filter(name="a").update(size=2)
        assert look(manager) == [2] * CALLS
    for size in (3, 4):
        row.cached.update_or_create(name="a", defaults={"size": size})
        for manager in (row.objects, row.ours):
            assert look(manager) == [size] * CALLS
        assert row.cached.get_or_create(name="a")[0].size == size


def backend():
    """A third party's compiler runs each SELECT itself."""
    from .backend.compiler import SQLCompiler

    row = make_model()
    row.objects.create(name="a")
    for manager in (row.objects, row.ours):
        SQLCompiler.executed.clear()
        assert look(manager) == [0] * CALLS
        assert len(SQLCompiler.executed) == CALLS
    for _ in range(2):
        obj, created = row.cached.get_or_create(name="a")
        assert (obj.size, created) == (0, False)
    SQLCompiler.executed.clear()
    row.cached.get_or_create(name="a")
    assert not SQLCompiler.executed  # a hit: the row was put into the cache


urlpatterns = [path("look/", look_up_in_view)]

if __name__ == "__main__":
    apps = {
        "silk": ["django.contrib.auth", "django.contrib.sessions", "silk"],
        "cachalot": ["cachalot"],
        "backend": [],
    }
    engine = "django.db.backends.sqlite3"
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        DATABASES={
            "default": {
                "ENGINE": "tests.selects.backend" if PACKAGE == "backend" else engine,
                "NAME": ":memory:",
            }
        },
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            *apps[PACKAGE],
            "getorcreateplus",
            "__main__.App",
        ],
        MIDDLEWARE=["silk.middleware.SilkyMiddleware"] if PACKAGE == "silk" else [],
        ROOT_URLCONF="__main__",
        SECRET_KEY="x",
        USE_TZ=True,
        CACHALOT_TIMEOUT=60,
    )
    import django

    django.setup()
    if PACKAGE == "silk":
        urlpatterns.append(path("silk/", include("silk.urls", namespace="silk")))
    globals()[PACKAGE]()
    sys.stdout.write("ok\n")
