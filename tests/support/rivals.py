"""The statements of a call, and a rival who writes between two of them."""

from contextlib import contextmanager

from django.db import connection
from django.test.utils import CaptureQueriesContext


@contextmanager
def statements():
    """Yield a list of the first words of the statements, as they are sent."""
    connection.ensure_connection()  # MySQL's begins with SET.
    sent = []
    logged = len(connection.queries_log)

    def transactions():
        # No wrapper sees them, except SQLite's BEGIN.
        nonlocal logged
        log = [query["sql"] for query in connection.queries_log][logged:]
        sent.extend(sql for sql in log if sql in ("BEGIN", "COMMIT", "ROLLBACK"))
        logged = len(connection.queries_log)

    def record(execute, sql, params, many, context):
        transactions()
        if sql != "BEGIN":
            # psycopg's Composed has none.
            sent.append(sql.split()[0] if isinstance(sql, str) else "COMPOSED")
        return execute(sql, params, many, context)

    class Wrappers(list):
        def __reversed__(self):
            # Nearest to the database, before wrappers that are added later.
            yield record
            yield from super().__reversed__()

    connection.execute_wrappers = Wrappers(connection.execute_wrappers)
    try:
        with CaptureQueriesContext(connection):
            yield sent
            transactions()
    finally:
        connection.execute_wrappers = list(connection.execute_wrappers)


@contextmanager
def rival(write, after=None, before=None):
    """
    Write between the statements of the code in the block, without its
    knowledge.
    """
    selects = 0
    written = False

    def write_once():
        nonlocal written
        written = True
        # Neither wrappers nor statements() see it.
        wrappers, connection.execute_wrappers = connection.execute_wrappers, []
        logged = len(connection.queries_log)
        try:
            write()
        finally:
            connection.execute_wrappers = wrappers
        while len(connection.queries_log) > logged:
            connection.queries_log.pop()

    def count_selects(execute, sql, params, many, context):
        nonlocal selects
        if written or not sql.startswith("SELECT"):
            return execute(sql, params, many, context)
        selects += 1
        if selects == before:
            write_once()
        result = execute(sql, params, many, context)
        if selects == (after or 1) and not before:
            write_once()
        return result

    with connection.execute_wrapper(count_selects):
        yield
    assert written


@contextmanager
def connected(signal, receiver):
    signal.connect(receiver)
    try:
        yield
    finally:
        signal.disconnect(receiver)
