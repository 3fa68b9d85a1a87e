"""
What the statements of one call read and wrote, column by column.

An instance need not tell what its row holds: a from_db() or a receiver of
post_init may change what a SELECT returned, a save() of the user's, a receiver
of post_save or a field's pre_save() what was sent. So the values are those
that the SELECT yields before an instance is made of them, and those of an
INSERT or UPDATE are compared with the parameters that were sent.
"""

import datetime
import decimal
import functools
import math
import re
import uuid
import zoneinfo
from typing import NamedTuple

from django.core.signals import setting_changed
from django.db import connections, models
from django.db.models.query import ModelIterable
from django.db.models.signals import class_prepared

from ..coherence import drivers
from ..coherence.drivers import last_result
from ..lookups.canonical import (
    PLAIN_TYPES,
    NotCanonical,
    canonical,
    prepare,
    prepared_type,
    refuse_other_text,
    stored_as,
)
from ..lookups.rows import layout, private_copy
from .statements import statement_of
from .wrappers import Wrapper

NOT_KNOWN = "", ()  # a statement that may have written the row
SEQUENCES = list, tuple  # of parameters; an iterator is gone when it was read


class NotExact(Exception):
    """What a SELECT will return cannot be told from the instance."""


class RecordingIterable(ModelIterable):
    """Note the column values of the instances that a queryset yields."""

    def __iter__(self):
        # As ModelIterable, with a look at the rows that it makes instances of.
        recording = self.queryset._recording  # type: ignore[attr-defined]
        query, last = self.queryset.query, []

        def get_compiler(*args, **kwargs):
            compiler = type(query).get_compiler(query, *args, **kwargs)
            results_iter = compiler.results_iter

            def noting(*args, **kwargs):
                for row in results_iter(*args, **kwargs):
                    last[:] = compiler, row
                    yield row

            compiler.results_iter = noting
            return compiler

        query.get_compiler = get_compiler  # type: ignore[method-assign]
        try:
            for instance in super().__iter__():
                recording.select(instance, *last)
                yield instance
        finally:
            del query.get_compiler


class Table:
    """How a database's statements name a model's table, and its columns."""

    def __init__(self, model, connection):
        opts, quote = model._meta, connection.ops.quote_name
        self.insert = f"INSERT INTO {quote(opts.db_table)} ("
        self.update = f"UPDATE {quote(opts.db_table)} SET "
        self.columns = [
            Column(field, quote(field.column), field is opts.pk, kind_of(field))
            for field in opts.concrete_fields
        ]
        self.names = {column.name for column in self.columns}
        pks = [f"{quote(opts.db_table)}.{quote(f.column)}" for f in opts.pk_fields]
        self.returning_pk = f" RETURNING {', '.join(pks)}"
        tables = {table._meta.db_table for table in (model, *opts.all_parents)}
        names = "|".join(map(re.escape, tables))
        self.named = re.compile(rf"(?<!\w)({names})(?!\w)", re.IGNORECASE).search


class Column(NamedTuple):
    field: models.Field
    name: str  # quoted
    is_pk: bool
    kind: tuple | None  # kind_of() it


@functools.cache
def table(model, using):
    return Table(model, connections[using])


def forget(**kwargs):
    table.cache_clear()
    kind_of.cache_clear()


class_prepared.connect(forget)
setting_changed.connect(forget)


