"""
Transports: each does the same steps, with the entries of Django's cache API.

The classes at the top are inherited once for each kind of cache.
"""

import logging
import re
import threading
from contextlib import contextmanager
from socket import IPPROTO_TCP, SHUT_RDWR, TCP_NODELAY

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.cache.backends.redis import RedisCache
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from getorcreateplus.coherence import clients
from getorcreateplus.coherence.faults import Unreadable
from getorcreateplus.coherence.transports import transport_of
from getorcreateplus.coherence.transports.django import DjangoTransport
from getorcreateplus.coherence.transports.locmem import LocMemTransport
from getorcreateplus.coherence.transports.memcached import PyMemcacheTransport
from getorcreateplus.coherence.transports.packets import pack, packs_as_redis
from getorcreateplus.coherence.transports.redis import RedisTransport
from getorcreateplus.lookups.rows import mark
from getorcreateplus.test import CaptureCacheCommands

from ..support.caches import Unreadable as UnreadableValue
from ..support.forks import in_child
from ..support.servers import Gateway, memcached

# They start their own servers, so one database is enough.
on_servers = [pytest.mark.shared_cache, pytest.mark.database("postgresql")]
TOKEN, OTHER, CLOCK = "0123456789abcdef", "fedcba9876543210", "00112233445566aa"
HINT = f"goc{0:010}#{0:020}"
FRESH = {"version": TOKEN}


def payload(token):
    values = 1, "row", 2.5
    return (CLOCK, token), "fingerprint", values, mark(values)


