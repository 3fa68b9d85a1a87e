"""The admin: its writes, which invalidate rows, and the mixin."""

import re
from html import unescape

import pytest
from django.contrib import auth, messages
from django.contrib.admin import AdminSite, ModelAdmin, TabularInline, action
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.cache import caches
from django.core.checks import Error
from django.db import connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path

from getorcreateplus import bypass
from getorcreateplus.admin import CachedModelAdminMixin
from getorcreateplus.diagnosis.reasons import MISSES
from getorcreateplus.signals import Reason
from getorcreateplus.writes.registry import region_of
from getorcreateplus.writes.tables import pk_of

from ..models import (
    Buoy,
    CachedBuoy,
    Paper,
    PlainPaper,
    PlusPaper,
    Poster,
    Rack,
    Report,
    Sheet,
    Ticket,
    Toll,
    Twofold,
    Zone,
)

pytestmark = pytest.mark.slow

committed = pytest.mark.django_db(transaction=True)


@action(description="Tear", permissions=["change"])
def tear(model_admin, request, queryset):
    queryset.update(pages=0)


class PaperInline(TabularInline):
    model = Paper
    fields = ["title", "pages"]
    extra = 0


class RackAdmin(ModelAdmin):
    inlines = [PaperInline]


class PaperAdmin(CachedModelAdminMixin, ModelAdmin):
    list_display = ["title", "pages"]
    list_editable = ["pages"]
    fields = ["title", "pages"]
    list_filter = ["hidden"]
    actions = [tear]


class PlainAdmin(ModelAdmin):
    """Without the mixin."""

    list_display = ["title", "pages"]
    list_editable = ["pages"]
    fields = ["title", "pages"]
    actions = [tear]


class TemplateAdmin(CachedModelAdminMixin, ModelAdmin):
    """As in other packages and projects with templates of their own."""

    change_list_template = "of_a_project.html"
    change_form_template = ["not there.html", "of_a_project.html"]


class FarAdmin(CachedModelAdminMixin, ModelAdmin):
    """As in Django's documentation, for another database."""

    actions = None

    def get_queryset(self, request):
        return super().get_queryset(request).using("other")


class NamingAdmin(CachedModelAdminMixin, ModelAdmin):
    actions = ["invalidate_cached_rows"]


site = AdminSite()
site.register(Rack, RackAdmin)
site.register(Paper, PaperAdmin)
site.register(Sheet, PlainAdmin)
site.register(PlusPaper, TemplateAdmin)
site.register(Poster, FarAdmin)
site.register([PlainPaper, Report, Ticket, Toll, Twofold, Zone], NamingAdmin)
other_site = AdminSite(name="other")
other_site.register(Paper, PaperAdmin)

urlpatterns = [path("admin/", site.urls), path("other/", other_site.urls)]
PAPERS = "/admin/tests/paper/"


@pytest.fixture(autouse=True)
def urls(settings):
    settings.ROOT_URLCONF = __name__


@pytest.fixture
def client(client):
    client.force_login(auth.get_user_model().objects.create_superuser("root"))
    return client


def user_who_may(codename):
    user = auth.get_user_model().objects.create_user("someone", is_staff=True)
    user.user_permissions.add(
        Permission.objects.get(
            codename=codename, content_type=ContentType.objects.get_for_model(Paper)
        )
    )
    client = Client()
    client.force_login(user)
    return client


def paper(title="a", pages=1, model=Paper, **values):
    """Return a row that is a hit from now on."""
    obj = model.objects.create(title=title, pages=pages, **values)
    assert pages_found(model, title=title) == (pages, False)
    assert pages_found(model, title=title, queries=0) == (pages, False)
    return obj


def pages_found(model, queries=None, **lookup):
    """Return the pages of the row that get_or_create() finds, or creates."""
    with CaptureQueriesContext(connection) as captured:
        obj, created = model.objects.get_or_create(**lookup)
    assert queries in {None, len(captured)}
    return obj.pages, created


def is_hit(model=Paper, **lookup):
    with CaptureQueriesContext(connection) as captured:
        model.objects.get_or_create(**lookup)
    return not captured


