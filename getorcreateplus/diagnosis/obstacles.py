"""
Why a call does not use the cache at all: its queryset, one of its conditions,
or their values.
"""

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import connections, models
from django.db.models.constants import LOOKUP_SEP

from ..environment.aliases import cache_faults, object_cache_alias
from ..lookups import canonical, conditions
from ..lookups.django_path import change_of
from ..lookups.queryset_shape import yields_whole_rows
from ..mixins.cached import CachedGetOrCreateMixin
from ..writes.registry import region_of
from .managers import queryset_classes
from .texts import names_of, said


def obstacle(queryset, kwargs):
    """Return why a call does not use the cache, and the remedy."""
    model = queryset.model
    opts, name = model._meta, type(queryset).__name__
    if not isinstance(queryset, CachedGetOrCreateMixin):
        caching = sorted(queryset_classes(model, CachedGetOrCreateMixin))
        if caching:
            managers = ", ".join(f"{opts.label}.{manager}" for manager in caching)
            return f"{name} does not cache.", f"Ask by what does: {managers}."
        return (
            f"{name} does not cache.",
            "Give the model a CachedManager or a PlusManager.",
        )
    declared = queryset.object_cache_alias
    for alias in (queryset.key_cache_alias, object_cache_alias(opts, declared)):
        if cache_faults[alias]:
            return (
                f"The cache {alias!r} of {name} {cache_faults[alias]}.",
                "Run `manage.py check`: getorcreateplus.E001 says what to do.",
            )
    if region_of(queryset) is None:
        return (
            f"No manager of {opts.label} makes a {name}, so that nobody would "
            "invalidate what it keeps.",
            f"Give the model a manager: {name}.as_manager().",
        )
    change = change_of(queryset)
    if change is not None:
        return f"Its lookups may not be Django's: {change.what}.", change.remedy
    if not yields_whole_rows(queryset):
        return (
            "The queryset is more than a filter on the model's own columns.",
            "Leave out values(), annotate(), only(), select_related(), slices, "
            "locks, joins and the like.",
        )
    return lookup_obstacle(queryset, kwargs)


def lookup_obstacle(queryset, kwargs):
    """Return why the conditions do not name one row, and the remedy."""
    opts = queryset.model._meta
    vendor = connections[queryset.db].vendor
    for argument, value in kwargs.items():
        try:
            conditions.from_kwargs(opts, {argument: value}, vendor)
        except canonical.NotCanonical:
            return argument_obstacle(opts, argument, value, vendor)
    try:
        conditions.from_query(queryset.query, vendor)
    except canonical.NotCanonical:
        return (
            "The queryset has a filter that is no equality on the model's own columns.",
            "Filter by equality, or pass the condition as an argument.",
        )
    if not kwargs:
        return "It is called without an argument.", "Name the columns of one row."
    return (
        "Two conditions want different values of one column.",
        "Leave one of them out: no row has both.",
    )


def argument_obstacle(opts, argument, value, vendor):
    """Return why an argument does not name a column, and the remedy."""
    name, *rest = argument.split(LOOKUP_SEP)
    try:
        column = opts.pk if name == "pk" else opts.get_field(name)
    except FieldDoesNotExist:
        return (
            f"{argument}: {opts.label} has no field {name!r}; Django raises "
            "FieldError.",
            f"It has {', '.join(names_of(opts))}.",
        )
    equality = "Look up by equality on the model's own columns."
    if rest and rest != ["exact"]:
        if column.is_relation and not column.get_lookup(rest[0]):
            return f"{argument}: it asks another table.", equality
        return f"{argument}: it is no equality.", equality
    if column is opts.pk and len(opts.pk_fields) > 1:
        columns = ", ".join(part.name for part in opts.pk_fields)
        return (
            f"{argument}: {value!r} is no key of ({columns}).",
            "Name its columns one by one.",
        )
    if column not in opts.concrete_fields:
        return f"{argument}: it is no column of the model's own table.", equality
    return column_obstacle(column, argument, value, vendor)


def column_obstacle(column, argument, value, vendor):
    stored = canonical.stored_as(column)
    kind = type(column).__name__
    other = "Look up by another column; this one is asked of the database."
    if stored is None or stored.get_internal_type() not in canonical.COMPARABLE_FIELDS:
        return f"{argument}: {kind} has conversions or comparisons of its own.", other
    if stored.get_internal_type() in canonical.INCOMPARABLE_FIELDS.get(vendor, ()):
        return f"{argument}: {kind} compares otherwise on {vendor}.", other
    if column.get_lookup("exact") not in conditions.EXACT_LOOKUPS:
        return f"{argument}: its exact lookup is none of Django's.", other
    return f"{argument}: {value_obstacle(column, value)}", "Pass a plain value."


def value_obstacle(column, value):
    if hasattr(value, "resolve_expression"):
        return f"{value!r} is an expression, which the database computes."
    if isinstance(value, models.Model):
        return f"{value!r} is not saved, or of another model."
    if isinstance(value, dict | list | set | tuple):
        return f"a {type(value).__name__} may hold expressions, or change."
    try:
        canonical.refuse_naive(column, value)
        column.get_prep_value(value)
    except canonical.NotCanonical:
        return f"{value!r} has no time zone."
    except (ArithmeticError, TypeError, ValueError, ValidationError) as error:
        return f"{value!r} is no value of {type(column).__name__}: {said(error)}"
    return f"{value!r} has no form that is one for all that are equal to it."
