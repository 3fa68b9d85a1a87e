"""
Other code runs or drops the hooks with which a transaction releases its rows.
"""

import pytest
from django.db import IntegrityError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TestCase

from getorcreateplus import invalidate

from ..models import Paper, PlusPaper, Sheet
from ..support.errors import Rollback
from ..support.papers import pages
from ..support.sql import behind_the_back, execute
from ..support.threads import elsewhere

committed = pytest.mark.django_db(transaction=True)
# MySQL commits before another DROP.
KIND = "TEMPORARY TABLE" if connection.vendor == "mysql" else "TABLE"
DROP = f"DROP {KIND} hook_table"
MODELS = pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper])


def write(model):
    model.objects.update_or_create(title="a", defaults={"pages": 5})
    model.objects.get_or_create(title="new", defaults={"pages": 5})


def write_many(model):
    rows = [{"title": title, "pages": 1} for title in "abc"]
    model.objects.bulk_get_or_create(rows, ["title"])


def rolled_back(call, **kwargs):
    with pytest.raises(Rollback), transaction.atomic():
        call(**kwargs)
        raise Rollback


def warm(model):
    for _ in range(2):
        model.objects.get_or_create(title="a", defaults={"pages": 1})


def plain_pages(model, title="a"):
    return model._base_manager.filter(title=title).values_list("pages", flat=True)


def capture():
    return TestCase.captureOnCommitCallbacks(execute=True)


def run_hooks():
    """Like a package that does not wait for the commit."""
    for _, hook, _ in list(connection.run_on_commit):
        hook()


@committed
@MODELS
class TestBeforeTheCommit:
    """
    Other code runs the hooks while the transaction may still be rolled back.
    """

    def test_rolled_back(self, model):
        warm(model)
        with pytest.raises(Rollback), transaction.atomic():
            with capture():
                write(model)
            assert pages(model) == (5, 0)
            raise Rollback
        assert pages(model)[0] == 1
        assert pages(model, "new")[0] == 0

    def test_rolled_back_savepoint(self, model):
        warm(model)
        with transaction.atomic():
            with pytest.raises(Rollback), transaction.atomic():
                with capture():
                    write(model)
                run_hooks()
                raise Rollback
            assert pages(model)[0] == 1
        assert pages(model)[0] == 1

    @pytest.mark.database("postgresql", "mysql")
    def test_committed(self, model):
        warm(model)
        with transaction.atomic():
            with capture():
                write(model)
            for _ in range(2):
                assert elsewhere(pages, model)[0] == 1
            run_hooks()
            assert elsewhere(pages, model)[0] == 1
        assert elsewhere(pages, model)[0] == 5
        assert pages(model)[0] == 5

    def test_hooks_that_are_gone_before_the_commit(self, model):
        """
        They ran too early, so the commit does not release the row: the LOCK
        stays.
        """
        warm(model)
        with transaction.atomic():
            write(model)
            run_hooks()
            connection.run_on_commit.clear()
        for title in ("a", "new"):
            assert pages(model, title)[0] == 5

    @pytest.mark.parametrize("calls", [True, False])
    def test_on_commit_that_was_replaced(self, model, calls, monkeypatch):
        def on_commit(self, hook, robust=False):
            hook() if calls else None

        monkeypatch.setattr(BaseDatabaseWrapper, "on_commit", on_commit)
        warm(model)
        with transaction.atomic():
            write(model)
        for title in ("a", "new"):
            assert pages(model, title)[0] == 5
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 6})
            raise Rollback
        assert pages(model)[0] == 5


@committed
@MODELS
@pytest.mark.parametrize("method", ["_commit", "_rollback"])
def test_end_that_is_interrupted(model, method, monkeypatch):
    """The driver has committed when Ctrl-C or a time limit arrives."""
    warm(model)
    own_class = type(connections["default"])
    plain = getattr(own_class, method)

    def interrupted(self):
        plain(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(own_class, method, interrupted)
        with transaction.atomic():
            write(model)
            if method == "_rollback":
                raise Rollback
    with transaction.atomic():
        model._base_manager.filter(title="other").update(pages=1)
    for _ in range(2):
        for title in ("a", "new"):
            assert [pages(model, title)[0]] == list(plain_pages(model, title))
            assert elsewhere(pages, model, title)[0] == pages(model, title)[0]


class TestInATestCase(TestCase):
    def test_captured_and_rolled_back(self):
        for model in (Paper, Sheet, PlusPaper):
            with self.subTest(model=model.__name__):
                warm(model)
                with pytest.raises(Rollback), transaction.atomic():
                    with self.captureOnCommitCallbacks(execute=True):
                        with transaction.atomic():
                            write(model)
                    raise Rollback
                assert pages(model)[0] == 1
                assert pages(model, "new")[0] == 0

    def test_hooks_are_those_of_the_project(self):
        """Tools count the hooks, and search for those that did not run."""
        for model in (Paper, Sheet, PlusPaper):
            for do in (
                write,
                write_many,
                lambda model: model.objects.update(pages=3),
                invalidate,
                lambda model: rolled_back(model.objects.get_or_create, title="b"),
                lambda model: execute("UPDATE tests_paper SET pages = 4"),
                lambda model: execute(
                    "CREATE TEMPORARY TABLE hook_table (id int)", DROP
                ),
            ):
                with self.subTest(model=model.__name__, do=do):
                    with self.captureOnCommitCallbacks(execute=True) as callbacks:
                        with transaction.atomic():
                            do(model)
                            transaction.on_commit(hook := lambda: None)
                        do(model)
                    assert callbacks == [hook]
                    assert [each[1] for each in connection.run_on_commit] == [hook]
                    connection.run_on_commit.clear()

    def test_captured(self):
        warm(Sheet)
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            write(Sheet)
        assert pages(Sheet) == (5, 0)


# Transactions that are ended by the driver, without Django


@committed
@MODELS
@pytest.mark.database("postgresql", "sqlite")
@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("by", ["rollback()", "a cursor"])
def test_driver_rolls_back_inside_of_atomic(model, by, goes_on):
    warm(model)
    with transaction.atomic():
        write(model)
        behind_the_back(
            "ROLLBACK"
        ) if by == "a cursor" else connection.connection.rollback()
        if goes_on:
            plain_pages(model)[:1].get()
            assert pages(model)[0] == 1
    assert pages(model)[0] == 1
    assert not plain_pages(model, "new").exists()
    assert pages(model, "new")[0] == 0


@committed
@MODELS
@pytest.mark.database("sqlite")
def test_trigger_of_sqlite_that_rolls_back(model):
    """RAISE(ROLLBACK) ends the transaction, and is an IntegrityError."""
    warm(model)
    table = connection.ops.quote_name(model._meta.db_table)
    execute(
        f"CREATE TRIGGER hook_guard BEFORE DELETE ON {table} "
        "BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    )
    try:
        with transaction.atomic():
            write(model)
            with pytest.raises(IntegrityError):
                execute(f"DELETE FROM {table}")
            assert pages(model)[0] == 1
        assert pages(model)[0] == 1
        assert pages(model, "new")[0] == 0
    finally:
        execute("DROP TRIGGER hook_guard")
