"""
What counts as the same lookup.

A lookup is a set of columns of the model's own tables, each with one value:
``1``, ``"1"``, an enum, ``pk=``, ``id=``, ``fk=obj`` and ``fk_id=`` of the
same value are one lookup. What is not plain equality on such a column, or
whose value has no canonical form, is no lookup at all: Django answers it.

A hit compares the lookup's values with those of the row in Python. So a column
counts only where Python finds equal what the database finds equal.
"""

import datetime
import functools
import hashlib
import math
import uuid
from decimal import Decimal

from django.conf import settings
from django.core.signals import setting_changed
from django.db.models import Model
from django.db.models.constants import LOOKUP_SEP
from django.db.models.expressions import Col
from django.db.models.fields.related_lookups import RelatedExact, RelatedIsNull
from django.db.models.lookups import Exact, IntegerFieldExact, IsNull
from django.db.models.signals import class_prepared

from ..environment.interruptions import reraise
from .django_path import is_foreign


class NotCanonical(Exception):
    """The value, or the condition, has no canonical form."""


# Django's "exact" lookups that compare one column with one value. Not JSON's,
# which finds None equal to a JSON null, nor one that a project registered.
EXACT = {Exact, IntegerFieldExact, RelatedExact}
IS_NULL = {IsNull, RelatedIsNull}

# The internal types of fields whose columns compare as their values do.
COMPARABLE = {
    "AutoField",
    "BigAutoField",
    "BigIntegerField",
    "BinaryField",
    "BooleanField",
    "CharField",
    "DateField",
    "DateTimeField",
    "DecimalField",
    "DurationField",
    "FileField",
    "FilePathField",
    "FloatField",
    "GenericIPAddressField",
    "IntegerField",
    "PositiveBigIntegerField",
    "PositiveIntegerField",
    "PositiveSmallIntegerField",
    "SlugField",
    "SmallAutoField",
    "SmallIntegerField",
    "TextField",
    "TimeField",
    "UUIDField",
}

# Where they do not, with what an expression may have written.
NOT_COMPARABLE = {
    # An interval of a month equals one of 30 days, one of a year not one of
    # the 365 days that the driver makes of it.
    "postgresql": {"DurationField"},
    # A text of any number of digits (Now() writes three), or a float.
    "sqlite": {"DateTimeField", "DecimalField", "DurationField", "TimeField"},
}

EXACT_PKS = {
    "AutoField",
    "BigAutoField",
    "BigIntegerField",
    "DateField",
    "IntegerField",
    "PositiveBigIntegerField",
    "PositiveIntegerField",
    "PositiveSmallIntegerField",
    "SmallAutoField",
    "SmallIntegerField",
    "UUIDField",
}

# A subclass of a field of Django's keeps its values as that one does, unless
# it has one of these of its own. (get_prep_value() and to_python() are free:
# they are asked, and what they return is what a SELECT gives.)
DJANGO = {
    "django.db.models.fields",
    "django.db.models.fields.files",
    "django.db.models.fields.related",
}
CONVERSIONS = (
    "db_parameters",
    "db_type",
    "from_db_value",
    "get_col",
    "get_db_converters",
    "get_db_prep_save",
    "get_db_prep_value",
    "get_internal_type",
    "get_placeholder",
    "get_placeholder_sql",
    "rel_db_type",
    "select_format",
)

# The types of values that a field's get_prep_value() returns as they are.
READY = {
    "AutoField": int,
    "BigAutoField": int,
    "BigIntegerField": int,
    "BooleanField": bool,
    "CharField": str,
    "FloatField": float,
    "IntegerField": int,
    "PositiveBigIntegerField": int,
    "PositiveIntegerField": int,
    "PositiveSmallIntegerField": int,
    "SlugField": str,
    "SmallAutoField": int,
    "SmallIntegerField": int,
    "TextField": str,
    "UUIDField": uuid.UUID,
}

# Types whose equal values print alike, as the type itself (no subclass) does.
PLAIN = {str, bool, uuid.UUID, datetime.date, datetime.timedelta, type(None)}


# What a field itself may have been given, in place of its class.
OWN_STEPS = {*CONVERSIONS, "get_lookup", "get_prep_value", "to_python"}


def converts_as_django(field_class, *more):
    """Tell whether a field class stores and reads values as Django's does."""
    known = next(k for k in field_class.__mro__ if k.__module__ in DJANGO)
    return all(
        getattr(field_class, name, None) is getattr(known, name, None)
        and not is_foreign(getattr(known, name, None))
        for name in (*CONVERSIONS, *more)
    )


@functools.cache
def stored_as(field):
    """
    Return the field at the end of a foreign key, or the field itself.

    None where one of them has conversions of its own.
    """
    while field.is_relation:
        if not keeps_values(field):
            return None
        field = field.target_field
    return field if keeps_values(field) else None


def keeps_values(field):
    """Tell whether a field stores and reads values as Django's class does."""
    return converts_as_django(type(field)) and OWN_STEPS.isdisjoint(vars(field))


