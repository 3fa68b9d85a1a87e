"""Batches that update and create the same rows at once."""

import threading

import pytest
from django.db import connection, transaction
from django.db.models import F

from ..models import CachedItem, KeyedByName, NonAtomicItem, PlusItem
from ..support.databases import isolation
from ..support.threads import elsewhere, start
from .rows import exist
from .test_bulk_races import TIMEOUT, together, until_done

pytestmark = pytest.mark.django_db(transaction=True)


def increments(codes):
    return [{"code": code, "size": F("size") + 1} for code in codes]


def batch(model, codes, **options):
    def call():
        return model.objects.bulk_update_or_create(
            increments(codes), create_defaults={"size": 1}, **options
        )

    return call


def within_atomic(call):
    def run():
        with transaction.atomic():
            return call()

    return run


def sizes_by_code(model):
    return dict(model._base_manager.values_list("code", "size"))


@pytest.mark.database("postgresql", "mysql")
@pytest.mark.parametrize("wrap", [within_atomic, lambda call: call])
@pytest.mark.parametrize("model", [CachedItem, NonAtomicItem, PlusItem])
class TestOppositeOrder:
    """Neither deadlocks, and no update is lost."""

    def test_existing_rows(self, model, wrap):
        codes = [f"{number:03}" for number in range(60)]
        exist(model, codes[::-1])
        calls = [wrap(batch(model, order)) for order in (codes, codes[::-1])]
        for _ in range(3):
            results = together(*calls)
            assert not [each for each in results if isinstance(each, Exception)]
        assert sizes_by_code(model) == dict.fromkeys(codes, 6)

    def test_new_rows(self, model, wrap):
        codes = [f"{number:03}" for number in range(60)]
        exist(model, codes[::3])
        results = together(
            *(wrap(batch(model, order)) for order in (codes, codes[::-1]))
        )
        assert not [each for each in results if isinstance(each, Exception)], results
        created = [obj.code for each in results for obj, new in each if new]
        assert sorted(created) == sorted(set(codes) - set(codes[::3]))
        assert sizes_by_code(model) == dict.fromkeys(codes, 2)

    def test_batches_of_several_statements(self, model, wrap):
        codes = [f"{number:03}" for number in range(60)]
        exist(model, codes[::-1])
        sizes = 7, 11
        results = together(
            *(
                wrap(batch(model, order, batch_size=size))
                for order, size in zip((codes, codes[::-1]), sizes, strict=True)
            )
        )
        assert not [each for each in results if isinstance(each, Exception)], results
        assert sizes_by_code(model) == dict.fromkeys(codes, 2)


@pytest.mark.database("postgresql", "mysql")
def test_many_batches_that_overlap():
    """No update is lost, and each row has one creator."""

    batches = [[f"{n:03}" for n in range(100 * i % 7, 200, i + 1)] for i in range(5)]
    calls = [until_done(batch(PlusItem, codes), updates=True) for codes in batches]
    results = together(*calls)
    assert not [each for each in results if isinstance(each, Exception)], results
    expected = {}
    for codes in batches:
        for code in codes:
            expected[code] = expected.get(code, 0) + 1
    assert sizes_by_code(PlusItem) == expected
    created = [obj.code for each in results for obj, new in each if new]
    assert sorted(created) == sorted(expected)


@pytest.mark.database("postgresql", "mysql")
@pytest.mark.parametrize("model", [CachedItem, NonAtomicItem, PlusItem])
class TestInterleavings:
    def test_winner_between_select_and_insert(self, model):
        """The row of the winner is updated, and not counted as created."""
        written = []

        def write(execute, sql, params, many, context):
            if sql.startswith("INSERT") and not written:
                written.append(1)
                elsewhere(batch(model, "bd"))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(write):
            found = batch(model, "abcd")()
        assert written
        assert [created for _, created in found] == [True, False, True, False]
        assert sizes_by_code(model) == {"a": 1, "b": 2, "c": 1, "d": 2}
        assert [obj.size for obj, _ in found] == [1, 2, 1, 2]

    def test_writer_waits_for_the_locked_row(self, model):
        exist(model, "ab", size=1)
        began, threads = threading.Event(), []

        def add_ten():
            began.set()
            model._base_manager.filter(code="a").update(size=F("size") + 10)

        def write(execute, sql, params, many, context):
            if sql.startswith("UPDATE") and not threads:
                threads.append(start(add_ten))
                assert began.wait(TIMEOUT)
            return execute(sql, params, many, context)

        rows = [{"code": "a", "size": 5}]
        with connection.execute_wrapper(write):
            model.objects.bulk_update_or_create(rows)
        threads[0].join(TIMEOUT)
        assert sizes_by_code(model)["a"] == 15
        assert model.objects.get_or_create(code="a")[0].size == 15

    def test_row_that_is_renamed_in_between(self, model):
        """A row that was found by its old name is not a row of the batch."""
        exist(model, "ab", size=1)
        renamed = []

        def write(execute, sql, params, many, context):
            result = execute(sql, params, many, context)
            if sql.startswith("SELECT") and "FOR UPDATE" not in sql and not renamed:
                renamed.append(1)
                elsewhere(lambda: model._base_manager.filter(code="a").update(code="z"))
            return result

        with connection.execute_wrapper(write):
            found = batch(model, "ab")()
        assert [created for _, created in found] == [bool(renamed), False]
        expected = {"a": 1, "b": 2, "z": 1} if renamed else {"a": 2, "b": 2}
        assert sizes_by_code(model) == expected

    def test_deleted_in_between(self, model):
        exist(model, "ab", size=1)
        deleted = []

        def write(execute, sql, params, many, context):
            if sql.startswith("SELECT") and not deleted:
                deleted.append(1)
                elsewhere(lambda: model._base_manager.filter(code="a").delete())
            return execute(sql, params, many, context)

        with connection.execute_wrapper(write):
            found = batch(model, "ab")()
        assert [created for _, created in found] == [True, False]
        assert sizes_by_code(model) == {"a": 1, "b": 2}


@pytest.mark.database("mysql")
def test_winner_behind_the_snapshot():
    connection.close()
    with isolation("repeatable read"):
        try:
            with transaction.atomic():
                assert not PlusItem.objects.exists()  # The snapshot begins.
                elsewhere(batch(PlusItem, "bd"))
                found = batch(PlusItem, "abcd")()
        finally:
            connection.close()
    assert [created for _, created in found] == [True, False, True, False]
    assert sizes_by_code(PlusItem) == {"a": 1, "b": 2, "c": 1, "d": 2}


@pytest.mark.database("sqlite")
def test_sqlite_takes_the_lock_first():
    """A transaction that has read may not write after another writer."""
    KeyedByName.objects.create(name="a", size=1)
    order = []

    def record(execute, sql, params, many, context):
        order.append(sql.split()[0])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(record):
        KeyedByName.objects.bulk_update_or_create([{"name": "a", "size": 2}], ["name"])
    assert order.index("UPDATE") < order.index("SELECT")
    assert KeyedByName.objects.get(name="a").size == 2
