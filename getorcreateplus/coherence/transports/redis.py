"""
Redis and Valkey: each step of the protocol is one packet to the primary.

The keys and the values are those of Django's cache API, so that processes with
this transport and others share a cache, and the backend's own methods find its
entries.
"""

import logging
import pickle
from functools import partial
from itertools import chain

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.cache.backends.redis import RedisCache, RedisSerializer

from ...environment.cache_commands import listeners, tell
from ...environment.cache_keys import cache_of, keys_of
from ...lookups.rows import revive
from ..faults import LookFailed
from .django import PROBE, DjangoTransport
from .packets import Commands, Script

logger = logging.getLogger("getorcreateplus")

# Commands, or keys of one, that a packet has at most.
MAX_COMMANDS = 1000
# Hexadecimal digits at the end of a token.
DIGITS = 16

# A tool that replaces one of these on a cache object wants to see commands.
METHODS = frozenset(name for name in vars(BaseCache) if name[0] != "_") - {
    "key_func",
    "key_prefix",
    "version",
}

# KEYS: the version, the clock, the entries to set. ARGV: the version to add,
# the clock before the SELECT, where the digits begin in the version (0: the
# payload cannot be changed), milliseconds of the timeout (0: for ever), and
# for each entry its value and where the digits are in it (0: nowhere).
VOUCH_AND_FILL = Script("""
local function set(key, value, ...)
  if ARGV[4] == '0' then return redis.call('SET', key, value, ...) end
  return redis.call('SET', key, value, 'PX', ARGV[4], ...)
end
local version = ARGV[1]
if not set(KEYS[1], version, 'NX') then version = redis.call('GET', KEYS[1]) end
local clock = redis.call('GET', KEYS[2])
local at = tonumber(ARGV[3])
if clock ~= ARGV[2] then return {version, clock, 0} end
local function around(value, place)
  return value:sub(1, place - 1), value:sub(place + 16)
end
if version ~= ARGV[1] then
  if at == 0 or #version ~= #ARGV[1] then return {version, clock, 0} end
  local before, after = around(version, at)
  local own_before, own_after = around(ARGV[1], at)
  if before ~= own_before or after ~= own_after then return {version, clock, 0} end
end
for i = 3, #KEYS do
  local value, place = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  if place > 0 and version ~= ARGV[1] then
    local before, after = around(value, place)
    value = before .. version:sub(at, at + 15) .. after
  end
  set(KEYS[i], value)
end
return {version, clock, 1}
""")


class Server:
    """What a transport needs of one cache object."""

    def __init__(self, pool, is_shared, dumps, loads, keeps_bytes):
        self.commands = Commands(pool, is_shared)
        self.dumps, self.loads = dumps, loads
        # A value holds the bytes of its texts as they are.
        self.keeps_bytes = keeps_bytes


def server_of_django(cache):
    serializer = cache._cache._serializer
    dumps, loads = serializer.dumps, serializer.loads
    if is_plain := type(serializer) is RedisSerializer:
        dumps = partial(pickle.dumps, protocol=serializer.protocol)
        loads = partial(load_pickle, loads)
    pool = cache._cache.get_client(write=True).connection_pool
    return Server(pool, False, dumps, loads, is_plain)


def server_of_client(cache):
    """The cache is one of django-redis or django-valkey."""
    client = cache.client
    loads = client.decode
    is_plain = type(client._compressor).__name__ == "IdentityCompressor"
    if is_plain and type(client._serializer).__name__ == "PickleSerializer":
        loads = partial(load_pickle, loads)
    if hasattr(client, "_unpack"):
        # A herd client wraps what its set() is given. These steps do not,
        # because an entry of this package may be dropped at any time.
        loads = partial(load_packed, client, loads)
    pool = client.get_client(write=True).connection_pool
    return Server(pool, True, client.encode, loads, is_plain)


def load_pickle(loads, data):
    return pickle.loads(data) if data[:1] == b"\x80" else loads(data)


def load_packed(client, loads, data):
    return client._unpack(loads(data))[0]


