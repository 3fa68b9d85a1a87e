"""
What tests say of the cache.

.. code-block:: python

    from getorcreateplus.test import assert_cache_hits

    with assert_cache_hits(2):
        ...

What its own thread or task does counts, and what takes over its context
(sync_to_async(), asyncio.create_task()).
"""

import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from reprlib import Repr
from types import MethodType, TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from django.core.cache import caches
from django.db.models import Model
from django.test.utils import TestContextDecorator

from .bypassing import concrete_model, everywhere, refuse_generator
from .environment.forks import renew_in_child
from .signals import Reason, Source, cache_hit, cache_miss

__all__ = [
    "CacheAssertions",
    "CaptureCacheCommands",
    "CaptureLookups",
    "Command",
    "Lookup",
    "assert_cache_commands",
    "assert_cache_hits",
    "assert_cache_misses",
    "caching_off",
]

T = TypeVar("T")

# The Captures whose blocks this is in.
capturing: ContextVar[tuple] = ContextVar("getorcreateplus_capturing", default=())
# Whether this is in a command, which may be made of others.
in_command: ContextVar[bool] = ContextVar("getorcreateplus_in_command", default=False)


class Lookup(NamedTuple):
    """What became of a lookup of get_or_create(), or of a row of a batch."""

    model: type[Model]  # the concrete one
    using: str
    lookup: dict[str, Any]  # as the signals tell it
    outcome: Source | Reason  # where the hit came from, or why it was none

    @property
    def is_hit(self) -> bool:
        return isinstance(self.outcome, Source)

    def __str__(self) -> str:
        arguments = ", ".join(f"{k}={short(v)}" for k, v in self.lookup.items())
        on = "" if self.using == "default" else f" on {self.using!r}"
        outcome = "hit" if self.is_hit else "miss"
        label = self.model._meta.label
        return f"{label}({arguments}){on}: {outcome}, {self.outcome}"


class Command(NamedTuple):
    """A command that a cache was given."""

    alias: str
    method: str  # "get_many", or "aget_many"
    keys: list  # as given, without prefix and version

    def __str__(self) -> str:
        return f"{self.alias}: {self.method}({short(self.keys)[1:-1]})"


class Capture(Generic[T]):
    """What happens in a with block, as a list that the block gets."""

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
        """Have what happens told."""

    def stop(self) -> None:
        """The opposite of start()."""

    def complaint(self) -> str | None:
        """Return what to say if it is not what was expected."""
        return None


class CaptureLookups(Capture[Lookup]):
    """
    In a with block, the lookups of all models or of one, as a list of
    (model, using, lookup, outcome).

    The model may be a label ("shop.Tag"). Raise TypeError for what is no
    model, LookupError for an unknown label.
    """

    def __init__(self, model: type[Model] | str | None = None) -> None:
        super().__init__()
        self.model = None if model is None else concrete_model(model)

    def start(self) -> None:
        cache_hit.connect(self.note_hit, weak=False)
        cache_miss.connect(self.note_miss, weak=False)

    def stop(self) -> None:
        cache_hit.disconnect(self.note_hit)
        cache_miss.disconnect(self.note_miss)

    def note_hit(self, sender, using, lookup, source, **kwargs):
        self.note(sender, using, lookup, source)

    def note_miss(self, sender, using, lookup, reason, **kwargs):
        self.note(sender, using, lookup, reason)

    def note(self, model, using, lookup, outcome):
        if self in capturing.get() and self.model in (None, model):
            self.captured.append(Lookup(model, using, dict(lookup), outcome))

    def compare(self, what: str, found: int, expected: int) -> str | None:
        of = "" if self.model is None else f" of {self.model._meta.label}"
        return compare(f"{what}{of}", found, expected, "lookup", self.captured)


class CaptureCacheCommands(Capture[Command]):
    """
    In a with block, the commands that the caches of settings.CACHES are given,
    or the one of this alias, as a list of (alias, method, keys).

    A command that the backend makes of others is one, as get_many() of
    LocMemCache, which calls get(). Of get_or_set() those are told that it is
    made of.

    Raise InvalidCacheBackendError for an unknown alias.
    """

    def __init__(self, alias: str | None = None) -> None:
        super().__init__()
        self.alias = alias

    def start(self) -> None:
        if self.alias is not None:
            caches[self.alias]  # it raises
        taps.open()

    def stop(self) -> None:
        taps.close()

    def note(self, command: Command) -> None:
        if self.alias in (None, command.alias):
            self.captured.append(command)


class assert_cache_hits(CaptureLookups):  # noqa: N801 - it reads as a function
    """
    Assert that the cache answers so many lookups of this with block, of all
    models or of one. The block gets the list of all of its lookups.
    """

    def __init__(self, num: int, model: type[Model] | str | None = None) -> None:
        super().__init__(model)
        self.num = num

    def complaint(self) -> str | None:
        hits = sum(lookup.is_hit for lookup in self.captured)
        return self.compare("Cache hits", hits, self.num)


class assert_cache_misses(CaptureLookups):  # noqa: N801
    """
    Assert that so many lookups of this with block are asked of the database,
    whatever the reason, of all models or of one. The block gets the list of
    all of its lookups.
    """

    def __init__(self, num: int, model: type[Model] | str | None = None) -> None:
        super().__init__(model)
        self.num = num

    def complaint(self) -> str | None:
        misses = sum(not lookup.is_hit for lookup in self.captured)
        return self.compare("Cache misses", misses, self.num)


class assert_cache_commands(CaptureCacheCommands):  # noqa: N801
    """
    Assert that the caches of settings.CACHES, or the one of this alias, are
    given so many commands in this with block, which gets the list of them.
    """

    def __init__(self, num: int, alias: str | None = None) -> None:
        super().__init__(alias)
        self.num = num

    def complaint(self) -> str | None:
        of = "" if self.alias is None else f" of {self.alias!r}"
        found = len(self.captured)
        return compare(f"Cache commands{of}", found, self.num, "command", self.captured)