class Steps:
    """The steps of one transport."""

    backend = options = None
    parameters = {}  # of the backend, besides OPTIONS
    transport = DjangoTransport
    key_prefix = "steps"
    forced = {}
    follows_hints = False  # look_by_hint() does
    second = 1.1  # when an entry with a timeout of a second is gone

    @pytest.fixture(autouse=True)
    def cache(self, location):
        config = {"BACKEND": self.backend, "LOCATION": location, "TIMEOUT": 300}
        config |= self.parameters
        if self.options:
            config["OPTIONS"] = self.options
        config["KEY_PREFIX"] = f"{self.key_prefix}{id(self)}"
        with override_settings(
            CACHES={"default": config}, GETORCREATEPLUS_TRANSPORTS=self.forced
        ):
            self.use(transport_of("default"))
            yield caches["default"]
            caches["default"].clear()
            caches["default"].close()

    def use(self, steps):
        self.steps = steps
        steps.probe()
        server_id = steps.server_id("version")
        self.token, self.other = server_id + TOKEN, server_id + OTHER
        self.clock = server_id + CLOCK

    def test_transport(self):
        assert type(self.steps) is self.transport

    # Each finds the entries of the other

    def test_entries_of_the_cache_api_are_seen(self, cache):
        entries = {"a": self.token, "b": payload(self.token), "c": "LOCK"}
        cache.set_many(entries)
        assert self.steps.look(["a", "b", "c", "d"]) == entries

    def test_cache_api_sees_entries(self, cache):
        entries = {"a": self.token, "b": payload(self.token), "c": "LOCK"}
        assert not self.steps.fill(entries, 60)
        found = cache.get_many([*entries, "d"])
        assert {k: as_tuple(v) for k, v in found.items()} == entries

    def test_entry_is_overwritten(self, cache):
        self.steps.lock({"version": "LOCK"}, 60)
        self.steps.announce({"version": self.token}, 60)
        assert cache.get("version") == self.token
        cache.set("version", self.other)
        assert self.steps.look(["version"]) == {"version": self.other}

    def test_deleted(self, cache):
        cache.set_many({"a": self.token, "b": self.token, "c": self.token})
        self.steps.delete(["a"])
        self.steps.drop([["b"], [], ["d"]])
        self.steps.drop([])
        assert self.steps.look(["a", "b", "c"]) == {"c": self.token}

    def test_many_entries(self):
        entries = {f"key{n}": self.token for n in range(2500)}
        assert not self.steps.fill(entries, 60)
        assert self.steps.look(list(entries)) == entries

    def test_no_entries(self):
        assert self.steps.look([]) == {}
        assert not self.steps.fill({}, 60)
        assert not self.steps.release([{}, {}], 60)

    # Steps of a reader

    def test_observe(self, cache):
        cache.set_many({"locked": "LOCK", "known": self.other})
        fresh = {"locked": self.token, "known": self.token, "new": self.token}
        found = self.steps.observe(fresh, dict.fromkeys(fresh, 60))
        assert found == {"locked": "LOCK", "known": self.other, "new": self.token}
        assert cache.get_many(fresh) == found

    def test_add(self, cache):
        assert self.steps.add("version", self.token, 60)
        assert not self.steps.add("version", self.other, 60)
        assert cache.get("version") == self.token

    @pytest.mark.parametrize("has_clock", [False, True])
    def test_vouch(self, cache, has_clock):
        clock = self.clock if has_clock else None
        if has_clock:
            cache.set("clock", clock)
        assert self.vouch(self.steps, self.token) == (self.token, clock)
        assert self.vouch(self.steps, self.other) == (self.token, clock)

    def vouch(self, steps, token):
        versions, clock = steps.vouch({"version": token}, 60, "clock", 1)
        return versions["version"], clock

    def test_vouch_for_many(self, cache):
        cache.set_many({"clock": self.clock, "key1": self.other, "key2": "LOCK"})
        fresh = {f"key{n}": self.token for n in range(4)}
        versions, clock = self.steps.vouch(fresh, 60, "clock", 100)
        assert clock == self.clock
        assert versions == fresh | {"key1": self.other, "key2": "LOCK"}

    @pytest.mark.parametrize("pk", ["17", "x" * 100, "", " 7", "\u00e9", "a\nb"])
    def test_look_by_hint(self, pk):
        keys = [HINT, "epoch", "clock"]
        row = {f"row:{pk}": payload(self.token), f"version:{pk}": self.token}
        if pk.isalnum() and pk.isascii():
            self.steps.fill(row, 60)
        self.steps.fill({HINT: pk, "epoch": self.token}, 60)
        found = self.steps.look_by_hint(keys, "row:{}".format, "version:{}".format)
        is_followed = any(key in found for key in row)
        assert is_followed is (self.follows_hints and pk in {"17", "x" * 100})
        expected = {HINT: pk, "epoch": self.token} | (row if is_followed else {})
        assert found == expected

    def test_hint_of_a_row_that_is_gone(self):
        self.steps.fill({HINT: "17"}, 60)
        found = self.steps.look_by_hint([HINT], "row:{}".format, "version:{}".format)
        row = {"row:17": None, "version:17": None} if self.follows_hints else {}
        assert found == {HINT: "17"} | row

    def vouch_and_fill(self):
        entries = {"row": payload(self.token), HINT: "17"}
        return self.steps.vouch_and_fill(
            "version", self.token, 60, "clock", self.clock, entries
        )

    def row(self):
        return self.steps.look(["row", HINT])

    def test_vouch_and_fill(self):
        self.steps.fill({"clock": self.clock}, 60)
        version, clock, is_filled = self.vouch_and_fill()
        assert (version, clock) == (self.token, self.clock)
        assert is_filled is self.steps.is_one_step
        row = {"row": payload(self.token), HINT: "17"}
        assert self.row() == (row if is_filled else {})

    def test_vouch_and_fill_with_the_token_of_another(self, cache):
        self.steps.fill({"clock": self.clock, "version": self.other}, 60)
        version, clock, is_filled = self.vouch_and_fill()
        assert (version, clock) == (self.other, self.clock)
        row = {"row": payload(self.other), HINT: "17"}
        assert self.row() == (row if is_filled else {})

    @pytest.mark.parametrize(
        "there",
        [
            {"clock": "clock", "version": "LOCK"},
            {"clock": "other"},
            {"clock": "other", "version": "other"},
            {},
        ],
    )
    def test_nothing_is_filled(self, cache, there):
        """With a LOCK, and after a release has moved the clock."""
        there = {key: getattr(self, token, token) for key, token in there.items()}
        cache.set_many(there)
        version, clock, is_filled = self.vouch_and_fill()
        assert version == there.get("version", self.token)
        assert clock == there.get("clock")
        assert not is_filled
        assert self.row() == {}

    # Steps of a writer

    def test_release(self, cache):
        cache.set_many({"row": payload(self.other), "version": "LOCK"})
        steps = {"clock": self.clock}, {"version": self.token}, {"row": None}
        assert not self.steps.release(steps, 60)
        assert cache.get_many(["clock", "version"]) == {
            "clock": self.clock,
            "version": self.token,
        }
        assert cache.get("row") is None
        assert self.steps.look(["row"]).get("row") is None

    # Timeouts

    @pytest.mark.parametrize("timeout", [None, 100, DEFAULT_TIMEOUT])
    def test_entry_stays(self, cache, timeout):
        for keep in self.steps.fill, self.steps.lock, self.steps.announce:
            keep({"key": self.token}, timeout)
            assert cache.get("key") == self.token
            cache.delete("key")
        self.steps.add("key", self.token, timeout)
        assert cache.get("key") == self.token

    def test_entry_goes(self, cache):
        self.steps.fill({"filled": self.token}, 1)
        self.steps.add("added", self.token, 1)
        self.steps.observe({"seen": self.token}, {"seen": 1})
        keys = ["filled", "added", "seen"]
        assert len(self.steps.look(keys)) == 3
        threading.Event().wait(self.second)
        assert self.steps.look(keys) == {}
        assert self.steps.add("added", self.other, 60)

    # Keys

    def test_tenant(self, cache):
        self.steps.fill({"key": self.token}, 60)
        cache.key_prefix = f"another{id(self)}"
        assert self.steps.look(["key"]) == {}
        self.steps.fill({"key": self.other}, 60)
        assert cache.get("key") == self.other

    def test_key_function(self, cache):
        cache.key_func = lambda key, prefix, version: f"{prefix}-made-of-{key}"
        self.steps.fill({"key": self.token}, 60)
        assert self.steps.look(["key"]) == {"key": self.token}
        assert cache.get("key") == self.token

    # Other code that changes a cache object

    def test_replaced_method_is_called(self, cache):
        """
        A tool replaces them to show the commands, or a test to make them fail.
        """
        called = []
        get_many = cache.get_many

        def noting(keys, *args, **kwargs):
            called.append(list(keys))
            return get_many(keys, *args, **kwargs)

        cache.get_many = noting
        self.steps.look(["key"])
        assert called == [["key"]]
        del cache.get_many
        self.steps.look(["key"])
        assert len(called) == 1

    def test_each_step_by_replaced_methods(self, cache):
        get_many = cache.get_many

        def noting(keys, *args, **kwargs):
            return get_many(keys, *args, **kwargs)

        cache.get_many = noting
        for test in (
            self.test_observe,
            self.test_add,
            self.test_vouch_for_many,
            self.test_release,
            self.test_deleted,
            self.test_cache_api_sees_entries,
        ):
            test(cache)
            cache.clear()
        self.test_nothing_is_filled(cache, {"clock": "clock", "version": "LOCK"})

    def test_answers(self):
        self.steps.probe()
        assert self.steps.takes_small_entries()
        assert not self.steps.has_several_servers()


