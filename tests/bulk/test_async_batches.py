"""aibulk_get_or_create(): rows of sync and async iterables, batch by batch."""

import asyncio
import contextvars
import threading
from contextlib import aclosing

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, transaction
from django.db.models import F

from ..models import (
    AlwaysItem,
    Barrel,
    CachedItem,
    NonAtomicItem,
    Pier,
    PlusItem,
    Rack,
)
from ..support.coroutines import by_async_to_sync, by_asyncio, with_hops

TIMEOUT = 20  # seconds

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def codes_of(model=PlusItem):
    return sorted(model._base_manager.values_list("code", flat=True))


async def async_rows(codes):
    for code in codes:
        await asyncio.sleep(0)
        yield {"code": code}


KINDS = {
    "list": lambda codes: [{"code": code} for code in codes],
    "generator": lambda codes: ({"code": code} for code in codes),
    "async generator": async_rows,
}


async def collect(results):
    return [result async for result in results]


@pytest.mark.parametrize("kind", KINDS)
class TestIterables:
    @pytest.mark.parametrize("model", [AlwaysItem, CachedItem, NonAtomicItem, PlusItem])
    def test_results_are_those_of_the_sync_iterator(self, run, kind, model):
        model._base_manager.create(code="b")

        async def call(codes):
            results = model.objects.aibulk_get_or_create(
                KINDS[kind](codes), batch_size=2
            )
            return await collect(results)

        found = run(call, "abcab")
        assert [(obj.code, created) for obj, created in found] == [
            ("a", True),
            ("b", False),
            ("c", True),
            ("a", False),
            ("b", False),
        ]
        assert all(obj.pk for obj, _ in found)
        assert codes_of(model) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("count", "size", "expected"), [(5, 2, 3), (1, 2, 1), (3, None, 1), (0, 2, 1)]
    )
    def test_one_hop_for_each_batch(self, run, kind, count, size, expected):
        async def call():
            rows = KINDS[kind]("abcde"[:count])
            results = PlusItem.objects.aibulk_get_or_create(rows, batch_size=size)
            return await with_hops(collect(results))

        found, made = run(call)
        assert (len(found), made) == (count, expected)

    def test_hops_of_full_batches(self, run, kind):
        """Only the next call detects the end of a sync iterable."""

        async def call():
            results = PlusItem.objects.aibulk_get_or_create(
                KINDS[kind]("abcd"), batch_size=2
            )
            return await with_hops(collect(results))

        found, made = run(call)
        assert (len(found), made) == (4, 2 if kind == "async generator" else 3)

    def test_nothing_is_taken_before_it_is_needed(self, run, kind):
        taken = []

        def codes():
            for code in "abcdef":
                taken.append(code)
                yield code

        async def call():
            rows = KINDS["generator"] if kind == "list" else KINDS[kind]
            found = PlusItem.objects.aibulk_get_or_create(rows(codes()), batch_size=2)
            before = [*taken]
            async with aclosing(found):
                await anext(found)
                await anext(found)
            return before, [*taken]

        assert run(call) == ([], ["a", "b"])
        assert codes_of() == ["a", "b"]

    @pytest.mark.parametrize("size", [0, -1])
    def test_batch_size(self, run, kind, size):
        async def call():
            await collect(
                PlusItem.objects.aibulk_get_or_create(
                    KINDS[kind]("ab"), batch_size=size
                )
            )

        with pytest.raises(ValueError, match="must be a positive integer"):
            run(call)
        assert codes_of() == []

    def test_bad_row(self, run, kind):
        """The error names its position. The batches before it are done."""

        async def call(found):
            results = PlusItem.objects.aibulk_get_or_create(
                KINDS[kind](["a", "b", "c", []]), batch_size=2
            )
            async for obj, _ in results:
                found.append(obj.code)

        found = []
        with pytest.raises((TypeError, ValueError), match="Row 3"):
            run(call, found)
        assert found == codes_of() == ["a", "b"]

    def test_error_of_the_source(self, run, kind):
        def codes():
            yield from "abc"
            raise LookupError("the source")

        async def call(found):
            rows = KINDS["generator"] if kind == "list" else KINDS[kind]
            async for obj, _ in PlusItem.objects.aibulk_get_or_create(
                rows(codes()), batch_size=2
            ):
                found.append(obj.code)

        found = []
        with pytest.raises(LookupError, match="the source"):
            run(call, found)
        assert found == codes_of() == ["a", "b"]

    def test_early_end(self, run, kind):
        """The yielded rows are committed, and no further batch has begun."""

        async def call():
            found = PlusItem.objects.aibulk_get_or_create(
                KINDS[kind]("abcdef"), batch_size=2
            )
            async for obj, _ in found:
                if obj.code == "c":
                    break
            await found.aclose()
            assert await collect(found) == []

        run(call)
        assert codes_of() == ["a", "b", "c", "d"]
        assert not connection.in_atomic_block

    def test_what_is_left_is_the_owners(self, run, kind):
        async def call():
            rows = KINDS[kind]("abcdef")
            rows = iter(rows) if kind == "list" else rows
            found = PlusItem.objects.aibulk_get_or_create(rows, batch_size=2)
            async with aclosing(found):
                await anext(found)
            if kind == "async generator":
                return [row["code"] async for row in rows]
            return [row["code"] for row in rows]

        assert run(call) == ["c", "d", "e", "f"]

    def test_context_variables(self, run, kind):
        """The source sees the context variables of the caller."""
        variable = contextvars.ContextVar("variable")

        def codes():
            for _ in range(2):
                yield variable.get()

        async def call():
            variable.set("of the task")
            rows = KINDS["generator"] if kind == "list" else KINDS[kind]
            return await collect(PlusItem.objects.aibulk_get_or_create(rows(codes())))

        [(obj, _), (other, _)] = run(call)
        assert obj is other
        assert obj.code == "of the task"

    def test_in_a_transaction(self, kind):
        """Each batch has a savepoint in the caller's transaction, or none."""

        async def call():
            results = PlusItem.objects.aibulk_get_or_create(
                KINDS[kind]("abc"), batch_size=2
            )
            return len(await collect(results))

        with transaction.atomic():
            assert async_to_sync(call)() == 3
            transaction.set_rollback(True)
        assert codes_of() == []


