"""Rows of a transaction that was begun by SQL are not served to others."""

import sqlite3
import sys
import threading
from contextlib import suppress

import pytest
from django.db import (
    IntegrityError,
    OperationalError,
    connection,
    models,
    transaction,
)
from django.test.utils import CaptureQueriesContext

from getorcreateplus.coherence import by_hand, drivers, region, transactions

from ..models import Begun
from ..support.sql import behind_the_back, execute
from ..support.threads import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.database("postgresql")
mysql = pytest.mark.database("mysql")
sqlite = pytest.mark.database("sqlite")
# On SQLite other connections cannot read in the meantime.
servers = pytest.mark.database("postgresql", "mysql")


def uses(name):
    obj, created = Begun.objects.get_or_create(name=name)
    return None if created else obj.uses


def queries_of_row(name):
    with CaptureQueriesContext(connection) as queries:
        Begun.objects.get_or_create(name=name)
    return len(queries)


def warm(name):
    for _ in range(3):
        Begun.objects.get_or_create(name=name)
    assert queries_of_row(name) == 0


def is_mariadb():
    return connection.vendor == "mysql" and connection.mysql_is_mariadb


def begins():
    return {
        "mysql": ["START TRANSACTION", "begin", "-- a\nBEGIN", "# a\nBEGIN",
                  "SET autocommit = 0", "SELECT 1; BEGIN", "/* a */ BEGIN WORK",
                  "COMMIT AND CHAIN", "/*! BEGIN */", "/*!40101 START TRANSACTION */",
                  "EXECUTE IMMEDIATE 'BEGIN'"]
                 + ["/*M! BEGIN */", "SET STATEMENT max_statement_time = 10 FOR BEGIN",
                    "BEGIN; SET autocommit = 1"] * is_mariadb(),
        "postgresql": ["BEGIN", "START TRANSACTION", "/* a */ begin", "-- a\nBEGIN",
                       "SELECT 1; BEGIN"],
        "sqlite": ["BEGIN", "BEGIN IMMEDIATE", "begin exclusive", "SAVEPOINT s",
                   "-- a\nBEGIN"],
    }[connection.vendor]  # fmt: skip


def end(how="ROLLBACK"):
    execute(how)
    if connection.vendor == "mysql":
        execute("SET autocommit = 1")


@pytest.fixture(autouse=True)
def no_transaction():
    yield
    if connection.connection is not None:
        connection.connection.rollback()
        connection.close()


def test_row_that_is_rolled_back():
    for number, begin in enumerate(begins()):
        plain, ours = f"a{number}", f"b{number}"
        execute(begin)
        Begun.plain.create(name=plain)
        for _ in range(2):
            assert uses(plain) == 0
            Begun.objects.get_or_create(name=ours)
        end()
        for name in (plain, ours):
            assert (begin, elsewhere(lambda name=name: uses(name))) == (begin, None)
            assert (begin, uses(name)) == (begin, 0)


def test_update_that_is_rolled_back():
    for number, begin in enumerate(begins()):
        name = f"a{number}"
        warm(name)
        execute(begin)
        Begun.plain.filter(name=name).update(uses=1)
        assert uses(name) == 1
        end()
        assert (begin, uses(name)) == (begin, 0)
        assert (begin, elsewhere(lambda name=name: uses(name))) == (begin, 0)


def test_hit_in_it_is_none():
    """Its snapshot may be older."""
    warm("a")
    for begin in begins():
        execute(begin)
        assert queries_of_row("a") == 1
        end()


@servers
@pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK", "commit work", "-- a\nCOMMIT"])
def test_reader_before_its_end(how):
    for number, begin in enumerate(begins()):
        name = f"a{number}"
        pk = Begun.plain.create(name=name).pk
        for write in (
            lambda pk=pk: Begun.plain.filter(pk=pk).update(uses=models.F("uses") + 1),
            lambda: execute("UPDATE tests_begun SET uses = uses + 1"),
        ):  # fmt: skip
            warm(name)
            before = uses(name)
            execute(begin)
            write()
            assert elsewhere(lambda name=name: uses(name)) == before
            end(how)
            after = before + ("commit" in how.lower())
            assert (begin, elsewhere(lambda name=name: uses(name))) == (begin, after)
            # Its end is seen, so no reader waits for a timeout.
            warm(name)
            assert uses(name) == after


