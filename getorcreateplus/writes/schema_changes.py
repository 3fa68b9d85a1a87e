"""
Statements of this process that may change a schema, and the facts about tables
that the process remembers until one of them runs.

The driver's own cursor queries the catalog about tables, and the process
remembers the answer. After a statement that may change a table, the process
discards every answer, and again when the transaction has committed, because
other connections do not see the change earlier.
"""

import re

from ..coherence.connection_methods import replacing
from ..coherence.transactions import is_autocommit
from .statements import lacks, word_set

# A statement that may change a column, or the table that a name refers to.
CHANGES = re.compile(
    r"\b(?:ALTER|ATTACH|CREATE|DETACH|DROP|IMPORT|RENAME)\b"
    # It may end a transaction without Django, and a column is then as before.
    r"|(?:\A|;|\*/)\s*(?:ABORT|CALL|DO|EXECUTE|ROLLBACK(?!\s+TO))\b",
    re.IGNORECASE,
)
# The words in CHANGES.
WORDS_OF_CHANGES = word_set(
    "abort alter attach call create detach do drop execute import rename rollback"
)


class Generation:
    """Counts the schema changes that connections of this process have sent."""

    number = 0


class TableMemory:
    """
    The answers of databases about their tables, until a schema changes.

    Take ``answers`` before the query, and store the answer in the same dict:
    clear() replaces the dict, and so discards an answer that is older than a
    change which another thread has sent in the meantime.
    """

    def __init__(self):
        self.answers = {}
        memories.append(self)

    def clear(self):
        self.answers = {}


memories = []  # each TableMemory


def discard_answers():
    """
    Make all tables be read again, because a statement may have changed them.
    """
    Generation.number += 1
    for memory in memories:
        memory.clear()


def has_changed_schema(connection):
    """
    Return True if the open transaction has changed a schema, so its rollback
    may change a table again.
    """
    blocks = connection.atomic_blocks
    changed = getattr(connection, "getorcreateplus_changed", None)
    return bool(blocks) and changed is blocks[0]


def may_be_undone(connection):
    """Return True if a rollback may make the database's answer wrong."""
    if not connection.in_atomic_block:
        return not is_autocommit(connection)
    return has_changed_schema(connection)


def wrap_schema_change(execute, connection, sql, words):
    """
    Return an execute() that discards all answers after a statement which may
    change a schema. For any other statement, return the given one.

    The statement does not have one of Django's forms. ``words`` are its
    words_of().
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