class TestSources:
    def test_source_that_queries(self, run):
        """It is consumed in the thread of the batch."""
        threads = []

        def rows():
            for rack in Rack.objects.order_by("name").iterator(chunk_size=1):
                threads.append(threading.get_ident())
                yield {"code": rack.name}

        Rack.objects.bulk_create([Rack(name=name) for name in "abc"])

        async def call():
            results = PlusItem.objects.aibulk_get_or_create(rows(), batch_size=2)
            return (*await with_hops(collect(results)), threading.get_ident())

        found, made, here = run(call)
        assert [obj.code for obj, _ in found] == ["a", "b", "c"]
        assert made == 2
        assert here not in threads

    def test_queryset(self, run):
        """It is also an async iterable, whose query would be another hop."""
        Rack.objects.bulk_create([Rack(name=name) for name in "abc"])

        async def call():
            racks = (
                Rack.objects.order_by("name").annotate(code=F("name")).values("code")
            )
            return await with_hops(
                collect(PlusItem.objects.aibulk_get_or_create(racks))
            )

        found, made = run(call)
        assert ([obj.code for obj, _ in found], made) == (["a", "b", "c"], 1)

    def test_async_source_that_queries(self, run):
        Rack.objects.bulk_create([Rack(name=name) for name in "abc"])

        async def rows():
            async for rack in Rack.objects.order_by("name"):
                yield {"code": rack.name}

        async def call():
            return await collect(PlusItem.objects.aibulk_get_or_create(rows()))

        assert [obj.code for obj, _ in run(call)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["barrels", "listed", "labelled"])
def test_related_managers(run, name):
    pier = Pier.objects.create(name="north")
    getattr(pier, name)  # A generic relation's manager queries its content type.

    async def call():
        manager = getattr(pier, name)
        results = manager.aibulk_get_or_create(
            [{"name": name} for name in "abc"], batch_size=2
        )
        return await with_hops(collect(results))

    _, made = run(call)
    assert made == 2
    assert sorted(barrel.name for barrel in getattr(pier, name).all()) == [*"abc"]
    assert Barrel.plain.count() == 3


def test_methods_of_the_iterator():
    for source in PlusItem.objects, PlusItem.objects.all():
        assert source.aibulk_get_or_create.alters_data
    results = PlusItem.objects.aibulk_get_or_create([])
    assert hasattr(results, "aclose")
    assert by_asyncio(collect, results) == []


class TestCancellation:
    def test_between_batches(self):
        async def call():
            async def consume():
                async for obj, _ in PlusItem.objects.aibulk_get_or_create(
                    async_rows("abcd"), batch_size=2
                ):
                    if obj.code == "b":
                        reached.set()
                        await asyncio.sleep(TIMEOUT)

            reached = asyncio.Event()
            task = asyncio.create_task(consume())
            await asyncio.wait_for(reached.wait(), TIMEOUT)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        by_asyncio(call)
        assert codes_of() == ["a", "b"]

    def test_in_a_batch(self):
        """
        Its thread runs to the end: all of the batch is written, or nothing.
        """
        has_begun, may_go_on = threading.Event(), threading.Event()

        def rows():
            yield {"code": "a"}
            has_begun.set()
            assert may_go_on.wait(TIMEOUT)
            yield {"code": "b"}
            yield {"code": "c"}

        async def call():
            results = PlusItem.objects.aibulk_get_or_create(rows(), batch_size=2)
            task = asyncio.create_task(collect(results))
            await asyncio.get_running_loop().run_in_executor(
                None, has_begun.wait, TIMEOUT
            )
            task.cancel()
            await asyncio.sleep(0)
            may_go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            await sync_to_async(lambda: None)()  # The thread has ended the batch.

        by_asyncio(call)
        assert codes_of() == ["a", "b"]


def test_runs_in_the_callers_thread():
    """With async_to_sync(), each batch has the connection of the caller."""
    threads = set()

    def rows():
        threads.add(threading.get_ident())
        yield {"code": "a"}

    async def call():
        await collect(PlusItem.objects.aibulk_get_or_create(rows()))

    by_async_to_sync(call)
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_update_or_create(run, asynchronous):
    """Each batch is one call in a thread, and a transaction of its own."""
    PlusItem.objects.create(code="b", size=1)
    rows = [{"code": code, "size": 3} for code in "abc"]

    async def rows_as_they_come():
        for row in rows:
            yield row

    async def call():
        results = PlusItem.objects.aibulk_update_or_create(
            rows_as_they_come() if asynchronous else rows,
            update_fields=["size"],
            create_defaults={"size": 2},
            batch_size=2,
        )
        return await with_hops(collect(results))

    found, made = run(call)
    assert made == 2
    assert [(obj.code, obj.size, created) for obj, created in found] == [
        *(("a", 2, True), ("b", 3, False), ("c", 2, True))
    ]
    assert PlusItem.objects.aibulk_update_or_create.alters_data
