"""Any cache backend of Django: get_many, add, set_many and delete_many."""

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.cache.backends.redis import RedisCache

from ...environment.cache_keys import cache_of, made_again
from ...lookups.rows import PARTS, private_copy, revive
from ..faults import LookFailed
from .base import Transport

PROBE = "getorcreateplus"  # a key whose entry does not matter

# The number of attempts to add a token that disappears at once.
MAX_ADDS = 3

# With one server, a command for several entries handles them in their order,
# or all at once: a loop, a pipeline on one connection, or a transaction.
KEEPS_ORDER = (
    BaseMemcachedCache,
    DatabaseCache,
    FileBasedCache,
    LocMemCache,
    RedisCache,
)

# They unpickle an entry for each get(), so callers do not share its objects.
SERIALIZES = (BaseMemcachedCache, DatabaseCache, FileBasedCache, RedisCache)


class DjangoTransport(Transport):
    """
    The steps with Django's cache API, which every backend has.

    A step takes several commands if no command of that API does it alone.
    """

    name = "django"

    def look(self, keys):
        # The same as cache_of(), which is one more call for each hit.
        cache = caches[self.alias]
        if made_again.by_alias:
            cache = cache_of(self.alias)
        entries = cache.get_many(keys)
        if list in map(type, entries.values()):
            # A serializer has turned tuples into lists.
            entries = {
                k: revive(v) if type(v) is list else v for k, v in entries.items()
            }
        if type(cache) is LocMemCache or isinstance(cache, SERIALIZES):
            return entries
        # This backend may return the objects that it keeps, and a project may
        # change a dict in them.
        return {k: copied(v) if type(v) is tuple else v for k, v in entries.items()}

    def look_in_order(self, keys):
        if self.keeps_order():
            return self.look(keys)
        return {k: v for key in keys for k, v in self.look([key]).items()}

    def observe(self, fresh, timeouts):
        found = {}
        for key, token in fresh.items():
            for _ in range(MAX_ADDS):
                if self.add(key, token, timeouts[key]):
                    found[key] = token
                    break
                # There is another reader's token, or a writer's LOCK. It may
                # have disappeared in the meantime.
                if (value := self._look_within([key]).get(key)) is not None:
                    found[key] = value
                    break
            else:
                break  # this cache keeps no token
        return found

    def replace(self, key, found, token, timeout):
        # It is a token of a TestCase that has ended, and no other process uses
        # the entries of this process.
        self._set("replace", {key: token}, timeout)
        return token

    def vouch(self, fresh, timeout, clock_key, max_added):
        if len(fresh) == 1:
            [(key, token)] = fresh.items()
            if not self.add(key, token, timeout):
                entries = self._look_within([key, clock_key], in_order=True)
                return entries, entries.get(clock_key)
            return {key: token}, self._look_within([clock_key]).get(clock_key)
        versions = self._look_within(list(fresh))
        absent = {key: token for key, token in fresh.items() if key not in versions}
        if len(absent) <= max_added:
            versions |= self.observe(absent, dict.fromkeys(absent, timeout))
        return versions, self._look_within([clock_key]).get(clock_key)

    def _look_within(self, keys, in_order=False):
        try:
            return self.look_in_order(keys) if in_order else self.look(keys)
        except Exception as error:
            raise LookFailed from error

    def fill(self, entries, timeout):
        return self._set("fill", entries, timeout)

    def delete(self, keys):
        cache_of(self.alias).delete_many(keys)

    def add(self, key, token, timeout):
        return cache_of(self.alias).add(key, token, timeout)

    def announce(self, versions, timeout):
        return self._set("announce", versions, timeout)

    def lock(self, locks, timeout):
        return self._set("lock", locks, timeout)

    def _set(self, name, entries, timeout):
        """Set entries, in the step of this name."""
        # set_many() and not set(), which does not report a failure: when a
        # memcached server is gone, set() returns as if it had stored the
        # entry.
        return cache_of(self.alias).set_many(entries, timeout)

    def set_later(self, entries, timeout, *, adds=False):
        """Return None, because this API waits for each answer."""

    def release(self, steps, timeout):
        cache = cache_of(self.alias)
        if self.keeps_order():
            entries = {key: value for step in steps for key, value in step.items()}
            return cache.set_many(entries, timeout)
        for step in filter(None, steps):
            if failed := cache.set_many(step, timeout):
                return failed
        return []

    def drop(self, steps):
        cache = cache_of(self.alias)
        if self.keeps_order():
            cache.delete_many([key for step in steps for key in step])
        else:
            for step in filter(None, steps):
                cache.delete_many(step)

    def probe(self):
        cache_of(self.alias).get(PROBE)

    def takes_small_entries(self):
        return not cache_of(self.alias).set_many({PROBE: None}, 1)

    def keeps_order(self):
        """
        Return True if a command for several entries sets them in their order,
        or all at once, as every other process sees it.
        """
        return not self.has_several_servers() and isinstance(
            cache_of(self.alias), KEEPS_ORDER
        )

    def has_several_servers(self):
        location = settings.CACHES.get(self.alias, {}).get("LOCATION", "")
        if isinstance(location, str):
            return ";" in location or "," in location
        return len(location) > 1


def copied(payload):
    """Return a payload whose values are not shared."""
    if len(payload) != PARTS or type(payload[2]) is not tuple:
        return payload
    return (*payload[:2], private_copy(payload[2]), *payload[3:])


def methods_of(backend):
    """
    Return the names of the methods of a backend. A tool that replaces one of
    them on a cache object is to see commands.
    """
    return frozenset(
        name
        for cls in backend.__mro__
        for name, value in vars(cls).items()
        if name[0] != "_" and callable(value)
    )
