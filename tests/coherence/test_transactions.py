"""Commit, rollback and savepoints, seen from inside and from elsewhere."""

import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from django.core.cache import caches
from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    connection,
    models,
    transaction,
)
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus.writes.guards import Conflict
from getorcreateplus.writes.invalidation import Statements, region_of

from ..models import Ferry, Ordinary, Paper, PlusPaper, Rack, Sheet, Ticket, Vessel
from ..support.caches import commands
from ..support.queries import count_row_statements, pages_of_row
from ..support.sql import execute
from ..support.threads import elsewhere, own_connections
from ..support.transactions import Rollback

committed = pytest.mark.django_db(transaction=True)

CACHED = pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper])


def commands_of_commit(write):
    """Return the cache commands that a commit gives, after these writes."""
    with ExitStack() as stack:
        stack.enter_context(transaction.atomic())
        write()
        return commands(stack.close)


@committed
@CACHED
class TestCommit:
    def test_created_row_is_warm(self, model):
        with transaction.atomic():
            model.objects.get_or_create(title="a", defaults={"pages": 1})
        assert pages_of_row(model) == (1, 0)
        assert elsewhere(lambda: pages_of_row(model)) == (1, 0)

    def test_updated_or_created_rows_are_warm(self, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 2})
            model.objects.update_or_create(title="b", defaults={"pages": 3})
        assert pages_of_row(model) == (2, 0)
        assert pages_of_row(model, "b") == (3, 0)

    def test_row_updated_twice_is_served_as_it_is(self, model):
        obj = model.objects.create(title="a", pages=1)
        with transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 2})
            obj.pages = 3
            obj.save()
        assert pages_of_row(model)[0] == 3

    def test_created_and_saved_row_is_served_as_it_is(self, model):
        with transaction.atomic():
            obj, _ = model.objects.get_or_create(title="a", defaults={"pages": 1})
            obj.pages = 2
            obj.save()
        assert pages_of_row(model)[0] == 2

    def test_created_and_deleted_row_is_gone(self, model):
        with transaction.atomic():
            obj, _ = model.objects.get_or_create(title="a")
            obj.delete()
        _, created = model.objects.get_or_create(title="a")
        assert created

    def test_saved_row_is_released(self, model):
        obj, _ = model.objects.get_or_create(title="a")
        with transaction.atomic():
            obj.pages = 5
            obj.save()
        assert pages_of_row(model) == (5, 1)
        assert pages_of_row(model) == (5, 0)

    def test_updated_rows_are_released(self, model):
        model.objects.get_or_create(title="a")
        with transaction.atomic():
            model.objects.update(pages=5)
        assert pages_of_row(model) == (5, 1)
        assert pages_of_row(model) == (5, 0)

    def test_hook_of_other_code_may_read_at_once(self, model):
        """Whether it was there before the first write, or came after it."""
        obj, _ = model.objects.get_or_create(title="a")
        seen = []
        with transaction.atomic():
            transaction.on_commit(lambda: seen.append(pages_of_row(model)[0]))
            obj.pages = 5
            obj.save()
            transaction.on_commit(lambda: seen.append(pages_of_row(model)[0]))
        assert seen == [5, 5]
        assert pages_of_row(model)[0] == 5

    def test_durable_block(self, model):
        with transaction.atomic(durable=True):
            model.objects.get_or_create(title="a", defaults={"pages": 1})
        assert pages_of_row(model) == (1, 0)


@committed
@CACHED
class TestRollback:
    def test_created_row_is_served_to_nobody(self, model):
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.get_or_create(title="a")
            raise Rollback
        _, created = model.objects.get_or_create(title="a")
        assert created

    def test_saved_row_is_served_as_it_was(self, model):
        obj, _ = model.objects.get_or_create(title="a", defaults={"pages": 1})
        with pytest.raises(Rollback), transaction.atomic():
            obj.pages = 2
            obj.save()
            assert pages_of_row(model)[0] == 2
            raise Rollback
        assert pages_of_row(model)[0] == 1
        assert elsewhere(lambda: pages_of_row(model))[0] == 1

    def test_published_row_is_served_as_it_was(self, model):
        model.objects.get_or_create(title="a", defaults={"pages": 1})
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 2})
            raise Rollback
        assert pages_of_row(model)[0] == 1

    def test_updated_rows_are_served_as_they_were(self, model):
        model.objects.get_or_create(title="a", defaults={"pages": 1})
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.update(pages=2)
            assert pages_of_row(model)[0] == 2
            raise Rollback
        assert pages_of_row(model)[0] == 1

    def test_deleted_row_is_served_again(self, model):
        obj, _ = model.objects.get_or_create(title="a", defaults={"pages": 1})
        with pytest.raises(Rollback), transaction.atomic():
            obj.delete()
            raise Rollback
        assert pages_of_row(model)[0] == 1

    def test_plain_create_is_served_to_nobody(self, model):
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.create(title="a")
            model.objects.get_or_create(title="a")
            raise Rollback
        _, created = model.objects.get_or_create(title="a")
        assert created

    def test_bulk_create_is_served_to_nobody(self, model):
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.bulk_create([model(title="a")])
            model.objects.get_or_create(title="a")
            raise Rollback
        _, created = model.objects.get_or_create(title="a")
        assert created