class Recording(Wrapper):
    """The rows that one call selects, and the statements that it writes by."""

    def __init__(self, model, using):
        super().__init__(connections[using])
        self.model = model
        self.table = table(model, using)
        self.rows = []  # (instance, column values or None)
        self.statements = []  # (sql, parameters), of the model's tables
        self.rollbacks = None  # drivers.rollbacks() at the first of these
        self.on_update = None
        self.generated_pk = None
        self.made_pk = False  # by the database, of the row that was inserted

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
        # It may have written the row, in whatever words.
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
        """Return the key that the database made, before anybody changes it."""
        if self.connection.vendor == "sqlite":
            return cursor.lastrowid
        returns_pk = sql.endswith(self.table.returning_pk)  # and nothing else
        if not returns_pk and not cursor.description:
            return getattr(cursor, "lastrowid", None)
        row = cursor.fetchone()
        if row is None:
            return None
        cursor.scroll(-1)  # for Django
        if returns_pk:
            return row[0]
        columns = [column[0] for column in cursor.description]
        return dict(zip(columns, row, strict=True)).get(self.model._meta.pk.column)

    def select(self, instance, compiler, row):
        """Note an instance that was made of a row of a SELECT."""
        indexes = compiler.klass_info["select_fields"]
        names = tuple(compiler.select[i][0].target.attname for i in indexes)
        values = None
        if names == layout(self.model).attnames:  # nothing is deferred
            values = private_copy(row[i] for i in indexes)
        self.rows.append((instance, values))

    def selected(self, instance):
        """
        Return the column values of an instance that a SELECT yielded.

        None where the row may have been written since.
        """
        return None if self.statements else self._selected(instance)

    def _selected(self, instance):
        for row, values in self.rows:
            if row is instance:
                return values
        return None

    def is_undone(self):
        """
        Tell whether what was written may have been rolled back since: by an
        atomic() block that ended without an exception, because its code had
        swallowed an error or had called set_rollback().
        """
        return self.rollbacks != drivers.rollbacks(self.connection)

    def inserted(self, instance):
        """
        Return the column values of an instance that was inserted.

        None where they are not what a SELECT will return.
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

        None where they are not what a SELECT will return.
        """
        selected = self._selected(instance)
        if len(self.statements) != 1 or selected is None:
            return None
        sql, params = self.statements[0]
        if not sql.startswith(self.table.update):
            return None
        before = dict(zip(layout(self.model).attnames, selected, strict=True))
        assignments, _, where = sql.removeprefix(self.table.update).partition(" WHERE ")
        sent, params = {}, list(params)
        for assignment in assignments.split(", "):
            column, _, value = assignment.rpartition(" = ")
            if value == "%s":
                sent[column] = params.pop(0)
            elif value == "NULL":
                sent[column] = None
            else:
                return None  # an expression
        if not self._is_row(before, where, params):
            return None
        return self._values(instance, sent, before)

    def _is_row(self, before, where, params):
        """Tell whether the condition of an UPDATE is that of save()."""
        quote, opts = self.connection.ops.quote_name, self.model._meta
        if len(opts.pk_fields) > 1:
            return False
        column = f"{quote(opts.db_table)}.{quote(opts.pk.column)} = %s"
        pk = opts.pk.get_db_prep_value(before[opts.pk.attname], self.connection)
        return where.partition(" RETURNING ")[0] == column and params == [pk]

    def _values(self, instance, sent, before):
        if not keeps_what_is_sent(self.connection) or not sent.keys() <= (
            self.table.names
        ):
            return None
        values = []
        try:
            for field, column, is_pk, kind in self.table.columns:
                if column in sent:
                    value = self._sent(instance, field, kind, sent[column])
                elif before is None:
                    value = self._generated(instance, field, is_pk)
                elif field.generated or field.has_db_default():
                    return None  # computed anew, or by a trigger; not by Python
                else:
                    value = before[field.attname]
                values.append(value)
        except NotExact:
            return None
        return tuple(values)

    def _sent(self, instance, field, kind_of_field, param):
        try:
            value = instance.__dict__[field.attname]
        except KeyError:
            raise NotExact(field) from None
        if kind_of_field is None:
            raise NotExact(field)
        stored, kind, check, _ = kind_of_field
        if (
            type(value) is kind
            and value == param
            # psycopg has types of its own for integers.
            and (type(param) is kind or (kind is int and isinstance(param, int)))
            # The database gives back neither a zone nor a fold.
            and kind is not datetime.time
            and (kind is not datetime.datetime or value.tzinfo is datetime.UTC)
        ):
            # It was sent as it is.
            return check(stored, value, self.connection) if check else value
        value = as_selected(field, value, self.connection)
        sent = field.get_db_prep_save(value, self.connection)
        if not is_param(sent, param, self.connection.vendor):
            raise NotExact(field)  # the instance was changed since
        return value

    def _generated(self, instance, field, is_pk):
        value = instance.__dict__.get(field.attname)
        if not is_pk or type(value) is not int or value != self.generated_pk:
            raise NotExact(field)
        self.made_pk = True
        return value


