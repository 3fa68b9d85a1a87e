"""Several databases: each has its own rows, versions and transactions."""

import pytest
from django.core.cache import caches
from django.db import models, transaction
from django.test import TestCase, override_settings

from ..models import Paper
from ..models.invalidation import CarFerry, Dinghy, Ferry, Fleet, Ship, Vessel
from ..support.databases import ALIASES, Replica, count_selects, size_and_queries
from ..support.errors import Rollback

both = pytest.mark.django_db(databases=ALIASES)
both_committed = pytest.mark.django_db(databases=ALIASES, transaction=True)


def warm(manager, using, **lookup):
    size_and_queries(manager, using, **lookup)
    size, queries = size_and_queries(manager, using, **lookup)
    assert queries == 0
    return size


@pytest.fixture
def dinghies():
    """Rows with the same name and primary key, but different sizes."""
    return {
        using: Dinghy.objects.using(using).create(pk=7, name="a", size=size)
        for size, using in enumerate(ALIASES)
    }


@both
def test_same_row_in_two_databases(dinghies):
    for lookup in ({"pk": 7}, {"name": "a"}):
        for _ in range(2):
            assert warm(Dinghy.objects, "default", **lookup) == 0
            assert warm(Dinghy.objects, "other", **lookup) == 1


@both
def test_same_row_in_two_databases_and_a_cache_of_its_own():
    """Their payloads have the same key: each is a miss for the other."""
    for pages, using in enumerate(ALIASES):
        Paper.objects.using(using).create(pk=7, title="a", pages=pages)
    for _ in range(2):
        for pages, using in enumerate(ALIASES):
            papers = Paper.objects.using(using)
            assert papers.get_or_create(title="a")[0].pages == pages
            obj, queries = count_selects(
                using, lambda: papers.get_or_create(title="a")[0]
            )
            assert (obj.pages, queries) == (pages, 0)
    caches["paper"].delete(7)
    for pages, using in enumerate(ALIASES):
        papers = Paper.objects.using(using)
        obj, queries = count_selects(using, lambda: papers.get_or_create(title="a")[0])
        assert (obj.pages, queries) == (pages, 1)


@both_committed
@pytest.mark.parametrize(
    "write",
    [
        lambda obj, using: setattr(obj, "size", 9) or obj.save(using=using),
        lambda obj, using: setattr(obj, "size", 9) or obj.save(),
        lambda obj, using: Dinghy.objects.using(using).update(size=9),
        lambda obj, using: models.QuerySet(Dinghy, using=using).update(size=9),
        lambda obj, using: Dinghy.objects.using(using).bulk_update(
            [Dinghy(pk=7, size=9)], ["size"]
        ),
    ],
    ids=["save_using", "save", "update", "plain_update", "bulk_update"],
)
@pytest.mark.parametrize("using", ALIASES)
def test_write_is_seen_in_its_database(dinghies, using, write):
    [other] = {*ALIASES} - {using}
    sizes = {alias: warm(Dinghy.objects, alias, name="a") for alias in ALIASES}
    write(dinghies[using], using)
    assert size_and_queries(Dinghy.objects, using, name="a") == (9, 1)
    assert size_and_queries(Dinghy.objects, other, name="a") == (sizes[other], 0)


@both_committed
def test_row_that_is_moved(dinghies):
    """save(using=...) of an instance from another database."""
    for using in ALIASES:
        warm(Dinghy.objects, using, name="a")
    dinghies["default"].save(using="other")
    assert size_and_queries(Dinghy.objects, "other", name="a") == (0, 1)
    dinghies["default"].delete(using="other")
    assert Dinghy.objects.using("other").get_or_create(name="a")[1] is True
    assert size_and_queries(Dinghy.objects, "default", pk=7) == (0, 0)