@committed
@CACHED
class TestInside:
    """What a transaction wrote is served inside it without a query."""

    def test_created(self, model):
        with transaction.atomic():
            obj, _ = model.objects.get_or_create(title="a", defaults={"pages": 1})
            assert pages_of_row(model) == (1, 0)
            hit, queries = count_row_statements(
                lambda: model.objects.get_or_create(pk=obj.pk)
            )
            assert (hit, queries) == ((obj, False), 0)

    def test_saved_after_it_was_read_again(self, model):
        obj, _ = model.objects.get_or_create(title="a")
        with transaction.atomic():
            obj.pages = 2
            obj.save()
            assert pages_of_row(model) == (2, 1)
            assert pages_of_row(model) == (2, 0)
            obj.pages = 3
            obj.save()
            assert pages_of_row(model) == (3, 1)
        assert pages_of_row(model)[0] == 3

    def test_updated_or_created(self, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 2})
            model.objects.update_or_create(title="b", defaults={"pages": 3})
            assert pages_of_row(model) == (2, 0)
            assert pages_of_row(model, "b") == (3, 0)

    def test_deleted(self, model):
        obj, _ = model.objects.get_or_create(title="a")
        with transaction.atomic():
            obj.delete()
            new, created = model.objects.get_or_create(title="a")
            assert created
            assert model.objects.get_or_create(title="a") == (new, False)
        assert model.objects.get_or_create(title="a") == (new, False)

    def test_written_by_query(self, model):
        model.objects.get_or_create(title="a")
        with transaction.atomic():
            model.objects.get_or_create(title="b", defaults={"pages": 0})
            model.objects.update(pages=7)
            assert pages_of_row(model) == (7, 1)
            assert pages_of_row(model, "b")[0] == 7
        assert pages_of_row(model)[0] == 7

    def test_values_cannot_be_changed_from_outside(self, model):
        with transaction.atomic():
            obj, _ = model.objects.get_or_create(title="a", defaults={"pages": 1})
            obj.pages = 99
            assert pages_of_row(model) == (1, 0)

    def test_nobody_else_sees_them(self, model):
        if connection.vendor == "sqlite":
            return  # the other connection would wait for the lock
        model.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 2})
            assert pages_of_row(model) == (2, 0)
            assert elsewhere(lambda: pages_of_row(model))[0] == 1
        assert elsewhere(lambda: pages_of_row(model))[0] == 2

    def test_written_by_query_before(self, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            model.objects.update(pages=2)
            model.objects.update_or_create(title="a", defaults={"pages": 3})
            assert pages_of_row(model)[0] == 3
        assert pages_of_row(model)[0] == 3

    def test_created_by_its_primary_key(self, model):
        with transaction.atomic():
            model.objects.get_or_create(pk=77, defaults={"title": "a", "pages": 1})
            assert pages_of_row(model)[0] == 1
        (obj, _), queries = count_row_statements(
            lambda: model.objects.get_or_create(pk=77)
        )
        assert (obj.pages, queries) == (1, 0)

    def test_more_rows_than_fit_are_asked_of_the_database(self, model):
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=3), transaction.atomic():
            for title in "abcde":
                model.objects.get_or_create(title=title, defaults={"pages": 1})
            for title in "abcde":
                assert pages_of_row(model, title)[0] == 1
            assert pages_of_row(model, "a")[1] == 1

    def test_row_of_many_names(self, model):
        obj = model.objects.create(title="a", pages=1)
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=3), transaction.atomic():
            for title in "bcdefgh":
                obj.title = title
                obj.save()
                assert pages_of_row(model, title)[0] == 1
                assert pages_of_row(model, title)[1] == 0
            [level] = connection.getorcreateplus_journal.levels
            assert 0 < len(level.hints) <= 3


