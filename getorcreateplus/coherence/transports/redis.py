"""
Redis and Valkey: each step of the protocol is one packet to the primary.

The keys and values are those of Django's cache API, so processes with this
transport and other processes share a cache, and the backend's own methods find
its entries.
"""

import logging
from itertools import chain

from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from ...environment.cache_commands import listeners, notify
from ...environment.cache_keys import cache_of, keys_of
from ...environment.databases import is_testing
from ..faults import LookFailed
from .django import PROBE, DjangoTransport, methods_of
from .redis_loops import connection_of_loop
from .redis_scripts import LOOK_BY_HINT, VOUCH_AND_FILL, VouchAndFill
from .redis_servers import server_of

logger = logging.getLogger("getorcreateplus")

# True to wait for each answer. A test may read an entry that it has set at
# once on another connection.
waits = is_testing

MAX_UNFILLED = 1000  # rows

# The maximum number of commands, or of keys of a command, in a packet.
MAX_COMMANDS = 1000

METHODS = methods_of(BaseCache)


class Packets(DjangoTransport):
    """Turns a step into a packet, and handles the answers."""

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
            cache.getorcreateplus_server = server_of(cache)
            return cache.getorcreateplus_server

    def send(self, server, name, keys, commands):
        if listeners:
            notify(self.alias, name, keys)
        return server.commands.send(*commands)

    def keys(self, keys):
        return keys_of(cache_of(self.alias), keys)

    def expiry(self, timeout):
        if timeout is DEFAULT_TIMEOUT:
            timeout = caches[self.alias].default_timeout
        return () if timeout is None else ("PX", max(1, int(timeout * 1000)))

    def gets(self, keys, last=()):
        """
        Return the keys in the order of the answers, and the commands that get
        them: the ``last`` keys after all others.
        """
        keys = [*keys, *last]
        return keys, gets_of(self.keys(keys))

    def dels(self, keys):
        return [("DEL", *self.keys(keys))]

    def found(self, server, keys, answers, first=0):
        """
        Return {key: value} from the answers, which begin at index ``first``.
        """
        values = chain.from_iterable(answers[first:])
        return server.found(keys, values, answers.server_id)

    def sets(self, server, entries, timeout):
        return server.sets(self.keys(entries), entries.values(), self.expiry(timeout))

    def adds(self, server, entries, timeouts):
        """Return the commands that add these entries."""
        made = self.keys(entries)
        return [
            ("SET", key, server.dumps(value), "NX", *self.expiry(timeouts[unmade]))
            for key, (unmade, value) in zip(made, entries.items(), strict=True)
        ]

    def take(self, answers):
        """
        Take the answers to commands for which this transport did not wait.
        """
        for answer in answers:
            if isinstance(answer, Exception):
                self.on_refusal(answer)
                return


