"""
The private names of Django on which the package depends, and the use of each.
If a name disappears, this test fails first, and names it.
"""

import ast
from pathlib import Path

import django
import django.test.utils
import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.db import connection, models, transaction
from django.db.models.expressions import Col
from django.db.models.lookups import Exact
from django.db.models.query import QuerySet
from django.db.models.sql import InsertQuery, UpdateQuery
from django.db.models.sql.compiler import (
    SQLCompiler,
    SQLInsertCompiler,
    SQLUpdateCompiler,
)
from django.db.models.sql.where import WhereNode

import getorcreateplus
from getorcreateplus.lookups.django_path import STEPS

from ..models import Paper, Shelf

pytestmark = pytest.mark.slow

QUERYSET = QuerySet(Paper)
QUERY = QUERYSET.query
JOIN = list(Shelf(pk=1).labels.all().query.alias_map.values())[-1]
OPTS = Paper._meta

PRIVATE = {
    # The queryset
    "_clone": (QUERYSET, "copies that carry the package's own attributes"),
    "_db": (QUERYSET, "the database of a generic relation"),
    "_deferred_filter": (QUERYSET, "a related manager's filter, not applied yet"),
    "_extract_model_params": (QUERYSET, "the parameters of create()"),
    "_for_write": (QUERYSET, "get_or_create() queries the database for writes"),
    "_hints": (QUERYSET, "the instance of a related manager"),
    "_iterable_class": (QUERYSET, "not values()"),
    "_known_related_objects": (QUERYSET, "obj.parent of a related manager's hit"),
    "_prepare_for_bulk_create": (QUERYSET, "primary keys that Django makes"),
    "_prefetch_related_lookups": (QUERYSET, "a hit has nothing prefetched"),
    "_query": (QUERYSET, "the query without that filter"),
    "_update": (QUERYSET, "the UPDATE of save(), compiled once"),
    "_result_cache": (QUERYSET, "the rows of a prefetched related manager"),
    # The query
    "_filtered_relations": (QUERY, "a query that is more than a filter"),
    "alias_refcount": (QUERY, "a join may filter rows"),
    "base_table": (QUERY, "a filter on the model's own columns"),
    "combinator": (QUERY, "a query that is more than a filter"),
    "default_cols": (QUERY, "only() and defer() query the database"),
    "deferred_loading": (QUERY, "only() and defer() query the database"),
    "distinct": (QUERY, "a query that is more than a filter"),
    "extra": (QUERY, "a query that is more than a filter"),
    "extra_tables": (QUERY, "a query that is more than a filter"),
    "get_compiler": (QUERY, "the SQL of a lookup, and its rows"),
    "is_sliced": (QUERY, "a query that is more than a filter"),
    "select_for_update": (QUERY, "a locking SELECT needs the row of the database"),
    "select_related": (QUERY, "a hit has nothing joined"),
    "where": (QUERY, "the filters that belong to a lookup"),
    "children": (WhereNode(), "the filters that belong to a lookup"),
    "negated": (WhereNode(), "the filters that belong to a lookup"),
    "bilateral_transforms": (Exact(Col("paper", OPTS.pk), 1), "plain equality"),
    # The SELECT of a lookup
    "alias_map": (QUERY, "the joins of a many-to-many manager's lookup"),
    "high_mark": (QUERY, "the LIMIT of get()"),
    "select_for_no_key_update": (QUERY, "FOR UPDATE is a part of the SQL"),
    "select_for_update_nowait": (QUERY, "FOR UPDATE is a part of the SQL"),
    "select_for_update_of": (QUERY, "FOR UPDATE of other tables is Django's"),
    "select_for_update_skip_locked": (QUERY, "FOR UPDATE is a part of the SQL"),
    "set_limits": (QUERY, "the LIMIT of get()"),
    "get_extra_restriction": (models.ForeignKey, "a join with a condition is Django's"),
    "filtered_relation": (JOIN, "a join with a condition is Django's"),
    "join_cols": (JOIN, "the joins of a many-to-many manager's lookup"),
    "join_type": (JOIN, "the joins of a many-to-many manager's lookup"),
    "parent_alias": (JOIN, "the joins of a many-to-many manager's lookup"),
    "table_name": (JOIN, "the joins of a many-to-many manager's lookup"),
    "conditional": (Col("paper", OPTS.pk), "a boolean is a condition itself"),
    "process_rhs": (Exact, "what Django sends for a value"),
    "integer_field_range": (connection.ops, "integers for which no query is sent"),
    "get_db_converters": (connection.ops, "from the driver's values to the field's"),
    "has_select_for_update": (type(connection.features), "FOR UPDATE"),
    "interprets_empty_strings_as_nulls": (type(connection.features), "'' is NULL"),
    "supports_select_for_update_with_limit": (type(connection.features), "FOR UPDATE"),
    "execute_sql": (SQLCompiler, "whether some code has replaced it"),
    "results_iter": (SQLCompiler, "the rows of a SELECT that is not kept"),
    # An INSERT of many rows
    "insert_values": (InsertQuery, "the rows of an INSERT"),
    "as_sql": (SQLInsertCompiler, "its SQL, without what becomes of conflicts"),
    "apply_converters": (SQLInsertCompiler, "what RETURNING returns"),
    "get_converters": (SQLInsertCompiler, "what RETURNING returns"),
    "bulk_batch_size": (connection.ops, "how many rows an INSERT can have"),
    "has_bulk_insert": (type(connection.features), "whether it can have several"),
    "max_query_params": (type(connection.features), "how many keys a SELECT can have"),
    "can_return_rows_from_bulk_insert": (type(connection.features), "RETURNING"),
    # An UPDATE
    "_constructor_args": (models.Value(1), "expressions that are the same SQL"),
    "add_update_fields": (UpdateQuery, "its SQL, without being run"),
    "pre_sql_setup": (SQLUpdateCompiler, "whether some code has replaced it"),
    # Related managers
    "source_field": (Shelf(pk=1).labels, "which many-to-many manager it was"),
    # The models
    "_base_manager": (Paper, "a generic foreign key asks it"),
    "_default_manager": (Paper, "the users' manager, for a system check"),
    "_do_insert": (Paper, "the INSERT of save(), compiled once"),
    "_do_update": (Paper, "the UPDATE of save(), compiled once"),
    "_get_pk_val": (Paper, "it sees what save() updates"),
    "_prepare_related_fields_for_save": (Paper, "it sees what save() inserts"),
    "_save_parents": (Paper, "it sees what save() inserts"),
    "_save_table": (Paper, "it sees what save() inserts"),
    "_is_pk_set": (Paper, "an unsaved object is Django's error"),
    "_meta": (Paper, "documented in part"),
    "_state": (Paper(), "documented in part"),
    "_property_names": (OPTS, "create() takes properties as well"),
    "db_returning_fields": (OPTS, "what the database makes of a new row"),
    "private_fields": (OPTS, "the generic foreign keys of a model"),
    "total_unique_constraints": (OPTS, "the fields that identify a row"),
    "_non_pk_concrete_field_names": (OPTS, "the update_fields of update_or_create()"),
    "all_parents": (OPTS, "the tables that hold a row"),
    "concrete_fields": (OPTS, "the columns of a row, as from_db() takes them"),
    "concrete_model": (OPTS, "proxies agree"),
    "pk_fields": (OPTS, "composite primary keys"),
    "swapped": (OPTS, "a model without a table"),
    # The managers
    "_insert": (models.Manager, "the INSERT of save(), compiled once"),
    "_queryset_class": (models.Manager, "a manager that cannot make a queryset"),
    # The caches
    "_connections": (caches, "the cache objects that a thread has"),
    "_cache": (RedisCache, "its client, and one that is not installed"),
    "_class": (RedisCache("", {}), "a client of another package"),
    "_serializer": (RedisCacheClient([]), "the bytes of an entry, as Django has them"),
    "_expire_info": (LocMemCache("names", {}), "an entry's end, as Django keeps it"),
    "_lock": (LocMemCache("names", {}), "one step at a time"),
    "_set": (LocMemCache, "an entry, as Django keeps it"),
    "_delete": (LocMemCache, "an entry that has expired"),
    "_cull": (LocMemCache, "room for one more entry"),
    "_max_entries": (LocMemCache("names", {}), "whether there is room for an entry"),
    "_has_expired": (LocMemCache, "whether add() adds an entry"),
    "key_func": (caches["default"], "the tenant whose keys a cache makes"),
    "key_prefix": (caches["default"], "the tenant whose keys a cache makes"),
    # Tests
    "_TestState": (django.test.utils, "a test database shares no entries"),
    "saved_data": (django.test.utils._TestState, "the test environment is set up"),
    # The connection and its transaction
    "_from_testcase": (transaction.atomic(), "a TestCase is the outside world"),
    "atomic_blocks": (connection, "a TestCase is the outside world"),
    "commit_on_exit": (connection, "a transaction that is managed by hand"),
    "execute_wrappers": (connection, "the statements of a connection"),
    "in_atomic_block": (connection, "a transaction"),
    "needs_rollback": (connection, "a transaction that is broken"),
    "run_on_commit": (connection, "what of a transaction was not rolled back"),
    "errors_occurred": (connection, "an error that no execute wrapper has seen"),
    "autocommit": (connection, "a transaction that has not begun yet"),
    "closed_in_transaction": (connection, "a transaction that has not begun yet"),
    "close_if_health_check_failed": (connection, "as atomic() does"),
    "ensure_connection": (connection, "as atomic() does"),
    "run_and_clear_commit_hooks": (connection, "hooks of a transaction without SQL"),
    "wrap_database_errors": (connection, "errors of the driver's own cursor"),
    "set_autocommit": (connection, "a rollback that no method reports"),
}