def post(client, url, **data):
    response = client.post(url, data)
    assert response.status_code == 302, response.context["errors"]
    return response


def inline(papers, initial):
    data = {
        "name": "Rack",
        "paper_set-TOTAL_FORMS": len(papers),
        "paper_set-INITIAL_FORMS": initial,
    }
    for i, values in enumerate(papers):
        data |= {f"paper_set-{i}-{name}": value for name, value in values.items()}
    return data


@committed
@pytest.mark.parametrize("model", [Paper, Sheet], ids=["mixin", "no mixin"])
class TestWrites:
    """No write of the admin leaves an older row in the cache."""

    def url(self, model):
        return f"/admin/tests/{model._meta.model_name}/"

    def check(self, model, **expected):
        """Compare with the first answer, and with the second, a hit."""
        for title, pages in expected.items():
            assert pages_found(model, title=title, queries=1) == (pages, False)
            assert pages_found(model, title=title, queries=0) == (pages, False)

    def test_added_row(self, client, model):
        post(client, self.url(model) + "add/", title="a", pages=1)
        self.check(model, a=1)

    def test_changed_row(self, client, model):
        a = paper(model=model)
        post(client, f"{self.url(model)}{a.pk}/change/", title="a", pages=2)
        self.check(model, a=2)

    def test_renamed_row(self, client, model):
        a = paper(model=model)
        post(client, f"{self.url(model)}{a.pk}/change/", title="b", pages=1)
        self.check(model, b=1)
        assert pages_found(model, title="a") == (None, True)

    def test_deleted_row(self, client, model):
        a = paper(model=model)
        post(client, f"{self.url(model)}{a.pk}/delete/", post="yes")
        assert pages_found(model, title="a") == (None, True)

    def test_deleted_rows(self, client, model):
        rows = [paper("a", model=model), paper("b", model=model)]
        paper("c", model=model)
        post(
            client,
            self.url(model),
            action="delete_selected",
            _selected_action=[row.pk for row in rows],
            post="yes",
        )
        assert [pages_found(model, title=title) for title in "abc"] == [
            (None, True),
            (None, True),
            (1, False),
        ]

    def test_rows_edited_in_the_list(self, client, model):
        rows = [paper("b", model=model), paper("a", model=model)]
        data = {"form-TOTAL_FORMS": 2, "form-INITIAL_FORMS": 2, "_save": "Save"}
        for i, row in enumerate(rows):
            data |= {f"form-{i}-id": row.pk, f"form-{i}-pages": 5 + i}
        post(client, self.url(model), **data)
        self.check(model, b=5, a=6)

    def test_action_that_updates_a_queryset(self, client, model):
        rows = [paper("a", model=model), paper("b", model=model)]
        post(
            client,
            self.url(model),
            action="tear",
            _selected_action=[row.pk for row in rows],
        )
        assert [pages_found(model, title=title) for title in "ab"] == [(0, False)] * 2
        assert is_hit(model, title="a")
        assert is_hit(model, title="b")

    def test_inlines(self, client, model):
        rack = Rack.objects.create(name="Rack")
        a, b = paper("a", rack=rack), paper("b", rack=rack)
        changed = [
            {"id": a.pk, "rack": rack.pk, "title": "a", "pages": 2},
            {"id": b.pk, "rack": rack.pk, "title": "b", "pages": 1, "DELETE": "on"},
            {"rack": rack.pk, "title": "c", "pages": 3},
        ]
        post(client, f"/admin/tests/rack/{rack.pk}/change/", **inline(changed, 2))
        self.check(Paper, a=2, c=3)
        assert pages_found(Paper, title="b") == (None, True)


@committed
def test_page_that_fails_leaves_the_row_as_it_was(client):
    """The second of two inlines is invalid, so the first is not written."""
    rack = Rack.objects.create(name="Rack")
    a = paper("a", rack=rack)
    data = [
        {"id": a.pk, "rack": rack.pk, "title": "a", "pages": 2},
        {"rack": rack.pk, "title": "", "pages": 3},
    ]
    url = f"/admin/tests/rack/{rack.pk}/change/"
    assert client.post(url, inline(data, 1)).status_code == 200
    assert pages_found(Paper, title="a", queries=0) == (1, False)


