"""The exception of a time limit does not count as a cache failure."""

import ctypes
import functools
import signal
import socket
import threading
import uuid
from contextlib import contextmanager, suppress

import pytest
from cachetools import Cache, LRUCache
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.dispatch import receiver
from django.test import override_settings

from getorcreateplus.coherence import clients
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.environment import interruptions
from getorcreateplus.environment.cache_keys import KeyMaker
from getorcreateplus.lookups.rows import private_copy
from getorcreateplus.signals import cache_hit

from ..models import Paper
from ..support.papers import pages, save, store, warm

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


class Limit(Exception):
    """Like SoftTimeLimitExceeded of Celery, and JobTimeoutException of RQ."""


class Refused(Limit, ConnectionError):
    """A client may treat it as a failure, too."""


class Garbled(Limit, ValueError):
    """An exception of unpickling."""


class Late(Limit, TimeoutError):
    """The class that many projects use."""


class ClientError(Exception):
    pass


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 1000)


# Handlers, as a project writes them


def by_argument(kind):
    def handler(number, frame):
        raise kind

    return handler


def by_method(kind):
    class Guard:
        def handle(self, number, frame):
            raise kind

    return Guard().handle


def by_object(kind):
    class Guard:
        def __call__(self, *args):
            raise kind

    return Guard()


def by_partial(kind):
    def handler(kind, *args):
        raise kind

    return functools.partial(handler, kind)


def by_deleted_arguments(kind):
    def handler(number, frame):
        del number, frame
        raise kind

    return handler


def by_a_walk_up_the_stack(kind):
    def handler(number, frame):
        while frame is not None:
            frame = frame.f_back
        raise kind

    return handler


def by_another_function(kind):
    def strike():
        raise kind

    return lambda number, frame: strike()


HANDLERS = [
    by_argument,
    by_method,
    by_object,
    by_partial,
    by_deleted_arguments,
    by_a_walk_up_the_stack,
    by_another_function,
]


@contextmanager
def handled_by(handler):
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class StruckCache(LocMemCache):
    """A signal arrives during one of its commands."""

    command, does = None, staticmethod(lambda: None)

    def strike(self, name):
        if name == StruckCache.command:
            StruckCache.command = None
            StruckCache.does()

    def get_many(self, *args, **kwargs):
        self.strike("get_many")
        return super().get_many(*args, **kwargs)

    def set_many(self, *args, **kwargs):
        self.strike("set_many")
        return super().set_many(*args, **kwargs)

    def add(self, *args, **kwargs):
        self.strike("add")
        return super().add(*args, **kwargs)

    def delete_many(self, *args, **kwargs):
        self.strike("delete_many")
        return super().delete_many(*args, **kwargs)

    def close(self, **kwargs):
        self.strike("close")


@pytest.fixture
def struck(monkeypatch):
    monkeypatch.setattr(StruckCache, "command", None)
    monkeypatch.setattr(StruckCache, "does", None)
    name = f"{StruckCache.__module__}.{StruckCache.__qualname__}"
    config = {"BACKEND": name, "LOCATION": uuid.uuid4().hex}
    with override_settings(CACHES={"default": config}):
        yield StruckCache


def alarm():
    signal.raise_signal(signal.SIGALRM)


def alarm_that_is_wrapped():
    """Like redis-py, which turns an OSError into its own error."""
    try:
        alarm()
    except Exception as error:
        raise ClientError from error


def alarm_that_is_hidden():
    with suppress(OSError):
        raise OSError
    try:
        alarm()
    except Exception:
        raise ClientError from None


@pytest.mark.parametrize("make", HANDLERS)
@pytest.mark.parametrize("kind", [Limit, Refused, Garbled, Late])
@pytest.mark.parametrize("does", [alarm, alarm_that_is_wrapped, alarm_that_is_hidden])
def test_exception_of_a_handler(make, kind, does, struck):
    warm()
    struck.command, struck.does = "get_many", does
    with handled_by(make(kind)), pytest.raises(kind):
        pages()
    assert store().down_until is None
    assert pages() == (1, 0)


@pytest.mark.parametrize("command", ["get_many", "set_many", "add"])
def test_exception_of_a_handler_in_each_command(command, struck):
    struck.command, struck.does = command, alarm
    with handled_by(by_argument(Limit)), pytest.raises(Limit):
        for _ in range(3):
            Paper.objects.get_or_create(title="a")
    assert store().down_until is None


def test_release_that_a_time_limit_interrupts_is_owed(struck):
    paper = warm()

    def does():  # The first one is LOCK.
        struck.command, struck.does = "set_many", alarm

    struck.command, struck.does = "set_many", does
    with handled_by(by_argument(Limit)), pytest.raises(Limit):
        save(paper)
    assert list(store().debts.releases.values()) == [{f"{paper.pk}"}]
    assert pages() == (2, 1)
    assert pages() == (2, 0)


def test_new_connection_that_a_time_limit_interrupts(struck):
    warm()
    before = caches["default"]
    struck.command, struck.does = "close", alarm
    with handled_by(by_argument(Limit)), pytest.raises(Limit):
        store().reconnect()
    assert caches["default"] is not before


def test_known_time_limit_of_another_thread(struck, monkeypatch):
    """RQ's limit without SIGALRM: no frame of a handler shows it."""
    known = {(Limit.__module__, Limit.__qualname__)}
    monkeypatch.setattr(interruptions, "KNOWN_LIMITS", known)
    warm()

    def does():
        thread = ctypes.c_ulong(threading.get_ident())
        ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Late))
        for _ in range(100):
            pass

    struck.command, struck.does = "get_many", does
    with pytest.raises(Late):
        pages()
    assert store().down_until is None


