"""
Other code appends execute wrappers to a connection, and removes them, during
one of our calls.
"""

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.backends.signals import connection_created
from django.db.models.signals import post_save

from getorcreateplus.writes.captured_rows import Recording
from getorcreateplus.writes.guards import InsertGuard, UpdateGuard
from getorcreateplus.writes.locking_reads import ShareLock
from getorcreateplus.writes.watching import StatementWatcher
from getorcreateplus.writes.wrappers import Wrapper

from ..models import NonAtomicEntry, Paper, PlusPaper, Sheet
from ..support.papers import pages
from ..support.threads import elsewhere

committed = pytest.mark.django_db(transaction=True)
in_test = pytest.mark.django_db


@pytest.fixture(autouse=True)
def same_wrappers():
    """Only the wrappers of the tests are left, and all of them."""
    before = list(connection.execute_wrappers)
    yield
    assert connection.execute_wrappers == before


def passing(execute, sql, params, many, context):
    return execute(sql, params, many, context)


class Counting:
    def __init__(self):
        self.seen = []

    def __call__(self, execute, sql, params, many, context):
        self.seen.append(sql)
        return execute(sql, params, many, context)


MAKERS = [
    lambda: Recording(Paper, connection),
    lambda: UpdateGuard(connection),
    lambda: InsertGuard(connection, NonAtomicEntry),
    lambda: ShareLock(connection),
]


@in_test
@pytest.mark.parametrize("make", MAKERS)
class TestAnyWrapper:
    def test_one_that_was_appended_stays(self, make):
        with make():
            connection.execute_wrappers.append(passing)
        assert connection.execute_wrappers.pop() is passing

    def test_one_that_was_removed_is_not_missed(self, make):
        connection.execute_wrappers.append(passing)
        with make() as wrapper:
            connection.execute_wrappers.remove(wrapper)
        assert connection.execute_wrappers.pop() is passing

    def test_blocks_that_end_in_the_order_in_which_they_began(self, make):
        theirs = connection.execute_wrapper(passing)
        with make():
            theirs.__enter__()
        assert connection.execute_wrappers[-1] is passing
        theirs.__exit__(None, None, None)

    def test_equal_wrappers_are_distinguished(self, make):
        class Equal(type(make())):
            def __eq__(self, other):
                return True

            __hash__ = None

        wrapper = make()
        wrapper.__class__ = Equal
        with wrapper:
            connection.execute_wrappers.append(passing)
        assert connection.execute_wrappers.pop() is passing

    def test_one_that_is_put_back_goes_by_the_next_statement(self, make):
        before = list(connection.execute_wrappers)
        with make() as wrapper:
            earlier = list(connection.execute_wrappers)
        try:
            connection.execute_wrappers[:] = earlier
            assert Paper._base_manager.count() == 0
            Paper._base_manager.create(title="b", pages=1)
            assert wrapper not in connection.execute_wrappers
            if isinstance(wrapper, Recording):
                assert not wrapper.statements
        finally:
            connection.execute_wrappers[:] = before


@committed
@pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper])
def test_wrapper_of_a_new_connection(model):
    """The first call of a thread opens its connection, inside our call."""
    counting = Counting()

    def install(connection, **kwargs):
        connection.execute_wrappers.append(counting)

    def first_call():
        model.objects.get_or_create(title="a", defaults={"pages": 1})
        counting.seen.clear()
        for number in range(3):
            model._base_manager.filter(title="a").update(pages=number)
        return list(connection.execute_wrappers)

    connection_created.connect(install)
    try:
        statements, *others = elsewhere(first_call)
    finally:
        connection_created.disconnect(install)
    assert type(statements) is StatementWatcher
    assert others == [counting]
    assert len(counting.seen) == 3
    assert pages(model)[0] == 2


class Losing:
    """Remove our wrappers, like code that pops too often."""

    def __init__(self):
        self.lost = []

    def __call__(self):
        wrappers = connection.execute_wrappers
        self.lost += [each for each in wrappers if isinstance(each, Wrapper)]
        wrappers[:] = [each for each in wrappers if not isinstance(each, Wrapper)]
        return 7


@in_test
@pytest.mark.parametrize("model", [Paper, PlusPaper])
def test_row_whose_statements_were_not_all_seen_is_not_kept(model):
    losing = Losing()

    def after(instance, created, **kwargs):
        if created:
            losing()
            model._base_manager.filter(pk=instance.pk).update(pages=9)

    post_save.connect(after, sender=model)
    try:
        with transaction.atomic():
            obj, created = model.objects.get_or_create(title="a", defaults={"pages": 7})
            assert (obj.pages, created, bool(losing.lost)) == (7, True, True)
            assert pages(model)[0] == 9
        assert pages(model)[0] == 9
    finally:
        post_save.disconnect(after, sender=model)


@committed
def test_error_behind_a_guard_that_was_removed_marks_the_transaction():
    """It has not seen the statement."""
    losing = Losing()

    def fails():
        losing()
        Paper._base_manager.create(title="unseen", pages=1)
        raise ValueError("fails")

    for method in ("get_or_create", "update_or_create"):
        with pytest.raises(ValueError, match="fails"), transaction.atomic():
            getattr(NonAtomicEntry.objects, method)(name="a", defaults={"size": fails})
        assert not Paper._base_manager.exists()
    with transaction.atomic():
        with pytest.raises(ValueError, match="fails"):
            NonAtomicEntry.objects.get_or_create(name="a", defaults={"size": fails})
        assert connection.needs_rollback
        transaction.set_rollback(True)


@committed
def test_conflict_behind_a_guard_that_was_removed():
    NonAtomicEntry.objects.create(name="a", size=1)
    losing = Losing()

    def raced():
        losing()
        raise IntegrityError("raced")

    with transaction.atomic():
        with pytest.raises(IntegrityError, match="raced"):
            NonAtomicEntry.objects.get_or_create(name="b", defaults={"size": raced})
        assert connection.needs_rollback