@mysql
def test_write_in_the_text_that_begins_it():
    for number, begin in enumerate(begins()):
        if begin.startswith("/*") or "CHAIN" in begin:
            continue  # Without another statement, it does not begin a transaction.
        name = f"a{number}"
        warm(name)
        execute(f"{begin}; UPDATE tests_begun SET uses = 1 WHERE name = '{name}'")
        for _ in range(2):
            assert (begin, elsewhere(lambda name=name: uses(name))) == (begin, 0)
        end("COMMIT")
        assert (begin, elsewhere(lambda name=name: uses(name))) == (begin, 1)


# It waits for the lock with this name.
LATE = (
    "SELECT 1; DO GET_LOCK('begun', 20); UPDATE tests_begun SET uses = uses + 1; "
    "DO RELEASE_LOCK('begun')"
)


@pytest.fixture
def hold():
    """Hold that lock until the test calls the function that it gets."""
    raw = connection.get_new_connection(connection.get_connection_params())
    with raw.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK('begun', 0)")
        assert cursor.fetchone() == (1,)
    yield raw.close
    with suppress(Exception):
        raw.close()


@pytest.fixture
def procedures():
    names = {
        "begun_reads": "SELECT 1; SELECT 'two'; SELECT 3;",
        "begun_writes": "UPDATE tests_begun SET uses = uses + 1;",
        "begun_writes_late": f"{LATE};",
        "begun_begins": "START TRANSACTION; UPDATE tests_begun SET uses = uses + 1;",
    }
    execute(
        *(f"CREATE PROCEDURE {name}() BEGIN {body} END" for name, body in names.items())
    )
    yield
    execute(*(f"DROP PROCEDURE {name}" for name in names))


@mysql
@pytest.mark.usefixtures("procedures")
class TestSeveralResults:
    """
    A cursor of MySQL returns before the server has executed all of a text.
    """

    def results(self, cursor):
        found = [cursor.fetchall()]
        while cursor.nextset():
            found += [cursor.fetchall()] * bool(cursor.description)
        return found

    @pytest.mark.parametrize("begin", [None, "BEGIN", "SET autocommit = 0"])
    @pytest.mark.parametrize(
        "text", ["CALL begun_reads()", "SELECT 1; SELECT 'two'; SELECT 3"]
    )
    def test_none_of_them_is_lost(self, begin, text):
        warm("a")
        if begin is not None:
            execute(begin)
            Begun.plain.update(uses=1)
        with connection.cursor() as cursor:
            cursor.execute(text)
            assert self.results(cursor) == [((1,),), (("two",),), ((3,),)]
        end()

    def test_none_of_them_is_lost_in_autocommit_by_hand(self):
        warm("a")
        connection.set_autocommit(False)
        Begun.plain.update(uses=1)
        with connection.cursor() as cursor:
            cursor.execute("CALL begun_reads()")
            assert len(self.results(cursor)) == 3
        connection.rollback()
        connection.set_autocommit(True)
        assert uses("a") == 0

    @pytest.mark.parametrize("text", ["CALL begun_writes_late()", LATE])
    def test_write_behind_a_result(self, text, hold):
        warm("a")
        with connection.cursor() as cursor:
            cursor.execute(text)
            for _ in range(2):
                assert elsewhere(lambda: uses("a")) == 0
            hold()
            self.results(cursor)
        assert uses("a") == 1
        assert elsewhere(lambda: uses("a")) == 1
        warm("a")

    def test_release_waits_for_mysql_too(self, hold, monkeypatch):
        """Its transaction cannot be queried, unlike that of MariaDB."""
        release, found = region.Region.release, []

        def look(region, *args, **kwargs):
            if region.model is Begun:
                found.append(elsewhere(lambda: Begun.plain.get().uses))
            release(region, *args, **kwargs)

        warm("a")
        monkeypatch.setattr(drivers, "is_mariadb", lambda raw: False)
        cursor = connection.cursor()
        cursor.execute(LATE)
        monkeypatch.setattr(region.Region, "release", look)
        threading.Timer(0.5, hold).start()
        execute("SELECT 1")
        assert found == [1]

    def test_connection_that_is_closed_before_the_next_statement(self, hold):
        warm("a")
        cursor = connection.cursor()
        cursor.execute("CALL begun_writes_late()")
        hold()
        connection.close()
        assert elsewhere(lambda: uses("a")) == 1
        assert elsewhere(lambda: queries_of_row("a")) == 0

    def test_procedure_without_results_ends_at_once(self):
        warm("a")
        execute("CALL begun_writes()")
        assert elsewhere(lambda: uses("a")) == 1
        assert elsewhere(lambda: queries_of_row("a")) == 0

    def test_procedure_that_begins_a_transaction(self):
        warm("a")
        execute("CALL begun_begins()")
        for _ in range(2):
            assert elsewhere(lambda: uses("a")) == 0
        execute("COMMIT")
        assert elsewhere(lambda: uses("a")) == 1

    def test_number_of_rows_is_that_of_the_last_statement(self):
        """A query by the package would change it."""
        warm("a")
        execute("BEGIN", "COMMIT")
        with connection.cursor() as cursor:
            cursor.execute("UPDATE tests_begun SET uses = 2")
            cursor.execute("SELECT ROW_COUNT()")
            assert cursor.fetchone() == (1,)


