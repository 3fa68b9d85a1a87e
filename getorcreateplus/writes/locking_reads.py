"""SELECTs that lock rows, in a transaction without a savepoint."""

from contextlib import contextmanager

from django.db import DatabaseError, connections

from .pending_transaction import set_rollback
from .statements import READING, statement_of
from .wrappers import Wrapper


@contextmanager
def locking_read(using):
    """
    Mark the transaction for rollback when a SELECT that locks fails.

    InnoDB itself rolls the whole transaction back on a deadlock (1213) or a
    row that changed since the snapshot (1020). Without the mark, the next
    statement would silently begin another transaction.
    """
    try:
        yield
    except DatabaseError:
        set_rollback(True, using)
        raise


@contextmanager
def share_lock(using):
    """
    Make SELECT return the latest row, not the one in the snapshot of
    REPEATABLE READ.

    This is only for MySQL and MariaDB. It does not use FOR UPDATE, because two
    losers of the same race, each with the shared lock of its duplicate key,
    would deadlock.
    """

    with locking_read(using), ShareLock(connections[using]):
        yield


class ShareLock(Wrapper):
    def on_statement(self, execute, sql, params, many, context):
        before, text, after = statement = statement_of(sql, self.connection)
        if statement.begins_with(READING):
            sql = f"{before}{text} LOCK IN SHARE MODE{after}"
        return execute(sql, params, many, context)
