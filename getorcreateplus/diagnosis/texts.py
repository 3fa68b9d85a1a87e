"""
Converts the texts of a command line to values, and has the message of a field
that refuses a value.
"""

import datetime
import json

from django.conf import settings
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models
from django.db.models.constants import LOOKUP_SEP
from django.utils import timezone

from ..writes.model_tables import end_of_relation


def from_text(model, argument, text):
    """
    Return the value of a text, for the field that a keyword argument names. It
    is converted by the field's to_python(), in the current time zone.

    ``null`` and ``None`` are None if the field refuses them; ``true`` and
    ``false`` are values of a BooleanField. If the argument is not an equality
    on a column of the model's own, return the text.

    Raise ValueError for an unknown field, and for a text that the field
    refuses.
    """
    opts = model._meta
    name, *rest = argument.split(LOOKUP_SEP)
    try:
        column = opts.pk if name == "pk" else opts.get_field(name)
    except FieldDoesNotExist:
        raise ValueError(
            f"{opts.label} has no field {name!r}. It has {', '.join(names_of(opts))}."
        ) from None
    if column is opts.pk and len(opts.pk_fields) > 1 and rest in ([], ["exact"]):
        return pk_from_text(model, text)
    if rest not in ([], ["exact"]) or column not in opts.concrete_fields:
        return text
    return value_from_text(column, argument, text)


def pk_from_text(model, text):
    """
    Return the primary key of a text. A primary key of several columns is
    written as their values with commas between them, or as a JSON list: "1,2",
    "[1, 2]".
    """
    opts = model._meta
    if len(opts.pk_fields) == 1:
        return value_from_text(opts.pk, "pk", text)
    parts = text.split(",")
    if text.startswith("["):
        try:
            parts = json.loads(text)
        except ValueError:
            pass
    if len(parts) != len(opts.pk_fields):
        columns = ",".join(part.name for part in opts.pk_fields)
        raise ValueError(
            f"pk={text!r}: the primary key of {opts.label} is {columns}. Write its "
            "values with commas between them, or as a JSON list."
        )
    return tuple(
        value_from_text(part, part.name, str(value))
        for part, value in zip(opts.pk_fields, parts, strict=True)
    )


def value_from_text(column, argument, text):
    end = end_of_relation(column)
    if isinstance(end, models.BooleanField) and text in {"true", "false"}:
        text = text.capitalize()
    try:
        value = end.to_python(text)
    except (ArithmeticError, TypeError, ValueError, ValidationError) as error:
        if text in {"null", "None"}:
            return None
        raise ValueError(
            f"{argument}={text!r} is not valid for {column.model._meta.label}."
            f"{column.name} ({type(column).__name__}): {said(error)}"
        ) from None
    if (
        settings.USE_TZ
        and isinstance(value, datetime.datetime)
        and timezone.is_naive(value)
    ):
        return timezone.make_aware(value)
    return value


def said(error):
    """Return the message of a field that refuses a value."""
    return error.messages[0] if isinstance(error, ValidationError) else str(error)


def names_of(opts):
    """Return the names of conditions on a model's own columns."""
    return sorted({f.name for f in opts.concrete_fields} | {"pk"})