@both_committed
def test_transactions_are_each_database_s_own(dinghies):
    """Inside the transaction of one, the other is in autocommit."""
    for using in ALIASES:
        warm(Dinghy.objects, using, name="a")
    with pytest.raises(Rollback), transaction.atomic(using="other"):
        Dinghy.objects.using("other").update(size=8)
        Dinghy.objects.using("default").update(size=9)
        assert size_and_queries(Dinghy.objects, "other", name="a") == (8, 1)
        assert size_and_queries(Dinghy.objects, "default", name="a") == (9, 1)
        assert size_and_queries(Dinghy.objects, "default", name="a") == (9, 0)
        raise Rollback
    assert size_and_queries(Dinghy.objects, "other", name="a") == (1, 1)
    assert size_and_queries(Dinghy.objects, "default", name="a") == (9, 0)


@both_committed
def test_created_rows_that_are_rolled_back():
    with pytest.raises(Rollback), transaction.atomic(using="other"):
        Dinghy(name="a").save(using="other")
        Dinghy(name="a", size=9).save(using="default")
        size_and_queries(Dinghy.objects, "other", name="a")
        raise Rollback
    assert warm(Dinghy.objects, "default", name="a") == 9
    assert Dinghy.objects.using("other").get_or_create(name="a")[1] is True


@both_committed
def test_inheritance():
    for size, using in enumerate(ALIASES):
        CarFerry(pk=7, id=7, name="a", size=size).save(using=using)
    managers = [Vessel.objects, Ferry.objects, CarFerry.objects]
    for manager in managers:
        for size, using in enumerate(ALIASES):
            assert warm(manager, using, name="a") == size
    Vessel.objects.using("other").update(size=9)
    for manager in managers:
        assert size_and_queries(manager, "other", name="a") == (9, 1)
        assert size_and_queries(manager, "default", name="a") == (0, 0)


@both_committed
def test_related_managers():
    for size, using in enumerate(ALIASES):
        fleet = Fleet.objects.using(using).create(pk=7, name="first")
        fleet.ships.create(pk=7, name="a", size=size)
        assert warm(fleet.ships.db_manager(using), using, name="a") == size
    fleet.ships.update(size=9)
    assert size_and_queries(Ship.objects, "other", name="a") == (9, 1)
    assert warm(Ship.objects, "default", name="a") == 0
    fleet.delete()
    assert Ship.objects.using("other").get_or_create(name="a")[1] is True
    assert size_and_queries(Ship.objects, "default", name="a") == (0, 0)


@both_committed
class TestRouter:
    @pytest.fixture(autouse=True)
    def router(self):
        with override_settings(DATABASE_ROUTERS=[Replica()]):
            yield

    def test_hit_is_of_the_database_that_is_written_to(self, dinghies):
        for expected in (1, 0):
            (obj, created), queries = count_selects(
                "default", lambda: Dinghy.objects.get_or_create(name="a")
            )
            assert (obj.size, created, queries) == (0, False, expected)
        assert Dinghy.objects.get(name="a").size == 1

    def test_row_that_was_read_elsewhere_is_written(self, dinghies):
        warm(Dinghy.objects, "default", name="a")
        warm(Dinghy.objects, "other", name="a")
        obj = Dinghy.objects.get(name="a")
        assert obj._state.db == "other"
        obj.size = 9
        obj.save()
        assert size_and_queries(Dinghy.objects, "default", name="a") == (9, 1)
        assert size_and_queries(Dinghy.objects, "other", name="a") == (1, 0)

    def test_update(self, dinghies):
        warm(Dinghy.objects, "default", name="a")
        Dinghy.objects.filter(name="a").update(size=9)
        assert size_and_queries(Dinghy.objects, "default", name="a") == (9, 1)

    def test_delete(self, dinghies):
        warm(Dinghy.objects, "default", name="a")
        Dinghy.objects.filter(name="a").delete()
        _, created = Dinghy.objects.get_or_create(name="a")
        assert created is True


class TestsOfUsers(TestCase):
    databases = {*ALIASES}

    def test_both(self):
        for size, using in enumerate(ALIASES):
            Dinghy.objects.using(using).create(pk=7, name="a", size=size)
            assert warm(Dinghy.objects, using, name="a") == size
        with pytest.raises(Rollback), transaction.atomic(using="other"):
            Dinghy.objects.using("other").update(size=9)
            raise Rollback
        assert size_and_queries(Dinghy.objects, "default", name="a") == (0, 0)
        assert size_and_queries(Dinghy.objects, "other", name="a") == (1, 1)
