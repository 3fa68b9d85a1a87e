"""get() that reads the cache, and every get() that does not."""

import copy

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin import ModelAdmin, site
from django.db import connection, connections, transaction
from django.db.models import Q
from django.shortcuts import aget_object_or_404, get_object_or_404
from django.test import RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus import CachedManager, bypass, invalidate
from getorcreateplus.diagnosis.status import status_facts
from getorcreateplus.explaining import explain
from getorcreateplus.signals import cache_hit, cache_miss
from getorcreateplus.statistics import Statistics

from ..models import Folder, NumberedPage, Page, PageQuerySet
from ..support.caches import BrokenCache, every_cache
from ..support.sql import behind_the_back
from ..support.twins import outcome_of_twin, values_of_row

pytestmark = pytest.mark.django_db(databases=["default", "other"])

CACHING = [
    "objects",
    "by_class",
    "by_queryset",
    "quick",
    "plus",
    "plus_queryset",
    "foreign",
]
# Their get() creates a missing row.
CREATING = {"plus", "plus_queryset"}


def queries(call, using="default"):
    with CaptureQueriesContext(connections[using]) as captured:
        call()
    return len(captured)


@pytest.fixture(params=CACHING)
def pages(request):
    return getattr(Page, request.param)


@pytest.fixture
def page():
    return Page.plain.create(slug="a", title="A")


class TestHit:
    def test_second_get_is_a_hit(self, pages, page):
        assert queries(lambda: pages.get(slug="a")) == 1
        found = []
        assert queries(lambda: found.append(pages.get(slug="a"))) == 0
        assert values_of_row(found[0]) == values_of_row(page)
        assert (found[0]._state.adding, found[0]._state.db) == (False, "default")

    @pytest.mark.parametrize("lookup", ["slug__exact", "pk", "id"])
    def test_each_spelling_of_a_lookup(self, pages, page, lookup):
        value = "a" if lookup.startswith("slug") else page.pk
        pages.get(**{lookup: value})
        assert queries(lambda: pages.get(**{lookup: value})) == 0
        assert queries(lambda: pages.get(pk=page.pk)) == 0

    def test_get_and_get_or_create_share_their_rows(self, pages, page):
        pages.get_or_create(slug="a")
        assert queries(lambda: pages.get(slug="a")) == 0
        invalidate(page)
        pages.get(slug="a")
        assert queries(lambda: pages.get_or_create(slug="a")) == 0

    def test_writes_are_seen(self, pages, page):
        pages.get(slug="a")
        writes = [
            lambda: Page.plain.filter(slug="a").update(title="B"),
            page.save,
            lambda: invalidate(page),
            lambda: invalidate("tests.Page"),
            lambda: pages.invalidate(page),
        ]
        for write in writes:
            write()
            assert queries(lambda: pages.get(slug="a")) == 1
            assert queries(lambda: pages.get(slug="a")) == 0
        assert pages.get(slug="a").title == Page.plain.get().title

    def test_deleted_row(self, page):
        for name in CACHING:
            getattr(Page, name).get(slug="a")
        page.delete()
        for name in set(CACHING) - CREATING:
            with pytest.raises(Page.DoesNotExist):
                getattr(Page, name).get(slug="a")

    def test_nothing_is_kept_of_a_missing_row(self, pages):
        if pages.name in CREATING:
            assert pages.get(slug="x") == Page.plain.get()
            return
        for _ in range(2):
            with CaptureQueriesContext(connection) as captured:
                with pytest.raises(Page.DoesNotExist, match="Page matching query"):
                    pages.get(slug="x")
            assert len(captured) == 1
        Page.plain.create(slug="x")
        assert pages.get(slug="x").slug == "x"

    def test_refreshed_queries_and_fills(self, pages, page):
        for title, source in (("B", pages), ("C", pages.using("default"))):
            pages.get(slug="a")
            behind_the_back(f"UPDATE tests_page SET title = '{title}'")
            found = []
            get = source.refreshed().get
            assert queries(lambda get=get, to=found: to.append(get(slug="a"))) == 1
            assert queries(lambda to=found: to.append(pages.get(slug="a"))) == 0
            assert [each.title for each in found] == [title, title]
        with pytest.raises(Page.DoesNotExist):
            pages.refreshed().get(slug="gone")

    def test_refreshed_of_a_related_manager(self):
        folder = Folder.objects.create(name="f")
        folder.pages.create(slug="a", title="A")
        folder.pages.get(slug="a")
        behind_the_back("UPDATE tests_page SET title = 'B'")
        page = folder.pages.refreshed().get(slug="a")
        assert (page.title, page.folder) == ("B", folder)
        assert queries(lambda: folder.pages.get(slug="a")) == 0
        assert folder.pages.get(slug="a").title == "B"

    def test_async(self, pages, page):
        async def get():
            return await pages.aget(slug="a")

        assert async_to_sync(get)() == page
        assert queries(async_to_sync(get)) == 0

    def test_related_manager(self):
        folder = Folder.objects.create(name="f")
        page = folder.pages.create(slug="a")
        assert queries(lambda: folder.pages.get(slug="a")) == 1
        found = []
        assert queries(lambda: found.append(folder.pages.get(slug="a"))) == 0
        assert found == [page]
        assert found[0].folder is folder
        other = Folder.objects.create(name="g")
        with pytest.raises(Page.DoesNotExist):
            other.pages.get(slug="a")

    @pytest.mark.parametrize(
        ("name", "expected"), [*((name, 0) for name in CACHING), ("uncached", 1)]
    )
    def test_related_manager_by_name(self, name, expected):
        folder = Folder.objects.create(name="f")
        folder.pages.create(slug="a")
        pages = folder.pages(manager=name)
        pages.get(slug="a")
        assert queries(lambda: pages.get(slug="a")) == expected
        assert folder.pages(manager="plain").get(slug="a").folder is folder

    def test_get_that_cannot_create(self):
        with pytest.raises(NumberedPage.DoesNotExist):
            NumberedPage.objects.get(slug="a")
        NumberedPage.objects.create(slug="a", number=1)
        NumberedPage.objects.get(slug="a")
        assert queries(lambda: NumberedPage.objects.get(slug="a")) == 0

    def test_get_that_creates(self):
        page = Page.plus.get(slug="new")
        assert queries(lambda: Page.plus.get(slug="new")) == 0
        assert Page.objects.get(slug="new") == page

    def test_transaction(self, pages, page):
        with transaction.atomic():
            assert pages.get(slug="a").title == "A"
            Page.plain.filter(slug="a").update(title="B")
            assert pages.get(slug="a").title == "B"
            transaction.set_rollback(True)
        assert pages.get(slug="a").title == "A"

    def test_manager_that_is_copied(self, page):
        manager = copy.copy(Page.objects)
        manager.get(slug="a")
        assert queries(lambda: manager.get(slug="a")) == 0
        assert queries(lambda: Page.objects.db_manager("default").get(slug="a")) == 0

    def test_argument_wins_over_the_class(self, page):
        class Never(CachedManager.from_queryset(PageQuerySet)):
            caches_get = False

        manager = Never()
        manager.model, manager.name = Page, "never"
        assert [queries(lambda: manager.get(slug="a")) for _ in "ab"] == [1, 1]


