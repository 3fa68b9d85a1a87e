"""
Facts about a table in the database: its INSERTs and its text keys.

Models do not show them: a trigger may put a row elsewhere, a user may lack a
permission, and a column may treat texts as equal that differ in Python. So the
driver's own cursor reads them from the catalog of the database, once per table
and process, and again after a statement of this process that may have changed
a schema.
"""

import re
from contextlib import closing
from typing import NamedTuple

from . import text_columns
from .driver_savepoints import isolating_errors
from .schema_changes import TableMemory, may_be_undone


class TableFacts(NamedTuple):
    """
    Facts about a table, from the catalog. The defaults are the worst case.
    """

    # True if each row of an INSERT is either inserted or in conflict.
    takes_each_row: bool = False
    # True if an UPDATE that changes nothing is allowed, and has no other
    # effect.
    takes_updates: bool = False
    exact: frozenset = frozenset()  # columns that compare texts as Python does
    # Columns with one of KNOWN_COLLATIONS.
    with_known_collation: frozenset = frozenset()
    max_bytes: int = 2**26  # of a statement
    # True if a statement that fails undoes only itself.
    fails_alone: bool = False


memory = TableMemory()  # {table_of_user(): TableFacts}


def facts_of(connection, model):
    """Return the TableFacts of a model's table."""
    name = model._meta.db_table
    table = table_of_user(connection, name)
    answers = memory.answers
    facts = answers.get(table)
    if facts is None:
        facts = read_facts(connection, name)
        if facts is None:
            return TableFacts()
        if not may_be_undone(connection):
            answers[table] = facts
    return facts


def discard_facts(connection, model):
    """
    Make facts_of() read a table again, because it has behaved differently.
    """
    memory.answers.pop(table_of_user(connection, model._meta.db_table), None)


def table_of_user(connection, name):
    # For every tenant, because tables of all schemas count.
    settings = connection.settings_dict
    return (
        connection.alias,
        *(str(settings.get(each)) for each in ("HOST", "PORT", "NAME", "USER")),
        name,
    )


def are_distinct(facts, column, texts):
    """
    Return True if these texts, which differ in Python, also differ in a
    column. Return False if only the database can decide.
    """
    if column in facts.exact:
        return True
    if column not in facts.with_known_collation:
        return False
    if not all(text.isascii() and text.isprintable() for text in texts):
        return False
    return len({text.lower().rstrip(" ") for text in texts}) == len(texts)


def first_equals(connection, model, column, texts):
    """
    Query {text: number} for texts. Texts that a column treats as equal have
    the same number.

    The query selects from the column itself, so its collation applies.
    """
    quote = connection.ops.quote_name
    # Not always VALUES, because PostgreSQL would give all values the type text
    # before it sees the column's type. SQLite limits the number of SELECTs.
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


# Reading the catalog


def read_facts(connection, name):
    """Query the TableFacts of a table; return None if that fails."""
    reader = READERS.get(connection.vendor)
    if reader is None:
        return None
    try:
        connection.ensure_connection()
        raw = connection.connection
        with (
            closing(raw.cursor()) as cursor,
            isolating_errors(connection, cursor),
        ):
            return reader(cursor, text_columns.name_of(name))
    except Exception:  # noqa: BLE001 - of any driver, in any state
        return None


# A function that returns only NEW, and never replaces it, does not omit a row.
# Any other function may omit a row. The triggers of a view and of a foreign
# table are elsewhere. As in text_columns.py, tables of all schemas count.
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


def facts_on_postgresql(cursor, name):
    cursor.execute(POSTGRESQL.replace("%s", "%(name)s"), {"name": name})
    [(takes_each_row,)] = cursor.fetchall()
    columns = text_columns.columns_on_postgresql(cursor, [name])
    exact = {column for (_, column), is_exact in columns.items() if is_exact}
    return TableFacts(takes_each_row, exact=frozenset(exact))


SQLITE = """
SELECT type, name, sql FROM (
    SELECT type, name, tbl_name, sql FROM sqlite_master
    UNION ALL SELECT type, name, tbl_name, sql FROM sqlite_temp_master
) WHERE type IN ('table', 'trigger', 'view') AND lower(tbl_name) = ?
"""
LEAVES_OUT = re.compile(r"\bRAISE\s*\(\s*IGNORE\b", re.IGNORECASE)
# In all tables, because a trigger may write a table with another trigger, or
# with a constraint ON CONFLICT FAIL.
SQLITE_FAILURES = """
SELECT sql FROM (
    SELECT type, sql FROM sqlite_master
    UNION ALL SELECT type, sql FROM sqlite_temp_master
) WHERE type IN ('table', 'trigger') AND (sql LIKE '%FAIL%' OR sql LIKE '%ROLLBACK%')
"""
KEEPS_OR_ENDS = re.compile(r"\b(?:FAIL|ROLLBACK)\b", re.IGNORECASE)


def facts_on_sqlite(cursor, name):
    cursor.execute(SQLITE, [text_columns.lower(name)])
    found = cursor.fetchall()
    takes_each_row = {kind for kind, _, _ in found} <= {"table", "trigger"} and not any(
        LEAVES_OUT.search(sql) for kind, _, sql in found if kind == "trigger"
    )
    columns = text_columns.columns_on_sqlite(cursor, [name])
    exact = {column for (_, column), is_exact in columns.items() if is_exact}
    cursor.execute(SQLITE_FAILURES)
    fails_alone = not any(KEEPS_OR_ENDS.search(sql) for (sql,) in cursor.fetchall())
    return TableFacts(takes_each_row, exact=frozenset(exact), fails_alone=fails_alone)


# ON DUPLICATE KEY UPDATE requires the UPDATE privilege, and runs the triggers
# of an UPDATE, which MySQL shows only to a user with the TRIGGER privilege.
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
# With these collations, two texts of printable ASCII are equal only if they
# are equal in lower case and without spaces at their ends.
KNOWN_COLLATIONS = re.compile(
    r"(?:ascii|latin1|utf8|utf8mb3|utf8mb4)_"
    r"(?:(?:general|unicode|unicode_520|0900|uca1400)_)?"
    r"(?:nopad_)?(?:(?:ai|as)_)?(?:bin|ci|cs)|latin1_swedish_(?:nopad_)?ci"
)


def facts_on_mysql(cursor, name):
    cursor.execute(MYSQL_RIGHTS, [name])
    [(rights,)] = cursor.fetchall()
    cursor.execute(MYSQL_TRIGGERS, [name])
    [(triggers,)] = cursor.fetchall()
    cursor.execute(MYSQL_COLUMNS, [name])
    collations = dict(cursor.fetchall())
    cursor.execute("SELECT @@max_allowed_packet")
    [(packet,)] = cursor.fetchall()
    with_known_collation = {
        column
        for column, collation in collations.items()
        if collation and KNOWN_COLLATIONS.fullmatch(collation)
    }
    return TableFacts(
        # A trigger on MySQL can raise an error, but cannot omit a row.
        takes_each_row=True,
        takes_updates=rights == 2 and not triggers,
        with_known_collation=frozenset(with_known_collation),
        max_bytes=min(packet, TableFacts().max_bytes),
    )


READERS = {
    "mysql": facts_on_mysql,
    "postgresql": facts_on_postgresql,
    "sqlite": facts_on_sqlite,
}
