"""Cases in which get() creates a row, and in which it is Django's."""

import copy
import pickle
import re
from contextlib import nullcontext

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections, models, router
from django.db.models import F, FilteredRelation, Q, Value
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus import AlwaysManager, AlwaysQuerySet

from ..models import (
    AlwaysAnimal,
    AlwaysAtlas,
    AlwaysBooking,
    AlwaysCatalogue,
    AlwaysDialect,
    AlwaysDog,
    AlwaysKennel,
    AlwaysLabel,
    AlwaysLanguage,
    AlwaysNumber,
    AlwaysReader,
    AlwaysSeat,
    AlwaysShelf,
    AlwaysToken,
    AlwaysTranslation,
    AlwaysVolume,
    PlainLabel,
    PlainLanguage,
    PlainReader,
    PlainShelf,
    PlainVolume,
)
from ..support.twins import outcome_of_twin, values_of_row

pytestmark = pytest.mark.django_db(databases=["default", "other"])

MANAGERS = ["objects", "rule", "as_manager", "hand_made"]


def sql_of(call):
    """Return the SQL of a call, with the same names for twins."""
    with CaptureQueriesContext(connection) as queries:
        call()
    return [
        re.sub(
            r"\b\d+\b|(?<=SAVEPOINT ).*", "?", query["sql"].replace("always", "plain")
        )
        for query in queries
    ]


def run(coroutine_function, **kwargs):
    async def call():
        return await coroutine_function(**kwargs)

    return async_to_sync(call)()


@pytest.fixture
def volumes():
    """A manager that creates only by the queryset's rule."""
    return AlwaysVolume.rule


@pytest.fixture
def shelf():
    PlainShelf.objects.create(name="Poetry", code="P")
    return AlwaysShelf.objects.create(name="Poetry", code="P")


