"""Other writers than querysets, and the row that an INSERT inserts."""

import json
from decimal import Decimal

import pytest
from django.apps import apps
from django.core import serializers
from django.core.management import call_command
from django.db import connection, migrations, models, transaction
from django.db.migrations.state import ProjectState
from django.db.models.signals import post_save
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

from getorcreateplus.coherence import transactions
from getorcreateplus.writes import watching

from ..models.invalidation import Ferry, Rope, Ship, Toll, Vessel
from ..support.errors import Rollback
from .ships import (
    check,
    execute_sql,
    roll_back,
    roll_back_savepoint,
    save,
    served,
    warm,
)

committed = pytest.mark.django_db(transaction=True)


# Other writers


class TestManagement:
    @committed
    def test_flush(self):
        Ship.objects.create(name="a")
        warm(Ship.objects, name="a")
        call_command("flush", interactive=False, verbosity=0)
        check((Ship.objects, {"name": "a"}))

    @committed
    def test_loaddata(self, tmp_path):
        ship, other = (Ship.objects.create(name=name) for name in "ab")
        Ferry.objects.create(name="c")
        lookups = [(Ship.objects, {"name": name}) for name in "ab"]
        lookups += [(Vessel.objects, {"name": "c"}), (Ferry.objects, {"name": "c"})]
        check(*lookups)
        objs = [Ship(pk=ship.pk, name="a", size=9), Ship(pk=other.pk, name="c")]
        objs += [Ferry.objects.get(), Vessel.objects.get()]
        data = json.loads(serializers.serialize("json", objs))
        for each in data:
            each["fields"]["lanes" if each["model"] == "tests.ferry" else "size"] = 9
        file = tmp_path / "ships.json"
        file.write_text(json.dumps(data))
        call_command("loaddata", str(file), verbosity=0)
        check(*lookups)

    @pytest.mark.slow
    @committed
    @pytest.mark.parametrize(
        "write",
        [
            lambda model: model.objects.update(size=9),
            lambda model: save(model.objects.get(), size=9),
            lambda model: model.objects.all().delete(),
        ],
        ids=["update", "save", "delete"],
    )
    def test_migration(self, write):
        """Its models are historical ones, not those of the project."""
        Ship.objects.create(name="a")
        warm(Ship.objects, name="a")
        state = ProjectState.from_apps(apps)

        def run(state_apps, schema_editor):
            write(state_apps.get_model("tests", "Ship"))

        operation = migrations.RunPython(run)
        with connection.schema_editor() as editor:
            operation.database_forwards("tests", editor, state, state)
        check((Ship.objects, {"name": "a"}))

    @committed
    def test_column_is_altered(self):
        Ship.objects.create(name="a")
        warm(Ship.objects, name="a")
        size = Ship._meta.get_field("size")
        smaller = models.SmallIntegerField(default=0)
        smaller.set_attributes_from_name("size")
        smaller.model = Ship
        for fields in ((size, smaller), (smaller, size)):
            with connection.schema_editor() as editor:
                editor.alter_field(Ship, *fields)
            with CaptureQueriesContext(connection) as queries:
                served(Ship.objects, name="a")
            assert len(queries) == 1


@pytest.mark.database("postgresql")
def test_composed_sql(db):
    from psycopg import sql

    Ship.objects.create(name="a")
    for statement in (
        sql.SQL("UPDATE {} SET size = 9").format(sql.Identifier("tests_ship")),
        sql.SQL("UPDATE tests_ship SET size = 8"),
        sql.SQL("\nUPDATE\n{}\nSET size = 7").format(sql.Identifier("tests_ship")),
        b"\nUPDATE\ntests_ship\nSET size = 6",
    ):
        warm(Ship.objects, name="a")
        execute_sql(statement)
        check((Ship.objects, {"name": "a"}))


@pytest.mark.database("mysql")
def test_ansi_quotes(db):
    Ship.objects.create(name="a")
    warm(Ship.objects, name="a")
    execute_sql("SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')")
    try:
        execute_sql('UPDATE "tests_ship" SET "size" = 9')
    finally:
        execute_sql("SET SESSION sql_mode = REPLACE(@@sql_mode, 'ANSI_QUOTES', '')")
    check((Ship.objects, {"name": "a"}))


