"""
The base class of the context managers in getorcreateplus.test, and the spy
that records the commands of Django's caches.
"""

import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from reprlib import Repr
from types import MethodType, TracebackType
from typing import Generic, NamedTuple, TypeVar

from django.core.cache import caches

from ..environment.cache_commands import listeners
from ..environment.forks import renew_in_child

T = TypeVar("T")

# The Captures in whose with blocks this thread or task is.
capturing: ContextVar[tuple] = ContextVar("getorcreateplus_capturing", default=())
# True inside a command, because a backend may carry it out by others.
in_command: ContextVar[bool] = ContextVar("getorcreateplus_in_command", default=False)


class Capture(Generic[T]):
    """Capture what happens in a with block, in a list that the block gets."""

    def __init__(self) -> None:
        self.captured: list[T] = []

    def __enter__(self) -> list[T]:
        self.captured = []
        self.start()
        capturing.set((*capturing.get(), self))
        return self.captured

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True  # pytest shows the test's line
        capturing.set(tuple(each for each in capturing.get() if each is not self))
        self.stop()
        if exc_type is None and (complaint := self.complaint()):
            raise AssertionError(complaint)

    def start(self) -> None:
        """Start capturing."""

    def stop(self) -> None:
        """Stop capturing."""

    def record_command(self, command: "Command") -> None:
        """Capture a command that was sent to a cache."""

    def complaint(self) -> str | None:
        """Return a message if the block did not do what was expected."""
        return None


class Command(NamedTuple):
    """A command that was sent to a cache."""

    alias: str
    method: str  # "get_many", or "aget_many"
    keys: list  # as given, without prefix and version

    def __str__(self) -> str:
        return f"{self.alias}: {self.method}({short(self.keys)[1:-1]})"


class Short(Repr):
    def __init__(self):
        super().__init__()
        self.maxlist = 3
        self.maxstring = self.maxother = 60


short = Short().repr


# Each command of a cache, and the name of the argument that has its keys.
COMMANDS = {
    "add": "key",
    "clear": None,
    "decr": "key",
    "decr_version": "key",
    "delete": "key",
    "delete_many": "keys",
    "get": "key",
    "get_many": "keys",
    "has_key": "key",
    "incr": "key",
    "incr_version": "key",
    "set": "key",
    "set_many": "data",
    "touch": "key",
}


class CommandSpy:
    """
    Replaces the commands of the cache objects while a Capture is open, so that
    each command is recorded.

    It replaces them on the objects: their classes have no alias, and a proxy
    in ``caches`` would miss code that holds an object already.
    """

    def __init__(self):
        self.begin_anew()
        renew_in_child(self)
        self.open_captures = 0
        self.replaced = []  # (attributes of an object, name, ours, the former value)

    def begin_anew(self):
        self.lock = threading.Lock()

    def open(self):
        with self.lock:
            self.open_captures += 1
            if self.open_captures == 1:
                self._replace(caches, "create_connection", self._create_connection)
                listeners.append(report)
        try:
            # Each thread has its own objects.
            objects = caches._connections  # type: ignore[attr-defined]
            for alias in caches:
                cache = getattr(objects, alias, None)
                if cache is not None:
                    self._spy_on(alias, cache)
        except BaseException:
            self.close()
            raise

    def close(self):
        with self.lock:
            self.open_captures -= 1
            if self.open_captures:
                return
            listeners.remove(report)
            while self.replaced:
                attributes, name, ours, before = self.replaced.pop()
                if attributes.get(name) is not ours:
                    continue  # a test has put something else there
                if before is None:
                    del attributes[name]
                else:
                    attributes[name] = before

    def _create_connection(self, alias):
        cache = type(caches).create_connection(caches, alias)
        self._spy_on(alias, cache)
        return cache

    def _spy_on(self, alias, cache):
        attributes = vars(cache)
        with self.lock:
            if not self.open_captures or any(r[0] is attributes for r in self.replaced):
                return
            for name, keys in COMMANDS.items():
                for method, make in ((name, spied), (f"a{name}", async_spied)):
                    if hasattr(cache, method):
                        self._replace(cache, method, make(alias, cache, method, keys))

    def _replace(self, owner, name, ours):
        attributes = vars(owner)
        self.replaced.append((attributes, name, ours, attributes.get(name)))
        attributes[name] = ours


command_spy = CommandSpy()


def spied(alias, cache, name, keys):
    method = method_of(cache, name)

    def command(cache, *args, **kwargs):
        if in_command.get() or not capturing.get():
            return method()(*args, **kwargs)
        args, kwargs = record(alias, name, keys, args, kwargs)
        token = in_command.set(True)
        try:
            return method()(*args, **kwargs)
        finally:
            in_command.reset(token)

    return MethodType(command, cache)  # BaseCache reads get_many.__func__


def async_spied(alias, cache, name, keys):
    method = method_of(cache, name)

    async def command(cache, *args, **kwargs):
        if in_command.get() or not capturing.get():
            return await method()(*args, **kwargs)
        args, kwargs = record(alias, name, keys, args, kwargs)
        token = in_command.set(True)
        try:
            return await method()(*args, **kwargs)
        finally:
            in_command.reset(token)

    return MethodType(command, cache)


def method_of(cache, name):
    """
    Return a callable that returns the cache's method. It looks up the class's
    method at each call, because a test may have replaced it.
    """
    own = vars(cache).get(name)
    if own is None and not hasattr(type(cache), name):
        own = getattr(cache, name)  # a backend that delegates to another one
    if own is not None:
        return lambda: own
    return lambda: getattr(type(cache), name).__get__(cache)


def record(alias, name, parameter, args, kwargs):
    """
    Record a command. Return its arguments, with a list in place of keys that
    can be iterated over only once.
    """
    args = list(args)
    place, where = (kwargs, parameter) if parameter in kwargs else (args, 0)
    try:
        keys = place[where]
    except LookupError:  # clear(), or a TypeError to come
        keys = []
    else:
        if isinstance(keys, Iterator):
            keys = place[where] = list(keys)
        many = parameter != "key" and isinstance(keys, Iterable)
        keys = list(keys) if many else [keys]
    report(alias, name, keys)
    return args, kwargs


def report(alias, name, keys):
    for capture in capturing.get():
        capture.record_command(Command(alias, name, keys))
