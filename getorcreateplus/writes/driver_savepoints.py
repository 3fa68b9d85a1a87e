"""
This package's own savepoints, around a query of the catalog or an INSERT that
PostgreSQL may refuse.

The driver's cursor sends them, because they are not the user's queries and do
not concern execute wrappers. They always have the same name, because only one
is open at a time.
"""

from contextlib import closing, contextmanager

BEGIN = "SAVEPOINT getorcreateplus"
ROLL_BACK = "ROLLBACK TO SAVEPOINT getorcreateplus"
RELEASE = "RELEASE SAVEPOINT getorcreateplus"


@contextmanager
def isolating_errors(connection, cursor):
    """
    Keep an error, such as a missing permission, from breaking the transaction.
    """
    if not (connection.vendor == "postgresql" and connection.in_atomic_block):
        yield
        return
    cursor.execute(BEGIN)
    try:
        yield
    except Exception:
        cursor.execute(ROLL_BACK)
        raise
    finally:
        cursor.execute(RELEASE)


def begin(connection):
    send(connection, BEGIN)


def release(connection):
    send(connection, RELEASE)


def roll_back(connection):
    send(connection, ROLL_BACK)
    send(connection, RELEASE)


def send(connection, sql):
    with (
        connection.wrap_database_errors,
        closing(connection.connection.cursor()) as cursor,
    ):
        cursor.execute(sql)