@functools.cache
def columns(opts, vendor):
    """
    Return the fields that a lookup of a database of this vendor may name, by
    each of their names, with the type of the values that need no preparation.
    """
    excluded = NOT_COMPARABLE.get(vendor, set())
    fields = {}
    for field in opts.concrete_fields:
        stored = stored_as(field)
        if stored and stored.get_internal_type() in COMPARABLE - excluded:
            column = field, ready(field, stored)
            names = [field.name, field.attname, *(["pk"] if field is opts.pk else [])]
            for name in names:
                fields[name] = fields[f"{name}{LOOKUP_SEP}exact"] = column
    return fields


def ready(field, stored):
    """Return the type of values that a field prepares to themselves."""
    way = [field]
    while way[-1] is not stored:
        way.append(way[-1].target_field)
    if all(converts_as_django(type(f), "get_prep_value", "to_python") for f in way):
        return READY.get(stored.get_internal_type())
    return None


def forget(**kwargs):
    stored_as.cache_clear()
    columns.cache_clear()
    integer_pk.cache_clear()


class_prepared.connect(forget)
setting_changed.connect(forget)


def prepare(field, value, vendor):
    """
    Return value as the field hands it to a database of this vendor, of a plain
    type.

    Raise NotCanonical where the database may find equal what Python does not
    know to be equal, or the other way round.
    """
    kind = type(value)
    if kind is not str and kind is not int:
        if field.is_relation and isinstance(value, Model):
            value = related_value(field, value)
        elif hasattr(value, "resolve_expression") or isinstance(
            value,
            (dict, list, set, tuple),  # may hold expressions, or change
        ):
            raise NotCanonical(value)
    try:
        if kind is not int and value is not None:
            refuse_naive(field, value)
        prepared = field.get_prep_value(value)
        if vendor == "mysql":
            refuse_other_text(prepared)
        return plain(prepared)
    except NotCanonical:
        raise
    except Exception as error:
        reraise(error)
        raise NotCanonical(value) from error  # Django says it in its own words


def refuse_naive(field, value):
    """Leave to Django what it warns of, that it does so once."""
    while field.is_relation:
        field = field.target_field
    if settings.USE_TZ and field.get_internal_type() == "DateTimeField":
        if isinstance(value, str):
            value = field.to_python(value)
        if not isinstance(value, datetime.datetime) or value.tzinfo is None:
            raise NotCanonical(value)


def related_value(field, obj):
    """Return what a foreign key holds that refers to the object."""
    if (
        not isinstance(obj, field.remote_field.model._meta.concrete_model)
        or not obj._is_pk_set()  # Django refuses it
    ):
        raise NotCanonical(obj)
    value = getattr(obj, field.target_field.attname)
    if value is None:
        raise NotCanonical(obj)  # of a to_field
    return value


def plain(value):
    """Return a prepared value as one of a few types, without subclasses."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in CANONICAL:
        return CANONICAL[kind](value)
    if issubclass(kind, str):
        return plain_text(value)
    if issubclass(kind, int):
        return plain_integer(int.__int__(value))  # of psycopg's types
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise NotCanonical(value)


def plain_integer(value):
    if value.bit_length() > 64:
        raise NotCanonical(value)  # of no column; Python may not print it
    return value


def plain_float(value):
    if math.isnan(value):
        raise NotCanonical(value)  # not equal to itself
    return value + 0.0  # the same for both zeros


def plain_decimal(value):
    if not value.is_finite():
        raise NotCanonical(value)
    return value


def plain_datetime(value):
    if value.tzinfo is None:
        return value.replace(fold=0)
    if value.utcoffset() is None:
        raise NotCanonical(value)
    # Two times of one zone compare as their clocks do, whatever their fold.
    return value.astimezone(datetime.UTC)


def plain_time(value):
    if value.tzinfo is not None:
        raise NotCanonical(value)
    return value.replace(fold=0)


def plain_text(value):
    return str.__str__(value)  # of an enum, or a safe string


def refuse_other_text(value):
    """Refuse a text whose str() is another, which mysqlclient < 2.3.2 sent."""
    if isinstance(value, str) and str.__str__(value) != str(value):
        raise NotCanonical(value)


CANONICAL = {
    int: plain_integer,
    float: plain_float,
    Decimal: plain_decimal,
    datetime.datetime: plain_datetime,
    datetime.time: plain_time,
}


def text(value):
    """Return a plain value's text: one for all values that are equal."""
    kind = type(value)
    if kind is str:
        return value
    if kind is Decimal:
        # normalize() would round to the context's precision.
        sign, digits, exponent = value.as_tuple()
        number = "".join(map(str, digits))
        shortest = number.rstrip("0")
        if not shortest:
            return "0"
        exponent += len(number) - len(shortest)
        return f"{'-' * sign}{shortest.lstrip('0')}e{exponent}"
    if kind is bytes:
        return value.hex()
    return str(value)


