"""Two connections that create the same row, each in its own transaction."""

import threading
import uuid
from contextlib import contextmanager

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models.signals import post_save, pre_save

from ..models import (
    Audit,
    NonAtomicChild,
    NonAtomicCompositeKey,
    NonAtomicDatabaseValue,
    NonAtomicDeferrable,
    NonAtomicEntry,
    NonAtomicNaturalKey,
    NonAtomicParent,
    NonAtomicPassport,
    NonAtomicProxyEntry,
    NonAtomicSpecialEntry,
    NonAtomicUUIDKey,
)
from ..support.threads import own_connections, start

# SQLite has one writer at a time: the second one waits, or is refused.
pytestmark = [
    pytest.mark.database("postgresql", "mysql"),
    pytest.mark.django_db(transaction=True),
]

TIMEOUT = 10  # seconds


def wait_or_fail(event, message):
    assert event.wait(TIMEOUT), message


def backend_id():
    """Return the server's id of this connection."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_backend_pid()"
            if connection.vendor == "postgresql"
            else "SELECT CONNECTION_ID()"
        )
        return cursor.fetchone()[0]


def is_blocked(backend):
    """Return whether the INSERT of the other connection is under way."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT cardinality(pg_blocking_pids(%s))"
            if connection.vendor == "postgresql"
            # Not innodb_trx, which is stale if it is read often. This INSERT
            # cannot end before the transaction of its conflicting row.
            else "SELECT COUNT(*) FROM information_schema.processlist"
            " WHERE id = %s AND info LIKE 'INSERT%%'",
            [backend],
        )
        return cursor.fetchone()[0] > 0


class Winner(threading.Thread):
    """
    Another connection, which writes the row that the loser did not find.

    It uses its own transaction, and ends it when the loser's INSERT waits for
    it.
    """

    def __init__(self, write, end=None):
        super().__init__()
        self.write = write
        self.end = end  # Called in the transaction, before it is committed.
        self.selected = threading.Event()
        self.written = threading.Event()

    @own_connections()
    def run(self):
        try:
            wait_or_fail(self.selected, "The loser did not select")
            with transaction.atomic():
                self.write()
                self.written.set()
                self.hold()
                if self.end:
                    self.end()
        finally:
            self.written.set()

    def hold(self):
        never = threading.Event()
        assert any(
            is_blocked(self.loser) or never.wait(1 / 50) for _ in range(TIMEOUT * 50)
        ), "The loser does not wait for the winner's row"

    def meet(self, **kwargs):
        """Let the winner write: in the loser's pre_save, before its INSERT."""
        if threading.current_thread() is not self:
            self.loser = backend_id()
            self.selected.set()
            wait_or_fail(self.written, "The winner did not write")

    def __enter__(self):
        pre_save.connect(self.meet)
        self.start()
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        pre_save.disconnect(self.meet)
        self.selected.set()
        self.join(TIMEOUT)
        assert not self.is_alive()


@contextmanager
def tried_statements():
    """Yield a list of the first words of the statements, as they are tried."""
    connection.ensure_connection()  # MySQL's begins with SET.
    sent = []

    def record(execute, sql, params, many, context):
        # These are statements of the test itself.
        if "backend_pid" not in sql and "CONNECTION_ID" not in sql:
            sent.append(sql.split()[0])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(record):
        yield sent


@contextmanager
def post_saves():
    """Yield the list of the models whose rows this connection created."""
    senders = []
    thread = threading.current_thread()

    def receive(sender, **kwargs):
        if threading.current_thread() is thread:
            senders.append(sender)

    post_save.connect(receive)
    try:
        yield senders
    finally:
        post_save.disconnect(receive)


@contextmanager
def session(postgresql, mysql):
    """Begin a transaction with the setting, which ends with the connection."""
    try:
        with connection.cursor() as cursor:
            if connection.vendor == "mysql":
                cursor.execute(f"SET SESSION {mysql}")
        with transaction.atomic(), connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"SET {postgresql}")
            yield
    finally:
        connection.close()


def repeatable_read():
    level = "TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    return session(level, level)


KINDS = [
    (NonAtomicEntry, {"name": "a"}, {"size": 3}),
    (NonAtomicProxyEntry, {"name": "a"}, {}),
    (NonAtomicUUIDKey, {"name": "a"}, {}),
    (NonAtomicUUIDKey, {"pk": uuid.UUID(int=5)}, {"name": "a"}),
    (NonAtomicNaturalKey, {"name": "a"}, {}),
    (NonAtomicCompositeKey, {"name": "a", "part": 2}, {}),
    (NonAtomicDatabaseValue, {"name": "a"}, {}),
    (NonAtomicSpecialEntry, {"name": "a"}, {}),
    pytest.param(
        *(NonAtomicDeferrable, {"name": "a"}, {}),
        marks=pytest.mark.database("postgresql"),
    ),
]


