"""
The parameters that Django sends for the values of a lookup.

The lookup's own methods prepare a value, as they do when Django compiles the
query. Only texts and integers of Django's own fields take a shorter path,
because most values are of these types, and their fields leave them unchanged.
"""

from typing import NamedTuple

from django.core.exceptions import EmptyResultSet, FieldDoesNotExist
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Field, ForeignKey, Model
from django.db.models.constants import LOOKUP_SEP
from django.db.models.expressions import Col
from django.db.models.lookups import IntegerFieldExact

from ..environment.cached_functions import cached_until_models_change
from ..environment.interruptions import reraise
from ..lookups.canonical import prepared_type, refuse_naive, stored_as
from ..lookups.conditions import EXACT_LOOKUPS, ISNULL_LOOKUPS

MAX_CALLS = 1000  # combinations of argument names that are kept

CONTAINERS = list, tuple, set, frozenset, dict


class NotCompiled(Exception):
    """Django has to compile the query of this call."""


class Argument(NamedTuple):
    """A keyword argument that is equality on one of the model's columns."""

    name: str
    field: Field
    lookup_class: type
    col: Col
    # The type of the values that the field leaves unchanged, if that is str or
    # int.
    plain_type: type | None
    # The field whose get_db_prep_value() is called.
    sender: Field


@cached_until_models_change(maxsize=MAX_CALLS)
def arguments_of(model, names):
    """
    Return the Arguments of these keyword arguments, in the order in which
    Django compiles them. Return None if one of them is something else.
    """
    arguments = []
    for name in sorted(names):
        argument = argument_of(model._meta, name)
        if argument is None:
            return None
        arguments.append(argument)
    return tuple(arguments)


def argument_of(opts, name):
    path = name.removesuffix(f"{LOOKUP_SEP}exact")
    try:
        field = opts.pk if path == "pk" else opts.get_field(path)
    except FieldDoesNotExist:
        return None
    if (
        not field.concrete
        or field.many_to_many
        or (field.is_relation and not isinstance(field, ForeignKey))
        or (lookup_class := field.get_lookup("exact")) not in EXACT_LOOKUPS
    ):
        return None
    stored = stored_as(field)
    kind = None if stored is None else prepared_type(field, stored)
    return Argument(
        name,
        field,
        lookup_class,
        # The same as Query.build_filter(). The alias is not part of the value.
        field.get_col(opts.db_table, field),
        kind if kind in {str, int} else None,
        getattr(field, "target_field", field),
    )


def parameters_of(arguments, kwargs, connection):
    """
    Return the parameters that Django sends for these keyword arguments, and
    the marks of those whose values change the SQL: (name, value).

    Raise NotCompiled if Django has to find the parameters, or to raise its
    error.
    """
    params, marks = [], []
    for name, field, lookup_class, col, plain_type, sender in arguments:
        value = kwargs[name]
        if field.get_lookup("exact") is not lookup_class:
            raise NotCompiled(name)  # a project has registered another one
        if type(value) is plain_type:
            if plain_type is int:
                if lookup_class is IntegerFieldExact:
                    refuse_overflow(field, value, connection)
                value = sender.get_db_prep_value(value, connection, prepared=True)
            params.append(value)
        elif value is None:
            if field.get_lookup("isnull") not in ISNULL_LOOKUPS:
                raise NotCompiled(name)
            marks.append((name, None))
        else:
            lookup = prepared_lookup(field, lookup_class, col, value)
            if is_condition_itself(lookup, connection):
                marks.append((name, lookup.rhs))
            else:
                params.append(parameter_of(lookup, connection))
    if sends_null_for_empty_text() and "" in params:
        raise NotCompiled("")
    return params, tuple(marks)


def refuse_overflow(field, value, connection):
    """
    Raise NotCompiled for an integer that the column cannot hold: Django sends
    no query for it.
    """
    low, high = connection.ops.integer_field_range(field.get_internal_type())
    if (low is not None and value < low) or (high is not None and value > high):
        raise NotCompiled(value)


def prepared_lookup(field, lookup_class, col, value):
    """Return Django's lookup of a value, which prepares the value."""
    if isinstance(value, Model):
        if (
            not field.is_relation
            # Django's own check of it accepts other values, too.
            or value._meta.concrete_model
            is not field.remote_field.model._meta.concrete_model
        ):
            raise NotCompiled(value)
    elif (
        hasattr(value, "resolve_expression")
        or isinstance(value, CONTAINERS)  # may hold expressions
        or (field.is_relation and hasattr(value, "__iter__") and type(value) is not str)
    ):
        raise NotCompiled(value)
    try:
        refuse_naive(field, value)  # Django warns of it, but only once
        lookup = lookup_class(col, value)
    except Exception as error:
        reraise(error)
        raise NotCompiled(value) from error  # Django's call raises its own
    if lookup.rhs is None or lookup.bilateral_transforms:
        raise NotCompiled(value)  # IS NULL
    return lookup


def is_condition_itself(lookup, connection):
    """
    Return True if a lookup is compiled to its column, or to NOT the column.
    """
    # The same as Exact.as_sql().
    return (
        isinstance(lookup.rhs, bool)
        and getattr(lookup.lhs, "conditional", False)
        and connection.ops.conditional_expression_supported_in_where_clause(lookup.lhs)
    )


def parameter_of(lookup, connection):
    """Return the parameter that Django sends for the value of a lookup."""
    if hasattr(lookup.rhs, "as_sql"):
        raise NotCompiled(lookup)
    try:
        sql, params = lookup.process_rhs(None, connection)
    except EmptyResultSet:
        raise NotCompiled(lookup) from None  # Django sends no query
    except Exception as error:
        reraise(error)
        raise NotCompiled(lookup) from error
    if sql != "%s" or len(params) != 1 or hasattr(params[0], "as_sql"):
        raise NotCompiled(lookup)
    return params[0]


@cached_until_models_change
def sends_null_for_empty_text():
    # The same as Query.build_lookup(), which uses the default database.
    return connections[DEFAULT_DB_ALIAS].features.interprets_empty_strings_as_nulls