@functools.lru_cache(maxsize=1000)
def columns_of_insert(sql, start):
    """
    Return the columns that an INSERT of one row gives values to, None where
    it is another statement, or one of its values an expression.
    """
    if not sql.startswith(start):
        return None
    columns, _, rest = sql.removeprefix(start).partition(") VALUES (")
    columns = columns.split(", ")
    values = ", ".join(["%s"] * len(columns))
    return columns if rest.startswith(f"{values})") else None


def is_param(value, param, vendor):
    if type(value) is type(param) and type(value) in PLAIN_TYPES:
        return value == param
    try:
        if vendor == "mysql":
            refuse_other_text(param)
        return canonical(value) == canonical(param)
    except NotCanonical:
        return False


def keeps_what_is_sent(connection):
    # MySQL cuts and replaces, outside of its strict mode.
    return connection.vendor != "mysql" or not connection.sql_mode.isdisjoint(
        {"STRICT_ALL_TABLES", "STRICT_TRANS_TABLES"}
    )


def as_selected(field, value, connection):
    """
    Return the value that a SELECT will return for one that is saved.

    Raise NotExact where only the database can tell.
    """
    if not is_exact(field):
        raise NotExact(field)
    stored, kind, check, is_ready = kind_of(field)
    if not is_ready or type(value) is not kind:
        try:
            value = prepare(field, value, connection.vendor)
        except NotCanonical as error:
            raise NotExact(field) from error
    if value is None:
        return None
    if type(value) is not kind:  # of a get_prep_value() of its own
        raise NotExact(field)
    return check(stored, value, connection) if check else value


def is_exact(field):
    """Tell whether what a SELECT returns follows from what was sent."""
    return kind_of(field) is not None


@functools.cache
def kind_of(field):
    """
    Return the field where the values are stored, their type, what else they
    must be, and whether the field prepares them to themselves; None where a
    SELECT may return anything.
    """
    stored = stored_as(field)
    if stored is None or stored.get_internal_type() not in KINDS:
        return None
    kind, check = KINDS[stored.get_internal_type()]
    return stored, kind, check, prepared_type(field, stored) is kind


def check_text(field, value, connection):
    # PostgreSQL cuts spaces that are too many.
    if field.max_length is not None and len(value) > field.max_length:
        raise NotExact(field)
    return value


def check_decimal(field, value, connection):
    sign, digits, exponent = value.as_tuple()
    if (
        -exponent != field.decimal_places
        or len(digits) > 15  # SQLite keeps no more
        or (sign and not value)  # the database has no negative zero
    ):
        raise NotExact(field)
    return value


def check_float(field, value, connection):
    # MySQL may print fewer digits than it has. Zero may be a negative one.
    if (
        connection.vendor not in {"postgresql", "sqlite"}
        or not math.isfinite(value)
        or value == 0
    ):
        raise NotExact(field)
    return value


def check_datetime(field, value, connection):
    # In another zone the clock that is stored may be ambiguous.
    if value.tzinfo is not connection.timezone:
        raise NotExact(field)
    if value.tzinfo is None and connection.vendor == "postgresql":
        # It keeps an instant, and has another clock for it where this clock
        # time was left out, as in spring.
        zone = zoneinfo.ZoneInfo(connection.timezone_name)
        instant = value.replace(tzinfo=zone).astimezone(datetime.UTC)
        if instant.astimezone(zone).replace(tzinfo=None) != value:
            raise NotExact(field)
    return value


KINDS = {
    "AutoField": (int, None),
    "BigAutoField": (int, None),
    "BigIntegerField": (int, None),
    "BooleanField": (bool, None),
    "CharField": (str, check_text),
    "DateField": (datetime.date, None),
    "DateTimeField": (datetime.datetime, check_datetime),
    "DecimalField": (decimal.Decimal, check_decimal),
    "DurationField": (datetime.timedelta, None),
    "FileField": (str, check_text),
    "FloatField": (float, check_float),
    "IntegerField": (int, None),
    "PositiveBigIntegerField": (int, None),
    "PositiveIntegerField": (int, None),
    "PositiveSmallIntegerField": (int, None),
    "SlugField": (str, check_text),
    "SmallAutoField": (int, None),
    "SmallIntegerField": (int, None),
    "TextField": (str, check_text),
    "TimeField": (datetime.time, None),
    "UUIDField": (uuid.UUID, None),
}