class TestCreate:
    @pytest.mark.parametrize("name", MANAGERS)
    def test_missing_row_is_created(self, name):
        manager = getattr(AlwaysVolume, name)
        volume = manager.get(title="Emma", pages=474)
        created = AlwaysVolume.plain.get()
        assert volume == created
        assert values_of_row(created) == {
            "id": volume.pk,
            "title": "Emma",
            "pages": 474,
            "defaults": "",
            "extra": None,
            "shout": "EMMA",
            "shelf_id": None,
            "place_id": None,
        }

    @pytest.mark.parametrize("name", MANAGERS)
    def test_statements_are_those_of_get_or_create(self, name):
        manager = getattr(AlwaysVolume, name)
        plain = PlainVolume.objects
        for count in (4, 1):  # The first creates, the second finds.
            expected = sql_of(lambda: plain.get_or_create(title="Emma", pages=1))
            assert len(expected) == count
            assert sql_of(lambda: manager.get(title="Emma", pages=1)) == expected

    @pytest.mark.parametrize("name", MANAGERS)
    def test_row_that_is_there_is_returned(self, name, django_assert_num_queries):
        created = AlwaysVolume.plain.create(title="Emma", pages=474)
        with django_assert_num_queries(1):
            volume = getattr(AlwaysVolume, name).get(title="Emma")
        assert values_of_row(volume) == values_of_row(created) | {"shout": "EMMA"}
        assert AlwaysVolume.plain.count() == 1

    def test_several_rows_raise(self, volumes):
        for model in (PlainVolume, AlwaysVolume):
            model.objects.create(title="Emma")
            model.objects.create(title="Emma")
        expected = outcome_of_twin(lambda: PlainVolume.objects.get(title="Emma"))
        assert expected[0] == "MultipleObjectsReturned"
        assert outcome_of_twin(lambda: volumes.get(title="Emma")) == expected

    @pytest.mark.parametrize(
        ("kwargs", "expected"),
        [
            ({"title__exact": "Emma"}, {"title": "Emma"}),
            ({"title": ""}, {"title": ""}),
            ({"defaults": "x"}, {"title": "", "defaults": "x"}),
            ({"defaults__exact": "x", "pages": 3}, {"defaults": "x", "pages": 3}),
            ({"extra": {"a": [1]}}, {"extra": {"a": [1]}}),
            ({"extra": ["a"], "title": "Emma"}, {"extra": ["a"], "title": "Emma"}),
        ],
    )
    def test_exact_lookups_create(self, volumes, kwargs, expected):
        volume = volumes.get(**kwargs)
        created = values_of_row(AlwaysVolume.plain.get())
        assert created == created | expected
        assert volumes.get(**kwargs) == volume
        assert AlwaysVolume.plain.count() == 1

    @pytest.mark.parametrize(
        "lookup",
        ["shelf", "shelf_id", "shelf__exact", "shelf_id__exact"],
    )
    @pytest.mark.parametrize("attname", [None, "pk"])
    def test_foreign_key_takes_object_and_key(self, volumes, shelf, lookup, attname):
        value = getattr(shelf, attname) if attname else shelf
        volume = volumes.get(**{lookup: value, "title": "Emma"})
        assert AlwaysVolume.plain.get(shelf=shelf, title="Emma") == volume
        assert volume.shelf == shelf
        assert volumes.get(**{lookup: value, "title": "Emma"}) == volume

    def test_foreign_key_to_another_field(self, volumes, shelf):
        for value in (shelf, "P"):
            volume = volumes.get(place=value, title="Emma")
            assert AlwaysVolume.plain.get(place=shelf) == volume

    def test_foreign_key_takes_an_object_of_a_child_model(self, volumes):
        atlas = AlwaysAtlas.objects.create(name="World")
        assert volumes.get(shelf=atlas, title="Emma").shelf_id == atlas.pk

    def test_parent_of_the_related_model_is_djangos(self):
        """A lookup accepts it, an assignment does not."""
        animal = AlwaysAnimal.objects.create(name="Tom")
        with pytest.raises(AlwaysKennel.DoesNotExist):
            AlwaysKennel.objects.get(dog=animal)
        dog = AlwaysDog.objects.create(name="Rex")
        assert AlwaysKennel.objects.get(dog=dog).dog == dog

    @pytest.mark.parametrize(
        "restrict",
        [
            lambda qs: qs.order_by("title"),
            lambda qs: qs.order_by("title").reverse(),
            lambda qs: qs.select_related("shelf"),
            lambda qs: qs.prefetch_related("readers"),
            lambda qs: qs.only("title"),
            lambda qs: qs.defer("title"),
            lambda qs: qs.using("default"),
            lambda qs: qs.filter(),
            lambda qs: qs & AlwaysVolume.plain.all(),
        ],
    )
    def test_what_does_not_filter_does_not_matter(self, restrict):
        volume = restrict(AlwaysQuerySet(AlwaysVolume)).get(title="Emma")
        assert AlwaysVolume.plain.get(title="Emma") == volume

    def test_other_database(self):
        querysets = [
            AlwaysQuerySet(AlwaysVolume, using="other"),
            AlwaysVolume.rule.using("other"),
            AlwaysVolume.objects.using("other"),
            AlwaysVolume.objects.db_manager("other"),
        ]
        for number, queryset in enumerate(querysets):
            volume = queryset.get(title="Emma", pages=number)
            assert volume._state.db == "other"
            assert AlwaysVolume.plain.using("other").get(pages=number) == volume
        assert not AlwaysVolume.plain.exists()

    def test_async(self):
        for number, name in enumerate(MANAGERS):
            aget = getattr(AlwaysVolume, name).aget
            volume = run(aget, title="Emma", pages=number)
            assert AlwaysVolume.plain.get(pages=number) == volume
            assert run(aget, title="Emma", pages=number) == volume
            with pytest.raises(AlwaysVolume.DoesNotExist):
                run(aget, title__iexact="missing")


