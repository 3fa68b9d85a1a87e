"""Batches that create the same rows at once."""

import threading

import pytest
from django.db import OperationalError, connection, transaction

from ..models import PlusItem
from ..support.databases import isolation
from ..support.threads import elsewhere, start

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)
TIMEOUT = 20  # seconds
DEADLOCK = 1213  # of MariaDB and MySQL


# Races


def together(*calls):
    """Run the calls at the same time, each with its own connection."""
    barrier = threading.Barrier(len(calls))
    results = [None] * len(calls)

    def run(index, call):
        try:
            connection.ensure_connection()
            barrier.wait(TIMEOUT)
            results[index] = call()
        except Exception as error:
            results[index] = error

    threads = [start(run, *each) for each in enumerate(calls)]
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "A batch waits forever"
    return results


def until_done(call, updates=False):
    """
    InnoDB may make one of three or more try again, even if they are sorted. So
    may PostgreSQL, if they update rows.
    """

    def retry():
        for _ in range(20):
            try:
                return call()
            except OperationalError as error:
                if connection.vendor == "postgresql":
                    is_deadlock = updates and error.__cause__.sqlstate == "40P01"
                else:
                    is_deadlock = error.args[0] == DEADLOCK
                if not is_deadlock:
                    raise
        raise AssertionError("Twenty deadlocks in a row")

    return retry


@committed
@pytest.mark.database("postgresql", "mysql")
class TestRaces:
    def batch(self, codes, model=PlusItem):
        def call():
            with transaction.atomic():
                return model.objects.bulk_get_or_create([{"code": c} for c in codes])

        return call

    def check(self, results, *batches):
        for result, codes in zip(results, batches, strict=True):
            assert not isinstance(result, Exception), result
            assert [obj.code for obj, _ in result] == list(codes)
        pks = dict(PlusItem.objects.values_list("code", "pk"))
        assert len(pks) == len(set().union(*batches))
        creators = {}
        for result in results:
            for obj, created in result:
                assert obj.pk == pks[obj.code]
                if created:
                    creators[obj.code] = creators.get(obj.code, 0) + 1
        assert creators == dict.fromkeys(pks, 1)

    @pytest.mark.parametrize("level", ["read committed", "repeatable read"])
    def test_opposite_order(self, level):
        if connection.vendor == "postgresql" and level == "repeatable read":
            return self.check_serialization()
        codes = [str(number) for number in range(500)]
        with isolation(level):
            results = together(self.batch(codes), self.batch(codes[::-1]))
        self.check(results, codes, codes[::-1])
        return None

    def check_serialization(self):
        """PostgreSQL makes one of them try again, as with single calls."""
        codes = [str(number) for number in range(500)]
        with isolation("repeatable read"):
            results = together(self.batch(codes), self.batch(codes[::-1]))
        errors = [each for each in results if isinstance(each, Exception)]
        assert all(isinstance(error, OperationalError) for error in errors)
        assert len(errors) < 2
        assert PlusItem.objects.count() == 500

    def test_batches_that_overlap(self):
        batches = [
            [str(number) for number in range(100 * i % 7, 300, i + 1)] for i in range(6)
        ]
        results = together(*(until_done(self.batch(each)) for each in batches))
        self.check(results, *batches)

    def test_winner_between_select_and_insert(self):
        """
        The race is certain: it commits while the loser is about to insert.
        """
        loser = self.batch("abcd")

        def write(execute, sql, params, many, context):
            if sql.startswith("INSERT") and not written:
                written.append(1)
                elsewhere(self.batch("bd"))
            return execute(sql, params, many, context)

        written = []
        with connection.execute_wrapper(write):
            found = loser()
        assert written
        assert [(obj.code, created) for obj, created in found] == [
            *(("a", True), ("b", False), ("c", True), ("d", False))
        ]

    @pytest.mark.database("mysql")
    def test_winner_behind_the_snapshot(self):
        connection.close()
        with isolation("repeatable read"):
            try:
                self.test_winner_between_select_and_insert()
            finally:
                connection.close()


@committed
def test_winner_in_autocommit():
    """
    Also on SQLite, where other connections cannot write during a transaction.
    """

    def write(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith("SELECT") and not written:
            written.append(1)
            elsewhere(lambda: PlusItem.objects.create(code="b", size=7))
        return result

    written = []
    with connection.execute_wrapper(write):
        found = PlusItem.objects.bulk_get_or_create([{"code": c} for c in "abc"])
    assert written
    assert [(obj.size, created) for obj, created in found] == [
        *((0, True), (7, False), (0, True))
    ]
