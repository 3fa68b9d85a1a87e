"""
The value that a SELECT will return for a saved value, if that follows from the
field and from the value that was sent.
"""

import datetime
import decimal
import math
import uuid
import zoneinfo
from collections.abc import Callable
from typing import NamedTuple

from django.db import models

from ..environment.cached_functions import cached_until_models_change
from ..lookups.canonical import (
    PLAIN_TYPES,
    NotCanonical,
    canonical,
    prepare,
    prepared_type,
    refuse_other_text,
    stored_as,
)


class NotStoredAsSent(Exception):
    """
    The value that a SELECT will return does not follow from the instance.
    """


def is_stored_as_sent(field):
    """
    Return True if the value of a SELECT follows from the value that was sent.
    """
    return storage_of(field) is not None


def stores_all_as_sent(connection):
    """Return True if the database stores values unchanged or refuses them."""
    # Without its strict mode, MySQL cuts and replaces values.
    return connection.vendor != "mysql" or not connection.sql_mode.isdisjoint(
        {"STRICT_ALL_TABLES", "STRICT_TRANS_TABLES"}
    )


def saved_value(instance, field, storage, param, connection):
    """
    Return the value that a SELECT will return for a field of a saved instance.
    ``param`` was sent for it.

    Raise NotStoredAsSent if only the database can answer that, or if the
    instance was changed in the meantime.
    """
    try:
        value = instance.__dict__[field.attname]
    except KeyError:
        raise NotStoredAsSent(field) from None
    if storage is None:
        raise NotStoredAsSent(field)
    stored, value_type, check, _ = storage
    if (
        type(value) is value_type
        and value == param
        # psycopg has its own types for integers.
        and (
            type(param) is value_type or (value_type is int and isinstance(param, int))
        )
        # The database returns neither a zone nor a fold.
        and value_type is not datetime.time
        and (value_type is not datetime.datetime or value.tzinfo is datetime.UTC)
    ):
        # It was sent as it is.
        return check(stored, value, connection) if check else value
    value = as_selected(field, value, connection)
    sent = field.get_db_prep_save(value, connection)
    if not is_param(sent, param, connection.vendor):
        raise NotStoredAsSent(field)  # the instance was changed since
    return value


def as_selected(field, value, connection):
    """
    Return the value that a SELECT will return for this saved value.

    Raise NotStoredAsSent if only the database can answer that.
    """
    storage = storage_of(field)
    if storage is None:
        raise NotStoredAsSent(field)
    stored, value_type, check, prepares_to_same = storage
    if not prepares_to_same or type(value) is not value_type:
        try:
            value = prepare(field, value, connection.vendor)
        except NotCanonical as error:
            raise NotStoredAsSent(field) from error
    if value is None:
        return None
    if type(value) is not value_type:  # The field has its own get_prep_value().
        raise NotStoredAsSent(field)
    return check(stored, value, connection) if check else value


def is_param(value, param, vendor):
    """Return True if a value was sent as this parameter."""
    if type(value) is type(param) and type(value) in PLAIN_TYPES:
        return value == param
    try:
        if vendor == "mysql":
            refuse_other_text(param)
        return canonical(value) == canonical(param)
    except NotCanonical:
        return False


class Storage(NamedTuple):
    """The form in which a field's values are stored."""

    field: models.Field  # the field that stores them: the target of a foreign key
    value_type: type
    # A further condition: check(field, value, connection) returns the value or
    # raises NotStoredAsSent.
    check: Callable | None
    prepares_to_same: bool  # The field leaves such a value unchanged.


@cached_until_models_change
def storage_of(field):
    """
    Return the Storage of a field. Return None if a SELECT may return anything.
    """
    stored = stored_as(field)
    if stored is None or stored.get_internal_type() not in STORED_TYPES:
        return None
    value_type, check = STORED_TYPES[stored.get_internal_type()]
    return Storage(
        stored, value_type, check, prepared_type(field, stored) is value_type
    )


def check_text(field, value, connection):
    # PostgreSQL cuts spaces that exceed the length.
    if field.max_length is not None and len(value) > field.max_length:
        raise NotStoredAsSent(field)
    return value


def check_decimal(field, value, connection):
    sign, digits, exponent = value.as_tuple()
    if (
        -exponent != field.decimal_places
        or len(digits) > 15  # SQLite keeps no more
        or (sign and not value)  # the database has no negative zero
    ):
        raise NotStoredAsSent(field)
    return value


def check_float(field, value, connection):
    # MySQL may print fewer digits than it stores. Zero may be negative.
    if (
        connection.vendor not in {"postgresql", "sqlite"}
        or not math.isfinite(value)
        or value == 0
    ):
        raise NotStoredAsSent(field)
    return value


def check_datetime(field, value, connection):
    # In another zone, the stored local time may be ambiguous.
    if value.tzinfo is not connection.timezone:
        raise NotStoredAsSent(field)
    if value.tzinfo is None and connection.vendor == "postgresql":
        # PostgreSQL stores an instant. A local time that does not exist,
        # because the clocks change in spring, comes back as another time.
        zone = zoneinfo.ZoneInfo(connection.timezone_name)
        instant = value.replace(tzinfo=zone).astimezone(datetime.UTC)
        if instant.astimezone(zone).replace(tzinfo=None) != value:
            raise NotStoredAsSent(field)
    return value


# {internal type of a field: (type of its values, check)}
STORED_TYPES = {
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