@servers
def test_row_and_all_rows_are_written():
    warm("a")
    execute(begins()[0])
    Begun.plain.update(uses=1)
    Begun.plain.filter(pk=Begun.plain.get().pk).update(uses=2)
    assert elsewhere(lambda: uses("a")) == 0
    end("COMMIT")
    assert uses("a") == 2
    warm("a")


@servers
def test_savepoint_is_not_its_end():
    warm("a")
    execute(begins()[0], "SAVEPOINT s")
    Begun.plain.update(uses=1)
    execute("SAVEPOINT t", "ROLLBACK TO SAVEPOINT t", "RELEASE SAVEPOINT s")
    for _ in range(2):
        assert elsewhere(lambda: uses("a")) == 0
    end("COMMIT")
    assert elsewhere(lambda: uses("a")) == 1


@sqlite
def test_savepoint_alone_is_a_transaction_of_sqlite():
    warm("a")
    execute("SAVEPOINT s")
    Begun.plain.update(uses=1)
    execute("ROLLBACK TO s")
    assert queries_of_row("a") == 1
    execute("RELEASE s")
    warm("a")


@servers
def test_invalidate_in_it():
    warm("a")
    execute(begins()[0])
    with connection.connection.cursor() as cursor:
        cursor.execute("UPDATE tests_begun SET uses = 1")
    Begun.objects.invalidate_all()
    assert elsewhere(lambda: uses("a")) == 0
    end("COMMIT")
    assert elsewhere(lambda: uses("a")) == 1
    warm("a")


@servers
def test_driver_ends_it():
    """The next statement, or reading, finds it idle."""
    warm("a")
    for number, look in enumerate(
        [Begun.plain.count, lambda: uses("x"), lambda: warm("a")], start=1
    ):
        execute(begins()[0])
        Begun.plain.filter(name="a").update(uses=number)
        connection.connection.commit()
        look()
        assert uses("a") == number
        warm("a")


def test_connection_is_closed_in_it():
    warm("a")
    execute(begins()[0])
    Begun.plain.update(uses=1)
    connection.close()
    assert uses("a") == 0
    warm("a")


@pytest.mark.parametrize("commit", [True, False])
def test_autocommit_is_off(commit):
    warm("a")
    connection.set_autocommit(False)
    try:
        Begun.plain.update(uses=1)
        if connection.vendor != "sqlite":
            assert elsewhere(lambda: uses("a")) == 0
        (connection.commit if commit else connection.rollback)()
    finally:
        connection.rollback()
        connection.set_autocommit(True)
    assert uses("a") == commit
    warm("a")
    assert uses("a") == commit


def test_many_rows_are_kept_as_their_model(monkeypatch):
    monkeypatch.setattr(by_hand, "MAX_KEPT", 2)
    for name in "abcd":
        warm(name)
    rows = [Begun.plain.get(name=name) for name in "abcd"]
    connection.set_autocommit(False)
    try:
        for row in rows:
            row.uses = 1
            row.save()
        _, kept = by_hand.kept_of(connection)
        assert [(len(pks), all_rows) for pks, all_rows in kept.values()] == [(2, True)]
        connection.commit()
    finally:
        connection.rollback()
        connection.set_autocommit(True)
    for name in "abcd":
        assert elsewhere(lambda name=name: uses(name)) == 1
        warm(name)