@pytest.mark.parametrize(("model", "lookup", "defaults"), KINDS)
def test_loser_gets_the_winners_row(model, lookup, defaults):
    """
    It keeps its transaction, with the rows that it wrote before and after.
    """
    winners = []

    def write():
        winners.append(model._base_manager.create(**lookup, **defaults))

    with transaction.atomic():
        Audit.objects.create(text="before")
        with Winner(write), post_saves() as created_by_loser:
            obj, created = model.objects.get_or_create(defaults, **lookup)
        Audit.objects.create(text="after")
    assert [obj] == winners
    assert created is False
    assert created_by_loser == []
    assert model._base_manager.get() == obj
    assert Audit.objects.count() == 2


def write_entry():
    NonAtomicEntry.objects.create(name="a", slug="a", size=5)


def delete_entry():
    NonAtomicEntry.objects.all().delete()


def roll_back():
    transaction.set_rollback(True)


def test_loser_sends_no_savepoint():
    with transaction.atomic(), Winner(write_entry), tried_statements() as sent:
        NonAtomicEntry.objects.get_or_create(name="a")
    assert sent == ["SELECT", "INSERT", "SELECT"]


@pytest.mark.parametrize("end", [roll_back, delete_entry])
def test_winner_that_gives_up(end):
    with transaction.atomic(), post_saves() as created_by_loser:
        with Winner(write_entry, end), tried_statements() as sent:
            entry, created = NonAtomicEntry.objects.get_or_create(name="a")
    assert (entry.size, created) == (0, True)
    assert sent == ["SELECT", "INSERT"]
    assert created_by_loser == [NonAtomicEntry]
    assert NonAtomicEntry.objects.get() == entry


@pytest.mark.database("postgresql")  # InnoDB's loser has locked the row.
def test_winner_that_deletes_before_the_loser_looks():
    class Deleter(Winner):
        @own_connections()
        def run(self):
            wait_or_fail(self.selected, "The loser did not select")
            write_entry()
            self.written.set()
            wait_or_fail(looks, "The loser did not look")
            delete_entry()

    looks = threading.Event()
    winner = Deleter(write_entry)

    def delete_first(execute, sql, params, many, context):
        if winner.written.is_set() and not looks.is_set() and sql.startswith("SELECT"):
            looks.set()
            winner.join(TIMEOUT)
        return execute(sql, params, many, context)

    with transaction.atomic(), winner, connection.execute_wrapper(delete_first):
        entry, created = NonAtomicEntry.objects.get_or_create(name="a")
    assert (entry.size, created) == (0, True)
    assert NonAtomicEntry.objects.get() == entry


def test_loser_in_autocommit():
    with Winner(write_entry), tried_statements() as sent:
        entry, created = NonAtomicEntry.objects.get_or_create(name="a")
    assert (entry.size, created) == (5, False)
    assert sent == ["SELECT", "INSERT", "SELECT"]


def test_conflict_with_another_row_of_the_winner():
    with transaction.atomic():
        Audit.objects.create(text="before")
        with Winner(write_entry), pytest.raises(IntegrityError, match="slug"):
            NonAtomicEntry.objects.get_or_create(name="b", defaults={"slug": "a"})
        Audit.objects.create(text="after")
    assert Audit.objects.count() == 2
    assert NonAtomicEntry.objects.get().name == "a"


def test_update_or_create_updates_the_winners_row():
    with transaction.atomic(), Winner(write_entry), tried_statements() as sent:
        entry, created = NonAtomicEntry.objects.update_or_create(
            name="a", defaults={"size": 7}
        )
    assert (entry.slug, created) == ("a", False)
    assert sent == ["SELECT", "INSERT", "SELECT", "UPDATE"]
    assert NonAtomicEntry.objects.get().size == 7


def test_update_or_create_in_autocommit_updates_the_winners_row():
    with Winner(write_entry):
        created = NonAtomicEntry.objects.update_or_create(
            name="a", defaults={"size": 7}
        )[1]
    assert created is False
    entry = NonAtomicEntry.objects.get()
    assert (entry.slug, entry.size) == ("a", 7)


def test_write_before_the_insert_is_undone():
    def write_audit(sender, **kwargs):
        if sender is NonAtomicEntry and threading.current_thread() is thread:
            Audit.objects.bulk_create([Audit(text="for the lost row")])

    thread = threading.current_thread()
    pre_save.connect(write_audit)
    try:
        with transaction.atomic():
            Audit.objects.create(text="before")
            with Winner(write_entry):
                created = NonAtomicEntry.objects.get_or_create(name="a")[1]
    finally:
        pre_save.disconnect(write_audit)
    assert created is False
    assert Audit.objects.get().text == "before"


def test_child_that_loses():
    parent = NonAtomicParent.objects.create(foo="Foo")

    def write():
        NonAtomicChild.objects.create(parent=parent, bar="Bar")

    with transaction.atomic(), Winner(write):
        child, created = parent.children.get_or_create(bar="Bar")
    assert (child.parent, created) == (parent, False)


