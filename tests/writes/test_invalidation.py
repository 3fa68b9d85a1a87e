"""After a write, get_or_create() returns what a SELECT returns."""

import datetime
import itertools
import json
import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import django
import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.conf import settings
from django.contrib.admin import ModelAdmin, site
from django.core import serializers
from django.core.cache import caches
from django.core.management import call_command
from django.db import (
    IntegrityError,
    OperationalError,
    connection,
    connections,
    migrations,
    models,
    transaction,
)
from django.db.migrations.state import ProjectState
from django.db.models.signals import post_delete, post_save, pre_delete
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps

from getorcreateplus import CachedManager, CachedQuerySet
from getorcreateplus.coherence import protocol as coherence
from getorcreateplus.test import CaptureCacheCommands
from getorcreateplus.writes import invalidation

from ..models import Paper, PlainPaper
from ..models.invalidation import (
    Annex,
    Basin,
    Beacon,
    Berth,
    Buoy,
    CachedBuoy,
    CarFerry,
    Chart,
    Crate,
    Day,
    Dinghy,
    Engine,
    Ferry,
    Flagged,
    FlaggedManager,
    Fleet,
    HandMade,
    Harbour,
    Hull,
    Knot,
    Lightship,
    Mark,
    Mast,
    Mooring,
    MotorYacht,
    ProxyShip,
    Quay,
    Reef,
    Rope,
    Sailor,
    SameShip,
    Ship,
    Shy,
    ShyManager,
    Slip,
    Toll,
    Trawler,
    Twofold,
    Vessel,
    Warehouse,
)
from ..support.caches import commands
from ..support.transactions import Rollback
from ..support.twins import values_of_row

committed = pytest.mark.django_db(transaction=True)


class Missing(Exception):
    pass


def missing():
    raise Missing


def served(manager, **lookup):
    """Return what get_or_create() finds, None where it would create."""
    try:
        obj, created = manager.get_or_create(defaults={"name": missing}, **lookup)
    except Missing:
        return None
    assert created is False
    return values_of_row(obj)


def selected(model, **lookup):
    """Return what the database says."""
    obj = models.QuerySet(model).filter(**lookup).first()
    return obj and values_of_row(obj)


def warm(manager, **lookup):
    assert served(manager, **lookup) is not None
    with CaptureQueriesContext(connection) as queries:
        served(manager, **lookup)
    assert len(queries) == 0


def check(*lookups, write=None):
    """Compare each (manager, lookup) with the database, and again a hit."""
    expected = [selected(manager.model, **lookup) for manager, lookup in lookups]
    for _ in range(2):
        found = [served(manager, **lookup) for manager, lookup in lookups]
        assert (write, found) == (write, expected)


def autocommit(write, look):
    write()
    look()


def commit(write, look):
    with transaction.atomic():
        write()
        look()
    look()


def roll_back(write, look):
    with pytest.raises(Rollback), transaction.atomic():
        write()
        look()
        raise Rollback
    look()


def roll_back_savepoint(write, look):
    with transaction.atomic():
        with pytest.raises(Rollback), transaction.atomic():
            write()
            look()
            raise Rollback
        look()
    look()


def commit_after_savepoint(write, look):
    with transaction.atomic():
        with transaction.atomic():
            write()
        look()
    look()


contexts = pytest.mark.parametrize(
    "context",
    [autocommit, commit, roll_back_savepoint],
    ids=lambda context: context.__name__,
)


def try_each(writes, context, prepare, *models_written):
    """
    Write to what prepare() returns, objects and lookups, in each way.

    Not a test of each: they would take longer to set up than to run.
    """
    for name, write in writes.items():
        objects, lookups = prepare()
        check(*lookups)
        context(lambda: write(*objects), lambda: check(*lookups, write=name))
        for model in models_written:
            models.QuerySet(model).all().delete()
        # What was rolled back stays locked.
        for watch in invalidation.watched.values():
            if not set(models_written).isdisjoint(invalidation.tables(watch.model)):
                for region in watch.all_regions("default"):
                    region.release(connection, None)


def execute_sql(sql, params=()):
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def execute_many(sql, params):
    with connection.cursor() as cursor:
        cursor.executemany(sql, params)


def save(obj, using=None, update_fields=None, **kwargs):
    for name, value in kwargs.items():
        setattr(obj, name, value)
    obj.save(using=using, update_fields=update_fields)


def upsert(*objs):
    unique = {}
    if connection.features.supports_update_conflicts_with_target:
        unique = {"unique_fields": ["id"]}
    plain = models.QuerySet(Ship)
    plain.bulk_create(objs, update_conflicts=True, update_fields=["size"], **unique)


def load(obj):
    """As loaddata does."""
    data = serializers.serialize("json", [obj])
    [deserialized] = serializers.deserialize("json", data)
    deserialized.save()


plain = models.QuerySet(Ship)