@committed
@CACHED
class TestSavepoints:
    def test_rolled_back_row_is_gone(self, model):
        with transaction.atomic():
            model.objects.get_or_create(title="a", defaults={"pages": 1})
            with pytest.raises(Rollback), transaction.atomic():
                model.objects.get_or_create(title="b")
                model.objects.update_or_create(title="a", defaults={"pages": 2})
                raise Rollback
            assert pages_of_row(model)[0] == 1
            _, created = model.objects.get_or_create(title="b")
            assert created
        assert pages_of_row(model)[0] == 1

    def test_three_deep(self, model):
        def write(number):
            model.objects.update_or_create(title="a", defaults={"pages": number})
            assert pages_of_row(model)[0] == number

        with transaction.atomic():
            write(1)
            with transaction.atomic():
                write(2)
                with pytest.raises(Rollback), transaction.atomic():
                    write(3)
                    with transaction.atomic():
                        write(4)
                    raise Rollback
                assert pages_of_row(model)[0] == 2
                write(5)
                with transaction.atomic():
                    write(6)
                assert pages_of_row(model)[0] == 6
            assert pages_of_row(model)[0] == 6
            with pytest.raises(Rollback), transaction.atomic():
                write(7)
                raise Rollback
            assert pages_of_row(model)[0] == 6
        assert pages_of_row(model)[0] == 6
        assert elsewhere(lambda: pages_of_row(model))[0] == 6

    def test_write_after_the_rollback(self, model):
        obj, _ = model.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            with pytest.raises(Rollback), transaction.atomic():
                obj.pages = 2
                obj.save()
                raise Rollback
            assert pages_of_row(model)[0] == 1
            obj.pages = 3
            obj.save()
            assert pages_of_row(model)[0] == 3
        assert pages_of_row(model)[0] == 3

    def test_outer_write_is_newer_than_the_inner_one(self, model):
        obj, _ = model.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            obj.pages = 2
            obj.save()
            assert pages_of_row(model)[0] == 2
            with transaction.atomic():
                obj.pages = 3
                obj.save()
                assert pages_of_row(model)[0] == 3
            obj.pages = 4
            obj.save()
            assert pages_of_row(model)[0] == 4
            assert pages_of_row(model) == (4, 0)

    def test_savepoint_by_hand(self, model):
        """Django drops no hook of it, so that what it undid is not trusted."""
        with transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 1})
            savepoint = connection.savepoint()
            model.objects.update_or_create(title="a", defaults={"pages": 2})
            assert pages_of_row(model) == (2, 0)
            connection.savepoint_rollback(savepoint)
            assert pages_of_row(model)[0] == 1
        assert pages_of_row(model)[0] == 1

    @pytest.mark.parametrize("end", ["ROLLBACK TO SAVEPOINT s", "rollback to s"])
    def test_savepoint_by_sql(self, model, end):
        model.objects.create(title="a", pages=1)
        with transaction.atomic(), connection.cursor() as cursor:
            model.objects.update_or_create(title="a", defaults={"pages": 2})
            cursor.execute("SAVEPOINT s")
            model.objects.update_or_create(title="a", defaults={"pages": 3})
            model.objects.get_or_create(title="b", defaults={"pages": 1})
            cursor.execute(end)
            assert pages_of_row(model)[0] == 2
            assert not model.objects.filter(title="b").exists()
            assert model.objects.get_or_create(title="b", defaults={"pages": 4})[1]
            cursor.execute(end)
        assert pages_of_row(model)[0] == 2
        assert elsewhere(lambda: pages_of_row(model))[0] == 2
        assert model.objects.get_or_create(title="b")[1]

    @pytest.mark.database("postgresql")  # InnoDB keeps the lock.
    @pytest.mark.parametrize("by_sql", [False, True])
    def test_row_that_is_no_longer_locked(self, model, by_sql):
        """The savepoint took the row's lock with it: others may write it."""
        obj = model.objects.create(title="a", pages=1)
        with transaction.atomic(), connection.cursor() as cursor:
            model.objects.get_or_create(title="b")
            savepoint = "s" if by_sql else connection.savepoint()
            if by_sql:
                cursor.execute("SAVEPOINT s")
            obj.pages = 2
            obj.save()
            if by_sql:
                cursor.execute("ROLLBACK TO SAVEPOINT s")
            else:
                connection.savepoint_rollback(savepoint)
            assert pages_of_row(model)[0] == 1
            elsewhere(lambda: model.objects.update(pages=3))
            assert pages_of_row(model)[0] == model.objects.get(title="a").pages
        assert pages_of_row(model)[0] == 3


