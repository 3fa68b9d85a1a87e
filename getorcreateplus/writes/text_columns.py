"""
Whether text columns compare as their fields do.

A write that names its rows by primary key invalidates the rows whose key has
the same text. In a char(n), a citext, or under a collation that ignores case,
the database also writes rows whose key has another text, and the model does
not tell: inspectdb writes a CharField or TextField for such columns, and
RunSQL may have changed them. So the database is asked, once per connection and
by the driver's own cursor, about the keys of all cached models at once.

Only writers ask. A writer that does not know invalidates all rows of the
model, by the epoch that every reader looks at. So two processes may know
different things, as long as no writer takes a column for exact that is not.
That is why only an answer is remembered, and why a statement of this process
that may change a column makes all its connections ask again.
"""

import re
from contextlib import closing, contextmanager

from ..coherence import protocol as coherence
from ..environment.interruptions import reraise
from . import refusals
from .statements import lacks, words

# A statement that may change a column, or which table a name stands for.
CHANGES = re.compile(
    r"\b(?:ALTER|ATTACH|CREATE|DETACH|DROP|IMPORT|RENAME)\b"
    # One that Django does not know ends, and a column is again what it was.
    r"|(?:\A|;|\*/)\s*(?:ABORT|CALL|DO|EXECUTE|ROLLBACK(?!\s+TO))\b",
    re.IGNORECASE,
)

CHANGING = words(
    "abort alter attach call create detach do drop execute import rename rollback"
)

# In any schema, because search_path changes unseen: one schema whose column is
# not exact makes it so for all. A domain counts as its base type; attcollation
# is the column's own, whatever its type's. (The default is deterministic.)
POSTGRESQL = """
SELECT c.relname, a.attname, bool_and(
    coalesce(l.collisdeterministic, false) AND (
        WITH RECURSIVE base AS (
            SELECT t.oid, t.typtype, t.typbasetype
            FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid
            UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype
            FROM pg_catalog.pg_type t
            JOIN base ON base.typtype = 'd' AND t.oid = base.typbasetype
        )
        SELECT oid IN (
            'pg_catalog.text'::regtype::oid, 'pg_catalog.varchar'::regtype::oid
        )
        FROM base WHERE typtype <> 'd'
    )
)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
WHERE c.relname = ANY(%s) AND c.relkind IN ('f', 'm', 'p', 'r', 'v')
    AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY c.relname, a.attname
"""

SQLITE = """
SELECT m.name, p.name, p.type, m.type, m.sql
FROM (
    SELECT name, type, sql FROM sqlite_master
    UNION ALL SELECT name, type, sql FROM sqlite_temp_master
) m, pragma_table_info(m.name) p
WHERE lower(m.name) IN ({}) AND m.type IN ('table', 'view')
"""
# No pragma tells a column's collation, as opposed to an index's.
COLLATE = re.compile(r"\bCOLLATE\b\s*(\w*)", re.IGNORECASE)


class Generation:
    """The changes of columns that connections of this process have sent."""

    number = 0


class Catalog:
    """The text columns of a database, as one connection has read them."""

    def __init__(self, raw):
        self.raw = raw  # the driver's connection that was asked
        self.generation = Generation.number
        self.exact = {}  # (table, column): whether it is exact

    def is_of(self, connection):
        return (
            self.raw is connection.connection and self.generation == Generation.number
        )


def are_exact(connection, columns, all_columns):
    """
    Tell whether the database finds equal in each of these (table, column)s
    what Python does, and nothing else; False where it cannot tell.

    About ``all_columns``, which are those of all models, it is asked at once.
    """
    if connection.vendor not in READERS:
        return False
    exact = refresh(connection, all_columns).exact
    if not exact.keys() >= columns:  # a table is new, or cannot be seen
        exact = read(connection, all_columns).exact
    return all(exact.get(column, False) for column in columns)


def refresh(connection, columns):
    """Return the Catalog of a connection, which is asked if it has to be."""
    catalog = getattr(connection, "getorcreateplus_catalog", None)
    if catalog is None or not catalog.is_of(connection):
        catalog = read(connection, columns)
    return catalog