def write_without_django(row, pages=7):
    """Write the row as another program does."""
    connection.ensure_connection()
    cursor = connection.connection.cursor()
    mark = "?" if connection.vendor == "sqlite" else "%s"
    table = connection.ops.quote_name(row._meta.db_table)
    cursor.execute(
        f"UPDATE {table} SET pages = {mark} WHERE id = {mark}", [pages, row.pk]
    )
    cursor.close()
    assert pages_found(type(row), title=row.title, queries=0) == (1, False)


@committed
class TestInvalidating:
    def messages(self, response):
        return [str(m) for m in messages.get_messages(response.wsgi_request)]

    def test_action(self, client):
        rows = [paper("a"), paper("b"), paper("c")]
        for row in rows:
            write_without_django(row)
        pks = [row.pk for row in rows[:2]]
        response = post(
            client, PAPERS, action="invalidate_cached_rows", _selected_action=pks
        )
        assert self.messages(response) == ["2 cached rows were invalidated."]
        assert [pages_found(Paper, title=title) for title in "ab"] == [(7, False)] * 2
        assert pages_found(Paper, title="c", queries=0) == (1, False)

    def test_action_on_one_row(self, client):
        pk = paper().pk
        response = post(
            client, PAPERS, action="invalidate_cached_rows", _selected_action=[pk]
        )
        assert self.messages(response) == ["1 cached row was invalidated."]

    def test_action_on_all_that_a_filter_finds(self, client):
        rows = [paper("a"), paper("b", hidden=True)]
        for row in rows:
            write_without_django(row)
        response = post(
            client,
            PAPERS + "?hidden__exact=0",
            action="invalidate_cached_rows",
            select_across="1",
            _selected_action=[rows[0].pk],
        )
        assert self.messages(response) == ["1 cached row was invalidated."]
        assert pages_found(Paper, title="a") == (7, False)
        assert pages_found(Paper, title="b", queries=0) == (1, False)

    def test_all_rows(self, client):
        rows = [paper("a"), paper("b")]
        for row in rows:
            write_without_django(row)
        response = post(client, PAPERS + "invalidate-cached-rows/")
        assert response["Location"] == PAPERS
        assert self.messages(response) == [
            "All cached rows of “paper” were invalidated."
        ]
        assert [pages_found(Paper, title=title) for title in "ab"] == [(7, False)] * 2

    def test_row(self, client):
        rows = [paper("<a>"), paper("b")]
        for row in rows:
            write_without_django(row)
        response = post(client, f"{PAPERS}{rows[0].pk}/invalidate-cached-row/")
        assert response["Location"] == f"{PAPERS}{rows[0].pk}/change/"
        assert self.messages(response) == [
            f"The cached row of “{rows[0]}” was invalidated."
        ]
        assert pages_found(Paper, title="<a>") == (7, False)
        assert pages_found(Paper, title="b", queries=0) == (1, False)


