"""The models that a statement writes, and the discovery of cached models."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection, connections, models
from django.test import override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps

from getorcreateplus import CachedManager
from getorcreateplus.writes import registry, tables, watching, written_rows

from ..models.invalidation import Fleet, HandMade, Rope, Ship
from .ships import check, execute_sql, warm

committed = pytest.mark.django_db(transaction=True)


# Discovery


@contextmanager
def defined(model):
    """Remove a model at the end."""
    try:
        yield
    finally:
        del apps.all_models["tests"][model._meta.model_name]
        apps._pending_operations.clear()
        apps.clear_cache()
        registry.cached_models.pop(model, None)
        registry.indexes.clear()


class TestDiscovery:
    def test_connection_is_watched_once(self, db):
        for _ in range(2):
            connection.close() if not connection.in_atomic_block else None
            watching.install(connection)
        found = [type(each) for each in connection.execute_wrappers]
        assert found.count(watching.StatementWatcher) == 1
        assert found[0] is watching.StatementWatcher

    @committed
    def test_connection_that_is_made_under_a_wrapper(self):
        def wrapper(execute, sql, params, many, context):
            return execute(sql, params, many, context)

        connection.close()
        wrappers, connection.execute_wrappers = connection.execute_wrappers, []
        try:
            with connection.execute_wrapper(wrapper):
                Rope.objects.count()
                assert [type(each) for each in connection.execute_wrappers] == [
                    watching.StatementWatcher,
                    type(wrapper),
                ]
            assert [type(each) for each in connection.execute_wrappers] == [
                watching.StatementWatcher
            ]
        finally:
            connection.execute_wrappers = wrappers

    @committed
    def test_model_that_is_defined_later(self):
        class Raft(models.Model):
            name = models.CharField(max_length=20)
            size = models.IntegerField(default=0)

            objects = CachedManager()

            class Meta:
                app_label = "tests"

        with defined(Raft):
            with connection.schema_editor() as editor:
                editor.create_model(Raft)
            try:
                Raft.objects.create(name="a")
                for write in (
                    lambda: models.QuerySet(Raft).filter(name="a").update(size=8),
                    lambda: execute_sql("UPDATE tests_raft SET size = 9"),
                ):
                    warm(Raft.objects, name="a")
                    write()
                    check((Raft.objects, {"name": "a"}))
            finally:
                with connection.schema_editor() as editor:
                    editor.delete_model(Raft)

    def test_model_that_refers_to_one_that_is_not_there_yet(self):
        class Raft(models.Model):
            island = models.ForeignKey("tests.Island", models.DO_NOTHING)

            objects = CachedManager()

            class Meta:
                app_label = "tests"

        with defined(Raft):
            index = tables.table_index(connection)
            assert index.quoted_names_in("DELETE FROM tests_raft, tests_island") == {
                connection.ops.quote_name("tests_raft")
            }

    @isolate_apps("tests")
    def test_model_of_other_apps_is_not_cached(self, db):
        class Ship(models.Model):
            name = models.CharField(max_length=20)
            size = models.IntegerField(default=0)

            objects = CachedManager()

        Ship.objects.create(name="a")
        Ship.objects.get_or_create(name="a")
        assert Ship not in registry.cached_models
        with CaptureQueriesContext(connection) as queries:
            Ship.objects.get_or_create(name="a")
        assert len(queries) == 1

    @isolate_apps("tests")
    @override_settings(TESTS_YACHT_MODEL="tests.Ship")
    def test_swapped_model_is_not_watched(self):
        class Yacht(models.Model):
            name = models.CharField(max_length=20)
            objects = CachedManager()

            class Meta:
                swappable = "TESTS_YACHT_MODEL"

        registry.examine_model(Yacht)
        assert Yacht not in registry.cached_models

    def test_models_that_are_not_all_there(self, monkeypatch):
        monkeypatch.setattr(apps, "models_ready", False)
        monkeypatch.setattr(registry, "unexamined", [Ship])
        registry.examine()
        assert registry.unexamined == [Ship]

    def test_schema_in_the_name_of_a_table(self):
        class Connection:
            alias = "schema"
            ops = connections["default"].ops
            vendor = "postgresql"

        quote = connection.ops.quote_name("x")[0]
        watch = registry.CachedModel(Ship)
        table, Ship._meta.db_table = Ship._meta.db_table, f"far{quote}.{quote}ship"
        watched, registry.cached_models = registry.cached_models, {Ship: watch}
        try:
            index = tables.TableIndex(Connection)
        finally:
            Ship._meta.db_table = table
            registry.cached_models = watched
        name = f"{quote}far{quote}.{quote}ship{quote}"
        assert index.quoted_names_in("update far.Ship set size = 9") == {name}
        assert index.quoted_names_in("update ships set size = 9") == set()
        assert written_rows.WRITE.match(f"UPDATE {name} SET a = 1")[2] == name

    def test_nothing_is_cached(self, monkeypatch):
        monkeypatch.setattr(registry, "cached_models", {})
        index = tables.TableIndex(connection)
        assert index.quoted_names_in("UPDATE tests_ship SET size = 9") == set()


# Fresh processes


@pytest.mark.slow
@committed
@pytest.mark.parametrize(
    "write",
    [
        "Ship.objects.filter(name='a').delete()",
        "HandMade.objects.filter(name='a').delete()",
    ],
)
def test_first_thing_that_a_process_does_is_a_write(write, shared_cache):
    ship = Ship.objects.create(name="a", fleet=Fleet.objects.create(name="first"))
    HandMade.objects.create(name="a")
    lookups = [(Ship.objects, {"name": "a"}), (HandMade.objects, {"name": "a"})]
    check(*lookups)
    for manager, lookup in lookups:
        warm(manager, **lookup)
    run_process(
        f"""
        from tests.models import *
        from django.db import models
        pk = {ship.pk}
        {write}
        """
    )
    check(*lookups)


@pytest.mark.slow
@committed
def test_package_is_imported_after_other_models(shared_cache):
    """Like an app that is loaded late, after connections have been opened."""
    run_process(
        """
        from django.contrib.auth.models import Group
        assert "getorcreateplus" not in sys.modules
        assert Group.objects.count() == 0
        from getorcreateplus import CachedManager
        from getorcreateplus.writes import registry, tables, watching, written_rows
        from django.db import connection
        assert watching.watcher_of(connection)
        class CachedGroup(Group):
            objects = CachedManager()
            class Meta:
                app_label = "auth"
                proxy = True
        CachedGroup.objects.get_or_create(name="a")
        Group.objects.update(name="b")
        group, _ = CachedGroup.objects.get_or_create(pk=Group.objects.get().pk)
        assert group.name == "b"
        Group.objects.all().delete()
        """,
        INSTALLED_APPS="django.contrib.contenttypes,django.contrib.auth",
    )


@pytest.fixture
def shared_cache(tmp_path):
    """A cache that processes share, even if the run's own is LocMemCache."""
    config = {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": str(tmp_path / "cache"),
    }
    with override_settings(CACHES={"default": config, "far": config}):
        yield


def run_process(code, **overrides):
    """
    Run code in a fresh process, with the databases and caches of this process.
    """
    databases = {
        alias: {
            name: value
            for name, value in connections[alias].settings_dict.items()
            if name in ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")
        }
        for alias in connections
    }
    installed = overrides.get("INSTALLED_APPS")
    setup = f"""
import sys
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="tests",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD={settings.DEFAULT_AUTO_FIELD!r},
    AUTH_USER_MODEL={settings.AUTH_USER_MODEL!r},
    INSTALLED_APPS={installed.split(",") if installed else settings.INSTALLED_APPS!r},
    DATABASES={databases!r},
    CACHES={settings.CACHES!r},
)
django.setup()
"""
    root = Path(__file__).parent.parent.parent
    subprocess.run(
        [sys.executable, "-W", "error", "-c", setup + textwrap.dedent(code)],
        check=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        timeout=60,
    )