def read(connection, columns):
    """Return a Catalog, which is empty where the database does not answer."""
    raw = connection.connection
    catalog = Catalog(raw)
    if raw is None or is_too_early(connection):
        return catalog
    names = sorted({name_of(table) for table, _ in columns})
    try:
        with closing(raw.cursor()) as cursor, undoing(connection, cursor):
            found = READERS[connection.vendor](cursor, names)
    except Exception as error:  # noqa: BLE001 - of whatever driver, in whatever state
        reraise(error)
        return catalog
    fold = lower if connection.vendor == "sqlite" else str
    for table, column in columns:
        answer = found.get((fold(name_of(table)), fold(column)))
        if answer is not None:
            catalog.exact[table, column] = answer
    if not is_of_transaction(connection):
        connection.getorcreateplus_catalog = catalog
    return catalog


@contextmanager
def undoing(connection, cursor):
    """Keep an error, of a missing permission say, out of the transaction."""
    if not (connection.vendor == "postgresql" and connection.in_atomic_block):
        yield
        return
    cursor.execute("SAVEPOINT getorcreateplus")
    try:
        yield
    except Exception:
        cursor.execute("ROLLBACK TO SAVEPOINT getorcreateplus")
        raise
    finally:
        cursor.execute("RELEASE SAVEPOINT getorcreateplus")


def is_too_early(connection):
    # A transaction of SQLite that reads before it writes fails at once where
    # another connection has written, or is about to. (A TestCase is alone.)
    return (
        connection.vendor == "sqlite"
        and connection.connection.in_transaction
        and not any(map(coherence.is_around_test, connection.atomic_blocks))
    )


def is_of_transaction(connection):
    """Tell whether a rollback may undo what the database has just told."""
    if not connection.in_atomic_block:
        return not coherence.is_autocommit(connection)
    changed = getattr(connection, "getorcreateplus_changed", None)
    return changed is connection.atomic_blocks[0]


def watching(execute, connection, sql, found):
    """
    Return what sends a statement that is not in Django's form, of which
    words_of() are found: afterwards each connection of the process asks again,
    if the statement may change columns.
    """
    if lacks(found, sql, CHANGING) or not CHANGES.search(sql):
        return execute

    def execute_and_forget(*args):
        try:
            return execute(*args)
        finally:
            forget()
            blocks = connection.atomic_blocks
            changed = getattr(connection, "getorcreateplus_changed", None)
            if blocks and changed is not blocks[0]:
                # Other connections see it after the commit alone.
                connection.getorcreateplus_changed = blocks[0]

    return execute_and_forget


@coherence.replacing("run_and_clear_commit_hooks")
def after_commit(connection, run_hooks):
    if getattr(connection, "getorcreateplus_changed", None) is not None:
        connection.getorcreateplus_changed = None
        forget()
    run_hooks()


def forget():
    Generation.number += 1
    refusals.forget()


def name_of(table):
    """Return a table's name without its schema, as db_table may spell it."""
    return table.strip('"').rpartition('"."')[2]


def ask_postgresql(cursor, names):
    cursor.execute(POSTGRESQL, [names])
    return {(table, column): exact for table, column, exact in cursor.fetchall()}


def ask_sqlite(cursor, names):
    cursor.execute(
        SQLITE.format(", ".join("?" * len(names))), [lower(name) for name in names]
    )
    found = {}
    for table, column, declared, kind, sql in cursor.fetchall():
        key = lower(table), lower(column)
        is_exact = (
            kind == "table"  # the columns of a view are another table's
            and has_text_affinity(declared.upper())
            and not sql.upper().startswith("CREATE VIRTUAL")
            and all(name.upper() == "BINARY" for name in COLLATE.findall(sql))
        )
        found[key] = found.get(key, True) and is_exact
    return found


def lower(name):
    """Return a name as SQLite's lower() does, which knows ASCII alone."""
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "replace")


def has_text_affinity(declared):
    # As SQLite finds it out: "INT" comes first.
    return "INT" not in declared and any(
        word in declared for word in ("CHAR", "CLOB", "TEXT")
    )


READERS = {"postgresql": ask_postgresql, "sqlite": ask_sqlite}