@pytest.mark.parametrize("kind", [ClientError, OSError, TimeoutError])
def test_failure_after_a_time_limit_is_a_failure(kind, struck):
    """The code that cleans up after the limit uses a cache that is gone."""
    warm()

    def does():
        struck.command = "get_many"  # again
        raise kind

    with handled_by(by_argument(Limit)):
        try:
            alarm()
        except Limit:
            struck.command, struck.does = "get_many", does
            assert pages() == (1, 1)
    assert store().down_until is not None


def test_function_of_a_client_that_gets_a_frame_of_its_own(struck):
    """It is not a handler, because that frame did not call it."""
    warm()

    def fail(frame):
        struck.command = "get_many"
        raise ClientError

    struck.command, struck.does = "get_many", lambda: fail(OTHER_FRAME)
    assert pages() == (1, 1)


def make_frame():
    try:
        raise ClientError
    except ClientError as error:
        return error.__traceback__.tb_frame


OTHER_FRAME = make_frame()


def test_errors_in_a_circle():
    """Like `raise first from second`, where second was caused by first."""
    first, second = ClientError(), OSError()
    first.__cause__, second.__context__ = second, first
    assert interruptions.chain_of(first) == [first, second]
    assert interruptions.limit_of(first) is None


def test_error_that_is_raised_over_and_over(struck):
    """
    It has the frames of each time it was raised, and the latest ones count.
    """
    error = ClientError()
    for _ in range(10_000):
        try:
            raise error
        except ClientError:
            pass
    assert not interruptions.is_from_handler(error)

    def handler(number, frame):
        raise error

    with handled_by(handler), pytest.raises(ClientError):
        struck.command, struck.does = "get_many", alarm
        pages()


def test_key_function_that_a_time_limit_interrupts(monkeypatch):
    warm()
    does = [alarm]

    def key_function(key, prefix, version):
        if does:
            does.pop()()
        return f"{prefix}:{version}:{key}"

    monkeypatch.setattr(caches["paper"], "key_func", key_function)
    with handled_by(by_argument(Limit)), pytest.raises(Limit):
        pages()


def test_receiver_that_a_time_limit_interrupts():
    """Django's send_robust() keeps what a receiver raises."""
    warm()

    @receiver(cache_hit)
    def strike(**kwargs):
        alarm()

    try:
        with handled_by(by_argument(Limit)), pytest.raises(Limit):
            pages()
    finally:
        cache_hit.disconnect(strike)


def test_receiver_that_fails_does_no_harm():
    warm()

    @receiver(cache_hit)
    def fail(**kwargs):
        raise ClientError

    try:
        assert pages() == (1, 0)
    finally:
        cache_hit.disconnect(fail)


class Slow:
    def __reduce__(self):
        alarm()
        return Slow, ()


def test_value_whose_pickling_a_time_limit_interrupts():
    with handled_by(by_argument(Limit)), pytest.raises(Limit):
        private_copy([Slow()])


# A server that does not answer


@pytest.fixture
def deaf_server():
    """It accepts connections, and sends nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", [Limit, Late])
@pytest.mark.parametrize("client", ["redis", "memcached"])
def test_server_that_does_not_answer(kind, client, deaf_server):
    name, location = "memcached.PyMemcacheCache", deaf_server
    if client == "redis":
        name, location = "redis.RedisCache", f"redis://{deaf_server}/0"
    config = {
        "BACKEND": f"django.core.cache.backends.{name}",
        "LOCATION": location,
        "OPTIONS": {},
    }
    if client == "redis":
        # Otherwise it would treat Late as its own TimeoutError, and try again.
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        config["OPTIONS"]["retry"] = Retry(NoBackoff(), 0)
        config["OPTIONS"]["socket_timeout"] = None
    with (
        override_settings(CACHES={"default": config}),
        handled_by(by_argument(kind)),
        pytest.raises(kind),
    ):
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        Paper.objects.get_or_create(title="a")
    assert clients.by_alias["default"].down_until is None


# The memory of a process


class Struck(LRUCache):
    """A signal arrives when one half of its oldest entry is removed."""

    def __delitem__(self, key):
        Cache.__delitem__(self, key)
        alarm()
        super().__delitem__(key)


class Looking(LRUCache):
    """A signal arrives each time that an entry is read."""

    def __getitem__(self, key):
        alarm()
        return super().__getitem__(key)


@pytest.fixture
def remembered(monkeypatch):
    def replace(cls):
        monkeypatch.setitem(memory.hints.__dict__, "entries", cls(2))

    return replace


def test_hint_that_is_dropped_by_half(remembered):
    remembered(Struck)
    with handled_by(by_argument(Limit)), pytest.raises(Limit):
        for title in "abc":
            pages(title=title)
    for title in "abcdef":
        pages(title=title)
        assert pages(title=title) == (0, 0)


def test_keys_that_are_dropped_by_half(monkeypatch):
    keys = KeyMaker("default")
    monkeypatch.setattr(keys, "made", Struck(2))
    with handled_by(by_argument(Limit)), pytest.raises(Limit):
        keys.remember(["a", "b", "c"])
    keys.remember(["d", "e", "f"])
    assert keys.are_known(["e", "f"])


def test_handler_that_asks_meanwhile(remembered):
    """The thread that it interrupts holds the lock."""
    asked = []

    def ask(number, frame):
        if not asked:
            asked.append(True)
            asked.append(pages(title="b"))

    def read():
        remembered(Looking)
        return pages()

    warm()
    with handled_by(ask):
        assert read()[0] == 1
    assert len(asked) == 2
