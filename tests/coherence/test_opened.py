"""
A coroutine answers a hit itself only if the connection that its synchronous
call would have is certainly in autocommit.
"""

import asyncio
import gc
import threading
import unittest
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.test import TestCase, override_settings

from getorcreateplus.coherence import opened

from ..models import Barrel
from ..support.coroutines import by_async_to_sync, by_asyncio, hops, with_hops
from ..support.errors import Rollback
from ..support.threads import own_connections

TIMEOUT = 20  # seconds

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def barrel():
    barrel = Barrel.objects.create(name="a", size=1)
    for _ in range(2):
        Barrel.objects.get_or_create(name="a")
    return barrel


def look_up():
    return Barrel.objects.aget_or_create(name="a")


async def size_and_hops():
    (obj, _), made = await with_hops(look_up())
    return obj.size, made


in_sync = async_to_sync(size_and_hops)


def write(size):
    Barrel.plain.filter(name="a").update(size=size)


class TestAroundTheCoroutine:
    """Synchronous code in a transaction, which waits for the coroutine."""

    def test_own_write(self):
        assert in_sync() == (1, 0)
        with transaction.atomic():
            assert in_sync() == (1, 1)
            write(2)
            assert [in_sync(), in_sync()] == [(2, 1), (2, 1)]
        assert in_sync() == (2, 1)
        assert in_sync() == (2, 0)

    def test_rollback(self):
        with pytest.raises(Rollback), transaction.atomic():
            write(2)
            assert in_sync() == (2, 1)
            raise Rollback
        assert in_sync() == (1, 1)
        assert in_sync() == (1, 0)

    def test_savepoint(self):
        with transaction.atomic():
            with pytest.raises(Rollback), transaction.atomic():
                write(2)
                assert in_sync() == (2, 1)
                raise Rollback
            assert in_sync() == (1, 1)

    def test_write_of_the_coroutine(self):
        async def call():
            await Barrel.plain.filter(name="a").aupdate(size=2)
            return await size_and_hops()

        with transaction.atomic():
            assert async_to_sync(call)() == (2, 1)

    def test_broken_transaction(self):
        with transaction.atomic():
            transaction.set_rollback(True)
            with pytest.raises(transaction.TransactionManagementError):
                in_sync()

    def test_hooks(self):
        """They run after the end of the transaction."""
        found = []
        with transaction.atomic():
            write(2)
            transaction.on_commit(lambda: found.append(in_sync()))
            transaction.on_commit(lambda: found.append(in_sync()))
        assert found == [(2, 1), (2, 0)]

    def test_coroutine_in_a_coroutine(self):
        """The sync code in the middle is in a transaction, in the thread."""

        def middle():
            with transaction.atomic():
                write(2)
                found = in_sync()
                transaction.set_rollback(True)
            return found

        async def call():
            before = await size_and_hops()
            inner = await sync_to_async(middle)()
            return before, inner, await size_and_hops(), await size_and_hops()

        for run in by_asyncio, by_async_to_sync:
            Barrel.objects.get_or_create(name="a")
            assert run(call) == ((1, 0), (2, 1), (1, 1), (1, 0))

    def test_by_hand(self):
        connection.set_autocommit(False)
        try:
            write(2)
            assert in_sync() == (2, 1)
            connection.rollback()
            assert in_sync() == (1, 1)
            connection.rollback()
        finally:
            connection.set_autocommit(True)
        assert [in_sync(), in_sync()][-1] == (1, 0)

    def test_by_sql(self):
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            assert in_sync() == (1, 1)
            write(2)
            assert in_sync() == (2, 1)
            cursor.execute("ROLLBACK")
        assert [in_sync(), in_sync()][-1] == (1, 0)

    @pytest.mark.database("postgresql")
    def test_by_the_driver(self):
        with connection.connection.transaction():
            assert in_sync() == (1, 1)
            connection.connection.execute("SELECT 1")
            assert in_sync() == (1, 1)
        assert in_sync() == (1, 0)

    @pytest.mark.database("postgresql")
    def test_session_that_sees_other_values(self):
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
        assert in_sync() == (1, 1)
        connection.close()
        assert [in_sync(), in_sync()][-1] == (1, 0)

    @pytest.mark.database("postgresql")
    def test_thread_that_waits_for_the_server(self):
        """The driver cannot report then whether a transaction is open."""
        is_ready = threading.Event()

        def wait(execute, sql, params, many, context):
            is_ready.set()
            return execute(sql, params, many, context)

        @own_connections()
        def sleep():
            connection.ensure_connection()
            with connection.execute_wrapper(wait), connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(1)")

        thread = threading.Thread(target=sleep)
        thread.start()
        assert is_ready.wait(TIMEOUT)
        made = set()
        while thread.is_alive():
            made.add(in_sync())
        thread.join()
        assert (1, 1) in made
        assert in_sync() == (1, 0)


class TestInTheThread:
    """The coroutine begins a transaction in the thread, call by call."""

    @pytest.mark.parametrize("run", [by_asyncio, by_async_to_sync])
    @pytest.mark.parametrize("is_looked_up_first", [True, False])
    def test_atomic(self, run, is_looked_up_first):
        async def call():
            block, found = transaction.atomic(), []
            if is_looked_up_first:
                await look_up()
            await sync_to_async(block.__enter__)()
            try:
                found.append(await size_and_hops())
                await sync_to_async(write)(2)
                found.append(await size_and_hops())
                await sync_to_async(transaction.set_rollback)(True)
            finally:
                await sync_to_async(block.__exit__)(None, None, None)
            return [*found, await size_and_hops(), await size_and_hops()]

        assert run(call) == [(1, 1), (2, 1), (1, 1), (1, 0)]

    def test_another_task(self):
        """All tasks of a loop have the connection of one thread."""

        async def call():
            block = transaction.atomic()
            await sync_to_async(block.__enter__)()
            await sync_to_async(write)(2)

            async def task():
                return await size_and_hops()

            found = await asyncio.create_task(task())
            await sync_to_async(block.__exit__)(None, None, None)
            return found

        assert by_asyncio(call) == (2, 1)


