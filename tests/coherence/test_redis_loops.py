"""
Hits that a coroutine awaits from Redis, without a thread: they are those of
the synchronous call.
"""

import asyncio
import gc
import time
from contextlib import contextmanager

import pytest
from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.db import connections, transaction
from django.test import override_settings

from getorcreateplus import CachedQuerySet
from getorcreateplus.coherence import clients, process_memory
from getorcreateplus.coherence.tokens import LOCK
from getorcreateplus.coherence.transports import redis_identity, redis_loops
from getorcreateplus.coherence.transports.redis_loops import LoopConnection, loops
from getorcreateplus.test import CaptureCacheCommands
from getorcreateplus.writes.registry import region_of

from ..models import Paper
from ..support.coroutines import by_async_to_sync, by_asyncio, close_all, with_hops
from ..support.forks import in_child
from ..support.papers import WRITES, warm
from ..support.servers import Gateway, caches_at, redis_server
from ..support.threads import elsewhere

PATIENCE = 2  # seconds

pytestmark = [pytest.mark.shared_cache, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def server():
    with redis_server() as location:
        yield location


@pytest.fixture
def gateway(server, monkeypatch):
    """Yield the Gateway to a cache with one row, of one page."""
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 0)
    gateway = Gateway(server)
    try:
        with override_settings(CACHES=caches_at(gateway.location, KEY_PREFIX="a")):
            client().flushall()
            warm()
            yield gateway
    finally:
        gateway.close()


def client():
    return caches["default"]._cache.get_client()


def region():
    return region_of(Paper.objects.all())


async def get(title="a", queryset=Paper.objects):
    """Return the pages of a row, and the hops."""
    lookup = queryset.aget_or_create(title=title, defaults={"pages": 0})
    (obj, _), made = await with_hops(lookup)
    assert obj.title == title
    return obj.pages, made


async def connected():
    """Return the connection of this loop, as soon as it has one."""
    for _ in range(redis_loops.FIRST_CALLS + 1):
        await get()
    own = loops.of_running()["default"]
    await reconnect(own)
    return own


async def reconnect(own):
    own.connects_after = 0
    own.calls = redis_loops.FIRST_CALLS
    for _ in range(1000):
        if own.is_ready():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("there is no connection")


@contextmanager
def between(monkeypatch, call):
    """Await a call between the next read and its answer."""
    look = LoopConnection.look

    async def look_and_call(own, keys):
        found = await look(own, keys)
        undo()
        await call()
        return found

    def undo():
        monkeypatch.setattr(LoopConnection, "look", look)

    monkeypatch.setattr(LoopConnection, "look", look_and_call)
    yield
    assert LoopConnection.look is look, "there was no look"


def test_hit_needs_no_thread(gateway):
    async def call():
        await connected()
        return [await get() for _ in range(3)]

    assert by_asyncio(call) == [(1, 0)] * 3


def test_get_needs_no_thread(gateway):
    class Queries(CachedQuerySet):
        caches_get = True

    async def call():
        await connected()
        await Queries(Paper).aget(title="a")
        return await with_hops(Queries(Paper).aget(title="a"))

    paper, made = by_asyncio(call)
    assert (paper.pages, made) == (1, 0)


def test_first_calls_do_not_connect(gateway, run):
    async def call():
        for _ in range(redis_loops.FIRST_CALLS):
            await get()
        await asyncio.sleep(0.1)
        own = loops.of_running()["default"]
        return own.opened, own.connects_after

    assert run(call) == (None, 0)


def test_concurrent_calls_get_their_own_rows(gateway):
    titles = [f"{number}" for number in range(30)]
    for number, title in enumerate(titles):
        Paper.objects.create(title=title, pages=number)
        for _ in range(2):
            Paper.objects.get_or_create(title=title)

    async def call():
        own = await connected()
        own.identity.asked = None
        calls = asyncio.gather(*map(get_alone, titles * 3))
        found, made = await with_hops(calls)
        return found, made, len(own.waiting), own.data

    async def get_alone(title):
        obj, _ = await Paper.objects.aget_or_create(title=title)
        return obj.pages

    assert by_asyncio(call) == ([*range(30)] * 3, 0, 0, b"")