def digest(*parts):
    """Return 32 hexadecimal digits that stand for the parts."""
    data = repr(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


LONG = 100  # characters, or bytes


def lookup_of(values):
    """
    Return plain values by attname as a tuple, which a process remembers.

    A long text is its digest there: of what a lookup leads to, each hit is
    compared with the values themselves.
    """
    if any(type(v) in {str, bytes} and len(v) > LONG for v in values.values()):
        values = {
            name: digest(value) if type(value) in {str, bytes} else value
            for name, value in values.items()
        }
    return tuple(sorted(values.items()))


def pk_text(opts, values):
    """
    Return the text of a primary key, the same for all its spellings.

    ``values`` are by attname. Return None where the key is not set, or has no
    canonical form.
    """
    if (name := integer_pk(opts)) is not None:
        value = values.get(name)
        if type(value) is int and abs(value) < 2**63:
            return str(value)  # as below, for most keys are such
    try:
        # No caller knows the database: as the most careful one wants it.
        parts = [
            prepare(field, values[field.attname], "mysql") for field in opts.pk_fields
        ]
    except (KeyError, NotCanonical):
        return None
    if None in parts:
        return None
    parts = [text(part) for part in parts]
    return parts[0] if len(parts) == 1 else repr(parts)


@functools.cache
def integer_pk(opts):
    """Return the attname of a primary key that is an integer, or None."""
    stored = stored_as(opts.pk) if len(opts.pk_fields) == 1 else None
    if stored is not None and ready(opts.pk, stored) is int:
        return opts.pk.attname
    return None


TEXTS = {"CharField", "SlugField", "TextField"}


def is_text(field):
    """Tell whether a field, or the one that it refers to, holds a text."""
    stored = stored_as(field)
    return stored is not None and stored.get_internal_type() in TEXTS


def is_exact_pk(opts, vendor):
    """
    Tell whether equal primary keys have equal texts, in this database, as far
    as the fields tell. (Of texts the columns have to be looked at as well.)
    """
    for field in opts.pk_fields:
        stored = stored_as(field)
        if stored is None or not converts_as_django(
            type(stored), "get_prep_value", "to_python"
        ):
            return False
        kind = stored.get_internal_type()
        if kind in TEXTS:
            # A collation may find "a" and "A" equal.
            if vendor not in {"postgresql", "sqlite"} or stored.db_collation:
                return False
        elif kind not in EXACT_PKS:
            return False
    return True


def from_kwargs(opts, kwargs, vendor):
    """
    Return the columns and values that keyword arguments name, by attname, in a
    database of this vendor.

    Raise NotCanonical where they are anything but equality on own columns.
    """
    fields = columns(opts, vendor)
    values = {}
    for argument, value in kwargs.items():
        if argument not in fields:
            if argument in {"pk", "pk__exact"} and len(opts.pk_fields) > 1:
                add_composite_pk(values, opts, value, vendor)
                continue
            raise NotCanonical(argument)
        field, kind = fields[argument]
        if field.get_lookup("exact") not in EXACT:
            raise NotCanonical(argument)
        if type(value) is kind:
            prepared = plain(value)
        elif value is None and field.get_lookup("isnull") not in IS_NULL:
            raise NotCanonical(argument)
        else:
            prepared = prepare(field, value, vendor)
        add(values, field.attname, prepared)
    return values


def add_composite_pk(values, opts, key, vendor):
    if not isinstance(key, (tuple, list)) or len(key) != len(opts.pk_fields):
        raise NotCanonical(key)
    for field, value in zip(opts.pk_fields, key, strict=True):
        if (
            value is None  # equal to nothing, in a tuple
            or isinstance(value, Model)
            or field.name not in columns(opts, vendor)
            or field.get_lookup("exact") not in EXACT
        ):
            raise NotCanonical(key)
        add(values, field.attname, prepare(field, value, vendor))


def from_query(query, vendor):
    """
    Return the columns and values that a queryset's own filters fix, in a
    database of this vendor.

    Raise NotCanonical where a filter is anything else.
    """
    values = {}
    collect(query.where, query, vendor, values)
    return values


def collect(node, query, vendor, values):
    if node.negated or (node.connector != "AND" and len(node.children) > 1):
        raise NotCanonical(node)
    for child in node.children:
        if hasattr(child, "children"):
            collect(child, query, vendor, values)
        else:
            add(values, *condition(child, query, vendor))


def condition(lookup, query, vendor):
    """Return the attname and the value of one condition of a WHERE."""
    lhs = getattr(lookup, "lhs", None)
    if (
        type(lhs) is Col
        and lhs.alias == query.base_table  # not a join
        and columns(query.get_meta(), vendor).get(lhs.target.name, ())[:1]
        == (lhs.target,)
        and not lookup.bilateral_transforms
    ):
        if type(lookup) in EXACT:
            if vendor == "mysql":
                refuse_other_text(lookup.rhs)
            return lhs.target.attname, plain(lookup.rhs)  # it is prepared
        if type(lookup) in IS_NULL and lookup.rhs is True:
            return lhs.target.attname, None
    raise NotCanonical(lookup)


def add(values, attname, value):
    """Note one column's value. Raise NotCanonical where it has another one."""
    if values.setdefault(attname, value) != value:
        raise NotCanonical(attname)