@servers
def test_autocommit_stays_off():
    """The first statement of the next transaction releases the locked rows."""
    if connection.vendor == "mysql":
        execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    warm("a")
    connection.set_autocommit(False)
    try:
        Begun.plain.update(uses=1)
        connection.commit()
        Begun.plain.count()
        elsewhere(lambda: warm("a"))
        assert elsewhere(lambda: uses("a")) == 1
        connection.commit()
    finally:
        connection.rollback()
        connection.set_autocommit(True)


@mysql
def test_atomic_in_it_ends_it():
    """Django sets autocommit after the block, and MySQL commits."""
    warm("a")
    execute("BEGIN")
    Begun.plain.update(uses=1)
    with transaction.atomic():
        Begun.plain.update(uses=2)
        assert uses("a") == 2
    assert elsewhere(lambda: uses("a")) == 2
    warm("a")


@mysql
def test_statement_commits_it():
    warm("a")
    execute("BEGIN")
    Begun.plain.update(uses=1)
    execute("CREATE TABLE tests_commits (id int)", "DROP TABLE tests_commits")
    assert elsewhere(lambda: uses("a")) == 1
    warm("a")


@mysql
def test_procedure_begins_it():
    execute("CREATE PROCEDURE tests_begin() START TRANSACTION")
    try:
        execute("CALL tests_begin()")
        Begun.plain.create(name="ghost")
        assert uses("ghost") == 0
        execute("ROLLBACK")
        assert uses("ghost") is None
    finally:
        execute("DROP PROCEDURE tests_begin")


@mysql
def test_server_that_does_not_report_its_transactions(monkeypatch):
    """
    MySQL is such a database: only COMMIT and ROLLBACK end a transaction
    visibly.
    """
    monkeypatch.setattr(drivers, "MARIADB", "no such server")
    warm("a")
    execute("BEGIN")
    Begun.plain.update(uses=1)
    assert elsewhere(lambda: uses("a")) == 0
    execute("SAVEPOINT x", "ROLLBACK TO SAVEPOINT x")
    assert queries_of_row("a") == 1
    execute("COMMIT")
    assert uses("a") == 1
    warm("a")


@postgresql
class TestPsycopg:
    def test_transaction(self):
        warm("a")
        with connection.connection.transaction():
            Begun.plain.update(uses=1)
            Begun.plain.create(name="b")
            assert uses("b") == 0
            assert elsewhere(lambda: uses("a")) == 0
        assert uses("a") == 1
        assert elsewhere(lambda: uses("a")) == 1
        warm("a")

    def test_transaction_that_is_rolled_back(self):
        connection.ensure_connection()
        with pytest.raises(LookupError), connection.connection.transaction():
            Begun.plain.create(name="b")
            uses("b")
            raise LookupError
        assert elsewhere(lambda: uses("b")) is None

    def test_autocommit_of_the_driver(self):
        warm("a")
        connection.connection.autocommit = False
        Begun.plain.create(name="b")
        uses("b")
        assert queries_of_row("a") == 1
        connection.connection.rollback()
        connection.connection.autocommit = True
        assert uses("b") is None
        warm("a")

    def test_pipeline(self):
        """Statements are sent after execute() has returned."""
        warm("a")
        with connection.connection.pipeline():
            with connection.cursor() as cursor:
                cursor.execute("UPDATE tests_begun SET uses = 1")
            assert elsewhere(lambda: uses("a")) == 0
            assert elsewhere(lambda: uses("a")) == 0
        assert uses("a") == 1
        assert elsewhere(lambda: uses("a")) == 1
        warm("a")

    def test_conflict_in_a_pipeline(self):
        """The row count, which shows a conflict, is not available yet."""
        Begun.plain.create(name="a")
        with pytest.raises(IntegrityError), connection.connection.pipeline():
            Begun.objects.get_or_create(pk=Begun.plain.get().pk, name="b")

    def test_error_in_it(self):
        warm("a")
        execute("BEGIN", "UPDATE tests_begun SET uses = 1")
        with pytest.raises(Exception, match="division"):
            execute("SELECT 1 / 0")
        assert not drivers.can_ask(connection)
        execute("ROLLBACK")
        assert uses("a") == 0
        warm("a")


