"""
The orders of test_interleavings.py, on the transports that go past Django's
cache API: a gate before each command of a packet, because other processes'
commands may come between them, and one before a script. memcached does what
names several keys key by key, so there is a gate before each of them.
"""

import itertools
import threading

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.cache.backends.redis import RedisCache
from django_valkey.cluster_cache.cache import ClusterValkeyCache

from getorcreateplus.coherence.locks import Locks
from getorcreateplus.coherence.tokens import is_locked
from getorcreateplus.coherence.transports import (
    choice,
    memcached,
    redis,
    redis_cluster,
    redis_servers,
)
from getorcreateplus.coherence.transports.django import DjangoTransport
from getorcreateplus.coherence.transports.locmem import LocMemTransport
from getorcreateplus.coherence.transports.memcached import PyMemcacheTransport
from getorcreateplus.coherence.transports.packets import Answers, Commands, Script
from getorcreateplus.coherence.transports.redis_cluster import (
    ClusterCommands,
    RedisClusterTransport,
)
from getorcreateplus.environment.cache_keys import keys_of

from ..models import FarGauge, Gauge
from ..support import clusters
from ..support.errors import Wrong
from .interleavings import Actor, gate
from .jobs import (
    cold_read,
    cold_read_in_bulk,
    create,
    create_and_roll_back,
    create_in_transaction,
    delete,
    evict_clock,
    evict_version,
    publish,
    rename,
    roll_back,
    save,
    save_in_transaction,
    update,
    warm_read,
    warm_read_in_bulk,
)
from .stages import explored

pytestmark = [
    pytest.mark.slow,
    pytest.mark.database("postgresql"),
    pytest.mark.django_db(transaction=True, available_apps=["tests"]),
]


class Evicting:
    def evict(self, key):
        """
        Lose an entry. A LOCK is not lost, because only its timeout ends it.
        """
        gate((self.make_key(key), True))
        if not is_locked(self.get(key)):
            self.delete(key)


class EvictingRedis(Evicting, RedisCache):
    pass


class EvictingLocMem(Evicting, LocMemCache):
    pass


class EvictingMemcached(Evicting, PyMemcacheCache):
    pass


class EvictingCluster(Evicting, ClusterValkeyCache):
    pass


class Gated:
    def send(self, *commands):
        answers = Answers()
        answers.server_ids = []
        for name, *args in commands:
            changes = name in {"SET", "DEL"}
            keys = args[:1] if name == "SET" else args
            if name in {"MGET", "SET", "DEL"}:
                gate(*((key, changes) for key in keys))
            part = super().send((name, *args))
            answers += part
            answers.server_id = part.server_id
            answers.server_ids += getattr(part, "server_ids", ())
        return answers

    def run(self, script, keys, *args):
        gate(*((key, True) for key in keys))
        return super().run(script, keys, *args)

    def replace(self, key, *args):
        gate((key, True))
        return super().replace(key, *args)


class GatedCommands(Gated, Commands):
    pass


class GatedCluster(Gated, ClusterCommands):
    """
    Commands of other processes also come between those to several servers.
    """