# What can be done to the rows a and b of a model; c is not there.
WRITES = {
    "save": lambda a, b: save(a, size=9),
    "save_of_another_name": lambda a, b: save(a, name="c"),
    "save_update_fields": lambda a, b: save(a, size=9, update_fields=["size"]),
    "save_nothing": lambda a, b: save(a, update_fields=[]),
    "save_typed_in_pk": lambda a, b: Ship(pk=a.pk, name="a", size=9).save(),
    "save_text_pk": lambda a, b: Ship(pk=f"{a.pk}", name="a", size=9).save(),
    "save_new_typed_in_pk": lambda a, b: Ship(pk=b.pk + 1, name="c").save(),
    "save_other_pk": lambda a, b: save(a, pk=b.pk, name="b"),
    "save_force_update": lambda a, b: Ship(pk=a.pk, name="a").save(force_update=True),
    "save_base": lambda a, b: Ship(pk=a.pk, name="a").save_base(raw=True),
    "create": lambda a, b: Ship.objects.create(name="c"),
    "delete": lambda a, b: a.delete(),
    "delete_not_selected": lambda a, b: Ship(pk=a.pk).delete(),
    "delete_and_create": lambda a, b: (a.delete(), Ship(pk=b.pk - 1, name="a").save()),
    "queryset_delete": lambda a, b: Ship.objects.filter(name="a").delete(),
    "queryset_delete_pks": lambda a, b: Ship.objects.filter(pk__in=[a.pk]).delete(),
    "delete_all": lambda a, b: Ship.objects.all().delete(),
    "update": lambda a, b: Ship.objects.update(size=9),
    "update_pk": lambda a, b: Ship.objects.filter(pk=a.pk).update(size=9),
    "update_pks": lambda a, b: Ship.objects.filter(pk__in=[a.pk, b.pk]).update(size=9),
    "update_many_pks": lambda a, b: Ship.objects.filter(
        pk__in=range(a.pk, a.pk + 30)
    ).update(size=9),
    "update_no_row": lambda a, b: Ship.objects.filter(name="c").update(size=9),
    "update_of_the_pk": lambda a, b: Ship.objects.filter(pk=a.pk).update(id=b.pk + 1),
    "update_subquery": lambda a, b: Ship.objects.filter(
        fleet__in=Fleet.objects.filter(pk=1)
    ).update(size=9),
    "update_expression": lambda a, b: Ship.objects.filter(pk=a.pk).update(
        size=models.F("size") + 1
    ),
    "update_to_subquery": lambda a, b: Ship.objects.filter(name="a").update(
        size=models.Subquery(Fleet.objects.filter(name="first").values("id"))
    ),
    "aupdate": lambda a, b: async_to_sync(update_later)(),
    "bulk_update": lambda a, b: Ship.objects.bulk_update(
        [Ship(pk=a.pk, size=8), Ship(pk=b.pk, size=9)], ["size"]
    ),
    "bulk_create": lambda a, b: Ship.objects.bulk_create([Ship(name="c")]),
    "bulk_create_rows": lambda a, b: Ship.objects.bulk_create(
        [Ship(name="c"), Ship(name="d")]
    ),
    "upsert": lambda a, b: upsert(Ship(pk=a.pk, size=8), Ship(pk=b.pk + 1, name="c")),
    "ignore_conflicts": lambda a, b: plain.bulk_create(
        [Ship(pk=a.pk, name="c"), Ship(pk=b.pk + 1, name="c")], ignore_conflicts=True
    ),
    "plain_update": lambda a, b: plain.filter(name="a").update(size=9),
    "plain_bulk_create": lambda a, b: plain.bulk_create([Ship(name="c")]),
    "plain_bulk_create_and_save": lambda a, b: (
        plain.bulk_create([Ship(name="c")]),
        Ship(name="d").save(),
    ),
    "plain_delete": lambda a, b: plain.filter(name="a").delete(),
    "raw_delete": lambda a, b: plain.filter(name="a")._raw_delete("default"),
    "base_manager": lambda a, b: Ship._base_manager.filter(name="a").update(size=9),
    "proxy_save": lambda a, b: ProxyShip(pk=a.pk, name="a", size=9).save(),
    "proxy_update": lambda a, b: ProxyShip.objects.filter(name="a").update(size=9),
    "proxy_delete": lambda a, b: ProxyShip.objects.get(pk=a.pk).delete(),
    "same_table_save": lambda a, b: SameShip(pk=a.pk, name="a", size=9).save(),
    "same_table_create": lambda a, b: SameShip.objects.create(name="c"),
    "same_table_delete": lambda a, b: SameShip.objects.filter(name="a").delete(),
    "raw_sql": lambda a, b: execute_sql("update tests_ship set size = 9"),
    "raw_sql_select": lambda a, b: execute_sql(
        "SELECT 1; UPDATE tests_ship SET size = 9" if can_send_two() else "SELECT 1"
    ),
    "raw_sql_after_django": lambda a, b: execute_sql(
        in_form_of_django()
        + ("; UPDATE tests_ship SET size = 9" if can_send_two() else "")
    ),
    "raw_sql_schema": lambda a, b: execute_sql(
        f"UPDATE {spelt('tests_ship', schema())} SET size = 9"
    ),
    "raw_sql_upsert": lambda a, b: raw_upsert(
        a.pk, "on conflict (id) do\nupdate set size = 9"
    ),
    "prepared": lambda a, b: execute_later("prepared", a.pk),
    "procedure": lambda a, b: execute_later("procedure", a.pk),
    "raw_sql_multiple": lambda a, b: execute_many(
        "UPDATE tests_ship SET size = %s WHERE id = %s", [(8, a.pk), (9, b.pk)]
    ),
    "raw_sql_comment": lambda a, b: execute_sql(
        "/* a comment */ UPDATE tests_ship SET size = 9 WHERE id = %s", [a.pk]
    ),
    "raw_sql_insert": lambda a, b: execute_sql(
        "INSERT INTO tests_ship (name, size) VALUES ('c', 1)"
    ),
    "loaddata": lambda a, b: load(Ship(pk=a.pk, name="a", size=9)),
    "loaddata_new": lambda a, b: load(Ship(pk=b.pk + 1, name="c")),
    "admin_action": lambda a, b: ModelAdmin(Ship, site).delete_queryset(
        None, Ship.objects.filter(name="a")
    ),
    "add": lambda a, b: fleet().ships.add(a),
    "add_one_by_one": lambda a, b: fleet().ships.add(a, bulk=False),
    "remove": lambda a, b: a.fleet.ships.remove(a),
    "remove_one_by_one": lambda a, b: a.fleet.ships.remove(a, bulk=False),
    "clear": lambda a, b: a.fleet.ships.clear(),
    "set": lambda a, b: a.fleet.ships.set([b]),
    "set_one_by_one": lambda a, b: a.fleet.ships.set([b], bulk=False),
    "related_update": lambda a, b: a.fleet.ships.update(size=9),
    "related_delete": lambda a, b: a.fleet.ships.filter(name="a").delete(),
    "related_create": lambda a, b: a.fleet.ships.create(name="c"),
    "cascade": lambda a, b: a.fleet.delete(),
    "cascade_by_query": lambda a, b: Fleet.objects.filter(name="first").delete(),
    "two_writes": lambda a, b: (save(a, size=8), save(a, size=9)),
    "write_and_query": lambda a, b: (save(a, size=8), Ship.objects.update(size=9)),
}


def spelt(table, *schema):
    """Return a quoted table, as Django does not spell it."""
    quote = '"{}"' if connection.vendor != "mysql" else "`{}`"
    return ".".join(quote.format(name) for name in (*schema, table))


def schema():
    if connection.vendor == "mysql":
        return connection.settings_dict["NAME"]
    return "public" if connection.vendor == "postgresql" else "main"


def raw_upsert(pk, words):
    """Insert a row that is there: it gets this size."""
    if connection.vendor == "mysql":
        words = "on duplicate\nkey update size = 9"
    execute_sql(
        f"INSERT INTO {spelt('tests_ship')} (id, name, size) VALUES (%s, 'x', 1) "
        + words,
        [pk],
    )


