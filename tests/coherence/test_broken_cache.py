"""A cache that fails costs speed: never an exception, never a wrong row."""

import logging
import time
import uuid

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, models, transaction
from django.test import override_settings

from getorcreateplus import invalidate
from getorcreateplus.coherence import clients, debts, faults
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence.transports import django
from getorcreateplus.triggers import pay_caches
from getorcreateplus.writes.registry import cached_models

from ..models import Paper
from ..support.caches import Switch, SwitchedCache, Unreadable
from ..support.papers import pages
from ..support.queries import count
from ..support.threads import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)

DEAD = "redis://127.0.0.1:1"


class KeyByKeyCache(SwitchedCache):
    """A command for many keys is a command for each of them."""

    def set(self, *args, **kwargs):
        self.check()
        return super().set(*args, **kwargs)

    def delete(self, *args, **kwargs):
        self.check()
        return super().delete(*args, **kwargs)


class SilentCache(KeyByKeyCache):
    """
    It loses entries that are set and reports that at the end, as memcached
    clients do.
    """

    def set_many(self, data, *args, **kwargs):
        if Switch.failure is not None:
            return list(data)
        return super().set_many(data, *args, **kwargs)


def backend(cls):
    return {
        "BACKEND": f"{cls.__module__}.{cls.__qualname__}",
        "LOCATION": uuid.uuid4().hex,  # the tables of the last test are gone
    }


def one_broken():
    return {"default": backend(KeyByKeyCache)}


def broken_rows():
    return {"default": backend(LocMemCache), "paper": backend(KeyByKeyCache)}


def broken_keys():
    return {"default": backend(KeyByKeyCache), "paper": backend(LocMemCache)}


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    """Reset the outages, and do not pause."""
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 0)
    monkeypatch.setattr(clients.CacheClient, "MAX_PAUSE", 0)
    monkeypatch.setattr(Switch, "failure", None)


def write_in_every_way():
    obj, created = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    assert created
    assert pages()[0] == 1
    obj.pages = 2
    obj.save()
    assert pages()[0] == 2
    Paper.objects.update(pages=3)
    assert pages()[0] == 3
    Paper.objects.update_or_create(title="a", defaults={"pages": 4})
    assert pages()[0] == 4
    with transaction.atomic():
        Paper.objects.get_or_create(title="b")
        Paper.objects.update_or_create(title="a", defaults={"pages": 5})
        assert pages()[0] == 5
    assert pages()[0] == 5
    obj.delete()
    obj, created = Paper.objects.get_or_create(title="a")
    assert created


@pytest.mark.parametrize("config", [one_broken, broken_rows, broken_keys])
def test_cache_that_is_down(config, caplog):
    with override_settings(CACHES=config()):
        Switch.failure = ConnectionError("refused")
        write_in_every_way()
    assert {record.name for record in caplog.records} == {"getorcreateplus"}


def test_server_that_refuses():
    dead = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": DEAD}
    with override_settings(CACHES={"default": dead}):
        write_in_every_way()


def test_one_warning_per_outage(caplog):
    caplog.set_level(logging.INFO, "getorcreateplus")
    with override_settings(CACHES=one_broken()):
        place = settings.CACHES["default"]["LOCATION"]
        for _ in range(2):
            Switch.failure = ConnectionError("refused")
            for _ in range(3):
                Paper.objects.get_or_create(title="a")
            Switch.failure = None
            Paper.objects.get_or_create(title="a")
    assert [record.getMessage() for record in caplog.records] == 2 * [
        f"Cache 'default' ({place}) failed and is not used for a while: "
        "ConnectionError: refused",
        "Cache 'default' answers again.",
    ]


class RowPerRecord(logging.Handler):
    """Store the log in the database, each message once."""

    def emit(self, record):
        Paper.objects.get_or_create(title=record.levelname)