@committed
@pytest.mark.database("postgresql", "mysql")
class TestRowsOfOthers:
    """What a statement names but does not match is not this transaction's."""

    def test_row_that_was_not_there_yet(self):
        with transaction.atomic():
            Paper.objects.filter(pk=1).update(pages=1)
            elsewhere(lambda: Paper.objects.create(pk=1, title="a", pages=2))
            assert pages_of_row(Paper) == (2, 1)
            elsewhere(lambda: Paper.objects.update(pages=3))
            assert pages_of_row(Paper) == (3, 1)
        assert pages_of_row(Paper)[0] == 3

    def test_one_of_several(self):
        Paper.objects.create(pk=1, title="a", pages=1)
        with transaction.atomic():
            Paper.objects.filter(pk__in=[1, 2]).update(pages=2)
            elsewhere(lambda: Paper.objects.create(pk=2, title="b", pages=2))
            assert pages_of_row(Paper, "b") == (2, 1)
            elsewhere(lambda: Paper.objects.filter(pk=2).update(pages=3))
            assert pages_of_row(Paper, "b") == (3, 1)
        assert pages_of_row(Paper)[0] == 2
        assert pages_of_row(Paper, "b")[0] == 3

    def test_row_that_the_transaction_had_written_before(self):
        """The second statement matches nothing, and takes nothing away."""
        with transaction.atomic():
            obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
            Paper.objects.filter(pk=obj.pk, pages=7).update(pages=2)
            Paper.objects.filter(pk__in=[obj.pk, obj.pk + 1]).update(pages=3)
            assert pages_of_row(Paper) == (3, 1)
            assert pages_of_row(Paper) == (3, 0)
        assert pages_of_row(Paper)[0] == 3

    def test_row_of_two_tables(self):
        """A lock on the parent's row is none on the child's."""
        ferry = Ferry.objects.create(name="a", size=1, lanes=1)
        with transaction.atomic():
            Vessel.objects.filter(pk=ferry.pk).update(size=2)
            assert Ferry.objects.get_or_create(name="a")[0].lanes == 1
            elsewhere(lambda: Ferry.objects.filter(pk=ferry.pk).update(lanes=5))
            assert Ferry.objects.get_or_create(name="a")[0].lanes == 5


@committed
class TestErrors:
    """Of a transaction that the server has ended, and Django commits."""

    def write(self):
        Paper.objects.update_or_create(title="a", defaults={"pages": 2})
        Paper.objects.get_or_create(title="b", defaults={"pages": 2})

    def check_rolled_back(self):
        for reader in (lambda call: call(), elsewhere):
            assert reader(lambda: pages_of_row(Paper))[0] == 1
            assert not Paper.objects.filter(title="b").exists()
        assert elsewhere(lambda: Paper.objects.get_or_create(title="b"))[1]

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize("by", ["cursor", "queryset"])
    def test_error_that_is_caught(self, by):
        """The COMMIT after it is a ROLLBACK, without a word."""
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            self.write()
            with pytest.raises(DataError):
                if by == "cursor":
                    connection.cursor().execute("SELECT 1 / 0")
                else:
                    Paper.objects.extra(select={"x": "1 / 0"}).first()
            # No hit either, while Django may ask nothing.
            with pytest.raises(InternalError):
                Paper.objects.get_or_create(title="a")
        self.check_rolled_back()

    @pytest.mark.database("postgresql")
    def test_savepoint_mends_it(self):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            savepoint = connection.savepoint()
            with pytest.raises(DataError):
                connection.cursor().execute("SELECT 1 / 0")
            connection.savepoint_rollback(savepoint)
            assert pages_of_row(Paper) == (1, 0)

    @pytest.mark.database("postgresql")
    def test_lost_race_is_no_error(self):
        """What was written before it stays warm."""
        PlusPaper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            PlusPaper.objects.get_or_create(title="b", defaults={"pages": 2})
            with pytest.raises(Conflict):
                Statements()(
                    raise_conflict, "INSERT", (), False, {"connection": connection}
                )
            assert pages_of_row(PlusPaper, "b") == (2, 0)
        assert pages_of_row(PlusPaper, "b") == (2, 0)

    @pytest.mark.database("mysql")
    def test_deadlock_that_is_caught(self):
        """InnoDB has rolled all of it back."""
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        first, second = (Rack.objects.create(name=name) for name in "cd")
        waits, locked = threading.Event(), threading.Event()

        def deadlock():
            with transaction.atomic():
                # More rows, so that the other one is the victim.
                Sheet.objects.bulk_create(Sheet(title=f"{i}") for i in range(50))
                Rack.objects.select_for_update().get(pk=second.pk)
                locked.set()
                assert waits.wait(10)
                Rack.objects.select_for_update().get(pk=first.pk)

        with ThreadPoolExecutor(1) as pool, transaction.atomic():
            self.write()
            Rack.objects.select_for_update().get(pk=first.pk)
            other = pool.submit(own_connections()(deadlock))
            assert locked.wait(10)
            waits.set()
            with pytest.raises(OperationalError, match="1213"):
                Rack.objects.select_for_update().get(pk=second.pk)
            other.result(timeout=20)
        self.check_rolled_back()

    @pytest.mark.database("mysql")
    def test_statement_that_commits(self):
        """From then on others may write the row."""
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic(), connection.cursor() as cursor:
            self.write()
            cursor.execute("CREATE TABLE tests_other (id integer)")
            try:
                elsewhere(lambda: Paper.objects.update(pages=3))
                assert pages_of_row(Paper)[0] == 3
            finally:
                cursor.execute("DROP TABLE tests_other")

    @pytest.mark.database("postgresql")
    def test_commit_by_sql(self):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic(), connection.cursor() as cursor:
            self.write()
            cursor.execute("commit")
            elsewhere(lambda: Paper.objects.filter(title="a").update(pages=3))
            assert pages_of_row(Paper)[0] == 3
        assert pages_of_row(Paper)[0] == 3

    @pytest.mark.database("postgresql")
    def test_lost_connection_raises_an_error_of_django(self):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with pytest.raises(OperationalError), transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                [pid] = cursor.fetchone()
            # Nothing has been asked about this connection yet.
            assert connection.getorcreateplus_answer[0] is not connection.connection
            elsewhere(
                lambda: connection.cursor().execute(
                    "SELECT pg_terminate_backend(%s, 5000)", [pid]
                )
            )
            Paper.objects.get_or_create(title="a")
        connection.close()