def execute_later(kind, pk):
    """Write by a statement whose text does not name the table."""
    if connection.vendor == "sqlite":
        return
    with connection.cursor() as cursor:
        if kind == "prepared":
            update = f"UPDATE tests_ship SET size = 9 WHERE id = {pk}"
            cursor.execute(
                f"PREPARE s AS {update}"
                if connection.vendor == "postgresql"
                else f"PREPARE s FROM '{update}'"
            )
            cursor.execute("EXECUTE s")
            cursor.execute("DEALLOCATE PREPARE s")
        elif connection.vendor == "postgresql":
            cursor.execute(
                "CREATE OR REPLACE PROCEDURE pg_temp.p() LANGUAGE SQL AS "
                f"'UPDATE tests_ship SET size = 9 WHERE id = {pk}'"
            )
            cursor.execute("CALL pg_temp.p()")


def in_form_of_django():
    """Return an UPDATE of another table, as Django spells it."""
    table, name = map(connection.ops.quote_name, ("tests_fleet", "name"))
    return f"UPDATE {table} SET {name} = 'x' WHERE 1 = 0"


async def update_later():
    await Ship.objects.aupdate(size=9)


def can_send_two():
    """Return whether one execute() may be two statements."""
    return connection.vendor == "postgresql"


def fleet():
    return Fleet.objects.get(name="second")


# A row that was written and rolled back stays locked: none is used again.
unused = itertools.count(1_000_000, 10)


def prepare_ships():
    pk = next(unused)
    first = Fleet.objects.create(name="first")
    Fleet.objects.create(name="second")
    a = Ship.objects.create(pk=pk, name="a", size=1, fleet=first)
    b = Ship.objects.create(pk=pk + 1, name="b", size=2)
    lookups = [(Ship.objects, {"name": name}) for name in "abc"]
    lookups += [(Ship.objects, {"pk": pk}) for pk in (a.pk, b.pk + 1)]
    lookups += [(SameShip.objects, {"name": "a"})]
    warm(Ship.objects, pk=a.pk)
    return (a, b), lookups


@pytest.mark.slow
@committed
@contexts
def test_write_is_seen(context):
    try_each(WRITES, context, prepare_ships, Ship, Fleet)


@committed
@pytest.mark.parametrize("context", [roll_back, commit_after_savepoint])
def test_write_is_seen_in_other_transactions(context):
    names = ("save", "delete", "create", "update", "ignore_conflicts", "raw_sql", "set")
    writes = {name: WRITES[name] for name in names}
    try_each(writes, context, prepare_ships, Ship, Fleet)


@contexts
@pytest.mark.parametrize("write", ["save", "update", "delete", "bulk_create", "set"])
def test_write_in_a_test_case_is_seen(write, context, db):
    """atomic() blocks that ended count as committed."""
    objects, lookups = prepare_ships()
    context(lambda: WRITES[write](*objects), lambda: check(*lookups))


class TestPrimaryKeys:
    """Rows that a statement names by any kind of primary key."""

    @committed
    @contexts
    @pytest.mark.parametrize(
        "make",
        [
            lambda: Beacon(name="a"),
            lambda: Day(name="a", date=datetime.date(2024, 2, 29)),
            lambda: Harbour(name="a", code="NO OSL"),
            lambda: Slip(name="a", harbour=1, number=2),
            lambda: Toll(name="a", price=Decimal("1.50")),
        ],
        ids=["uuid", "date", "text", "composite", "decimal"],
    )
    def test_write(self, make, context):
        def prepare():
            obj = make()
            obj.save(force_insert=True)
            manager = type(obj).objects
            return (obj,), [(manager, {"name": "a"}), (manager, {"pk": obj.pk})]

        writes = {
            "save": lambda obj: save(obj, size=9),
            "force_update": lambda obj: type(obj)(pk=obj.pk, name="a").save(
                force_update=True
            ),
            "update": lambda obj: type(obj).objects.filter(pk=obj.pk).update(size=9),
            "queryset_delete": lambda obj: (
                type(obj).objects.filter(pk__in=[obj.pk]).delete()
            ),
            "delete": lambda obj: obj.delete(),
        }
        try_each(writes, context, prepare, type(make()))

    @committed
    @contexts
    def test_foreign_key(self, context):
        mast = Mast.objects.create(ship=Ship.objects.create(name="a"), name="a")
        lookups = [(Mast.objects, {"name": "a"}), (Mast.objects, {"ship": mast.pk})]
        check(*lookups)
        context(lambda: save(mast, size=9), lambda: check(*lookups))

    @committed
    @pytest.mark.database("mysql")
    def test_other_spelling(self):
        """The collation finds them equal, and Python does not."""
        Harbour.objects.create(code="no osl", name="a")
        warm(Harbour.objects, name="a")
        for context in (commit, autocommit, roll_back, roll_back_savepoint):
            context(
                lambda: Harbour(code="NO OSL", name="a", size=9).save(),
                lambda: check((Harbour.objects, {"name": "a"})),
            )

    def test_row_is_told_where_equal_keys_are_spelled_alike(self, db):
        harbour = Harbour.objects.create(code="a", name="a")
        with CaptureCacheCommands() as made:
            harbour.save()
        locked = "@epoch" if connection.vendor == "mysql" else "!a"
        name = invalidation.region_of(Harbour.objects.all()).name
        assert made[0] == ("default", "set_many", [f"{name}{locked}"])


# Multi-table inheritance


def make_vessels():
    return {
        "vessel": Vessel.objects.create(name="vessel"),
        "ferry": Ferry.objects.create(name="ferry"),
        "carferry": CarFerry.objects.create(name="carferry"),
        "trawler": Trawler.objects.create(name="trawler"),
        "lightship": Lightship.objects.create(name="lightship"),
    }


def vessel_of(obj):
    return Vessel.objects.get(name=obj.name)


INHERITED_WRITES = {
    "parent_saved": lambda obj: save(vessel_of(obj), size=9),
    "parent_saved_update_fields": lambda obj: save(
        vessel_of(obj), size=9, update_fields=["size"]
    ),
    "parent_updated": lambda obj: Vessel.objects.update(size=9),
    "parent_updated_by_pk": lambda obj: Vessel.objects.filter(
        pk=vessel_of(obj).pk
    ).update(size=9),
    "parent_deleted": lambda obj: vessel_of(obj).delete(),
    "parent_added": lambda obj: Vessel.objects.create(name="c"),
    "saved": lambda obj: save(obj, size=9),
    "saved_update_fields": lambda obj: save(obj, size=9, update_fields=["size"]),
    "updated": lambda obj: type(obj).objects.filter(name=obj.name).update(size=9),
    "updated_by_pk": lambda obj: type(obj).objects.filter(pk=obj.pk).update(size=9),
    "renamed": lambda obj: save(obj, name="c"),
    "deleted": lambda obj: obj.delete(),
    "deleted_by_query": lambda obj: type(obj).objects.all().delete(),
    "added": lambda obj: type(obj).objects.create(name="c"),
}


