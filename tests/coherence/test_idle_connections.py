"""A connection that was closed while idle does not count as an outage."""

import signal
import threading
import uuid
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus import invalidate
from getorcreateplus.coherence import clients
from getorcreateplus.test import assert_cache_commands
from getorcreateplus.writes.registry import region_of

from ..models import Paper
from ..support.papers import (
    pages,
    save,
    save_in_transaction,
    store,
    update,
    update_or_create_in_transaction,
    warm,
)
from ..support.servers import Gateway, another_process, caches_at, memcached, wait_for
from ..support.threads import start

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    """Reset the outages, and make each pause longer than a test."""
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 1000)
    monkeypatch.setattr(clients.CacheClient, "MAX_PAUSE", 1000)


def use(**options):
    config = settings.CACHES["default"] | options
    return override_settings(CACHES={"default": config})


@pytest.fixture
def gateway():
    gateway = Gateway()
    with use(LOCATION=gateway.location):
        yield gateway
    gateway.close()


@pytest.fixture
def impatient_gateway(monkeypatch):
    """Its clients wait for a fifth of a second."""
    monkeypatch.setattr(clients.CacheClient, "SLOW", 0.1)
    names = ["timeout", "connect_timeout"]
    if "redis" in settings.CACHES["default"]["LOCATION"]:
        names = ["socket_timeout", "socket_connect_timeout"]
    gateway = Gateway()
    with use(LOCATION=gateway.location, OPTIONS=dict.fromkeys(names, 0.2)):
        yield gateway
    gateway.close()


def invalidate_row(paper):
    wrappers, connection.execute_wrappers[:] = connection.execute_wrappers[:], []
    save(paper)
    connection.execute_wrappers[:] = wrappers
    invalidate(paper)


WRITES = [
    save,
    update,
    save_in_transaction,
    update_or_create_in_transaction,
    invalidate_row,
]


@pytest.mark.shared_cache
@pytest.mark.parametrize("write", WRITES)
def test_write_after_a_pause_reaches_the_cache(write, gateway, caplog):
    paper = warm()
    gateway.cut()
    write(paper)
    assert store().down_until is None
    with another_process():
        assert pages()[0] == 2
    assert caplog.records == []


@pytest.mark.shared_cache
@pytest.mark.parametrize("write", WRITES)
def test_commit_after_a_pause_reaches_the_cache(write, gateway, caplog):
    """The connection was idle between the writes and the commit."""
    paper = warm()
    with transaction.atomic():
        write(paper)
        gateway.cut()
    assert store().down_until is None
    with another_process():
        assert pages()[0] == 2
    assert caplog.records == []


class TimeLimit(BaseException):
    """Like gevent.Timeout, or the exception of Ctrl-C."""


@contextmanager
def time_limit(seconds):
    def raise_limit(number, frame):
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, raise_limit)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(TimeLimit):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.shared_cache
@pytest.mark.parametrize("by_pk", [True, False])
def test_answer_that_a_time_limit_did_not_wait_for(gateway, by_pk):
    """A client may use it as the answer to its next command."""
    paper = warm()
    lookup = {"pk": paper.pk} if by_pk else {"title": "a"}
    for _ in range(2):
        Paper.objects.get_or_create(**lookup)
    gateway.delay = 0.3
    with time_limit(0.1):
        Paper.objects.get_or_create(**lookup)
    gateway.delay = 0
    threading.Event().wait(0.5)  # The answer is there.
    start(save, Paper.objects.get(pk=paper.pk)).join(10)
    for _ in range(2):
        assert Paper.objects.get_or_create(**lookup)[0].pages == 2


@pytest.mark.shared_cache
def test_read_after_a_pause_is_a_hit(gateway, caplog):
    warm()
    for _ in range(3):
        gateway.cut()
        assert pages() == (1, 0)
    assert caplog.records == []


@pytest.mark.shared_cache
def test_each_thread_renews_its_own_connection(gateway, caplog):
    """All of them were idle, and each detects that on its own."""
    paper = warm()
    together, found = threading.Barrier(4), []

    def read():
        before = pages()
        together.wait(10)  # all have read
        together.wait(10)  # all connections are closed
        found.append((before, pages()))

    threads = [start(read) for _ in range(3)]
    together.wait(10)
    save(paper)
    pages()
    gateway.cut()
    together.wait(10)
    for thread in threads:
        thread.join(10)
    assert found == 3 * [((1, 0), (2, 0))]
    assert pages() == (2, 0)
    assert caplog.records == []


@pytest.mark.shared_cache
def test_commands_that_are_given_again_are_counted(gateway):
    warm()
    gateway.cut()
    with assert_cache_commands(2):
        pages()
    with assert_cache_commands(1):
        pages()


