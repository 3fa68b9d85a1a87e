"""
The rows that get_or_create() and update_or_create() serve from the cache.
"""

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.core.exceptions import FieldError
from django.db import connection, models
from django.test.utils import CaptureQueriesContext

from getorcreateplus import CachedQuerySet, PlusQuerySet
from getorcreateplus.explaining import explain
from getorcreateplus.signals import Reason
from getorcreateplus.writes.registry import cached_models

from ..models import (
    CachedMutableModel,
    Paper,
    PlainPaper,
    PlusPaper,
    Poster,
    Rack,
    Sheet,
    Slot,
    Ticket,
)
from ..support.queries import count
from ..support.sql import behind_the_back
from ..support.twins import values_of_row

pytestmark = pytest.mark.django_db

CACHED = pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper])


def sql_of(call):
    with CaptureQueriesContext(connection) as queries:
        result = call()
    return result, [query["sql"] for query in queries]


def test_quick_start():
    def get_or_create():
        return count(lambda: CachedMutableModel.objects.get_or_create(foo="FooBar"))

    CachedMutableModel.objects.bulk_create([CachedMutableModel(foo="FooBar")])
    (obj1, created), queries = get_or_create()
    assert (created, queries) == (False, 1)
    (obj2, created), queries = get_or_create()
    assert (obj2, created, queries) == (obj1, False, 0)
    obj1.bar = 1
    obj1.save()
    (obj3, created), queries = get_or_create()
    assert (obj3.bar, created, queries) == (1, False, 1)
    (obj4, created), queries = get_or_create()
    assert (obj4.bar, created, queries) == (1, False, 0)


@CACHED
class TestGetOrCreate:
    def test_found_row_is_a_hit_next_time(self, model):
        model.objects.bulk_create([model(title="a", pages=3)])
        (found, created), queries = count(
            lambda: model.objects.get_or_create(title="a")
        )
        assert (created, queries) == (False, 1)
        (hit, created), queries = count(lambda: model.objects.get_or_create(title="a"))
        assert (values_of_row(hit), created, queries) == (
            values_of_row(found),
            False,
            0,
        )

    def test_created_row_is_a_hit_next_time(self, model):
        obj, created = model.objects.get_or_create(title="a", defaults={"pages": 3})
        assert created
        (hit, created), queries = count(lambda: model.objects.get_or_create(title="a"))
        assert (values_of_row(hit), created, queries) == (values_of_row(obj), False, 0)

    def test_hit_is_a_fresh_instance(self, model):
        model.objects.get_or_create(title="a")
        one, _ = model.objects.get_or_create(title="a")
        two, _ = model.objects.get_or_create(title="a")
        assert one is not two
        one.title = "changed"
        assert two.title == "a"
        assert (two._state.adding, two._state.db) == (False, "default")

    def test_hit_runs_post_init(self, model):
        model.objects.get_or_create(title="a")
        seen = []

        def receiver(instance, **kwargs):
            seen.append(instance.title)

        models.signals.post_init.connect(receiver, sender=model)
        try:
            model.objects.get_or_create(title="a")
        finally:
            models.signals.post_init.disconnect(receiver, sender=model)
        assert seen == ["a"]

    def test_defaults_are_no_part_of_the_lookup(self, model):
        model.objects.get_or_create(title="a", defaults={"pages": 1})
        (obj, created), queries = count(
            lambda: model.objects.get_or_create(
                title="a", defaults={"pages": lambda: 1 / 0}
            )
        )
        assert (obj.pages, created, queries) == (1, False, 0)

    def test_primary_key_needs_no_hint(self, model):
        obj, _ = model.objects.get_or_create(title="a")
        for lookup in (
            {"pk": obj.pk},
            {"id": str(obj.pk)},
            {"id__exact": obj.pk, "title": "a"},
        ):
            (hit, _), queries = count(
                lambda lookup=lookup: model.objects.get_or_create(**lookup)
            )
            assert (hit, queries) == (obj, 0)

    def test_hit_is_compared_with_its_lookup(self, model):
        obj, _ = model.objects.get_or_create(title="a", pages=1)
        other = model.objects.create(title="b", pages=1)
        model.objects.get_or_create(title="b", pages=1)
        # The hint still leads from "a" to the row.
        model.objects.filter(pk=obj.pk).update(title="c")
        model.objects.get_or_create(pk=obj.pk)
        other.title = "a"
        other.save()
        hit, created = model.objects.get_or_create(title="a", pages=1)
        assert (hit, created) == (other, False)

    def test_force_select_asks_the_database_and_refreshes(self, model):
        _obj, _ = model.objects.get_or_create(title="a")
        behind_the_back(f"UPDATE {model._meta.db_table} SET pages = 5")
        assert model.objects.get_or_create(title="a")[0].pages is None
        (fresh, created), queries = count(
            lambda: model.objects.get_or_create(force_select=True, title="a")
        )
        assert (fresh.pages, created, queries) == (5, False, 1)
        (hit, _), queries = count(
            lambda: model.objects.get_or_create(force_select=False, title="a")
        )
        assert (hit.pages, queries) == (5, 0)

    def test_refreshed_is_force_select(self, model):
        model.objects.get_or_create(title="a", defaults={"pages": 1})
        for source in (model.objects, model.objects.all()):
            refreshed = source.refreshed()
            behind_the_back(f"UPDATE {model._meta.db_table} SET pages = pages + 1")
            (obj, created), queries = count(
                lambda refreshed=refreshed: refreshed.get_or_create(title="a")
            )
            assert (created, queries) == (False, 1)
            (hit, _), queries = count(lambda: model.objects.get_or_create(title="a"))
            assert (hit.pages, queries) == (obj.pages, 0)
        assert explain(refreshed, title="a").reason == Reason.FORCED

    def test_force_select_is_no_option_of_update_or_create(self, model):
        for objects in (PlainPaper.objects, model.objects):
            with pytest.raises(FieldError, match="'force_select' into field"):
                objects.update_or_create(force_select=True, title="a")

    def test_unknown_field_is_an_error_as_in_django(self, model):
        with pytest.raises(FieldError) as plain:
            PlainPaper.objects.get_or_create(colour="red")
        with pytest.raises(FieldError) as cached:
            model.objects.get_or_create(colour="red")
        assert str(cached.value) == str(plain.value)

    def test_without_arguments_django_answers(self, model):
        model.objects.create(title="a")
        for _ in range(2):
            (obj, created), queries = count(model.objects.get_or_create)
            assert (obj.title, created, queries) == ("a", False, 1)

    def test_async(self, model):
        @async_to_sync
        async def call(**kwargs):
            return await model.objects.aget_or_create(**kwargs)

        call(title="a")
        (obj, created), queries = count(lambda: call(title="a"))
        assert (obj.title, created, queries) == ("a", False, 0)

    def test_values_may_be_none(self, model):
        model.objects.get_or_create(title="a", pages=None)
        (obj, _), queries = count(
            lambda: model.objects.get_or_create(title="a", pages=None)
        )
        assert (obj.pages, queries) == (None, 0)


