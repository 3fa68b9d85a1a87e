"""
How Django compiles the SQL of a shape, and when it is kept.

Django compiles it twice: with the values of a call, and with other values. It
is kept if both texts are the same, and if the parameters are those of
parameters_of(). Then nothing in it depends on the values.
"""

import copy
import datetime
import uuid
from decimal import Decimal
from operator import attrgetter

from django.core.exceptions import EmptyResultSet
from django.db.models.expressions import Col
from django.db.models.query import MAX_GET_RESULTS

from ..environment.cached_functions import cached_until_models_change
from ..environment.interruptions import reraise
from ..lookups.conditions import ISNULL_LOOKUPS
from ..lookups.origin import is_foreign, is_of_django
from ..lookups.rows import layout
from .parameters import is_condition_itself

# Methods of Django's compiler that run a query and read its rows. Profilers
# and caches patch these, and database backends override them.
sampled_steps = attrgetter("as_sql", "execute_sql", "results_iter", "get_converters")


class CompiledSelect:
    """The SELECT of one shape. Threads share it, and do not change it."""

    __slots__ = (
        "__weakref__",
        "attnames",
        "columns",
        "compiler_class",
        "fields",
        "limit",
        "sql",
        "steps",
        "tables",
    )

    def __init__(self, sql, compiler):
        opts = compiler.query.get_meta()
        self.sql = sql
        self.columns = tuple(column for column, _, _ in compiler.select)
        self.attnames = tuple(column.target.attname for column in self.columns)
        self.compiler_class = type(compiler)
        self.limit = compiler.query.high_mark
        self.fields = opts.concrete_fields
        tables = dict.fromkeys((opts, *(p._meta for p in opts.all_parents)))
        self.tables = tuple((each, each.db_table) for each in tables)
        self.steps = sampled_steps(type(compiler))

    def is_current(self, opts):
        """
        Return True if Django would still compile and run it in this way: no
        field was added, no table was renamed, no method was patched.
        """
        if self.fields is not opts.concrete_fields or self.steps != sampled_steps(
            self.compiler_class
        ):
            return False
        for each, db_table in self.tables:  # noqa: SIM110 - all() takes longer
            if each.db_table != db_table:
                return False
        return True


def query_of_get(queryset, args, kwargs, connection):
    """Return the query that QuerySet.get() runs for these arguments."""
    # A copy first, because filter() changes a queryset for which Django 6.1
    # has disabled cloning.
    query = queryset._clone().filter(*args, **kwargs).order_by().query
    if (
        not query.select_for_update
        or connection.features.supports_select_for_update_with_limit
    ):
        query.set_limits(high=MAX_GET_RESULTS)
    return query


def keep_sql(call, query, connection):
    """
    Keep the SQL of a query that Django has just run, if it is the same for
    all values. ``call`` is what shape_of_call() has returned.
    """
    shape, params, filters, arguments = call
    fields = [condition[0] for condition in filters[1]] if filters else []
    fields += [argument.field for argument in arguments]
    try:
        shape.select = verified_select(shape, params, fields, query, connection)
    except EmptyResultSet:
        pass  # Django sends no query for these values.
    except Exception as error:  # noqa: BLE001 - of values that cannot be compared
        reraise(error)
        shape.is_refused = True


def verified_select(shape, params, fields, query, connection):
    """
    Return the CompiledSelect of a shape. Return None if its SQL is not the
    same for all values, or if that is still unknown.
    """
    compiler = query.get_compiler(connection=connection)
    sql, sent = compiler.as_sql()
    other_query, unchanged = with_other_values(query, connection)
    try:
        other_sql, _ = other_query.get_compiler(connection=connection).as_sql()
    except Exception as error:  # noqa: BLE001 - of a field that refuses these values
        reraise(error)
        other_sql, unchanged = sql, range(len(sent))
    before, shape.seen = shape.seen, (sql, sent)
    if (
        not is_compiled_as_expected(compiler, list(sent), params, fields)
        or sql != other_sql
        or (before is not None and before[0] != sql)
    ):
        shape.is_refused = True
    elif not unchanged or (
        # No other value of this type is known: wait for another call.
        before is not None
        and all(before[1][place] != sent[place] for place in unchanged)
    ):
        shape.seen = None
        return CompiledSelect(sql, compiler)
    return None


def is_compiled_as_expected(compiler, sent, params, fields):
    """
    Return True if a compiled query selects whole rows, with these parameters,
    by conditions on these fields.
    """
    return (
        runs_as_django(type(compiler))
        and all(is_plain(column) for column, _, _ in compiler.select)
        and tuple(column.target.attname for column, _, _ in compiler.select)
        == layout(compiler.query.model).attnames
        and [each.lhs.output_field for each in compiler.query.where.children] == fields
        and list(map(type, sent)) == list(map(type, params))
        and sent == params
    )


def is_plain(column):
    """
    Return True if a column is selected as such, and not by the project's own
    SQL, which may depend on more than its field.
    """
    return type(column) is Col and not is_foreign(column.target.select_format)


@cached_until_models_change
def classes_of_django(compiler_class):
    """Return True if Django defines a compiler class and all of its bases."""
    return all(is_of_django(cls) for cls in compiler_class.__mro__ if cls is not object)


def runs_as_django(compiler_class):
    """Return True if a compiler class runs a query as Django's own does."""
    return classes_of_django(compiler_class) and not any(
        map(is_foreign, sampled_steps(compiler_class))
    )


def with_other_values(query, connection):
    """
    Return a copy of the query with other values in its conditions, and the
    places of the parameters for which there is no other value.
    """
    other, unchanged, place = query.clone(), [], 0
    for number, lookup in enumerate(query.where.children):
        if type(lookup) in ISNULL_LOOKUPS or is_condition_itself(lookup, connection):
            continue  # It has no parameter, because it is a part of the shape.
        changed = copy.copy(lookup)
        changed.rhs = other_value(lookup.rhs)
        if changed.rhs is None:
            unchanged.append(place)
        else:
            other.where.children[number] = changed
        place += 1
    return other, unchanged


def other_value(value):
    """Return another value of the same kind, None if none is known."""
    for kinds, change in CHANGES:
        if isinstance(value, kinds):  # type: ignore[arg-type]
            return change(value)
    return None


CHANGES = [
    (bool, lambda value: not value),
    (str, lambda value: f"{value}a"),
    (int, lambda value: 0 if value else 1),
    (bytes, lambda value: value + b"a"),
    (uuid.UUID, lambda value: uuid.UUID(int=value.int ^ 1)),
    ((float, Decimal), lambda value: type(value)(0 if value else 1)),
    (datetime.date, lambda value: value.replace(day=1 + value.day % 28)),
    (datetime.time, lambda value: value.replace(second=(value.second + 1) % 60)),
    (datetime.timedelta, lambda value: datetime.timedelta(days=not value)),
]
