"""invalidate(): writes that Django does not see are invalidated by hand."""

import math
import re

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, models, transaction
from django.template import Context, Template
from django.test import override_settings

from getorcreateplus import CachedManager, invalidate
from getorcreateplus.test import CaptureCacheCommands
from getorcreateplus.writes import registry
from getorcreateplus.writes.invalidate import invalidate_rows

from ..models import Paper, PlainPaper, PlusPaper, Rack, Sheet, Slot, Ticket
from ..models.bulk import AbstractItem
from ..models.invalidation import CarFerry, Dinghy, Ferry, Lightship, Vessel
from ..support.databases import Replica, size_and_queries
from ..support.errors import Rollback
from ..support.queries import count
from ..support.sql import behind_the_back
from ..support.threads import elsewhere

pytestmark = [pytest.mark.slow, pytest.mark.django_db]

committed = pytest.mark.django_db(transaction=True)


def warm(model=Paper, **lookup):
    lookup = lookup or {"title": "a"}
    obj, _ = model.objects.get_or_create(**lookup)
    assert [queries(model, **lookup) for _ in range(2)][1] == 0
    return obj


def queries(model=Paper, **lookup):
    lookup = lookup or {"title": "a"}
    return count(lambda: model.objects.get_or_create(**lookup))[1]


def are_invalidated(model, *titles):
    return [queries(model, title=title) == 1 for title in titles]


def by_manager(obj):
    type(obj).objects.invalidate(obj)


def by_pk(obj):
    type(obj).objects.invalidate(obj.pk)


def by_text(obj):
    type(obj).objects.invalidate(str(obj.pk))


def by_queryset(obj):
    invalidate(type(obj).objects.filter(pk=obj.pk))


def by_queryset_of_values(obj):
    invalidate(type(obj).objects.filter(title=obj.title).values("pages").distinct())


def by_slice(obj):
    invalidate(type(obj).objects.order_by("title")[:1])


def by_union(obj):
    one = type(obj).objects.filter(pk=obj.pk)
    invalidate(one.union(one))


def by_other_manager(obj):
    invalidate(models.QuerySet(type(obj)).filter(pk=obj.pk))


def by_coroutine(obj):
    async def call():
        await type(obj).objects.ainvalidate(obj)

    async_to_sync(call)()


ONE_ROW = [
    *(invalidate, by_manager, by_pk, by_text, by_queryset, by_queryset_of_values),
    *(by_slice, by_union, by_other_manager, by_coroutine),
]


def all_by_manager(model):
    model.objects.invalidate_all()


def all_by_coroutine(model):
    async def call():
        await model.objects.ainvalidate_all()

    async_to_sync(call)()


ALL_ROWS = [
    invalidate,
    all_by_manager,
    all_by_coroutine,
    lambda model: invalidate(model._meta.label),
    lambda model: invalidate(model._meta.label_lower),
    lambda model: invalidate(model.objects),
    lambda model: invalidate(model.objects.order_by("title")),
]


@pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper])
class TestRows:
    @pytest.mark.parametrize("call", ONE_ROW)
    def test_row_is_invalidated(self, model, call):
        obj = warm(model)
        warm(model, title="b")
        behind_the_back(f"UPDATE {model._meta.db_table} SET pages = 5")
        call(obj)
        assert are_invalidated(model, "a", "b") == [True, False]
        assert model.objects.get_or_create(title="a")[0].pages == 5

    @pytest.mark.parametrize("call", ALL_ROWS)
    def test_all_are_invalidated(self, model, call):
        warm(model)
        warm(model, title="b")
        other = Sheet if model is Paper else Paper
        warm(other)
        call(model)
        assert are_invalidated(model, "a", "b") == [True, True]
        assert are_invalidated(other, "a") == [False]


def test_several_rows():
    objs = [warm(title=title) for title in "abc"]
    Paper.objects.invalidate(objs[0], objs[2].pk)
    assert are_invalidated(Paper, *"abc") == [True, False, True]