def test_invalidated_by_hand():
    obj, _ = Paper.objects.get_or_create(title="a")
    behind_the_back("UPDATE tests_paper SET pages = 5")
    assert Paper.objects.get_or_create(title="a")[0].pages is None
    caches["paper"].delete(obj.pk)
    (obj, _), queries = count(lambda: Paper.objects.get_or_create(title="a"))
    assert (obj.pages, queries) == (5, 1)


@CACHED
class TestUpdateOrCreate:
    def test_created_row_is_a_hit(self, model):
        obj, created = model.objects.update_or_create(title="a", defaults={"pages": 1})
        assert created
        (hit, created), queries = count(lambda: model.objects.get_or_create(title="a"))
        assert (values_of_row(hit), created, queries) == (values_of_row(obj), False, 0)

    def test_updated_row_is_a_hit(self, model):
        obj, _ = model.objects.get_or_create(title="a")
        model.objects.update_or_create(title="a", defaults={"pages": 2})
        for lookup in ({"title": "a"}, {"pk": obj.pk}):
            (hit, created), queries = count(
                lambda lookup=lookup: model.objects.get_or_create(**lookup)
            )
            assert (hit.pages, created, queries) == (2, False, 0)

    def test_always_writes(self, model):
        model.objects.update_or_create(title="a", defaults={"pages": 1})
        _, queries = sql_of(
            lambda: model.objects.update_or_create(title="a", defaults={"pages": 1})
        )
        assert sum(sql.startswith("UPDATE") for sql in queries) == 1

    def test_expression_is_not_cached_before_it_is_read(self, model):
        model.objects.update_or_create(title="a", defaults={"pages": 1})
        model.objects.update_or_create(
            title="a", defaults={"pages": models.F("pages") + 1}
        )
        (obj, _), queries = count(lambda: model.objects.get_or_create(title="a"))
        assert (obj.pages, queries) == (2, 1)

    def test_renamed_row_is_found_by_its_new_name_only(self, model):
        model.objects.get_or_create(title="a")
        model.objects.update_or_create(title="a", defaults={"title": "b"})
        obj, created = model.objects.get_or_create(title="a")
        assert created
        (other, created), queries = count(
            lambda: model.objects.get_or_create(title="b")
        )
        assert (other.pk != obj.pk, created, queries) == (True, False, 1)


