"""
memcached through pymemcache, one server: each step by as few commands as
memcached has for it, on the client's own connection.

Django's PyMemcacheCache asks a HashClient, which finds the server of each key.
With several servers, or a pool of connections, that is needed: then the steps
are those of Django's cache API.
"""

from django.core.cache import caches
from django.core.cache.backends.base import memcache_key_warnings
from django.core.cache.backends.memcached import BaseMemcachedCache

from ...environment.cache_commands import listeners, tell
from ...environment.cache_keys import cache_of, keys_of
from ...environment.databases import is_testing
from ...lookups.rows import IMMUTABLE_TYPES, revive, size_of
from ..entries import MAX_KEY_LENGTH
from ..faults import UNREADABLE, LookFailed
from .django import PROBE, DjangoTransport

# Whether each answer is waited for. A test may look at once for what it has
# set, on another connection.
waits = is_testing

MAX_SMALL_ROW = 2**13  # bytes

# A tool that replaces one of these on a cache object wants to see commands.
METHODS = frozenset(
    name
    for cls in BaseMemcachedCache.__mro__[:-1]
    for name in vars(cls)
    if name[0] != "_"
) - {"client_servers", "key_func", "key_prefix", "version"}


class PyMemcacheTransport(DjangoTransport):
    """The steps of the protocol by commands of one memcached server."""

    name = "memcached"

    def client(self):
        """
        Return the client, None if the cache's own methods are to be called.
        """
        cache = caches[self.alias]
        own = vars(cache)
        if not (listeners or METHODS.isdisjoint(own)):
            return None
        if "getorcreateplus_suffices" not in own:
            cache.getorcreateplus_suffices = suffices(cache)
        if not own["getorcreateplus_suffices"]:
            return None
        # The HashClient may make another one.
        [client] = own["_cache"].clients.values()
        if not client.no_delay:
            # A command after one without an answer would wait for 40 ms.
            client.no_delay = True
            client.close()  # it connects again with the next command
        return client

    def tell(self, name, keys):
        if listeners:
            tell(self.alias, name, keys)

    def seconds(self, timeout):
        return caches[self.alias].get_backend_timeout(timeout)

    # What a reader does

    def look(self, keys):
        client = self.client()
        if client is None:
            return super().look(keys)
        self.tell("look", keys)
        return self._found(client, keys)

    def _found(self, client, keys):
        made = dict(zip(keys_of(cache_of(self.alias), keys), keys, strict=True))
        return {
            made[key]: revive(value) if type(value) is list else value
            for key, value in client.get_many(made).items()
        }

    def observe(self, fresh, timeouts):
        client = self.client()
        if client is None:
            return super().observe(fresh, timeouts)
        return self._add_and_look(client, "observe", fresh, timeouts, list(fresh))

    def vouch(self, fresh, timeout, clock_key, max_added):
        client = self.client()
        if client is None or len(fresh) > max_added:
            return super().vouch(fresh, timeout, clock_key, max_added)
        # The versions first, and then the clock.
        keys, timeouts = [*fresh, clock_key], dict.fromkeys(fresh, timeout)
        found = self._add_and_look(client, "vouch", fresh, timeouts, keys)
        return found, found.pop(clock_key, None)

    def _add_and_look(self, client, name, fresh, timeouts, keys):
        # The server answers no add, but the look that follows.
        self.tell(name, keys)
        made = keys_of(cache_of(self.alias), fresh)
        for key, (unmade, token) in zip(made, fresh.items(), strict=True):
            client.add(key, token, self.seconds(timeouts[unmade]), noreply=True)
        try:
            return self._found(client, keys)
        except UNREADABLE as error:
            raise LookFailed from error

    def fill_later(self, entries, timeout):
        client = self.client()
        if client is None or waits() or not all(map(is_small, entries.values())):
            return self.fill(entries, timeout)
        self.tell("fill", entries)
        made = keys_of(cache_of(self.alias), entries)
        values = dict(zip(made, entries.values(), strict=True))
        client.set_many(values, self.seconds(timeout), noreply=True)
        return []

    # What a writer does

    def add(self, key, token, timeout):
        client = self.client()
        if client is None:
            return super().add(key, token, timeout)
        self.tell("add", [key])
        [made] = keys_of(cache_of(self.alias), [key])
        return client.add(made, token, self.seconds(timeout), noreply=False)

    def release(self, steps, timeout):
        if self.client() is None:
            return super().release(steps, timeout)
        entries = {key: value for step in steps for key, value in step.items()}
        return self._set("release", entries, timeout)

    def _set(self, name, entries, timeout):
        client = self.client()
        if client is None:
            return super()._set(name, entries, timeout)
        self.tell(name, entries)
        made = dict(zip(keys_of(cache_of(self.alias), entries), entries, strict=True))
        values = dict(zip(made, entries.values(), strict=True))
        failed = client.set_many(values, self.seconds(timeout), noreply=False)
        return [made[key] for key in failed]

    def waits_for_less(self):
        return self.client() is not None and not waits()

    def set_later(self, entries, timeout, *, adds=False):
        client = self.client()
        if client is None or waits() or not all(map(is_small, entries.values())):
            return None
        self.tell("set_later", entries)
        made = keys_of(cache_of(self.alias), entries)
        values = dict(zip(made, entries.values(), strict=True))
        seconds = self.seconds(timeout)
        if adds:
            for key, value in values.items():
                client.add(key, value, seconds, noreply=True)
        else:
            client.set_many(values, seconds, noreply=True)
        sent = Sent(self, values)
        self.unread().append(sent)
        return sent

    def unread(self):
        return vars(caches[self.alias]).setdefault("getorcreateplus_unread", [])

    def read(self, sent):
        """Look for what was sent, by one command for all that is unread."""
        unread, client = self.unread(), self.client()
        several = [*unread, sent]
        unread.clear()
        keys = list(dict.fromkeys(key for each in several for key in each.values))
        self.tell("look", keys)
        entries = client.get_many(keys) if client else {}
        for each in several:
            each.found = {
                key: revive(entries[key])
                if type(entries[key]) is list
                else entries[key]
                for key in each.values.keys() & entries.keys()
            }

    # Whether the cache answers

    def probe(self):
        self.look([PROBE])


class Sent:
    """
    Entries that were set without an answer. The server has done so when it
    answers the next command on the connection.
    """

    found = None  # {key: value} of what was there then

    def __init__(self, transport, values):
        self.transport = transport
        self.values = values

    def wait(self):
        if self.found is None:
            self.transport.read(self)
        if self.found != self.values:
            raise NotSet

    def is_done(self, number):
        """Return True if the entry of this number was there."""
        [key, value] = list(self.values.items())[number]
        return self.found is not None and self.found.get(key) == value


class NotSet(Exception):
    """Not all entries were there: refused, lost, or another's by then."""


def is_small(value):
    """
    Return True if the server does not refuse an entry as too large. That is
    said of hints, and of rows without values that may be large.
    """
    return type(value) is str or (
        IMMUTABLE_TYPES.issuperset(map(type, value[2]))
        and size_of(value[2]) < MAX_SMALL_ROW
    )


def suffices(cache):
    """Return True if a cache object has one client, with one connection."""
    from pymemcache.client.base import Client  # an extra

    clients = list(cache._cache.clients.values())
    prefix = cache.make_key("")
    return (
        len(clients) == 1
        and type(clients[0]) is Client
        and not any(memcache_key_warnings(prefix + "x" * MAX_KEY_LENGTH))
    )
