"""
A cache that answers but refuses writes: a written row is still not a hit.
"""

import errno
import logging
import shutil
import uuid

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus import invalidate
from getorcreateplus.coherence import clients
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.writes.registry import region_of

from ..models import Paper
from ..support.caches import Unreadable
from ..support.papers import (
    pages,
    save,
    save_in_transaction,
    store,
    update,
    update_by_cursor,
    update_or_create,
    update_or_create_in_transaction,
    warm,
)
from ..support.servers import (
    another_process,
    caches_at,
    memcached,
    redis_server,
    wait_for,
)

pytestmark = pytest.mark.django_db(transaction=True)


class Refusal:
    is_on = False
    what = "set"
    deleted = []


class FullCache(LocMemCache):
    """Its set() and add() fail while the switch is on. Its entries stay."""

    def check(self):
        if Refusal.is_on:
            raise OSError(errno.ENOSPC, "No space left on device")

    def add(self, *args, **kwargs):
        self.check()
        return super().add(*args, **kwargs)

    def set(self, *args, **kwargs):
        self.check()
        return super().set(*args, **kwargs)

    def delete_many(self, keys, *args, **kwargs):
        Refusal.deleted += keys
        return super().delete_many(keys, *args, **kwargs)


class SilentlyFullCache(FullCache):
    """It returns the keys that it did not store, as memcached's clients do."""

    def set_many(self, data, *args, **kwargs):
        return list(data) if Refusal.is_on else super().set_many(data, *args, **kwargs)


class HalfFullCache(FullCache):
    """It stores only one entry of several."""

    def set_many(self, data, *args, **kwargs):
        if Refusal.is_on and len(data) > 1:
            super(FullCache, self).set(*next(iter(data.items())), *args, **kwargs)
        return super().set_many(data, *args, **kwargs)


class UnorderedFullCache(FullCache):
    """It is not one of Django's backends: each step is a separate command."""


class FullDisk(FileBasedCache):
    def set(self, *args, **kwargs):
        FullCache.check(self)
        super().set(*args, **kwargs)


class ReplicaCache(FullCache):
    """It refuses deletes, too."""

    def delete(self, *args, **kwargs):
        self.check()
        return super().delete(*args, **kwargs)


FULL = [FullCache, SilentlyFullCache, HalfFullCache, UnorderedFullCache, FullDisk]


@pytest.fixture(autouse=True)
def switch(monkeypatch):
    monkeypatch.setattr(Refusal, "is_on", False)
    monkeypatch.setattr(Refusal, "deleted", [])
    monkeypatch.setattr(
        "getorcreateplus.coherence.transports.django.KEEPS_ORDER",
        (FullDisk, HalfFullCache, SilentlyFullCache, ReplicaCache),
    )
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 0)
    monkeypatch.setattr(clients.CacheClient, "MAX_PAUSE", 0)


@pytest.fixture
def use(tmp_path):
    """Return a function that makes a backend the only cache."""
    overridden = []

    def use(cls):
        location = str(tmp_path) if cls is FullDisk else uuid.uuid4().hex
        name = f"{cls.__module__}.{cls.__qualname__}"
        config = {"BACKEND": name, "LOCATION": location}
        overridden.append(override_settings(CACHES={"default": config}))
        overridden[-1].enable()

    yield use
    for each in overridden:
        each.disable()


def update_in_transaction(paper):
    with transaction.atomic():
        save(paper)
        update(paper)


def write_elsewhere(paper):
    """Write like another program."""
    wrappers, connection.execute_wrappers[:] = connection.execute_wrappers[:], []
    try:
        update_by_cursor(paper)
    finally:
        connection.execute_wrappers[:] = wrappers


def invalidate_row(paper):
    write_elsewhere(paper)
    invalidate(paper)


def invalidate_all(paper):
    write_elsewhere(paper)
    invalidate(Paper)