# Misses


@pytest.mark.parametrize("write", WRITES)
def test_write_is_seen(gateway, write):
    async def call():
        await connected()
        await sync_to_async(write)(await Paper.objects.aget(title="a"))
        return [await get() for _ in range(4)]

    found = by_asyncio(call)
    assert [pages for pages, _ in found] == [2] * 4
    assert found[-1] == (2, 0)


@pytest.mark.parametrize("name", ["payload_key", "version_key", "epoch_key"])
@pytest.mark.parametrize("value", [None, LOCK, "other", b"unreadable"])
def test_entry_that_is_no_hit(gateway, name, value):
    async def call():
        await connected()
        key = region().epoch_key
        if name != "epoch_key":
            key = getattr(region(), name)(pk)
        made = caches["default"].make_key(key)
        if value is None:
            client().delete(made)
        elif value == b"unreadable":
            client().set(made, value)
        else:
            caches["default"].set(key, value)
        return await get()

    pk = str(Paper.objects.get().pk)
    assert by_asyncio(call) == (1, 1)


def test_tokens_of_another_server_do_not_hold(gateway, server):
    """It has a copy of the entries, from before the write."""

    async def call(other):
        own = await connected()
        own.drop()
        copies = [(key, client().dump(key)) for key in client().scan_iter()]
        await Paper.objects.aupdate(pages=2)
        gateway.lead_to(other)
        gateway.cut()
        await sync_to_async(close_all)()
        for key, data in copies:
            client().restore(key, 0, data)
        await reconnect(own)
        return await get()

    with redis_server() as other:
        assert by_asyncio(call, other) == (2, 1)


def test_replica_is_not_read(gateway, server, monkeypatch):
    monkeypatch.setattr(redis_identity, "MAX_AGE", 0)

    async def call(port):
        own = await connected()
        assert await get() == (1, 0)
        client().replicaof("127.0.0.1", port)
        try:
            return await get(), own.connection
        finally:
            client().replicaof("NO", "ONE")

    with redis_server() as other:
        port = other.rpartition("/")[0].rpartition(":")[2]
        assert by_asyncio(call, port) == ((1, 1), None)


# Conditions when it answers


def test_transaction_that_begins_while_it_waits(gateway, monkeypatch):
    """The thread of the coroutine's calls has written the row by then."""
    block = transaction.atomic()

    def begin():
        block.__enter__()
        Paper.objects.update(pages=2)

    async def call():
        await connected()
        with between(monkeypatch, sync_to_async(begin)):
            found, _ = await get()
        await sync_to_async(block.__exit__)(None, None, None)
        return found

    assert by_asyncio(call) == 2


def test_transaction_that_was_open(gateway, monkeypatch):
    """It was that of the coroutine's thread when the call began."""
    monkeypatch.setattr(LoopConnection, "look", None)
    block = transaction.atomic()

    async def call():
        own = await connected()
        await sync_to_async(block.__enter__)()
        await Paper.objects.aupdate(pages=2)
        assert own.is_ready()
        found = await get()
        await sync_to_async(block.__exit__)(None, None, None)
        return found

    assert by_asyncio(call) == (2, 1)


@pytest.mark.django_db(transaction=False)
def test_test_case(gateway):
    async def call():
        await connected()
        return await get()

    assert by_async_to_sync(call) == (1, 1)


def test_write_while_it_waits(gateway, monkeypatch):
    async def write():
        await asyncio.to_thread(elsewhere, lambda: Paper.objects.update(pages=2))

    async def call():
        await connected()
        with between(monkeypatch, write):
            before, _ = await get()
        return before, await get()

    assert by_asyncio(call) == (1, (2, 1))


def change_prefix():
    caches["default"].key_prefix = "another tenant"


def leave_alone():
    clients.by_alias["default"].mark_down(OSError())


def rest():
    region().asking.rests_until = time.monotonic() + 60


def drop_hints():
    process_memory.hints.clear()


@pytest.mark.parametrize("change", [change_prefix, leave_alone, rest, drop_hints])
def test_change_while_it_waits(gateway, monkeypatch, change):
    async def changed():
        change()

    async def call():
        await connected()
        with between(monkeypatch, changed):
            found = await get()
        caches["default"].key_prefix = "a"
        return found

    assert by_asyncio(call) == (1, 1)


