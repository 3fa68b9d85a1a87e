"""
Finds out what the query of a queryset selects, and by which filters: whole
rows of its own table, or something else. It reads only the query.
"""

from django.db.models.query import ModelIterable
from django.db.models.sql import Query
from django.db.models.sql.datastructures import BaseTable, Join
from django.db.models.sql.where import WhereNode

from .django_path import has_django_query

NEW_QUERY = Query(None).__dict__.keys()


def is_simple_filter(query):
    """
    Return True if a query is no more than a filter on the table's own columns.
    """
    return (
        is_filter(query)
        # A locking reader needs the row of the database.
        and not query.select_for_update
        # A join may filter rows.
        and sum(count > 0 for count in query.alias_refcount.values()) <= 1
    )


def is_filter(query):
    """
    Return True if a query is no more than a filter and a lock: its rows are
    whole rows of its own table.
    """
    return (
        not query.select_related
        and not query.annotations
        and not query.extra
        and not query.extra_tables
        and not query.distinct
        and not query.is_sliced
        and not query.combinator
        and query.default_cols  # not defer(), nor only()
        and query.deferred_loading == (frozenset(), True)
        and not query._filtered_relations
        and reads_own_table(query)
    )


def yields_whole_rows(queryset, query=None, accepts=is_simple_filter):
    """
    Return True if get() would return a row as it is in its table, with a query
    that ``accepts`` accepts. The query is the queryset's own, unless the
    caller passes the query to which a related manager's filter is not applied
    yet.
    """
    if query is None:
        query = queryset.query
    return (
        queryset._iterable_class is ModelIterable  # not values(), nor subclasses
        and not queryset._prefetch_related_lookups
        and (
            # The query is as the manager made it. This test is faster than
            # finding out what was changed.
            (
                type(query) is Query
                and query.__dict__.keys() == NEW_QUERY
                and type(query.where) is WhereNode
                and not (
                    query.where.children
                    or query.alias_refcount
                    or query.annotations
                    or query.extra
                    or query._filtered_relations  # type: ignore[attr-defined]
                )
            )
            or (has_django_query(query) and accepts(query))
        )
        # With FETCH_PEERS the peers would be missing (Django 6.1).
        and not getattr(getattr(queryset, "_fetch_mode", None), "track_peers", False)
    )


def selects_whole_rows(queryset, query=None):
    """Do the same for a query that may also join or lock rows."""
    return yields_whole_rows(queryset, query, is_filter)


def filters_only_by(query, fields):
    """
    Return True if the query selects all rows, or those with one value in each
    of the fields.
    """
    return (
        len(query.where.children) == len(fields)
        and all(is_equality_on(child, fields) for child in query.where.children)
        and not query.annotations
        and not query._filtered_relations  # annotate() as well.
        and not query.extra
        and not query.extra_tables
        and not query.distinct
        and not query.is_sliced
        and not query.select_for_update  # The SELECT of update_or_create().
        and not query.combinator
        and reads_own_table(query)
    )


def is_equality_on(child, fields):
    """
    Return True if this part of a WHERE is field = value for one of the fields.
    """
    return (
        getattr(child, "lookup_name", None) == "exact"
        and getattr(child.lhs, "target", None) in fields
    )


def reads_own_table(query):
    """
    Return True if a query reads its model's table, apart from joins. An
    archive or a CTE may replace the table.
    """
    return all(
        type(table) is Join
        or (type(table) is BaseTable and table.table_name == query.get_meta().db_table)
        for alias, table in query.alias_map.items()
        if query.alias_refcount[alias]
    )
