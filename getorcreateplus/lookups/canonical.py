"""
The canonical form of a value: equal values have the same form.

``1``, ``"1"`` and an enum of the same value have one form. A value whose
equality the database may judge differently than Python has no canonical form,
because a hit compares the values of a lookup with those of the row in Python.
"""

import datetime
import hashlib
import math
import uuid
from decimal import Decimal

from django.conf import settings
from django.db.models import Model

from ..environment.cached_functions import cached_until_models_change
from ..environment.interruptions import reraise
from .origin import is_foreign


class NotCanonical(Exception):
    """The value, or the condition, has no canonical form."""


# The internal types of fields whose columns compare as their values do.
COMPARABLE_FIELDS = {
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

# Exceptions by vendor, because of what an expression may have written.
INCOMPARABLE_FIELDS = {
    # An interval of a month equals one of 30 days, but one of a year does not
    # equal the 365 days that the driver makes of it.
    "postgresql": {"DurationField"},
    # A text of any number of digits (Now() writes three), or a float.
    "sqlite": {"DateTimeField", "DecimalField", "DurationField", "TimeField"},
}

# Fields whose equal primary keys have equal texts.
EXACT_PK_FIELDS = {
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

TEXT_FIELDS = {"CharField", "SlugField", "TextField"}

# A subclass of one of Django's fields stores its values as that field does,
# unless it overrides one of these. (It may override get_prep_value() and
# to_python(): they are called, and a SELECT gives what they return.)
DJANGO_FIELD_MODULES = {
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

# Attributes that may be set on a field itself, instead of its class.
FIELD_STEPS = {*CONVERSIONS, "get_lookup", "get_prep_value", "to_python"}

# The types of values that a field's get_prep_value() returns unchanged.
PREPARED_TYPES = {
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

# Types whose equal values have the same str(), if the type is not a subclass.
PLAIN_TYPES = {str, bool, uuid.UUID, datetime.date, datetime.timedelta, type(None)}


# Values


def prepare(field, value, vendor):
    """
    Return the canonical form of the value that the field sends to a database
    of this vendor.

    Raise NotCanonical if the database may find values equal that Python finds
    different, or the other way round.
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
        return canonical(prepared)
    except NotCanonical:
        raise
    except Exception as error:
        reraise(error)
        raise NotCanonical(value) from error  # Django's call raises its own error


def related_value(field, obj):
    """Return the value of a foreign key that refers to the object."""
    if (
        not isinstance(obj, field.remote_field.model._meta.concrete_model)
        or not obj._is_pk_set()  # Django refuses it
    ):
        raise NotCanonical(obj)
    value = getattr(obj, field.target_field.attname)
    if value is None:
        raise NotCanonical(obj)  # of a to_field
    return value


def refuse_naive(field, value):
    """
    Refuse a naive datetime, because Django's own call warns of it, only once.
    """
    while field.is_relation:
        field = field.target_field
    if settings.USE_TZ and field.get_internal_type() == "DateTimeField":
        if isinstance(value, str):
            value = field.to_python(value)
        if not isinstance(value, datetime.datetime) or value.tzinfo is None:
            raise NotCanonical(value)


def refuse_other_text(value):
    """
    Refuse a text whose str() differs, because mysqlclient < 2.3.2 sent that.
    """
    if isinstance(value, str) and str.__str__(value) != str(value):
        raise NotCanonical(value)


def canonical(value):
    """Return a prepared value as one of a few types, without subclasses."""
    kind = type(value)
    if kind in PLAIN_TYPES:
        return value
    if kind in CONVERTERS:
        return CONVERTERS[kind](value)
    if issubclass(kind, str):
        return str.__str__(value)  # of an enum, or a safe string
    if issubclass(kind, int):
        return canonical_integer(int.__int__(value))  # of psycopg's types
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise NotCanonical(value)


def canonical_integer(value):
    if value.bit_length() > 64:
        # No column holds it, and Python may refuse to print it.
        raise NotCanonical(value)
    return value


def canonical_float(value):
    if math.isnan(value):
        raise NotCanonical(value)  # not equal to itself
    return value + 0.0  # the same for both zeros


def canonical_decimal(value):
    if not value.is_finite():
        raise NotCanonical(value)
    return value


def canonical_datetime(value):
    if value.tzinfo is None:
        return value.replace(fold=0)
    if value.utcoffset() is None:
        raise NotCanonical(value)
    # Two times in one zone compare by their local time, and ignore fold.
    return value.astimezone(datetime.UTC)


def canonical_time(value):
    if value.tzinfo is not None:
        raise NotCanonical(value)
    return value.replace(fold=0)


CONVERTERS = {
    int: canonical_integer,
    float: canonical_float,
    Decimal: canonical_decimal,
    datetime.datetime: canonical_datetime,
    datetime.time: canonical_time,
}


# Texts


def canonical_text(value):
    """Return the text of a canonical value: equal values have one text."""
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


def pk_text(opts, values):
    """
    Return the text of a primary key, the same for all its spellings.

    ``values`` are by attname. Return None if the primary key is not set, or
    has no canonical form.
    """
    if (name := integer_pk(opts)) is not None:
        value = values.get(name)
        if type(value) is int and abs(value) < 2**63:
            return str(value)  # the same as below, for the most frequent case
    for field in opts.pk_fields:
        if field.attname not in values:
            return None
    try:
        # By the rules of the strictest database, because callers do not pass
        # one.
        parts = [
            prepare(field, values[field.attname], "mysql") for field in opts.pk_fields
        ]
    except NotCanonical:
        return None
    if None in parts:
        return None
    parts = [canonical_text(part) for part in parts]
    return parts[0] if len(parts) == 1 else repr(parts)


# Fields


@cached_until_models_change
def integer_pk(opts):
    """Return the attname of a primary key that is an integer, or None."""
    stored = stored_as(opts.pk) if len(opts.pk_fields) == 1 else None
    if stored is not None and prepared_type(opts.pk, stored) is int:
        return opts.pk.attname
    return None


def has_exact_pk(opts, vendor):
    """
    Return True if equal primary keys have equal texts in this database, as far
    as the fields show. (For texts, the caller has to check the columns, too.)
    """
    for field in opts.pk_fields:
        stored = stored_as(field)
        if stored is None or not converts_as_django(
            type(stored), "get_prep_value", "to_python"
        ):
            return False
        kind = stored.get_internal_type()
        if kind in TEXT_FIELDS:
            # A collation may find "a" and "A" equal.
            if vendor not in {"postgresql", "sqlite"} or stored.db_collation:
                return False
        elif kind not in EXACT_PK_FIELDS:
            return False
    return True


def is_text_field(field):
    """
    Return True if a field, or the field that it refers to, holds a text.
    """
    stored = stored_as(field)
    return stored is not None and stored.get_internal_type() in TEXT_FIELDS


@cached_until_models_change
def stored_as(field):
    """
    Return the field at the end of a foreign key, or the field itself.

    Return None if one of them has conversions of its own.
    """
    while field.is_relation:
        if not stores_as_django(field):
            return None
        field = field.target_field
    return field if stores_as_django(field) else None


def stores_as_django(field):
    """
    Return True if a field stores and reads values as Django's class does.
    """
    return converts_as_django(type(field)) and FIELD_STEPS.isdisjoint(vars(field))


def prepared_type(field, stored):
    """Return the type of the values that a field prepares to themselves."""
    way = [field]
    while way[-1] is not stored:
        way.append(way[-1].target_field)
    if all(converts_as_django(type(f), "get_prep_value", "to_python") for f in way):
        return PREPARED_TYPES.get(stored.get_internal_type())
    return None


def converts_as_django(field_class, *more):
    """
    Return True if a field class stores and reads values as Django's does.
    """
    known = next(k for k in field_class.__mro__ if k.__module__ in DJANGO_FIELD_MODULES)
    return all(
        getattr(field_class, name, None) is getattr(known, name, None)
        and not is_foreign(getattr(known, name, None))
        for name in (*CONVERSIONS, *more)
    )