def test_tenant_that_changes_while_it_waits(gateway, monkeypatch):
    """
    The process remembers the primary key under any prefix, but not the
    entries.
    """
    pk = Paper.objects.get().pk

    async def change():
        change_prefix()

    async def call():
        await connected()
        with between(monkeypatch, change):
            (obj, _), made = await with_hops(Paper.objects.aget_or_create(pk=pk))
        caches["default"].key_prefix = "a"
        return obj.pages, made

    assert by_asyncio(call) == (1, 1)


def test_settings_that_change(gateway, server):
    """The loop connects to the server in the new settings."""

    async def call(other):
        own = await connected()
        with override_settings(CACHES=caches_at(other)):
            found = await get()
            await get()
            assert own.connection is None
            assert await connected() is not own
            return found, [await get(), await get()][-1]

    with redis_server() as other:
        assert by_asyncio(call, other) == ((1, 1), (1, 0))


def test_row_without_a_known_primary_key_is_not_looked_for(gateway, monkeypatch):
    async def call():
        own = await connected()
        drop_hints()
        with monkeypatch.context() as patch:
            patch.setattr(LoopConnection, "look", None)
            assert own.is_ready()
            found = await get()
        return found, await get()

    assert by_asyncio(call) == ((1, 1), (1, 0))


def test_local_timeout_leaves_the_row_in_the_memory(gateway):
    class Queries(CachedQuerySet):
        local_timeout = 60

    async def call():
        await connected()
        return [await get(queryset=Queries(Paper)) for _ in range(2)]

    assert by_asyncio(call) == [(1, 1), (1, 0)]


def test_captured_commands(gateway):
    async def call():
        await connected()
        with CaptureCacheCommands() as made:
            found = await get()
        return found, len(made)

    assert by_asyncio(call) == ((1, 1), 1)


# Failures


def test_cancelled_call_leaves_no_answer_behind(gateway):
    Paper.objects.create(title="b", pages=2)
    for _ in range(2):
        Paper.objects.get_or_create(title="b")

    async def call():
        own = await connected()
        before = own.connection
        gateway.delay = 0.1
        task = asyncio.ensure_future(Paper.objects.aget_or_create(title="a"))
        await asyncio.sleep(0.02)
        task.cancel()
        found = [await get("b"), await get("a")]
        assert task.cancelled()
        return found, own.connection is before

    assert by_asyncio(call) == ([(2, 0), (1, 0)], True)


def test_server_that_does_not_answer(gateway):
    """The loop waits for a second at most, and then the thread reads."""

    async def call():
        own = await connected()
        own.seconds = 0.1
        gateway.freeze()
        await sync_to_async(close_all)()
        async with asyncio.timeout(PATIENCE):
            found = await own.look(["a"])
        assert (found, own.connection, len(own.waiting)) == (None, None, 0)
        return await get()

    assert by_asyncio(call) == (1, 1)


def test_timeouts_are_those_of_the_cache(gateway):
    async def seconds():
        return (await connected()).seconds

    assert by_asyncio(seconds) == 1
    options = {"KEY_PREFIX": "a", "OPTIONS": {"socket_timeout": 0.9}}
    with override_settings(CACHES=caches_at(gateway.location, **options)):
        assert by_asyncio(seconds) == 0.9


def test_connection_that_is_closed_meanwhile(gateway):
    async def call():
        own = await connected()
        gateway.cut()
        for _ in range(100):
            if own.connection is None:
                break
            await asyncio.sleep(0.02)
        assert own.connection is None
        found = await get()
        await connected()
        return found, await get()

    assert by_asyncio(call) == ((1, 1), (1, 0))


def test_connection_that_is_closed_before_the_loop_has_it(gateway):
    async def call():
        own = await connected()
        own._connect()  # a second one, which arrived late
        own.drop()
        assert own.opened is not None
        return await get(), own.connection

    assert by_asyncio(call) == ((1, 1), None)


def test_loop_that_takes_no_connection(gateway, monkeypatch):
    async def call():
        own = await connected()
        own.drop()
        own._connect()
        monkeypatch.setattr(own, "_receive", None)
        monkeypatch.delattr(own.opened, "_sock")
        return await get(), own.connection

    assert by_asyncio(call) == ((1, 1), None)