class Shared(Steps):
    """Steps of a cache that threads and processes share."""

    def test_threads(self, cache):
        errors = []

        def work(number):
            try:
                for n in range(50):
                    key = f"{number}.{n}"
                    self.steps.fill({key: self.token}, 60)
                    assert self.steps.look([key]) == {key: self.token}
            except BaseException as error:
                errors.append(error)
            finally:
                caches["default"].close()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

    def test_child_of_a_fork(self, cache):
        client = clients.by_alias["default"]
        client.fill({"key": self.token}, 60)

        def look():
            assert client.look(["key"]) == {"key": self.token}

        in_child(look)
        assert client.look(["key"]) == {"key": self.token}

    def test_entry_that_cannot_be_unpickled(self, cache):
        if self.can_pickle(cache):
            with pytest.raises(Unreadable):
                clients.by_alias["default"].look(["key"])

    def can_pickle(self, cache):
        cache.set("key", UnreadableValue())
        return True

    def test_several_processes_of_other_transports(self, cache):
        """As if one had an older release, which uses only the cache API."""
        older = DjangoTransport("default")
        for reader, writer in (older, self.steps), (self.steps, older):
            writer.release(
                [{"clock": self.clock}, {"version": self.other}, {"row": None}], 60
            )
            assert reader.look(["row"]).get("row") is None
            assert self.vouch(reader, self.token) == (self.other, self.clock)
            writer.fill({"row": payload(self.other)}, 60)
            assert reader.look(["row"]) == {"row": payload(self.other)}
            writer.lock({"version": "LOCK"}, 60)
            assert self.vouch(reader, self.token) == ("LOCK", self.clock)