WRITES = [
    save,
    update,
    save_in_transaction,
    update_in_transaction,
    update_or_create,
    update_or_create_in_transaction,
    update_by_cursor,
    invalidate_row,
    invalidate_all,
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("cls", FULL)
def test_full_cache_drops_written_rows(cls, write, use):
    use(cls)
    paper = warm()
    Refusal.is_on = True
    write(paper)
    assert store().debts.releases == {}
    assert store().down_until is None
    with another_process():
        assert pages()[0] == 2
        Refusal.is_on = False
        assert pages()[0] == 2
    assert pages()[0] == 2
    assert pages() == (2, 0)


def test_lock_that_is_refused_deletes_the_row(use):
    use(FullCache)
    paper = warm()
    region, pk = region_of(Paper.objects.all()), f"{paper.pk}"
    Refusal.is_on = True
    region.lock(connection, [pk])
    names = [region.version_key(pk), region.payload_key(pk)]
    assert caches["default"].get_many(names) == {}
    assert caches["default"].get(region.epoch_key)
    region.lock(connection, None)
    assert caches["default"].get(region.epoch_key) is None


@pytest.mark.parametrize("cls", [HalfFullCache, UnorderedFullCache])
def test_clock_is_deleted_first(cls, use):
    """With one command or with several."""
    use(cls)
    paper = warm()
    region, pk = region_of(Paper.objects.all()), f"{paper.pk}"
    Refusal.is_on = True
    region.release(connection, [pk], all_rows=True)
    row = [region.version_key(pk), region.epoch_key, region.payload_key(pk)]
    assert Refusal.deleted == [region.clock_key, *row]


@pytest.mark.parametrize("knows", ["pk", "lookup", "nothing"])
@pytest.mark.parametrize("write", [save, update])
def test_reader_that_meets_a_release_by_deletion_does_not_fill(write, knows, use):
    """The cache accepts writes again when the reader continues."""
    use(FullCache)
    paper = warm()
    region, pk = region_of(Paper.objects.all()), f"{paper.pk}"
    names = [
        region.payload_key(pk),
        region.version_key(pk),
        region.epoch_key,
        region.clock_key,
    ]
    hint = region.hint_key([("title", "a")])
    caches["default"].delete_many(names + [hint] * (knows == "nothing"))
    if knows == "nothing":
        memory.hints.clear()

    def write_after_select(call, sql, params, many, context):
        result = call(sql, params, many, context)
        if sql.startswith("SELECT") and not written:
            written.append(sql)
            Refusal.is_on = True
            write(paper)
            Refusal.is_on = False
        return result

    written = []
    lookup = {"pk": paper.pk} if knows == "pk" else {"title": "a"}
    with connection.execute_wrapper(write_after_select):
        Paper.objects.get_or_create(**lookup)
    assert written
    for _ in range(3):
        assert Paper.objects.get_or_create(**lookup)[0].pages == 2


@pytest.mark.parametrize("write", WRITES)
def test_cache_that_takes_no_deletes_is_owed(write, use):
    use(ReplicaCache)
    paper = warm()
    Refusal.is_on = True
    write(paper)
    assert store().debts.releases
    for _ in range(2):
        assert pages() == (2, 1)
    Refusal.is_on = False
    assert pages()[0] == 2
    assert store().debts.releases == {}
    with another_process():
        assert pages()[0] == 2


@pytest.mark.parametrize("cls", [FullCache, ReplicaCache])
@pytest.mark.parametrize("write", [save, update])
def test_transaction_by_hand_owes_its_lock(write, cls, use):
    """Rows that are deleted may be filled again before the commit."""
    use(cls)
    paper = warm()
    transaction.set_autocommit(False)
    try:
        Refusal.is_on = True
        write(paper)
        assert store().debts.locks
        assert pages()[0] == 2
        Refusal.is_on = False
        transaction.commit()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)
    assert pages() == (2, 1)
    assert pages() == (2, 0)
    assert store().debts.locks == {}


class NoRows(LocMemCache):
    """It stores no rows while the switch is on: they are too large."""

    def set(self, key, value, *args, **kwargs):
        if Refusal.is_on and type(value) is tuple:
            if Refusal.what == "error":
                raise ValueError("object too large for cache")
            return
        super().set(key, value, *args, **kwargs)

    def set_many(self, data, *args, **kwargs):
        super().set_many(data, *args, **kwargs)
        return [key for key in data if type(data[key]) is tuple and Refusal.is_on]


