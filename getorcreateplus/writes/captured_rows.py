"""
The values that the statements of one call read and wrote, by column.

An instance may differ from its row: from_db() or a receiver of post_init may
change the values of a SELECT; a project's save(), a receiver of post_save or a
field's pre_save() may change the values to be sent. So the values of a SELECT
are captured before an instance is made from them, and those of an INSERT or
UPDATE are compared with the parameters that were sent.
"""

import functools
import re
from typing import NamedTuple

from django.db import connections, models
from django.utils.functional import cached_property

from ..coherence import drivers
from ..coherence.drivers import last_result
from ..environment.cached_functions import cached_until_models_change
from ..lookups.rows import layout
from .statements import statement_of
from .stored_values import (
    NotStoredAsSent,
    Storage,
    saved_value,
    storage_of,
    stores_all_as_sent,
)
from .wrappers import Wrapper

NOT_KNOWN = "", ()  # recorded instead of a statement that may have written the row
SEQUENCES = list, tuple  # of parameters; an iterator can be read only once


class TableSql:
    """
    The names of a model's table and its columns in a database's statements.
    """

    def __init__(self, model, connection):
        opts, quote = model._meta, connection.ops.quote_name
        self.insert = f"INSERT INTO {quote(opts.db_table)} ("
        self.update = f"UPDATE {quote(opts.db_table)} SET "
        self.columns = [
            Column(field, quote(field.column), field is opts.pk, storage_of(field))
            for field in opts.concrete_fields
        ]
        self.names = {column.name for column in self.columns}
        pks = [f"{quote(opts.db_table)}.{quote(f.column)}" for f in opts.pk_fields]
        self.returning_pk = f" RETURNING {', '.join(pks)}"
        # The condition of save(), None for a composite primary key.
        self.named_by_pk = f"{pks[0]} = %s" if len(pks) == 1 else None
        tables = {table._meta.db_table for table in (model, *opts.all_parents)}
        names = "|".join(map(re.escape, tables))
        self.named = re.compile(rf"(?<!\w)({names})(?!\w)", re.IGNORECASE).search


class Column(NamedTuple):
    field: models.Field
    name: str  # quoted
    is_pk: bool
    storage: Storage | None


@cached_until_models_change
def table_sql_of(model, using):
    return TableSql(model, connections[using])