class TestInheritance:
    @committed
    @contexts
    @pytest.mark.parametrize("name", ["carferry", "lightship"])
    def test_write(self, name, context):
        def prepare():
            vessels = make_vessels()
            lookups = [
                (type(each).objects, {"pk": each.pk}) for each in vessels.values()
            ]
            lookups += [(Vessel.objects, {"name": each}) for each in (name, "c")]
            warm(type(vessels[name]).objects, pk=vessels[name].pk)
            return (vessels[name],), lookups

        try_each(INHERITED_WRITES, context, prepare, Vessel)

    @committed
    @contexts
    def test_row_that_becomes_a_child(self, context):
        """The child is created, and its parent's row updated."""

        def prepare():
            vessel = Vessel.objects.create(name="a", size=1)
            found = [Vessel.objects, Ferry.objects, CarFerry.objects, Trawler.objects]
            lookups = [(manager, {"name": "a"}) for manager in found]
            lookups += [(manager, {"pk": vessel.pk}) for manager in found]
            warm(Vessel.objects, name="a")
            return (vessel,), lookups

        writes = {
            "pk": lambda vessel: Ferry(pk=vessel.pk, name="a", size=9).save(),
            "link": lambda vessel: Ferry(vessel_ptr=vessel, name="a", size=9).save(),
            "create": lambda vessel: Ferry.objects.create(
                pk=vessel.pk, name="a", size=9
            ),
            "raw": lambda vessel: Ferry(pk=vessel.pk, lanes=9).save_base(raw=True),
            "grandchild": lambda vessel: CarFerry(
                pk=vessel.pk, name="a", size=9
            ).save(),
            "loaddata": lambda vessel: load(Trawler(pk=vessel.pk, nets=9)),
            "both_keys": lambda vessel: Ferry(
                pk=vessel.pk, id=vessel.pk, name="a", lanes=9
            ).save(),
        }
        try_each(writes, context, prepare, Vessel)

    @committed
    @contexts
    @pytest.mark.parametrize("keep_parents", [False, True])
    def test_child_deleted(self, keep_parents, context):
        ferry = Ferry.objects.create(name="a")
        lookups = [(Vessel.objects, {"name": "a"}), (Ferry.objects, {"name": "a"})]
        check(*lookups)
        context(
            lambda: ferry.delete(keep_parents=keep_parents), lambda: check(*lookups)
        )

    @committed
    @contexts
    def test_parents_without_a_cache(self, context):
        """Two parents: the child's primary key is that of the first."""

        def prepare():
            Engine.objects.create()
            yacht = MotorYacht.objects.create(name="a")
            Engine.objects.filter(pk__lt=yacht.engine_ptr_id).delete()
            manager = MotorYacht.objects
            return (yacht,), [(manager, {"name": "a"}), (manager, {"pk": yacht.pk})]

        writes = {
            "hull_saved": lambda yacht: save(Hull.objects.get(), size=9),
            "hulls_updated": lambda yacht: Hull.objects.update(size=9),
            "hulls_deleted": lambda yacht: Hull.objects.all().delete(),
            "engine_saved": lambda yacht: save(Engine.objects.get(), power=9),
            "engines_updated": lambda yacht: Engine.objects.update(power=9),
            "engine_updated": lambda yacht: Engine.objects.filter(
                pk=yacht.engine_ptr_id
            ).update(power=9),
            "power_saved": lambda yacht: save(yacht, power=9),
            "cabins_saved": lambda yacht: save(yacht, cabins=9),
            "size_saved": lambda yacht: save(yacht, size=9),
            "deleted": lambda yacht: yacht.delete(),
        }
        try_each(writes, context, prepare, Hull, Engine)


# Managers


class TestManagers:
    @committed
    @contexts
    @pytest.mark.parametrize(
        "managers",
        [
            [CachedBuoy.objects],
            [Dinghy.objects],
            [HandMade.objects],
            [Reef.objects, Reef.all_rows],
            [Twofold.near, Twofold.far, Twofold.brief],
        ],
        ids=lambda managers: managers[0].model.__name__,
    )
    def test_write(self, managers, context):
        model = managers[0].model

        def prepare():
            obj = managers[0].create(name="a", size=1)
            lookups = [(each, {"name": name}) for each in managers for name in "ab"]
            for manager in managers:
                warm(manager, name="a")
            return (obj,), lookups

        writes = {
            "save": lambda obj: save(obj, size=9),
            "default": lambda obj: model._default_manager.update(size=9),
            "base": lambda obj: model._base_manager.update(size=9),
            "delete": lambda obj: obj.delete(),
            "delete_all": lambda obj: model._base_manager.all().delete(),
            "bulk_create": lambda obj: model._base_manager.bulk_create(
                [model(name="b")]
            ),
        }
        try_each(writes, context, prepare, model)

    @committed
    @contexts
    def test_model_below_the_cached_proxy(self, context):
        buoy = Buoy.objects.create(name="a")
        warm(CachedBuoy.objects, name="a")
        context(
            lambda: save(buoy, size=9),
            lambda: check((CachedBuoy.objects, {"name": "a"})),
        )

    def test_shortest_timeout_counts_for_all_that_share_rows(self):
        def timeout(queryset):
            return invalidation.region_of(queryset).timeout

        assert timeout(Twofold.far.all()) == timeout(Twofold.brief.all()) == 30
        assert invalidation.shortest({None}, "default") is None
        assert invalidation.shortest({None, 60}, "default") == 60
        default = invalidation.DEFAULT_TIMEOUT
        assert invalidation.shortest({default}, "default") is default
        assert invalidation.shortest({default, 600}, "default") == 300
        with override_settings(
            CACHES={"default": settings.CACHES["default"] | {"TIMEOUT": None}}
        ):
            assert invalidation.shortest({default, None}, "default") is None

    def test_manager_that_does_not_tell_yet(self, db, monkeypatch):
        """Its model counts as cached: in another process it may be."""
        shy = Shy.plain.create(name="a")
        with pytest.raises(LookupError):
            Shy.objects.get_or_create(name="a")
        monkeypatch.setattr(ShyManager, "is_shy", False)
        warm(Shy.objects, name="a")
        monkeypatch.setattr(ShyManager, "is_shy", True)
        save(shy, size=9)
        monkeypatch.setattr(ShyManager, "is_shy", False)
        check((Shy.objects, {"name": "a"}))

    def test_manager_that_does_not_cache_in_this_process(self, db, monkeypatch):
        flagged = Flagged.objects.create(name="a")
        monkeypatch.setattr(FlaggedManager, "caches", True)
        warm(Flagged.objects, name="a")
        monkeypatch.setattr(FlaggedManager, "caches", False)
        save(flagged, size=9)
        monkeypatch.setattr(FlaggedManager, "caches", True)
        check((Flagged.objects, {"name": "a"}))

    def test_hand_made_queryset_of_a_plain_model_is_not_cached(self, db):
        Rope.objects.create(name="a")
        rope, _ = CachedQuerySet(Rope).get_or_create(name="a")
        with CaptureQueriesContext(connection) as queries:
            assert CachedQuerySet(Rope).get_or_create(name="a") == (rope, False)
        assert len(queries) == 1

    def test_queryset_that_no_manager_makes_is_not_cached(self, db):
        Ship.objects.create(name="a")
        Elsewhere(Ship).get_or_create(name="a")
        with CaptureQueriesContext(connection) as queries:
            Elsewhere(Ship).get_or_create(name="a")
        assert len(queries) == 1


