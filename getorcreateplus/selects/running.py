"""Run the SELECT of a get(), and return its rows."""

from weakref import WeakKeyDictionary

from django.db import DatabaseError, connections

from ..conf import conf
from ..lookups.django_path import has_django_steps
from ..lookups.queryset_shape import selects_whole_rows
from .compiling import keep_sql, query_of_get
from .shapes import pending_filter, shape_of_call

CONVERTERS = "getorcreateplus_converters"  # where a connection keeps them


def select_rows(queryset, args, kwargs, connection=None):
    """
    Return the result of the SELECT of queryset.get(*args, **kwargs): the alias
    of the database, the attnames of the columns, a list of rows, each a
    sequence of column values, and the maximum number of rows that the SELECT
    returns (None: all). Return None if Django's own get() has to run.

    A caller that passes the connection has to check before that the queryset
    selects whole rows with Django's steps.

    Raise the exceptions that Django's get() raises before it has rows.
    """
    is_recorded = connection is not None or queryset._recording is not None
    if connection is None:
        if not has_django_steps(queryset):
            return None
        is_pending = pending_filter(queryset) is not None
        if not selects_whole_rows(queryset, queryset._query if is_pending else None):
            return None
        connection = connections[queryset.db]
    call = None
    if not args and queryset.compiled_selects and conf.COMPILED_SELECTS:
        call = shape_of_call(queryset, kwargs, connection)
    if call is None:
        if not is_recorded:
            return None
        return rows_by_django(queryset, args, kwargs, connection)
    shape, params, *_ = call
    select = shape.select
    if select is None or not select.is_current(queryset.model._meta):
        return rows_by_django(queryset, args, kwargs, connection, call)
    rows = run(select, connection, tuple(params))
    return connection.alias, select.attnames, rows, select.limit


def run(select, connection, params):
    """Run a CompiledSelect, as SQLCompiler.execute_sql() does."""
    cursor = connection.cursor()
    try:
        cursor.execute(select.sql, params)
        rows = cursor.fetchall()
    except Exception as error:
        try:
            cursor.close()
        except DatabaseError:
            raise error from None
        raise
    cursor.close()
    if rows and (converters := converters_of(select, connection)):
        rows = [list(row) for row in rows]
        for row in rows:
            for place, column, functions in converters:
                value = row[place]
                for function in functions:
                    value = function(value, column, connection)
                row[place] = value
    return rows


def converters_of(select, connection):
    """
    Return the converters from the driver's values to the fields' values, as
    (place, column, functions).

    Each connection keeps its own, because some of them are methods of the
    connection, and another thread has another connection.
    """
    kept = vars(connection).get(CONVERTERS)
    if kept is None:
        kept = vars(connection)[CONVERTERS] = WeakKeyDictionary()
    converters = kept.get(select)
    if converters is None:
        converters = []
        for place, column in enumerate(select.columns):
            # The same as SQLCompiler.get_converters().
            functions = connection.ops.get_db_converters(column)
            functions = functions + column.get_db_converters(connection)
            if functions:
                converters.append((place, column, functions))
        kept[select] = converters
    return converters


def rows_by_django(queryset, args, kwargs, connection, call=None):
    """
    Let Django compile the query and run it. Keep its SQL for other calls of
    the same shape.
    """
    query = query_of_get(queryset, args, kwargs, connection)
    compiler = query.get_compiler(using=connection.alias)
    results = compiler.execute_sql()
    attnames = tuple(column.target.attname for column, _, _ in compiler.select)
    rows = list(compiler.results_iter(results))
    if call is not None:
        keep_sql(call, query, connection)
    return connection.alias, attnames, rows, query.high_mark