@pytest.mark.shared_cache
@pytest.mark.parametrize("write", WRITES)
def test_firewall_that_has_dropped_the_connection(write, impatient_gateway):
    """The first command waits in vain; the release has a new connection."""
    paper = warm()
    impatient_gateway.freeze()
    write(paper)
    with another_process():
        assert pages()[0] == 2
    assert pages()[0] == 2


@pytest.mark.shared_cache
def test_release_is_tried_while_the_cache_is_left_alone(gateway, caplog):
    """Other processes read from it."""
    paper = warm()
    gateway.is_closed = True
    gateway.cut()
    assert pages() == (1, 1)
    assert store().down_until is not None
    gateway.is_closed = False
    for write in WRITES:
        Paper.objects.filter(pk=paper.pk).update(pages=1)
        with another_process():
            pages()
            assert pages() == (1, 0)
        write(paper)
        with another_process():
            assert pages()[0] == 2
    assert pages() == (2, 1)  # this process still does not use it
    assert len(caplog.records) == 1


@pytest.mark.shared_cache
def test_cache_that_is_gone_is_owed(gateway):
    paper = warm()
    gateway.is_closed = True
    gateway.cut()
    save(paper)
    assert list(store().debts.releases.values()) == [{f"{paper.pk}"}]
    gateway.is_closed = False
    store().down_until = 0
    assert pages() == (2, 1)
    assert store().debts.releases == {}
    assert pages() == (2, 0)


@pytest.mark.shared_cache
def test_idle_timeout_of_memcached(caplog):
    with (
        memcached("-o", "idle_timeout=1") as location,
        override_settings(CACHES=caches_at(location)),
    ):
        paper = warm()
        client = caches["default"]._cache.clients.copy().popitem()[1]
        wait_for(lambda: is_closed(client.sock))
        save(paper)
        with another_process():
            assert pages()[0] == 2
    assert caplog.records == []


def is_closed(sock):
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    finally:
        sock.setblocking(True)


# Effects of the first of two commands


class Flaky:
    """
    The number of commands with a name that fail after they were carried out.
    """

    failures = {}
    given = []


class FlakyCache(LocMemCache):
    def lose_answer(self, name, data):
        Flaky.given.append((name, data))
        if Flaky.failures.get(name):
            Flaky.failures[name] -= 1
            raise ConnectionResetError

    def add(self, key, *args, **kwargs):
        result = super().add(key, *args, **kwargs)
        self.lose_answer("add", key)
        return result

    def set_many(self, data, *args, **kwargs):
        result = super().set_many(data, *args, **kwargs)
        self.lose_answer("set_many", dict(data))
        return result


@pytest.fixture
def flaky(monkeypatch):
    monkeypatch.setattr(Flaky, "failures", {})
    monkeypatch.setattr(Flaky, "given", [])
    monkeypatch.setattr(
        "getorcreateplus.coherence.transports.django.KEEPS_ORDER", (FlakyCache,)
    )
    name = f"{FlakyCache.__module__}.{FlakyCache.__qualname__}"
    with override_settings(
        CACHES={"default": {"BACKEND": name, "LOCATION": uuid.uuid4().hex}}
    ):
        yield Flaky


def test_release_that_is_given_again_has_new_tokens(flaky):
    """
    Another release may have been between the two, after which the tokens of
    the first one would be those of an older row.
    """
    paper = warm()
    region, pk = region_of(Paper.objects.all()), f"{paper.pk}"
    flaky.given.clear()
    flaky.failures["set_many"] = 1
    region.release(connection, [pk], {pk: "published"})
    [(_, first), (_, second)] = flaky.given
    assert first[region.version_key(pk)] == "published"
    assert region.payload_key(pk) not in first
    assert second[region.payload_key(pk)] is None
    assert second.keys() >= first.keys()
    assert not set(first.values()) & set(second.values())
    assert store().down_until is None


def test_token_whose_answer_was_lost_is_not_added_again(flaky):
    """A release by deletion may have been between the two."""
    paper = warm()
    region, pk = region_of(Paper.objects.all()), f"{paper.pk}"
    caches["default"].delete_many([region.version_key(pk), region.payload_key(pk)])
    flaky.given.clear()
    flaky.failures["add"] = 1
    assert pages() == (1, 1)
    assert flaky.given == [("add", region.version_key(pk))]
    assert store().down_until is None
    assert pages() == (1, 1)
    assert pages() == (1, 0)


def test_lock_is_given_again(flaky):
    paper = warm()
    flaky.failures["set_many"] = 1
    with transaction.atomic():
        save(paper)
        region = region_of(Paper.objects.all())
        assert caches["default"].get(region.version_key(f"{paper.pk}")) == "LOCK"
    assert pages() == (2, 1)
    assert pages() == (2, 0)