def raise_conflict(*args):
    raise Conflict


@committed
class TestHooks:
    def test_hook_of_other_code_raises(self):
        """The rows are released all the same."""
        obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        other = Sheet.objects.create(title="a")

        def fail():
            raise Rollback

        with pytest.raises(Rollback), transaction.atomic():
            transaction.on_commit(fail)
            obj.pages = 2
            obj.save()
            Sheet.objects.update(pages=2)
        assert (pages_of_row(Paper), pages_of_row(Paper)) == ((2, 1), (2, 0))
        assert (pages_of_row(Sheet), pages_of_row(Sheet)) == ((2, 1), (2, 0))
        assert other.pk

    def test_lost_race_drops_the_hooks_of_the_loser_alone(self):
        """Of a create() that failed, not those before it."""
        ran = []
        PlusPaper.objects.create(pk=1, title="a")
        with transaction.atomic():
            transaction.on_commit(lambda: ran.append("before"))
            with pytest.raises(IntegrityError):
                PlusPaper.objects.get_or_create(title="b", defaults={"pk": 1})
            PlusPaper.objects.get_or_create(title="c")
            transaction.on_commit(lambda: ran.append("after"))
        assert ran == ["before", "after"]

    def test_many_hooks_of_other_code(self):
        ran = []
        with transaction.atomic():
            for i in range(30):
                PlusPaper.objects.get_or_create(title=f"{i}", defaults={"pages": i})
                transaction.on_commit(lambda i=i: ran.append(i))
        assert ran == list(range(30))
        assert pages_of_row(PlusPaper, "29") == (29, 0)


@committed
class TestReleases:
    def test_row_that_was_also_written_by_query(self):
        obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            obj.pages = 2
            obj.save()
            Paper.objects.update(pages=3)
        assert pages_of_row(Paper) == (3, 1)
        assert pages_of_row(Paper) == (3, 0)


@committed
class TestByHand:
    """A transaction whose beginning and end nobody tells."""

    def test_blocks_in_a_transaction_by_hand(self):
        obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        transaction.set_autocommit(False)
        try:
            with transaction.atomic():
                obj.pages = 2
                obj.save()
                Paper.objects.get_or_create(title="b")
                assert pages_of_row(Paper) == (2, 1)
                assert pages_of_row(Paper) == (2, 1)
            transaction.commit()
            elsewhere(lambda: Paper.objects.filter(title="a").update(pages=3))
            with transaction.atomic():
                assert pages_of_row(Paper) == (3, 1)
                obj.pages = 4
                obj.save()
            transaction.commit()
            # Another transaction, which sees it; the hooks have not run.
            assert elsewhere(lambda: pages_of_row(Paper))[0] == 4
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert pages_of_row(Paper)[0] == 4
        assert not Paper.objects.get_or_create(title="b")[1]

    def test_autocommit_off(self):
        obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        transaction.set_autocommit(False)
        try:
            obj.pages = 2
            obj.save()
            assert pages_of_row(Paper) == (2, 1)
            transaction.rollback()
            assert pages_of_row(Paper) == (1, 1)
            with transaction.atomic():
                obj.pages = 3
                obj.save()
                assert pages_of_row(Paper)[0] == 3
            transaction.rollback()
            # Not on SQLite, which commits with the last savepoint.
            assert pages_of_row(Paper)[0] == models.QuerySet(Paper).get().pages
            Paper.objects.update(pages=4)
            transaction.commit()
            assert pages_of_row(Paper)[0] == 4
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert pages_of_row(Paper)[0] == 4
        assert elsewhere(lambda: pages_of_row(Paper))[0] == 4

    def test_broken_transaction_answers_nothing(self):
        Paper.objects.get_or_create(title="a")
        with transaction.atomic():
            Paper.objects.get_or_create(title="b")
            transaction.set_rollback(True)
            for title in "ab":
                with pytest.raises(transaction.TransactionManagementError):
                    Paper.objects.get_or_create(title=title)