def test_handler_that_keeps_the_log_by_get_or_create(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "getorcreateplus")
    logger = logging.getLogger("getorcreateplus")
    monkeypatch.setattr(logger, "handlers", [RowPerRecord()])
    with override_settings(CACHES=one_broken()):
        Switch.failure = ConnectionError("refused")
        elsewhere(pages)
        assert Paper.objects.filter(title="WARNING").exists()
        Switch.failure = None
        elsewhere(pages)
        assert Paper.objects.filter(title="INFO").exists()


def test_cache_that_is_down_is_left_alone(monkeypatch):
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 100)
    monkeypatch.setattr(clients.CacheClient, "MAX_PAUSE", 300)
    with override_settings(CACHES=one_broken()):
        Switch.failure = ConnectionError("refused")
        Paper.objects.get_or_create(title="a")
        Switch.failure = None
        assert pages() == (None, 1)
        assert pages() == (None, 1)
        store = clients.by_alias["default"]
        assert store.pause == 100
        for pause in (200, 300, 300):
            store.mark_down(ConnectionError())
            assert store.pause == pause


@pytest.mark.parametrize("location", ["one;two", ["one", "two"]])
def test_writers_go_on_where_other_servers_are_read(location, monkeypatch):
    """One of several servers failed, so readers do not use the alias."""
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 100)
    monkeypatch.setattr(clients.CacheClient, "MAX_PAUSE", 100)
    config = backend(KeyByKeyCache)
    with override_settings(CACHES={"default": config}):
        paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        clients.by_alias["default"].mark_down(ConnectionError("refused"))
        monkeypatch.setitem(settings.CACHES["default"], "LOCATION", location)
        paper.pages = 2
        with transaction.atomic():
            paper.save()
            region = paper_region()
            assert caches["default"].get(region.version_key(f"{paper.pk}")) == "LOCK"
        assert clients.by_alias["default"].down_until > time.monotonic() + 50
        # Another process, for which the cache works.
        monkeypatch.setattr(clients, "by_alias", clients.Clients())
        monkeypatch.setitem(settings.CACHES["default"], "LOCATION", config["LOCATION"])
        cached_models[Paper].regions.clear()
        assert pages() == (2, 1)
        cached_models[Paper].regions.clear()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", [KeyByKeyCache, SilentCache])
def test_missed_release_is_owed(kind, rows, monkeypatch):
    monkeypatch.setattr(debts, "MAX_ROWS", 2)
    with override_settings(CACHES={"default": backend(kind)}):
        papers = [
            Paper.objects.get_or_create(title=f"{i}", defaults={"pages": 1})[0]
            for i in range(rows)
        ]
        for i in range(rows):
            Paper.objects.get_or_create(title=f"{i}")
        Switch.failure = ConnectionError("refused")
        for paper in papers:
            paper.pages = 2
            paper.save()
        Switch.failure = None
        for i in range(rows):
            obj, created = Paper.objects.get_or_create(title=f"{i}")
            assert (obj.pages, created) == (2, False)
        assert clients.by_alias["default"].debts.releases == {}
        _, queries = count(lambda: Paper.objects.get_or_create(title="0"))
        assert queries == 0


def test_debt_that_cannot_be_paid_stays():
    with override_settings(CACHES=one_broken()):
        paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        Switch.failure = ConnectionError("refused")
        paper.save()
        Paper.objects.update(pages=2)
        owed = dict(clients.by_alias["default"].debts.releases)
        assert list(owed.values()) == [None]
        assert pages() == (2, 1)
        assert clients.by_alias["default"].debts.releases == owed
        Switch.failure = None
        assert pages() == (2, 1)
        assert pages() == (2, 0)


