"""
The guarantees, with each kind of cache: in a process, on a server that dies,
loses all entries, refuses writes or is full, and for a writer that dies.

The classes at the top are inherited once for each kind of cache. The orders in
which processes may use one are in test_interleavings.py and
test_transport_interleavings.py, and tests.stress looks for wrong answers under
load.
"""

import os
import re
from contextlib import contextmanager

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus.coherence import clients
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence.region import Region
from getorcreateplus.coherence.transports import transport_of
from getorcreateplus.coherence.transports.django import DjangoTransport
from getorcreateplus.coherence.transports.locmem import LocMemTransport
from getorcreateplus.coherence.transports.memcached import PyMemcacheTransport
from getorcreateplus.coherence.transports.redis import RedisTransport
from getorcreateplus.writes.registry import region_of

from ..models import Paper
from ..support.clusters import RedisServer
from ..support.errors import Rollback
from ..support.forks import in_child
from ..support.papers import (
    WRITES,
    pages,
    save,
    save_in_transaction,
    store,
    update,
    update_by_cursor,
    update_or_create,
    warm,
)
from ..support.servers import MemcachedServer, another_process, memcached, wait_for
from .test_broken_cache import write_in_every_way
from .test_refused_writes import fill_up

ALL_WRITES = [*WRITES, update_by_cursor, update_or_create]
committing = pytest.mark.django_db(transaction=True)
# They start servers of their own, so that one database will do.
on_own_servers = [
    committing,
    pytest.mark.shared_cache,
    pytest.mark.database("postgresql"),
]


class InProcess:
    """The guarantees if no server can fail."""

    pytestmark = committing
    transport = DjangoTransport
    forced = {}

    @pytest.fixture(autouse=True)
    def cache(self, request, monkeypatch):
        monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 0)
        monkeypatch.setattr(clients.CacheClient, "MAX_PAUSE", 0)
        with self.using(self.config(request)):
            assert type(transport_of("default")) is self.transport
            yield caches["default"]

    @contextmanager
    def using(self, config):
        prefix = {"KEY_PREFIX": f"{connection.settings_dict['NAME']}{id(self)}"}
        memory.hints.clear()
        with (
            another_process(),
            override_settings(
                CACHES={"default": config | prefix},
                GETORCREATEPLUS_TRANSPORTS=self.forced,
            ),
        ):
            yield
            caches.close_all()

    def is_fresh(self, number):
        """Return True if all processes read this, and then have a hit."""
        for _ in range(2):
            with another_process():
                assert pages()[0] == number
            assert pages()[0] == number
        wait_for(lambda: pages() == (number, 0))
        with another_process():
            assert pages() == (number, 0)
        return True

    @pytest.mark.parametrize("write", ALL_WRITES)
    def test_write(self, write):
        paper = warm()
        write(paper)
        assert self.is_fresh(2)

    def test_delete(self):
        warm().delete()
        with another_process():
            assert pages()[0] == 0  # it is created again
        assert self.is_fresh(0)

    @pytest.mark.parametrize("write", ALL_WRITES)
    def test_rollback(self, write):
        paper = warm()
        with pytest.raises(Rollback), transaction.atomic():
            write(paper)
            assert pages()[0] == 2
            raise Rollback
        assert self.is_fresh(1)

    def test_evictions(self, cache):
        paper = warm()
        region = region_of(Paper.objects.all())
        for number, key in enumerate(region.keys_of_a_write([f"{paper.pk}"]), 2):
            cache.delete(key)
            assert self.is_fresh(number - 1)
            cache.delete(key)
            save(paper, number)
            cache.delete(key)
            assert self.is_fresh(number)

    def test_flush(self, cache):
        paper = warm()
        cache.clear()
        assert self.is_fresh(1)
        cache.clear()
        save(paper)
        cache.clear()
        assert self.is_fresh(2)


class OnServer(InProcess):
    """The guarantees if a server can fail."""

    pytestmark = on_own_servers
    backend = location = None
    options = {}

    def config(self, request):
        self.server = self.server_of(request)
        self.start()
        return self.config_at(f"127.0.0.1:{self.server.port}")

    def config_at(self, address):
        config = {"BACKEND": self.backend, "LOCATION": self.location.format(address)}
        return config | ({"OPTIONS": self.options} if self.options else {})

    def start(self):
        if self.server.process is None:
            self.server.start()

    def kill(self):
        self.server.kill()

    @pytest.mark.parametrize("write", ALL_WRITES)
    def test_restart(self, write):
        paper = warm()
        self.kill()
        assert pages() == (1, 1)
        write(paper)
        assert pages() == (2, 1)
        self.start()
        assert self.is_fresh(2)

    def test_server_that_is_gone(self, caplog):
        self.kill()
        self.write_in_vain(caplog)

    def write_in_vain(self, caplog):
        write_in_every_way()
        assert {record.name for record in caplog.records} == {"getorcreateplus"}
        assert not re.search("because of (Index|Type)Error", caplog.text)

    @pytest.mark.parametrize("write", [save_in_transaction, update_or_create, update])
    def test_writer_that_dies_before_its_release(self, write):
        """Its LOCK stays, so no process has a hit."""
        paper = warm()

        def die(*args, **kwargs):
            os._exit(0)

        def write_and_die():
            Region.release = die
            write(paper)
            raise AssertionError("It did not die.")

        caches.close_all()
        in_child(write_and_die)
        for _ in range(2):
            assert pages() == (2, 1)
            with another_process():
                assert pages() == (2, 1)

    def test_writer_that_dies_before_its_commit(self):
        paper = warm()

        def write_and_die():
            with transaction.atomic():
                save(paper)
                update_or_create(paper)
                os._exit(0)

        caches.close_all()
        in_child(write_and_die)
        for _ in range(2):
            assert pages()[0] == 1
            with another_process():
                assert pages()[0] == 1


