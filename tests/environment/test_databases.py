"""The database of a row: test databases, and aliases that share one."""

import subprocess
import sys
from types import ModuleType

import pytest
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created
from django.db.backends.sqlite3.base import DatabaseWrapper as SQLiteWrapper

from getorcreateplus import invalidate
from getorcreateplus.environment import databases
from getorcreateplus.writes import watching
from getorcreateplus.writes.registry import region_of

from ..models import Paper
from ..support.queries import pages_of_row

committed = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def parts(alias, database, start=None):
    """Return the name of a database in keys, without a test environment."""
    if start is not None:
        databases.locations_at_start[alias] = databases.location(start)
    return tuple(
        databases.name_parts(
            alias, database, databases.location(database), testing=False
        )
    )


@pytest.fixture
def fresh_start(monkeypatch):
    monkeypatch.setattr(databases, "locations_at_start", {})
    monkeypatch.setattr(databases, "known_names", {})
    monkeypatch.setattr(databases, "known_aliases", {})


POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop", "HOST": "a"}
SQLITE = {"ENGINE": "django.db.backends.sqlite3"}


@pytest.fixture
def own_backend(monkeypatch):
    """A project's backend for SQLite, whose name does not contain "sqlite"."""
    package, base = ModuleType("storage"), ModuleType("storage.base")
    package.__path__ = []
    base.DatabaseWrapper = type("DatabaseWrapper", (SQLiteWrapper,), {})
    monkeypatch.setitem(sys.modules, "storage", package)
    monkeypatch.setitem(sys.modules, "storage.base", base)
    yield "storage"
    databases.vendor_of_engine.cache_clear()


@pytest.mark.usefixtures("fresh_start")
class TestNames:
    def test_database_of_the_settings_is_named_by_its_alias(self):
        assert parts("default", POSTGRESQL) == ("default",)
        assert parts("default", POSTGRESQL) == ("default",)

    def test_database_under_another_name_than_at_the_start(self):
        """As in projects that choose a database for each request."""
        moved = POSTGRESQL | {"NAME": "branch"}
        assert parts("default", moved, start=POSTGRESQL) == ("default", "branch")

    def test_database_on_another_server_than_at_the_start(self):
        moved = POSTGRESQL | {"HOST": "b", "PORT": "1"}
        assert parts("default", moved, start=POSTGRESQL) == ("default", "b", "1")

    @pytest.mark.parametrize("name", ["test_shop", "test_shop_1", "test_shop_gw0"])
    def test_test_database_is_named(self, name):
        """A process that a test has started has these names from its start."""
        assert parts("default", POSTGRESQL | {"NAME": name}) == ("default", name)

    def test_test_database_by_the_settings_is_named(self):
        database = POSTGRESQL | {"NAME": "x", "TEST": {"NAME": "x"}}
        assert parts("default", database) == ("default", "x")

    def test_database_in_memory_of_a_backend_of_the_project(self, own_backend):
        database = {"ENGINE": own_backend, "NAME": ":memory:"}
        assert parts("default", database) == ("default", databases.process_token)

    @pytest.mark.parametrize(
        "name",
        [
            ":memory:",
            "file::memory:?cache=shared",
            "file:memorydb_default?mode=memory&cache=shared",
        ],
    )
    def test_database_in_memory_belongs_to_its_process(self, name):
        first = parts("default", SQLITE | {"NAME": name})
        assert first == ("default", databases.process_token)
        databases.renew_process_token()
        assert parts("default", SQLITE | {"NAME": name}) != first

    def test_alias_without_names(self):
        """For example an alias that is added later, or an empty default."""
        assert parts("late", SQLITE) == ("late",)
        assert parts("none", {}) == ("none",)


def test_test_environment_names_the_database():
    database = connections.settings["default"]
    name = databases.database_name("default", database)
    assert name[:2] == ("default", str(database["NAME"]))
    assert region_of(Paper.objects.all()) is region_of(Paper.objects.all())


