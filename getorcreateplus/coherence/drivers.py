"""
Transactions that the driver tracks, but Django does not.

After cursor.execute("BEGIN"), in psycopg's connection.transaction() or its
pipeline, and with sqlite3's isolation_level, Django reports autocommit, but a
write can be rolled back. In such a transaction there are no hits and no fills,
and the rows that it writes stay under LOCK until the driver reports that it
has ended, or the LOCK times out.

The connection may be a proxy, made by a pool or by a tool that measures
queries. If it hides the attributes below, Django's state counts.
"""

from contextlib import closing, contextmanager

from ..environment.interruptions import reraise

# psycopg.pq.TransactionStatus: IDLE; UNKNOWN, if the connection is lost.
IDLE = (0, 4)
IN_ERROR = 3
MARIADB = "MariaDB"  # which has @@in_transaction, unlike MySQL
MAX_KEPT = 2000  # rows of a model that are locked one by one


def is_begun(connection):
    """
    Return True if an open connection, which Django treats as in autocommit, is
    in a transaction, or will be with its next statement.
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


def may_have_begun(connection):
    """
    Do the same as is_begun(), for the connection of another thread, without a
    query to its server. Also return True while that thread waits for its
    server, because the driver cannot report it then.
    """
    raw = connection.connection
    if connection.vendor != "mysql":
        return is_begun(connection)
    try:
        return (
            is_pending(connection)
            or getattr(connection, "getorcreateplus_begun", None) is raw
            or not is_autocommit_mysql(raw, True)
        )
    except Exception as error:  # noqa: BLE001 - its thread waits for the server
        reraise(error)
        return True


def is_open(connection):
    """Return True if a transaction is or may be open on an open connection."""
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
    Return a value that a failed statement does not change if it undoes only
    itself. Return None for a database where that is always so.
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
    """Return True if a statement may be sent after execute() has returned."""
    return pgconn.pipeline_status != 0


def is_pipelined(connection):
    """
    Do the same as is_in_pipeline(), for a connection. Its row counts come
    later, too.
    """
    pgconn = getattr(connection.connection, "pgconn", None)
    return pgconn is not None and is_in_pipeline(pgconn)


def is_autocommit_mysql(raw, unknown):
    # It follows the server's state, and so SET autocommit.
    get_autocommit = getattr(raw, "get_autocommit", None)
    return unknown if get_autocommit is None else get_autocommit()


def is_open_mysql(connection):
    """Return True if a transaction is open that a statement may have begun."""
    raw = connection.connection
    if getattr(connection, "getorcreateplus_begun", None) is not raw:
        return False
    is_in_transaction = answers_open(raw)
    if not is_in_transaction:
        connection.getorcreateplus_begun = None
    return is_in_transaction


def answers_open(raw):
    """
    Query MariaDB. MySQL counts as open until a COMMIT or ROLLBACK is sent.
    """
    return not is_mariadb(raw) or bool(answer(raw, "SELECT @@in_transaction"))


def is_mariadb(raw):
    return MARIADB in str(getattr(raw, "get_server_info", str)())


def answer(raw, sql):
    with closing(raw.cursor()) as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def is_pending(connection):
    """
    Return True if MySQL may not have sent all results of the last statement.
    It may still compute the later ones, and a query would discard them.
    """
    raw = getattr(connection, "getorcreateplus_pending", None)
    return raw is not None and raw is connection.connection


def has_ended(connection):
    """
    Return True if the driver reports that the transaction of an atomic() block
    has ended: by its own rollback() or cursor, or by SQLite.
    """
    raw = connection.connection
    if connection.vendor == "postgresql":
        return raw is not None and not is_open_postgresql(raw, unknown=True)
    if connection.vendor == "sqlite":
        return not getattr(raw, "in_transaction", True)
    return False


def has_savepoint(connection):
    """
    Return True if psycopg's transaction() is open inside atomic(): a savepoint
    that the driver may roll back, without a statement that Django sends.
    """
    return (
        connection.vendor == "postgresql"
        and getattr(connection.connection, "_num_transactions", 0) > 0
    )


def record_begun(connection):
    """
    Record that a statement is about to run that may begin a transaction on
    MySQL. Not earlier, because a query before it would find no transaction.
    """
    connection.getorcreateplus_begun = connection.connection


def record_ended(connection):
    connection.getorcreateplus_begun = None


def record_pending(connection):
    """
    Record that a statement is about to run which may return before MySQL has
    sent all of its results.
    """
    connection.getorcreateplus_pending = connection.connection


def record_all_results(connection):
    connection.getorcreateplus_pending = None


def can_ask(connection):
    """
    Return True if the driver can send a query now: the connection is open, and
    PostgreSQL has not aborted its transaction.
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
    Return a cursor at the result of its last statement, if another package has
    put a statement before it.
    """
    count = 0
    # psycopg2 keeps only the last result.
    if hasattr(cursor, "pgresult"):
        while cursor.nextset():
            count += 1
    try:
        yield cursor
    finally:
        # That package reads further results, and so does Django. (psycopg 3.3)
        if count and hasattr(cursor, "set_result"):
            cursor.set_result(-1 - count)


# Rollbacks


def record_rollback(connection):
    """Record that a part of a transaction was or may have been rolled back."""
    connection.getorcreateplus_rollbacks = rollbacks(connection) + 1


def rollbacks(connection):
    """Return the number of rollbacks of a connection."""
    return getattr(connection, "getorcreateplus_rollbacks", 0)


def is_lost(connection):
    """Return True if a connection was lost, but not closed by this process."""
    raw = connection.connection
    if connection.vendor == "mysql":
        return connection.errors_occurred and not is_usable(raw)
    return bool(getattr(raw, "closed", False))


def is_usable(raw):
    try:
        raw.ping()
    except Exception as error:  # noqa: BLE001 - of any driver
        reraise(error)
        return False
    return True