class Elsewhere(CachedQuerySet):
    object_cache_alias = "elsewhere"


class TestAliases:
    @pytest.fixture
    def caches_without_far(self):
        kept = {name: each for name, each in settings.CACHES.items() if name != "far"}
        with override_settings(CACHES=kept):
            yield kept

    def test_object_cache_that_is_not_there(self, caches_without_far):
        watch = invalidation.Watched(Ship)
        watch.declare(Elsewhere)
        assert watch.region("default", "elsewhere") is None
        assert watch.all_regions("default") == []
        assert list(watch.faults()) == [
            "object_cache_alias = 'elsewhere' of a queryset of tests.Ship is not in "
            "CACHES: see the system check getorcreateplus.E001."
        ]

    def test_key_cache_that_is_not_there(self, db, caches_without_far):
        """The other querysets of the model cache, and writes invalidate."""
        Twofold.far.get_or_create(name="a")
        Twofold.near.get_or_create(name="a")
        for size in range(2):
            with CaptureQueriesContext(connection) as queries:
                assert Twofold.far.get_or_create(name="a")[0].size == size
                assert Twofold.near.get_or_create(name="a")[0].size == size
            assert len(queries) == 1 + size
            Twofold.plain.update(size=size + 1)

    def test_other_caches(self, db):
        """CACHES counts as it is now."""
        Ship.objects.create(name="a")
        warm(Ship.objects, name="a")
        default = settings.CACHES["default"]
        with override_settings(
            CACHES=settings.CACHES
            | {
                "default": default | {"KEY_PREFIX": f"{default['KEY_PREFIX']}.other"},
                "ship": settings.CACHES["paper"] | {"KEY_PREFIX": "ship"},
            }
        ):
            with CaptureQueriesContext(connection) as queries:
                served(Ship.objects, name="a")
            assert len(queries) == 1
            warm(Ship.objects, name="a")
            assert invalidation.region_of(Ship.objects.all()).store.alias == "ship"
        warm(Ship.objects, name="a")

    def test_model_of_the_same_name_and_cache(self, db):
        for i, model in enumerate((Paper, Annex.Paper)):
            obj = model(pk=7)
            setattr(obj, "title" if model is Paper else "name", f"{i}")
            obj.save(force_insert=True)
        for _ in range(3):
            for manager in (Paper.objects, Annex.Paper.objects):
                obj, _ = manager.get_or_create(pk=7)
                assert values_of_row(obj) == selected(manager.model, pk=7)
        caches["paper"].delete(7)
        for manager in (Paper.objects, Annex.Paper.objects):
            with CaptureQueriesContext(connection) as queries:
                obj, _ = manager.get_or_create(pk=7)
            assert (type(obj), len(queries)) == (manager.model, 1)

    def test_row_is_invalidated_by_hand(self, db):
        paper = Paper.objects.create(title="a")
        for delete in (paper.pk, str(paper.pk)):
            Paper.objects.get_or_create(title="a")
            with CaptureQueriesContext(connection) as queries:
                Paper.objects.get_or_create(title="a")
            assert len(queries) == 0
            caches["paper"].delete(delete)
            with CaptureQueriesContext(connection) as queries:
                Paper.objects.get_or_create(title="a")
            assert len(queries) == 1


# Relations


def quays():
    return [Quay.objects.create(name=name) for name in ("first", "second")]


