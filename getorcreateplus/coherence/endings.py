"""
The end of a transaction, by the methods of its connection or by a statement.
"""

from django.db import Error

from . import by_hand, drivers
from .connection_methods import replacing
from .journal import End, journal
from .situations import is_aborted
from .transactions import in_transaction


@replacing("commit")
def committing(connection, commit):
    own = journal(connection)
    own.waited = None
    own.announce_rest()
    own.publish_rest()
    own.wait_for_answers()
    if (
        connection.errors_occurred
        or is_aborted(connection)
        or drivers.has_ended(connection)
    ):
        # Execute wrappers do not see an error of the driver's own cursor, of
        # copy() or of callproc(). PostgreSQL will roll back instead.
        own.doubt()
        drivers.record_rollback(connection)
    if not connection.in_atomic_block:
        own.end_state = End.COMMITTING
    try:
        commit()
    except Error:
        raise  # Django sends a ROLLBACK, or closes the connection
    except BaseException:
        own.abandon()
        raise
    own.end_state = End.COMMITTED
    by_hand.release_ended(connection)


@replacing("rollback")
def rolling_back(connection, rollback):
    own = journal(connection)
    own.waited = None
    drivers.record_rollback(connection)
    try:
        rollback()
    except BaseException:
        own.abandon()
        raise
    # A COMMIT that has failed with its connection may still be on its way.
    if own.end_state is End.OPEN or (
        own.end_state is End.COMMITTING and not drivers.is_lost(connection)
    ):
        own.end_state = End.ROLLED_BACK
    by_hand.release_ended(connection)


@replacing("close")
def closing_connection(connection, close):
    drivers.record_rollback(connection)
    by_hand.close(connection, close)


@replacing("run_and_clear_commit_hooks")
def running_hooks(connection, run_hooks):
    """
    Release before the hooks of the project and its packages read anything.
    """
    own = journal(connection)
    try:
        if own.end_state is End.COMMITTED and not connection.in_atomic_block:
            own.end()
    finally:
        run_hooks()


@replacing("set_autocommit")
def setting_autocommit(connection, set_autocommit, autocommit, *args, **kwargs):
    set_autocommit(autocommit, *args, **kwargs)
    # Not in rollback(), because the cache may be a table of this database.
    own = journal(connection)
    if (
        own.end_state in (End.COMMITTED, End.ROLLED_BACK)
        and autocommit
        and not connection.in_atomic_block
    ):
        own.end()


# After statements


def after_rollback(connection):
    """
    Handle a statement that may have rolled back this transaction, or a part of
    it.
    """
    drivers.record_rollback(connection)
    if in_transaction(connection):
        own = journal(connection)
        own.doubt()
        own.is_aborted = False


def after_savepoint(connection, command, name):
    """Handle Django's statement for a savepoint, which was executed."""
    own = journal(connection)
    if command == "SAVEPOINT":
        if in_transaction(connection):
            own.add_savepoint(name)
    elif command == "RELEASE SAVEPOINT":
        if in_transaction(connection):
            own.release_savepoint(name)
    else:
        drivers.record_rollback(connection)
        if in_transaction(connection):
            own.roll_back_to(name)
        else:
            own.doubt()  # the outermost block in a TestCase


def after_interrupted_rollback(connection):
    """Handle a ROLLBACK TO SAVEPOINT that may have been executed or not."""
    drivers.record_rollback(connection)
    journal(connection).doubt()


def after_error(connection):
    """
    Handle a failed statement, which may have ended this transaction on the
    server.

    PostgreSQL then rolls back at the COMMIT, without an error. InnoDB has
    already rolled back, on a deadlock. Django runs the on_commit() hooks.
    """
    drivers.record_rollback(connection)
    if in_transaction(connection):
        after_rollback(connection)
        journal(connection).is_aborted = connection.vendor == "postgresql"