def test_error_of_the_server(gateway):
    async def call():
        own = await connected()
        own.waiting.append([False, None])
        own.connection._sock.send(b"*1\r\n$5\r\nWRONG\r\n")
        found = await get()
        return found, own.connection

    assert by_asyncio(call) == ((1, 1), None)


def test_interruption_leaves_no_answer_behind(gateway, monkeypatch):
    """A time limit of a task, which a signal handler may raise anywhere."""

    class Limit(Exception):
        pass

    def parse(*args):
        patch.undo()
        raise Limit

    async def call():
        own, raised = await connected(), []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: raised.append(type(context["exception"]))
        )
        patch.setattr(redis_loops, "parse", parse)
        own.seconds, began = 2 * PATIENCE, time.monotonic()
        found = await get()
        assert time.monotonic() - began < PATIENCE
        return found, own.connection, raised

    with monkeypatch.context() as patch:
        found, own, raised = by_asyncio(call)
    assert (found, own, [each.__name__ for each in raised]) == ((1, 1), None, ["Limit"])


# The ends of loops, and of processes


def number_of_clients():
    return len(client().client_list())


@pytest.mark.parametrize("ends_well", [True, False])
def test_closed_loop_leaves_no_connection(gateway, ends_well):
    before = number_of_clients()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(connected())
    loop.run_until_complete(sync_to_async(close_all)())
    loop.run_until_complete(loop.shutdown_default_executor())
    if not ends_well:
        gateway.delay = 1
        pending = loop.create_task(Paper.objects.aget_or_create(title="a"))
        loop.run_until_complete(asyncio.sleep(0.05))
        gateway.delay = 0
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(pending)
        del pending
    loop.close()
    del loop
    # The thread of asgiref remembers the last loop.
    asyncio.run(sync_to_async(int)())
    gc.collect()
    assert not list(loops.by_loop)
    for _ in range(100):
        if number_of_clients() <= before:
            return
        time.sleep(0.02)
    raise AssertionError("the connection is still open")


def test_next_loop_closes_the_connection_of_a_closed_one(gateway):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(connected())
    loop.run_until_complete(sync_to_async(close_all)())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert loop in loops.by_loop
    by_asyncio(get)
    assert loop not in loops.by_loop


def test_child_of_a_fork_uses_no_connection_of_the_parent(gateway):
    def call():
        assert not list(loops.by_loop)
        # The thread of sync_to_async() is not in the child.
        assert by_async_to_sync(in_new_loop) == (1, 0)

    async def in_new_loop():
        await connected()
        return await get()

    with asyncio.Runner() as runner:
        runner.run(connected())
        runner.run(sync_to_async(close_all)())
        connections.close_all()
        in_child(call)
        assert runner.run(get()) == (1, 0)
        runner.run(sync_to_async(close_all)())


# Caches that are read in a thread

KINDS = {
    "pickle": ("redis", {}, True),
    "json": ("redis", {"SERIALIZER": "json.JSONSerializer"}, False),
    "compressed": ("redis", {"COMPRESSOR": "zlib.ZlibCompressor"}, False),
    "herd": ("redis", {"CLIENT_CLASS": "client.HerdClient"}, False),
    # It overrides make_key().
    "valkey": ("valkey", {}, False),
}


@pytest.mark.parametrize("name", KINDS)
def test_caches_of_other_packages(gateway, name):
    package, options, expected = KINDS[name]
    folders = {"SERIALIZER": "serializers.", "COMPRESSOR": "compressors."}
    options = {
        key: f"django_{package}.{folders.get(key, '')}{value}"
        for key, value in options.items()
    }
    backend = f"django_{package}.cache.{package.title()}Cache"
    location = gateway.location.replace("redis:", f"{package}:")
    cache = {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}

    async def call():
        for _ in range(3):
            await get()
        if not expected:
            return loops.of_running().get("default")
        await connected()
        return await get()

    with override_settings(CACHES={"default": cache}):
        clients.by_alias.clear()
        assert by_asyncio(call) == ((1, 0) if expected else None)