class TestQuerySets:
    """
    Filters of the queryset count. A queryset that changes the row needs a
    query.
    """

    def test_filter_of_a_manager_belongs_to_the_lookup(self):
        obj, _ = Poster.objects.get_or_create(title="a")
        assert count(lambda: Poster.objects.get_or_create(title="a"))[1] == 0
        obj.hidden = True
        obj.save()
        Poster.everything.get(title="a")
        visible, created = Poster.objects.get_or_create(title="a")
        assert (created, visible.hidden) == (True, False)

    def test_filters_of_a_queryset_belong_to_the_lookup(self):
        Paper.objects.get_or_create(title="a", pages=1)
        (_, created), queries = count(
            lambda: Paper.objects.filter(pages=1).get_or_create(title="a")
        )
        assert (created, queries) == (False, 0)
        _, created = Paper.objects.filter(pages=2).get_or_create(
            title="a", defaults={"pages": 2}
        )
        assert created

    def test_related_manager_is_part_of_the_lookup(self):
        one = Rack.objects.create(name="one")
        two = Rack.objects.create(name="two")
        paper, _ = one.paper_set.get_or_create(title="a")
        (hit, created), queries = count(lambda: one.paper_set.get_or_create(title="a"))
        assert (hit, created, queries) == (paper, False, 0)
        assert hit.rack is one
        _, created = two.paper_set.get_or_create(title="a")
        assert created

    def test_related_object_is_not_known_by_another_spelling(self):
        """
        As in Django, the instance's key is a text, and the row's a number.
        """
        rack = Rack.objects.create(name="one")
        rack.paper_set.get_or_create(title="a")
        odd = Rack(pk=str(rack.pk), name="one")
        paper, _ = odd.paper_set.get_or_create(title="a")
        assert paper.rack_id == rack.pk
        assert paper.rack is not odd

    def test_nothing_is_filled_under_a_lock_in_a_test(self):
        PlusPaper.objects.get_or_create(title="a")
        region = cached_models[PlusPaper].region("default", None)
        place, _, _ = caches["pluspaper"].get(region.epoch_key).rpartition(".")

        def lock(**kwargs):
            caches["pluspaper"].set(region.epoch_key, f"{place}.LOCK")

        models.signals.post_save.connect(lock, sender=PlusPaper)
        try:
            PlusPaper.objects.update_or_create(title="a", defaults={"pages": 2})
        finally:
            models.signals.post_save.disconnect(lock, sender=PlusPaper)
        (obj, _), queries = count(lambda: PlusPaper.objects.get_or_create(title="a"))
        assert (obj.pages, queries) == (2, 1)

    @pytest.mark.parametrize(
        "queryset",
        [
            Paper.objects.filter(title__startswith="a"),
            Paper.objects.exclude(title="b"),
            Paper.objects.filter(models.Q(pages=1) | models.Q(title="a")),
            Paper.objects.filter(rack__name="one"),
            Paper.objects.annotate(one=models.Value(1)),
            Paper.objects.extra(where=["1 = 1"]),
            Paper.objects.only("title"),
            Paper.objects.defer("pages"),
            Paper.objects.select_related("rack"),
            Paper.objects.prefetch_related("rack"),
            Paper.objects.distinct(),
            Paper.objects.values("title"),
            Paper.objects.order_by("rack__name").select_for_update(),
        ],
        ids=lambda queryset: "",
    )
    def test_other_querysets_ask_the_database(self, queryset):
        rack = Rack.objects.create(name="one")
        Paper.objects.create(title="a", pages=1, rack=rack)
        for _ in range(2):
            (_, created), queries = sql_of(
                lambda: queryset.all().get_or_create(title="a")
            )
            assert not created
            assert "SELECT" in queries[0]

    def test_order_makes_no_difference(self):
        Paper.objects.get_or_create(title="a")
        _, queries = count(
            lambda: Paper.objects.order_by("-pages").get_or_create(title="a")
        )
        assert queries == 0

    def test_queryset_of_a_model_that_is_not_cached_is_djangos(self):
        """Other processes would not invalidate its rows."""
        queryset = CachedQuerySet(PlainPaper)
        queryset.get_or_create(title="a")
        assert count(lambda: queryset.get_or_create(title="a"))[1] == 1

    def test_many_to_many_and_joins_are_left_to_django(self):
        rack = Rack.objects.create(name="one")
        Paper.objects.create(title="a", rack=rack)
        for _ in range(2):
            _, queries = count(
                lambda: Paper.objects.get_or_create(rack__name="one", title="a")
            )
            assert queries == 1