class OnRedis(OnServer):
    transport = RedisTransport
    location = "redis://{}/0"

    def server_of(self, request):
        return request.getfixturevalue("redis")

    def cli(self, *command):
        """Give each server a command of redis-cli."""
        return self.server.cli(*command)

    def test_scripts_are_lost(self):
        paper = warm()
        for number in range(2, 5):
            save(paper, number)
            self.cli("script", "flush")
            assert self.is_fresh(number)

    @pytest.mark.parametrize("write", ALL_WRITES)
    def test_full_server(self, write):
        paper = warm()
        self.cli("config", "set", "maxmemory", "1")
        try:
            write(paper)
            assert store().debts.releases == {}
            assert pages() == (2, 1)
            with another_process():
                assert pages() == (2, 1)
        finally:
            self.cli("config", "set", "maxmemory", "0")
        assert self.is_fresh(2)

    @pytest.mark.parametrize("write", [save, save_in_transaction, update])
    def test_server_that_refuses_all_writes(self, write):
        paper = warm()
        self.refuse()
        try:
            write(paper)
            assert store().debts.releases
            assert pages() == (2, 1)
        finally:
            self.refuse_no_more()
        assert pages()[0] == 2
        assert store().debts.releases == {}
        assert self.is_fresh(2)

    def refuse(self):
        """Be a replica, whose primary does not answer: READONLY."""
        self.cli("replicaof", "127.0.0.1", "1")

    def refuse_no_more(self):
        self.cli("replicaof", "no", "one")


class OnMemcached(OnServer):
    transport = PyMemcacheTransport
    backend = "django.core.cache.backends.memcached.PyMemcacheCache"
    location = "{}"

    def server_of(self, request):
        return request.getfixturevalue("memcached_server")

    @pytest.mark.parametrize("write", ALL_WRITES)
    def test_full_server(self, write):
        with memcached("-m", "2", "-M") as address:
            with self.using(self.config_at(address)):
                paper = warm()
                fill_up(caches["default"]._cache)
                write(paper)
                with another_process():
                    assert pages()[0] == 2
                assert pages()[0] == 2


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--save", "")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def memcached_server():
    server = MemcachedServer()
    yield server
    server.kill()


class TestLocMem(InProcess):
    transport = LocMemTransport

    def config(self, request):
        return {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


class CacheOfAProject(LocMemCache):
    """
    The order in which it carries out a command for several entries is unknown.
    """

    def get_many(self, keys, version=None):
        return {k: v for k in keys if (v := self.get(k, version=version)) is not None}


class TestUnknown(InProcess):
    def config(self, request):
        return {"BACKEND": f"{__name__}.{CacheOfAProject.__name__}"}


class TestFiles(InProcess):
    def config(self, request):
        return {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(request.getfixturevalue("tmp_path")),
        }


class TestRedis(OnRedis):
    backend = "django.core.cache.backends.redis.RedisCache"


class TestRedisByTheCacheApi(TestRedis):
    transport = DjangoTransport
    forced = {"default": "django"}


class TestDjangoRedis(OnRedis):
    backend = "django_redis.cache.RedisCache"


class TestDjangoValkey(OnRedis):
    backend = "django_valkey.cache.ValkeyCache"
    location = "valkey://{}/0"


class TestMemcached(OnMemcached):
    pass


class TestPoolOfMemcached(OnMemcached):
    """The transport is the same, and uses Django's cache API."""

    options = {"use_pooling": True}


class TestSeveralMemcached(OnMemcached):
    """So it does here, where each step of a release is a command."""

    options = {"retry_attempts": 2**31, "retry_timeout": 0.1}

    def config(self, request):
        config = super().config(request)
        self.other = MemcachedServer()
        self.other.start()
        request.addfinalizer(self.other.kill)
        location = [config["LOCATION"], f"127.0.0.1:{self.other.port}"]
        return config | {"LOCATION": location}

    def start(self):
        super().start()
        if self.other is not None and self.other.process is None:
            self.other.start()

    other = None

    def kill(self):
        super().kill()
        self.other.kill()

    test_full_server = None