class TestRelations:
    @committed
    @contexts
    def test_on_delete(self, context):
        fields = ("cascade", "null", "default", "value", "called", "custom")

        def prepare():
            quay, other = quays()
            save(quay, basin=Basin.objects.create())
            for field in fields:
                for name, related in (("a", quay), ("b", other)):
                    Mooring.objects.create(name=f"{field}_{name}", **{field: related})
            lookups = [
                (Mooring.objects, {"name": f"{field}_{name}"})
                for field in fields
                for name in "ab"
            ]
            lookups += [(Mooring.objects, {field: quay.pk}) for field in fields]
            return (quay,), lookups

        writes = {
            "instance": lambda quay: quay.delete(),
            "queryset": lambda quay: Quay.objects.filter(name="first").delete(),
            "two_levels": lambda quay: quay.basin.delete(),
            "two_levels_queryset": lambda quay: Basin.objects.all().delete(),
        }
        try_each(writes, context, prepare, Mooring, Quay, Basin)

    @committed
    @contexts
    def test_what_the_database_may_do_on_a_delete(self, context):
        """DO_NOTHING: here a trigger's part is played behind Django's back."""
        warehouse = Warehouse.objects.create(name="first")
        Crate.objects.create(name="a", warehouse=warehouse)
        warm(Crate.objects, name="a")

        def delete():
            def clear(execute, sql, params, many, context):
                result = execute(sql, params, many, context)
                with connection.connection.cursor() as cursor:
                    cursor.execute("UPDATE tests_crate SET warehouse_id = NULL")
                return result

            def clear_sqlite(execute, sql, params, many, context):
                result = execute(sql, params, many, context)
                connection.connection.execute(
                    "UPDATE tests_crate SET warehouse_id = NULL"
                )
                return result

            is_sqlite = connection.vendor == "sqlite"
            with connection.execute_wrapper(clear_sqlite if is_sqlite else clear):
                Warehouse.objects.filter(name="first")._raw_delete("default")

        context(delete, lambda: check((Crate.objects, {"name": "a"})))

    if django.VERSION >= (6, 1):

        @committed
        def test_row_that_the_database_deletes_while_it_is_created(self):
            Depot, Pallet, Parcel = (  # noqa: N806
                apps.get_model("tests", name) for name in ("Depot", "Pallet", "Parcel")
            )
            pallet = Pallet.objects.create(depot=Depot.objects.create(name="first"))

            def delete_parent(created, **kwargs):
                if created:
                    Pallet.objects.filter(pk=pallet.pk).delete()

            with transaction.atomic():
                post_save.connect(delete_parent, sender=Parcel)
                try:
                    Parcel.objects.get_or_create(name="a", defaults={"pallet": pallet})
                finally:
                    post_save.disconnect(delete_parent, sender=Parcel)
                _, created = Parcel.objects.get_or_create(name="a")
                assert created

        @committed
        @contexts
        def test_on_delete_by_the_database(self, context):
            Depot, Pallet, Parcel = (  # noqa: N806
                apps.get_model("tests", name) for name in ("Depot", "Pallet", "Parcel")
            )

            def prepare():
                depot = Depot.objects.create(name="first")
                pallet = Pallet.objects.create(depot=depot)
                Parcel.objects.create(name="a", pallet=pallet)
                Parcel.objects.create(name="b", depot=depot)
                return (depot,), [(Parcel.objects, {"name": name}) for name in "ab"]

            writes = {
                "instance": lambda depot: depot.delete(),
                "queryset": lambda depot: Depot.objects.all().delete(),
                "middle": lambda depot: Pallet.objects.all().delete(),
                "raw_sql": lambda depot: execute_sql("DELETE FROM tests_depot"),
            }
            try_each(writes, context, prepare, Parcel, Pallet, Depot)

    @committed
    @contexts
    def test_generic_relation(self, context):
        def prepare():
            chart = Chart.objects.create(name="first")
            chart.marks.create(name="a")
            Chart.objects.create(name="second").marks.create(name="b")
            lookups = [(Mark.objects, {"name": name}) for name in "abc"]
            warm(chart.marks, name="a")
            return (chart,), lookups

        writes = {
            "delete": lambda chart: chart.delete(),
            "delete_all": lambda chart: Chart.objects.all().delete(),
            "clear": lambda chart: chart.marks.clear(),
            "set": lambda chart: chart.marks.set([]),
            "remove": lambda chart: chart.marks.remove(*chart.marks.all()),
            "add": lambda chart: chart.marks.add(Mark.objects.get(name="b")),
            "add_one_by_one": lambda chart: chart.marks.add(
                Mark.objects.get(name="b"), bulk=False
            ),
            "update": lambda chart: chart.marks.update(size=9),
            "create": lambda chart: chart.marks.create(name="c"),
        }
        try_each(writes, context, prepare, Chart)

    @committed
    @contexts
    def test_many_to_many_through(self, context):
        def prepare():
            sailor = Sailor.objects.create(name="first")
            a, b = (Ship.objects.create(name=name) for name in "ab")
            sailor.ships.add(a, through_defaults={"name": "a"})
            lookups = [
                (Berth.objects, {"sailor": sailor.pk, "ship": ship.pk})
                for ship in (a, b)
            ]
            lookups += [(Ship.objects, {"name": name}) for name in "ab"]
            warm(Berth.objects, sailor=sailor.pk, ship=a.pk)
            return (sailor, b), lookups

        writes = {
            "add": lambda sailor, ship: sailor.ships.add(ship),
            "set": lambda sailor, ship: sailor.ships.set([ship]),
            "remove": lambda sailor, ship: sailor.ships.remove(
                Ship.objects.get(name="a")
            ),
            "clear": lambda sailor, ship: sailor.ships.clear(),
            "add_reverse": lambda sailor, ship: ship.crew.add(sailor),
            "delete": lambda sailor, ship: sailor.delete(),
            "delete_ships": lambda sailor, ship: Ship.objects.all().delete(),
            "update": lambda sailor, ship: sailor.ships.update(size=9),
        }
        try_each(writes, context, prepare, Sailor, Ship)


# What else writes


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
        """Its models are none of the project's."""
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
    """It empties the tables that refer to the one that it names."""
    Ship.objects.create(name="a")
    warm(Ship.objects, name="a")
    execute_sql("TRUNCATE tests_fleet CASCADE")
    check((Ship.objects, {"name": "a"}))


# What it costs


LOCKED = ["set_many"]
RELEASED = ["set_many"]
ALL_RELEASED = ["set_many"]


