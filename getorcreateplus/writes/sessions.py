"""
Effects of a statement on its session, judged by its words: savepoints, locks,
the isolation level, conversions, and transactions that it begins.
"""

import re
from typing import NamedTuple

from ..coherence import drivers
from ..coherence.situations import record_locks
from ..coherence.transactions import requery_isolation, set_apart
from .statements import BEFORE, OF_SAVEPOINT, READING, statement_of, word_set

# As Django sends them.
ROLLBACK_TO = "ROLLBACK TO SAVEPOINT"
SAVEPOINT_COMMANDS = "SAVEPOINT", "RELEASE SAVEPOINT", ROLLBACK_TO
DJANGO_SAVEPOINT = re.compile(
    rf"""({"|".join(SAVEPOINT_COMMANDS)}) (["`]s\d+_x\d+["`])"""
).fullmatch


class Savepoint(NamedTuple):
    """A statement that Django sends for a savepoint."""

    command: str
    name: str  # as it is quoted


def savepoint_of(sql):
    """Return the Savepoint of a statement, or None."""
    found = DJANGO_SAVEPOINT(sql) if type(sql) is str else None
    return None if found is None else Savepoint(*found.groups())


# Characters that may be between two words of SQL.
GAP = r"(?:\s|/\*(?:(?!\*/).)*\*/|(?:--|#)[^\r\n]*)"
# These lock rows in a SELECT: FOR UPDATE, LOCK IN SHARE MODE, and functions
# such as pg_advisory_xact_lock() and GET_LOCK(). And "isolation" may change
# the isolation level: rows of a snapshot must not be stored in the cache.
LOCKING = re.compile(
    rf"\bFOR{GAP}++(?:UPDATE|NO{GAP}++KEY|KEY{GAP}++SHARE|SHARE)\b"
    rf"|\bLOCK{GAP}++IN\b|lock\w*\"?{GAP}*+\(|isolation",
    re.IGNORECASE | re.DOTALL,
)
LOCKS_NOTHING = (
    *READING,
    *OF_SAVEPOINT,
    "PRAGMA",
    "SET ",
    "SHOW",
)


def record_statement(connection, sql):
    """
    Record whether a statement inside atomic() takes locks, before it runs.
    Return True if the transaction has ended without Django having seen it.
    """
    return record_locks(connection, lambda: takes_locks(connection, sql))


def takes_locks(connection, sql):
    """Return True if a statement may lock rows."""
    statement = statement_of(sql, connection)
    if not statement.begins_with(LOCKS_NOTHING) or ";" in statement.text:
        return True
    return LOCKING.search(statement.text) is not None


# Django itself sends READ COMMITTED whenever it connects to MySQL.
ISOLATES = re.compile(
    r"(?<!snapshot_)isolation(?! level read committed\b)", re.IGNORECASE
)


# First words of statements that may change the level without naming it.
RESETS = frozenset(("CALL", "DISCARD", "DO", "EXECUTE", "PRAGMA", "RESET"))


def record_isolation(connection, text, starts):
    """
    Record whether a statement, which begins with these words, may change the
    isolation level.
    """
    # The pattern, which ignores case, takes much longer.
    may_isolate = not text.isascii() or "isolation" in text.lower()
    isolates = may_isolate and ISOLATES.search(text) is not None
    if isolates or (connection.vendor != "mysql" and not starts.isdisjoint(RESETS)):
        requery_isolation(connection)


# Settings of a session that change how it converts values, or which rows it
# sees.
CONVERTS = re.compile(
    r"time_?\s?zone|extra_float_digits|(?:date|interval)style|pad_char_to_full_length"
    r"|versioning|uncommitted",
    re.IGNORECASE,
)


def record_session(connection, text, starts):
    """
    Record whether a statement, which begins with these words, makes this
    session see other values than other sessions do.
    """
    if (
        not starts.isdisjoint(("PRAGMA", "SET"))
        or ("SELECT" in starts and "set_config" in text)
    ) and CONVERTS.search(text):
        set_apart(connection)


# Transactions that a statement begins, on MySQL

# These may begin a transaction on MySQL, whose driver does not report it.
BEGINS = re.compile(
    rf"(?:\A|;|\*/){BEFORE}(BEGIN|START|XA|CALL|EXECUTE)\b|\bCHAIN\b",
    re.IGNORECASE | re.DOTALL,
)
# This ends the transaction.
COMMITS = re.compile(
    rf"(?:\A|;|\*/){BEFORE}(?:COMMIT|ROLLBACK(?!\s+(?:WORK\s+)?TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)
# First words of statements after which MariaDB is not queried for a new
# transaction. (The query changes what ROW_COUNT() returns.)
BEGINS_NOTHING = word_set(
    "ALTER ANALYZE CREATE DELETE DESC DESCRIBE DROP EXPLAIN INSERT OPTIMIZE RELEASE "
    "RENAME REPLACE SAVEPOINT SELECT SHOW TRUNCATE UPDATE USE VALUES WITH"
)
PROGRAMS = word_set("BEGIN CALL EXECUTE")  # they may return several results
EXECUTED_COMMENT = re.compile(r"/\*M?!")


def wrap_for_begins(execute, connection, text, starts):
    """
    Return an execute() that records whether a statement, which begins with
    these words, may begin a transaction on MySQL or return several results.
    """
    if connection.vendor != "mysql":
        return execute
    has_several = ";" in text or EXECUTED_COMMENT.search(text) is not None
    if starts and starts <= BEGINS_NOTHING and not has_several:
        return execute

    def execute_and_record(*args):
        if drivers.is_mariadb(connection.connection) or BEGINS.search(text):
            drivers.record_begun(connection)
        if has_several or not starts.isdisjoint(PROGRAMS):
            drivers.record_pending(connection)
        return execute(*args)

    return execute_and_record


def after_statement(connection, text, context):
    """
    After a statement was executed, record whether it has ended something.
    """
    if connection.vendor != "mysql":
        return
    if COMMITS.search(text) and not drivers.is_mariadb(connection.connection):
        drivers.record_ended(connection)
    if ";" not in text and context["cursor"].description is None:
        # A procedure that returns no rows has ended.
        drivers.record_all_results(connection)