class LateCommands(GatedCommands):
    """Commands that are not waited for arrive as late as possible."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.late = []
        actor = threading.current_thread()
        if isinstance(actor, Actor):
            actor.unsent.append(self.read_unread)

    def send(self, *commands):
        self.read_unread()
        return super().send(*commands)

    def run(self, *args):
        self.read_unread()
        return super().run(*args)

    def replace(self, *args):
        self.read_unread()
        return super().replace(*args)

    def send_later(self, take, *commands):
        self.late.append((take, commands))
        if not isinstance(threading.current_thread(), Actor):
            self.read_unread()  # entries that the actors find when they begin

    def read_unread(self):
        late, self.late = self.late, []
        for take, commands in late:
            if commands[0][0] == "EVALSHA":
                [(_, _, count, *rest)] = commands
                keys, args = rest[:count], rest[count:]
                answers = super().run(redis.VOUCH_AND_FILL, keys, *args)
            else:
                answers = super().send(*commands)
            take(answers)


class GatedLocMem(LocMemTransport):
    def look(self, keys):
        gate(*((self.made(key), False) for key in keys))
        return super().look(keys)

    def add(self, key, token, timeout):
        gate((self.made(key), True))
        return super().add(key, token, timeout)

    def vouch_and_fill(self, key, token, timeout, clock_key, clock, entries):
        keys = key, clock_key, *entries
        gate(*((self.made(each), True) for each in keys))
        return super().vouch_and_fill(key, token, timeout, clock_key, clock, entries)

    def _set(self, name, entries, timeout):
        gate(*((self.made(key), True) for key in entries))
        return super()._set(name, entries, timeout)

    def made(self, key):
        return self.store().make_key(key)


class GatedClient:
    """
    A client of memcached. What does not wait for an answer arrives as late as
    it can: before the next command, which is on the same connection.
    """

    sock = None  # Each command is sent alone, because one of another actor may follow.

    def __init__(self, client):
        self.client = client
        self.late = []
        actor = threading.current_thread()
        self.is_actor_s = isinstance(actor, Actor)
        if self.is_actor_s:
            actor.unsent.append(self.send_late)

    def do(self, method, key, *args, noreply=False):
        command = method, key, *args
        if noreply and self.is_actor_s:
            self.late.append(command)
            return True
        self.send_late()
        return self.do_now(command)

    def send_late(self):
        late, self.late = self.late, []
        for command in late:
            self.do_now(command)

    def do_now(self, command):
        method, key, *args = command
        gate((key, method != "get"))
        # An answer, because the next command may be that of another actor.
        options = {} if method == "get" else {"noreply": False}
        return getattr(self.client, method)(key, *args, **options)

    def get_many(self, keys):
        values = {key: self.do("get", key) for key in keys}
        return {key: value for key, value in values.items() if value is not None}

    def add(self, key, value, expire, noreply):
        return self.do("add", key, value, expire, noreply=noreply)

    def set_many(self, values, expire, noreply):
        return [
            key
            for key, value in values.items()
            if not self.do("set", key, value, expire, noreply=noreply)
        ]


class GatedMemcached(PyMemcacheTransport):
    def client(self):
        client = super().client()
        if not hasattr(client, "gated"):
            client.gated = GatedClient(client)
        return client.gated

    def drop(self, steps):
        client = self.client()
        for key in keys_of(caches[self.alias], [key for step in steps for key in step]):
            client.do("delete", key)


@pytest.fixture(scope="module")
def cluster_location():
    with clusters.redis_cluster() as cluster:
        yield cluster.config()["LOCATION"]


ON_REDIS = ["redis", "redis late"]
# Without buckets all keys of a model are on one server, as with Redis.
ON_CLUSTERS = ["cluster buckets"]
ON_SERVERS = [*ON_REDIS, "memcached", *ON_CLUSTERS]


@pytest.fixture(params=ON_SERVERS)
def cached(request, settings, monkeypatch):
    """
    It replaces the fixture of conftest.py: caches of each transport, with
    gates.
    """
    kind, _, way = request.param.partition(" ")
    late = way == "late"
    monkeypatch.setattr(redis, "waits", lambda: not late)
    monkeypatch.setattr(memcached, "waits", lambda: False)
    monkeypatch.setattr(
        redis_servers, "Commands", LateCommands if late else GatedCommands
    )
    monkeypatch.setattr(redis_cluster, "ClusterCommands", GatedCluster)
    monkeypatch.setitem(choice.TRANSPORTS, "gated locmem", GatedLocMem)
    monkeypatch.setitem(choice.TRANSPORTS, "gated memcached", GatedMemcached)
    backend, name, location = {
        "redis": (EvictingRedis, "redis", "redis_location"),
        "cluster": (EvictingCluster, "redis-cluster", "cluster_location"),
        "memcached": (EvictingMemcached, "gated memcached", "memcached_location"),
        "locmem": (EvictingLocMem, "gated locmem", "request"),
    }[kind]
    location = str(request.getfixturevalue(location))
    settings.CACHES = {
        alias: {
            "BACKEND": f"{__name__}.{backend.__name__}",
            "KEY_PREFIX": alias,
            "LOCATION": location,
        }
        for alias in ("default", FarGauge._meta.model_name)
    }
    settings.GETORCREATEPLUS_TRANSPORTS = dict.fromkeys(settings.CACHES, name)
    if way == "buckets":
        labels = "tests.Gauge", "tests.FarGauge"
        settings.GETORCREATEPLUS_BUCKETS = dict.fromkeys(labels, 8)


@pytest.mark.parametrize("cached", [*ON_SERVERS, "locmem"], indirect=True)
@pytest.mark.parametrize("start", ["warm", "evicted", "empty"])
@pytest.mark.parametrize(
    "writer", [save, save_in_transaction, publish, update, delete, rename, roll_back]
)
def test_each_order_of_a_writer_and_two_readers(stage, writer, start):
    readers = [cold_read, cold_read] if start == "empty" else [warm_read, cold_read]
    explored(stage, [writer, *readers], start=start)


@pytest.mark.parametrize("cached", ON_REDIS, indirect=True)
@pytest.mark.parametrize("writer", [save, publish, update])
def test_each_order_after_another_server_has_taken_over(stage, writer):
    explored(stage, [writer, warm_read, cold_read], start="restored")


@pytest.mark.parametrize("writer", [save_in_transaction, publish])
def test_each_order_where_the_rows_have_a_cache_of_their_own(far_stage, writer):
    explored(far_stage, [writer, warm_read, cold_read], start="evicted")


@pytest.mark.parametrize(
    ("cached", "eviction"),
    [
        *itertools.product(
            [*ON_REDIS, *ON_CLUSTERS, "locmem"], [evict_clock, evict_version]
        ),
        ("memcached", evict_clock),
    ],
    indirect=["cached"],
)
def test_each_order_with_an_eviction(stage, eviction):
    explored(stage, [save, eviction, cold_read, cold_read], start="empty")


@pytest.mark.parametrize("writer", [create, create_in_transaction])
def test_each_order_of_two_creators_and_a_reader(stage, writer):
    explored(stage, [writer, create_and_roll_back, cold_read], start="absent")


@pytest.mark.parametrize("writer", [save_in_transaction, update])
def test_each_order_of_a_writer_and_two_batches(stage, writer):
    explored(stage, [writer, warm_read_in_bulk, cold_read_in_bulk])


def break_script(monkeypatch, rule, without):
    broken = redis.VOUCH_AND_FILL.text.replace(rule, without)
    assert broken != redis.VOUCH_AND_FILL.text
    monkeypatch.setattr(redis, "VOUCH_AND_FILL", Script(broken))


@pytest.mark.parametrize("cached", ["redis"], indirect=True)
def test_script_needs_the_clock(stage, monkeypatch):
    """Rule *recheck*, in the script."""
    break_script(monkeypatch, "if clock ~= ARGV[2]", "if false")
    with pytest.raises(Wrong):
        explored(stage, [save, cold_read, cold_read], 2, start="empty")


@pytest.mark.parametrize("cached", ["redis"], indirect=True)
def test_script_leaves_a_lock_alone(stage, monkeypatch):
    """Rule *lock*, in the script: the writer may die before its release."""
    break_script(monkeypatch, ", version, 'NX')", ", version)")
    with pytest.raises(Wrong):
        explored(stage, [save, cold_read], 2, start="empty", mortal={"save"})


@pytest.mark.parametrize("cached", ["redis"], indirect=True)
def test_token_has_to_be_of_the_server(stage, monkeypatch):
    """Rule *server*."""
    monkeypatch.setattr(redis_servers, "marked", lambda key, value: value)
    with pytest.raises(Wrong):
        explored(stage, [save, warm_read], start="restored")


@pytest.mark.parametrize("cached", ["redis"], indirect=True)
def test_token_is_replaced_if_it_is_still_there(stage, monkeypatch):
    """Rule *compared*: the writer may die before its release."""
    jobs = [save, warm_read, warm_read]
    options = {"start": "restored", "mortal": {"save"}}
    explored(stage, jobs, **options)
    monkeypatch.setattr(redis.RedisTransport, "replace", DjangoTransport.replace)
    with pytest.raises(Wrong):
        explored(stage, jobs, **options)


@pytest.mark.parametrize("cached", ["redis late"], indirect=True)
def test_commit_waits_for_locks(stage, monkeypatch):
    """Rule *lock*: the writer may die between its commit and its release."""
    jobs, options = (
        [save_in_transaction, warm_read],
        {"mortal": {"save_in_transaction"}},
    )
    explored(stage, jobs, **options)
    monkeypatch.setattr(Locks, "wait_for_answers", lambda own: None)
    with pytest.raises(Wrong):
        explored(stage, jobs, **options)


vouch_and_fill = GatedLocMem.vouch_and_fill


def vouch_by_any_clock(self, key, token, timeout, clock_key, clock, entries):
    gate(*((self.made(each), True) for each in (key, clock_key, *entries)))
    now = LocMemTransport.look(self, [clock_key]).get(clock_key)
    args = key, token, timeout, clock_key, now, entries
    return LocMemTransport.vouch_and_fill(self, *args)


def vouch_without_the_version(self, key, *args):
    self.delete([key])
    return vouch_and_fill(self, key, *args)


@pytest.mark.parametrize("cached", ["locmem"], indirect=True)
def test_locmem_needs_the_clock(stage, monkeypatch):
    """
    Rule *recheck*, in its one step: the version that a release has set may be
    gone again.
    """
    monkeypatch.setattr(GatedLocMem, "vouch_and_fill", vouch_by_any_clock)
    with pytest.raises(Wrong):
        explored(stage, [save, evict_version, cold_read, cold_read], 2, start="empty")


@pytest.mark.parametrize("cached", ["locmem"], indirect=True)
def test_locmem_leaves_a_lock_alone(stage, monkeypatch):
    """Rule *lock*, in its one step: the writer may die before its release."""
    monkeypatch.setattr(GatedLocMem, "vouch_and_fill", vouch_without_the_version)
    with pytest.raises(Wrong):
        explored(stage, [save, cold_read], 2, start="empty", mortal={"save"})


def add_and_look_at_the_clock_first(self, client, name, fresh, timeouts, keys):
    return add_and_look(self, client, name, fresh, timeouts, keys[::-1])


add_and_look = PyMemcacheTransport._add_and_look


@pytest.mark.parametrize("cached", ["memcached"], indirect=True)
def test_memcached_is_asked_for_the_clock_last(stage, monkeypatch):
    """Rule *recheck*, in the order of the keys."""
    monkeypatch.setattr(
        PyMemcacheTransport, "_add_and_look", add_and_look_at_the_clock_first
    )
    with pytest.raises(Wrong):
        explored(stage, [save, cold_read, cold_read], 2, start="empty")


def release_from_the_end(transport):
    release = transport.release

    def released(self, steps, timeout):
        return release(self, steps[::-1], timeout)

    return released


@pytest.mark.parametrize("cached", ["memcached"], indirect=True)
def test_memcached_gets_the_clock_first(stage, monkeypatch):
    """Rule *clock*, in the order of the keys."""
    backwards = release_from_the_end(PyMemcacheTransport)
    monkeypatch.setattr(PyMemcacheTransport, "release", backwards)
    with pytest.raises(Wrong):
        explored(stage, [save, cold_read], 2, start="empty")


@pytest.mark.parametrize("cached", ["cluster buckets"], indirect=True)
def test_cluster_gets_the_clock_first(stage, monkeypatch):
    """Rule *clock*, on another server than the version."""
    backwards = release_from_the_end(RedisClusterTransport)
    monkeypatch.setattr(RedisClusterTransport, "release", backwards)
    with pytest.raises(Wrong):
        explored(stage, [save, cold_read], 2, start="empty")


@pytest.mark.parametrize("cached", ["cluster buckets"], indirect=True)
def test_cluster_is_asked_for_the_clock_last(stage, monkeypatch):
    """Rule *recheck*, on another server than the version."""

    def gets_clock_first(self, keys, last=()):
        return gets(self, last, keys)

    gets = RedisClusterTransport.gets
    monkeypatch.setattr(RedisClusterTransport, "gets", gets_clock_first)
    with pytest.raises(Wrong):
        explored(stage, [save, cold_read, cold_read], 2, start="empty")


@pytest.mark.parametrize("cached", ["memcached"], indirect=True)
def test_memcached_leaves_a_lock_alone(stage, monkeypatch):
    """Rule *lock*: the writer may die before its release."""

    def add(client, key, value, expire, noreply):
        return client.do("set", key, value, expire, noreply=noreply)

    monkeypatch.setattr(GatedClient, "add", add)
    with pytest.raises(Wrong):
        explored(stage, [save, cold_read], 2, start="empty", mortal={"save"})


def test_gauge_is_cached(stage):
    """The explored calls use the transport."""
    stage.set_up("warm")
    assert Gauge.objects.get_or_create(name="row")[1] is False
    assert stage.served({"name": "row"}) == (1, 0)