@committed
class TestCost:
    def test_in_a_transaction(self):
        def write_rows_and_query(a):
            a.save()
            Dinghy.objects.update(size=9)

        nothing = ([], [])
        of_row = (LOCKED, RELEASED)
        of_all = (LOCKED, ALL_RELEASED)
        for number, (write, (inside, at_commit)) in enumerate(
            [
                (lambda a: Dinghy.objects.create(name="c"), nothing),
                (lambda a: Dinghy(name="c").save(), nothing),
                (lambda a: Ferry.objects.create(name="c"), nothing),
                (lambda a: Beacon.objects.create(name="c"), nothing),
                (lambda a: Lightship.objects.create(name="c"), nothing),
                (lambda a: Dinghy.objects.bulk_create([Dinghy(), Dinghy()]), nothing),
                (lambda a: a.save(), of_row),
                (lambda a: a.save(update_fields=["name"]), of_row),
                (lambda a: a.save(update_fields=[]), nothing),
                (lambda a: a.save() or a.save(), of_row),
                (lambda a: Dinghy.objects.filter(pk=a.pk).update(size=1), of_row),
                (lambda a: Dinghy.objects.filter(pk=a.pk).delete(), of_row),
                (lambda a: a.delete(), of_row),
                (lambda a: Dinghy.objects.update(size=9), of_all),
                (lambda a: Dinghy.objects.all().delete(), of_all),
                (write_rows_and_query, (LOCKED + LOCKED, ALL_RELEASED)),
                (lambda a: Knot.objects.create(rope=Rope.objects.create()), nothing),
                (lambda a: Rope.objects.update(name="b"), nothing),
                (lambda a: Rope.objects.get().delete(), nothing),
                (lambda a: Fleet.objects.update(name="b"), nothing),
                (
                    lambda a: execute_sql("DELETE FROM tests_rope WHERE id = 1"),
                    nothing,
                ),
                (
                    lambda a: list(Dinghy.objects.raw("select * from tests_dinghy")),
                    nothing,
                ),
                (
                    lambda a: execute_sql(
                        "WITH x AS (SELECT 1) SELECT * FROM tests_dinghy"
                    ),
                    nothing,
                ),
                (lambda a: execute_sql("SELECT * FROM tests_dinghy; "), nothing),
            ]
        ):
            dinghy = Dinghy.objects.create(name="a")
            Rope.objects.create(name="a")
            with CaptureCacheCommands() as made, transaction.atomic():
                write(dinghy)
                assert (number, [command.method for command in made]) == (
                    number,
                    inside,
                )
                made.clear()
            assert (number, [command.method for command in made]) == (number, at_commit)
            Rope.objects.all().delete()

    def test_autocommit(self):
        dinghy = Dinghy.objects.create(name="a")
        for write, made in (
            (lambda: Dinghy.objects.create(name="b"), []),
            (dinghy.save, LOCKED + RELEASED),
            (lambda: Dinghy.objects.update(size=9), LOCKED + ALL_RELEASED),
            (
                lambda: Dinghy.objects.filter(pk=dinghy.pk).update(size=9),
                LOCKED + RELEASED,
            ),
            (lambda: Dinghy.objects.filter(name="b").delete(), LOCKED + ALL_RELEASED),
            (dinghy.delete, LOCKED + RELEASED),
        ):
            assert commands(write) == made

    def test_keys(self):
        dinghy = Dinghy.objects.create(name="a")
        pk, name = dinghy.pk, invalidation.region_of(Dinghy.objects.all()).name
        with CaptureCacheCommands() as made:
            dinghy.save()
        assert made == [
            ("default", "set_many", [f"{name}!{pk}"]),
            ("default", "set_many", [f"{name}@clock", f"{name}!{pk}", f"{name}:{pk}"]),
        ]
        with CaptureCacheCommands() as made:
            Dinghy.objects.update(size=9)
        assert made == [
            ("default", "set_many", [f"{name}@epoch"]),
            ("default", "set_many", [f"{name}@clock", f"{name}@epoch"]),
        ]

    def test_several_servers_are_told_in_order(self, monkeypatch):
        """Each has its keys, and a command for several is one for each."""
        dinghy = Dinghy.objects.create(name="a")
        pk, name = dinghy.pk, invalidation.region_of(Dinghy.objects.all()).name
        monkeypatch.setattr(coherence.Store, "has_several_servers", lambda store: True)
        with CaptureCacheCommands() as made:
            dinghy.save()
        assert made == [
            ("default", "set_many", [f"{name}!{pk}"]),
            ("default", "set_many", [f"{name}@clock"]),
            ("default", "set_many", [f"{name}!{pk}"]),
            ("default", "set_many", [f"{name}:{pk}"]),
        ]

    @pytest.mark.parametrize("rows", [1, 20, 21])
    def test_rows_that_a_statement_names(self, rows):
        pks = [Dinghy.objects.create(name="a").pk for _ in range(rows)]
        with CaptureCacheCommands() as made:
            Dinghy.objects.filter(pk__in=pks).update(size=9)
        name = invalidation.region_of(Dinghy.objects.all()).name
        locked = [f"{name}@epoch"]
        if rows <= invalidation.MOST_ROWS:
            locked = [f"{name}!{pk}" for pk in pks]
        first, second = (command.keys for command in made)
        assert sorted(first) == sorted(locked)
        assert second[0] == f"{name}@clock"

    def test_error_releases_what_was_not_written(self):
        for name in "ab":
            Harbour.objects.create(code=name, name=name)
        warm(Harbour.objects, name="a")
        with pytest.raises(IntegrityError):
            Harbour.objects.filter(name="a").update(code="b")
        assert served(Harbour.objects, name="a") is not None
        warm(Harbour.objects, name="a")

    def test_lock_stays_where_nobody_knows_what_was_written(self):
        Dinghy.objects.create(name="a")
        warm(Dinghy.objects, name="a")

        def lose(execute, sql, params, many, context):
            execute_sql(sql, params, many, context)
            raise OperationalError("The connection was lost.")

        with connection.execute_wrapper(lose), pytest.raises(OperationalError):
            Dinghy.objects.update(size=9)
        for _ in range(3):
            with CaptureQueriesContext(connection) as queries:
                assert served(Dinghy.objects, name="a")["size"] == 9
            assert len(queries) == 1

    def test_fast_delete_stays_fast(self):
        """Nobody collects rows to send signals about them, cached or not."""
        for model in (Knot, Dinghy, Mast):
            with CaptureQueriesContext(connection) as queries:
                models.QuerySet(model).filter(pk__gt=0).delete()
            sent = [q["sql"].split()[0] for q in queries]
            # The DELETE alone, in the transaction that Collector makes.
            assert [word for word in sent if word not in ("BEGIN", "COMMIT")] == [
                "DELETE"
            ]
        for model in apps.get_models():
            # django-simple-history listens to the models of its own.
            if not hasattr(model, "history"):
                assert not pre_delete.has_listeners(model)
                assert not post_delete.has_listeners(model)

    def test_created_rows_are_warm_after_the_commit(self):
        """A row that post_save tells does not make its model cold."""
        with transaction.atomic():
            Ship.objects.create(name="a")
            Ferry.objects.create(name="b")
            Ship.objects.get_or_create(name="c")
            Ferry.objects.get_or_create(name="d")
        with CaptureQueriesContext(connection) as queries:
            Ship.objects.get_or_create(name="c")
        assert len(queries) == 0

    def test_rows_of_others_are_misses_beside_a_created_one(self):
        """The INSERT may have waited for a writer that has yet to release."""
        Dinghy.objects.create(name="a")
        warm(Dinghy.objects, name="a")
        with transaction.atomic():
            warm(Dinghy.objects, name="a")
            Dinghy.objects.create(name="b")
            for _ in range(2):
                with CaptureQueriesContext(connection) as queries:
                    Dinghy.objects.get_or_create(name="a")
                assert len(queries) == 1
        warm(Dinghy.objects, name="a")


# Which row an INSERT inserts


