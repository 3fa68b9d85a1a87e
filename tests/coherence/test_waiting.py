"""
A transaction that may have waited for another one has no hits: the release of
that one may still be on its way, and its LOCK may be gone.
"""

import threading
from contextlib import nullcontext

import pytest
from django.db import connection, connections, models, transaction
from django.test import TestCase

from getorcreateplus.coherence import region, transactions

from ..models import PlusPaper, Rack, Sheet
from ..support.queries import count_row_statements, pages_of_row
from ..support.sql import execute
from ..support.threads import elsewhere, start

committed = pytest.mark.django_db(transaction=True)
MODELS = pytest.mark.parametrize("model", [Sheet, PlusPaper])
TIMEOUT = 10  # seconds


def warm(model, title="a"):
    for _ in range(2):
        result = pages_of_row(model, title)
    assert result[1] == 0


# Statements that lock rows, and others


def lock_row(model):
    list(Rack.objects.select_for_update())


def share_row(model):
    rows = connection.ops.quote_name(Rack._meta.db_table)
    lock = "LOCK IN SHARE MODE" if connection.vendor == "mysql" else "FOR SHARE"
    execute(f"SELECT id FROM {rows} {lock}")


def advisory_lock(model):
    if connection.vendor == "mysql":
        execute("SELECT GET_LOCK('getorcreateplus', 1)")
        execute("SELECT RELEASE_LOCK('getorcreateplus')")
    else:
        execute("SELECT pg_advisory_xact_lock(1)")


def lock_row_with_comments(model):
    rows = connection.ops.quote_name(Rack._meta.db_table)
    execute(f"select id from {rows} for /* a job's */ -- row\n update")


def advisory_lock_with_comment(model):
    if connection.vendor == "mysql":
        execute("SELECT GET_LOCK /**/ ('getorcreateplus', 1)")
        execute("SELECT RELEASE_LOCK('getorcreateplus')")
    else:
        execute("SELECT pg_advisory_xact_lock /**/ (1)")


def lock_table(model):
    execute(f"LOCK TABLE {connection.ops.quote_name(Rack._meta.db_table)}")


def insert(model):
    Rack.objects.create(name="new")


def insert_many(model):
    Rack.objects.bulk_create([Rack(name="b"), Rack(name="c")])


def update(model):
    Rack.objects.update(name="other")


def update_nothing(model):
    Rack.objects.filter(pk=0).update(name="other")


def delete(model):
    """
    With SQL, because delete() would write the sheets that refer to a rack.
    """
    execute(f"DELETE FROM {connection.ops.quote_name(Rack._meta.db_table)}")


def raw_update(model):
    execute(f"UPDATE {connection.ops.quote_name(Rack._meta.db_table)} SET name = 'x'")


def with_update(model):
    rows = connection.ops.quote_name(Rack._meta.db_table)
    execute(
        f"WITH changed AS (UPDATE {rows} SET name = 'x' RETURNING id) "
        "SELECT id FROM changed"
    )


def in_a_savepoint(model):
    with transaction.atomic():
        insert(model)


def in_a_savepoint_that_is_rolled_back(model):
    """The locks are gone, but the transaction has still waited."""
    try:
        with transaction.atomic():
            insert(model)
            raise KeyError
    except KeyError:
        pass


def in_savepoints_that_are_rolled_back(model):
    for _ in range(2):
        in_a_savepoint_that_is_rolled_back(model)


LOCKS = [
    insert,
    insert_many,
    update,
    update_nothing,
    delete,
    raw_update,
    in_a_savepoint,
    in_a_savepoint_that_is_rolled_back,
    in_savepoints_that_are_rolled_back,
]
SERVER_LOCKS = [
    lock_row,
    share_row,
    advisory_lock,
    lock_row_with_comments,
    advisory_lock_with_comment,
]


def misses_after(model, lock):
    model.objects.create(title="a", pages=1)
    Rack.objects.create(name="rack")
    warm(model)
    with transaction.atomic():
        if connection.vendor != "sqlite" or not transactions.is_wal(connection):
            assert pages_of_row(model) == (1, 0)
        lock(model)
        assert pages_of_row(model) == (1, 1)
        assert pages_of_row(model) == (1, 1)
        [(obj, created)], queries = count_row_statements(
            lambda: model.objects.bulk_get_or_create([{"title": "a"}], ["title"])
        )
        assert (obj.pages, created, queries) == (1, False, 1)
    assert pages_of_row(model) == (1, 0)


@committed
@MODELS
@pytest.mark.parametrize("lock", LOCKS)
def test_transaction_that_wrote_has_no_hits(model, lock):
    misses_after(model, lock)


