"""
Shapes: calls of one shape have the same SQL.

A shape is the model, the database, the names of the arguments, which of them
are NULL, the queryset's own filters and its lock. The values are the
parameters.
"""

from django.db.models.expressions import Col
from django.db.models.sql.datastructures import BaseTable, Join

from ..environment.cached_functions import cached_until_models_change
from ..lookups.conditions import EXACT_LOOKUPS, ISNULL_LOOKUPS
from .parameters import (
    NotCompiled,
    arguments_of,
    is_condition_itself,
    parameter_of,
    parameters_of,
)

MAX_SHAPES = 1000  # that a process keeps, each with a few kB


class Shape:
    """Facts about the SQL of one shape."""

    __slots__ = ("is_refused", "seen", "select")

    def __init__(self):
        self.select = None  # the CompiledSelect
        self.seen = None  # an earlier result of Django's compiler: compiling.py
        self.is_refused = False  # Its SQL depends on values.


@cached_until_models_change(maxsize=MAX_SHAPES)
def shape_of(*key):
    """Return the Shape with this key, the same object until models change."""
    return Shape()


def pending_filter(queryset):
    """
    Return the keyword arguments of a related manager's filter that Django has
    not yet applied to the query. Return None if there is no such filter, or if
    it is more than equality on columns of the model.

    Applying it takes as long as the SELECT.
    """
    if queryset._deferred_filter is None:
        return None
    negated, args, kwargs = queryset._deferred_filter
    if negated or args or arguments_of(queryset.model, tuple(kwargs)) is None:
        return None
    return kwargs


def shape_of_call(queryset, kwargs, connection):
    """
    Return the Shape of queryset.get(**kwargs), the parameters that Django
    sends for its values, and their origin: the queryset's own filters, and the
    Arguments. Return None if Django has to compile the query.
    """
    model, names = queryset.model, tuple(kwargs)
    arguments = arguments_of(model, names)
    if arguments is None:
        return None
    pending, filters, lock = pending_filter(queryset), (), None
    query = queryset.query if pending is None else queryset._query
    try:
        params, marks = parameters_of(arguments, kwargs, connection)
        if pending is not None:
            # Django applies it after the filters, and before the arguments.
            own = arguments_of(model, tuple(pending))
            own_params, own_marks = parameters_of(own, pending, connection)
            params, arguments = own_params + params, own + arguments
            marks = (tuple(pending), own_marks, marks)
        if query.where.children or query.alias_map:
            filters, own_params = filters_of(query, connection)
            params = own_params + params
        if query.select_for_update:
            lock = lock_of(query, connection)
    except NotCompiled:
        return None
    alias, backend = connection.alias, type(connection)
    shape = shape_of(model, alias, backend, names, marks, filters, lock)
    return None if shape.is_refused else (shape, params, filters, arguments)


def filters_of(query, connection):
    """
    Return the part of a shape's key for a queryset's own filters (their tables
    and conditions), and their parameters.

    Raise NotCompiled if one of them is not equality on a column.
    """
    conditions, params = [], []
    where = query.where
    if where.negated or (where.connector != "AND" and len(where.children) > 1):
        raise NotCompiled(where)
    for lookup in where.children:
        lhs, mark = getattr(lookup, "lhs", None), None
        if type(lhs) is not Col or lookup.bilateral_transforms:
            raise NotCompiled(lookup)
        if type(lookup) in ISNULL_LOOKUPS or is_condition_itself(lookup, connection):
            mark = lookup.rhs
        elif type(lookup) in EXACT_LOOKUPS:
            params.append(parameter_of(lookup, connection))
        else:
            raise NotCompiled(lookup)
        condition = lhs.output_field, type(lookup), lhs.alias, lhs.target, mark
        conditions.append(condition)
    return (tables_of(query), tuple(conditions)), params


def tables_of(query):
    """
    Return the tables of a query, as they are joined, also the unused ones,
    because the next join may take their alias.
    """
    tables: list[tuple] = []
    for alias, table in query.alias_map.items():
        is_used = query.alias_refcount[alias] > 0
        if type(table) is Join:
            if table.filtered_relation is not None or has_restriction(table):
                raise NotCompiled(table)
            tables.append(
                (
                    alias,
                    is_used,
                    table.table_name,
                    table.parent_alias,
                    table.join_type,
                    table.join_cols,
                )
            )
        elif type(table) is BaseTable:
            tables.append((alias, is_used, table.table_name))
        else:
            raise NotCompiled(table)
    return tuple(tables)


def has_restriction(join):
    """Return True if a relation adds a condition of its own to the join."""
    restriction = join.join_field.get_extra_restriction(
        join.table_alias, join.parent_alias
    )
    return restriction is not None


def lock_of(query, connection):
    """
    Return the part of a shape's key for FOR UPDATE; None without a lock.

    Raise NotCompiled if Django refuses the lock, or also locks other tables.
    """
    if not query.select_for_update:
        return None
    features = connection.features
    if query.select_for_update_of or (
        features.has_select_for_update and connection.get_autocommit()
    ):
        raise NotCompiled(query)
    return (
        query.select_for_update_nowait,
        query.select_for_update_skip_locked,
        query.select_for_no_key_update,
        # Tests change these.
        features.has_select_for_update,
        features.supports_select_for_update_with_limit,
    )