@pytest.mark.parametrize("what", ["error", "failed keys"])
def test_published_row_that_is_not_stored_is_dropped(what, use, caplog, monkeypatch):
    monkeypatch.setattr(Refusal, "what", what)
    use(NoRows)
    paper = warm()
    region, pk = region_of(Paper.objects.all()), f"{paper.pk}"
    assert caches["default"].get(region.payload_key(pk))
    Refusal.is_on = True
    update_or_create_in_transaction(paper)
    assert caches["default"].get(region.payload_key(pk)) is None
    assert pages() == (2, 1)
    assert caplog.records == []


def test_refusal_is_one_warning(use, caplog):
    caplog.set_level(logging.INFO, "getorcreateplus")
    use(FullCache)
    place = settings.CACHES["default"]["LOCATION"]
    paper = warm()
    for _ in range(2):
        Refusal.is_on = True
        save(paper)
        update(paper)
        pages()
        Refusal.is_on = False
        save(paper)
    assert [record.getMessage() for record in caplog.records] == 2 * [
        f"Cache 'default' ({place}) answers, but refuses writes: "
        "OSError: [Errno 28] No space left on device",
        "Cache 'default' accepts writes again.",
    ]


def test_hits_go_on_where_a_new_row_is_refused(use):
    use(FullCache)
    warm()
    Refusal.is_on = True
    Paper.objects.get_or_create(title="b")
    assert pages() == (1, 0)
    assert store().down_until is None


def test_reader_that_wants_to_repair_a_full_cache(use):
    """
    The package deletes entries that cannot be read, which the cache refuses.
    """
    use(ReplicaCache)
    paper = warm()
    region = region_of(Paper.objects.all())
    caches["default"].set(region.payload_key(f"{paper.pk}"), Unreadable())
    Refusal.is_on = True
    assert pages() == (1, 1)
    assert store().down_until is None


# Servers


def fill_up(client):
    """Store junk until nothing more fits."""
    number = 0
    for size in (50_000, 2000, 100, 1):
        while True:
            number += 1
            try:
                if client.set(f"junk{number}", "x" * size) is False:
                    break
            except Exception:
                break


def full_redis():
    return redis_server("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")


def full_memcached():
    return memcached("-m", "2", "-M")


@pytest.mark.shared_cache
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("server", [full_redis, full_memcached])
def test_full_server_drops_written_rows(server, write):
    with server() as location, override_settings(CACHES=caches_at(location)):
        paper = warm()
        fill_up(caches["default"]._cache)
        write(paper)
        with another_process():
            assert pages()[0] == 2
        assert pages()[0] == 2


def refuse_as_replica(client):
    # Its primary does not exist, so it continues to serve its entries.
    client.config_set("replica-serve-stale-data", "yes")
    client.replicaof("127.0.0.1", 1)


def refuse_without_replicas(client):
    client.config_set("min-replicas-to-write", 1)


def refuse_after_a_failed_snapshot(client):
    client.config_set("save", "3600 1")
    shutil.rmtree(client.config_get("dir")["dir"])
    client.bgsave()
    wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] != "ok")


def refuse_by_rights(client):
    client.execute_command("ACL", "SETUSER", "default", "-@write")


REFUSALS = {
    refuse_as_replica: lambda client: client.replicaof("NO", "ONE"),
    refuse_without_replicas: lambda c: c.config_set("min-replicas-to-write", 0),
    refuse_after_a_failed_snapshot: lambda client: client.config_set("save", ""),
    refuse_by_rights: lambda c: c.execute_command("ACL", "SETUSER", "default", "+@all"),
}


@pytest.mark.shared_cache
@pytest.mark.parametrize("write", [save, update_in_transaction, invalidate_row])
@pytest.mark.parametrize("refuse", REFUSALS)
def test_redis_that_refuses_deletes_is_owed(refuse, write):
    with redis_server() as location, override_settings(CACHES=caches_at(location)):
        paper = warm()
        client = caches["default"]._cache.get_client()
        refuse(client)
        write(paper)
        assert store().debts.releases
        assert pages() == (2, 1)
        REFUSALS[refuse](client)
        assert pages()[0] == 2
        assert store().debts.releases == {}
        with another_process():
            assert pages()[0] == 2