@committed
class TestIsolation:
    @pytest.mark.database("sqlite")
    def test_sqlite_with_a_write_ahead_log(self, tmp_path):
        """Others commit while this transaction sees what was before."""
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode = wal")
        connection.close()
        try:
            with transaction.atomic():
                assert Paper.objects.get(title="a").pages == 1
                elsewhere(lambda: Paper.objects.update(pages=2))
                elsewhere(lambda: [pages_of_row(Paper) for _ in range(2)])
                assert pages_of_row(Paper) == (1, 1)
            assert pages_of_row(Paper) == (2, 0)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA journal_mode = delete")
            connection.close()

    def test_sqlite_fills_only_what_it_created(self):
        Paper.objects.create(title="a", pages=1)
        in_sqlite = connection.vendor == "sqlite"
        with transaction.atomic():
            assert pages_of_row(Paper) == (1, 1)
            assert pages_of_row(Paper) == (1, 1 if in_sqlite else 0)
        pages_of_row(Paper)
        with transaction.atomic():
            assert pages_of_row(Paper) == (1, 0)

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_postgresql_above_read_committed(self, level):
        """The server gives it, which Django does not know."""
        with connection.cursor() as cursor:
            cursor.execute(f"SET default_transaction_isolation = '{level.lower()}'")
        try:
            self.check_above_read_committed()
        finally:
            connection.close()

    @pytest.mark.database("mysql")
    @pytest.mark.parametrize("level", ["repeatable read", "serializable", None])
    def test_mysql_above_read_committed(self, level):
        connection.close()
        options = connection.settings_dict["OPTIONS"]
        connection.settings_dict["OPTIONS"] = options | {"isolation_level": level}
        try:
            self.check_above_read_committed()
        finally:
            connection.close()
            connection.settings_dict["OPTIONS"] = options

    def check_above_read_committed(self):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            assert list(Paper.objects.values_list("pages")) == [(1,)]
            if connection.isolation_level != "serializable":
                # Another transaction's commit, which this one must not see.
                elsewhere(
                    lambda: Paper.objects.update_or_create(
                        title="a", defaults={"pages": 2}
                    )
                )
                assert pages_of_row(Paper) == (1, 1)
            assert pages_of_row(Paper)[1] == 1
            Paper.objects.get_or_create(title="b", defaults={"pages": 1})
            assert pages_of_row(Paper, "b") == (1, 0)
        assert pages_of_row(Paper) == (Paper.objects.get(title="a").pages, 0)
        assert pages_of_row(Paper, "b") == (1, 0)


@committed
class TestRequests:
    @override_settings(ROOT_URLCONF="tests.coherence.test_transactions")
    def test_atomic_requests(self, client):
        connection.settings_dict["ATOMIC_REQUESTS"] = True
        try:
            with pytest.raises(Rollback):
                client.get("/fail/")
            client.get("/")
        finally:
            connection.settings_dict["ATOMIC_REQUESTS"] = False
        assert pages_of_row(Paper) == (1, 0)


def create_paper(request):
    from django.http import HttpResponse

    obj, created = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    return HttpResponse(f"{obj.pk} {created}")


def fail(request):
    create_paper(request)
    raise Rollback


def urlpatterns():
    from django.urls import path

    return [path("", create_paper), path("fail/", fail)]


urlpatterns = urlpatterns()


@committed
class TestCommandsAtCommit:
    """They do not grow with the rows."""

    @pytest.mark.parametrize(
        ("rows", "late"), [(2, 0), (4, 0), (5, 1), (20, 4), (40, 3), (201, 0)]
    )
    @pytest.mark.parametrize("model", [Paper, Sheet])
    def test_created(self, model, rows, late):
        def create():
            for i in range(rows):
                model.objects.get_or_create(title=f"{i}")

        made = commands_of_commit(create)
        assert made == ["add"] * late + ["get_many"] * (late > 0) + ["set_many"] * (
            2 if model is Paper else 1
        )
        for i in range(rows):
            assert pages_of_row(model, f"{i}") == (None, 0)

    @pytest.mark.parametrize("rows", [2, 40])
    def test_saved(self, rows):
        papers = [Paper.objects.get_or_create(title=f"{i}")[0] for i in range(rows)]

        def save():
            for paper in papers:
                paper.pages = 1
                paper.save()

        assert commands_of_commit(save) == ["set_many"]