@pytest.mark.django_db
class TestPermissions:
    @pytest.mark.parametrize(
        "url", ["invalidate-cached-rows/", "%s/invalidate-cached-row/"]
    )
    def test_get_changes_nothing(self, client, url):
        row = paper()
        url = PAPERS + (url % row.pk if "%" in url else url)
        for method in (client.get, client.head, client.put):
            assert method(url).status_code == 405
        assert is_hit(title="a")

    @pytest.mark.parametrize(
        "url", ["invalidate-cached-rows/", "%s/invalidate-cached-row/"]
    )
    def test_post_needs_a_token(self, client, url):
        row = paper()
        strict = Client(enforce_csrf_checks=True)
        strict.cookies = client.cookies
        url = PAPERS + (url % row.pk if "%" in url else url)
        assert strict.post(url).status_code == 403
        assert is_hit(title="a")
        page = strict.get(f"{PAPERS}{row.pk}/change/")
        assert strict.post(url, {"csrfmiddlewaretoken": token(page)}).status_code == 302
        assert not is_hit(title="a")

    @pytest.mark.parametrize(
        "url", ["invalidate-cached-rows/", "%s/invalidate-cached-row/"]
    )
    def test_user_who_may_only_view(self, url):
        row = paper()
        client = user_who_may("view_paper")
        url = PAPERS + (url % row.pk if "%" in url else url)
        assert client.post(url).status_code == 403
        pks = [row.pk]
        client.post(
            PAPERS, {"action": "invalidate_cached_rows", "_selected_action": pks}
        )
        assert is_hit(title="a")
        for url in (PAPERS, f"{PAPERS}{row.pk}/change/"):
            response = client.get(url)
            assert "ached in “paper”" in text(response) or "cache “paper”" in text(
                response
            )
            assert "Invalidate" not in text(response)

    def test_user_who_may_change(self):
        row = paper()
        client = user_who_may("change_paper")
        assert "Invalidate all cached rows" in text(client.get(PAPERS))
        assert "Invalidate cached row" in text(client.get(f"{PAPERS}{row.pk}/change/"))
        post(client, f"{PAPERS}{row.pk}/invalidate-cached-row/")
        assert not is_hit(title="a")

    def test_row_that_may_not_be_changed(self, client, monkeypatch):
        """As with packages that have a permission for each row."""

        def has_change_permission(self, request, obj=None):
            return obj is None or obj.title != "a"

        monkeypatch.setattr(PaperAdmin, "has_change_permission", has_change_permission)
        for title, status in (("a", 403), ("b", 302)):
            url = f"{PAPERS}{paper(title).pk}/"
            may = "Invalidate cached row" in text(client.get(f"{url}change/"))
            assert may == (status == 302)
            assert client.post(f"{url}invalidate-cached-row/").status_code == status
            assert is_hit(title=title) != may

    def test_user_who_is_not_logged_in(self):
        row = paper()
        response = Client().post(f"{PAPERS}{row.pk}/invalidate-cached-row/")
        assert response["Location"].startswith("/admin/login/")
        assert is_hit(title="a")

    def test_row_that_is_not_there(self, client):
        assert client.post(PAPERS + "7/invalidate-cached-row/").status_code == 404
        assert client.post(PAPERS + "x/invalidate-cached-row/").status_code == 404


def token(response):
    return re.search('name="csrfmiddlewaretoken" value="(.+?)"', response.text)[1]


def text(response):
    return unescape(response.content.decode())


def words(response):
    return response.context["getorcreateplus"]["words"]