class TestAliases:
    @pytest.mark.parametrize(
        ("change", "is_same"),
        [
            ({}, True),
            ({"USER": "other"}, True),
            ({"OPTIONS": {"options": "-c search_path=x"}}, True),
            ({"PORT": ""}, True),
            ({"PORT": "5432"}, True),
            ({"ENGINE": "django.contrib.gis.db.backends.postgis"}, True),
            ({"ENGINE": "django_prometheus.db.backends.postgresql"}, True),
            ({"HOST": "b"}, False),
            ({"PORT": "2"}, False),
            ({"NAME": "y"}, False),
            ({"ENGINE": "django.db.backends.mysql"}, False),
            ({"NAME": ""}, False),
            ({"NAME": None}, False),
        ],
    )
    def test_aliases_of_one_database(self, change, is_same):
        assert (
            databases.is_same_database("a", POSTGRESQL, "b", POSTGRESQL | change)
            is is_same
        )

    @pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "::1"])
    def test_this_machine_has_several_names(self, host):
        local = POSTGRESQL | {"HOST": "localhost"}
        assert databases.is_same_database("a", local, "b", local | {"HOST": host})

    def test_databases_that_an_option_names_are_two(self):
        unnamed = POSTGRESQL | {"NAME": ""}
        assert not databases.is_same_database("a", unnamed, "b", dict(unnamed))

    def test_files_are_compared_by_their_real_path(self, tmp_path):
        (tmp_path / "db").touch()
        (tmp_path / "link").symlink_to(tmp_path / "db")
        one, two = (SQLITE | {"NAME": tmp_path / name} for name in ("db", "link"))
        assert databases.is_same_database("a", one, "b", two)

    def test_backend_of_the_project_is_known_by_its_vendor(self, own_backend, tmp_path):
        one = SQLITE | {"NAME": tmp_path / "db"}
        assert databases.is_same_database("a", one, "b", one | {"ENGINE": own_backend})

    @pytest.mark.parametrize("end", ["", "?mode=ro", "?mode=ro&cache=shared"])
    def test_file_may_be_named_by_a_uri(self, end, tmp_path):
        path = tmp_path / "a b"
        one, two = SQLITE | {"NAME": path}, SQLITE | {"NAME": f"{path.as_uri()}{end}"}
        assert databases.is_same_database("a", one, "b", two)
        assert not databases.is_same_database("a", SQLITE | {"NAME": "c"}, "b", two)

    def test_databases_in_memory_are_one_for_each_connection(self):
        memory = SQLITE | {"NAME": ":memory:"}
        assert not databases.is_same_database("a", memory, "b", dict(memory))

    def test_mirror_is_its_primary_in_tests(self, monkeypatch):
        primary, replica = POSTGRESQL, POSTGRESQL | {"HOST": "b"}
        replica["TEST"] = {"MIRROR": "default"}
        args = "default", primary, "replica", replica
        assert databases.is_same_database(*args)
        assert databases.is_same_database(*args[2:], *args[:2])
        # Outside tests it lags behind.
        monkeypatch.setattr(databases, "is_testing", lambda: False)
        assert not databases.is_same_database(*args)
        assert not databases.is_same_database(*args[2:], *args[:2])


def change(write, using):
    manager = Paper._base_manager.using(using)
    if write == "save":
        paper = manager.get(title="a")
        paper.pages = 2
        paper.save(using=using)
    elif write == "update":
        manager.update(pages=2)
    elif write == "publish":
        Paper.objects.using(using).update_or_create(title="a", defaults={"pages": 2})
    else:
        with connections[using].cursor() as cursor:
            table = connection.ops.quote_name(Paper._meta.db_table)
            cursor.execute(f"UPDATE {table} SET pages = 2")


@committed
@pytest.mark.parametrize("write", ["save", "update", "publish", "raw SQL"])
class TestTwoAliases:
    def test_write_through_one_is_seen_through_the_other(self, second_alias, write):
        Paper.objects.create(title="a", pages=1)
        for _ in range(2):
            assert pages_of_row(Paper)[0] == 1
        change(write, second_alias)
        assert pages_of_row(Paper)[0] == 2
        Paper.objects.update(pages=3)
        assert Paper.objects.using(second_alias).get_or_create(title="a")[0].pages == 3

    def test_commit_through_one_is_seen_through_the_other(self, second_alias, write):
        """django-celery-results reports its progress in this way."""
        Paper.objects.create(title="a", pages=1)
        for _ in range(2):
            assert pages_of_row(Paper)[0] == 1
        with transaction.atomic(using=second_alias):
            change(write, second_alias)
        assert pages_of_row(Paper)[0] == 2


