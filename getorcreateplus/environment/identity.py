"""
Which database a connection shows, and under which keys a cache keeps its
entries: both may change while the process runs.

Tests change the NAME of a database, and so do projects that choose a database
per request. Tenants change what a cache's KEY_FUNCTION returns, its KEY_PREFIX
or its VERSION. The package keeps rows in its memory as well: what it keeps
there is told apart by the same identity as in the cache.
"""

import copy
import functools
import os
import secrets
import sys
import threading
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cachetools import LRUCache
from django.conf import settings
from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.base import BaseCache, default_key_func
from django.core.signals import setting_changed
from django.db import connections
from django.db.backends.base.creation import TEST_DATABASE_PREFIX
from django.db.utils import load_backend

from .forks import renew_in_child

# Databases

at_start = {}  # alias: where its database was when the process began
known = {}  # alias: (what it was told by, the parts of its name)
shared = {}  # alias: (what it was told by, the aliases of its database)
# An in-memory database of SQLite belongs to one process, whatever its NAME.
process = secrets.token_hex(8)


def where(database):
    """Return where a database is, of the settings of one alias."""
    return database.get("NAME"), database.get("HOST"), database.get("PORT")


def remember_start():
    for alias, database in connections.settings.items():
        at_start.setdefault(alias, where(database))


def is_testing():
    """Tell whether Django's test environment is set up."""
    tests = sys.modules.get("django.test.utils")
    return tests is not None and hasattr(tests._TestState, "saved_data")


def database_name(alias, database):
    """
    Return the parts that name an alias's database in keys.

    That is the alias alone, unless another process may have another database
    under it: because this one belongs to tests, or because the project has
    moved the alias since the process began.
    """
    told_by = where(database), is_testing()
    found = known.get(alias)
    if found is None or found[0] != told_by:
        found = known[alias] = told_by, tuple(parts_of(alias, database, *told_by))
    return found[1]


def parts_of(alias, database, place, testing):
    yield alias
    if is_in_memory(database):
        yield process
    start = at_start.setdefault(alias, place)
    if testing or is_of_tests(database) or place[0] != start[0]:
        yield str(place[0])
    if place[1:] != start[1:]:
        yield from map(str, place[1:])


def is_of_tests(database):
    """
    Tell whether the NAME is one that Django gives to a test database.

    A process that a test has started, without the test environment, then has
    the keys of the test.
    """
    name, named = database.get("NAME"), database.get("TEST", {}).get("NAME")
    return name is not None and (
        Path(str(name)).name.startswith(TEST_DATABASE_PREFIX) or str(name) == str(named)
    )


def is_in_memory(database):
    name = str(database.get("NAME"))
    return (":memory:" in name or "mode=memory" in name) and (
        vendor_of(database) == "sqlite"
    )


# What the names of engines contain, mostly.
VENDORS = {"postg": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}


@functools.cache
def vendor_of_engine(engine):
    try:
        return load_backend(engine).DatabaseWrapper.vendor
    except Exception:  # noqa: BLE001 - of one that cannot be used here
        return next((v for part, v in VENDORS.items() if part in engine), engine)


def vendor_of(database):
    """Return what kind of database it is: engines may have any name."""
    return vendor_of_engine(str(database.get("ENGINE")))


def aliases_of_database(alias, database):
    """
    Return the aliases that show the same database as this one, itself first.

    They may show it in other ways, by another role or search_path: so each has
    entries of its own, and a write through one of them invalidates all.
    """
    databases = connections.settings
    if len(databases) == 1:
        return (alias,)
    # Tests rename one alias after the other.
    told_by = where(database), *map(where, databases.values()), is_testing()
    found = shared.get(alias)
    if found is None or found[0] != told_by:
        others = [
            other
            for other, theirs in databases.items()
            if other != alias and is_same_database(alias, database, other, theirs)
        ]
        found = shared[alias] = told_by, (alias, *others)
    return found[1]