@pytest.mark.parametrize("write", ["save", "update"])
def test_transaction_by_hand_owes_a_lock(write):
    """The lock is paid before its release, which follows the commit."""
    with override_settings(CACHES=one_broken()):
        paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        store = clients.by_alias["default"]
        transaction.set_autocommit(False)
        try:
            Switch.failure = ConnectionError("refused")
            if write == "save":
                paper.pages = 2
                paper.save()
            else:
                Paper.objects.update(pages=2)
            assert pages() == (2, 1)
            assert store.debts.releases == {}
            assert store.debts.locks
            Switch.failure = None
            transaction.commit()
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert pages() == (2, 1)
        assert pages() == (2, 0)
        assert store.debts.locks == {}


def test_debt_that_is_made_meanwhile_is_paid_next():
    with override_settings(CACHES=one_broken()):
        paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        store = clients.by_alias["default"]
        region = paper_region()
        store.mark_down(ConnectionError("refused"))

        class Region:
            def drop_rows(self, pks):
                raise AssertionError("It was released.")

            def release_now(self, pks):
                store.owe_release(region, [f"{paper.pk}"])

        store.owe_release(Region(), ["1"])
        store.try_again()
        assert store.debts.releases == {region: {f"{paper.pk}"}}
        models.QuerySet(Paper).update(pages=2)
        assert pages() == (2, 1)


def paper_region():
    return cached_models[Paper].region("default", None)


@pytest.mark.parametrize(
    "entry",
    [
        "garbage",
        (),
        (None, None, None),
        ("stamp", "fingerprint", ()),
        Unreadable(),
        b"\x80",
    ],
)
def test_garbage_in_place_of_a_payload(entry):
    paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    caches["paper"].set(paper.pk, entry)
    assert pages() == (1, 1)
    pages()
    assert pages() == (1, 0)


@pytest.mark.parametrize("entry", [5, "no such row", None, Unreadable()])
def test_garbage_in_place_of_a_hint(entry):
    _paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    region = paper_region()
    caches["default"].set(region.hint_key([("title", "a")]), entry)
    memory.hints.clear()
    assert pages() == (1, 1)
    pages()
    assert pages() == (1, 0)


@pytest.mark.parametrize("name", ["epoch", "clock", "version"])
@pytest.mark.parametrize("entry", [5, "", "LOCK", Unreadable()])
def test_garbage_in_place_of_a_token(name, entry):
    paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    region = paper_region()
    keys = {
        "epoch": region.epoch_key,
        "clock": region.clock_key,
        "version": region.version_key(f"{paper.pk}"),
    }
    caches["paper"].set(keys[name], entry)
    for _ in range(3):
        assert pages()[0] == 1
    caches["paper"].delete(keys[name])
    region.asking.rests_until = 0  # after LOCK
    pages()
    assert pages() == (1, 0)


@pytest.mark.parametrize("entry", [5, "LOCK", "test.of another test"])
def test_garbage_in_place_of_the_version_of_a_row_that_is_found(entry):
    paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    caches["paper"].set(paper_region().version_key(f"{paper.pk}"), entry)
    for _ in range(2):
        assert Paper.objects.get_or_create(title="a", pages=1) == (paper, False)
    caches["paper"].delete(paper_region().version_key(f"{paper.pk}"))
    pages()
    assert pages() == (1, 0)


def test_payload_with_other_fields_is_a_miss(monkeypatch):
    paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    stamp, fingerprint, *rest = caches["paper"].get(paper.pk)
    caches["paper"].set(paper.pk, (stamp, fingerprint + "0", *rest))
    assert pages() == (1, 1)


def test_entries_that_are_evicted_one_by_one():
    paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    region = paper_region()
    for key in (
        region.epoch_key,
        region.clock_key,
        region.version_key(f"{paper.pk}"),
        region.payload_key(f"{paper.pk}"),
    ):
        pages()
        caches["paper"].delete(key)
        assert pages()[0] == 1
        pages()
        assert pages() == (1, 0)
    caches["default"].delete(region.hint_key([("title", "a")]))
    assert pages() == (1, 0)
    memory.hints.clear()
    assert pages() == (1, 1)
    assert pages() == (1, 0)


