"""
Assertions about the cache, for a project's tests.

.. code-block:: python

    from getorcreateplus.test import assert_cache_hits

    with assert_cache_hits(2):
        ...

A block counts the lookups and commands of its own thread or task, and of those
that copy its context: sync_to_async(), asyncio.create_task().
"""

from typing import Any, NamedTuple

from django.core.cache import caches
from django.db.models import Model
from django.test.utils import TestContextDecorator

from .bypassing import concrete_model, everywhere, refuse_generator
from .diagnosis.capturing import Capture, Command, capturing, command_spy, short
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


class Lookup(NamedTuple):
    """A lookup of get_or_create(), or of a row of a batch, and its outcome."""

    model: type[Model]  # the concrete model
    using: str
    lookup: dict[str, Any]  # as the signals send it
    outcome: Source | Reason  # where the hit came from, or why it was a miss

    @property
    def is_hit(self) -> bool:
        return isinstance(self.outcome, Source)

    def __str__(self) -> str:
        arguments = ", ".join(f"{k}={short(v)}" for k, v in self.lookup.items())
        on = "" if self.using == "default" else f" on {self.using!r}"
        outcome = "hit" if self.is_hit else "miss"
        label = self.model._meta.label
        return f"{label}({arguments}){on}: {outcome}, {self.outcome}"


class CaptureLookups(Capture[Lookup]):
    """
    Capture the lookups in a with block, of all models or of one, as a list of
    (model, using, lookup, outcome).

    The model may be a label ("shop.Tag"). Raise TypeError for anything else,
    LookupError for an unknown label.
    """

    def __init__(self, model: type[Model] | str | None = None) -> None:
        super().__init__()
        self.model = None if model is None else concrete_model(model)

    def start(self) -> None:
        cache_hit.connect(self._record_hit, weak=False)
        cache_miss.connect(self._record_miss, weak=False)

    def stop(self) -> None:
        cache_hit.disconnect(self._record_hit)
        cache_miss.disconnect(self._record_miss)

    def _record_hit(self, sender, using, lookup, source, **kwargs):
        self._record(sender, using, lookup, source)

    def _record_miss(self, sender, using, lookup, reason, **kwargs):
        self._record(sender, using, lookup, reason)

    def _record(self, model, using, lookup, outcome):
        if self in capturing.get() and self.model in (None, model):
            self.captured.append(Lookup(model, using, dict(lookup), outcome))

    def compare(self, what: str, found: int, expected: int) -> str | None:
        of = "" if self.model is None else f" of {self.model._meta.label}"
        return compare(f"{what}{of}", found, expected, "lookup", self.captured)


class CaptureCacheCommands(Capture[Command]):
    """
    Capture the commands that a with block sends to the caches of
    settings.CACHES, or to the cache of this alias, as a list of (alias,
    method, keys).

    If the backend calls other commands to carry out a command, such as
    get_many() of LocMemCache, which calls get(), only the first one counts.
    But get_or_set() does not count; the commands that it calls do.

    Raise InvalidCacheBackendError for an unknown alias.
    """

    def __init__(self, alias: str | None = None) -> None:
        super().__init__()
        self.alias = alias

    def start(self) -> None:
        if self.alias is not None:
            caches[self.alias]  # raises for an unknown alias
        command_spy.open()

    def stop(self) -> None:
        command_spy.close()

    def record_command(self, command: Command) -> None:
        if self.alias in (None, command.alias):
            self.captured.append(command)


class assert_cache_hits(CaptureLookups):  # noqa: N801 - it reads as a function
    """
    Assert that the cache answers this number of lookups in a with block, for
    all models or for one. The block gets the list of all its lookups.
    """

    def __init__(self, num: int, model: type[Model] | str | None = None) -> None:
        super().__init__(model)
        self.num = num

    def complaint(self) -> str | None:
        hits = sum(lookup.is_hit for lookup in self.captured)
        return self.compare("Cache hits", hits, self.num)


class assert_cache_misses(CaptureLookups):  # noqa: N801
    """
    Assert that this number of lookups in a with block query the database, for
    any reason, for all models or for one. The block gets the list of all its
    lookups.
    """

    def __init__(self, num: int, model: type[Model] | str | None = None) -> None:
        super().__init__(model)
        self.num = num

    def complaint(self) -> str | None:
        misses = sum(not lookup.is_hit for lookup in self.captured)
        return self.compare("Cache misses", misses, self.num)


class assert_cache_commands(CaptureCacheCommands):  # noqa: N801
    """
    Assert that a with block sends this number of commands to the caches of
    settings.CACHES, or to the cache of this alias. The block gets the list of
    them.
    """

    def __init__(self, num: int, alias: str | None = None) -> None:
        super().__init__(alias)
        self.num = num

    def complaint(self) -> str | None:
        of = "" if self.alias is None else f" of {self.alias!r}"
        found = len(self.captured)
        return compare(f"Cache commands{of}", found, self.num, "command", self.captured)


class CacheAssertions:
    """A mixin that adds the assertions to a TestCase, as methods."""

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
    Make all threads of this process query the database, in a with block, a
    function, or the tests of a TestCase. It is bypass() for tests.

    The arguments are models, or labels ("shop.Tag"). Without an argument it
    applies to all models. Raise TypeError for anything else, LookupError for
    an unknown label.
    """

    def __init__(self, *models: type[Model] | str) -> None:
        super().__init__()
        self.block = frozenset(map(concrete_model, models))

    def enable(self) -> None:
        everywhere.append(self.block)

    def disable(self) -> None:
        everywhere.remove(self.block)

    def decorate_callable(self, func: Any) -> Any:
        refuse_generator(func, "caching_off")
        return super().decorate_callable(func)


# Messages of the assertions


MAX_LINES = 20


def compare(what, found, expected, word, captured):
    if found == expected:
        return None
    message = f"{what}: {found} instead of {expected}. "
    if not captured:
        return f"{message}There was no {word}."
    lines = [f"{message}The {word}s were:"]
    lines += (f"{i}. {each}" for i, each in enumerate(captured[:MAX_LINES], start=1))
    if len(captured) > MAX_LINES:
        lines.append(f"... and {len(captured) - MAX_LINES} more")
    return "\n".join(lines)
