"""
Commands without waiting for the answer: fills, and the LOCKs of a statement in
a transaction. Other tests wait for every answer; these tests turn that off.
"""

import logging
import threading
from collections import Counter

import pytest
from django.core.cache import caches
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus import invalidate
from getorcreateplus.coherence import clients
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence.journal import journal
from getorcreateplus.coherence.tokens import LOCK
from getorcreateplus.coherence.transports import memcached as of_memcached
from getorcreateplus.coherence.transports import packets, redis
from getorcreateplus.coherence.transports.packets import Commands
from getorcreateplus.test import (
    CaptureCacheCommands,
    assert_cache_hits,
    assert_cache_misses,
)
from getorcreateplus.writes.registry import region_of

from ..models import Paper, Sheet
from ..support.servers import caches_at, memcached, redis_server

# They start their own servers, so one database is enough.
pytestmark = [
    pytest.mark.shared_cache,
    pytest.mark.database("postgresql"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture(autouse=True)
def waits_for_nothing(monkeypatch):
    monkeypatch.setattr(redis, "waits", lambda: False)
    monkeypatch.setattr(of_memcached, "waits", lambda: False)
    memory.hints.clear()


@pytest.fixture(scope="module")
def redis_location():
    with redis_server("--maxmemory-policy", "noeviction") as location:
        yield location


@pytest.fixture
def on_redis(redis_location):
    with override_settings(CACHES=caches_at(redis_location)):
        yield clients.by_alias["default"]
        send("CONFIG", "SET", "maxmemory", "0")
        send("FLUSHALL")


def sender():
    return clients.by_alias["default"].transport.server().commands


def pool_of(max_connections):
    pool = sender().pool
    return type(pool)(**pool.connection_kwargs, max_connections=max_connections)


def send(*command):
    return sender().send(command)[0]


def is_on_memcached():
    return clients.by_alias["default"].transport.name == "memcached"


def unread():
    if is_on_memcached():
        return len(clients.by_alias["default"].transport.unread())
    return sum(len(line.unread) for line in sender().kept)


def entry(key):
    return caches["default"].get(key)


def lose_answer():
    """Lose an unread answer, together with its connection."""
    if is_on_memcached():
        return  # there is no answer: only the entries can be lost
    [line] = [line for line in sender().kept if line.unread]
    read_response = line.connection.read_response

    def fail(*args, **kwargs):
        line.connection.read_response = read_response
        raise ConnectionError("lost")

    line.connection.read_response = fail


def read():
    return Sheet.objects.get_or_create(title="a")[0]


class TestFills:
    def test_miss_does_not_wait(self, on_redis):
        read()  # the server gets the script
        sheet = Sheet._base_manager.create(title="b")
        assert unread() == 0
        Sheet.objects.get_or_create(title="b")
        assert unread() == 1
        with assert_cache_hits(1):
            assert Sheet.objects.get_or_create(title="b") == (sheet, False)
        assert unread() == 0

    def test_miss_after_a_write_does_not_wait(self, on_redis):
        sheet = read()
        sheet.save()
        assert read() == sheet
        assert unread() == 1
        with assert_cache_hits(1):
            read()

    def test_script_is_lost(self, on_redis):
        read()
        for title, hits in ("b", 0), ("c", 1), ("d", 1):
            Sheet._base_manager.create(title=title)
            if title == "b":
                send("SCRIPT", "FLUSH")
            Sheet.objects.get_or_create(title=title)
            with assert_cache_hits(hits):
                Sheet.objects.get_or_create(title=title)

    @pytest.mark.parametrize("there", ["1.0123456789abcdef", 7])
    def test_version_that_is_none(self, on_redis, there):
        """The call after the next one replaces it."""
        read()
        sheet = Sheet._base_manager.create(title="b")
        version = region_of(Sheet.objects.all()).version_key(sheet.pk)
        caches["default"].set(version, there)
        for hits in 0, 0, 1:
            with assert_cache_hits(hits):
                Sheet.objects.get_or_create(title="b")

    def test_full_cache(self, on_redis, caplog):
        read().save()
        send("CONFIG", "SET", "maxmemory", "1")
        with caplog.at_level(logging.WARNING, "getorcreateplus"):
            read()
            with assert_cache_misses(1):
                read()
        [record] = caplog.records
        assert "refuses writes" in record.getMessage()
        assert on_redis.down_until is None

    @pytest.mark.parametrize("is_slow", [False, True])
    def test_connection_is_lost(self, on_redis, is_slow):
        """The next command has another connection."""
        read().save()
        read()
        [line] = sender().kept
        line.connection._sock.shutdown(2)
        read()
        assert on_redis.down_until is None
        with assert_cache_hits(1):
            read()

    def test_interrupted_while_the_answer_is_read(self, on_redis, monkeypatch):
        read().save()
        read()
        [line] = sender().kept

        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(line.connection, "read_response", interrupt)
            with pytest.raises(KeyboardInterrupt):
                read()
        assert read().title == "a"
        assert line not in sender().kept

    def test_connections_are_given_back(self, on_redis):
        """A connection with unread answers is closed."""
        pool = pool_of(100)
        leaving = Commands(pool, is_shared=True)
        leaving.send_later(len, ("PING",))
        [line] = leaving.kept
        del leaving
        packets.give_back()
        assert line.connection._sock is None
        assert line.connection in pool._available_connections

    def test_half_of_a_shared_pool_is_not_kept(self, on_redis):
        pool = pool_of(16)
        several = [Commands(pool, is_shared=True) for _ in range(6)]
        for commands in several:
            assert commands.send(("PING",)) == [b"PONG"]
        assert [len(commands.kept) for commands in several] == [1] * 4 + [0] * 2
        del several, commands
        assert Commands(pool, is_shared=True).keeps

    def test_garbage_is_collected_while_the_pool_is_locked(self, on_redis):
        """A thread cannot take the lock of valkey-py's pool twice."""
        pool = pool_of(100)
        pool._lock = threading.Lock()
        leaving = Commands(pool, is_shared=True)
        leaving.send(("PING",))
        with pool._lock:
            del leaving
        assert Commands(pool, is_shared=True).send(("PING",)) == [b"PONG"]

    def test_memcached(self):
        with memcached() as location, override_settings(CACHES=caches_at(location)):
            read().save()
            sheet = read()
            with assert_cache_hits(1):
                assert read() == sheet
            # The client waits for a row that the server may refuse.
            assert clients.by_alias["default"].fill({"row": "x" * 2**21}, 60)
            caches["default"].close()


class Spy:
    """An execute wrapper that reads the row's version before a write."""

    def __init__(self):
        self.seen = []

    def __call__(self, execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith("UPDATE"):
            self.seen.append(unread())
        return result


class TestLocks:
    @pytest.fixture
    def sheet(self, on_redis):
        sheet = read()
        self.key = region_of(Sheet.objects.all()).version_key(sheet.pk)
        return sheet

    def test_statement_does_not_wait(self, sheet):
        spy = Spy()
        with transaction.atomic(), connection.execute_wrapper(spy):
            sheet.save()
            assert (spy.seen, unread()) == ([1], 1)
            assert entry(self.key) == LOCK
        assert entry(self.key) not in {None, LOCK}

    def test_autocommit_waits(self, sheet):
        """The statement commits."""
        spy = Spy()
        with connection.execute_wrapper(spy):
            sheet.save()
        assert spy.seen == [0]

    def test_lock_is_lost(self, sheet):
        """It is lost with its connection, and set again on another one."""

        with transaction.atomic():
            sheet.save()
            caches["default"].delete(self.key)
            lose_answer()
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout TO 0")  # it may commit
            assert entry(self.key) == LOCK
        assert read() == sheet

    def test_lock_is_refused(self, sheet):
        """The entries are deleted instead."""
        row = region_of(Sheet.objects.all()).payload_key(sheet.pk)
        assert entry(row) is not None
        send("CONFIG", "SET", "maxmemory", "1")
        with transaction.atomic():
            sheet.save()
            journal(connection).wait_for_answers()
            assert entry(self.key) is None
            assert entry(row) is None

    def test_statement_fails(self, sheet):
        other = Sheet._base_manager.create(title="b")
        with pytest.raises(Exception, match="unique constraint"):
            with transaction.atomic():
                other.pk = sheet.pk
                other.save(force_insert=True)
        assert unread() == 0

    def test_write_without_a_statement(self, sheet):
        """The commit waits."""
        with transaction.atomic():
            invalidate(sheet)
            assert entry(self.key) == LOCK
        assert entry(self.key) != LOCK

    def test_rollback(self, sheet):
        with pytest.raises(ZeroDivisionError):
            with transaction.atomic():
                sheet.save()
                raise ZeroDivisionError
        assert entry(self.key) not in {None, LOCK}

    def test_creates(self, on_redis):
        """
        One or two reads, few packets of versions, and one packet at the
        commit.
        """
        Sheet.objects.get_or_create(title="another")
        with CaptureCacheCommands() as made, transaction.atomic():
            for n in range(200):
                Sheet.objects.get_or_create(title=f"{n}")
        names = Counter(command.method for command in made)
        assert names["look"] <= 2
        assert names["set_later"] <= 20
        assert names.keys() == {"look", "set_later", "fill"}
        with assert_cache_hits(200):
            for n in range(200):
                Sheet.objects.get_or_create(title=f"{n}")

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_few_creates(self, on_redis, number):
        Sheet.objects.get_or_create(title="another")
        with transaction.atomic():
            for n in range(number):
                Sheet.objects.get_or_create(title=f"{n}")
        with assert_cache_hits(number):
            for n in range(number):
                Sheet.objects.get_or_create(title=f"{n}")

    def test_commit_of_another_tenant(self, on_redis):
        """The versions have the keys of the tenant that created the rows."""
        Sheet.objects.get_or_create(title="another")
        cache = caches["default"]
        prefix = cache.key_prefix
        with transaction.atomic():
            for title in "bcde":
                Sheet.objects.get_or_create(title=title)
            cache.key_prefix = "another tenant"
        cache.key_prefix = prefix
        with assert_cache_hits(4):
            for title in "bcde":
                Sheet.objects.get_or_create(title=title)

    def test_versions_are_refused(self, on_redis):
        """They are added after the commit."""
        Sheet.objects.get_or_create(title="another")
        with transaction.atomic():
            sheet = read()
            version = region_of(Sheet.objects.all()).version_key(sheet.pk)
            caches["default"].delete(version)
            lose_answer()
        with assert_cache_hits(1):
            read()

    def test_lock_of_another_on_a_created_row(self, on_redis):
        """It wrote a row by a primary key that it could not know."""
        sheet = read()
        lock = region_of(Sheet.objects.all()).version_key(f"{sheet.pk + 2}")
        caches["default"].set(lock, LOCK)
        with transaction.atomic():
            for title in "bcd":
                Sheet.objects.get_or_create(title=title)
        assert entry(lock) == LOCK
        with assert_cache_hits(2), assert_cache_misses(1):
            for title in "bcd":
                Sheet.objects.get_or_create(title=title)

    def test_update(self, sheet):
        """The payload is published, and this is certain before the release."""
        with transaction.atomic():
            Sheet.objects.update_or_create({"pages": 7}, title="a")
            assert unread() == 1 + is_on_memcached()
        with assert_cache_hits(1):
            assert read().pages == 7

    def test_payload_is_lost(self, sheet):
        payload = region_of(Sheet.objects.all()).payload_key(sheet.pk)
        with transaction.atomic():
            Sheet.objects.update_or_create({"pages": 7}, title="a")
            caches["default"].delete(payload)
            lose_answer()
        assert entry(payload) is None
        assert read().pages == 7

    def test_many_rows(self, on_redis):
        papers = [Paper.objects.create(title=f"{n}") for n in range(50)]
        with transaction.atomic():
            for paper in papers:
                paper.save()
        assert unread() == 0


class TestLocksOnMemcached(TestLocks):
    """Reading the entries answers all commands that were sent before."""

    test_lock_is_refused = None  # memcached does not refuse small entries

    @pytest.fixture
    def on_redis(self):
        with memcached() as location, override_settings(CACHES=caches_at(location)):
            yield clients.by_alias["default"]
            caches["default"].close()

    def test_locks_are_looked_for_together(self, on_redis):
        papers = [Paper.objects.create(title=f"{n}") for n in range(5)]
        with CaptureCacheCommands() as made, transaction.atomic():
            for paper in papers:
                paper.save()
        names = [command.method for command in made]
        assert names == [*["set_later"] * 5, "look", "release"]
