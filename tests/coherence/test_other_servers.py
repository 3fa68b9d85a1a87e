"""
A Redis that is not the same as before: it has started from a snapshot, or a
replica has become the primary. Both have entries that were replaced in the
meantime.
"""

import threading
from contextlib import contextmanager

import pytest
from django.core.cache import caches
from django.db import connection
from django.test import override_settings

from getorcreateplus.coherence import clients
from getorcreateplus.coherence.tokens import LOCK
from getorcreateplus.coherence.transports import redis_identity, transport_of
from getorcreateplus.writes.registry import region_of

from ..models import Paper
from ..support.clusters import RedisServer
from ..support.papers import WRITES, is_fresh, pages, save, update, warm
from ..support.servers import (
    Gateway,
    another_process,
    caches_at,
    redis_server,
    wait_for,
)

pytestmark = [
    pytest.mark.shared_cache,
    pytest.mark.database("postgresql"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 0)


@contextmanager
def cache_at(location):
    with another_process(), override_settings(CACHES=caches_at(location)):
        yield caches["default"]._cache.get_client()
        caches["default"].close()


@contextmanager
def process_that_names_no_server():
    """It uses only the cache API, like version 1.0."""
    with another_process():
        with override_settings(GETORCREATEPLUS_TRANSPORTS={"default": "django"}):
            yield


# A server that starts from a snapshot


@pytest.fixture
def persistent(tmp_path):
    """A Redis with a snapshot, which it reads when it starts."""
    server = RedisServer(tmp_path, "--save", "")
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("write", WRITES)
def test_start_from_a_snapshot(persistent, write):
    with cache_at(persistent.location()) as client:
        paper = warm()
        client.save()
        write(paper)
        persistent.kill()
        persistent.start()
        assert is_fresh()


@pytest.mark.parametrize("write", [save, update])
def test_tokens_without_a_server_do_not_hold_on_the_next(persistent, write):
    """The tokens of a process that uses only the cache API."""
    with cache_at(persistent.location()) as client:
        with process_that_names_no_server():
            paper = warm()
            client.save()
            write(paper)
        persistent.kill()
        persistent.start()
        assert is_fresh()


def test_each_token_has_to_name_its_server(persistent, monkeypatch):
    """The snapshot has a wrong hit, unless its tokens are invalid."""
    monkeypatch.setattr(redis_identity, "names_of", lambda answer: [])
    with cache_at(persistent.location()) as client:
        paper = warm()
        client.save()
        save(paper)
        persistent.kill()
        persistent.start()
        with another_process():
            assert pages() == (1, 0)


def test_lock_in_a_snapshot_holds(persistent):
    with cache_at(persistent.location()) as client:
        warm()
        region = region_of(Paper.objects.all())
        region.lock(connection, [str(Paper.objects.get().pk)])
        client.save()
        persistent.kill()
        persistent.start()
        for _ in range(3):
            assert pages() == (1, 1)


# A replica that becomes the primary


def follow(client, other):
    """
    Make a server the replica of another, and wait until it has all entries.
    """
    _, _, port = other.rpartition("/")[0].rpartition(":")
    client.replicaof("127.0.0.1", port)
    wait_for(lambda: client.info("replication").get("master_link_status") == "up")


@pytest.fixture
def pair():
    """Yield two servers, the second a replica of the first, and a Gateway."""
    at_once = "--repl-diskless-sync-delay", "0"
    with redis_server(*at_once) as first, redis_server(*at_once) as second:
        with cache_at(second) as client:
            follow(client, first)
        gateway = Gateway(first)
        yield first, second, gateway
        gateway.close()


def promote(location, gateway):
    with cache_at(location) as client:
        client.replicaof("NO", "ONE")
    gateway.lead_to(location)
    gateway.cut()


def lose_replication(location):
    with cache_at(location) as client:
        client.replicaof("NO", "ONE")


@pytest.mark.parametrize("write", WRITES)
def test_replica_that_has_missed_a_write(pair, write):
    _, second, gateway = pair
    with cache_at(gateway.location) as client:
        paper = warm()
        client.wait(1, 1000)
        lose_replication(second)
        write(paper)
        promote(second, gateway)
        assert is_fresh()


def test_first_primary_once_more(pair):
    """It is the same process, with the entries of the second server."""
    first, second, gateway = pair
    with cache_at(gateway.location) as client:
        paper = warm()
        client.wait(1, 1000)
        lose_replication(second)
        save(paper)
        promote(second, gateway)
        with cache_at(first) as its_client:
            follow(its_client, second)
        promote(first, gateway)
        assert is_fresh()


def test_primary_that_is_made_a_replica(monkeypatch):
    """It is not read, also on a connection that stays."""
    monkeypatch.setattr(redis_identity, "MAX_AGE", -1)
    with redis_server() as location, cache_at(location) as client:
        warm()
        client.config_set("replica-serve-stale-data", "yes")
        client.replicaof("127.0.0.1", 1)
        assert pages() == (1, 1)
        client.replicaof("NO", "ONE")
        pages()
        assert pages() == (1, 0)


# Other users of the cache


def test_process_that_names_no_server():
    """Each process sees the writes of the other, and has hits after them."""
    with redis_server() as location, cache_at(location):
        paper = warm()
        for number in range(2, 8, 2):
            save(paper, number)
            with process_that_names_no_server():
                assert pages() == (number, 1)
                assert pages() == (number, 0)
                save(paper, number + 1)
                pages()
            assert pages() == (number + 1, 1)
            assert pages() == (number + 1, 0)


def test_server_that_does_not_say_who_it_is():
    with redis_server() as location, cache_at(location) as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
        paper = warm()
        assert transport_of("default").server_id("version") == ""
        save(paper)
        assert is_fresh()


# Replacing a token


@pytest.fixture
def steps():
    with redis_server() as location, cache_at(location):
        steps = transport_of("default")
        steps.probe()
        yield steps


def test_token_is_replaced(steps):
    token, other = steps.server_id("version") + "0" * 16, "f" * 16
    caches["default"].set("version", other)
    found = steps.look(["version"])["version"]
    assert steps.replace("version", found, token, 60) == token
    assert caches["default"].get("version") == token


@pytest.mark.parametrize("there", [LOCK, "another token"])
def test_entry_that_has_changed_meanwhile_stays(steps, there):
    if there != LOCK:
        there = steps.server_id("version") + "1" * 16
    caches["default"].set("version", there)
    token = steps.server_id("version") + "0" * 16
    assert steps.replace("version", "other.ffff", token, 60) == there
    assert caches["default"].get("version") == there


def test_entry_that_was_evicted_meanwhile(steps):
    token = steps.server_id("version") + "0" * 16
    assert steps.replace("version", "other.ffff", token, 60) == token


def test_entry_that_changes_while_it_is_replaced(steps):
    """A writer may lock the row at any time."""
    caches["default"].set("version", "f" * 16)
    commands = steps.server().commands
    [key] = steps.keys(["version"])

    def successor_of(found, server_id):
        other = threading.Thread(target=caches["default"].set, args=("version", LOCK))
        other.start()
        other.join()
        return steps.server().dumps("token")

    data, _ = commands.replace(key, successor_of, ())
    assert steps.server().loads(data) == LOCK
    assert caches["default"].get("version") == LOCK