def as_tuple(value):
    """Return the tuple that a serializer has turned into a list."""
    if type(value) is list:
        return (tuple(value[0]), value[1], tuple(value[2]), *value[3:])
    return value


class TestLocMem(Steps):
    backend = "django.core.cache.backends.locmem.LocMemCache"
    transport = LocMemTransport
    options = {"MAX_ENTRIES": 10_000}

    @pytest.fixture
    def location(self):
        return "steps"

    def test_cull(self, cache):
        cache._max_entries = 3
        self.steps.fill({f"key{n}": self.token for n in range(10)}, 60)
        assert len(cache._cache) <= 3
        self.test_vouch_and_fill()
        assert len(cache._cache) <= 3

    def test_value_that_can_change_is_copied(self):
        value = (self.clock, self.token), "fingerprint", ({"a": 1},), ""
        self.steps.fill({"row": value}, 60)
        self.steps.look(["row"])["row"][2][0]["a"] = 2
        assert self.steps.look(["row"]) == {"row": value}

    def test_cache_api_sees_a_payload(self, cache):
        """It is pickled then, at the latest."""
        row = payload(self.token)
        self.steps.fill({"row": row}, 60)
        assert cache.get("row") == row
        assert cache.get_many(["row"]) == {"row": row}
        assert cache.touch("row", 60)
        with pytest.raises(TypeError):
            cache.incr("row")
        assert self.steps.look(["row"]) == {"row": row}


class TestDjango(TestLocMem):
    transport = DjangoTransport
    forced = {"default": "django"}


class Redis(Shared):
    follows_hints = True

    @pytest.fixture
    def location(self, redis_location):
        return redis_location

    def server(self):
        return self.steps.server().commands.send

    def test_script_is_lost(self, cache):
        for _ in range(2):
            self.server()(("SCRIPT", "FLUSH"))
            self.test_vouch_and_fill()
            cache.delete_many(["version", "row", HINT])


