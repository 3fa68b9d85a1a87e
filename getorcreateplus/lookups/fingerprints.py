"""
What a payload says of the code that made it.

A payload holds column values as this process's fields converted them. Another
process may serve them if its fields do the same: so their text has to be equal
in every process of a deployment, whatever its hash seed, its language or the
addresses of its objects, and another one after a release whose fields convert
otherwise.
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
from .equality import converts_as_django, digest

# Arguments that change no column value, of a field that converts as Django's
# does. (Choices may come from a database, or be sorted by a language; the
# others are texts for people.)
OTHERS = {
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
# A default may be a value that was made when the module was imported.
DEFAULTS = {"db_default", "default"}
OF_THE_MOMENT = (datetime.date, datetime.time, uuid.UUID)
DEEPEST = 20
MOST_PARTS = 10_000  # of an argument; the others are told by their types
LONGEST = 200  # characters, of what is not a digest


def fingerprint(payload_format, opts, connection):
    """Return what marks a model's payloads of this connection's database."""
    model = opts.concrete_model
    return digest(
        payload_format,
        model._meta.label_lower,
        [each._meta.db_table for each in (model, *model._meta.all_parents)],
        django.VERSION[:2],
        settings.USE_TZ,
        connection.vendor,
        connection.timezone_name,
        [version_of(each) for each in (model, *model._meta.all_parents)],
        [describe_field(field) for field in opts.concrete_fields],
    )


def version_of(owner):
    """Return the version that a model or a field gives to its own code."""
    return describe(getattr(owner, "cache_version", None))


def describe_field(field):
    """Return a text of all that may change what a field makes of a column."""
    found = [field.attname, field.column]
    while field is not None:
        found += [
            name_of(type(field)),
            version_of(field),
            describe(getattr(field, "decimal_places", None)),
            arguments_of(field),
        ]
        # Django has a foreign key's value converted by the field it refers to.
        field = field.target_field if field.is_relation else None
    return repr(found)


def arguments_of(field):
    try:
        _, _, args, kwargs = field.deconstruct()
    except Exception as error:  # noqa: BLE001 - migrations do not support the field
        reraise(error)
        return ""
    if converts_as_django(type(field), "get_prep_value", "to_python"):
        kwargs = {name: value for name, value in kwargs.items() if name not in OTHERS}
    defaults = {name: kwargs.pop(name) for name in DEFAULTS & kwargs.keys()}
    return describe((args, kwargs)) + describe(defaults, told_by_type=OF_THE_MOMENT)


def describe(value, told_by_type=()):
    """Return a text of a value that is the same in all processes."""
    return Description(told_by_type).of(value)


class Description:
    def __init__(self, told_by_type):
        self.told_by_type = told_by_type
        self.depth = 0
        self.parts = 0

    def of(self, value):
        kind = type(value)
        if kind in LITERALS:
            return f"{kind.__name__} {value!r}"
        self.parts += 1
        if self.depth < DEEPEST and self.parts < MOST_PARTS:
            self.depth += 1
            try:
                text = f"{name_of(kind)} {self.state_of(value)}"
                # Each level escapes the text of the one below.
                return text if len(text) < LONGEST else digest(text)
            except Exception as error:  # noqa: BLE001 - of a type of the user's
                reraise(error)
            finally:
                self.depth -= 1
        return name_of(kind)  # a repr() may hold its address

    def state_of(self, value):
        if isinstance(value, self.told_by_type):
            return ""
        for kinds, say in WAYS:
            if isinstance(value, kinds):  # type: ignore[arg-type]
                return say(value, self.of)
        if hasattr(value, "deconstruct"):
            return f"{version_of(value)} {self.of(value.deconstruct())}"
        state = value.__reduce_ex__(2)  # what pickle would keep
        return [self.of(list(x) if isinstance(x, Iterator) else x) for x in state]


def name_of(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


# How to tell what a value of these types is, the special ones first.
WAYS = [
    (enum.Enum, lambda value, inner: f"{value.name} {inner(value.value)}"),
    (enum.EnumType, lambda value, inner: f"{name_of(value)} {inner(list(value))}"),
    # Their state is that of a database.
    ((Manager, Model, QuerySet), lambda value, inner: ""),
    # Not evaluated, which depends on the language: its function and arguments.
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
    (Field, lambda value, inner: f"{version_of(value)} {arguments_of(value)}"),
]