class TestKeys:
    def test_natural_key_is_created(self):
        for number, lookup in enumerate(["iso", "pk", "iso__exact", "pk__exact"]):
            iso = f"e{number}"
            language = AlwaysLanguage.objects.get(**{lookup: iso, "name": iso})
            assert values_of_row(language) == {"iso": iso, "name": iso}
        assert AlwaysLanguage.objects.count() == 4

    def test_relation_as_key(self, shelf):
        other = AlwaysShelf.objects.create(name="Drama")
        by_object = AlwaysCatalogue.objects.get(pk=shelf)
        assert values_of_row(by_object) == {"shelf_id": shelf.pk, "note": ""}
        assert AlwaysCatalogue.objects.get(pk=other.pk).shelf == other
        assert AlwaysCatalogue.objects.get(shelf=shelf) == by_object
        assert AlwaysCatalogue.objects.count() == 2

    def test_components_of_a_composite_key(self):
        seat = AlwaysSeat.objects.get(row="A", number=1)
        assert values_of_row(seat) == {"row": "A", "number": 1, "note": ""}
        assert AlwaysSeat.objects.get(row="A", number=1, note="") == seat
        assert AlwaysSeat.objects.get(pk=("A", 1)) == seat
        with pytest.raises(AlwaysSeat.DoesNotExist):
            AlwaysSeat.objects.get(pk=("B", 1))
        assert AlwaysSeat.objects.count() == 1

    @pytest.mark.parametrize(
        ("model", "kwargs"),
        [
            (AlwaysVolume, {"pk": 7}),
            (AlwaysVolume, {"id": 7, "title": "Emma"}),
            (AlwaysToken, {"pk": "x"}),
            (AlwaysToken, {"key": "x"}),
            (AlwaysNumber, {"number": 8}),
        ],
    )
    def test_generated_key_is_not_created(self, model, kwargs):
        with pytest.raises(model.DoesNotExist):
            model.objects.get(**kwargs)
        assert not model.objects.exists()

    @pytest.mark.parametrize("lookup", ["pk", "shelf_ptr", "shelf_ptr_id", "id"])
    def test_parents_row_is_not_made_a_childs(self, shelf, lookup):
        """The child that get() would make overwrites the parent's columns."""
        lookup = lookup.replace("shelf", "alwaysshelf")
        with pytest.raises(AlwaysAtlas.DoesNotExist):
            AlwaysAtlas.objects.get(**{lookup: shelf.pk})
        assert values_of_row(AlwaysShelf.objects.get()) == values_of_row(shelf)

    @pytest.mark.parametrize("lookup", ["pk", "iso", "alwayslanguage_ptr"])
    def test_parents_natural_key_is_not_created(self, lookup):
        AlwaysLanguage.objects.create(iso="en", name="English")
        with pytest.raises(AlwaysDialect.DoesNotExist):
            AlwaysDialect.objects.get(**{lookup: "en"})
        assert AlwaysLanguage.objects.get().name == "English"

    def test_child_model_by_other_columns(self):
        atlas = AlwaysAtlas.objects.get(name="World", scale=2)
        assert values_of_row(AlwaysAtlas.objects.get()) == values_of_row(atlas)
        assert (atlas.name, atlas.scale) == ("World", 2)

    def test_key_of_the_user_model_is_not_created(self):
        with override_settings(AUTH_USER_MODEL="tests.AlwaysLanguage"):
            with pytest.raises(AlwaysLanguage.DoesNotExist):
                AlwaysLanguage.objects.get(pk="en")
        assert AlwaysLanguage.objects.get(pk="en").iso == "en"


def make_twins():
    for shelf, volume in ((PlainShelf, PlainVolume), (AlwaysShelf, AlwaysVolume)):
        poetry = shelf.objects.create(id=1, name="Poetry", code="P")
        volume.objects.create(id=1, title="Odes", pages=1, shelf=poetry)


