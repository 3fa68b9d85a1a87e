"""The INSERT of many rows that leaves existing rows as they are."""

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
    One INSERT of many rows, as bulk_create() sends it, except that it leaves
    existing rows as they are.
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
        Return what the compiler's as_sql() would, for columns of values that
        are prepared, and none of which is an expression.
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
        Return the columns of the rows that were inserted, and of those that
        existed already, if the database returns them.

        Not by INSERT OR IGNORE or INSERT IGNORE, which also store rows that
        violate other constraints, or leave them out.
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
        if self.connection.vendor == "sqlite":
            rows = self.as_stored(rows, returned)
        cols = [field.get_col(opts.db_table) for field in returned]
        converters = self.compiler.get_converters(cols)
        if converters:
            convert = self.compiler.apply_converters
            rows, others = convert(rows, converters), convert(others, converters)
        return list(rows), list(others)

    def send_counting(self, cursor, column, columns):
        # MariaDB returns the existing rows too, so the statement counts them.
        # It updates nothing, but it takes an exclusive lock, so that writers
        # that wait for the same row do not deadlock on it.
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

    def as_stored(self, rows, returned):
        # SQLite returns an integer that was sent to a REAL column as an
        # integer.
        reals = [
            place
            for place, field in enumerate(returned)
            if (field.db_type(self.connection) or "")
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
    Return lists of the values that the database is sent, one for each field.
    None if the compiler has to look at each of them.
    """
    if not fields or any(
        field.has_db_default()
        or hasattr(field, "get_placeholder")
        or hasattr(field, "get_placeholder_sql")
        # It may do anything, and must not do it twice.
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
    Return the types of the values that a field's get_db_prep_save() returns
    unchanged.
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
