"""
The state of a connection: in autocommit, in a transaction, in that of a
TestCase, or in one that is managed by hand; and what its SELECTs see.

The functions here only return the state. Those that act on it are in
journal.py and endings.py.
"""

import secrets
import weakref
from contextlib import closing

from django.db import connections

from . import drivers

# The atomic() around a TestCase: the prefix of its tokens.
token_prefixes = weakref.WeakKeyDictionary()


def is_around_test(block):
    return block._from_testcase


def first_block(connection):
    """
    Return the outermost atomic() of a transaction, except that of a TestCase.
    """
    for block in connection.atomic_blocks:
        if not block._from_testcase:
            return block
    return None


def token_prefix(using):
    """Return the prefix of the tokens that this alias reads and writes now."""
    return token_prefix_of(connections[using])


def token_prefix_of(connection):
    """
    Do the same as token_prefix(): return "", or a different prefix in each
    TestCase.
    """
    if not connection.in_atomic_block:
        return ""
    around = [block for block in connection.atomic_blocks if is_around_test(block)]
    if not around:
        return ""
    return token_prefixes.setdefault(around[-1], f"test{secrets.token_hex(4)}.")


def in_transaction(connection):
    """
    Return True if a write made now can be rolled back. A TestCase's own
    transaction does not count.
    """
    # The blocks of tests are around all others.
    blocks = connection.atomic_blocks
    return (
        bool(blocks)
        and not blocks[-1]._from_testcase
        and (connection.commit_on_exit or not is_by_hand(connection))
    )


def is_by_hand(connection):
    """
    Return True if these atomic() blocks are inside a transaction that is
    managed by hand, so that Django does not see its end.
    """
    return (
        connection.in_atomic_block
        and not connection.commit_on_exit
        # Tests can neither commit nor roll back their transaction by hand.
        and not any(map(is_around_test, connection.atomic_blocks))
    )


def is_autocommit(connection):
    """Return True if a write made now is committed at once. Do not connect."""
    if connection.in_atomic_block:
        return not in_transaction(connection) and not is_by_hand(connection)
    if connection.connection is None:
        return connection.settings_dict["AUTOCOMMIT"]
    return connection.autocommit and not drivers.is_begun(connection)


# Which rows a SELECT sees


def sees_uncommitted(connection):
    """Return True if a SELECT in autocommit may see uncommitted rows."""
    if connection.vendor != "mysql":
        return False
    # The connection has no isolation_level before it connects.
    level = connection.settings_dict["OPTIONS"].get("isolation_level") or ""
    return level.lower() == "read uncommitted"


def is_read_committed(connection):
    """
    Return True if each SELECT of the transaction sees the latest commits.
    """
    if connection.vendor == "mysql":
        return (
            connection.isolation_level == "read committed"
            and getattr(connection, "getorcreateplus_isolated", connection)
            is not connection.connection
        )
    return (
        connection.vendor == "postgresql"
        # The server or the role may have another default than Django.
        and answer_of(connection, "SHOW transaction_isolation") == "read committed"
    )


def begins_with_lock(connection):
    """Return True if SQLite waits for other writers when it begins."""
    return getattr(connection, "transaction_mode", None) in {"IMMEDIATE", "EXCLUSIVE"}


def is_wal(connection):
    return answer_of(connection, "PRAGMA journal_mode") == "wal"


def answer_of(connection, sql):
    """
    Return a server's answer to this query. The driver sends it, once per
    connection, because it is not the user's query.
    """
    raw, answer = getattr(connection, "getorcreateplus_answer", (None, None))
    if raw is not connection.connection:
        raw = connection.connection
        with connection.wrap_database_errors, closing(raw.cursor()) as cursor:
            cursor.execute(sql)
            [answer] = cursor.fetchone()
        connection.getorcreateplus_answer = raw, answer
    return answer


def is_apart(connection):
    """
    Return True if a statement has made this session see other values than
    other sessions. This lasts until the connection reconnects.
    """
    raw = getattr(connection, "getorcreateplus_apart", None)
    return raw is not None and raw is connection.connection


# After a statement that may have changed this


def requery_isolation(connection):
    """
    Query the isolation level again, because a statement may have changed it.
    """
    if connection.vendor == "mysql":
        # Its driver does not report for which transactions.
        connection.getorcreateplus_isolated = connection.connection
    else:
        connection.getorcreateplus_answer = None, None


def set_apart(connection):
    """Record that this session may see other values from now on."""
    connection.getorcreateplus_apart = connection.connection