class RedisTransport(DjangoTransport):
    """The steps of the protocol by commands and scripts of Redis."""

    name = "redis"
    is_one_step = True  # vouch_and_fill() is
    may_run_scripts = True

    def server(self):
        """
        Return the Server, None if the cache's own methods are to be called.
        """
        cache = caches[self.alias]
        own = vars(cache)
        if not (listeners or METHODS.isdisjoint(own)):
            return None
        try:
            return own["getorcreateplus_server"]
        except KeyError:
            of = server_of_django if isinstance(cache, RedisCache) else server_of_client
            cache.getorcreateplus_server = of(cache)
            return cache.getorcreateplus_server

    def send(self, server, name, keys, commands):
        if listeners:
            tell(self.alias, name, keys)
        return server.commands.send(*commands)

    def keys(self, keys):
        return keys_of(cache_of(self.alias), keys)

    def expiry(self, timeout):
        if timeout is DEFAULT_TIMEOUT:
            timeout = caches[self.alias].default_timeout
        return () if timeout is None else ("PX", max(1, int(timeout * 1000)))

    # What a reader does

    def look(self, keys):
        server = self.server()
        if server is None:
            return super().look(keys)
        made = self.keys(keys)
        answers = self.send(server, "look", keys, gets_of(made))
        return self.found(server, keys, chain.from_iterable(answers))

    def found(self, server, keys, answer):
        loads, found = server.loads, {}
        for key, data in zip(keys, answer, strict=True):
            if data is not None:
                value = loads(data)
                found[key] = revive(value) if type(value) is list else value
        return found

    def look_in_order(self, keys):
        return self.look(keys)

    def observe(self, fresh, timeouts):
        server = self.server()
        if server is None:
            return super().observe(fresh, timeouts)
        return self._add_and_look(server, "observe", fresh, timeouts, list(fresh))

    def vouch(self, fresh, timeout, clock_key, max_added):
        server = self.server()
        if server is None:
            return super().vouch(fresh, timeout, clock_key, max_added)
        keys, timeouts = [*fresh, clock_key], dict.fromkeys(fresh, timeout)
        found = self._add_and_look(server, "vouch", fresh, timeouts, keys)
        return found, found.pop(clock_key, None)

    def _add_and_look(self, server, name, fresh, timeouts, keys):
        made = self.keys(keys)
        adds = [
            ("SET", key, server.dumps(token), "NX", *self.expiry(timeouts[unmade]))
            for key, (unmade, token) in zip(made, fresh.items(), strict=False)
        ]
        commands = [*adds, *gets_of(made)]
        answers = self.send(server, name, keys, commands)[len(adds) :]
        try:
            return self.found(server, keys, chain.from_iterable(answers))
        except Exception as error:
            raise LookFailed from error

    def vouch_and_fill(self, key, token, timeout, clock_key, clock, entries):
        server = self.server()
        if server is None or not self.may_run_scripts:
            return super().vouch_and_fill(
                key, token, timeout, clock_key, clock, entries
            )
        dumps, digits = server.dumps, token[-DIGITS:].encode()
        version, keys = dumps(token), [key, clock_key, *entries]
        at, values = place_of(digits, version) if server.keeps_bytes else 0, []
        for value in entries.values():
            data = dumps(value)
            place = place_of(digits, data) if type(value) is tuple else 0
            if type(value) is tuple and place == 0:
                at = 0
            values += data, place
        milliseconds = (*self.expiry(timeout), 0, 0)[1]
        if listeners:
            tell(self.alias, "vouch_and_fill", keys)
        args = version, dumps(clock), at, milliseconds, *values
        try:
            found = server.commands.run(VOUCH_AND_FILL, self.keys(keys), *args)
        except Exception as error:
            if type(error).__name__ != "NoPermissionError":
                raise
            self.may_run_scripts = False
            logger.warning(
                "Cache %r does not allow scripts (%s): a miss takes a command more.",
                self.alias,
                error,
            )
            return super().vouch_and_fill(
                key, token, timeout, clock_key, clock, entries
            )
        try:
            tokens = self.found(server, keys[:2], found[:2])
        except Exception as error:
            raise LookFailed from error
        return tokens.get(key), tokens.get(clock_key), found[2] == 1

    def fill(self, entries, timeout):
        return self._set("fill", entries, timeout)

    def delete(self, keys):
        self.drop([keys])

    # What a writer does

    def add(self, key, token, timeout):
        server = self.server()
        if server is None:
            return super().add(key, token, timeout)
        [made], value = self.keys([key]), server.dumps(token)
        command = "SET", made, value, "NX", *self.expiry(timeout)
        return self.send(server, "add", [key], [command])[0] is not None

    def announce(self, versions, timeout):
        return self._set("announce", versions, timeout)

    def lock(self, locks, timeout):
        return self._set("lock", locks, timeout)

    def release(self, steps, timeout):
        server = self.server()
        if server is None:
            return super().release(steps, timeout)
        return self._set(
            "release", {k: v for step in steps for k, v in step.items()}, timeout
        )

    def _set(self, name, entries, timeout):
        server = self.server()
        if server is None:
            return cache_of(self.alias).set_many(entries, timeout)
        expiry, dumps = self.expiry(timeout), server.dumps
        commands = [
            ("DEL", key) if value is None else ("SET", key, dumps(value), *expiry)
            for key, value in zip(self.keys(entries), entries.values(), strict=True)
        ]
        keys = list(entries)
        for i in range(0, len(commands), MAX_COMMANDS):
            part = slice(i, i + MAX_COMMANDS)
            self.send(server, name, keys[part], commands[part])
        return []

    def drop(self, steps):
        server = self.server()
        if server is None:
            super().drop(steps)
            return
        keys = [list(step) for step in steps if step]
        if keys:
            commands = [("DEL", *self.keys(step)) for step in keys]
            self.send(server, "drop", list(chain.from_iterable(keys)), commands)

    # Whether the cache answers

    def probe(self):
        self.look([PROBE])

    def takes_small_entries(self):
        self._set("probe", {PROBE: ""}, 1)
        return True

    def has_several_servers(self):
        return False  # the others are replicas, which these steps do not ask


def gets_of(keys):
    """Return the commands that get these keys."""
    return [
        ("MGET", *keys[i : i + MAX_COMMANDS]) for i in range(0, len(keys), MAX_COMMANDS)
    ]


def place_of(digits, data):
    """Return where the digits begin in the data, counted from 1; or 0."""
    return data.index(digits) + 1 if data.count(digits) == 1 else 0
