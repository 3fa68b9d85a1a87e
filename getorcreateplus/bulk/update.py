"""
The UPDATE of many rows, each with its own values.

The new values are a table that the statement joins: arrays on PostgreSQL if
that is possible, and otherwise VALUES after a SELECT of the columns
themselves, which returns no row. So each value gets the type and the collation
of its column, without a cast that would cut it.
"""

import datetime
import math
import uuid
from decimal import Decimal

from django.db.models import Field
from django.db.models.expressions import (
    Combinable,
    CombinedExpression,
    Expression,
    F,
    Value,
)
from django.db.models.sql import UpdateQuery
from django.utils.tree import Node

from ..lookups.canonical import PLAIN_TYPES
from .insert import converted
from .one_of import takes_arrays

# psycopg sends a list of these as an array of a type that the column accepts.
# (A text has no type.)
ARRAY_TYPES = (int, float, Decimal, datetime.date, datetime.time, uuid.UUID)

# Types whose repr() contains everything that the database gets.
WRITTEN_OUT = {*PLAIN_TYPES, *ARRAY_TYPES, bytes, datetime.datetime}

# The name of the joined table, and the prefix of the names of its columns. No
# table or column in an expression has such a name.
NEW = "getorcreateplus"


class Update:
    """
    UPDATEs that set the same fields, to values or with the same expressions.

    ``shapes`` has None for a field that is set to a value, and otherwise the
    result of shape_of(). Each row is a list: the primary key, the values, and
    the numbers in the expressions.
    """

    def __init__(self, connection, model, fields, shapes):
        self.connection = connection
        self.model = model
        self.fields, self.shapes = fields, shapes
        self.opts = model._meta
        self.quote = connection.ops.quote_name
        self.table = self.quote(self.opts.db_table)
        self.compiler = UpdateQuery(model).get_compiler(connection=connection)
        keys = self.opts.pk_fields
        values = [f for f, shape in zip(fields, shapes, strict=True) if shape is None]
        self.assigned, self.params, holes = self.assignments(fields, shapes)
        # None for a column with the numbers of expressions.
        self.columns = [*keys, *values, *([None] * holes)]
        self.condition = " AND ".join(
            f"{self.table}.{self.quote(field.column)} = {NEW}.{NEW}_{number}"
            for number, field in enumerate(keys)
        )

    def assignments(self, fields, shapes):
        """
        Return the SQL after SET, its parameters, and the number of columns for
        numbers that it needs.
        """
        # MariaDB may use the new value of a column that is set before.
        parts, last, params = [], [], []
        number = len(self.opts.pk_fields)
        first_hole = hole = number + shapes.count(None)
        for field, shape in zip(fields, shapes, strict=True):
            column = self.quote(field.column)
            if shape is None:
                last.append(f"{column} = {NEW}.{NEW}_{number}")
                number += 1
                continue
            expression, holes = filled(shape, hole)
            hole += holes
            query = UpdateQuery(self.model)
            query.add_update_fields([(field, None, expression)])
            sql, own = query.get_compiler(connection=self.connection).as_sql()
            parts.append(sql.removeprefix(f"UPDATE {self.table} SET "))
            params += own
        parts += last
        if self.connection.vendor == "mysql":
            parts = [f"{self.table}.{part}" for part in parts]
        return ", ".join(parts), params, hole - first_hole

    def as_sql(self, rows, returned):
        """Return the UPDATE of these rows, and its parameters."""
        source, params = self.source(rows)
        if self.connection.vendor == "mysql":
            sql = (
                f"UPDATE ({source}) AS {NEW} STRAIGHT_JOIN {self.table} "
                f"ON {self.condition} SET {self.assigned}"
            )
            return sql, [*params, *self.params]
        sql = (
            f"UPDATE {self.table} SET {self.assigned} "
            f"FROM ({source}) AS {NEW} WHERE {self.condition}"
        )
        if returned:
            names = (f"{self.table}.{self.quote(field.column)}" for field in returned)
            sql += f" RETURNING {', '.join(names)}"
        return sql, [*self.params, *params]

    def source(self, rows):
        """Return the SELECT of the new values, and its parameters."""
        if takes_arrays(self.connection):
            columns = [list(column) for column in zip(*rows, strict=True)]
            for number, field in enumerate(self.columns):
                if field is None:  # numbers of expressions
                    columns[number] = [*map(as_literal, columns[number])]
            arrays = [*map(self.array, self.columns, columns)]
            if None not in arrays:
                names = ", ".join(f"{NEW}_{number}" for number in range(len(arrays)))
                source = f"SELECT * FROM UNNEST({', '.join(arrays)}) AS u ({names})"
                return source, columns
        values, params = self.values(rows)
        if self.connection.vendor == "postgresql":
            # A column of VALUES gets its type before the UNION, and NULL alone
            # has no type. So the first row has the types of the columns. It is
            # not a row of the table, because its key is NULL.
            typed = ", ".join(map(self.typed_null, self.columns))
            names = ", ".join(f"{NEW}_{number}" for number in range(len(self.columns)))
            source = f"SELECT * FROM (VALUES ({typed}), {values}) AS u ({names})"
            return source, params
        names = ", ".join(
            f"{'NULL' if field is None else self.quote(field.column)} AS {NEW}_{number}"
            for number, field in enumerate(self.columns)
        )
        source = f"SELECT {names} FROM {self.table} WHERE 1 = 0 UNION ALL VALUES "
        return source + values, params

    def typed_null(self, field):
        """Return NULL with PostgreSQL's type of a column."""
        if field is None:
            return "NULL"
        return f"(SELECT {self.quote(field.column)} FROM {self.table} WHERE FALSE)"

    def array(self, field, values):
        """Return the SQL of an array, None if an array is impossible."""
        if field is None:  # numbers of expressions
            return "%s::int4[]" if type(values[0]) is int else "%s::numeric[]"
        if has_placeholder(field):
            return None
        kinds = {*map(type, values)} - {type(None)}
        if len(kinds) == 1 and issubclass(min(kinds, key=str), ARRAY_TYPES):
            return "%s"
        if kinds <= {str}:
            # This gives the array the type of the column.
            column = self.quote(field.column)
            typed = f"ARRAY(SELECT {column} FROM {self.table})"
            return f"CASE WHEN FALSE THEN {typed} ELSE %s END"
        return None

    def values(self, rows):
        """Return the rows of VALUES, and their parameters."""
        row = "ROW(%s)" if self.is_mysql else "(%s)"
        special = {
            number: field
            for number, field in enumerate(self.columns)
            if field is not None and has_placeholder(field)
        }
        if not special:
            text = row % ", ".join(["%s"] * len(self.columns))
            return ", ".join([text] * len(rows)), [v for values in rows for v in values]
        texts, params = [], []
        for values in rows:
            placeholders = []
            for number, value in enumerate(values):
                sql, own = "%s", [value]
                if number in special:
                    sql, own = self.with_placeholder(special[number], value)
                placeholders.append(sql)
                params += own
            texts.append(row % ", ".join(placeholders))
        return ", ".join(texts), params

    def with_placeholder(self, field, value):
        """Return the SQL of a field's value, and its parameters."""
        if hasattr(field, "get_placeholder_sql"):  # 6.1
            return field.get_placeholder_sql(value, self.compiler, self.connection)
        sql = field.get_placeholder(value, self.compiler, self.connection)
        return sql, [value] * sql.count("%s")

    @property
    def is_mysql(self):
        """Return True on MySQL, but not on MariaDB."""
        connection = self.connection
        return connection.vendor == "mysql" and not connection.mysql_is_mariadb

    def send(self, sql, params, returned):
        """
        Send it. Return the columns of the rows, if they are returned, and the
        number of rows.
        """
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            if not returned:
                return [], cursor.rowcount
            rows = cursor.fetchall()
        return converted(self.compiler, self.opts, rows, returned), len(rows)