def test_reader_that_asked_before_does_not_fill():
    """It has read the old row, and is about to store it in the cache."""
    obj = Paper.objects.create(title="a")

    def invalidate_by_hand(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith("SELECT"):
            behind_the_back("UPDATE tests_paper SET pages = 5")
            invalidate(obj)
        return result

    with connections["default"].execute_wrapper(invalidate_by_hand):
        Paper.objects.get_or_create(title="a")
    assert queries() == 1


def test_many_rows_of_a_queryset(monkeypatch):
    """With many rows, all rows of the model are invalidated."""
    monkeypatch.setattr("getorcreateplus.writes.invalidate.MAX_INVALIDATED", 2)
    for title in "abcd":
        warm(title=title)
    invalidate(Paper.objects.filter(title__in="ab"))
    assert are_invalidated(Paper, *"abcd") == [True, True, False, False]
    invalidate(Paper.objects.filter(title__in="abc"))
    assert are_invalidated(Paper, *"abcd") == [True] * 4


def test_queryset_without_rows():
    warm()
    with CaptureCacheCommands() as commands:
        invalidate(Paper.objects.filter(title="z"))
    assert commands == []
    assert queries() == 0


def test_related_manager():
    rack = warm(Rack, name="a")
    obj = warm(title="a", rack=rack)
    warm(title="b")
    rack.paper_set.invalidate(obj)
    assert queries(title="a", rack=rack) == 1
    invalidate(rack.paper_set)
    assert queries(title="a", rack=rack) == 1
    assert queries(title="b") == 0


def test_composite_primary_key():
    slot = warm(Slot, room=1, hour=2)
    for invalidate_by_hand in (
        lambda: invalidate(slot),
        lambda: Slot.objects.invalidate((1, 2)),
        lambda: invalidate(Slot.objects.filter(room=1)),
    ):
        assert queries(Slot, room=1, hour=2) == 0
        invalidate_by_hand()
        assert queries(Slot, room=1, hour=2) == 1


def test_natural_primary_key():
    """MySQL compares it with a collation, so all rows have one version."""
    warm(Ticket, code="a")
    Ticket.objects.invalidate("a")
    assert queries(Ticket, code="a") == 1


class TestInheritance:
    @pytest.fixture
    def ferry(self):
        return CarFerry.objects.create(name="a", size=1)

    def test_parent_invalidates_its_children(self, ferry):
        vessel = warm(Vessel, name="a")
        warm(Vessel, name="b")
        invalidate(vessel)
        assert queries(Vessel, name="a") == 1
        assert queries(Vessel, name="b") == 0

    def test_child_invalidates_its_parent(self, ferry):
        for invalidate_by_hand in (
            lambda: invalidate(ferry),
            lambda: invalidate_pk(CarFerry, ferry.pk),
        ):
            warm(Vessel, name="a")
            warm(Vessel, name="b")
            invalidate_by_hand()
            assert queries(Vessel, name="a") == 1
            assert queries(Vessel, name="b") == 0

    def test_child_with_a_primary_key_of_its_own(self):
        lightship = Lightship.objects.create(number=70, name="a", size=1)
        warm(Vessel, name="a")
        warm(Vessel, name="b")
        invalidate(lightship)
        assert queries(Vessel, name="a") == 1
        assert queries(Vessel, name="b") == 0
        # The package cannot find out which row of the parent 70 is.
        warm(Vessel, name="a")
        invalidate_pk(Lightship, 70)
        assert (queries(Vessel, name="a"), queries(Vessel, name="b")) == (1, 1)

    def test_model_invalidates_both(self, ferry):
        warm(Vessel, name="a")
        invalidate(Ferry)
        assert queries(Vessel, name="a") == 1


def invalidate_pk(model, pk):
    invalidate_rows(model, [pk])


@committed
class TestTransactions:
    def test_until_the_commit(self):
        """Readers do not fill the old row."""
        obj = warm()
        with transaction.atomic():
            behind_the_back("UPDATE tests_paper SET pages = 5")
            invalidate(obj)
            assert Paper.objects.get_or_create(title="a")[0].pages == 5
            if connections["default"].vendor != "sqlite":
                assert elsewhere(queries) == 1
                assert elsewhere(queries) == 1
        assert Paper.objects.get_or_create(title="a")[0].pages == 5
        assert queries() == 0

    def test_all_until_the_commit(self):
        warm()
        with transaction.atomic():
            behind_the_back("UPDATE tests_paper SET pages = 5")
            invalidate(Paper)
            assert Paper.objects.get_or_create(title="a")[0].pages == 5
        assert Paper.objects.get_or_create(title="a")[0].pages == 5
        assert queries() == 0

    def test_own_row_is_asked_of_the_database(self):
        """Another connection may have written it."""
        with transaction.atomic():
            obj = warm()
            behind_the_back("UPDATE tests_paper SET pages = 5")
            invalidate(obj)
            for _ in range(2):
                found, number = count(lambda: Paper.objects.get_or_create(title="a"))
                assert (found[0].pages, number) == (5, 1)

    def test_rollback_leaves_what_was_before(self):
        obj = warm()
        with pytest.raises(Rollback), transaction.atomic():
            behind_the_back("UPDATE tests_paper SET pages = 5")
            invalidate(obj)
            raise Rollback
        assert Paper.objects.get_or_create(title="a")[0].pages is None


@pytest.mark.django_db(databases=["default", "other"], transaction=True)
class TestDatabases:
    @pytest.fixture(autouse=True)
    def boats(self):
        for using in ("default", "other"):
            Dinghy.objects.using(using).create(pk=7, name="a", size=1)
            self.queries(using)
            assert self.queries(using) == 0

    def queries(self, using):
        return size_and_queries(Dinghy.objects, using, name="a")[1]

    def both(self):
        return self.queries("default"), self.queries("other")

    def test_every_database(self):
        for invalidate_by_hand in (
            lambda: invalidate(Dinghy.objects.get(pk=7)),
            lambda: invalidate(Dinghy),
            lambda: Dinghy.objects.invalidate(7),
            Dinghy.objects.invalidate_all,
            lambda: invalidate(Dinghy.objects.filter(pk=7)),
        ):
            invalidate_by_hand()
            assert self.both() == (1, 1)
            assert self.both() == (0, 0)

    def test_one_database(self):
        for invalidate_by_hand in (
            lambda: invalidate(Dinghy.objects.get(pk=7), using="other"),
            lambda: invalidate(Dinghy, using="other"),
            lambda: Dinghy.objects.using("other").invalidate(7),
            lambda: Dinghy.objects.using("other").invalidate_all(),
            lambda: invalidate(Dinghy.objects.using("other").filter(pk=7)),
        ):
            invalidate_by_hand()
            assert self.both() == (0, 1)

    def test_queryset_selects_from_the_database_that_is_named(self):
        """The other database has another row with that name."""
        Dinghy.objects.using("default").filter(pk=7).delete()
        Dinghy.objects.using("default").create(pk=8, name="a", size=1)
        invalidate(Dinghy.objects.filter(name="a"), using="other")
        assert self.queries("other") == 1
        with pytest.raises(ValueError, match="using = 'third' is not in DATABASES"):
            invalidate(Dinghy.objects.filter(name="a"), using="third")

    def test_queryset_does_not_select_from_a_replica(self):
        """It may lag behind, and not have the row yet."""
        Dinghy.objects.using("other").filter(pk=7).update(name="b")
        assert self.queries("default") == 0
        with override_settings(DATABASE_ROUTERS=[Replica()]):
            invalidate(Dinghy.objects.filter(name="a"))
        assert self.queries("default") == 1

    def test_transaction_is_one_database_s(self):
        with transaction.atomic(using="other"):
            invalidate(Dinghy)
            assert self.queries("default") == 1
            assert self.queries("default") == 0
        assert self.both() == (0, 1)

    def test_unknown_database(self):
        for target in (Dinghy, Dinghy.objects.get(pk=7)):
            message = "using = 'third' is not in DATABASES, which has 'default', "
            with pytest.raises(ValueError, match=message):
                invalidate(target, using="third")


def test_cache_that_is_down_is_invalidated_later(caplog):
    obj = warm()
    store = registry.region_of(Paper.objects.all()).client
    store.mark_down(OSError())
    invalidate(obj)
    assert {region.using: pks for region, pks in store.debts.releases.items()} == {
        "default": {str(obj.pk)},
        "other": {str(obj.pk)},
    }
    store.down_until = 0
    assert queries() == 1
    assert store.debts.releases == {}


def test_model_that_is_not_cached():
    obj = PlainPaper.objects.create(title="a")
    invalidate(obj)
    invalidate(PlainPaper)
    invalidate(PlainPaper.objects.all())


def test_templates_cannot():
    warm()
    for call in ("invalidate_all", "invalidate"):
        template = Template("{{ papers." + call + " }}")
        assert template.render(Context({"papers": Paper.objects})) == ""
    assert queries() == 0


class TestBadInput:
    @pytest.mark.parametrize("target", [7, None, str, [], CachedManager])
    def test_target(self, target):
        with pytest.raises(TypeError) as error:
            invalidate(target)
        assert str(error.value) == (
            "invalidate() takes an instance, a model or its label, a queryset or a "
            f"manager, not {target!r}."
        )

    @pytest.mark.parametrize("model", [AbstractItem, models.Model])
    def test_abstract_model(self, model):
        with pytest.raises(TypeError, match="'> is abstract and has no rows: "):
            invalidate(model)

    @pytest.mark.parametrize("label", ["Paper", "tests.Papre", "tests.a.Paper", ""])
    def test_label(self, label):
        with pytest.raises(LookupError):
            invalidate(label)

    def test_nothing(self):
        with pytest.raises(TypeError, match=r"Use invalidate_all\(\) for all rows"):
            Paper.objects.invalidate()

    @pytest.mark.parametrize(
        ("model", "pk"),
        [
            *((Paper, pk) for pk in ("x", None, {}, (1, 2), 1.5j, math.inf)),
            *((Slot, pk) for pk in (1, (1,), (1, 2, 3), (1, None), ("x", 2), None)),
        ],
    )
    def test_primary_key(self, model, pk):
        message = f"{pk!r} is not a primary key of {model._meta.label}."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            model.objects.invalidate(pk)

    def test_nothing_is_lost_by_a_bad_one(self):
        obj = warm()
        with pytest.raises(ValueError, match="'x' is not a primary key"):
            Paper.objects.invalidate(obj, "x")
        assert queries() == 0

    def test_instance_of_another_model(self):
        sheet = Sheet.objects.create(title="a")
        with pytest.raises(TypeError) as error:
            Paper.objects.invalidate(sheet)
        assert str(error.value) == f"{sheet!r} is not an instance of tests.Paper."

    def test_instance_that_is_not_saved(self):
        with pytest.raises(ValueError, match="has no primary key: a row that"):
            invalidate(Paper(title="a"))
