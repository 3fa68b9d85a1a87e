"""A transaction releases its rows even if savepoints are rolled back."""

from contextlib import suppress

import pytest
from django.db import connection, transaction

from getorcreateplus import invalidate

from ..models import Paper, PlusPaper, Sheet
from ..support.errors import Rollback
from ..support.queries import pages_of_row
from ..support.threads import elsewhere

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper]),
]


def fail(*blocks):
    """Run the blocks in an atomic() that is rolled back."""
    with suppress(Rollback), transaction.atomic():
        for block in blocks:
            block()
        raise Rollback


def save(model, title, pages=2):
    obj = model._base_manager.get(title=title)
    obj.pages = pages
    obj.save()


def update(model, title, pages=2):
    model._base_manager.filter(title=title).update(pages=pages)


@pytest.fixture(autouse=True)
def rows(model):
    for title in "abc":
        model.objects.get_or_create(title=title, defaults={"pages": 1})


@pytest.mark.parametrize("write", [save, update])
class TestNestedRollbacks:
    def test_older_write_is_released(self, model, write):
        """
        The outer savepoint is rolled back after the inner one, whose rollback
        made Django copy the hooks.
        """
        with transaction.atomic():
            write(model, "a")
            fail(lambda: write(model, "b"), fail)
        assert (pages_of_row(model), pages_of_row(model)) == ((2, 1), (2, 0))

    def test_older_write_of_a_block_is_released(self, model, write):
        """A hook of a savepoint that is still open, between two others."""
        with transaction.atomic():
            with transaction.atomic():
                write(model, "a")
                fail(lambda: write(model, "b"), lambda: fail(fail), fail)
            with transaction.atomic():
                write(model, "c")
                fail(lambda: write(model, "b", 3), fail)
        for title in "ac":
            assert pages_of_row(model, title) == (2, 1)
            assert pages_of_row(model, title) == (2, 0)

    @pytest.mark.database("postgresql", "mysql")
    @pytest.mark.parametrize("others", ["invalidate", "update"])
    def test_row_is_served_as_committed(self, model, write, others):
        """Although another writer has released the row before the commit."""

        def release():
            if others == "invalidate":
                invalidate(model._base_manager.get(title="a"))
            else:
                update(model, "c")
            for _ in range(2):
                assert pages_of_row(model)[0] == 1

        with transaction.atomic():
            write(model, "a")
            fail(lambda: write(model, "b"), fail)
            elsewhere(release)
        assert [elsewhere(lambda: pages_of_row(model))[0] for _ in range(2)] == [2, 2]
        assert pages_of_row(model) == (2, 0)

    def test_rows_of_the_savepoint_are_as_they_were(self, model, write):
        with transaction.atomic():
            write(model, "a")
            fail(lambda: write(model, "b"), fail)
            assert pages_of_row(model, "b")[0] == 1
        assert pages_of_row(model, "b")[0] == 1

    def test_write_after_a_savepoint_by_hand(self, model, write):
        with transaction.atomic():
            write(model, "a")
            with transaction.atomic():
                savepoint = connection.savepoint()
                write(model, "b")
                connection.savepoint_rollback(savepoint)
                fail(lambda: write(model, "c"), fail)
                write(model, "b", 3)
        for title, number in ("a", 2), ("b", 3), ("c", 1):
            assert pages_of_row(model, title)[0] == number
            assert pages_of_row(model, title) == (number, 0)


class Struck(Exception):
    pass


def struck_after(word):
    """A time limit ends a statement that the database has carried out."""

    def wrapper(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith(word):
            raise Struck
        return result

    return connection.execute_wrapper(wrapper)


@pytest.mark.parametrize("word", ["ROLLBACK TO", "RELEASE", "SAVEPOINT"])
def test_time_limit_at_a_savepoint(model, word):
    def read(title):
        obj, _ = model.objects.get_or_create(title=title, defaults={"pages": 0})
        return obj.pages

    with transaction.atomic():
        with suppress(Struck), struck_after(word):
            with suppress(Rollback), transaction.atomic():
                model.objects.get_or_create(title="d", defaults={"pages": 1})
                model.objects.update_or_create(title="a", defaults={"pages": 2})
                if word != "RELEASE":
                    raise Rollback
        rows = dict(model._base_manager.values_list("title", "pages"))
        assert read("a") == rows["a"]
    for title in "ad":
        assert read(title) == rows.get(title, 0)