@committed
class TestManyCreatedRows:
    """Of one transaction, which the cache is told of together."""

    def test_rows_after_the_first_cost_a_fraction_of_a_command(self):
        with transaction.atomic():
            made = commands(
                lambda: [Sheet.objects.get_or_create(title=f"{i}") for i in range(100)]
            )
        # The first two are looked for, and get a version each.
        assert made.count("set_many") == 12
        assert len(made) < 20

    @pytest.mark.database("postgresql")
    def test_first_row_looks_at_the_epoch_and_the_clock_once(self):
        Sheet.objects.get_or_create(title="before")
        with transaction.atomic():
            made = commands(lambda: Sheet.objects.get_or_create(title="0"))
        assert made == ["get_many", "add"]

    def test_row_that_is_there_ends_the_streak(self):
        Sheet.objects.create(title="known", pages=1)
        with transaction.atomic():
            for i in range(7):
                Sheet.objects.get_or_create(title=f"{i}")
            assert commands(lambda: Sheet.objects.get_or_create(title="7")) == []
            assert pages_of_row(Sheet, "known") == (1, 1)
            assert commands(lambda: Sheet.objects.get_or_create(title="8")) != []

    def create_before(self, call):
        """Create rows, with another writer between COMMIT and release."""
        commit = connection.commit

        def commit_slowly():
            commit()
            elsewhere(call)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "commit", commit_slowly)
            with transaction.atomic():
                for i in range(6):
                    Paper.objects.get_or_create(title=f"{i}", defaults={"pages": 1})

    def save_last(self):
        paper = Paper.objects.get(title="5")
        paper.pages = 2
        paper.save()
        return paper

    def test_another_writer_is_quicker(self):
        self.create_before(self.save_last)
        assert pages_of_row(Paper, "5") == (2, 1)
        assert pages_of_row(Paper, "3") == (1, 0)

    def test_another_writer_is_quicker_and_its_version_is_lost(self):
        """The clock tells: rule recheck."""

        def save_and_evict():
            paper = self.save_last()
            caches["paper"].delete(
                region_of(Paper.objects.all()).version(f"{paper.pk}")
            )

        self.create_before(save_and_evict)
        assert pages_of_row(Paper, "5") == (2, 1)

    def test_writer_of_another_row(self):
        other = Paper.objects.create(title="other")
        self.create_before(other.save)
        assert pages_of_row(Paper, "5") == (1, 1)
        assert pages_of_row(Paper, "5") == (1, 0)

    def test_own_write_of_another_row(self):
        other = Paper.objects.create(title="other")
        with transaction.atomic():
            for i in range(6):
                Paper.objects.get_or_create(title=f"{i}", defaults={"pages": 1})
            other.save()
        assert pages_of_row(Paper, "5") == (1, 0)

    def test_savepoint_that_is_rolled_back(self):
        with transaction.atomic():
            for i in range(6):
                Paper.objects.get_or_create(title=f"{i}")
            with pytest.raises(Rollback), transaction.atomic():
                for i in range(6, 30):
                    Paper.objects.get_or_create(title=f"{i}")
                raise Rollback
            for i in range(20, 50):
                Paper.objects.get_or_create(title=f"{i}", defaults={"pages": 2})
        assert not Paper.objects.filter(title="7").exists()
        for i in (20, 29, 49):
            assert pages_of_row(Paper, f"{i}")[0] == 2

    def test_key_that_was_given_is_told_at_once(self):
        """Others may know it before the commit."""

        def create():
            for i in range(5):
                Ticket.objects.get_or_create(code=f"{i}")

        assert commands_of_commit(create) == ["set_many"]


