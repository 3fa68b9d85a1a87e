"""
Transactions that Django does not know, as the drivers tell them.

cursor.execute("BEGIN"), psycopg's connection.transaction() and its pipeline,
sqlite3's isolation_level: Django says autocommit, and what is written may be
rolled back all the same. Nothing in such a transaction is a hit or a fill, and
what it writes stays under LOCK until the driver tells that it has ended, or
the LOCK times out.

The connection may be a proxy, of a pool or of a tool that measures queries.
Where it hides the attributes below, Django is taken at its word.
"""

import re
from contextlib import closing, contextmanager

from ..environment.interruptions import failures_suppressed, reraise
from ..writes.statements import BEFORE, words

# psycopg.pq.TransactionStatus: IDLE; UNKNOWN, where the connection is lost.
IDLE = (0, 4)
IN_ERROR = 3
MARIADB = "MariaDB"  # which has @@in_transaction, as MySQL has not
# It may begin a transaction on MySQL, whose driver does not tell.
BEGINS = re.compile(
    rf"(?:\A|;|\*/){BEFORE}(BEGIN|START|XA|CALL|EXECUTE)\b|\bCHAIN\b",
    re.IGNORECASE | re.DOTALL,
)
# It ends it.
COMMITS = re.compile(
    rf"(?:\A|;|\*/){BEFORE}(?:COMMIT|ROLLBACK(?!\s+(?:WORK\s+)?TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)
# The first words of statements after which MariaDB is not asked whether they
# have begun one. (A question changes what ROW_COUNT() returns.)
BEGINS_NOTHING = words(
    "ALTER ANALYZE CREATE DELETE DESC DESCRIBE DROP EXPLAIN INSERT OPTIMIZE RELEASE "
    "RENAME REPLACE SAVEPOINT SELECT SHOW TRUNCATE UPDATE USE VALUES WITH"
)
PROGRAMS = words("BEGIN CALL EXECUTE")  # they may return several results
MOST_KEPT = 2000  # rows of a model that are locked one by one
EXECUTED_COMMENT = re.compile(r"/\*M?!")


def is_begun(connection):
    """
    Tell whether an open connection, which is in autocommit to Django, is in a
    transaction nevertheless, or will be by its next statement.
    """
    raw = connection.connection
    vendor = connection.vendor
    try:
        if vendor == "postgresql":
            return is_open_postgresql(raw) or getattr(raw, "autocommit", True) is False
        if vendor == "sqlite":
            return (
                getattr(raw, "in_transaction", False)
                or getattr(raw, "isolation_level", None) is not None
            )
        if vendor == "mysql":
            return (
                is_pending(connection)
                or not is_autocommit_mysql(raw, True)
                or is_open_mysql(connection)
            )
    except Exception as error:  # noqa: BLE001 - the connection is lost
        reraise(error)
        return False
    return False


def is_open(connection):
    """Tell whether a transaction is open, or may be, on an open connection."""
    raw = connection.connection
    vendor = connection.vendor
    try:
        if vendor == "postgresql":
            return is_open_postgresql(raw, unknown=True)
        if vendor == "sqlite":
            return getattr(raw, "in_transaction", True)
        if vendor == "mysql":
            if is_autocommit_mysql(raw, False):
                return is_open_mysql(connection)
            return answers_open(raw)
    except Exception as error:  # noqa: BLE001 - as above
        reraise(error)
        return False
    return True


def changes(connection):
    """
    Return what is as before once a statement that failed has undone itself
    alone; None where databases leave no choice in it.
    """
    if connection.vendor != "sqlite":
        return None
    raw = connection.connection
    return getattr(raw, "in_transaction", None), getattr(raw, "total_changes", None)


def is_open_postgresql(raw, unknown=False):
    pgconn = getattr(raw, "pgconn", None)
    if pgconn is None:  # psycopg2
        status = getattr(raw, "get_transaction_status", None)
        return unknown if status is None else status() not in IDLE
    return pgconn.transaction_status not in IDLE or is_in_pipeline(pgconn)


def is_in_pipeline(pgconn):
    """Tell whether a statement may be sent after execute() has returned."""
    return pgconn.pipeline_status != 0


def is_pipelined(connection):
    """As is_in_pipeline(), of a connection; its row counts come later, too."""
    pgconn = getattr(connection.connection, "pgconn", None)
    return pgconn is not None and is_in_pipeline(pgconn)


def is_autocommit_mysql(raw, unknown):
    # It follows what the server says, and so SET autocommit.
    get_autocommit = getattr(raw, "get_autocommit", None)
    return unknown if get_autocommit is None else get_autocommit()


def is_open_mysql(connection):
    """Tell whether a transaction that a statement may have begun is open."""
    raw = connection.connection
    if getattr(connection, "getorcreateplus_begun", None) is not raw:
        return False
    is_in_transaction = answers_open(raw)
    if not is_in_transaction:
        connection.getorcreateplus_begun = None
    return is_in_transaction


def answers_open(raw):
    """Ask MariaDB; of MySQL say yes, until a COMMIT or a ROLLBACK is seen."""
    return not is_mariadb(raw) or bool(answer(raw, "SELECT @@in_transaction"))


def is_mariadb(raw):
    return MARIADB in str(getattr(raw, "get_server_info", str)())


def answer(raw, sql):
    with closing(raw.cursor()) as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def is_pending(connection):
    """
    Tell whether MySQL may not have sent all results of the last statement. It
    may still be doing the later ones, and a question would discard them.
    """
    raw = getattr(connection, "getorcreateplus_pending", None)
    return raw is not None and raw is connection.connection


def has_ended(connection):
    """
    Tell whether the driver knows that the transaction of an atomic() block has
    ended: its own rollback() or cursor has done that, or SQLite has.
    """
    raw = connection.connection
    if connection.vendor == "postgresql":
        return raw is not None and not is_open_postgresql(raw, unknown=True)
    if connection.vendor == "sqlite":
        return not getattr(raw, "in_transaction", True)
    return False


def has_savepoint(connection):
    """
    Tell whether psycopg's transaction() is open inside atomic(): a savepoint
    that the driver may roll back, without a statement that Django sends.
    """
    return (
        connection.vendor == "postgresql"
        and getattr(connection.connection, "_num_transactions", 0) > 0
    )


def watching_begins(execute, connection, text, starts):
    """
    Return an execute() that notes that a statement, which begins with these
    words, may begin a transaction on MySQL, and may return several results.
    """
    if connection.vendor != "mysql":
        return execute
    has_several = ";" in text or EXECUTED_COMMENT.search(text) is not None
    if starts and starts <= BEGINS_NOTHING and not has_several:
        return execute

    def noting(*args):
        # Not earlier, or a question before it would find no transaction.
        raw = connection.connection
        if is_mariadb(raw) or BEGINS.search(text):
            connection.getorcreateplus_begun = raw
        if has_several or not starts.isdisjoint(PROGRAMS):
            connection.getorcreateplus_pending = raw
        return execute(*args)

    return noting


def after_statement(connection, text, context):
    """Note what a statement that was executed has ended."""
    if connection.vendor != "mysql":
        return
    if COMMITS.search(text) and not is_mariadb(connection.connection):
        connection.getorcreateplus_begun = None
    if ";" not in text and context["cursor"].description is None:
        # A procedure that returns no rows has ended.
        connection.getorcreateplus_pending = None


def can_ask(connection):
    """
    Tell whether the driver can be asked something now: the connection is open,
    and PostgreSQL has not aborted its transaction.
    """
    raw = connection.connection
    if raw is None:
        return False
    pgconn = getattr(raw, "pgconn", None)
    if pgconn is not None:
        return pgconn.transaction_status != IN_ERROR
    status = getattr(raw, "get_transaction_status", None)
    return status is None or status() != IN_ERROR


@contextmanager
def last_result(cursor):
    """
    Return a cursor at the result of its last statement, where somebody has put
    another one before it.
    """
    count = 0
    # psycopg2 keeps the last result alone.
    if hasattr(cursor, "pgresult"):
        while cursor.nextset():
            count += 1
    try:
        yield cursor
    finally:
        # Whoever has put it there reads on, as does Django. (psycopg 3.3)
        if count and hasattr(cursor, "set_result"):
            cursor.set_result(-1 - count)


# What was rolled back


def note_rollback(connection):
    """Something of a transaction was rolled back, or may have been."""
    connection.getorcreateplus_rollbacks = rollbacks(connection) + 1


def rollbacks(connection):
    """Return how often something was rolled back on a connection."""
    return getattr(connection, "getorcreateplus_rollbacks", 0)


# What is locked by hand


def keep_locked(connection, rows):
    """Release {region: primary keys or None} when the transaction ends."""
    raw, kept = kept_of(connection)
    if raw is not connection.connection:
        kept = {}  # of a connection that was lost
        connection.getorcreateplus_kept = connection.connection, kept
    for region, pks in rows.items():
        known, all_rows = kept.get(region, (set(), False))
        known.update(pks or ())
        kept[region] = known, all_rows or pks is None


def keeps_many(connection, region):
    """
    Tell whether so many rows are locked by hand that all rows are to be: the
    release is one command, and it is kept in memory what it is for.
    """
    raw, kept = kept_of(connection)
    if not kept or raw is not connection.connection or region not in kept:
        return False
    return len(kept[region][0]) >= MOST_KEPT


def kept_of(connection):
    """
    Return the driver's connection and what is locked on it: {region: (primary
    keys, whether all rows are)}.
    """
    return getattr(connection, "getorcreateplus_kept", (None, {}))


def release_kept(connection):
    """Release what was locked in a transaction by hand, if it has ended."""
    raw, kept = kept_of(connection)
    if not kept or is_pending(connection):
        return
    if raw is not connection.connection or is_lost(connection):
        # Its COMMIT may still be on its way. LOCK goes by its timeout.
        kept.clear()
    elif not is_open(connection):
        release(connection, kept)


def release(connection, kept):
    rows = dict(kept)
    kept.clear()
    for region, (pks, all_rows) in rows.items():
        region.release(connection, list(pks) or None, all_rows=all_rows)


def settle(connection):
    """As release_kept(), before another statement or before a close()."""
    if getattr(connection, "getorcreateplus_pending", None) is not None:
        is_here = is_pending(connection)
        connection.getorcreateplus_pending = None
        if is_here and kept_of(connection)[1]:
            # It answers when it has done all of the last statement.
            with failures_suppressed():
                answer(connection.connection, "SELECT 1")
    release_kept(connection)


def is_lost(connection):
    """Tell whether a connection was not closed by this process."""
    raw = connection.connection
    if connection.vendor == "mysql":
        return connection.errors_occurred and not is_usable(raw)
    return bool(getattr(raw, "closed", False))


def is_usable(raw):
    try:
        raw.ping()
    except Exception as error:  # noqa: BLE001 - of whatever driver
        reraise(error)
        return False
    return True


def close_kept(connection, close):
    """Close a connection, whose server rolls back a transaction by hand."""
    settle(connection)
    _, kept = kept_of(connection)
    rows = {} if connection.in_atomic_block else dict(kept)
    close()
    if rows and connection.connection is None:
        kept.clear()
        release(connection, rows)