@committed
def test_each_alias_has_hits_of_its_own(second_alias):
    """
    They may show the same database differently, with a role or a search_path.
    """
    Paper.objects.create(title="a", pages=1)
    for alias in ("default", second_alias):
        for queries in (1, 0):
            get = Paper.objects.using(alias).get_or_create
            with connections[alias].execute_wrapper(counter := Counter()):
                assert get(title="a")[0].pages == 1
            assert counter.selects == queries


class Counter:
    selects = 0

    def __call__(self, execute, sql, params, many, context):
        self.selects += sql.startswith("SELECT")
        return execute(sql, params, many, context)


@committed
def test_invalidate_concerns_all_aliases(second_alias):
    paper = Paper.objects.create(title="a", pages=1)
    for _ in range(2):
        Paper.objects.using(second_alias).get_or_create(title="a")
        pages_of_row(Paper)
    cursor = connection.cursor().cursor
    table = connection.ops.quote_name(Paper._meta.db_table)
    cursor.execute(f"UPDATE {table} SET pages = 2")
    cursor.close()
    invalidate(paper, using="default")
    assert pages_of_row(Paper)[0] == 2
    assert Paper.objects.using(second_alias).get_or_create(title="a")[0].pages == 2


@committed
def test_connection_that_is_given_other_settings(second_alias):
    """As in a middleware that chooses a database for each request."""
    Paper.objects.create(title="a", pages=1)
    for _ in range(2):
        pages_of_row(Paper)
    settings_dict = connection.settings_dict
    first = region_of(Paper.objects.all())
    try:
        connection.settings_dict = settings_dict | {"NAME": "test_elsewhere"}
        assert region_of(Paper.objects.all()).name != first.name
    finally:
        connection.settings_dict = settings_dict
    assert pages_of_row(Paper) == (1, 0)


FORKS = """
import os, sys
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
)
from getorcreateplus.environment import databases
from django.db import connections
before = databases.database_name("default", connections.settings["default"])
assert before == databases.database_name("default", connections.settings["default"])
child = os.fork()
if child == 0:
    after = databases.database_name("default", connections.settings["default"])
    os._exit(after == before)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.database("sqlite")  # It does not query a database, so one run is enough.
def test_fork_has_databases_in_memory_of_its_own():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], check=True)


@committed
@pytest.mark.database("postgresql", "mysql")
@pytest.mark.parametrize("write", ["UPDATE {} SET pages = 2", "by primary key"])
def test_copy_of_a_connection_under_another_name(write):
    paper = Paper.objects.create(title="a", pages=1)
    for _ in range(2):
        pages_of_row(Paper)
    side = connections["default"].copy(alias="side")
    table = connection.ops.quote_name(Paper._meta.db_table)
    try:
        with side.cursor() as cursor:
            if write == "by primary key":
                cursor.execute(
                    f"UPDATE {table} SET {connection.ops.quote_name('pages')} = %s "
                    f"WHERE {table}.{connection.ops.quote_name('id')} = %s",
                    [2, paper.pk],
                )
            else:
                cursor.execute(write.format(table))
    finally:
        side.close()
    assert pages_of_row(Paper) == (2, 1)


@committed
@pytest.mark.database("mysql")
def test_table_of_another_database_of_the_server():
    Paper.objects.using("other").create(title="a", pages=1)
    get = Paper.objects.using("other").get_or_create
    for _ in range(2):
        assert get(title="a")[0].pages == 1
    name = connections["other"].settings_dict["NAME"]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE `{name}`.{Paper._meta.db_table} SET pages = 2")
    assert get(title="a")[0].pages == 2


@committed
def test_rows_of_a_run_that_was_killed(monkeypatch):
    """The cache has them, and a clone of a test database sends no DDL."""
    Paper.objects.create(title="a", pages=1)
    for _ in range(2):
        pages_of_row(Paper)
    table = connection.ops.quote_name(Paper._meta.db_table)
    cursor = connection.connection.cursor()
    cursor.execute(f"UPDATE {table} SET pages = 2")
    cursor.close()
    assert pages_of_row(Paper) == (1, 0)
    monkeypatch.setattr(watching, "test_databases", set())
    for _ in range(2):
        connection_created.send(type(connection), connection=connections["default"])
    assert pages_of_row(Paper) == (2, 1)
    assert pages_of_row(Paper) == (2, 0)
    connection_created.send(type(connection), connection=connections["default"])
    assert pages_of_row(Paper) == (2, 0)