@committed
@pytest.mark.database("postgresql", "mysql")
class TestSessions:
    """No other session is served what one reads under its own settings."""

    SETTINGS = {
        "postgresql": "SET LOCAL extra_float_digits = -5",
        "mysql": "SET sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'",
    }

    @pytest.fixture(autouse=True)
    def row(self):
        self.pk = Ordinary.objects.create(char="a", number=1 / 3).pk
        yield
        connection.close()

    def number(self):
        return Ordinary.objects.get_or_create(char="a")[0].number

    def change(self):
        execute(self.SETTINGS[connection.vendor])

    def test_read(self):
        with transaction.atomic():
            self.change()
            self.number()
        assert elsewhere(self.number) == 1 / 3

    def test_hit(self):
        self.number()
        with transaction.atomic():
            self.change()
            with CaptureQueriesContext(connection) as queries:
                self.number()
        assert len(queries) == 1

    def test_writes(self):
        with transaction.atomic():
            self.change()
            Ordinary.objects.update_or_create(char="a", defaults={"slug": "x"})
            Ordinary.objects.get_or_create(char="new", defaults={"number": 2 / 3})
            Ordinary.objects.bulk_get_or_create(
                [{"char": "of a batch", "number": 2 / 3}], unique_fields=["char"]
            )
        region = region_of(Ordinary.objects.all())
        pks = map(str, Ordinary.objects.values_list("pk", flat=True))
        entries = elsewhere(region.store.get_many, list(map(region.payload, pks)))
        assert not any(entries.values())

    @pytest.mark.database("postgresql")
    def test_function_that_sets(self):
        with transaction.atomic():
            execute("SELECT set_config('extra_float_digits', '-5', true)")
            self.number()
        assert elsewhere(self.number) == 1 / 3

    @pytest.mark.database("mysql")
    @pytest.mark.parametrize("by_sql", [True, False])
    def test_what_is_not_committed(self, by_sql, monkeypatch):
        options = connection.settings_dict["OPTIONS"]

        def read():
            if by_sql:
                execute("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
            return Ordinary.objects.get_or_create(char="dirty")[1]

        with pytest.raises(Rollback), transaction.atomic():
            Ordinary.objects.create(char="dirty")
            if not by_sql:
                monkeypatch.setitem(options, "isolation_level", "read uncommitted")
            assert not elsewhere(read)
            raise Rollback
        monkeypatch.undo()
        assert Ordinary.objects.get_or_create(char="dirty")[1]

    def test_next_connection(self):
        self.change()
        connection.close()
        for _ in range(2):
            self.number()
        with CaptureQueriesContext(connection) as queries:
            self.number()
        assert len(queries) == 0


class TestBlocksOfATestCase(TestCase):
    """Each counts as a transaction of its own."""

    def test_epoch_of_another_block(self):
        for title in "ab":
            with transaction.atomic():
                Sheet.objects.get_or_create(title=title)
            assert pages_of_row(Sheet, title) == (None, 0)
            Sheet.objects.update(pages=None)

    def test_streak_of_another_block(self):
        Sheet.objects.create(title="known")
        with transaction.atomic():
            for i in range(9):
                Sheet.objects.get_or_create(title=f"{i}")
        Sheet.objects.create(title="known as well")
        with transaction.atomic():
            assert pages_of_row(Sheet, "known as well") == (None, 1)
        expected = (None, 0) if connection.vendor != "sqlite" else (None, 1)
        assert pages_of_row(Sheet, "known as well") == expected


class TestOfUsers(unittest.TestCase):
    """
    Caching works in a TestCase as in production, and nothing is left of it.
    """

    def run_tests(self, case):
        result = unittest.TestResult()
        unittest.TestLoader().loadTestsFromTestCase(case).run(result)
        assert result.errors + result.failures == []
        assert result.testsRun == 2

    @pytest.fixture(autouse=True)
    def database(self, django_db_setup, django_db_blocker):
        with django_db_blocker.unblock():
            yield

    def test_nothing_of_one_test_is_a_hit_or_a_lock_in_the_next(self):
        class Tests(TestCase):
            def check(self):
                obj, created = Paper.objects.get_or_create(
                    pk=1, defaults={"title": "new", "pages": 1}
                )
                assert created
                assert (
                    count_row_statements(lambda: Paper.objects.get_or_create(pk=1))[1]
                    == 0
                )
                obj.title = "changed"
                obj.save()
                (hit, _), queries = count_row_statements(
                    lambda: Paper.objects.get_or_create(pk=1)
                )
                assert (hit.title, queries) == ("changed", 1)
                assert (
                    count_row_statements(lambda: Paper.objects.get_or_create(pk=1))[1]
                    == 0
                )
                with pytest.raises(Rollback), transaction.atomic():
                    obj.title = "never"
                    obj.save()
                    Paper.objects.update(title="nor this")
                    raise Rollback
                hit, _ = Paper.objects.get_or_create(pk=1)
                assert hit.title == "changed"

            def test_one(self):
                self.check()

            def test_two(self):
                self.check()

        self.run_tests(Tests)

    def test_block_that_ended_counts_as_committed(self):
        class Tests(TestCase):
            @classmethod
            def setUpTestData(cls):
                cls.paper, _ = Paper.objects.get_or_create(title="a")

            def check(self):
                with transaction.atomic():
                    self.paper.pages = 2
                    self.paper.save()
                    Paper.objects.get_or_create(title="b", defaults={"pages": 3})
                assert pages_of_row(Paper) == (2, 1)
                assert pages_of_row(Paper) == (2, 0)
                assert pages_of_row(Paper, "b") == (3, 0)
                Paper.objects.update_or_create(title="a", defaults={"pages": 4})
                assert pages_of_row(Paper) == (4, 0)

            def test_one(self):
                self.check()

            def test_two(self):
                with self.captureOnCommitCallbacks(execute=True):
                    self.check()
                assert pages_of_row(Paper) == (4, 0)

        self.run_tests(Tests)