class Recording(Wrapper):
    """The rows that one call selects, and the statements that write for it."""

    def __init__(self, model, connection):
        super().__init__(connection)
        self.model = model
        self.rows = []  # (instance, column values or None)
        self.statements = []  # (sql, parameters), of the model's tables
        self.rollbacks = None  # drivers.rollbacks() at the first of these
        self.on_update = None  # called after an UPDATE of the model's table
        self.generated_pk = None  # by the database, for the last INSERT
        self.made_pk = False  # True if generated_pk is that of inserted()

    @cached_property
    def table(self):
        return table_sql_of(self.model, self.connection.alias)

    def remove(self):
        was_there = super().remove()
        if not was_there:
            self.statements.append(NOT_KNOWN)
        return was_there

    def on_statement(self, execute, sql, params, many, context):
        if type(sql) is str and sql.startswith("SELECT") and ";" not in sql:
            return execute(sql, params, many, context)
        result = execute(sql, params, many, context)
        statement = statement_of(sql, self.connection)
        text = statement.text
        is_insert = text.startswith(self.table.insert)
        if not is_insert and (statement.is_read() or not self.table.named(text)):
            return result
        if not self.statements:
            self.rollbacks = drivers.rollbacks(self.connection)
        # It may have written the row, in any form.
        if many or ";" in text or not isinstance(params, SEQUENCES):
            self.statements.append(NOT_KNOWN)
            return result
        self.statements.append((text, tuple(statement.own_params(params))))
        if is_insert:
            with last_result(context["cursor"]) as cursor:
                self.generated_pk = self._generated_pk(text, cursor)
        elif text.startswith(self.table.update) and self.on_update:
            self.on_update()
        return result

    def _generated_pk(self, sql, cursor):
        """Return the primary key that the database has generated."""
        if self.connection.vendor == "sqlite":
            return cursor.lastrowid
        returns_pk = sql.endswith(self.table.returning_pk)  # and nothing else
        if not returns_pk and not cursor.description:
            return getattr(cursor, "lastrowid", None)
        row = cursor.fetchone()
        if row is None:
            return None
        cursor.scroll(-1)  # Django reads it again.
        if returns_pk:
            return row[0]
        columns = [column[0] for column in cursor.description]
        return dict(zip(columns, row, strict=True)).get(self.model._meta.pk.column)

    def selected(self, instance):
        """
        Return the column values of an instance that a SELECT yielded.

        Return None if the row may have been written in the meantime.
        """
        return None if self.statements else self._selected(instance)

    def _selected(self, instance):
        for row, values in self.rows:
            if row is instance:
                return values
        return None

    def is_undone(self):
        """
        Return True if the writes may have been rolled back in the meantime, by
        an atomic() block that ended without an exception, because its code had
        swallowed an error or had called set_rollback().
        """
        return self.rollbacks != drivers.rollbacks(self.connection)

    def inserted(self, instance):
        """
        Return the column values of an instance that was inserted.

        Return None if a SELECT may return other values.
        """
        if (
            len(self.statements) != 1
            or self.is_undone()
            # A create() may return anything.
            or not issubclass(type(instance), self.model)
        ):
            return None
        sql, params = self.statements[0]
        columns = columns_of_insert(sql, self.table.insert)
        if columns is None or len(columns) != len(params):
            return None
        return self._values(instance, dict(zip(columns, params, strict=True)), None)

    def updated(self, instance):
        """
        Return the column values of an instance that was selected and updated.

        Return None if a SELECT may return other values.
        """
        selected = self._selected(instance)
        if len(self.statements) != 1 or selected is None:
            return None
        sql, params = self.statements[0]
        update = update_of(sql, self.table.update)
        if update is None:
            return None
        columns, nulls, where = update
        before = dict(zip(layout(self.model).attnames, selected, strict=True))
        if not self._is_row(before, where, params[len(columns) :]):
            return None
        sent = dict.fromkeys(nulls) | dict(zip(columns, params, strict=False))
        return self._values(instance, sent, before)

    def _is_row(self, before, where, params):
        """Return True if the condition of an UPDATE is that of save()."""
        pk = self.model._meta.pk
        return (
            where == self.table.named_by_pk
            and len(params) == 1
            and params[0] == pk.get_db_prep_value(before[pk.attname], self.connection)
        )

    def _values(self, instance, sent, before):
        connection = self.connection
        if not stores_all_as_sent(connection) or not sent.keys() <= self.table.names:
            return None
        values = []
        try:
            for field, column, is_pk, storage in self.table.columns:
                if column in sent:
                    param = sent[column]
                    value = saved_value(instance, field, storage, param, connection)
                elif before is None:
                    value = self._generated(instance, field, is_pk)
                elif field.generated or field.has_db_default():
                    return None  # The database, not Python, computes it.
                else:
                    value = before[field.attname]
                values.append(value)
        except NotStoredAsSent:
            return None
        return tuple(values)

    def _generated(self, instance, field, is_pk):
        value = instance.__dict__.get(field.attname)
        if not is_pk or type(value) is not int or value != self.generated_pk:
            raise NotStoredAsSent(field)
        self.made_pk = True
        return value


@functools.lru_cache(maxsize=1000)
def update_of(sql, start):
    """
    Return the columns of an UPDATE that get a parameter, those that get NULL,
    and its condition. Return None for another statement, or an expression.
    """
    if not sql.startswith(start):
        return None
    assignments, _, where = sql.removeprefix(start).partition(" WHERE ")
    columns = {"%s": [], "NULL": []}
    for assignment in assignments.split(", "):
        column, _, value = assignment.rpartition(" = ")
        if value not in columns:
            return None
        columns[value].append(column)
    return columns["%s"], columns["NULL"], where.partition(" RETURNING ")[0]


@functools.lru_cache(maxsize=1000)
def columns_of_insert(sql, start):
    """
    Return the columns to which an INSERT of one row gives values. Return None
    for another statement, or if one of the values is an expression.
    """
    if not sql.startswith(start):
        return None
    columns, _, rest = sql.removeprefix(start).partition(") VALUES (")
    columns = columns.split(", ")
    values = ", ".join(["%s"] * len(columns))
    return columns if rest.startswith(f"{values})") else None
