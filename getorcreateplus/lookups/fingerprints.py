"""
Fingerprints of the code that made a payload.

A payload holds column values as this process's fields converted them. Another
process may serve them if its fields convert values in the same way. So the
text of the fields has to be equal in every process of a deployment, despite
different hash seeds, languages and addresses of objects. And it has to differ
after a release whose fields convert values differently.
"""

import datetime
import enum
import functools
import re
import types
import uuid
from collections.abc import Iterator, Mapping
from decimal import Decimal

import django
from django.conf import settings
from django.db.models import Field, Manager, Model, QuerySet
from django.utils.functional import Promise

from ..environment.interruptions import reraise
from .canonical import converts_as_django, digest

# Arguments that do not change a column value, if the field converts values as
# Django's does. (Choices may come from a database, or be sorted by a language;
# the others are texts for people.)
IGNORED_ARGUMENTS = {
    "blank",
    "choices",
    "db_comment",
    "editable",
    "error_messages",
    "help_text",
    "limit_choices_to",
    "on_delete",
    "related_name",
    "related_query_name",
    "validators",
    "verbose_name",
}

LITERALS = (type(None), bool, int, float, str, bytes, Decimal, datetime.timedelta)
# A default may be a value that was made when the module was imported. Such
# values are described only by their type.
DEFAULT_ARGUMENTS = {"db_default", "default"}
MADE_AT_IMPORT = (datetime.date, datetime.time, uuid.UUID)
MAX_DEPTH = 20
MAX_PARTS = 10_000  # of an argument; further ones are described only by their types
MAX_TEXT_LENGTH = 200  # characters; a longer text becomes a digest


def fingerprint(payload_format, opts, connection):
    """
    Return the fingerprint of a model's payloads of this connection's database.
    """
    model = opts.concrete_model
    return digest(
        payload_format,
        model._meta.label_lower,
        [each._meta.db_table for each in (model, *model._meta.all_parents)],
        django.VERSION[:2],
        settings.USE_TZ,
        connection.vendor,
        connection.timezone_name,
        [declared_version(each) for each in (model, *model._meta.all_parents)],
        [describe_field(field) for field in opts.concrete_fields],
    )


def declared_version(owner):
    """Return the version that a model or a field declares for its code."""
    return describe(getattr(owner, "cache_version", None))


def describe_field(field):
    """
    Return a text of everything that may change how a field converts a column.
    """
    found = [field.attname, field.column]
    while field is not None:
        found += [
            name_of(type(field)),
            declared_version(field),
            describe(getattr(field, "decimal_places", None)),
            arguments_of(field),
        ]
        # Django converts a foreign key's value with the field to which it
        # refers.
        field = field.target_field if field.is_relation else None
    return repr(found)


def arguments_of(field):
    try:
        _, _, args, kwargs = field.deconstruct()
    except Exception as error:  # noqa: BLE001 - migrations do not support the field
        reraise(error)
        return ""
    if converts_as_django(type(field), "get_prep_value", "to_python"):
        kwargs = {
            name: value
            for name, value in kwargs.items()
            if name not in IGNORED_ARGUMENTS
        }
    defaults = {name: kwargs.pop(name) for name in DEFAULT_ARGUMENTS & kwargs.keys()}
    return describe((args, kwargs)) + describe(defaults, type_only=MADE_AT_IMPORT)


def describe(value, type_only=()):
    """
    Return a text of a value, the same in all processes. Values of the types
    ``type_only`` are described only by their type.
    """
    return Describer(type_only).describe(value)


class Describer:
    def __init__(self, type_only):
        self.type_only = type_only
        self.depth = 0
        self.parts = 0

    def describe(self, value):
        kind = type(value)
        if kind in LITERALS:
            return f"{kind.__name__} {value!r}"
        self.parts += 1
        if self.depth < MAX_DEPTH and self.parts < MAX_PARTS:
            self.depth += 1
            try:
                text = f"{name_of(kind)} {self.state_of(value)}"
                # Each level escapes the text of the one below.
                return text if len(text) < MAX_TEXT_LENGTH else digest(text)
            except Exception as error:  # noqa: BLE001 - by a type of the user's
                reraise(error)
            finally:
                self.depth -= 1
        return name_of(kind)  # a repr() may hold its address

    def state_of(self, value):
        if isinstance(value, self.type_only):
            return ""
        for kinds, state_of in STATES:
            if isinstance(value, kinds):  # type: ignore[arg-type]
                return state_of(value, self.describe)
        if hasattr(value, "deconstruct"):
            return f"{declared_version(value)} {self.describe(value.deconstruct())}"
        state = value.__reduce_ex__(2)  # what pickle would keep
        return [self.describe(list(x) if isinstance(x, Iterator) else x) for x in state]


def name_of(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


# How to describe the state of a value of these types, the special ones first.
STATES = [
    (enum.Enum, lambda value, inner: f"{value.name} {inner(value.value)}"),
    (enum.EnumType, lambda value, inner: f"{name_of(value)} {inner(list(value))}"),
    # Their state is in a database.
    ((Manager, Model, QuerySet), lambda value, inner: ""),
    # Its function and arguments, because its value depends on the language.
    (Promise, lambda value, inner: inner(value.__reduce__()[1])),
    (str, lambda value, inner: repr(str.__str__(value))),
    ((list, tuple), lambda value, inner: list(map(inner, value))),
    ((set, frozenset), lambda value, inner: sorted(map(inner, value))),
    (
        Mapping,
        lambda value, inner: sorted((inner(k), inner(v)) for k, v in value.items()),
    ),
    (
        functools.partial,
        lambda value, inner: inner((value.func, value.args, value.keywords)),
    ),
    (
        types.MethodType,
        lambda value, inner: f"{inner(value.__func__)} {inner(value.__self__)}",
    ),
    (
        (type, types.FunctionType, types.BuiltinFunctionType),
        lambda value, inner: name_of(value),
    ),
    (re.Pattern, lambda value, inner: f"{value.pattern!r} {value.flags}"),
    # The field of an array's items.
    (Field, lambda value, inner: f"{declared_version(value)} {arguments_of(value)}"),
]