DJANGOS_GET = {
    "nothing": lambda qs: qs.get(),
    "q": lambda qs: qs.get(Q(title="Emma")),
    "q and kwargs": lambda qs: qs.get(Q(), title="Emma"),
    "lookup": lambda qs: qs.get(title__iexact="emma"),
    "lookup among others": lambda qs: qs.get(pages=1, title__startswith="E"),
    "exact of exact": lambda qs: qs.get(title__exact__exact="Emma"),
    "join": lambda qs: qs.get(shelf__name="Drama"),
    "join to key": lambda qs: qs.get(shelf__pk=7),
    "json key": lambda qs: qs.get(extra__a=1),
    "misspelt": lambda qs: qs.get(titel="Emma"),
    "many-to-many": lambda qs: qs.get(readers=1),
    "generated": lambda qs: qs.get(shout="EMMA"),
    "none": lambda qs: qs.get(title=None),
    "none among others": lambda qs: qs.get(title="Emma", pages=None),
    "expression": lambda qs: qs.get(pages=F("id") + 5),
    "value": lambda qs: qs.get(title=Value("Emma")),
    "queryset": lambda qs: qs.get(pages=qs.filter(pk=7).values("pk")),
    "callable": lambda qs: qs.get(title=str),
    "list": lambda qs: qs.get(title=["Emma"]),
    "wrong kind": lambda qs: qs.get(pages="Emma"),
    "list in a number": lambda qs: qs.get(pages=[1]),
    "unsaved": lambda qs: qs.get(shelf=shelf_of(qs)(name="Drama")),
    "stub": lambda qs: qs.get(title="Emma", shelf=shelf_of(qs)(pk=1)),
    "wrong model": lambda qs: qs.get(shelf=qs.model(pk=1)),
    "object in a number": lambda qs: qs.get(pages=shelf_of(qs).objects.get()),
    "no such key": lambda qs: qs.get(place=shelf_of(qs).objects.create(name="x")),
    "twice": lambda qs: qs.get(title="Emma", title__exact="Emma"),
    "twice a relation": lambda qs: qs.get(shelf=1, shelf_id=1, title="Emma"),
    "filter": lambda qs: qs.filter(pages=1).get(title="Emma"),
    "filter alone": lambda qs: qs.filter(title="Emma").get(),
    "filter by relation": lambda qs: qs.filter(shelf=1).get(title="Emma"),
    "exclude": lambda qs: qs.exclude(pages=2).get(title="Emma"),
    "exists": lambda qs: qs.filter(models.Exists(qs.filter(pk=1))).get(title="Emma"),
    "none()": lambda qs: qs.none().get(title="Emma"),
    "all": lambda qs: qs.all().get(title="Emma"),
    "slice": lambda qs: qs[:3].get(title="Emma"),
    "lock": lambda qs: qs.select_for_update().get(title="Emma"),
    "annotate": lambda qs: qs.annotate(two=Value(2)).get(title="Emma"),
    "alias": lambda qs: qs.alias(two=Value(2)).get(two=3),
    "filtered relation": lambda qs: (
        qs.annotate(one=FilteredRelation("shelf", condition=Q(shelf__name="Drama")))
        .select_related("one")
        .get(title="Emma")
    ),
    "extra": lambda qs: qs.extra(select={"two": 2}).get(title="Emma"),
    "extra where": lambda qs: qs.extra(where=["1 = 1"]).get(title="Emma"),
    "extra tables": lambda qs: qs.extra(tables=["auth_user"]).get(title="Emma"),
    "distinct": lambda qs: qs.distinct().get(title="Emma"),
    "values": lambda qs: qs.values("title").get(title="Emma"),
    "values found": lambda qs: qs.values("title").get(pages=1),
    "values_list": lambda qs: qs.values_list("title", flat=True).get(title="Emma"),
    "union": lambda qs: qs.union(qs.filter(pages=2)).get(title="Emma"),
    "or": lambda qs: (qs.filter(pages=1) | qs.filter(pages=2)).get(title="Emma"),
    "earliest": lambda qs: qs.filter(title="Emma").earliest("pages"),
    "copied": lambda qs: copy.deepcopy(qs.all()).get(title="Emma"),
    "pickled": lambda qs: pickle.loads(pickle.dumps(qs.all())).get(title="Emma"),
}


def shelf_of(queryset):
    return queryset.model._meta.get_field("shelf").remote_field.model


@pytest.mark.parametrize("call", DJANGOS_GET.values(), ids=DJANGOS_GET)
def test_any_other_get_is_djangos(call):
    make_twins()
    with CaptureQueriesContext(connection) as plain:
        expected = outcome_of_twin(lambda: call(PlainVolume.objects.order_by()))
    with CaptureQueriesContext(connection) as always:
        assert outcome_of_twin(lambda: call(AlwaysQuerySet(AlwaysVolume))) == expected
    assert len(always) == len(plain)
    assert values_of_row(AlwaysVolume.plain.get()) == values_of_row(
        PlainVolume.objects.get()
    )