class TestRedis(Redis):
    pytestmark = on_servers
    backend = "django.core.cache.backends.redis.RedisCache"
    transport = RedisTransport

    def test_connection_is_closed_by_the_server(self):
        """
        It fails at once: a step is not repeated, and the next one reconnects.
        """
        client = clients.by_alias["default"]
        client.fill({"key": self.token}, 60)
        [line] = client.transport.server().commands.kept
        line.connection._sock.shutdown(2)
        assert client.look(["key"]) == {"key": self.token}

    def test_commands_are_packed_as_by_the_client(self):
        self.steps.look(["key"])
        [line] = self.steps.server().commands.kept
        commands = [
            ("SET", "key", b"\x80\r\n", "PX", 60_000),
            ("SET", "\u00e9", -1, "NX"),
            ("DEL", "key", ""),
            ("MGET", "key", b"", 2.5, memoryview(b"view"), bytearray(b"array")),
        ]
        packed = b"".join(line.connection.pack_commands(commands))
        assert pack(commands, line.connection.encoder.encode) == packed
        assert packs_as_redis(line.connection)

    def test_connection_is_kept(self):
        self.steps.look(["key"])
        send = self.server()
        [number] = send(("CLIENT", "ID"))
        self.steps.look(["key"])
        assert send(("CLIENT", "ID")) == [number]

    def test_step_is_one_packet(self, cache):
        """The server sees these commands, each packet at once."""
        cache.set("clock", self.clock)
        with CaptureCacheCommands() as made:
            self.steps.look(["a", "b"])
            self.steps.observe({"a": self.token, "b": self.token}, {"a": 60, "b": None})
            self.steps.vouch({"c": self.token}, 60, "clock", 1)
            self.vouch_and_fill()
            self.steps.fill({"a": self.token, "b": self.token}, 60)
            self.steps.add("a", self.token, 60)
            self.steps.lock({"a": "LOCK", "b": "LOCK"}, 60)
            self.steps.release(
                [{"clock": self.clock}, {"a": self.token}, {"row": None}], 60
            )
            self.steps.drop([["a"], ["b"]])
        assert [command.method for command in made] == [
            *("look", "observe", "vouch", "vouch_and_fill", "fill", "add", "lock"),
            *("release", "drop"),
        ]

    def test_scripts_are_forbidden(self, cache, caplog):
        user, password = "noscripts", "secret"
        self.server()(
            ("ACL", "SETUSER", user, "on", f">{password}", "~*", "+@all", "-@scripting")
        )
        location = cache._servers[0].replace("//", f"//{user}:{password}@")
        config = {"BACKEND": self.backend, "LOCATION": location}
        with override_settings(CACHES={"default": config}):
            self.use(transport_of("default"))
            self.steps.fill({"clock": self.clock}, 60)
            with caplog.at_level(logging.WARNING, "getorcreateplus"):
                for _ in range(2):
                    assert self.vouch_and_fill() == (self.token, self.clock, False)
            [record] = caplog.records
            assert "does not allow scripts" in record.getMessage()
            caches["default"].delete_many(["clock", "version"])

    def test_replicas_are_not_asked(self, cache):
        location = [cache._servers[0], "redis://127.0.0.1:1/0"]
        config = {"BACKEND": self.backend, "LOCATION": location}
        with override_settings(CACHES={"default": config}):
            steps = transport_of("default")
            steps.fill({"key": self.token}, 60)
            for _ in range(20):
                assert steps.look(["key"]) == {"key": self.token}
            steps.delete(["key"])


class TestRedisByTheCacheApi(TestRedis):
    transport = DjangoTransport
    follows_hints = False
    forced = {"default": "django"}

    test_script_is_lost = test_connection_is_closed_by_the_server = None
    test_connection_is_kept = test_step_is_one_packet = None
    test_commands_are_packed_as_by_the_client = None
    test_scripts_are_forbidden = test_replicas_are_not_asked = None


class TestDjangoRedis(Redis):
    pytestmark = on_servers
    backend = "django_redis.cache.RedisCache"
    transport = RedisTransport


class TestDjangoRedisHerd(TestDjangoRedis):
    options = {"CLIENT_CLASS": "django_redis.client.HerdClient"}


class TestDjangoRedisJSON(TestDjangoRedis):
    follows_hints = False
    options = {"SERIALIZER": "django_redis.serializers.json.JSONSerializer"}

    def can_pickle(self, cache):
        return False


