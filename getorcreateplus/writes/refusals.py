"""
Tables that refuse INSERT ... ON CONFLICT DO NOTHING.

PostgreSQL refuses it where a unique or exclusion constraint is deferrable, and
where a table has rules; so do some foreign tables and extensions, and SQLite
for views and virtual tables. In a view with an INSTEAD OF trigger it does
nothing, and a conflict is an error. Meta tells of few of these. So the first
INSERTs into a table have a savepoint, which the driver's own cursor sends,
until one of them has inserted a row. The process remembers what the table has
answered.
"""

from contextlib import closing

from django.db import DatabaseError, DataError, IntegrityError

from ..coherence import drivers
from ..environment.identity import database_name

# Errors that say nothing of the clause: of a connection, a transaction, a
# server, a trigger's RAISE, a right, a table or a column that is not there.
OTHER_CLASSES = ("08", "25", "28", "40", "53", "54", "57", "58", "P0")
OTHER_STATES = ("42501", "42703", "42P01", "55P03")

# Conflicts that the clause was to keep away: those of a trigger's own INSERT.
CONFLICTS = ("23505", "23P01")

# What a row that was inserted does not show: the constraints of partitions to
# which it does not belong, and that a trigger has taken its INSERT's place.
IS_SURE = """
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


class Refused(Exception):
    """The table refuses the clause, and the transaction is as it was."""


class Known:
    """What the tables of this process's databases have answered."""

    accepts = {}  # (database, schema, table): whether it accepts the clause


def forget():
    """Ask all tables again: a statement may have changed them."""
    Known.accepts = {}


def is_deferrable(model):
    """Return whether the model declares a constraint that is deferrable."""
    constraints = model._meta.concrete_model._meta.constraints
    return any(getattr(each, "deferrable", None) for each in constraints)


def refuses(connection, model):
    """Return whether the model's table is known to refuse the clause."""
    if connection.vendor == "postgresql" and is_deferrable(model):
        return True
    return Known.accepts.get(key_of(connection, model)) is False


def key_of(connection, model):
    return (
        database_name(connection.alias, connection.settings_dict),
        # The tenant, under the name that django-tenants gives it.
        getattr(connection, "schema_name", None),
        model._meta.db_table,
    )


def try_clause(connection, model, execute, sql, params, many, context):
    """
    Send an INSERT with the clause. Raise Refused if the table refuses it.

    Only where the table has accepted it before, and was changed since by
    another process, is the transaction lost.
    """
    accepts, key = Known.accepts, key_of(connection, model)
    is_known = key in accepts
    has_savepoint = not is_known and is_in_transaction(connection)
    errors_occurred = connection.errors_occurred
    if has_savepoint:
        send(connection, "SAVEPOINT getorcreateplus")
    try:
        result = execute(sql, params, many, context)
    except DatabaseError as error:
        if not is_refusal(connection, error):
            raise
        accepts.pop(key, None)
        if has_savepoint:
            roll_back(connection)
        elif is_in_transaction(connection):
            raise
        connection.errors_occurred = errors_occurred
        if not has_changed_tables(connection):
            accepts[key] = False
        raise Refused from error
    if has_savepoint:
        send(connection, "RELEASE SAVEPOINT getorcreateplus")
    if (
        not is_known
        # A conflict, or a trigger, may come before the refusal.
        and context["cursor"].rowcount > 0
        and not has_changed_tables(connection)
    ):
        accepts[key] = is_sure(connection, model)
    return result


def is_in_transaction(connection):
    """Tell whether an error is going to abort a transaction."""
    return connection.vendor == "postgresql" and (
        connection.in_atomic_block
        or not connection.autocommit
        or drivers.is_open_postgresql(connection.connection)
    )


def is_refusal(connection, error):
    """Tell whether the clause may be the reason of an error."""
    if connection.vendor != "postgresql":
        return "UPSERT" in str(error)
    cause = error.__cause__
    # psycopg's, and psycopg2's
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""
    if isinstance(error, (DataError, IntegrityError)):
        return state in CONFLICTS
    return state != "" and not state.startswith((*OTHER_CLASSES, *OTHER_STATES))


def has_changed_tables(connection):
    """Tell whether a rollback may make the table another one."""
    blocks = connection.atomic_blocks
    changed = getattr(connection, "getorcreateplus_changed", None)
    return bool(blocks) and changed is blocks[0]


def is_sure(connection, model):
    """Ask whether the clause does the same for each row of the table."""
    if connection.vendor != "postgresql":
        return True
    table = connection.ops.quote_name(model._meta.db_table)
    has_savepoint = is_in_transaction(connection)
    if has_savepoint:
        send(connection, "SAVEPOINT getorcreateplus")
    try:
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(IS_SURE, [table, table])
            [(answer,)] = cursor.fetchall()
    except connection.Database.Error:
        # It speaks PostgreSQL's language, and has another catalog.
        if has_savepoint:
            roll_back(connection)
        return True
    if has_savepoint:
        send(connection, "RELEASE SAVEPOINT getorcreateplus")
    return answer


def roll_back(connection):
    send(connection, "ROLLBACK TO SAVEPOINT getorcreateplus")
    send(connection, "RELEASE SAVEPOINT getorcreateplus")


def send(connection, sql):
    # By the driver: it is no query of the user's, and no wrapper's.
    with (
        connection.wrap_database_errors,
        closing(connection.connection.cursor()) as cursor,
    ):
        cursor.execute(sql)
