"""The INSERT of many rows that does not change existing rows."""

from functools import partial
from itertools import chain
from operator import attrgetter

from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.models import Field
from django.db.models.sql import InsertQuery
from django.db.models.sql.compiler import SQLInsertCompiler

from ..lookups.canonical import DJANGO_FIELD_MODULES, prepared_type, stored_as
from ..writes.refusals import Refused, try_clause


class Insert:
    """
    One INSERT of many rows, as bulk_create() sends it, except that it does not
    change existing rows.
    """

    def __init__(self, connection, model, objs, fields):
        self.connection = connection
        self.model = model
        query = InsertQuery(model)
        query.insert_values(fields, list(objs))
        self.compiler = query.get_compiler(connection=connection)
        columns = None
        if type(self.compiler).as_sql is SQLInsertCompiler.as_sql:
            columns = plain_columns(connection, query.objs, fields)
        if columns is None:
            [(self.sql, self.params)] = self.compiler.as_sql()
        else:
            self.sql, self.params = self.as_sql(fields, columns)

    def as_sql(self, fields, columns):
        """
        Do the same as the compiler's as_sql(), for columns of prepared values
        that are not expressions.
        """
        connection, compiler = self.connection, self.compiler
        quote, rows = connection.ops.quote_name, list(zip(*columns, strict=True))
        assembles = type(compiler).assemble_as_sql
        if assembles is SQLInsertCompiler.assemble_as_sql:
            placeholders = [("%s",) * len(columns)] * len(rows)
        else:
            placeholders, rows = compiler.assemble_as_sql(fields, rows)
        sql = " ".join(
            (
                connection.ops.insert_statement(),
                quote(self.model._meta.db_table),
                f"({', '.join(quote(field.column) for field in fields)})",
                connection.ops.bulk_insert_sql(fields, placeholders),
            )
        )
        return sql, tuple(chain.from_iterable(rows))

    def send_plainly(self):
        """Send it without a clause for conflicts."""
        with self.connection.cursor() as cursor:
            cursor.execute(self.sql, self.params)

    def send(self, returned):
        """
        Return the columns of the inserted rows, and of the rows that existed
        already, if the database returns them.

        It does not use INSERT OR IGNORE or INSERT IGNORE, which also store
        rows that violate other constraints, or omit them.
        """
        quote, opts = self.connection.ops.quote_name, self.model._meta
        table = quote(opts.db_table)
        columns = ", ".join(f"{table}.{quote(field.column)}" for field in returned)
        others = []
        with self.connection.cursor() as cursor:
            if self.connection.vendor == "mysql":
                column = quote(opts.pk_fields[0].column)
                rows, others = self.send_counting(cursor, column, columns)
            else:
                attempt = partial(try_clause, self.connection, self.model)
                sql = f"{self.sql} ON CONFLICT DO NOTHING RETURNING {columns}"
                try:
                    with self.connection.execute_wrapper(attempt):
                        cursor.execute(sql, self.params)
                except Refused:
                    return [], []  # get_or_create() inserts them.
                rows = cursor.fetchall()
        return (
            converted(self.compiler, opts, rows, returned),
            converted(self.compiler, opts, others, returned),
        )

    def send_counting(self, cursor, column, columns):
        # MariaDB returns the existing rows, too, so the statement counts them.
        # It updates nothing, but takes an exclusive lock, so that writers that
        # wait for the same row do not deadlock.
        cursor.execute("SET @getorcreateplus = 0")
        cursor.execute(
            f"{self.sql} ON DUPLICATE KEY UPDATE {column} = IF("
            f"@getorcreateplus := @getorcreateplus + 1, {column}, {column}) "
            f"RETURNING {columns}, @getorcreateplus",
            self.params,
        )
        rows, others, before = [], [], 0
        for *values, count in cursor.fetchall():
            (rows if int(count) == before else others).append(values)
            before = int(count)
        return rows, others


def converted(compiler, opts, rows, returned):
    """Return the values of the fields that RETURNING has returned in rows."""
    connection = compiler.connection
    if connection.vendor == "sqlite":
        rows = as_stored(connection, rows, returned)
    cols = [field.get_col(opts.db_table) for field in returned]
    converters = compiler.get_converters(cols)
    return list(compiler.apply_converters(rows, converters) if converters else rows)


def as_stored(connection, rows, returned):
    """
    Return the rows as a SELECT does. SQLite's RETURNING returns an integer as
    an integer even if the column is REAL.
    """
    reals = [
        place
        for place, field in enumerate(returned)
        if (field.db_type(connection) or "")
        .upper()
        .startswith(("REAL", "FLOA", "DOUB"))
    ]
    if not reals:
        return rows
    rows = [list(row) for row in rows]
    for row in rows:
        for place in reals:
            if type(row[place]) is int:
                row[place] = float(row[place])
    return rows


def plain_columns(connection, objs, fields):
    """
    Return lists of the values to be sent, one for each field. Return None if
    the compiler has to prepare each value.
    """
    if not fields or any(
        field.has_db_default()
        or hasattr(field, "get_placeholder")
        or hasattr(field, "get_placeholder_sql")
        # It may do anything, but must not do it twice.
        or type(field).pre_save.__module__ not in DJANGO_FIELD_MODULES
        or "pre_save" in vars(field)
        for field in fields
    ):
        return None
    columns = []
    for field in fields:
        if type(field).pre_save is Field.pre_save:
            values = list(map(attrgetter(field.attname), objs))
        else:
            values = [field.pre_save(obj, True) for obj in objs]
        kinds = set(map(type, values))
        if any(hasattr(k, "as_sql") or hasattr(k, "resolve_expression") for k in kinds):
            return None
        if not kinds <= sent_unchanged(connection, field):
            prepare = field.get_db_prep_save
            values = [prepare(value, connection=connection) for value in values]
        columns.append(values)
    return columns


def sent_unchanged(connection, field):
    """
    Return the types of values that a field's get_db_prep_save() does not
    change.
    """
    stored = stored_as(field)
    kind = stored and prepared_type(field, stored)
    if kind is int:
        adapts = type(connection.ops).adapt_integerfield_value
        is_same = adapts is BaseDatabaseOperations.adapt_integerfield_value
    else:
        is_same = kind in UNCHANGED_TYPES
    return {kind} if is_same else set()


UNCHANGED_TYPES = {bool, float, str}