@pytest.mark.django_db(databases=["default", "other"])
class TestPages:
    def test_list_shows_where_rows_are(self, client):
        response = client.get(PAPERS)
        assert words(response) == [
            "Rows are cached in “paper” (answers), for 300 seconds.",
            "Lookups are cached in “default” (answers).",
        ]
        for line in words(response):
            assert line in text(response)

    def test_list_of_several_caches(self, client):
        assert words(client.get("/admin/tests/twofold/")) == [
            "Rows are cached in “default” (answers), for 300 seconds.",
            "Rows are cached in “far” (answers), for 30 seconds.",
        ]

    def test_list_of_what_processes_remember(self, client):
        assert words(client.get("/admin/tests/zone/")) == [
            "Rows are cached in “default” (answers), for 300 seconds.",
            "Each process keeps rows in its memory, for 1e-09 seconds.",
            "Each process keeps rows in its memory, for 3600 seconds.",
            "Each process keeps rows in its memory, forever.",
        ]

    def test_managers_whose_lookups_are_not_djangos(self, client):
        report = Report.plain.create(name="tax")
        for page in ("", f"{report.pk}/change/"):
            lines = words(client.get(f"/admin/tests/report/{page}"))
            assert lines[-1] == (
                "Lookups with “patched” query the database: this queryset has get() of "
                "its own."
            )
            assert len([line for line in lines if "Lookups with" in line]) == 4

    def test_row_that_is_cached(self, client):
        row = paper()
        response = client.get(f"{PAPERS}{row.pk}/change/")
        assert words(response) == ["In the cache “paper”: yes."]
        assert "In the cache “paper”: yes." in text(response)

    def test_showing_changes_nothing(self, client):
        row = Paper.objects.create(title="a")
        with bypass():
            for _ in range(2):
                assert words(client.get(f"{PAPERS}{row.pk}/change/")) == [
                    "In the cache “paper”: no. The row is not in the cache: it was "
                    "invalidated, has expired, was evicted or was never stored."
                ]
        region = region_of(Paper.objects.all())
        keys = [region.payload_key(str(row.pk)), region.version_key(str(row.pk))]
        assert (
            caches["paper"].get_many([*keys, region.epoch_key, region.clock_key]) == {}
        )
        assert is_hit(title="a") is False

    def test_row_that_is_being_written(self, client):
        row = paper()
        region_of(Paper.objects.all()).lock(connection, [str(row.pk)])
        assert words(client.get(f"{PAPERS}{row.pk}/change/")) == [
            "In the cache “paper”: no. A writer has locked this row: its transaction "
            "is still open, or its process has died."
        ]

    def test_rows_that_were_written_by_query(self, client):
        row = paper()
        Paper.objects.update(pages=2)
        assert words(client.get(f"{PAPERS}{row.pk}/change/")) == [
            "In the cache “paper”: no. The row, or the whole model, was written after "
            "the row was stored."
        ]

    def test_row_of_another_release(self, client):
        row = paper()
        region = region_of(Paper.objects.all())
        stamp, _, *rest = caches["paper"].get(region.payload_key(str(row.pk)))
        caches["paper"].set(region.payload_key(str(row.pk)), (stamp, "other", *rest))
        assert words(client.get(f"{PAPERS}{row.pk}/change/")) == [
            "In the cache “paper”: no. Another release of your code, with other "
            "fields, has stored the row."
        ]

    def test_row_without_a_canonical_key(self, client):
        """On SQLite, a decimal."""
        toll = Toll.objects.create(price="1.50", name="a")
        [line] = words(client.get("/admin/tests/toll/1.50/change/"))
        expected = (
            "Its primary key has no canonical form."
            if pk_of(toll, Toll) is None
            else MISSES[Reason.NO_ROW].sentence
        )
        assert line == f"In the cache “default”: no. {expected}"

    def test_cache_that_does_not_answer(self, client):
        row = paper()
        config = {
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
            "paper": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": "redis://127.0.0.1:1",
            },
        }
        with override_settings(CACHES=config):
            assert words(client.get(PAPERS)) == [
                "Rows are cached in “paper” (does not answer: lookups query the "
                "database), for 300 seconds.",
                "Lookups are cached in “default” (answers).",
            ]
            assert words(client.get(f"{PAPERS}{row.pk}/change/")) == [
                "In the cache “paper”: no. The cache failed, or its entry cannot be "
                "read."
            ]

    def test_primary_key_that_a_url_must_quote(self, client):
        Ticket.objects.create(code="a/b_c")
        Ticket.objects.get_or_create(code="a/b_c")
        response = client.get("/admin/tests/ticket/a_2Fb_5Fc/change/")
        url = response.context["getorcreateplus"]["url"]
        assert url == "/admin/tests/ticket/a_2Fb_5Fc/invalidate-cached-row/"
        answer = post(client, url)
        assert answer["Location"] == "/admin/tests/ticket/a_2Fb_5Fc/change/"

    def test_filters_are_kept(self, client):
        row = paper()
        query = "_changelist_filters=hidden__exact%3D0"
        page = client.get(PAPERS + "?hidden__exact=0")
        url = page.context["getorcreateplus"]["url"]
        assert url == f"{PAPERS}invalidate-cached-rows/?{query}"
        assert post(client, url)["Location"] == PAPERS + "?hidden__exact=0"
        page = client.get(f"{PAPERS}{row.pk}/change/?{query}")
        url = page.context["getorcreateplus"]["url"]
        assert url == f"{PAPERS}{row.pk}/invalidate-cached-row/?{query}"
        assert post(client, url)["Location"] == f"{PAPERS}{row.pk}/change/?{query}"

    def test_another_site(self, client):
        url = client.get("/other/tests/paper/").context["getorcreateplus"]["url"]
        assert url == "/other/tests/paper/invalidate-cached-rows/"
        assert post(client, url)["Location"] == "/other/tests/paper/"

    def test_another_database(self, client):
        poster = Poster.objects.using("other").create(title="a")
        url = f"/admin/tests/poster/{poster.pk}/"
        assert (
            "no. The row is not in the cache" in words(client.get(url + "change/"))[0]
        )
        for _ in range(2):
            Poster.objects.using("other").get_or_create(title="a")
        assert words(client.get(url + "change/")) == ["In the cache “default”: yes."]
        post(client, url + "invalidate-cached-row/")
        assert (
            "no. The row is not in the cache" in words(client.get(url + "change/"))[0]
        )

    def test_pages_without_anything_to_show(self, client):
        row = paper()
        for url in (
            PAPERS + "add/",
            PAPERS + "?_popup=1",
            f"{PAPERS}{row.pk}/change/?_popup=1",
            f"{PAPERS}{row.pk}/delete/",
            f"{PAPERS}{row.pk}/history/",
            "/admin/tests/sheet/",
            # Not cached: getorcreateplus.E016.
            "/admin/tests/plainpaper/",
        ):
            response = client.get(url)
            assert response.status_code == 200
            assert "getorcreateplus" not in response.context
            page = text(response).replace("Invalidate cached rows", "")
            assert "Invalidate" not in page

    def test_page_of_an_unknown_row(self, client):
        assert client.get(PAPERS + "7/change/")["Location"] == "/admin/"

    def test_page_with_errors(self, client):
        row = paper()
        response = client.post(f"{PAPERS}{row.pk}/change/", {"title": ""})
        assert response.status_code == 200
        assert words(response) == ["In the cache “paper”: yes."]

    def test_templates_of_others_are_extended(self, client):
        row = paper(model=PlusPaper)
        template = "<h1>Theirs</h1>{% block content %}<p>Theirs</p>{% endblock %}"
        override = {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": False,
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {"of_a_project.html": template},
                    ),
                    "django.template.loaders.app_directories.Loader",
                ],
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ],
            },
        }
        with override_settings(TEMPLATES=[override]):
            for url in ("", f"{row.pk}/change/"):
                response = client.get(f"/admin/tests/pluspaper/{url}")
                page = text(response)
                assert page.startswith("<h1>Theirs</h1>")
                assert page.endswith("<p>Theirs</p>\n")
                assert "cached in" in page or "In the cache" in page
                assert '<input type="submit" value="Invalidate' in page

    def test_admin_without_actions(self, client):
        Poster.objects.using("other").create(title="a")
        response = client.get("/admin/tests/poster/")
        assert response.context["action_form"] is None

    def test_admin_that_names_the_action(self, client):
        names = [name for name, _ in actions(client.get("/admin/tests/zone/"))]
        assert names == ["", "delete_selected", "invalidate_cached_rows"]

    def test_actions_of_a_subclass_stay(self, client):
        names = [name for name, _ in actions(client.get(PAPERS))]
        assert names == ["", "delete_selected", "tear", "invalidate_cached_rows"]


