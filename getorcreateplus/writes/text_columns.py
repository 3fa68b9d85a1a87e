"""
Finds out whether text columns compare as their fields do.

A write that names its rows by primary key invalidates the rows whose key has
the same text. In a char(n), a citext, or with a collation that ignores case,
the database also writes rows whose key has another text. The model does not
show that: inspectdb writes a CharField or TextField for such columns, and
RunSQL may have changed them. So the driver's own cursor reads it from the
database, once per connection, for the keys of all cached models together.

Only writers need it. A writer that cannot find it out invalidates all rows of
the model, by the epoch that every reader reads. So two processes may have read
different answers, as long as no writer treats a column as exact that is not
exact. Therefore only an answer is kept, and not its absence. After a statement
of this process that may change a column, all its connections read again.
"""

import re
from contextlib import closing

from ..coherence.transactions import is_around_test
from ..environment.interruptions import reraise
from .driver_savepoints import isolating_errors
from .schema_changes import Generation, may_be_undone


def are_exact(connection, columns, all_columns):
    """
    Return True if each of these (table, column) pairs compares texts as Python
    does. Return False if that cannot be read.

    ``all_columns``, those of all models, are read together.
    """
    if connection.vendor not in READERS:
        return False
    exact = catalog_of(connection, all_columns).exact
    if not exact.keys() >= columns:  # a table is new, or is not visible
        exact = read_catalog(connection, all_columns).exact
    return all(exact.get(column, False) for column in columns)


def catalog_of(connection, columns):
    """Return the Catalog of a connection, and read it if it is outdated."""
    catalog = getattr(connection, "getorcreateplus_catalog", None)
    if catalog is None or not catalog.is_current(connection):
        catalog = read_catalog(connection, columns)
    return catalog


class Catalog:
    """The text columns of a database, as one connection has read them."""

    def __init__(self, raw):
        self.raw = raw  # the driver's connection that has read it
        self.generation = Generation.number
        self.exact = {}  # (table, column): whether it is exact

    def is_current(self, connection):
        return (
            self.raw is connection.connection and self.generation == Generation.number
        )


def read_catalog(connection, columns):
    """Read a Catalog. Return an empty one if that fails."""
    raw = connection.connection
    catalog = Catalog(raw)
    if raw is None or is_too_early(connection):
        return catalog
    names = sorted({name_of(table) for table, _ in columns})
    try:
        with (
            closing(raw.cursor()) as cursor,
            isolating_errors(connection, cursor),
        ):
            found = READERS[connection.vendor](cursor, names)
    except Exception as error:  # noqa: BLE001 - of any driver, in any state
        reraise(error)
        return catalog
    fold = lower if connection.vendor == "sqlite" else str
    for table, column in columns:
        answer = found.get((fold(name_of(table)), fold(column)))
        if answer is not None:
            catalog.exact[table, column] = answer
    if not may_be_undone(connection):
        connection.getorcreateplus_catalog = catalog
    return catalog


def is_too_early(connection):
    # A transaction of SQLite that reads before it writes fails at once if
    # another connection has written, or is about to write. (A TestCase is
    # alone.)
    return (
        connection.vendor == "sqlite"
        and connection.connection.in_transaction
        and not any(map(is_around_test, connection.atomic_blocks))
    )


def name_of(table):
    """Return a table's name without its schema, as db_table may spell it."""
    return table.strip('"').rpartition('"."')[2]


# Queries of the databases' catalogs

# In all schemas, because search_path changes unseen: a column that is not
# exact in one schema counts as not exact in all. A domain counts as its base
# type. attcollation is that of the column, not of its type. (The default is
# deterministic.)
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


def columns_on_postgresql(cursor, names):
    cursor.execute(POSTGRESQL, [names])
    return {(table, column): exact for table, column, exact in cursor.fetchall()}


SQLITE = """
SELECT m.name, p.name, p.type, m.type, m.sql
FROM (
    SELECT name, type, sql FROM sqlite_master
    UNION ALL SELECT name, type, sql FROM sqlite_temp_master
) m, pragma_table_info(m.name) p
WHERE lower(m.name) IN ({}) AND m.type IN ('table', 'view')
"""
# No pragma returns a column's collation, only an index's.
COLLATE = re.compile(r"\bCOLLATE\b\s*(\w*)", re.IGNORECASE)


def columns_on_sqlite(cursor, names):
    cursor.execute(
        SQLITE.format(", ".join("?" * len(names))), [lower(name) for name in names]
    )
    found = {}
    for table, column, declared, kind, sql in cursor.fetchall():
        key = lower(table), lower(column)
        is_exact = (
            kind == "table"  # the columns of a view belong to another table
            and has_text_affinity(declared.upper())
            and not sql.upper().startswith("CREATE VIRTUAL")
            and all(name.upper() == "BINARY" for name in COLLATE.findall(sql))
        )
        found[key] = found.get(key, True) and is_exact
    return found


def lower(name):
    """Return a name as SQLite's lower() does, which changes ASCII only."""
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "replace")


def has_text_affinity(declared):
    # SQLite's rule: "INT" comes first.
    return "INT" not in declared and any(
        word in declared for word in ("CHAR", "CLOB", "TEXT")
    )


READERS = {"postgresql": columns_on_postgresql, "sqlite": columns_on_sqlite}