class CacheAssertions:
    """The assertions as methods of a TestCase, a mixin."""

    def assertCacheHits(  # noqa: N802 - as assertNumQueries()
        self, num: int, model: type[Model] | str | None = None
    ) -> assert_cache_hits:
        return assert_cache_hits(num, model)

    def assertCacheMisses(  # noqa: N802
        self, num: int, model: type[Model] | str | None = None
    ) -> assert_cache_misses:
        return assert_cache_misses(num, model)

    def assertCacheCommands(  # noqa: N802
        self, num: int, alias: str | None = None
    ) -> assert_cache_commands:
        return assert_cache_commands(num, alias)


class caching_off(TestContextDecorator):  # noqa: N801 - as override_settings
    """
    Have all threads of this process ask the database, in a with block, a
    function, or the tests of a TestCase: bypass(), for tests.

    The arguments are models, or labels ("shop.Tag"); none are all models.

    Raise TypeError for what is no model, LookupError for an unknown label.
    """

    def __init__(self, *models: type[Model] | str) -> None:
        super().__init__()
        self.block = frozenset(map(concrete_model, models))

    def enable(self) -> None:
        everywhere.append(self.block)

    def disable(self) -> None:
        everywhere.remove(self.block)

    def decorate_callable(self, func):
        refuse_generator(func, "caching_off")
        return super().decorate_callable(func)


# What an assertion says


class Short(Repr):
    def __init__(self):
        super().__init__()
        self.maxlist = 3
        self.maxstring = self.maxother = 60


short = Short().repr

MOST_LINES = 20


def compare(what, found, expected, word, captured):
    if found == expected:
        return None
    message = f"{what}: {found} instead of {expected}. "
    if not captured:
        return f"{message}There was no {word}."
    lines = [f"{message}The {word}s were:"]
    lines += (f"{i}. {each}" for i, each in enumerate(captured[:MOST_LINES], start=1))
    if len(captured) > MOST_LINES:
        lines.append(f"... and {len(captured) - MOST_LINES} more")
    return "\n".join(lines)


# The commands of a cache, and the name of the argument that has its keys.
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


class Taps:
    """
    Have the cache objects tell of their commands, while somebody captures.

    Not their classes, which know no alias; nor a proxy in caches, for who has
    an object already would keep it.
    """

    def __init__(self):
        self.begin_anew()
        renew_in_child(self)
        self.number = 0  # of those who capture
        self.replaced = []  # (attributes of an object, name, ours, what was there)

    def begin_anew(self):
        self.lock = threading.Lock()

    def open(self):
        with self.lock:
            self.number += 1
            if self.number == 1:
                self.replace(caches, "create_connection", self.create_connection)
        try:
            # Each thread has objects of its own.
            objects = caches._connections  # type: ignore[attr-defined]
            for alias in caches:
                cache = getattr(objects, alias, None)
                if cache is not None:
                    self.tap(alias, cache)
        except BaseException:
            self.close()
            raise

    def close(self):
        with self.lock:
            self.number -= 1
            if self.number:
                return
            while self.replaced:
                attributes, name, ours, before = self.replaced.pop()
                if attributes.get(name) is not ours:
                    continue  # a test has put something else there
                if before is None:
                    del attributes[name]
                else:
                    attributes[name] = before

    def create_connection(self, alias):
        cache = type(caches).create_connection(caches, alias)
        self.tap(alias, cache)
        return cache

    def tap(self, alias, cache):
        attributes = vars(cache)
        with self.lock:
            if not self.number or any(r[0] is attributes for r in self.replaced):
                return
            for name, keys in COMMANDS.items():
                for method, make in ((name, tap), (f"a{name}", async_tap)):
                    if hasattr(cache, method):
                        self.replace(cache, method, make(alias, cache, method, keys))

    def replace(self, owner, name, ours):
        attributes = vars(owner)
        self.replaced.append((attributes, name, ours, attributes.get(name)))
        attributes[name] = ours


taps = Taps()


def tap(alias, cache, name, keys):
    method = method_of(cache, name)

    def command(cache, *args, **kwargs):
        if in_command.get() or not capturing.get():
            return method()(*args, **kwargs)
        args, kwargs = note(alias, name, keys, args, kwargs)
        token = in_command.set(True)
        try:
            return method()(*args, **kwargs)
        finally:
            in_command.reset(token)

    return MethodType(command, cache)  # BaseCache looks at get_many.__func__


def async_tap(alias, cache, name, keys):
    method = method_of(cache, name)

    async def command(cache, *args, **kwargs):
        if in_command.get() or not capturing.get():
            return await method()(*args, **kwargs)
        args, kwargs = note(alias, name, keys, args, kwargs)
        token = in_command.set(True)
        try:
            return await method()(*args, **kwargs)
        finally:
            in_command.reset(token)

    return MethodType(command, cache)


def method_of(cache, name):
    """
    Return a callable that returns the cache's method: the class's, as it is by
    then, for a test may put something else there.
    """
    own = vars(cache).get(name)
    if own is None and not hasattr(type(cache), name):
        own = getattr(cache, name)  # of a backend that delegates to another
    if own is not None:
        return lambda: own
    return lambda: getattr(type(cache), name).__get__(cache)


def note(alias, name, parameter, args, kwargs):
    """
    Tell of a command. Return its arguments, with a list in the place of keys
    that can be iterated over but once.
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
    for capture in capturing.get():
        if isinstance(capture, CaptureCacheCommands):
            capture.note(Command(alias, name, keys))
    return args, kwargs