def actions(response):
    return response.context["action_form"].fields["action"].choices


class TestChecks:
    def test_model_that_is_not_cached(self):
        assert NamingAdmin(PlainPaper, site).check() == [
            Error(
                "NamingAdmin has the CachedModelAdminMixin, but tests.PlainPaper is "
                "not cached.",
                hint="Give the model a CachedManager or a PlusManager, or remove the "
                "mixin.",
                obj=NamingAdmin,
                id="getorcreateplus.E016",
            )
        ]

    def test_template_that_is_not_there(self, settings):
        settings.INSTALLED_APPS = [
            app for app in settings.INSTALLED_APPS if app != "getorcreateplus"
        ]
        assert PaperAdmin(Paper, site).check() == [
            Error(
                "PaperAdmin has the CachedModelAdminMixin, but 'getorcreateplus' is "
                "not in INSTALLED_APPS: Django does not find the mixin's template.",
                hint="Add 'getorcreateplus' to INSTALLED_APPS.",
                obj=PaperAdmin,
                id="getorcreateplus.E017",
            )
        ]

    @pytest.mark.parametrize("model", [Paper, CachedBuoy, Buoy])
    def test_model_that_is_cached(self, model):
        """Also a proxy, and the model that a proxy's manager caches."""
        assert PaperAdmin(Paper, site).check() == []
        assert NamingAdmin(model, site).check() == []