DJANGOS = {
    "all": lambda pages: pages.all().get(slug="a"),
    "get_queryset": lambda pages: pages.get_queryset().get(slug="a"),
    "filter": lambda pages: pages.filter(title="A").get(slug="a"),
    "filter of using": lambda pages: pages.using("default").filter(id__gt=0).get(),
    "queryset of using": lambda p: p.using("default").filter().get(slug="a"),
    "filter alone": lambda pages: pages.filter(slug="a").get(),
    "shortcut of the model": lambda pages: get_object_or_404(Page, slug="a"),
    "shortcut of a queryset": lambda pages: get_object_or_404(pages.all(), slug="a"),
    "q": lambda pages: pages.get(Q(slug="a")),
    "lookup": lambda pages: pages.get(slug__iexact="a"),
    "join": lambda pages: pages.get(slug="a", folder__isnull=True),
    "lock": lambda pages: pages.select_for_update().get(slug="a"),
    "only": lambda pages: pages.only("slug").get(slug="a"),
    "values": lambda pages: pages.values("slug").get(slug="a"),
    "first": lambda pages: pages.filter(slug="a").first(),
}


class TestDjangosGet:
    @pytest.mark.parametrize("call", DJANGOS.values(), ids=DJANGOS)
    def test_any_other_get_queries_the_database(self, page, call):
        for name in set(CACHING) - {"foreign"}:
            pages = getattr(Page, name)
            pages.get(slug="a")
            with transaction.atomic():
                assert [queries(lambda: call(pages)) for _ in "ab"] == [1, 1], name

    def test_shortcut_in_a_coroutine(self, page):
        Page.objects.get(slug="a")

        async def get():
            return await aget_object_or_404(Page, slug="a")

        assert queries(async_to_sync(get)) == 1

    def test_admin(self, page):
        Page.objects.get(slug="a")
        request = RequestFactory().get("/")
        admin = ModelAdmin(Page, site)
        for _ in range(2):
            assert queries(lambda: admin.get_object(request, str(page.pk))) == 1

    def test_without_the_option(self, page):
        for _ in range(2):
            assert queries(lambda: Page.uncached.get(slug="a")) == 1

    def test_queryset_of_a_foreign_manager_has_its_classs_rule_alone(self, page):
        Page.foreign.get_queryset().get(slug="a")
        assert queries(lambda: Page.foreign.get_queryset().get(slug="a")) == 0
        assert queries(lambda: Page.foreign.all().all().get(slug="a")) == 1

    def test_several_rows(self):
        for slug in "ab":
            Page.plain.create(slug=slug, title="same")
        expected = outcome_of_twin(lambda: Page.plain.get(title="same"))
        assert expected[0] == "MultipleObjectsReturned"
        assert outcome_of_twin(lambda: Page.objects.get(title="same")) == expected

    def test_bypass(self, page):
        Page.objects.get(slug="a")
        with bypass(Page):
            assert queries(lambda: Page.objects.get(slug="a")) == 1

    def test_bad_lookup(self):
        for lookup in ({"slog": 1}, {"force_select": True, "slug": "a"}):
            expected = outcome_of_twin(lambda lookup=lookup: Page.plain.get(**lookup))
            assert outcome_of_twin(lambda: Page.objects.get(**lookup)) == expected

    def test_queryset_is_left_as_it_was(self, page):
        queryset = PageQuerySet(Page)
        queryset.get(slug="a")
        assert queryset._for_write is False
        assert queries(lambda: queryset.get(slug="a")) == 0


