"""
Finds out whether a read may be a hit now, and whether it may fill the cache.
"""

from django.db import connections

from ..environment.databases import aliases_of_database
from . import by_hand, drivers
from .journal import journal
from .transactions import (
    begins_with_lock,
    first_block,
    in_transaction,
    is_apart,
    is_autocommit,
    is_by_hand,
    is_read_committed,
    is_wal,
    sees_uncommitted,
)


def situation(connection):
    """
    Return whether a read may be a hit, and whether it may fill the cache.

    Hits and fills need SELECTs that see the latest commits.
    """
    if (hasattr(connection, "getorcreateplus_apart") and is_apart(connection)) or (
        len(connections.settings) > 1 and has_waited_elsewhere(connection)
    ):
        return False, False
    if not connection.in_atomic_block:
        # The same as is_autocommit(), which is one more call for each hit.
        if connection.connection is None:
            autocommit = connection.settings_dict["AUTOCOMMIT"]
        else:
            autocommit = connection.autocommit and not drivers.is_begun(connection)
        return autocommit, autocommit and not (
            connection.vendor == "mysql" and sees_uncommitted(connection)
        )
    if connection.needs_rollback or is_by_hand(connection):
        return False, False
    if not in_transaction(connection):
        return True, True
    if has_waited(connection):
        return False, False
    if connection.vendor == "sqlite":
        # With a rollback journal, no other connection commits while this one
        # reads. BEGIN IMMEDIATE may have waited for one that did.
        return not (begins_with_lock(connection) or is_wal(connection)), False
    return (is_read_committed(connection),) * 2


def release_what_has_ended(connection):
    """
    Release the LOCKs of transactions whose end this process has not seen:
    those managed by hand, and the blocks of a TestCase.
    """
    if not connection.in_atomic_block:
        if by_hand.has_locked(connection) and is_autocommit(connection):
            by_hand.release_ended(connection)
    elif not (
        connection.needs_rollback
        or is_by_hand(connection)
        or in_transaction(connection)
    ):
        journal(connection).settle()


def has_waited(connection):
    """
    Rule *waited*: return True if this transaction holds locks in the database,
    or has waited for locks. It then has no hits until it ends.

    It may have waited for the commit of another transaction whose release is
    still on its way, and whose LOCK a third transaction's release has
    replaced. The cache then holds an older row than this transaction must see.
    """
    waited = journal(connection).waited
    return waited is not None and waited is first_block(connection)


def has_waited_elsewhere(connection):
    """
    Do the same as has_waited(), for another alias of the same database in this
    thread.
    """
    for other in connections.all(initialized_only=True):
        if (
            other.in_atomic_block  # rarely True, so it is tested first, for each hit
            and other is not connection
            and has_waited(other)
            and other.alias
            in aliases_of_database(connection.alias, connection.settings_dict)
        ):
            return True
    return False


def is_aborted(connection):
    """
    Return True if PostgreSQL refuses every statement of this transaction.
    """
    if connection.vendor != "postgresql":
        return False
    info = getattr(connection.connection, "info", None)
    status = getattr(info, "transaction_status", None)
    return status == drivers.IN_ERROR or journal(connection).is_aborted


def record_locks(connection, takes_locks):
    """
    Record the locks of a statement that is about to run inside atomic().
    ``takes_locks`` is called only if it matters, and returns whether the
    statement may lock rows or wait.
    """
    own = journal(connection)
    if not in_transaction(connection):
        own.waited = None
        return False
    if not has_waited(connection) and takes_locks():
        own.waited = first_block(connection)
    return own.is_in_use() and drivers.has_ended(connection)