class RedisReading(Packets):
    """The steps of a reader."""

    is_one_step = True  # vouch_and_fill() is
    vouches_by_pk = True
    may_run_scripts = True

    def look(self, keys):
        server = self.server()
        if server is None:
            return super().look(keys)
        keys, commands = self.gets(keys)
        answers = self.send(server, "look", keys, commands)
        return self.found(server, keys, answers)

    def look_in_order(self, keys):
        return self.look(keys)

    def in_loop(self):
        if listeners or not METHODS.isdisjoint(vars(caches[self.alias])):
            return None
        return connection_of_loop(self)

    def look_by_hint(self, keys, payload_key, version_key):
        server = self.server()
        if server is None or not (self.may_run_scripts and server.keeps_bytes):
            return self.look(keys)
        *made, payload, version = self.keys([*keys, payload_key(""), version_key("")])
        one = [payload_key("1"), version_key("1")]
        if self.keys(one) != [f"{payload}1", f"{version}1"]:
            return self.look(keys)  # because of a KEY_FUNCTION
        if listeners:
            notify(self.alias, "look", keys)
        try:
            answers = server.commands.run(LOOK_BY_HINT, made, payload, version)
        except Exception as error:  # noqa: BLE001 - of two libraries
            self.go_without_scripts(error)
            return self.look(keys)
        [values] = answers
        found = server.found(keys, values[: len(keys)], answers.server_id)
        if len(values) > len(keys):
            pk = found[keys[0]]
            row = [payload_key(pk), version_key(pk)]
            found |= dict.fromkeys(row)
            found |= server.found(row, values[len(keys) :], answers.server_id)
        return found

    def observe(self, fresh, timeouts):
        server = self.server()
        if server is None:
            return super().observe(fresh, timeouts)
        return self._add_and_look(server, "observe", fresh, timeouts)

    def vouch(self, fresh, timeout, clock_key, max_added):
        server = self.server()
        if server is None:
            return super().vouch(fresh, timeout, clock_key, max_added)
        timeouts = dict.fromkeys(fresh, timeout)
        found = self._add_and_look(server, "vouch", fresh, timeouts, [clock_key])
        return found, found.pop(clock_key, None)

    def _add_and_look(self, server, name, fresh, timeouts, last=()):
        keys, gets = self.gets(fresh, last)
        adds = self.adds(server, fresh, timeouts)
        answers = self.send(server, name, keys, [*adds, *gets])
        try:
            return self.found(server, keys, answers, len(adds))
        except Exception as error:
            raise LookFailed from error

    def vouch_and_fill(self, key, token, timeout, clock_key, clock, entries):
        server = self.server()
        if server is None or not self.may_run_scripts:
            return super().vouch_and_fill(
                key, token, timeout, clock_key, clock, entries
            )
        keys, milliseconds = [key, clock_key, *entries], 0
        if expiry := self.expiry(timeout):
            _, milliseconds = expiry
        call = VouchAndFill(server, token, milliseconds, clock, entries)
        if listeners:
            notify(self.alias, "vouch_and_fill", keys)
        if (
            call.takes_any_token
            and server.knows_script
            and leaves_answers(server)
            and key not in server.unfilled
        ):
            self._run_later(server, keys, call.args)
            return None
        server.unfilled.discard(key)
        try:
            answers = server.commands.run(VOUCH_AND_FILL, self.keys(keys), *call.args)
        except Exception as error:  # noqa: BLE001 - of two libraries
            self.go_without_scripts(error)
            return super().vouch_and_fill(
                key, token, timeout, clock_key, clock, entries
            )
        server.knows_script, [found] = True, answers
        try:
            tokens = server.found(keys[:2], found[:2], answers.server_id)
        except Exception as error:
            raise LookFailed from error
        return tokens.get(key), tokens.get(clock_key), found[2] == 1

    def go_without_scripts(self, error):
        """
        Run no scripts from now on if the server forbids them. Otherwise raise
        the error.
        """
        if type(error).__name__ != "NoPermissionError":
            raise error
        self.may_run_scripts = False
        logger.warning(
            "Cache %r does not allow scripts (%s): each miss takes one more command.",
            self.alias,
            error,
        )

    def _run_later(self, server, keys, args):
        def take(answers):
            [answer] = answers
            if type(answer).__name__ == "NoScriptError":
                server.knows_script = False  # the next call sends its text
            elif isinstance(answer, Exception):
                self.take(answers)
            elif answer[2] == 0:
                # The next call waits, and gets the error.
                if len(server.unfilled) >= MAX_UNFILLED:
                    server.unfilled.clear()
                server.unfilled.add(keys[0])

        command = "EVALSHA", VOUCH_AND_FILL.sha, len(keys), *self.keys(keys), *args
        server.commands.send_later(take, command)

    def fill_later(self, entries, timeout):
        server = self.server()
        if not leaves_answers(server):
            return self.fill(entries, timeout)
        if listeners:
            notify(self.alias, "fill", entries)
        commands = self.sets(server, entries, timeout)
        for i in range(0, len(commands), MAX_COMMANDS):
            server.commands.send_later(self.take, *commands[i : i + MAX_COMMANDS])
        return []

    def delete(self, keys):
        self.drop([keys])

    def server_id(self, key):
        try:
            server = self.server()
        except InvalidCacheBackendError:
            server = None  # a test has removed the alias from CACHES
        return "" if server is None else server.commands.server_id

    def replace(self, key, found, token, timeout):
        server = self.server()
        if server is None:
            return super().replace(key, found, token, timeout)

        def successor_of(data, server_id):
            value = server.found([key], [data], server_id).get(key)
            return server.dumps(token) if value in {found, None} else data

        if listeners:
            notify(self.alias, "replace", [key])
        [made] = self.keys([key])
        expiry = self.expiry(timeout)
        data, server_id = server.commands.replace(made, successor_of, expiry)
        return server.found([key], [data], server_id).get(key)


class RedisTransport(RedisReading):
    """The steps of the protocol as commands and scripts of Redis."""

    name = "redis"

    # Steps of a writer

    def add(self, key, token, timeout):
        server = self.server()
        if server is None:
            return super().add(key, token, timeout)
        [made], value = self.keys([key]), server.dumps(token)
        command = "SET", made, value, "NX", *self.expiry(timeout)
        return self.send(server, "add", [key], [command])[0] is not None

    def waits_for_less(self):
        return leaves_answers(self.server())

    def set_later(self, entries, timeout, *, adds=False):
        server = self.server()
        if not leaves_answers(server) or len(entries) > MAX_COMMANDS:
            return None
        if listeners:
            notify(self.alias, "set_later", entries)
        commands = self.sets(server, entries, timeout)
        if adds:
            commands = [(*command, "NX") for command in commands]
        return server.commands.read_later(*commands)

    def release(self, steps, timeout):
        server = self.server()
        if server is None:
            return super().release(steps, timeout)
        return self._set_in_order(server, "release", steps, timeout)

    def _set(self, name, entries, timeout):
        server = self.server()
        if server is None:
            return super()._set(name, entries, timeout)
        return self._set_in_order(server, name, [entries], timeout)

    def _set_in_order(self, server, name, steps, timeout):
        commands = [c for step in steps for c in self.sets(server, step, timeout)]
        keys = [key for step in steps for key in step]
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
            commands = [each for step in keys for each in self.dels(step)]
            self.send(server, "drop", list(chain.from_iterable(keys)), commands)

    # The state of the cache

    def probe(self):
        self.look([PROBE])

    def takes_small_entries(self):
        self._set("probe", {PROBE: ""}, 1)
        return True

    def has_several_servers(self):
        return False  # the others are replicas, which these steps do not use


def leaves_answers(server):
    """Return True if the answers of a server may be read later."""
    return server is not None and server.commands.keeps and not waits()


def gets_of(keys):
    """Return the commands that get these keys."""
    return [
        ("MGET", *keys[i : i + MAX_COMMANDS]) for i in range(0, len(keys), MAX_COMMANDS)
    ]