@committed
@MODELS
@pytest.mark.database("postgresql", "mysql")
@pytest.mark.parametrize("lock", SERVER_LOCKS)
def test_transaction_that_locked_has_no_hits(model, lock):
    misses_after(model, lock)


@committed
@pytest.mark.database("postgresql")
@pytest.mark.parametrize("lock", [lock_table, with_update])
def test_other_statements_that_lock(lock):
    misses_after(Sheet, lock)


@committed
@MODELS
def test_next_transaction_has_hits_again(model):
    model.objects.create(title="a", pages=1)
    warm(model)
    for _ in range(2):
        with transaction.atomic():
            assert pages_of_row(model) == (1, 0)
            insert(model)
            assert pages_of_row(model) == (1, 1)
            delete(Rack)


@committed
@MODELS
def test_function_that_is_decorated_has_hits_again(model):
    """Its calls share one Atomic object."""

    @transaction.atomic
    def read_and_write():
        assert pages_of_row(model) == (1, 0)
        insert(model)
        assert pages_of_row(model) == (1, 1)
        delete(Rack)

    model.objects.create(title="a", pages=1)
    warm(model)
    for _ in range(3):
        read_and_write()


@committed
def test_rolled_back_transaction_ends_it(monkeypatch):
    Sheet.objects.create(title="a", pages=1)
    warm(Sheet)

    @transaction.atomic
    def read_and_write():
        assert pages_of_row(Sheet) == (1, 0)
        insert(Sheet)
        raise KeyError

    for _ in range(3):
        with pytest.raises(KeyError):
            read_and_write()


@committed
@MODELS
def test_transaction_that_reads_has_hits(model):
    model.objects.create(title="a", pages=1)
    warm(model)
    with transaction.atomic():
        assert list(Rack.objects.filter(name="lock")) == []
        with transaction.atomic():
            assert pages_of_row(model) == (1, 0)
        assert pages_of_row(model) == (1, 0)


@committed
@MODELS
@pytest.mark.database("sqlite")
@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_transaction_of_sqlite_that_begins_by_a_lock(model, mode, monkeypatch):
    model.objects.create(title="a", pages=1)
    warm(model)
    monkeypatch.setattr(connections["default"], "transaction_mode", mode)
    with transaction.atomic():
        assert pages_of_row(model) == (1, 1)
    assert pages_of_row(model) == (1, 0)


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.database("postgresql", "mysql")
@MODELS
@pytest.mark.parametrize("in_transaction", [True, False])
def test_lock_by_another_alias_of_the_database(model, in_transaction, second_alias):
    model.objects.create(title="a", pages=1)
    warm(model)
    block = transaction.atomic if in_transaction else nullcontext
    with transaction.atomic(using=second_alias), block():
        assert pages_of_row(model) == (1, 0)
        list(Rack.objects.using(second_alias).select_for_update())
        assert pages_of_row(model) == (1, 1)
    assert pages_of_row(model) == (1, 0)


# Snapshots that are started by SQL


@pytest.fixture
def own_connection():
    """Restore the isolation level."""
    connection.close()
    yield
    connection.close()


BEFORE = {
    "postgresql": [
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET default_transaction_isolation = 'serializable'",
    ],
    "mysql": [
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    ],
}
INSIDE = [
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET LOCAL transaction_isolation = 'repeatable read'",
]


def snapshot_is_not_kept(before=None, inside=None):
    """Read other rows for the snapshot, because InnoDB may lock these rows."""
    Sheet.objects.create(title="a", pages=1)
    with transaction.atomic():
        assert pages_of_row(Sheet) == (1, 1)  # caches the isolation level
    if before is not None:
        execute(before)
    with transaction.atomic():
        if inside is not None:
            execute(inside)
        list(Rack.objects.all())
        elsewhere(lambda: Sheet.objects.update(pages=2))
        pages_of_row(Sheet)
    assert elsewhere(lambda: pages_of_row(Sheet)[0]) == 2
    assert elsewhere(lambda: pages_of_row(Sheet)) == (2, 0)


@committed
@pytest.mark.database("postgresql", "mysql")
@pytest.mark.parametrize("number", [0, 1])
def test_isolation_set_before_the_transaction(own_connection, number):
    snapshot_is_not_kept(before=BEFORE[connection.vendor][number])


@committed
@pytest.mark.database("postgresql")
@pytest.mark.parametrize("statement", INSIDE)
def test_isolation_set_in_the_transaction(own_connection, statement):
    snapshot_is_not_kept(inside=statement)


