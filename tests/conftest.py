"""Fixtures of all tests: their own caches, and tables that are emptied."""

import os
from contextlib import closing

import pytest
from django.apps import apps
from django.conf import settings
from django.core.cache import CacheHandler
from django.db import connection, connections, transaction
from django.test import TransactionTestCase, override_settings

from .support.coroutines import RUNNERS
from .support.marks import mostly_slow

# Tables with rows of migrate, on which the tests rely.
KEPT = {"auth_permission", "django_content_type", "django_migrations"}


def empty_tables(test_case):
    """
    Empty the tables that have rows, after a test that commits.

    Django's flush takes seconds for all these tables on PostgreSQL, and makes
    all permissions again.
    """
    for alias in test_case._databases_names(include_mirrors=False):
        if connections[alias].vendor == "postgresql":
            Cleaner.of(connections[alias]).clean()
            continue
        tables = tables_with_rows(connections[alias])
        if not tables:
            continue
        quote = connections[alias].ops.quote_name
        with (
            connections[alias].constraint_checks_disabled(),
            transaction.atomic(using=alias),
            closing(connections[alias].connection.cursor()) as cursor,
        ):
            for table in tables:
                cursor.execute(f"DELETE FROM {quote(table)}")


def tables_of_models():
    return {
        model._meta.db_table
        for model in apps.get_models(include_auto_created=True)
        if model._meta.managed and model._meta.db_table not in KEPT
    }


def tables_with_rows(connection):
    """
    Return the names of the tables to empty, on SQLite and MariaDB.

    It uses a cursor of the driver, because the package would examine the
    query, which names each table. Django's introspection takes longer than the
    query.
    """
    names = "SHOW TABLES"
    if connection.vendor == "sqlite":
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
    connection.ensure_connection()
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(names)
        tables = tables_of_models().intersection(name for (name,) in cursor.fetchall())
        quote = connection.ops.quote_name
        cursor.execute(
            " UNION ALL ".join(
                f"SELECT * FROM (SELECT '{table}' FROM {quote(table)} LIMIT 1) t"
                for table in sorted(tables)
            )
        )
        return [table for (table,) in cursor.fetchall()]


class Cleaner:
    """
    A connection to PostgreSQL that empties the tables for all tests, because a
    new one takes 30 ms to open all of them for the first time.
    """

    cleaners = {}  # database: Cleaner

    @classmethod
    def of(cls, connection):
        name = connection.settings_dict["NAME"]
        if name not in cls.cleaners:
            cls.cleaners[name] = cls(connection)
        return cls.cleaners[name]

    def __init__(self, connection):
        params = connection.get_connection_params()
        self.raw = connection.get_new_connection(params)
        self.names = [*tables_of_models()]
        self.query = None

    def clean(self):
        with self.raw.transaction(), self.raw.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '20s'")
            cursor.execute(
                "SELECT oid::regclass FROM pg_class WHERE relname = ANY(%s) "
                "AND relkind IN ('p', 'r') AND pg_table_is_visible(oid) ORDER BY 1",
                [self.names],
            )
            query = " UNION ALL ".join(
                f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})"
                for (table,) in cursor.fetchall()
            )
            if query != self.query:
                cursor.execute("DEALLOCATE ALL")
                cursor.execute(f"PREPARE tables_with_rows AS {query}")
                self.query = query
            cursor.execute("EXECUTE tables_with_rows")
            for (table,) in cursor.fetchall():
                # Django's constraints are deferred to the end.
                cursor.execute(f"DELETE FROM {table}")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup):
    yield
    for cleaner in Cleaner.cleaners.values():
        cleaner.raw.close()


def pytest_addoption(parser):
    parser.addoption(
        "--screenshots",
        metavar="DIR",
        help="Keep pictures of the sandbox's pages: tox -e browser.",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "database(*vendors): run on the databases of these vendors only."
    )
    config.addinivalue_line(
        "markers", "shared_cache: run with caches that all processes share only."
    )
    config.addinivalue_line(
        "markers", "slow: takes long, and one pair of versions will do in the matrix."
    )
    config.addinivalue_line(
        "markers", "types: runs the type checkers, on demand: tox -e types."
    )
    config.addinivalue_line(
        "markers", "browser: runs Chromium, on demand: tox -e browser."
    )
    TransactionTestCase._fixture_teardown = empty_tables


def pytest_ignore_collect(collection_path, config):
    # It imports selenium, which the browser extra has.
    if collection_path.name == "test_sandbox_browser.py":
        return config.option.markexpr != "browser" or None
    return None


def is_for_others(item, markexpr):
    """Return True if the test needs other services, or was not selected."""
    one_process = settings.CACHES["default"]["BACKEND"].endswith("LocMemCache")
    return (
        (item.get_closest_marker("types") and markexpr != "types")
        or (item.get_closest_marker("shared_cache") and one_process)
        or any(
            connection.vendor not in marker.args
            for marker in item.iter_markers("database")
        )
    )


def pytest_collection_modifyitems(config, items):
    # They are not skipped, because there is nothing to examine if a database
    # cannot do something.
    deselected = [item for item in items if is_for_others(item, config.option.markexpr)]
    config.hook.pytest_deselected(items=deselected)
    others = set(deselected)
    items[:] = [item for item in items if item not in others]


@pytest.fixture(autouse=True)
def closed_caches(monkeypatch):
    """
    Close every cache that the test has made, in any thread or task.

    Django closes those of the thread that ends a request. A client of
    memcached that is not closed warns when Python collects it, which makes
    another test fail.
    """
    made = []
    create = CacheHandler.create_connection

    def create_connection(handler, alias):
        made.append(create(handler, alias))
        return made[-1]

    monkeypatch.setattr(CacheHandler, "create_connection", create_connection)
    yield
    for cache in made:
        cache.close()


@pytest.fixture(autouse=True)
def fresh_caches(request):
    """
    Give the test keys of its own.

    empty_tables() empties the tables without invalidating the caches.
    """
    prefix = f"{settings.KEY_PREFIX}.{abs(hash(request.node.nodeid)):x}"
    config = {
        alias: options | {"KEY_PREFIX": f"{prefix}.{alias}"}
        for alias, options in settings.CACHES.items()
    }
    with override_settings(CACHES=config):
        yield


@pytest.fixture
def cache_api():
    """Use only Django's cache API, whose commands are counted."""
    transports = dict.fromkeys(settings.CACHES, "django")
    with override_settings(GETORCREATEPLUS_TRANSPORTS=transports):
        yield


@pytest.fixture(params=mostly_slow(RUNNERS))
def run(request):
    """Return a runner of coroutine functions, in each of the usual ways."""
    return request.param


@pytest.fixture
def second_alias():
    """Make the second alias show the first one's database."""
    database = connections["other"].settings_dict
    connections["other"].close()
    name, database["NAME"] = database["NAME"], connection.settings_dict["NAME"]
    # A process invalidates the rows of a test database when it first connects.
    connections["other"].ensure_connection()
    yield "other"
    connections["other"].close()
    database["NAME"] = name


@pytest.fixture
def services(db):
    """Return the options for the database and the cache of this test run."""
    config = connection.settings_dict
    user = f"{config['USER']}:{config['PASSWORD']}".rstrip(":")
    host = f"{config['HOST']}:{config['PORT']}".rstrip(":")
    return [
        "--database",
        f"{connection.vendor}://{user}@{host}/{config['NAME']}",
        "--cache",
        os.environ.get("CACHE_URL", "locmemcache://"),
    ]
