"""
What a database makes of an INSERT into one table, and of its text keys.

Models do not tell: a trigger may put a row elsewhere, a user may lack a right,
and a column may find other texts equal than Python does. So the catalog of the
database is asked, by the driver's own cursor, once per table and process.
"""

import re
from contextlib import closing
from typing import NamedTuple

from . import text_columns as catalog

# A function that returns nothing but NEW, and never replaces it, leaves no row
# out. Each other function may leave a row out. The triggers of a view and of a
# foreign table are elsewhere. Tables of any schema count, as in catalog.py.
POSTGRESQL = r"""
WITH RECURSIVE tables AS (
    SELECT c.oid, c.relkind FROM pg_catalog.pg_class c
    WHERE c.relname = %s AND c.relkind IN ('f', 'm', 'p', 'r', 'v')
    UNION
    SELECT c.oid, c.relkind FROM tables
    JOIN pg_catalog.pg_inherits i ON i.inhparent = tables.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE tables.relkind = 'p'
)
SELECT coalesce(bool_and(relkind IN ('p', 'r') AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE t.tgrelid = tables.oid AND NOT t.tgisinternal
        AND t.tgtype & 6 = 6 -- before an INSERT
        AND p.prosrc NOT IN (
            'tsvector_update_trigger_byid', 'tsvector_update_trigger_bycolumn'
        )
        AND (
            l.lanname <> 'plpgsql'
            OR p.prosrc ~* '\mreturn\M(?!\s+new\s*;)'
            OR p.prosrc ~* '\mnew\s*:?=|\minto\s+(strict\s+)?new\M'
        )
)), false)
FROM tables
"""

SQLITE = """
SELECT type, name, sql FROM (
    SELECT type, name, tbl_name, sql FROM sqlite_master
    UNION ALL SELECT type, name, tbl_name, sql FROM sqlite_temp_master
) WHERE type IN ('table', 'trigger', 'view') AND lower(tbl_name) = ?
"""
LEAVES_OUT = re.compile(r"\bRAISE\s*\(\s*IGNORE\b", re.IGNORECASE)
# Anywhere: a trigger may write a table that has another trigger, or a
# constraint ON CONFLICT FAIL.
SQLITE_FAILURES = """
SELECT sql FROM (
    SELECT type, sql FROM sqlite_master
    UNION ALL SELECT type, sql FROM sqlite_temp_master
) WHERE type IN ('table', 'trigger') AND (sql LIKE '%FAIL%' OR sql LIKE '%ROLLBACK%')
"""
KEEPS_OR_ENDS = re.compile(r"\b(?:FAIL|ROLLBACK)\b", re.IGNORECASE)

# ON DUPLICATE KEY UPDATE wants the right to update, and runs the triggers of
# an UPDATE, which a user without the right TRIGGER is not shown.
MYSQL_RIGHTS = """
SELECT count(DISTINCT privilege_type) FROM (
    SELECT grantee, privilege_type FROM information_schema.user_privileges
    UNION SELECT grantee, privilege_type FROM information_schema.schema_privileges
    WHERE database() LIKE table_schema
    UNION SELECT grantee, privilege_type FROM information_schema.table_privileges
    WHERE table_schema = database() AND table_name = %s
) rights
WHERE privilege_type IN ('TRIGGER', 'UPDATE') AND grantee = concat(
    '''', substring_index(current_user(), '@', 1), '''@''',
    substring_index(current_user(), '@', -1), ''''
)
"""
MYSQL_TRIGGERS = """
SELECT count(*) FROM information_schema.triggers
WHERE event_object_schema = database() AND event_object_table = %s
    AND event_manipulation = 'UPDATE'
"""
MYSQL_COLUMNS = """
SELECT column_name, collation_name FROM information_schema.columns
WHERE table_schema = database() AND table_name = %s
"""
# Under these two texts of printable ASCII are equal only where they are so in
# lower case and without spaces at their ends.
KNOWN_COLLATIONS = re.compile(
    r"(?:ascii|latin1|utf8|utf8mb3|utf8mb4)_"
    r"(?:(?:general|unicode|unicode_520|0900|uca1400)_)?"
    r"(?:nopad_)?(?:(?:ai|as)_)?(?:bin|ci|cs)|latin1_swedish_(?:nopad_)?ci"
)


class Table(NamedTuple):
    """What the catalog says of a table; the worst is what is not known."""

    # Whether each row that is sent to it is inserted, or in conflict.
    is_plain: bool = False
    # Whether an UPDATE that changes nothing is allowed, and nothing else.
    takes_updates: bool = False
    exact: frozenset = frozenset()  # columns that compare texts as Python does
    known: frozenset = frozenset()  # columns of KNOWN_COLLATIONS
    most_bytes: int = 2**26  # of a statement
    # Whether a statement that fails undoes itself, and nothing else.
    fails_alone: bool = False


