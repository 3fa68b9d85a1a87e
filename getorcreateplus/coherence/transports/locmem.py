"""
LocMemCache, in its own dictionaries: each step under one lock, no key checked,
and no value unpickled that nobody can change.

The entries are those that LocMemCache keeps itself, so that its own methods
find them. A Capture of getorcreateplus.test, or another tool, replaces methods
of the cache object: then the steps are done by these.
"""

import pickle
import sys
from time import time
from typing import Any

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache, default_key_func
from django.core.cache.backends.locmem import LocMemCache

from ...environment.cache_keys import cache_of, keys_of, made_again
from ...lookups.rows import IMMUTABLE_TYPES, PARTS
from .django import DjangoTransport

# A tool that replaces one of these on a cache object wants to see commands.
METHODS = frozenset(
    name for cls in (BaseCache, LocMemCache) for name in vars(cls) if name[0] != "_"
) - {"key_func", "key_prefix", "pickle_protocol", "version"}


class LocMemTransport(DjangoTransport):
    """The steps of the protocol in the memory of this process."""

    name = "locmem"

    def store(self):
        """Return the cache, None if its own methods are to be called."""
        cache = cache_of(self.alias)
        return cache if METHODS.isdisjoint(vars(cache)) else None

    def look(self, keys):
        # As store() and keys_of(), which are calls more for each hit.
        cache = caches[self.alias]
        if made_again.by_alias:
            cache = cache_of(self.alias)
        if not METHODS.isdisjoint(vars(cache)):
            return super().look(keys)
        start = None  # of each key, if it is Django's
        if cache.key_func is default_key_func:
            start = f"{cache.key_prefix}:{cache.version}:"
        found, now = {}, time()
        entries, ends = cache._cache, cache._expire_info
        with cache._lock:
            for key in keys:
                name = cache.make_key(key) if start is None else start + key
                end = ends.get(name, 0)
                if end is None or end > now:
                    found[key] = entries[name]
                    entries.move_to_end(name, last=False)
                elif end:
                    cache._delete(name)
        for key, entry in found.items():
            found[key] = entry.value if type(entry) is Entry else pickle.loads(entry)
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
        protocol = cache.pickle_protocol
        values = [entry_of(value, protocol) for value in entries.values()]
        with cache._lock:
            for made, value in zip(keys_of(cache, entries), values, strict=True):
                cache._set(made, value, timeout)
        return []


class PickledEntry(bytes):
    """A pickled value. Its attribute ``value`` is the value itself."""

    value: Any

    def __new__(cls, value, protocol):
        entry = super().__new__(cls, pickle.dumps(value, protocol))
        entry.value = value
        return entry


class LateEntry:
    """
    A value that is pickled when LocMemCache's own methods unpickle it: only
    then does a payload cost what pickle takes for its dates and decimals.
    """

    __slots__ = ("protocol", "value")

    def __init__(self, value, protocol):
        self.value = value
        self.protocol = protocol

    def __buffer__(self, flags):
        return memoryview(pickle.dumps(self.value, self.protocol))


# Python 3.11 takes no buffer from a class like that.
Entry: Any = LateEntry if sys.version_info >= (3, 12) else PickledEntry


def entry_of(value, protocol):
    if type(value) is str or (
        type(value) is tuple
        and len(value) == PARTS
        and IMMUTABLE_TYPES.issuperset(map(type, value[2]))
    ):
        return Entry(value, protocol)
    return pickle.dumps(value, protocol)
