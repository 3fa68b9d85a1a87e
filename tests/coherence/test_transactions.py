"""
Commit, rollback and savepoints, seen from inside and from other connections.
"""

import pytest
from django.db import connection, transaction
from django.test import override_settings

from ..models import Ferry, Paper, PlusPaper, Sheet, Vessel
from ..support.errors import Rollback
from ..support.queries import count_row_statements, pages_of_row
from ..support.threads import elsewhere

committed = pytest.mark.django_db(transaction=True)

CACHED = pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper])


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
        """The row was there before the first write, or was read after it."""
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
    def test_created_row_is_not_served(self, model):
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

    def test_plain_create_is_not_served(self, model):
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.create(title="a")
            model.objects.get_or_create(title="a")
            raise Rollback
        _, created = model.objects.get_or_create(title="a")
        assert created

    def test_bulk_create_is_not_served(self, model):
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.bulk_create([model(title="a")])
            model.objects.get_or_create(title="a")
            raise Rollback
        _, created = model.objects.get_or_create(title="a")
        assert created


@committed
@CACHED
class TestInside:
    """Rows that a transaction wrote are served inside it without a query."""

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

    def test_others_do_not_see_them(self, model):
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
        """
        Django does not drop its hooks, so the undone rows are not trusted.
        """
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
        """
        The row's lock ended with the savepoint, so other connections may write
        it.
        """
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
    """
    A row that a statement names but does not match is not locked by this
    transaction.
    """

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
        """The second statement does not match a row, and changes nothing."""
        with transaction.atomic():
            obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
            Paper.objects.filter(pk=obj.pk, pages=7).update(pages=2)
            Paper.objects.filter(pk__in=[obj.pk, obj.pk + 1]).update(pages=3)
            assert pages_of_row(Paper) == (3, 1)
            assert pages_of_row(Paper) == (3, 0)
        assert pages_of_row(Paper)[0] == 3

    def test_row_of_two_tables(self):
        """A lock on the parent's row does not lock the child's row."""
        ferry = Ferry.objects.create(name="a", size=1, lanes=1)
        with transaction.atomic():
            Vessel.objects.filter(pk=ferry.pk).update(size=2)
            assert Ferry.objects.get_or_create(name="a")[0].lanes == 1
            elsewhere(lambda: Ferry.objects.filter(pk=ferry.pk).update(lanes=5))
            assert Ferry.objects.get_or_create(name="a")[0].lanes == 5


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