@committed
@pytest.mark.database("postgresql", "mysql")
def test_new_connection_has_hits_again(own_connection):
    """Django sets READ COMMITTED on MySQL each time that it connects."""
    Sheet.objects.create(title="a", pages=1)
    warm(Sheet)
    execute(BEFORE[connection.vendor][1])
    with transaction.atomic():
        assert pages_of_row(Sheet) == (1, 1)
    connection.close()
    for _ in range(2):
        with transaction.atomic():
            assert pages_of_row(Sheet) == (1, 0)


@committed
def test_commit_is_wrapped_once():
    """Even if other code replaces the wrappers of a connection."""
    connection.ensure_connection()
    commit = connection.commit
    connection.execute_wrappers.clear()
    connection.close()
    connection.ensure_connection()
    assert connection.commit is commit
    Sheet.objects.create(title="a", pages=1)
    warm(Sheet)
    with transaction.atomic():
        Sheet.objects.update(pages=2)
    assert pages_of_row(Sheet)[0] == 2


class TestsOfDjango(TestCase):
    """The transaction around a test counts as autocommit, with hits."""

    def test_blocks_of_a_test(self):
        Sheet.objects.create(title="a", pages=1)
        warm(Sheet)

        @transaction.atomic
        def read_and_write():
            assert pages_of_row(Sheet) == (1, 0)
            insert(Sheet)
            assert pages_of_row(Sheet) == (1, 1)
            delete(Rack)

        for _ in range(2):
            read_and_write()
        assert pages_of_row(Sheet) == (1, 0)


# The order that this prevents


class Writers:
    """
    Two writers whose releases are late, and a third transaction that has
    waited for the second one's lock.
    """

    def __init__(self, monkeypatch):
        self.role = threading.local()
        self.committed = {name: threading.Event() for name in ("first", "second")}
        self.may_release = {name: threading.Event() for name in ("first", "second")}
        release = region.Region.release

        def late(region, *args, **kwargs):
            name = getattr(self.role, "name", None)
            if name is not None:
                self.committed[name].set()
                assert self.may_release[name].wait(TIMEOUT), "the test has failed"
            release(region, *args, **kwargs)

        monkeypatch.setattr(region.Region, "release", late)

    def start(self, name, write):
        def run():
            self.role.name = name
            write()

        return start(run)

    def wait_for_commit(self, name):
        assert self.committed[name].wait(TIMEOUT), f"{name} did not commit"


def save_sheet(value):
    sheet = Sheet.objects.get(title="a")
    sheet.pages = value
    sheet.save()


def update_sheet(value):
    Sheet.objects.filter(title="a").update(pages=value)


def update_other(value):
    """It locks and releases all rows of the model, as update_sheet() does."""
    Sheet.objects.filter(title="b").update(pages=value)


def publish_sheet(value):
    Sheet.objects.update_or_create(title="a", defaults={"pages": value})


@committed
@pytest.mark.database("postgresql", "mysql")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (save_sheet, save_sheet),
        (update_sheet, update_sheet),
        (update_other, update_sheet),
        (publish_sheet, save_sheet),
    ],
)
def test_release_of_an_earlier_writer(monkeypatch, first, second):
    """
    The first writer's release replaces the second one's LOCK, a reader fills
    the first one's row, and the second writer commits. A transaction that has
    waited for the second one's lock sees its row.
    """
    Sheet.objects.create(title="a", pages=0)
    Sheet.objects.create(title="b", pages=0)
    warm(Sheet)
    rack = Rack.objects.create(name="account")
    writers = Writers(monkeypatch)
    wrote, may_commit = threading.Event(), threading.Event()

    def lock_account():
        models.QuerySet(Rack).select_for_update().get(pk=rack.pk)

    def write_second():
        with transaction.atomic():
            lock_account()
            second(2)
            wrote.set()
            assert may_commit.wait(TIMEOUT), "the test has failed"

    threads = [writers.start("first", lambda: in_transaction(first, 1))]
    writers.wait_for_commit("first")
    threads.append(writers.start("second", write_second))
    assert wrote.wait(TIMEOUT), "the second writer waits"
    writers.may_release["first"].set()
    threads[0].join(TIMEOUT)
    elsewhere(lambda: pages_of_row(Sheet))  # a reader fills the row of the first writer
    may_commit.set()
    writers.wait_for_commit("second")

    with transaction.atomic():
        lock_account()
        assert pages_of_row(Sheet)[0] == 2
    writers.may_release["second"].set()
    threads[1].join(TIMEOUT)
    assert pages_of_row(Sheet)[0] == 2
    assert elsewhere(lambda: pages_of_row(Sheet))[0] == 2


def in_transaction(write, value):
    with transaction.atomic():
        write(value)