def has_placeholder(field):
    """Return True if the field surrounds its parameter with SQL."""
    return hasattr(field, "get_placeholder") or hasattr(field, "get_placeholder_sql")


# Expressions


def as_literal(number):
    """Return a number that psycopg sends as PostgreSQL reads a literal."""
    return Decimal(repr(number)) if type(number) is float else number


class Hole(Expression):
    """The place of a number in an expression. Each row has its own number."""

    def __init__(self, number, output_field):
        super().__init__(output_field=output_field)
        self.number = number

    def as_sql(self, compiler, connection):
        return f"{NEW}.{NEW}_{self.number}", ()


def shape_of(expression):
    """
    Return the Shape of expressions that differ only by their numbers, and
    these numbers: one UPDATE sets F("uses") + 1 and F("uses") + 2.
    """
    numbers = []
    return part_of(expression, numbers), numbers


def part_of(expression, numbers):
    if "output_field" not in vars(expression):
        if type(expression) is Value and is_liftable(expression.value):
            numbers.append(expression.value)
            return type(expression.value)
        if type(expression) is CombinedExpression:
            return (
                part_of(expression.lhs, numbers),
                expression.connector,
                part_of(expression.rhs, numbers),
            )
    return expression if type(expression) is F else Shape(expression)


def is_liftable(value):
    """
    Return True if a number has the same type in a column of numbers as alone
    in PostgreSQL's SQL: integer, or numeric.
    """
    if type(value) is int:
        return abs(value) < 2**31
    return type(value) is float and math.isfinite(value)


class Shape:
    """
    An expression that equals only expressions with the same SQL. In Django,
    Value(1) equals Value(True), and a Cast equals any other Cast to a type of
    the same class.
    """

    def __init__(self, expression):
        self.expression = expression
        self.parts = parts_of(expression)

    def __eq__(self, other):
        return type(other) is Shape and self.parts == other.parts

    def __hash__(self):
        return hash(self.parts)


def parts_of(value):
    """
    Return the parts of a value, which are equal only if its SQL is the same.
    """
    kind = type(value)
    if kind in WRITTEN_OUT:
        return kind, repr(value)  # also with the zone, the scale and the sign of 0
    if kind in (dict, list, tuple):
        items = value.items() if kind is dict else value
        return kind, tuple(map(parts_of, items))
    if isinstance(value, Node):  # Q
        own = value.connector, value.negated
        return kind, own, tuple(map(parts_of, value.children))
    if isinstance(value, Field):
        return kind, parts_of(value.deconstruct()[2:]), id(value.__dict__.get("model"))
    if isinstance(value, Combinable) and hasattr(value, "_constructor_args"):
        return kind, parts_of(value._constructor_args)
    return Itself(value)


class Itself:
    """A value that does not equal any other object."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Itself and self.value is other.value

    def __hash__(self):
        return id(self.value)


def filled(shape, number):
    """
    Return the expression of a shape, and the number of its holes, which are
    columns from this number on.
    """
    if isinstance(shape, type):
        return Hole(number, Value(shape()).output_field), 1
    if isinstance(shape, Shape):
        return shape.expression, 0
    if not isinstance(shape, tuple):
        return shape, 0
    left, connector, right = shape
    left, holes = filled(left, number)
    right, others = filled(right, number + holes)
    return CombinedExpression(left, connector, right), holes + others
