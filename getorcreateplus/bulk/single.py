"""Passes one row of a batch to the queryset's own method."""

from contextlib import contextmanager

from django.db import DataError, IntegrityError, models

from .creating import params_of, raise_naming
from .identity import value_of
from .pending import is_expression

# Names that get_or_create() treats as arguments, not as fields.
ARGUMENTS = {"create_defaults", "defaults", "self"}


def arguments_of(bulk, row):
    """
    Return the lookup of a row, and the arguments of create() for a new row.
    """
    params = params_of(row) if isinstance(row, models.Model) else dict(row)
    for field in bulk.relation.values:
        params.pop(field.attname, None)
    params |= bulk.relation.row
    lookup = {}
    for field in bulk.identifying.fields:
        names = [field.name, field.attname, *(["pk"] if field.primary_key else [])]
        name = next((name for name in names if name in params), None)
        # A field may have the name of an argument.
        value = params[name] if name else value_of(row, field)
        if bulk.follows_django or name in ARGUMENTS:
            lookup[f"{field.name}__exact"] = value
        else:
            # An override may read only the name, and may replace the value:
            # defaults would take precedence.
            lookup[name or field.attname] = value
            params.pop(name, None)
    return lookup, params


def as_given(row, obj):
    """Return the instance that was given for a row that was created."""
    if not all(isinstance(each, models.Model) for each in (row, obj)):
        return obj
    # As in bulk_create(), that instance has been saved.
    row.__dict__.update(obj.__dict__)
    return row


def as_one_object(results):
    """
    Make equal rows one object, which has the latest values. ``results`` is a
    list of (obj, created).
    """
    kept = {}
    for number, (obj, created) in enumerate(results):
        if not isinstance(obj, models.Model) or has_expression(obj):
            continue  # From an override, or created by Django 5.2.
        try:
            first = kept.setdefault(obj.pk, obj)
        except TypeError:
            continue  # JSON, for example
        if first is not obj:
            first.__dict__.update(obj.__dict__)
            results[number] = first, created
    return results


def has_expression(obj):
    return any(map(is_expression, vars(obj).values()))


@contextmanager
def naming_row(position):
    """Add the row to the message of a database error."""
    try:
        yield
    except (DataError, IntegrityError) as error:
        raise_naming(error, f"Row {position}")