class TestModels:
    def test_field_called_force_select_is_one_of_update_or_create(self):
        for created in (True, False):
            assert Ticket.objects.update_or_create(
                {"seats": 2}, force_select=True, code="A 1"
            ) == (Ticket(code="A 1"), created)

    def test_field_called_force_select_wins(self):
        ticket, created = Ticket.objects.get_or_create(code="A 1", force_select=True)
        assert (created, ticket.force_select) == (True, True)
        (hit, created), queries = count(
            lambda: Ticket.objects.get_or_create(code="A 1", force_select=True)
        )
        assert (hit.force_select, created, queries) == (True, False, 0)

    @pytest.mark.parametrize("code", ["a b\n", "é" * 20, "x:1", ""])
    def test_primary_key_may_be_any_text(self, code):
        Ticket.objects.get_or_create(code=code)
        (ticket, created), queries = count(
            lambda: Ticket.objects.get_or_create(code=code)
        )
        assert (ticket.code, created, queries) == (code, False, 0)
        ticket.seats = 2
        ticket.save()
        assert Ticket.objects.get_or_create(code=code)[0].seats == 2

    def test_spellings_of_a_primary_key_share_their_invalidation(self):
        """
        With a collation that treats them as equal, a write of one is a write
        of the other.
        """
        Ticket.objects.get_or_create(code="abc")
        upper = Ticket(code="ABC", seats=7)
        upper.save()
        ticket, _ = Ticket.objects.get_or_create(code="abc")
        assert ticket.seats == models.QuerySet(Ticket).get(code="abc").seats

    def test_composite_primary_key(self):
        Slot.objects.get_or_create(room=1, hour=2)
        for lookup in ({"room": 1, "hour": 2}, {"pk": (1, 2)}):
            (slot, created), queries = count(
                lambda lookup=lookup: Slot.objects.get_or_create(**lookup)
            )
            assert (slot.pk, created, queries) == ((1, 2), False, 0)
        slot.note = "changed"
        slot.save()
        slot, _ = Slot.objects.get_or_create(room=1, hour=2)
        assert slot.note == "changed"


class Wrapped:
    """A result of create() that is not an instance, and has no __dict__."""

    __slots__ = ("obj",)

    def __init__(self, obj):
        self.obj = obj


@pytest.mark.parametrize("made_of", [lambda obj: None, Wrapped, vars])
@pytest.mark.parametrize("base", [models.QuerySet, CachedQuerySet, PlusQuerySet])
def test_create_may_return_anything(base, made_of):
    """Like Django, which passes it on."""

    class QuerySet(base):
        def create(self, **kwargs):
            return made_of(super().create(**kwargs))

    for kind in (Paper, Sheet, PlusPaper):
        queryset, defaults = QuerySet(kind), {"pages": 1}
        expected = type(made_of(kind()))
        obj, created = queryset.get_or_create(title="a", defaults=defaults)
        assert (type(obj), created) == (expected, True)
        obj, created = queryset.update_or_create(title="b", defaults=defaults)
        assert (type(obj), created) == (expected, True)
        for title in "ab":
            for _ in range(2):
                obj, created = queryset.get_or_create(title=title)
                assert (obj.title, obj.pages, created) == (title, 1, False)
        if base is models.QuerySet:
            continue
        for row in ({"title": "c", "pages": 1}, kind(title="d", pages=1)):
            [(obj, created)] = queryset.bulk_get_or_create([row], ["title"])
            assert created
            assert kind._base_manager.filter(title__in="cd", pages=1).exists()
