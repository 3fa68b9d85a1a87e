"""
Tables that refuse INSERT ... ON CONFLICT DO NOTHING.

PostgreSQL refuses it if a unique or exclusion constraint is deferrable, or if
a table has rules. So do some foreign tables and extensions, and SQLite for
views and virtual tables. In a view with an INSTEAD OF trigger the clause has
no effect, and a conflict is an error. Meta declares few of these. So the first
INSERTs into a table have a savepoint, which the driver's own cursor sends,
until one of them has inserted a row. The process remembers the result.
"""

from contextlib import closing

from django.db import DatabaseError, DataError, IntegrityError

from ..coherence import drivers
from ..environment.databases import database_name
from . import driver_savepoints
from .schema_changes import TableMemory, has_changed_schema


class Refused(Exception):
    """
    The table refuses the clause, and the transaction is as it was before.
    """


# {table_of_tenant(): True if the table accepts the clause}
memory = TableMemory()


def refuses(connection, model):
    """Return True if the model's table has refused the clause, or must."""
    if connection.vendor == "postgresql" and is_deferrable(model):
        return True
    accepts = memory.answers
    return accepts.get(table_of_tenant(connection, model)) is False


def is_deferrable(model):
    """Return True if the model declares a deferrable constraint."""
    constraints = model._meta.concrete_model._meta.constraints
    return any(getattr(each, "deferrable", None) for each in constraints)


def try_clause(connection, model, execute, sql, params, many, context):
    """
    Send an INSERT with the clause. Raise Refused if the table refuses it.

    The transaction is lost only if the table has accepted the clause before,
    and another process has changed the table in the meantime.
    """
    accepts = memory.answers
    table = table_of_tenant(connection, model)
    has_answered = table in accepts
    has_savepoint = not has_answered and can_abort_transaction(connection)
    errors_occurred = connection.errors_occurred
    if has_savepoint:
        driver_savepoints.begin(connection)
    try:
        result = execute(sql, params, many, context)
    except DatabaseError as error:
        if not is_refusal(connection, error):
            raise
        accepts.pop(table, None)
        if has_savepoint:
            driver_savepoints.roll_back(connection)
        elif can_abort_transaction(connection):
            raise
        connection.errors_occurred = errors_occurred
        if not has_changed_schema(connection):
            accepts[table] = False
        raise Refused from error
    if has_savepoint:
        driver_savepoints.release(connection)
    if (
        not has_answered
        # A conflict, or a trigger, may come before the refusal.
        and context["cursor"].rowcount > 0
        and not has_changed_schema(connection)
    ):
        accepts[table] = accepts_each_row(connection, model)
    return result


def table_of_tenant(connection, model):
    return (
        database_name(connection.alias, connection.settings_dict),
        # The tenant, under the name that django-tenants gives it.
        getattr(connection, "schema_name", None),
        model._meta.db_table,
    )


def can_abort_transaction(connection):
    """Return True if an error will abort a transaction."""
    return connection.vendor == "postgresql" and (
        connection.in_atomic_block
        or not connection.autocommit
        or drivers.is_open_postgresql(connection.connection)
    )


# Errors that show nothing about the clause: errors of a connection, a
# transaction, a server, a trigger's RAISE, a permission, and a table or a
# column that does not exist.
OTHER_CLASSES = ("08", "25", "28", "40", "53", "54", "57", "58", "P0")
OTHER_STATES = ("42501", "42703", "42P01", "55P03")

# Conflicts in spite of the clause, by a trigger's own INSERT.
CONFLICTS = ("23505", "23P01")


def is_refusal(connection, error):
    """Return True if the clause may be the reason for an error."""
    if connection.vendor != "postgresql":
        return "UPSERT" in str(error)
    cause = error.__cause__
    # psycopg's, and psycopg2's
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""
    if isinstance(error, (DataError, IntegrityError)):
        return state in CONFLICTS
    return state != "" and not state.startswith((*OTHER_CLASSES, *OTHER_STATES))


# An inserted row does not show the constraints of partitions to which it does
# not belong, and it does not show that a trigger has replaced its INSERT.
ACCEPTS_EACH_ROW = """
SELECT NOT EXISTS (
    SELECT FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(%s)) t
    JOIN pg_catalog.pg_class c ON c.oid = t.relid
    LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
    WHERE c.relkind NOT IN ('p', 'r') OR NOT i.indimmediate
) AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_trigger
    WHERE tgrelid = pg_catalog.to_regclass(%s)
    AND tgtype & 4 <> 0 AND tgtype & 64 <> 0 -- INSERT, INSTEAD
)
"""


def accepts_each_row(connection, model):
    """Query whether the table accepts the clause for every row."""
    if connection.vendor != "postgresql":
        return True
    table = connection.ops.quote_name(model._meta.db_table)
    has_savepoint = can_abort_transaction(connection)
    if has_savepoint:
        driver_savepoints.begin(connection)
    try:
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(ACCEPTS_EACH_ROW, [table, table])
            [(answer,)] = cursor.fetchall()
    except connection.Database.Error:
        # This may be another database with PostgreSQL's protocol, and its own
        # catalog.
        if has_savepoint:
            driver_savepoints.roll_back(connection)
        return True
    if has_savepoint:
        driver_savepoints.release(connection)
    return answer