class TestForeignKeyManager:
    @pytest.mark.parametrize("name", MANAGERS)
    def test_child_of_the_instance_is_created(self, shelf, name):
        volume = shelf.volumes(manager=name).get(title="Emma")
        created = AlwaysVolume.plain.get()
        assert volume == created
        assert (created.title, created.shelf_id) == ("Emma", shelf.pk)
        assert shelf.volumes(manager=name).get(title="Emma") == volume
        assert AlwaysVolume.plain.count() == 1

    @pytest.mark.parametrize("name", MANAGERS)
    def test_statements_are_those_of_get_or_create(self, shelf, name):
        twin = PlainShelf.objects.get()
        for count in (4, 1):
            expected = sql_of(lambda: twin.volumes.get_or_create(title="Emma"))
            assert len(expected) == count
            manager = shelf.volumes(manager=name)
            assert sql_of(lambda: manager.get(title="Emma")) == expected

    def test_child_of_another_does_not_count(self, shelf):
        drama = AlwaysShelf.objects.create(name="Drama")
        volume = drama.volumes.get(title="Emma")
        assert shelf.volumes.get(title="Emma") != volume
        assert AlwaysVolume.plain.count() == 2

    def test_key_to_another_field(self, shelf):
        volume = shelf.places.get(title="Emma")
        assert values_of_row(AlwaysVolume.plain.get()) == values_of_row(volume) | {
            "place_id": "P",
            "shout": "EMMA",
        }
        assert shelf.places.get(title="Emma") == volume

    def test_inherited_relation(self):
        atlas = AlwaysAtlas.objects.create(name="World")
        volume = atlas.volumes.get(title="Emma")
        assert AlwaysVolume.plain.get(shelf_id=atlas.pk) == volume

    def test_async(self, shelf):
        volume = run(shelf.volumes.aget, title="Emma")
        assert AlwaysVolume.plain.get(shelf=shelf) == volume

    def test_natural_key_of_the_instance(self):
        english = AlwaysLanguage.objects.create(iso="en", name="English")
        translation = english.translations.get(title="Emma")
        assert AlwaysTranslation.objects.get(language_id="en") == translation

    def test_known_instance_is_not_fetched(self, shelf, django_assert_num_queries):
        shelf.volumes.get(title="Emma")
        with django_assert_num_queries(1):
            assert shelf.volumes.get(title="Emma").shelf is shelf

    @pytest.mark.parametrize("name", ["objects", "rule"])
    def test_prefetched(self, name):
        """As with get_or_create(), the prefetched rows do not change."""
        make_twins()
        queryset = getattr(AlwaysVolume, name).get_queryset()
        [shelf] = AlwaysShelf.objects.prefetch_related(
            models.Prefetch("volumes", queryset=queryset)
        )
        manager = shelf.volumes(manager=name)
        prefetched = shelf._prefetched_objects_cache["volumes"]
        odes = AlwaysVolume.plain.get()
        assert manager.get(title="Odes") == odes
        assert AlwaysVolume.plain.count() == 1
        volume = manager.get(title="Emma")
        assert volume.shelf_id == shelf.pk
        assert manager.get(title="Emma") == volume
        assert AlwaysVolume.plain.count() == 2
        assert shelf._prefetched_objects_cache["volumes"] is prefetched
        assert list(prefetched) == [odes]

    def test_prefetched_and_filtered(self, shelf):
        [shelf] = AlwaysShelf.objects.prefetch_related(
            models.Prefetch("volumes", AlwaysVolume.objects.filter(pages=1))
        )
        with pytest.raises(AlwaysVolume.DoesNotExist):
            shelf.volumes.get(title="Emma")

    def test_all_keeps_prefetched_rows(self, django_assert_num_queries):
        make_twins()
        [shelf] = AlwaysShelf.objects.prefetch_related("volumes")
        with django_assert_num_queries(0):
            assert [volume.title for volume in shelf.volumes.all()] == ["Odes"]

    @pytest.mark.parametrize(
        "call",
        [
            lambda shelf, name: shelf.volumes(manager=name).get(title__iexact="emma"),
            lambda shelf, name: shelf.volumes(manager=name).get(
                title="Emma", shelf=shelf
            ),
            lambda shelf, name: shelf.volumes(manager=name).get(
                title="Emma", shelf_id=7
            ),
            lambda shelf, name: shelf.volumes(manager=name).get(),
            lambda shelf, name: (
                shelf.volumes(manager=name).filter(pages=1).get(title="Emma")
            ),
            lambda shelf, name: (
                shelf.volumes(manager=name).filter(shelf=shelf).get(title="Emma")
            ),
            lambda shelf, name: (
                shelf.volumes(manager=name).select_for_update().get(title="Emma")
            ),
            lambda shelf, name: (
                shelf.volumes(manager=name).all().all().get(title="Emma")
            ),
            lambda shelf, name: (
                type(shelf)(pk=shelf.pk).volumes(manager=name).get(title="Emma")
            ),
            lambda shelf, name: (
                type(shelf)(name="x").volumes(manager=name).get(title="Emma")
            ),
            lambda shelf, name: type(shelf)().volumes(manager=name).get(title="Emma"),
            lambda shelf: type(shelf).objects.create(name="x").places.get(title="Emma"),
            lambda shelf, name: (
                shelf.volumes(manager=name).db_manager(hints={"a": 1}).get(pages="x")
            ),
        ],
    )
    @pytest.mark.parametrize("name", ["objects", "rule"])
    def test_any_other_get_is_djangos(self, shelf, call, name):
        expected = outcome_of_twin(lambda: call(PlainShelf.objects.get(), name))
        assert outcome_of_twin(lambda: call(shelf, name)) == expected
        assert not AlwaysVolume.plain.exists()

    def test_query_that_was_replaced_is_djangos(self, shelf):
        queryset = shelf.volumes(manager="rule").get_queryset()
        assert len(queryset.query.where) == 1  # Django 6.1 filters late.
        queryset.query = AlwaysVolume.plain.filter(pages=1).query
        with pytest.raises(AlwaysVolume.DoesNotExist):
            queryset.get(title="Emma")

    def test_filter_by_hand_is_djangos(self, shelf, volumes):
        """The filter of a related manager, without the manager."""
        hinted = volumes.db_manager(hints={"instance": shelf})
        for queryset in (
            volumes.filter(shelf=shelf),
            hinted.filter(shelf=shelf),
            hinted.filter(place=shelf),
            hinted,
            volumes.db_manager(hints={"instance": AlwaysReader()}),
        ):
            with pytest.raises(AlwaysVolume.DoesNotExist):
                queryset.get(title="Emma")

    def test_default_managers_filter_is_djangos(self, shelf):
        for manager in (AlwaysVolume.filtered, shelf.volumes(manager="filtered")):
            with pytest.raises(AlwaysVolume.DoesNotExist):
                manager.get(title="Emma")

    def test_combined_is_djangos(self, shelf):
        drama = AlwaysShelf.objects.create(name="Drama")
        one, other = (s.volumes(manager="rule").all() for s in (shelf, drama))
        place = shelf.places(manager="rule").all()
        for queryset in (one | other, one & other, one & place, place | one):
            with pytest.raises(AlwaysVolume.DoesNotExist):
                queryset.get(title="Emma")

    def test_instance_with_another_key_is_djangos(self, shelf):
        drama = AlwaysShelf.objects.create(name="Drama")
        queryset = shelf.volumes(manager="rule").all()
        shelf.pk = drama.pk
        with pytest.raises(AlwaysVolume.DoesNotExist):
            queryset.get(title="Emma")

    def test_relation_of_several_columns_is_djangos(self):
        seat = AlwaysSeat.objects.create(row="A", number=1)
        with pytest.raises(AlwaysBooking.DoesNotExist):
            seat.bookings.get(name="Ann")
        booking = AlwaysBooking.objects.get(row="A", number=1, name="Ann")
        assert seat.bookings.get(name="Ann") == booking