def test_child_that_loses_inside_of_its_parents_creation():
    other = NonAtomicParent.objects.create(foo="Other")

    def write():
        NonAtomicChild.objects.create(parent=other, bar="Bar")

    with transaction.atomic():
        with Winner(write), pytest.raises(IntegrityError, match="bar"):
            # A child of another parent does not belong to this parent
            # (#18896). As with Django nothing is created, but here the parent
            # cannot be undone.
            NonAtomicParent.objects.get_or_create(
                foo="Foo", defaults={"children": [{"bar": "Bar"}]}
            )
        assert connection.get_rollback()
    assert NonAtomicParent.objects.get() == other


def test_lost_one_to_one():
    parent = NonAtomicParent.objects.create(foo="Foo")

    def write():
        NonAtomicPassport.objects.create(parent_id=parent.pk)

    with transaction.atomic(), Winner(write):
        passport, created = NonAtomicPassport.objects.get_or_create(parent=parent)
    assert created is False
    assert parent.passport is passport


# Isolation levels.


@pytest.mark.database("mysql")
def test_repeatable_read_of_mysql():
    with repeatable_read():
        with Winner(write_entry), tried_statements() as sent:
            entry, created = NonAtomicEntry.objects.get_or_create(name="a")
        assert (entry.size, created) == (5, False)
        # The snapshot hides the row, except from the SELECT that locks it.
        assert sent == ["SELECT", "INSERT", "SELECT", "SELECT"]
        assert not NonAtomicEntry.objects.exists()
        Audit.objects.create(text="after")
    assert Audit.objects.exists()


@pytest.mark.database("mysql")
def test_snapshot_isolation_of_mariadb():
    """
    The server has rolled back on its own, so no further statement may run
    silently.
    """
    with repeatable_read():
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION innodb_snapshot_isolation = ON")
        Audit.objects.create(text="before")
        with Winner(write_entry), pytest.raises(OperationalError, match="1020"):
            NonAtomicEntry.objects.get_or_create(name="a")
        assert connection.get_rollback()
    assert not Audit.objects.exists()
    assert NonAtomicEntry.objects.get().size == 5


@pytest.mark.database("postgresql")
@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
def test_repeatable_read_of_postgresql(method):
    """The transaction cannot see the winner's row: it has to be retried."""
    with repeatable_read():
        Audit.objects.create(text="before")
        with Winner(write_entry), pytest.raises(OperationalError, match="serialize"):
            getattr(NonAtomicEntry.objects, method)(name="a")
        assert connection.get_rollback()
    assert not Audit.objects.exists()
    assert NonAtomicEntry.objects.get().size == 5


# Locks.


def test_deadlock_dooms_its_victim():
    """Two transactions create the same two rows in opposite order."""
    outcomes = []
    first = threading.Barrier(2, timeout=TIMEOUT)

    def create(one, two):
        with transaction.atomic():
            one.objects.get_or_create(name="a")
            first.wait()
            try:
                two.objects.get_or_create(name="a")
            except OperationalError:
                outcomes.append(("lost", connection.get_rollback()))
            else:
                outcomes.append(("survived", connection.get_rollback()))

    # Two tables: InnoDB locks the gaps between the rows of one.
    models = NonAtomicEntry, NonAtomicNaturalKey
    threads = [start(create, *models), start(create, *models[::-1])]
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(outcomes) == [("lost", True), ("survived", False)]
    assert [model.objects.count() for model in models] == [1, 1]


def test_lock_timeout():
    class Holder(Winner):
        def hold(self):
            wait_or_fail(failed, "The loser waits longer than it should")

    failed = threading.Event()
    with session("LOCAL lock_timeout = '50ms'", "innodb_lock_wait_timeout = 1"):
        with Holder(write_entry):
            with pytest.raises(OperationalError):
                NonAtomicEntry.objects.get_or_create(name="a")
            failed.set()
        assert connection.get_rollback()


@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
def test_locked_row(method):
    """A SELECT … FOR UPDATE that fails dooms the transaction, too."""
    NonAtomicEntry.objects.create(name="a")
    locked, failed = threading.Event(), threading.Event()

    def lock():
        with transaction.atomic():
            NonAtomicEntry.objects.select_for_update().get()
            locked.set()
            wait_or_fail(failed, "The row is not waited for")

    thread = start(lock)
    try:
        wait_or_fail(locked, "The row is not locked")
        with session("LOCAL lock_timeout = '50ms'", "innodb_lock_wait_timeout = 1"):
            entries = NonAtomicEntry.objects.all()
            if method == "get_or_create":
                entries = entries.select_for_update(nowait=True)
            with pytest.raises(OperationalError):
                getattr(entries, method)(name="a")
            assert connection.get_rollback()
    finally:
        failed.set()
        thread.join(TIMEOUT)