@committed
@pytest.mark.database("postgresql")
def test_truncate_cascade():
    """It also empties the tables that refer to the one that it names."""
    Ship.objects.create(name="a")
    warm(Ship.objects, name="a")
    execute_sql("TRUNCATE tests_fleet CASCADE")
    check((Ship.objects, {"name": "a"}))


# The row that an INSERT inserts


class TestInserted:
    @committed
    @pytest.mark.parametrize("context", [roll_back, roll_back_savepoint])
    def test_rolled_back_rows_are_not_served(self, context):
        """Each is read inside, so it may be in the cache."""

        def insert(*names):
            models.QuerySet(Ship).bulk_create([Ship(name=name) for name in names])

        def tell(created):
            """As if save() had written an old row."""
            post_save.send(Ship, instance=old, created=created, using="default")

        writes = {
            "saved": lambda: Ship(name="a").save(),
            "saved_twice": lambda: (Ship(name="a").save(), Ship(name="b").save()),
            "inserted": lambda: insert("a"),
            "inserted_and_saved": lambda: (insert("a"), Ship(name="b").save()),
            "several": lambda: insert("a", "b"),
            "several_and_told": lambda: (insert("a", "b"), tell(created=True)),
            "told_as_updated": lambda: (insert("a"), tell(created=False)),
            "another_model_saved": lambda: (insert("a"), Rope(name="a").save()),
        }
        old = Ship.objects.create(name="old")
        lookups = [(Ship.objects, {"name": name}) for name in "ab"]
        for name, write in writes.items():
            context(write, lambda: check(*lookups, write=name))

    @committed
    def test_row_of_a_transaction_that_has_ended(self):
        with transaction.atomic():
            models.QuerySet(Ship).bulk_create([Ship(name="a")])
        warm(Ship.objects, name="a")

    @committed
    def test_connection_that_is_not_watched(self):
        """
        Like a connection that was open in another thread before the import.
        """
        connection.ensure_connection()
        wrappers = connection.execute_wrappers
        connection.execute_wrappers = []
        try:
            assert watching.watcher_of(connection) is None
            with transaction.atomic():
                Ship(name="a").save()
        finally:
            connection.execute_wrappers = wrappers
        warm(Ship.objects, name="a")

    @committed
    def test_primary_key_that_is_unknown(self):
        """Another receiver of post_save has removed it from the instance."""

        def remove_pk(instance, **kwargs):
            instance.price = None

        def write():
            Toll(name="a", price=Decimal("1.50")).save(force_insert=True)

        post_save.disconnect(watching.after_save)
        post_save.connect(remove_pk, sender=Toll)
        post_save.connect(watching.after_save)
        try:
            roll_back(write, lambda: check((Toll.objects, {"name": "a"})))
        finally:
            post_save.disconnect(remove_pk, sender=Toll)


class TestsOfUsers(TestCase):
    """A TestCase counts as autocommit."""

    databases = {"default", "other"}

    @classmethod
    def setUpTestData(cls):
        cls.ship = Ship.objects.create(name="a", size=1)

    def test_hits(self):
        warm(Ship.objects, name="a")
        save(self.ship, size=9)
        check((Ship.objects, {"name": "a"}))

    def test_on_commit_callbacks(self):
        warm(Ship.objects, name="a")
        with self.captureOnCommitCallbacks(execute=True):
            with transaction.atomic():
                save(self.ship, size=9)
                check((Ship.objects, {"name": "a"}))
        check((Ship.objects, {"name": "a"}))
        warm(Ship.objects, name="a")

    def test_other_threads_of_writes(self):
        warm(Ship.objects, name="a")
        with pytest.raises(Rollback), transaction.atomic():
            Ship.objects.update(size=9)
            check((Ship.objects, {"name": "a"}))
            raise Rollback
        check((Ship.objects, {"name": "a"}))
        assert transactions.in_transaction(connection) is False