class SmallCache(LocMemCache):
    """It refuses rows, as memcached refuses those of more than 1 MB."""

    def set_many(self, data, *args, **kwargs):
        if any(type(value) is tuple for value in data.values()):
            raise ValueError("object too large for cache")
        return super().set_many(data, *args, **kwargs)


def test_row_that_is_too_large_is_no_outage(caplog):
    with override_settings(CACHES={"default": backend(SmallCache)}):
        write_in_every_way()
        assert pages()[1] == 1
        assert clients.by_alias["default"].down_until is None
    assert caplog.records == []


def test_cache_that_is_not_down_owes_nothing():
    store = clients.by_alias["default"]
    store.try_again()
    assert store.down_until is None


def test_unreadable_payload_of_a_known_primary_key():
    paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    caches["paper"].set(paper.pk, Unreadable())
    assert count(lambda: Paper.objects.get_or_create(pk=paper.pk)) == (
        (paper, False),
        1,
    )
    Paper.objects.get_or_create(pk=paper.pk)
    assert count(lambda: Paper.objects.get_or_create(pk=paper.pk)) == (
        (paper, False),
        0,
    )


@pytest.mark.parametrize("name", ["epoch", "version"])
def test_nothing_is_filled_under_the_lock_of_others(name):
    """In a transaction that creates or updates, and by a cold reader."""
    Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    region = paper_region()
    cache = caches["paper"]

    def lock():
        for pk in range(1000) if name == "version" else [1]:
            keys = {"epoch": region.epoch_key, "version": region.version_key(f"{pk}")}
            cache.set(keys[name], "LOCK")

    lock()
    with transaction.atomic():
        Paper.objects.get_or_create(title="b", defaults={"pages": 1})
        Paper.objects.update_or_create(title="c", defaults={"pages": 1})
        lock()
    for title in "bc":
        for _ in range(2):
            (obj, created), queries = count(
                lambda title=title: Paper.objects.get_or_create(title=title)
            )
            assert (obj.pages, created, queries) == (1, False, 1)
    if name == "epoch":
        with transaction.atomic():
            Paper.objects.update_or_create(title="b", defaults={"pages": 2})
            lock()
        obj, _ = Paper.objects.get_or_create(title="b")
        assert obj.pages == 2


def test_listener_pays_what_a_cache_is_owed():
    """It does not wait for the next notification of a trigger."""
    with override_settings(CACHES=one_broken()):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        assert pages() == (1, 0)
        epoch = caches["default"].get(paper_region().epoch_key)
        Switch.failure = ConnectionError("no")
        invalidate(Paper)
        assert pay_caches() is True
        Switch.failure = None
        assert pay_caches() is False
        assert caches["default"].get(paper_region().epoch_key) != epoch
        assert pages() == (1, 1)


class Vanishing(LocMemCache):
    """It loses added entries at once."""

    added, stored = [], []

    def add(self, key, *args, **kwargs):
        self.added.append(key)
        return False

    def set(self, key, *args, **kwargs):
        self.stored.append(key)


def test_token_that_goes_at_once_is_not_set():
    """A writer may have set a LOCK in the meantime, which only add() keeps."""
    with override_settings(CACHES={"default": backend(Vanishing)}):
        region = paper_region()
        with pytest.raises(faults.Unreachable):
            region.observe({}, [region.epoch_key], "")
    assert Vanishing.added == [region.epoch_key] * django.MAX_ADDS
    assert Vanishing.stored == []


def test_alias_that_is_gone_at_the_commit():
    """As in a test that overrides CACHES inside a transaction."""
    region = paper_region()
    with override_settings(CACHES={"other": settings.CACHES["default"]}):
        region.lock(connection, ["1"])
        region.release(connection, ["1"])
        assert region.client.debts.releases == {region: {"1"}}
