"""
LocMemCache, through its own dictionaries: each step takes one lock, keys are
not checked, and values that other code cannot change are not unpickled.

The entries are those of LocMemCache itself, so its own methods find them. A
Capture of getorcreateplus.test, or another tool, replaces methods of the cache
object: then the steps call these methods.
"""

import pickle
import sys
from time import time
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import default_key_func
from django.core.cache.backends.locmem import LocMemCache

from ...environment.cache_keys import cache_of, keys_of, made_again
from ...lookups.rows import IMMUTABLE_TYPES, PARTS
from ..faults import LookFailed
from .django import DjangoTransport, methods_of

METHODS = methods_of(LocMemCache)


class LocMemTransport(DjangoTransport):
    """The steps of the protocol in the memory of this process."""

    name = "locmem"
    is_in_process = True

    def store(self):
        """Return the cache, None if its own methods are to be called."""
        cache = cache_of(self.alias)
        return cache if METHODS.isdisjoint(vars(cache)) else None

    def look(self, keys):
        # The same as store() and keys_of(), which are more calls for each hit.
        cache = caches[self.alias]
        if made_again.by_alias:
            cache = cache_of(self.alias)
        if not METHODS.isdisjoint(vars(cache)):
            return super().look(keys)
        start = None  # prefix of each key, if it is Django's
        if cache.key_func is default_key_func:
            start = f"{cache.key_prefix}:{cache.version}:"
        found, pickled, now = {}, {}, time()
        entries, ends = cache._cache, cache._expire_info
        with cache._lock:
            for key in keys:
                name = cache.make_key(key) if start is None else start + key
                end = ends.get(name, 0)
                if end is None or end > now:
                    entry = entries[name]
                    if type(entry) is Entry:
                        found[key] = entry.value
                    else:
                        pickled[key] = entry
                    entries.move_to_end(name, last=False)
                elif end:
                    cache._delete(name)
        if pickled:
            found |= {key: pickle.loads(entry) for key, entry in pickled.items()}
        return found

    def observe(self, fresh, timeouts):
        cache = self.store()
        if cache is None:
            return super().observe(fresh, timeouts)
        for key, token in fresh.items():
            self.add(key, token, timeouts[key])
        return self.look(fresh)

    def vouch(self, fresh, timeout, clock_key, max_added):
        cache = self.store()
        if cache is None:
            return super().vouch(fresh, timeout, clock_key, max_added)
        for key, token in fresh.items():
            self.add(key, token, timeout)
        found = self.look([*fresh, clock_key])
        return found, found.pop(clock_key, None)

    @property
    def is_one_step(self):
        return self.store() is not None

    def vouch_and_fill(self, key, token, timeout, clock_key, clock, entries):
        cache = self.store()
        if cache is None:
            return super().vouch_and_fill(
                key, token, timeout, clock_key, clock, entries
            )
        own, *values = [
            entry_of(value, cache.pickle_protocol)
            for value in (token, *entries.values())
        ]
        version_key, clock_key, *keys = keys_of(cache, [key, clock_key, *entries])
        end, is_filled = cache.get_backend_timeout(timeout), False
        with cache._lock:
            if cache._has_expired(version_key):
                put(cache, version_key, own, end)
            version = cache._cache[version_key]
            now: Any = None
            if not cache._has_expired(clock_key):
                now = cache._cache[clock_key]
            # If there is another version, vouch() and fill() do it.
            if version is own and type(now) is Entry and now.value == clock:
                for each, value in zip(keys, values, strict=True):
                    put(cache, each, value, end)
                is_filled = True
        try:
            # Without the lock, because unpickling may run code that uses the
            # cache.
            return value_of(version), None if now is None else value_of(now), is_filled
        except Exception as error:
            raise LookFailed from error

    def add(self, key, token, timeout):
        cache = self.store()
        if cache is None:
            return super().add(key, token, timeout)
        [made] = keys_of(cache, [key])
        with cache._lock:
            if is_new := cache._has_expired(made):
                cache._set(made, entry_of(token, cache.pickle_protocol), timeout)
        return is_new

    def release(self, steps, timeout):
        if self.store() is None:
            return super().release(steps, timeout)
        entries = {key: value for step in steps for key, value in step.items()}
        return self._set("release", entries, timeout)

    def _set(self, name, entries, timeout):
        cache = self.store()
        if cache is None:
            return super()._set(name, entries, timeout)
        protocol, end = cache.pickle_protocol, cache.get_backend_timeout(timeout)
        values = [entry_of(value, protocol) for value in entries.values()]
        with cache._lock:
            for made, value in zip(keys_of(cache, entries), values, strict=True):
                put(cache, made, value, end)
        return []


def put(cache, made, entry, end):
    """
    Do the same as LocMemCache._set(), for several entries with the same
    timeout.
    """
    if len(cache._cache) >= cache._max_entries:
        cache._cull()
    cache._cache[made] = entry
    cache._cache.move_to_end(made, last=False)
    cache._expire_info[made] = end


class PickledEntry(bytes):
    """A pickled value. Its attribute ``value`` is the value itself."""

    value: Any

    def __new__(cls, value, protocol):
        entry = super().__new__(cls, pickle.dumps(value, protocol))
        entry.value = value
        return entry


class LateEntry:
    """
    A value that is pickled only when LocMemCache's own methods unpickle it,
    because pickle takes time for the dates and decimals of a payload.
    """

    __slots__ = ("protocol", "value")

    def __init__(self, value, protocol):
        self.value = value
        self.protocol = protocol

    def __buffer__(self, flags):
        return memoryview(pickle.dumps(self.value, self.protocol))


# Python 3.11 accepts no buffer from such a class.
Entry: Any = LateEntry if sys.version_info >= (3, 12) else PickledEntry


def entry_of(value, protocol):
    if type(value) is str or (
        type(value) is tuple
        and len(value) == PARTS
        and IMMUTABLE_TYPES.issuperset(map(type, value[2]))
    ):
        return Entry(value, protocol)
    return pickle.dumps(value, protocol)


def value_of(entry):
    return entry.value if type(entry) is Entry else pickle.loads(entry)