def is_same_database(alias, database, other, theirs):
    mine = server_and_name(database)
    if mine is not None and server_and_name(theirs) == mine:
        return True
    # Without tests a MIRROR is a replica, which lags behind.
    return is_testing() and (mirror_of(database) == other or mirror_of(theirs) == alias)


def is_same_server(one, other):
    found = server_and_name(one), server_and_name(other)
    return None not in found and found[0][:-1] == found[1][:-1]


def path_of(name):
    """Return the path of a database of SQLite, whose NAME may be a URI."""
    parts = urlsplit(name)
    if parts.scheme == "file":
        name = unquote(parts.path)
    return os.path.realpath(name)


def mirror_of(database):
    return database.get("TEST", {}).get("MIRROR")


# Names of this machine, and the ports where servers listen by default.
LOCAL = {"localhost", "127.0.0.1", "::1"}
USUAL = {"5432", "3306"}


def server_and_name(database):
    """Return what two aliases of one database share; None: not comparable."""
    name, kind = database.get("NAME"), vendor_of(database)
    if not name or str(name) == ":memory:":
        return None  # named by an option, or one for each connection
    if kind == "sqlite":
        # A cache that is shared in memory has a URI, no path.
        return kind, name if is_in_memory(database) else path_of(str(name))
    host, port = str(database.get("HOST") or ""), str(database.get("PORT") or "")
    host, port = "" if host in LOCAL else host, "" if port in USUAL else port
    return kind, host, port, str(name)


def forget_process():
    """A fork has a copy of the in-memory databases."""
    global process  # noqa: PLW0603
    process = secrets.token_hex(8)
    known.clear()


os.register_at_fork(after_in_child=forget_process)
if settings.configured:
    remember_start()

# Keys

# With all that the package's keys contain, and more: a function that changes
# one of these characters changes keys.
PROBE = "getorcreateplus@#!: Probe/%\u00e4"
MOST_MADE = 100_000  # keys that are remembered where they cannot be made again


def key_identity(cache):
    """
    Return what tells the keys that a cache makes now from those that it makes
    for another tenant.
    """
    if cache.key_func is default_key_func and type(cache).make_key is (
        BaseCache.make_key
    ):
        return cache.key_prefix, cache.version
    return str(cache.make_key(PROBE))


def keep_keys(cache, successor):
    """Have a cache's successor make the same keys."""
    for name in ("key_func", "key_prefix", "make_key", "version"):
        if name in vars(cache):
            setattr(successor, name, vars(cache)[name])


class Keys:
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
        # A function that hashes the key cannot be repeated without its tenant.
        self.are_lost_later = not found
        self.made = LRUCache(MOST_MADE if self.are_lost_later else 0)
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self):
        self.lock = threading.RLock()
        made, self.made = self.made, LRUCache(self.made.maxsize)
        with suppress(KeyError):  # of one that was being dropped
            self.made.update(made)

    def is_current(self):
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
                # As Memory.changing().
                self.made = LRUCache(self.made.maxsize)
                if type(error) is not KeyError:
                    raise
                self.made.update(made)

    def are_known(self, keys):
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
        """Have cache_of() make these keys in a block, in this thread."""
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

        Not the cache itself: threads of an ASGI server may share one, while
        each serves another tenant.
        """
        for name in ("_cache", "client"):
            getattr(cache, name, None)  # the copy must not make one of its own
        copied = copy.copy(cache)
        copied.key_func = lambda key, prefix, version: self.make(key)
        if type(cache).make_key is not BaseCache.make_key:
            setattr(copied, "make_key", lambda key, version=None: self.make(key))  # noqa: B010
        return copied


class MadeAgain(threading.local):
    """The Keys that a thread wants its caches to make."""

    def __init__(self):
        self.by_alias = {}


made_again = MadeAgain()


def cache_of(alias):
    """Return the cache of an alias, which makes the keys of again()."""
    cache = caches[alias]
    keys = made_again.by_alias.get(alias)
    return cache if keys is None else keys.copy_of(cache)


def forget(*, setting, **kwargs):
    if setting == "DATABASES":
        known.clear()
        shared.clear()
        at_start.clear()


setting_changed.connect(forget)