@sqlite
class TestSQLite:
    def test_isolation_level(self):
        warm("a")
        connection.connection.isolation_level = "DEFERRED"
        Begun.plain.create(name="b")
        assert uses("b") == 0
        Begun.objects.get_or_create(name="c")
        connection.connection.rollback()
        connection.connection.isolation_level = None
        assert uses("b") is None
        assert uses("c") is None
        warm("a")

    def test_autocommit_attribute(self):
        """It exists since Python 3.12."""
        if sys.version_info < (3, 12):
            assert not hasattr(sqlite3.Connection, "autocommit")
            return
        warm("a")
        connection.connection.autocommit = False
        Begun.plain.create(name="b")
        assert uses("b") == 0
        connection.connection.rollback()  # and the next one begins
        connection.connection.autocommit = sqlite3.LEGACY_TRANSACTION_CONTROL
        execute("ROLLBACK")
        assert uses("b") is None
        warm("a")


def break_connection():
    """Make the server close the connection of this thread."""
    if connection.vendor == "postgresql":
        number = connection.connection.info.backend_pid
        elsewhere(execute, f"SELECT pg_terminate_backend({number})")
    else:
        number = connection.connection.thread_id()
        elsewhere(execute, f"KILL {number}")


def broken(execute, *args):
    """An execute wrapper: the statement is sent, but no answer arrives."""
    break_connection()
    return execute(*args)


@servers
@pytest.mark.parametrize("by_hand", [True, False])
def test_commit_whose_connection_is_lost(by_hand):
    """It may be on its way, so only the timeout ends the LOCK."""
    warm("a")
    if by_hand:
        connection.set_autocommit(False)
    else:
        execute("BEGIN")
    Begun.plain.update(uses=1)
    if by_hand:
        break_connection()
        with pytest.raises(OperationalError):
            connection.commit()
    else:
        with connection.execute_wrapper(broken), pytest.raises(OperationalError):
            execute("COMMIT")
    connection.close()
    for _ in range(2):
        assert uses("a") == 0
    elsewhere(
        behind_the_back, "UPDATE tests_begun SET uses = 1"
    )  # as if it arrived now
    assert uses("a") == 1


@servers
def test_connection_that_is_closed_has_rolled_back():
    warm("a")
    execute("BEGIN")
    Begun.plain.update(uses=1)
    connection.close()
    warm("a")
    assert uses("a") == 0


@pytest.mark.parametrize("begun", [True, False])
def test_connection_that_is_lost(begun):
    """A hit needs no connection, and its transaction is over."""
    warm("a")
    if begun:
        execute(begins()[0])
        Begun.plain.update(uses=1)
    else:
        connection.ensure_connection()
    connection.connection.close()
    try:
        assert not drivers.is_begun(connection)
        assert not drivers.is_open(connection)
        if not begun:
            assert uses("a") == 0
    finally:
        connection.connection = None
    assert uses("a") == 0


class Proxy:
    """
    Like that of a tool that measures queries, which hides most attributes.
    """

    def __init__(self, raw):
        self.__dict__["cursor"] = raw.cursor
        self.__dict__["close"] = raw.close
        self.__dict__["commit"] = raw.commit
        self.__dict__["rollback"] = raw.rollback


def test_driver_that_is_hidden():
    """Django's state counts."""
    warm("a")
    raw, connection.connection = connection.connection, Proxy(connection.connection)
    try:
        assert transactions.is_autocommit(connection)
        assert drivers.can_ask(connection)
        assert queries_of_row("a") == 0
        by_hand.keep_locked(connection, {})
        drivers.is_open(connection)
    finally:
        connection.connection = raw


def test_no_connection_is_opened():
    warm("a")
    connection.close()
    assert uses("a") == 0
    assert connection.connection is None


@postgresql
@pytest.mark.parametrize(("status", "begun"), [(0, False), (2, True), (3, True)])
def test_psycopg2_has_another_name_for_its_status(status, begun):
    warm("a")
    raw = connection.connection
    proxy = Proxy(raw)
    proxy.get_transaction_status = lambda: status
    connection.connection = proxy
    try:
        assert drivers.is_begun(connection) is begun
        assert drivers.is_open(connection) is begun
        assert drivers.can_ask(connection) is (status != 3)
    finally:
        connection.connection = raw