tables = {}  # (database, user, table): (generation, Table)


def table_of(connection, model):
    """Return the Table of a model."""
    name = model._meta.db_table
    key = key_of(connection, name)
    generation, table = tables.get(key, (None, None))
    if generation != catalog.Generation.number:
        generation = catalog.Generation.number
        table = read(connection, name)
        if table is None:
            return Table()
        if not catalog.is_of_transaction(connection):
            tables[key] = generation, table
    return table


def forget(connection, model):
    """Ask again: the database did what the Table does not tell."""
    tables.pop(key_of(connection, model._meta.db_table), None)


def key_of(connection, name):
    settings = connection.settings_dict
    return (
        connection.alias,
        *(str(settings.get(each)) for each in ("HOST", "PORT", "NAME", "USER")),
        name,
    )


def read(connection, name):
    """Return a Table, None where the database does not answer."""
    reader = READERS.get(connection.vendor)
    if reader is None:
        return None
    try:
        connection.ensure_connection()
        raw = connection.connection
        with closing(raw.cursor()) as cursor, catalog.undoing(connection, cursor):
            return reader(cursor, catalog.name_of(name))
    except Exception:  # noqa: BLE001 - of whatever driver, in whatever state
        return None


def read_postgresql(cursor, name):
    cursor.execute(POSTGRESQL.replace("%s", "%(name)s"), {"name": name})
    [(is_plain,)] = cursor.fetchall()
    columns = catalog.ask_postgresql(cursor, [name])
    exact = {column for (_, column), is_exact in columns.items() if is_exact}
    return Table(is_plain, exact=frozenset(exact))


def read_sqlite(cursor, name):
    cursor.execute(SQLITE, [catalog.lower(name)])
    found = cursor.fetchall()
    is_plain = {kind for kind, _, _ in found} <= {"table", "trigger"} and not any(
        LEAVES_OUT.search(sql) for kind, _, sql in found if kind == "trigger"
    )
    columns = catalog.ask_sqlite(cursor, [name])
    exact = {column for (_, column), is_exact in columns.items() if is_exact}
    cursor.execute(SQLITE_FAILURES)
    fails_alone = not any(KEEPS_OR_ENDS.search(sql) for (sql,) in cursor.fetchall())
    return Table(is_plain, exact=frozenset(exact), fails_alone=fails_alone)


def read_mysql(cursor, name):
    cursor.execute(MYSQL_RIGHTS, [name])
    [(rights,)] = cursor.fetchall()
    cursor.execute(MYSQL_TRIGGERS, [name])
    [(triggers,)] = cursor.fetchall()
    cursor.execute(MYSQL_COLUMNS, [name])
    collations = dict(cursor.fetchall())
    cursor.execute("SELECT @@max_allowed_packet")
    [(packet,)] = cursor.fetchall()
    known = {
        column
        for column, collation in collations.items()
        if collation and KNOWN_COLLATIONS.fullmatch(collation)
    }
    return Table(
        # A trigger of MySQL's can raise an error, and not leave a row out.
        is_plain=True,
        takes_updates=rights == 2 and not triggers,
        known=frozenset(known),
        most_bytes=min(packet, Table().most_bytes),
    )


READERS = {
    "mysql": read_mysql,
    "postgresql": read_postgresql,
    "sqlite": read_sqlite,
}


def are_distinct(table, column, texts):
    """
    Tell whether the database finds these texts, which differ, different ones;
    False where only the database itself knows.
    """
    if column in table.exact:
        return True
    if column not in table.known:
        return False
    if not all(text.isascii() and text.isprintable() for text in texts):
        return False
    return len({text.lower().rstrip(" ") for text in texts}) == len(texts)


def first_equals(connection, model, column, texts):
    """
    Return {text: number} of texts: those that a column finds equal have the
    same number.

    The database is told the column's collation by the column itself.
    """
    quote = connection.ops.quote_name
    # Not VALUES everywhere: PostgreSQL would take all texts for a text, before
    # it meets the column's type. SQLite limits the SELECTs.
    rows = [f"%s, {number}" for number in range(len(texts))]
    if connection.vendor == "sqlite":
        values = f"VALUES {', '.join(f'({row})' for row in rows)}"
    else:
        values = " UNION ALL ".join(f"SELECT {row}" for row in rows)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT number, min(number) OVER (PARTITION BY value) FROM ("
            f"SELECT {quote(column)} AS value, 0 AS number "
            f"FROM {quote(model._meta.db_table)} WHERE 1 = 0 UNION ALL {values}"
            ") AS given",
            texts,
        )
        return {texts[number]: first for number, first in cursor.fetchall()}