class FromReplica:
    """A router whose replica is the other database."""

    def db_for_read(self, model, **hints):
        return "other"

    def db_for_write(self, model, **hints):
        return "default"


class TestDatabases:
    def test_the_written_database_is_queried(self, page):
        """A replica may return an older row, which would then stay."""
        with override_settings(DATABASE_ROUTERS=[FromReplica()]):
            for _ in range(2):
                assert queries(lambda: Page.objects.get(slug="a"), "other") == 0
            # Any other get() uses the replica, as before.
            with pytest.raises(Page.DoesNotExist):
                Page.objects.all().get(slug="a")

    def test_a_replica_that_is_named_is_not_cached(self):
        Page.plain.using("other").create(slug="a")
        for _ in range(2):
            get = Page.objects.using("other").get
            assert queries(lambda get=get: get(slug="a"), "other") == 1

    def test_a_replica_of_an_instance_is_not_cached(self):
        folder = Folder.objects.using("other").create(name="f")
        folder.pages.create(slug="a")
        for _ in range(2):
            assert queries(lambda: folder.pages.get(slug="a"), "other") == 1

    def test_the_written_database_by_name(self, page):
        Page.objects.using("default").get(slug="a")
        assert queries(lambda: Page.objects.using("default").get(slug="a")) == 0


class TestSteering:
    def test_signals_and_statistics(self, page):
        sent = []

        def note(signal, **kwargs):
            sent.append((signal is cache_hit, kwargs["lookup"]))

        for signal in (cache_hit, cache_miss):
            signal.connect(note, sender=Page)
        try:
            with Statistics() as statistics:
                Page.objects.get(slug="a")
                Page.objects.get(slug="a")
                Page.objects.get(slug__iexact="a")
                Page.uncached.get(slug="a")
        finally:
            for signal in (cache_hit, cache_miss):
                signal.disconnect(note, sender=Page)
        lookup = {"slug": "a"}
        assert sent == [(False, lookup), (True, lookup), (False, {"slug__iexact": "a"})]
        counts = statistics.models["tests.Page"]
        assert (counts.hits, counts.misses.total()) == (1, 2)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("objects", True), ("by_queryset", True), ("uncached", False)],
    )
    def test_explain(self, page, name, expected):
        found = explain(getattr(Page, name), slug="a")
        assert found.caches_get is expected
        assert (
            "get() with this lookup reads the cache, too." in str(found)
        ) is expected
        assert explain(getattr(Page, name).all(), slug="a").caches_get is False

    def test_status(self):
        managers = {
            each["name"]: each["does"]
            for model in status_facts()["models"]
            for each in model["managers"]
        }
        for name in [*CACHING, "uncached"]:
            does = "get() from the cache" in managers[f"tests.Page.{name}"]
            assert does is (name in CACHING)

    def test_cache_that_fails(self, page):
        with every_cache(BrokenCache):
            for _ in range(2):
                assert queries(lambda: Page.objects.get(slug="a")) == 1
