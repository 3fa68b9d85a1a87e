"""
Statements of this process that may change a schema, and what the process
remembers about tables until one of them runs.

A database is asked about its tables by the driver's own cursor, and the answer
is remembered. After a statement that may change a table, every answer of the
process is discarded, and once more when its transaction has committed, because
other connections do not see the change earlier.
"""

import re

from ..coherence.connection_methods import replacing
from ..coherence.transactions import is_autocommit
from .statements import lacks, word_set

# A statement that may change a column, or which table a name stands for.
CHANGES = re.compile(
    r"\b(?:ALTER|ATTACH|CREATE|DETACH|DROP|IMPORT|RENAME)\b"
    # It may end a transaction without Django, and a column is again what it
    # was.
    r"|(?:\A|;|\*/)\s*(?:ABORT|CALL|DO|EXECUTE|ROLLBACK(?!\s+TO))\b",
    re.IGNORECASE,
)
# The words that CHANGES looks for.
WORDS_OF_CHANGES = word_set(
    "abort alter attach call create detach do drop execute import rename rollback"
)


class Generation:
    """Counts the schema changes that connections of this process have sent."""

    number = 0


class TableMemory:
    """
    What databases have answered about their tables, until a schema changes.

    Take ``answers`` before the database is asked, and store into the same
    dict: clear() replaces it, and so drops an answer that is older than a
    change that another thread has sent meanwhile.
    """

    def __init__(self):
        self.answers = {}
        memories.append(self)

    def clear(self):
        self.answers = {}


memories = []  # each TableMemory


def discard_answers():
    """Have all tables read again: a statement may have changed them."""
    Generation.number += 1
    for memory in memories:
        memory.clear()


def has_changed_schema(connection):
    """
    Return True if the open transaction has changed a schema, so that its
    rollback may change a table once more.
    """
    blocks = connection.atomic_blocks
    changed = getattr(connection, "getorcreateplus_changed", None)
    return bool(blocks) and changed is blocks[0]


def may_be_undone(connection):
    """Return True if a rollback may undo what the database has answered."""
    if not connection.in_atomic_block:
        return not is_autocommit(connection)
    return has_changed_schema(connection)


def wrap_schema_change(execute, connection, sql, words):
    """
    Return an execute() that discards all answers after a statement which may
    change a schema; the given one for any other statement.

    The statement is not in one of Django's forms; its words_of() are given.
    """
    if lacks(words, sql, WORDS_OF_CHANGES) or not CHANGES.search(sql):
        return execute

    def execute_and_discard(*args):
        try:
            return execute(*args)
        finally:
            discard_answers()
            if connection.atomic_blocks:
                # Other connections see the change only after the commit.
                connection.getorcreateplus_changed = connection.atomic_blocks[0]

    return execute_and_discard


@replacing("run_and_clear_commit_hooks")
def after_commit(connection, run_hooks):
    if getattr(connection, "getorcreateplus_changed", None) is not None:
        connection.getorcreateplus_changed = None
        discard_answers()
    run_hooks()