class TestDjangoRedisCompressed(TestDjangoRedis):
    follows_hints = False
    options = {"COMPRESSOR": "django_redis.compressors.zlib.ZlibCompressor"}


class TestDjangoRedisMessagePack(TestDjangoRedisJSON):
    options = {"SERIALIZER": "django_redis.serializers.msgpack.MSGPackSerializer"}


class TestDjangoValkey(Redis):
    pytestmark = on_servers
    backend = "django_valkey.cache.ValkeyCache"
    transport = RedisTransport

    @pytest.fixture
    def location(self, redis_location):
        return redis_location.replace("redis:", "valkey:")


class TestDjangoValkeyJSON(TestDjangoValkey):
    follows_hints = False
    options = {"SERIALIZER": "django_valkey.serializers.json.JSONSerializer"}

    def can_pickle(self, cache):
        return False


class TestDjangoValkeyMessagePack(TestDjangoValkeyJSON):
    options = {"SERIALIZER": "django_valkey.serializers.msgpack.MSGPackSerializer"}


class TestDjangoValkeyCompressed(TestDjangoValkey):
    follows_hints = False
    options = {"COMPRESSOR": "django_valkey.compressors.zlib.ZlibCompressor"}


class TestDjangoValkeyHerd(TestDjangoValkey):
    options = {"CLIENT_CLASS": "django_valkey.client.HerdClient"}


class Memcached(Shared):
    second = 2.1  # It counts whole seconds.

    @pytest.fixture
    def location(self, memcached_location):
        return memcached_location

    @contextmanager
    def at(self, location):
        config = {"BACKEND": self.backend, "LOCATION": location}
        if self.options:
            config["OPTIONS"] = self.options
        with override_settings(CACHES={"default": config}):
            yield transport_of("default")
            caches["default"].close()

    def test_keys_are_sent_in_order(self):
        """The server reads one after the other."""
        gateway = Gateway()
        with self.at(gateway.location) as steps:
            steps.look(["connected"])
            gateway.sent.clear()
            steps.look_in_order(["key3", "key1", "key2"])
            sent = b"".join(gateway.sent)
        gateway.close()
        assert re.findall(rb"key\d", sent) == [b"key3", b"key1", b"key2"]

    def test_release_fails_as_the_server_is_gone(self):
        with memcached() as location, self.at(location) as steps:
            steps.fill({"row": payload(TOKEN)}, 60)
        with self.at(location) as steps:
            for step in (
                lambda: steps.release([{"clock": CLOCK}, {"version": TOKEN}], 60),
                lambda: steps.lock({"version": "LOCK"}, 60),
                lambda: steps.add("version", TOKEN, 60),
                lambda: steps.drop([["version"]]),
                steps.probe,
            ):
                with pytest.raises(Exception, match=r"(?i)refused|fail"):
                    step()

    def test_row_that_is_too_large(self):
        client = clients.by_alias["default"]
        assert client.fill({"row": "x" * 2**21}, 60)
        assert client.look(["row"]) == {}


def interrupt(keys):
    raise KeyboardInterrupt


class WatchedSocket:
    """A socket that adds what it sends to a list."""

    def __init__(self, sock, sent):
        self.sock = sock
        self.sent = sent

    def sendall(self, data):
        self.sent.append(data)
        self.sock.sendall(data)

    def recv(self, size):
        return self.sock.recv(size)

    def close(self):
        self.sock.close()