class TestOtherThreads:
    """
    It is unknown which thread has the connection, so each of them counts.
    """

    @pytest.fixture
    def other(self):
        """Run steps in one other thread, one after the other."""
        other = Other()
        yield other
        if not other.pool._shutdown:
            other.do(connections.close_all)
            other.stop()

    @pytest.mark.parametrize("run", [by_asyncio, by_async_to_sync])
    def test_transaction(self, run, other):
        assert run(size_and_hops) == (1, 0)
        block = transaction.atomic()
        other.do(block.__enter__)
        assert run(size_and_hops) == (1, 1)
        other.do(block.__exit__, None, None, None)
        assert run(size_and_hops) == (1, 0)

    def test_driver_that_hides_it(self, other, monkeypatch):
        """Django's state counts if the driver is behind a proxy."""
        monkeypatch.setattr(opened.drivers, "may_have_begun", lambda connection: False)
        block = transaction.atomic()
        other.do(block.__enter__)
        assert in_sync() == (1, 1)
        other.do(block.__exit__, None, None, None)
        assert in_sync() == (1, 0)

    @pytest.mark.slow
    def test_no_hit_is_older_than_a_commit(self):
        """A writer commits, in a thread, while a coroutine looks up."""
        committed, is_done = [1], threading.Event()

        @own_connections()
        def write_all():
            try:
                for size in range(2, 102):
                    with transaction.atomic():
                        write(size)
                    committed.append(size)
            finally:
                is_done.set()

        async def call():
            made = 0
            while not is_done.is_set():
                least = committed[-1]
                size, one = await size_and_hops()
                assert size >= least
                made += 1 - one
            return made

        thread = threading.Thread(target=write_all)
        thread.start()
        by_asyncio(call)
        thread.join()
        assert committed[-1] == 101
        assert [in_sync(), in_sync()][-1] == (101, 0)

    @pytest.mark.slow
    def test_end_of_a_thread(self, other):
        block = transaction.atomic()
        other.do(block.__enter__)
        assert in_sync() == (1, 1)
        ref = other.do(lambda: weakref.ref(connections["default"]))
        key = id(ref())
        assert opened.known[key]() is ref()
        other.do(connections.close_all)
        other.stop()
        gc.collect()
        assert ref() is None
        assert key not in opened.known
        assert [in_sync(), in_sync()][-1] == (1, 0)

    @pytest.mark.django_db(transaction=True, databases=["default", "other"])
    def test_other_database(self, other):
        """Its transactions are about other rows."""
        block = transaction.atomic(using="other")
        other.do(block.__enter__)
        assert in_sync() == (1, 0)
        other.do(block.__exit__, None, None, None)

    # A statement of the reconnection may have begun a transaction on MariaDB.
    @pytest.mark.database("postgresql", "sqlite")
    @pytest.mark.django_db(transaction=True, databases=["default", "other"])
    def test_other_alias_of_the_database(self, second_alias, other):
        for _ in range(2):
            Barrel.objects.get_or_create(name="a")
        assert in_sync() == (1, 0)
        block = transaction.atomic(using=second_alias)
        other.do(block.__enter__)
        assert in_sync() == (1, 1)
        other.do(block.__exit__, None, None, None)
        assert in_sync() == (1, 0)

    def test_other_settings(self, other):
        """A thread's connection may be moved to another database."""

        def connect():
            connection.ensure_connection()  # that of the other thread

        def move(name):
            connection.settings_dict = {**connection.settings_dict, "NAME": name}

        name = connection.settings_dict["NAME"]
        other.do(connect)
        other.do(move, "elsewhere")
        assert in_sync() == (1, 1)
        other.do(move, name)
        assert in_sync() == (1, 0)


class Other:
    """Another thread, which runs the calls that it gets."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(1)

    def do(self, call, *args):
        return self.pool.submit(call, *args).result(TIMEOUT)

    def stop(self):
        self.pool.shutdown()


class InTestCase(TestCase):
    __test__ = False  # the test below runs it

    def test_hit(self):
        Barrel.objects.create(name="b")

        async def call():
            return await hops(Barrel.objects.aget_or_create(name="b"))

        assert [async_to_sync(call)() for _ in range(3)] == [1, 1, 1]


def test_testcase():
    """Each test has its own tokens, which are those of its transaction."""
    result = unittest.TestResult()
    unittest.TestSuite([InTestCase("test_hit")]).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])


def test_connection_that_has_not_connected():
    """It will be in autocommit, unless the settings say otherwise."""
    connection.close()
    assert in_sync() == (1, 0)
    assert connection.connection is None
    database = {**connections.settings["default"], "AUTOCOMMIT": False}
    assert opened.stand_in("default") is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connections.settings, "default", database)
        assert opened.stand_in("default") is None
    assert opened.stand_in("missing") is None


def test_time_zone():
    """Rows in another time zone differ: the call in the thread decides."""
    assert in_sync() == (1, 0)
    with override_settings(TIME_ZONE="Asia/Tokyo", USE_TZ=False):
        stand_in = opened.stand_in("default")
        assert stand_in is None or stand_in.timezone_name == "Asia/Tokyo"
    assert opened.stand_in("default").timezone_name == "UTC"