# Names of django-redis and django-valkey, which coherence/test_transports.py
# tests, and of redis-py, which coherence/test_redis_loops.py tests.
OF_OTHERS = {"_compressor", "_sock", "_unpack"}
# Django's as_manager() sets it, too, on its result.
SET = {"_built_with_as_manager"}
# Only in Django 6.1, and read with getattr() or hasattr().
NEWER = {"_fetch_mode", "_get_from_db"}


@pytest.mark.parametrize("name", PRIVATE)
def test_private_name_is_there(name):
    owner, reason = PRIVATE[name]
    assert hasattr(owner, name), (
        f"Django {django.__version__} has no {name!r} any more, which this package "
        f"needs for: {reason}."
    )


def test_list_is_complete():
    used, own = set(), set()
    for file in Path(getorcreateplus.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = getattr(node, "targets", None) or [node.target]
                own |= {each.id for each in targets if isinstance(each, ast.Name)}
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                used.add(node.attr)
    used = {name for name in used if not name.startswith("__")}
    assert used - own <= set(PRIVATE) | SET | NEWER | OF_OTHERS


@pytest.mark.parametrize("name", sorted(STEPS))
def test_step_of_a_lookup_is_there(name):
    """
    If Django renamed one of them, the override would silently have no effect.
    """
    assert hasattr(QuerySet, name)