class TestInserted:
    @committed
    @pytest.mark.parametrize("context", [roll_back, roll_back_savepoint])
    def test_rolled_back_rows_are_not_served(self, context):
        """Each is read inside, where it may have got into the cache."""

        def insert(*names):
            models.QuerySet(Ship).bulk_create([Ship(name=name) for name in names])

        def tell(created):
            """As if save() had written a row that has long been there."""
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
    def test_connection_that_nobody_watches(self):
        """As one that was open in another thread before the import."""
        connection.ensure_connection()
        wrappers = connection.execute_wrappers
        connection.execute_wrappers = []
        try:
            assert invalidation.statements_of(connection) is None
            with transaction.atomic():
                Ship(name="a").save()
        finally:
            connection.execute_wrappers = wrappers
        warm(Ship.objects, name="a")

    @committed
    def test_primary_key_that_nobody_can_tell(self):
        """Another receiver of post_save has taken it off the instance."""

        def forget_pk(instance, **kwargs):
            instance.price = None

        def write():
            Toll(name="a", price=Decimal("1.50")).save(force_insert=True)

        post_save.disconnect(invalidation.after_save)
        post_save.connect(forget_pk, sender=Toll)
        post_save.connect(invalidation.after_save)
        try:
            roll_back(write, lambda: check((Toll.objects, {"name": "a"})))
        finally:
            post_save.disconnect(forget_pk, sender=Toll)


# Discovery


@contextmanager
def defined(model):
    """Forget a model in the end."""
    try:
        yield
    finally:
        del apps.all_models["tests"][model._meta.model_name]
        apps._pending_operations.clear()
        apps.clear_cache()
        invalidation.watched.pop(model, None)
        invalidation.indexes.clear()


class TestDiscovery:
    def test_connection_is_watched_once(self, db):
        for _ in range(2):
            connection.close() if not connection.in_atomic_block else None
            invalidation.watch(connection)
        found = [type(each) for each in connection.execute_wrappers]
        assert found.count(invalidation.Statements) == 1
        assert found[0] is invalidation.Statements

    @committed
    def test_connection_that_is_made_under_a_wrapper(self):
        def wrapper(execute, sql, params, many, context):
            return execute_sql(sql, params, many, context)

        connection.close()
        wrappers, connection.execute_wrappers = connection.execute_wrappers, []
        try:
            with connection.execute_wrapper(wrapper):
                Rope.objects.count()
                assert [type(each) for each in connection.execute_wrappers] == [
                    invalidation.Statements,
                    type(wrapper),
                ]
            assert [type(each) for each in connection.execute_wrappers] == [
                invalidation.Statements
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
            index = invalidation.index(connection)
            assert index.mentioned("DELETE FROM tests_raft, tests_island") == {
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
        assert Ship not in invalidation.watched
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

        invalidation.look_at(Yacht)
        assert Yacht not in invalidation.watched

    def test_models_that_are_not_all_there(self, monkeypatch):
        monkeypatch.setattr(apps, "models_ready", False)
        monkeypatch.setattr(invalidation, "pending", [Ship])
        invalidation.examine()
        assert invalidation.pending == [Ship]

    def test_schema_in_the_name_of_a_table(self):
        class Connection:
            alias = "schema"
            ops = connections["default"].ops
            vendor = "postgresql"

        quote = connection.ops.quote_name("x")[0]
        watch = invalidation.Watched(Ship)
        table, Ship._meta.db_table = Ship._meta.db_table, f"far{quote}.{quote}ship"
        watched, invalidation.watched = invalidation.watched, {Ship: watch}
        try:
            index = invalidation.Index(Connection)
        finally:
            Ship._meta.db_table = table
            invalidation.watched = watched
        name = f"{quote}far{quote}.{quote}ship{quote}"
        assert index.mentioned("update far.Ship set size = 9") == {name}
        assert index.mentioned("update ships set size = 9") == set()
        assert invalidation.WRITE.match(f"UPDATE {name} SET a = 1")[2] == name

    def test_nothing_is_cached(self, monkeypatch):
        monkeypatch.setattr(invalidation, "watched", {})
        index = invalidation.Index(connection)
        assert index.mentioned("UPDATE tests_ship SET size = 9") == set()


@pytest.mark.parametrize(
    "where",
    [
        'WHERE "t"."id" = %s',
        'WHERE "t"."id" IN (%s)',
        'WHERE "t"."id" = %s RETURNING "t"."a"',
    ],
)
def test_statement_that_names_its_rows(where):
    assert invalidation.PKS.search(f'UPDATE "t" SET "a" = %s {where}')


@pytest.mark.parametrize(
    "where",
    [
        'WHERE "t"."id" = %s)',
        'WHERE "t"."id" = %s OR "t"."a" = 1',
        'WHERE "t"."id" > %s',
        'WHERE "t"."id" IN (SELECT %s)',
        'WHERE "t"."id" IN (%s))',
        'WHERE "t"."id" = 1',
        'WHERE "t"."id" = %s LIMIT %s',
    ],
)
def test_statement_that_does_not_name_its_rows(where):
    assert not invalidation.PKS.search(f'UPDATE "t" SET "a" = %s {where}')


def update_by_pk(model, params):
    quote = connection.ops.quote_name
    table = quote(model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET {quote('pages')} = 5 WHERE {table}.{quote('id')} = %s",
            params,
        )


@pytest.mark.django_db
@pytest.mark.parametrize("params", [None, [], (), {}, {"id": 1}, [1, 2], "", 5])
def test_statement_whose_parameters_are_wrong_raises_the_drivers_error(params):
    """The same as for a table that is not cached."""
    raised = []
    for model in (PlainPaper, Paper):
        with pytest.raises(Exception) as error, transaction.atomic():  # noqa: PT011
            update_by_pk(model, params)
        message = str(error.value).replace("plainpaper", "paper")
        # PostgreSQL goes on with a part of the statement.
        raised.append((type(error.value), message.splitlines()[:1]))
    assert raised[0] == raised[1]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "kind", [list, tuple, *([iter] if connection.vendor == "mysql" else [])]
)
def test_parameters_of_any_kind(kind):
    """mysqlclient takes an iterator, which is empty after one look."""
    obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    for _ in range(2):
        Paper.objects.get_or_create(title="a")
    update_by_pk(Paper, kind([obj.pk]))
    assert Paper.objects.get_or_create(title="a")[0].pages == 5


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


@committed
def test_package_is_imported_after_other_models(shared_cache):
    """As by an app that is loaded late, and finds connections open."""
    run_process(
        """
        from django.contrib.auth.models import Group
        assert "getorcreateplus" not in sys.modules
        assert Group.objects.count() == 0
        from getorcreateplus import CachedManager
        from getorcreateplus.writes import invalidation
        from django.db import connection
        assert invalidation.statements_of(connection)
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
    """A cache that processes share, whatever the run's own is."""
    config = {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": str(tmp_path / "cache"),
    }
    with override_settings(CACHES={"default": config, "far": config}):
        yield


def run_process(code, **overrides):
    """Run code in a fresh process, on this one's databases and caches."""
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


class TestsOfUsers(TestCase):
    """A TestCase counts as the outside world."""

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
        assert coherence.in_transaction(connection) is False
