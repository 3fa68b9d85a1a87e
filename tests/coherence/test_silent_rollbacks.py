"""Blocks that roll back without an exception, because code swallowed one."""

from contextlib import suppress

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    ProgrammingError,
    connection,
    transaction,
)
from django.db.models.signals import post_save
from django.test import TestCase

from ..models import Paper, PlusPaper, Rack, Sheet
from ..support.errors import Rollback
from ..support.rivals import connected
from ..support.sql import execute
from ..support.threads import elsewhere

committed = pytest.mark.django_db(transaction=True)
MODELS = pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper])


def swallow_an_error():
    with pytest.raises(IntegrityError):
        Rack._base_manager.create(name="there")


def swallow_an_error_in_sql():
    with pytest.raises(ProgrammingError):
        execute("SELECT nothing FROM nowhere_to_be_found")


def roll_back():
    if connection.in_atomic_block:
        transaction.set_rollback(True)


def close():
    connection.close()


def fail_by_savepoint():
    """The row stays, and later writes are rolled back."""
    with pytest.raises(Rollback), transaction.atomic():
        Rack._base_manager.create(name="undone")
        raise Rollback


def write(model, method="get_or_create"):
    return getattr(model.objects, method)(title="a", defaults={"pages": 5})


def in_block(model, method):
    with transaction.atomic():
        write(model, method)


def check(model, call, receive):
    """After the call, other connections get the row of the database."""

    def receiver(sender, **kwargs):
        if sender is model:
            receive()

    Rack._base_manager.create(name="there")
    with connected(post_save, receiver):
        # Django's own manager raises the same, if the block is not its own.
        with suppress(transaction.TransactionManagementError, DatabaseError):
            call()
    assert_served(model)


def assert_served(model):
    def found():
        there = model._base_manager.filter(title="a").exists()
        return not there, model.objects.get_or_create(title="a")[1]

    is_missing, is_created = elsewhere(found)
    assert is_created is is_missing


METHODS = pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
CALLS = pytest.mark.parametrize("call", [write, in_block])


@committed
@MODELS
@METHODS
@CALLS
class TestInReceiver:
    @pytest.mark.parametrize(
        "receive", [swallow_an_error, roll_back, fail_by_savepoint]
    )
    def test_created_row(self, model, method, call, receive):
        check(model, lambda: call(model, method), receive)

    @pytest.mark.database("postgresql")
    def test_error_in_sql(self, model, method, call):
        """PostgreSQL turns the COMMIT into a rollback."""
        check(model, lambda: call(model, method), swallow_an_error_in_sql)

    @pytest.mark.database("postgresql", "mysql")
    def test_connection_that_was_closed(self, model, method, call):
        check(model, lambda: call(model, method), close)


@committed
@MODELS
@METHODS
def test_save_that_swallows_an_error(model, method, monkeypatch):
    save = model.save

    def save_and_fail(self, **kwargs):
        with pytest.raises(Rollback), transaction.atomic():
            save(self, **kwargs)
            raise Rollback

    for call in (write, in_block):
        with monkeypatch.context() as patch:
            patch.setattr(model, "save", save_and_fail)
            call(model, method)
        assert_served(model)
        model._base_manager.all().delete()


class TestInATestCase(TestCase):
    def test_created_and_updated_row(self):
        for model in (Paper, Sheet, PlusPaper):
            for method in ("get_or_create", "update_or_create"):
                with self.subTest(model=model.__name__, method=method):
                    with transaction.atomic():
                        write(model, method)
                        transaction.set_rollback(True)
                    assert model.objects.get_or_create(title="a")[1]
                    with transaction.atomic():
                        model.objects.update_or_create(title="a", defaults={"pages": 7})
                        transaction.set_rollback(True)
                    assert model.objects.get_or_create(title="a")[0].pages is None
                    model._base_manager.all().delete()