class TestGenericRelation:
    def test_label_of_the_instance_is_created(self, shelf):
        label = shelf.labels.get(text="old")
        assert values_of_row(AlwaysLabel.objects.get()) == values_of_row(label) | {
            "object_id": str(shelf.pk)
        }
        assert label.content_object == shelf
        assert shelf.labels.get(text="old") == label
        assert AlwaysLabel.objects.count() == 1

    def test_statements_are_those_of_get_or_create(self, shelf):
        twin = PlainShelf.objects.get()
        for call in (shelf.labels, twin.labels):
            call.exists()  # The content types are cached now.
        for count in (4, 1):
            expected = sql_of(lambda: twin.labels.get_or_create(text="old"))
            assert len(expected) == count
            assert sql_of(lambda: shelf.labels.get(text="old")) == expected

    def test_label_of_another_does_not_count(self, shelf):
        drama = AlwaysShelf.objects.create(name="Drama")
        reader = AlwaysLanguage.objects.create(iso=str(shelf.pk), name="x")
        labels = {obj.labels.get(text="old") for obj in (shelf, drama, reader)}
        assert set(AlwaysLabel.objects.all()) == labels
        assert len(labels) == 3

    def test_async_and_database(self, shelf):
        label = run(shelf.labels.aget, text="old")
        assert shelf.labels.using("default").get(text="old") == label
        other = shelf.labels.using("default").get(text="new")
        assert set(AlwaysLabel.objects.all()) == {label, other}

    def test_prefetched(self, shelf):
        old = shelf.labels.get(text="old")
        [shelf] = AlwaysShelf.objects.prefetch_related("labels")
        assert shelf.labels.get(text="old") == old
        new = shelf.labels.get(text="new")
        assert new.content_object == shelf
        assert list(shelf.labels.all()) == [old]
        assert set(AlwaysLabel.objects.all()) == {old, new}

    @pytest.mark.parametrize(
        "call",
        [
            lambda shelf: shelf.labels.get(text__iexact="old"),
            lambda shelf: shelf.labels.get(),
            lambda shelf: shelf.labels.get(text="old", object_id="7"),
            lambda shelf: shelf.labels.get(text="old", content_type=7),
            lambda shelf: shelf.labels.get(text="old", content_object=shelf),
            lambda shelf: shelf.labels.filter(text="old").get(),
            lambda shelf: shelf.labels.filter(object_id=1).get(text="old"),
            lambda shelf: shelf.labels.all().get(text="old"),
            lambda shelf: type(shelf)(pk=shelf.pk).labels.get(text="old"),
            lambda shelf: type(shelf)().labels.get(text="old"),
        ],
    )
    def test_any_other_get_is_djangos(self, shelf, call):
        expected = outcome_of_twin(lambda: call(PlainShelf.objects.get()))
        assert outcome_of_twin(lambda: call(shelf)) == expected
        assert not AlwaysLabel.objects.exists()

    def test_rule_of_the_queryset_alone_is_djangos(self, shelf):
        """It cannot see the relation in the filter."""
        with pytest.raises(AlwaysLabel.DoesNotExist):
            shelf.labels(manager="rule").get(text="old")


