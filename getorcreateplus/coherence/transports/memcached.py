"""
memcached through pymemcache, with one server: each step uses as few commands
of memcached as possible, on the client's own connection.

Django's PyMemcacheCache uses a HashClient, which finds the server of each key.
With several servers, or a pool of connections, that is needed: then the steps
are those of Django's cache API.
"""

from contextlib import contextmanager

from django.core.cache import caches
from django.core.cache.backends.base import memcache_key_warnings
from django.core.cache.backends.memcached import BaseMemcachedCache

from ...environment.cache_commands import listeners, notify
from ...environment.cache_keys import cache_of, keys_of
from ...environment.databases import is_testing
from ...lookups.rows import IMMUTABLE_TYPES, revive, size_of
from ..entries import MAX_KEY_LENGTH
from ..faults import UNREADABLE, LookFailed
from .django import PROBE, DjangoTransport, methods_of

# True to wait for each answer. A test may read an entry that it has set at
# once on another connection.
waits = is_testing

MAX_SMALL_ROW = 2**13  # bytes

METHODS = methods_of(BaseMemcachedCache)


class PyMemcacheTransport(DjangoTransport):
    """The steps of the protocol as commands of one memcached server."""

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
        # The HashClient may make another client.
        [client] = own["_cache"].clients.values()
        if not client.no_delay:
            # A command after one without an answer would wait for 40 ms.
            client.no_delay = True
            client.close()  # it connects again with the next command
        return client

    def notify(self, name, keys):
        if listeners:
            notify(self.alias, name, keys)

    def seconds(self, timeout):
        return caches[self.alias].get_backend_timeout(timeout)

    # Steps of a reader

    def look(self, keys):
        client = self.client()
        if client is None:
            return super().look(keys)
        self.notify("look", keys)
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
        # First the versions, then the clock.
        keys, timeouts = [*fresh, clock_key], dict.fromkeys(fresh, timeout)
        found = self._add_and_look(client, "vouch", fresh, timeouts, keys)
        return found, found.pop(clock_key, None)

    def _add_and_look(self, client, name, fresh, timeouts, keys):
        # The server does not answer the adds, only the read that follows.
        self.notify(name, keys)
        made = keys_of(cache_of(self.alias), fresh)
        with in_one_packet(client):
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
        self.notify("fill", entries)
        made = keys_of(cache_of(self.alias), entries)
        values = dict(zip(made, entries.values(), strict=True))
        client.set_many(values, self.seconds(timeout), noreply=True)
        return []

    # Steps of a writer

    def add(self, key, token, timeout):
        client = self.client()
        if client is None:
            return super().add(key, token, timeout)
        self.notify("add", [key])
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
        self.notify(name, entries)
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
        self.notify("set_later", entries)
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
        """
        Read the entries that were sent, with one command for all unread
        answers.
        """
        unread, client = self.unread(), self.client()
        several = [*unread, sent]
        unread.clear()
        keys = list(dict.fromkeys(key for each in several for key in each.values))
        self.notify("look", keys)
        entries = client.get_many(keys) if client else {}
        for each in several:
            each.found = {
                key: revive(entries[key])
                if type(entries[key]) is list
                else entries[key]
                for key in each.values.keys() & entries.keys()
            }

    # The state of the cache

    def probe(self):
        self.look([PROBE])


@contextmanager
def in_one_packet(client):
    """
    Send commands without an answer together with the next command that has an
    answer. The server handles them in their order, and wakes up once.
    """
    sock = client.sock
    if sock is None:  # The first command connects.
        yield
        return
    client.sock = Packet(sock)
    try:
        yield
    finally:
        if client.sock is not None:  # It is None if an error has closed it.
            client.sock = sock


class Packet:
    """
    A client's socket, which holds back commands whose answers are not read.
    """

    def __init__(self, sock):
        self.sock = sock
        self.kept = b""

    def sendall(self, data):
        line, _, _ = data.partition(b"\r\n")
        data, self.kept = self.kept + data, b""
        if line.endswith(b" noreply"):
            self.kept = data
        else:
            self.sock.sendall(data)

    def recv(self, size):
        return self.sock.recv(size)

    def close(self):
        self.sock.close()


class Sent:
    """
    Entries that were set without an answer. The server has set them when it
    answers the next command on the connection.
    """

    found = None  # {key: value} of the entries at that time

    def __init__(self, transport, values):
        self.transport = transport
        self.values = values

    def wait(self):
        if self.found is None:
            self.transport.read(self)
        if self.found != self.values:
            raise NotSet

    def is_done(self, number):
        """Return True if the entry with this number was there."""
        [key, value] = list(self.values.items())[number]
        return self.found is not None and self.found.get(key) == value


class NotSet(Exception):
    """Not all entries were there: refused, lost, or replaced by then."""


def is_small(value):
    """
    Return True if the server does not refuse an entry as too large. This is
    True for hints, and for rows without values that may be large.
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
