"""
The keys under which a cache stores its entries. They may change while the
process runs.

Tenants change what a cache's KEY_FUNCTION returns, its KEY_PREFIX or its
VERSION. The memory of the process is separated in the same way as the cache.
"""

import copy
import threading
from contextlib import contextmanager, nullcontext, suppress

from cachetools import LRUCache
from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.base import BaseCache, default_key_func

from .forks import renew_in_child

# It has all characters of the package's keys, and more: a KEY_FUNCTION that
# changes one of these characters changes keys.
PROBE = "getorcreateplus@#!: Probe/%\u00e4"
# Keys that are remembered, if a KEY_FUNCTION cannot make them again.
MAX_REMEMBERED_KEYS = 100_000


def key_identity(cache):
    """
    Return a value that differs between the keys that a cache makes now and
    those that it makes for another tenant.
    """
    if cache.key_func is default_key_func and type(cache).make_key is (
        BaseCache.make_key
    ):
        return cache.key_prefix, cache.version
    return str(cache.make_key(PROBE))


def makes_plain_keys(cache):
    """Return True if only Django's code makes the keys of a cache."""
    return cache.key_func is default_key_func and type(cache).make_key is (
        BaseCache.make_key
    )


def keys_of(cache, keys):
    """Return the keys on the server that a cache makes from these keys."""
    if cache.key_func is default_key_func and type(cache).make_key is (
        BaseCache.make_key
    ):
        # The same as make_key(), which is two calls for each key.
        start = f"{cache.key_prefix}:{cache.version}:"
        return [start + key for key in keys]
    return list(map(cache.make_key, keys))


def cache_of(alias):
    """Return the cache of an alias, which makes the keys of again()."""
    cache = caches[alias]
    maker = made_again.by_alias.get(alias)
    return cache if maker is None else maker.copy_of(cache)


def copy_key_settings(cache, successor):
    """Copy the settings of a cache's keys to its successor."""
    for name in ("key_func", "key_prefix", "make_key", "version"):
        if name in vars(cache):
            setattr(successor, name, vars(cache)[name])


class KeyMaker:
    """
    The keys that a cache makes at one moment, to make them again later.

    A transaction may end, and a debt may be paid, when another tenant is the
    current one.
    """

    def __init__(self, alias):
        cache = caches[alias]
        self.alias = alias
        self.identity = key_identity(cache)
        before, found, after = str(cache.make_key(PROBE)).partition(PROBE)
        self.affixes = before, after
        # A function that hashes the key works only for the current tenant.
        self.are_lost_later = not found
        self.made = LRUCache(MAX_REMEMBERED_KEYS if self.are_lost_later else 0)
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self):
        self.lock = threading.RLock()
        made, self.made = self.made, LRUCache(self.made.maxsize)
        with suppress(KeyError):  # of a key that was being deleted
            self.made.update(made)

    def is_current(self):
        """Return True if the cache makes these keys now."""
        try:
            return key_identity(caches[self.alias]) == self.identity
        except InvalidCacheBackendError:
            return True  # there is no cache to make keys

    def remember(self, keys):
        """Remember these keys, which cannot be made again later."""
        cache = caches[self.alias]
        made = {key: cache.make_key(key) for key in keys}
        with self.lock:
            try:
                self.made.update(made)
            except BaseException as error:
                # The same as in Memory.changing().
                self.made = LRUCache(self.made.maxsize)
                if type(error) is not KeyError:
                    raise
                self.made.update(made)

    def are_known(self, keys):
        """Return True if all of these keys can be made again."""
        if not self.are_lost_later:
            return True
        with self.lock:
            return all(key in self.made for key in keys)

    def make(self, key):
        if self.are_lost_later:
            with self.lock:
                return self.made.get(key, key)
        before, after = self.affixes
        return f"{before}{key}{after}"

    def again(self):
        """Make cache_of() make these keys in a block, in this thread."""
        return nullcontext() if self.is_current() else self._again()

    @contextmanager
    def _again(self):
        outer = made_again.by_alias
        made_again.by_alias = {**outer, self.alias: self}
        try:
            yield
        finally:
            made_again.by_alias = outer

    def copy_of(self, cache):
        """
        Return a copy of a cache that makes these keys.

        Not the cache itself, because threads of an ASGI server may share it
        while each serves another tenant.
        """
        for name in ("_cache", "client"):
            getattr(cache, name, None)  # otherwise the copy would make its own client
        copied = copy.copy(cache)
        copied.key_func = lambda key, prefix, version: self.make(key)
        if type(cache).make_key is not BaseCache.make_key:
            setattr(copied, "make_key", lambda key, version=None: self.make(key))  # noqa: B010
        return copied


class MadeAgain(threading.local):
    """The KeyMakers whose keys a thread's caches are to make."""

    def __init__(self):
        self.by_alias = {}


made_again = MadeAgain()
