"""
Recognizes the INSERT of the row for which create() was called.

save(), or code that it calls, may insert other rows of the same table before
its own. An execute wrapper does not see the model, only the names and the
values of columns. If save() changes the values that create() was given, the
row is not recognized. That costs a savepoint, and the result is still correct.
"""

import datetime
import re
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from uuid import UUID

from django.core.exceptions import FieldDoesNotExist
from django.db import models

COMMENT = r"/\*(?:(?!\*/).)*\*/"
# "--" ends at a carriage return on PostgreSQL, "#" begins a comment on MySQL.
LEADING_COMMENTS = re.compile(rf"(?:\s|--[^\r\n]*|#[^\r\n]*|{COMMENT})*", re.DOTALL)

# An INSERT, as Django writes it.
NAME = r'"[^"]+"(?:\."[^"]+")*|`[^`]+`'
NAMES = re.compile(NAME)
ROW = re.compile(rf"INSERT INTO (?:{NAME}) \(((?:{NAME})(?:, (?:{NAME}))*)\) VALUES \(")
TOKEN = re.compile(r"""%[%s]|'[^']*'|"[^"]*"|`[^`]*`|[(),]|[^%'"`(),]+|.""", re.DOTALL)

# Values of these types are sent as they are, or always as the same text.
COMPARABLE = (
    *(str, bytes, int, float, Decimal, datetime.date, datetime.time),
    *(datetime.timedelta, UUID, type(None)),
)


def end_of_comments(sql):
    """Return where the statement behind any comments begins."""
    return LEADING_COMMENTS.match(sql).end()  # type: ignore[union-attr]  # or ""


def is_row_of(connection, model, arguments, sql, params):
    """
    Return True if the INSERT inserts one row, with the arguments' values.
    """
    places = places_of(sql)
    if places is None or not isinstance(params, (list, tuple)):
        return False
    for column, value in columns_of(connection, model, arguments):
        name = connection.ops.quote_name(column)
        if name not in places:
            return False
        place = places[name]
        if place is not None and (place >= len(params) or params[place] != value):
            return False
    return True


@lru_cache(maxsize=1000)
def places_of(sql):
    """
    Return the quoted columns of an INSERT of one row, each with the place of
    its parameter, None for an expression. Return None for other SQL.
    """
    row = ROW.match(sql, end_of_comments(sql))
    if row is None:
        return None
    values, depth, count = [[]], 0, 0
    for token in TOKEN.finditer(sql, row.end()):
        text = token[0]
        if depth == 0 and text == ")":
            break
        if depth == 0 and text == ",":
            values.append([])
        elif text == "%s":
            values[-1].append(count)
            count += 1
        elif not text.isspace():
            depth += (text == "(") - (text == ")")
            values[-1].append(None)
    else:
        return None
    columns = NAMES.findall(row[1])
    if sql.startswith(", (", token.end()) or len(columns) != len(values):
        return None
    return {
        column: value[0] if len(value) == 1 else None
        for column, value in zip(columns, values, strict=True)
    }


def columns_of(connection, model, arguments):
    """
    Yield (column, value), as they are sent, for the arguments of create().
    """
    for field, given in fields_of(model._meta, arguments):
        value = given
        try:
            if field.is_relation and isinstance(value, models.Model):
                value = getattr(value, field.target_field.attname)
            if hasattr(value, "resolve_expression"):
                continue
            if value is None and field in model._meta.pk_fields:
                continue  # The database generates it.
            sent = field.get_db_prep_save(value, connection)
        except Exception:  # noqa: BLE001 - of any kind; Django's create() raises it
            continue
        if isinstance(sent, COMPARABLE):
            yield field.column, sent


def fields_of(opts, arguments):
    """Yield (field, value) for the arguments that are columns."""
    for name, value in arguments.items():
        if name == "pk" and len(opts.pk_fields) > 1:
            # It may be None, or anything if the project overrides create().
            values = value if isinstance(value, Iterable) else ()
            yield from zip(opts.pk_fields, values, strict=False)
            continue
        try:
            field = opts.pk if name == "pk" else opts.get_field(name)
        except FieldDoesNotExist:
            continue  # a property, or an argument of the project's create()
        if field.concrete and not field.many_to_many and not field.generated:
            yield field, value