class TestMemcached(Memcached):
    pytestmark = on_servers
    backend = "django.core.cache.backends.memcached.PyMemcacheCache"
    transport = PyMemcacheTransport

    def can_pickle(self, cache):
        return False  # pymemcache returns None instead

    def test_commands(self):
        with CaptureCacheCommands() as made:
            self.steps.vouch(FRESH, 60, "clock", 1)
            self.steps.release(
                [{"clock": self.clock}, {"a": self.token}, {"row": None}], 60
            )
        assert [command.method for command in made] == ["vouch", "release"]

    def test_command_after_one_without_an_answer(self):
        """
        TCP would make it wait until the other side has acknowledged that.
        """
        self.steps.look(["key"])
        option = self.steps.client().sock.getsockopt(IPPROTO_TCP, TCP_NODELAY)
        assert option != 0

    def test_vouch_is_one_packet(self):
        """The server answers once, and so it wakes up once."""
        self.steps.look(["connected"])
        client, sent = self.steps.client(), []
        sock = client.sock
        client.sock = WatchedSocket(sock, sent)
        assert self.vouch(self.steps, self.token) == (self.token, None)
        [packet] = sent
        commands = re.findall(rb"(?m)^(?:add|get) .*version.*?\r", packet)
        assert [command[:3] for command in commands] == [b"add", b"get"]
        # A client collects only one packet.
        self.steps.look(["version"])
        assert len(sent) == 2

    def test_vouch_is_interrupted(self, monkeypatch):
        """Its commands are not sent together with the next one."""
        self.steps.look(["connected"])
        client, sent = self.steps.client(), []
        client.sock = WatchedSocket(client.sock, sent)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(client, "get_many", interrupt)
            self.vouch(self.steps, self.token)
        assert self.steps.look(["version"]) == {}
        [packet] = sent
        assert packet.startswith(b"get ")

    def test_server_closes_the_connection_of_a_vouch(self):
        self.steps.look(["connected"])
        self.steps.client().sock.shutdown(SHUT_RDWR)
        with pytest.raises(Exception, match=r"(?i)close|pipe|transport"):
            self.vouch(self.steps, self.token)
        assert self.steps.client().sock is None
        assert self.vouch(self.steps, self.other) == (self.other, None)

    def test_pool_of_connections(self, cache):
        """A command may take another connection than the one before it."""
        config = {
            "BACKEND": self.backend,
            "LOCATION": cache._servers[0],
            "OPTIONS": {"use_pooling": True},
        }
        with override_settings(CACHES={"default": config}):
            assert transport_of("default").client() is None
            caches["default"].close()


# The transport of an alias


class OtherLocMem(LocMemCache):
    """A project's subclass, with its own method."""

    def size(self):
        return len(self._cache)


class LoudLocMem(LocMemCache):
    def get_many(self, keys, version=None):
        return super().get_many(keys, version)


class OtherRedis(RedisCache):
    pass


class LoudMemcached(PyMemcacheCache):
    def validate_key(self, key):
        super().validate_key(key)


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("OtherLocMem", LocMemTransport),
        ("LoudLocMem", DjangoTransport),
        ("OtherRedis", RedisTransport),
        ("LoudMemcached", DjangoTransport),
    ],
)
def test_subclass_of_a_known_backend(backend, expected):
    config = {"BACKEND": f"{__name__}.{backend}", "LOCATION": "redis://127.0.0.1:1"}
    with override_settings(CACHES={"default": config}):
        assert type(transport_of("default")) is expected


def test_class_that_a_tool_has_patched(monkeypatch):
    get_many = RedisCache.get_many

    def noting(cache, keys, version=None):
        return get_many(cache, keys, version)

    monkeypatch.setattr(RedisCache, "get_many", noting)
    config = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "redis://127.0.0.1:1",
    }
    with override_settings(CACHES={"default": config}):
        assert type(transport_of("default")) is DjangoTransport


def test_unknown_alias():
    assert type(transport_of("nowhere")) is DjangoTransport


@override_settings(GETORCREATEPLUS_TRANSPORTS={"default": "rediss"})
def test_unknown_transport():
    with pytest.raises(
        ImproperlyConfigured, match=r"is 'rediss'\. Use one of 'django'"
    ):
        transport_of("default")
