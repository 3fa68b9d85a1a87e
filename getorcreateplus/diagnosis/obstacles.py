"""
Finds out why a call does not use the cache at all: because of its queryset,
one of its conditions, or one of their values.
"""

from django.core.exceptions import FieldDoesNotExist, FieldError, ValidationError
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
            return f"{name} does not cache.", f"Use a manager that does: {managers}."
        return (
            f"{name} does not cache.",
            "Give the model a CachedManager or a PlusManager.",
        )
    declared = queryset.object_cache_alias
    for alias in (queryset.key_cache_alias, object_cache_alias(opts, declared)):
        if cache_faults[alias]:
            return (
                f"The cache {alias!r} of {name} {cache_faults[alias]}.",
                "Run `manage.py check`: getorcreateplus.E001 has the remedy.",
            )
    if region_of(queryset) is None:
        return (
            f"No manager of {opts.label} makes a {name}, so writes would not "
            "invalidate its rows.",
            f"Give the model a manager: {name}.as_manager().",
        )
    change = change_of(queryset)
    if change is not None:
        return f"Its lookups may differ from Django's: {change.what}.", change.remedy
    if not yields_whole_rows(queryset):
        return (
            "The queryset is more than a filter on the model's own columns.",
            "Leave out values(), annotate(), only(), select_related(), slices, "
            "locks, joins and the like.",
        )
    return lookup_obstacle(queryset, kwargs)


def error_of(queryset, kwargs):
    """Return the class of the error that Django raises for a call, or None."""
    if kwargs and queryset.query.is_sliced:
        return TypeError
    try:
        queryset.query.chain().add_q(models.Q(**kwargs))
    except (
        ArithmeticError,
        FieldError,
        TypeError,
        ValueError,
        ValidationError,
    ) as error:
        return type(error)
    except RuntimeWarning:  # of a naive datetime, if this process raises warnings
        return None
    return None


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
            "A filter of the queryset is not an equality on the model's own columns.",
            "Filter by equality, or pass the condition as an argument.",
        )
    if not kwargs:
        return "The call has no arguments.", "Pass the values of columns of one row."
    if queryset.caches_unique_only:
        return (
            "No unique constraint covers the lookup, and caches_unique_only is True.",
            "Look up by the columns of a unique constraint, or add one.",
        )
    return (
        "Two conditions require different values of the same column.",
        "Leave one of them out: no row has both values.",
    )


def argument_obstacle(opts, argument, value, vendor):
    """Return why an argument cannot be cached, and the remedy."""
    name, *rest = argument.split(LOOKUP_SEP)
    try:
        column = opts.pk if name == "pk" else opts.get_field(name)
    except FieldDoesNotExist:
        return (
            f"{argument}: {opts.label} has no field {name!r}.",
            f"It has {', '.join(names_of(opts))}.",
        )
    equality = "Look up by equality on the model's own columns."
    if rest and rest != ["exact"]:
        if column.is_relation and not column.get_lookup(rest[0]):
            return f"{argument} queries another table.", equality
        return f"{argument} is not an equality.", equality
    if column is opts.pk and len(opts.pk_fields) > 1:
        columns = ", ".join(part.name for part in opts.pk_fields)
        return (
            f"{argument}: {value!r} is not a key of ({columns}).",
            "Pass its columns one by one.",
        )
    if column not in opts.concrete_fields:
        return f"{argument} is not a column of the model's own table.", equality
    return column_obstacle(column, argument, value, vendor)


def column_obstacle(column, argument, value, vendor):
    stored = canonical.stored_as(column)
    kind = type(column).__name__
    other = "Look up by another column; lookups by this one query the database."
    if stored is None or stored.get_internal_type() not in canonical.COMPARABLE_FIELDS:
        return f"{argument}: {kind} has conversions or comparisons of its own.", other
    if stored.get_internal_type() in canonical.INCOMPARABLE_FIELDS.get(vendor, ()):
        return f"{argument}: {vendor} compares a {kind} in another way.", other
    if column.get_lookup("exact") not in conditions.EXACT_LOOKUPS:
        return f"{argument}: its exact lookup is not one of Django's.", other
    return f"{argument}: {value_obstacle(column, value)}", "Pass a plain value."


def value_obstacle(column, value):
    if hasattr(value, "resolve_expression"):
        return f"{value!r} is an expression, which the database evaluates."
    if isinstance(value, models.Model):
        return f"{value!r} is not saved, or is an instance of another model."
    if isinstance(value, dict | list | set | tuple):
        return f"a {type(value).__name__} may hold expressions, or change."
    try:
        canonical.refuse_naive(column, value)
        column.get_prep_value(value)
    except canonical.NotCanonical:
        return f"{value!r} has no time zone."
    except (ArithmeticError, TypeError, ValueError, ValidationError) as error:
        return f"{value!r} is not valid for {type(column).__name__}: {said(error)}"
    return f"{value!r} has no form that all equal values share."