class TestManyToManyManager:
    def test_get_is_djangos(self):
        make_twins()
        for reader, volume in (
            (PlainReader, PlainVolume),
            (AlwaysReader, AlwaysVolume),
        ):
            volume.objects.get(pages=1).readers.add(reader.objects.create(name="Ann"))
        twin = PlainVolume.objects.get().readers
        readers = AlwaysVolume.plain.get().readers
        for call in (
            lambda manager: manager.get(name="Ann"),
            lambda manager: manager.get(name="Bob"),
            lambda manager: manager.all().get(name="Bob"),
        ):
            expected = outcome_of_twin(lambda: call(twin).name)
            assert outcome_of_twin(lambda: call(readers).name) == expected
        assert AlwaysReader.objects.count() == 1

    def test_prefetched(self):
        make_twins()
        [volume] = AlwaysVolume.plain.prefetch_related("readers")
        with pytest.raises(AlwaysReader.DoesNotExist):
            volume.readers.get(name="Bob")
        assert not AlwaysReader.objects.exists()


class TestSteps:
    """What get_or_create() and its neighbours do to the queryset."""

    def test_get_or_create_does_not_recurse(self, volumes):
        for manager in (volumes, AlwaysVolume.objects, AlwaysVolume.hand_made):
            pages = manager.name.__len__()
            volume, created = manager.get_or_create(
                pages=pages, defaults={"title": "Emma"}
            )
            assert (volume.title, created) == ("Emma", True)
            assert manager.get_or_create(pages=pages) == (volume, False)
            assert manager.update_or_create(
                pages=pages, defaults={"title": "Odes"}
            ) == (volume, False)
            assert AlwaysVolume.plain.get(pages=pages).title == "Odes"

    def test_queryset_is_left_as_it_was(self):
        """Threads may share it."""
        queryset = AlwaysQuerySet(AlwaysVolume)
        state = dict(vars(queryset))
        queryset.get(title="Emma")
        assert vars(queryset) == state | {"_for_write": True}
        assert queryset.get(title="Odes").title == "Odes"

    def test_queryset_that_does_not_clone(self):
        """
        From 6.1, Django's related managers change their queryset in place.
        """
        queryset = AlwaysQuerySet(AlwaysVolume)
        avoid = getattr(queryset, "_avoid_cloning", lambda: nullcontext(queryset))
        with avoid():
            volume, created = queryset.get_or_create(title="Emma")
            assert created
        assert queryset.get(title="Odes") != volume
        assert AlwaysVolume.plain.count() == 2

    def test_overridden_methods_are_reached(self):
        calls = []

        class QuerySet(AlwaysQuerySet):
            def get(self, *args, **kwargs):
                calls.append("get")
                return super().get(*args, **kwargs)

            def create(self, **kwargs):
                calls.append("create")
                return super().create(pages=5, **kwargs)

            def get_or_create(self, defaults=None, **kwargs):
                calls.append("get_or_create")
                return super().get_or_create(defaults, **kwargs)

        manager = AlwaysManager.from_queryset(QuerySet)()
        manager.model = AlwaysVolume
        manager.name = "manager"
        for get in (manager.get, QuerySet(AlwaysVolume).get):
            calls.clear()
            assert get(title=f"Emma {get!r:.9}").pages == 5
            # A project's own get() may add a condition, but not twice.
            assert calls == ["get", "get_or_create", "create"]
            calls.clear()
            with pytest.raises(AlwaysVolume.DoesNotExist):
                get(title__iexact="x")
            assert calls == ["get"]
            AlwaysVolume.plain.all().delete()

    def test_known_related_objects_hints_and_sticky_filter(self, shelf):
        queryset = shelf.volumes(manager="rule").all()._next_is_sticky()
        volume = queryset.get(title="Emma")
        assert queryset.get(title="Emma") == volume
        assert queryset.get(title="Emma").shelf is shelf

    def test_writes_where_the_router_says(self, shelf):
        with override_settings(DATABASE_ROUTERS=[ReadFromOther()]):
            for manager, name in (
                (AlwaysVolume.objects, "title"),
                (AlwaysVolume.rule, "title"),
                (shelf.volumes, "title"),
                (shelf.labels, "text"),
            ):
                assert manager.get(**{name: "Emma"})._state.db == "default"
                for lookup in (name, f"{name}__exact"):
                    with CaptureQueriesContext(connections["other"]) as queries:
                        manager.get(**{lookup: "Emma"})
                    assert len(queries) == 0
                with CaptureQueriesContext(connections["other"]) as queries:
                    with pytest.raises(manager.model.DoesNotExist):
                        manager.get(**{f"{name}__iexact": "missing"})
                assert len(queries) == 1
            assert router.db_for_read(AlwaysVolume) == "other"

    def test_plain_twin_has_the_same_columns(self):
        """Facts on which the comparisons of this module depend."""
        for always, plain in (
            (AlwaysVolume, PlainVolume),
            (AlwaysShelf, PlainShelf),
            (AlwaysLabel, PlainLabel),
            (AlwaysReader, PlainReader),
            (AlwaysLanguage, PlainLanguage),
        ):
            assert [f.attname for f in always._meta.concrete_fields] == [
                f.attname for f in plain._meta.concrete_fields
            ]


class ReadFromOther:
    def db_for_read(self, model, **hints):
        return "default" if model._meta.app_label == "contenttypes" else "other"

    def db_for_write(self, model, **hints):
        return "default"

    def allow_relation(self, obj1, obj2, **hints):
        return True
