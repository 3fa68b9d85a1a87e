"""Writes of a row in several tables, or with several managers or caches."""

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.core.cache import caches
from django.db import (
    connection,
    transaction,
)
from django.db.models.signals import post_save
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus import CachedQuerySet
from getorcreateplus.writes import registry

from ..models import Paper
from ..models.invalidation import (
    Annex,
    Basin,
    Berth,
    Buoy,
    CachedBuoy,
    CarFerry,
    Chart,
    Crate,
    Dinghy,
    Engine,
    Ferry,
    Flagged,
    FlaggedManager,
    HandMade,
    Hull,
    Lightship,
    Mark,
    Mooring,
    MotorYacht,
    Quay,
    Reef,
    Rope,
    Sailor,
    Ship,
    Shy,
    ShyManager,
    Trawler,
    Twofold,
    Vessel,
    Warehouse,
)
from ..support.twins import values_of_row
from .ships import (
    check,
    contexts,
    execute_sql,
    load,
    save,
    selected,
    served,
    try_each,
    warm,
)

pytestmark = pytest.mark.slow

committed = pytest.mark.django_db(transaction=True)


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
    @pytest.mark.slow
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
        """
        With two parents, the child's primary key is that of the first one.
        """

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
            return registry.region_of(queryset).timeout

        assert timeout(Twofold.far.all()) == timeout(Twofold.brief.all()) == 30
        assert registry.shortest_timeout({None}, "default") is None
        assert registry.shortest_timeout({None, 60}, "default") == 60
        default = registry.DEFAULT_TIMEOUT
        assert registry.shortest_timeout({default}, "default") is default
        assert registry.shortest_timeout({default, 600}, "default") == 300
        with override_settings(
            CACHES={"default": settings.CACHES["default"] | {"TIMEOUT": None}}
        ):
            assert registry.shortest_timeout({default, None}, "default") is None

    def test_manager_that_fails_at_first(self, db, monkeypatch):
        """
        Its model counts as cached, because it may be cached in another
        process.
        """
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
        watch = registry.CachedModel(Ship)
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
        """The current CACHES count."""
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
            assert registry.region_of(Ship.objects.all()).client.alias == "ship"
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
        """DO_NOTHING: the test plays the part of a trigger, without Django."""
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
