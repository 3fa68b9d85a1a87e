"""Other packages in ordinary use, with our managers."""

import django_filters
import pytest
import tablib
from django.db import IntegrityError, models, transaction
from django_filters.rest_framework import DjangoFilterBackend
from import_export import fields, resources, widgets
from mptt.managers import TreeManager
from mptt.querysets import TreeQuerySet
from polymorphic.managers import PolymorphicManager
from polymorphic.query import PolymorphicQuerySet
from rest_framework import serializers, viewsets
from rest_framework.test import APIRequestFactory
from simple_history.utils import (
    bulk_create_with_history,
    bulk_update_with_history,
    update_change_reason,
)

from getorcreateplus import PlusManager, PlusQuerySet

from ..models import (
    Article,
    CachedAnimal,
    CachedCat,
    Contract,
    Maker,
    Novel,
    Part,
    Place,
    PlusTreeQuerySet,
    Section,
    SectionQuerySet,
    Song,
    Work,
    WorkQuerySet,
)

pytestmark = pytest.mark.django_db


class PlusFirst(PlusManager, TreeManager):
    pass


class TreeFirst(TreeManager, PlusManager):
    pass


class PolymorphicFirst(PolymorphicManager, PlusManager):
    pass


class TestManagersAlone:
    @pytest.mark.parametrize(
        ("manager", "model", "queryset"),
        [
            (PlusFirst, Place, PlusQuerySet),
            (TreeFirst, Place, TreeQuerySet),
            (PolymorphicFirst, Work, PolymorphicQuerySet),
        ],
    )
    def test_two_managers_have_the_queryset_of_one(self, manager, model, queryset):
        """
        So the queryset class inherits from both, as in models/neighbours.py.
        """
        manager = manager()
        manager.model = model
        # TreeManager orders by them.
        manager.tree_model = model
        assert type(manager.get_queryset()) is queryset


class TestModelUtils:
    def test_fields(self, django_assert_num_queries):
        article, created = Article.objects.get_or_create(
            title="x", defaults={"body": "a\n<!-- split -->\nb"}
        )
        assert created
        with django_assert_num_queries(0):
            hit, created = Article.objects.get_or_create(title="x")
        assert not created
        stored = Article.objects.filter(title="x").get()
        for name in ("pk", "created", "modified", "status_changed"):
            assert getattr(hit, name) == getattr(stored, name) is not None
        assert (hit.body.content, hit.body.has_more) == (article.body.content, True)
        assert hit.body.excerpt.strip() == "a"

    def test_fields_that_update_themselves(self):
        article = Article.objects.get(title="x")
        before = article.modified, article.status_changed
        Article.objects.update_or_create({"body": "y"}, title="x")
        article, _ = Article.objects.get_or_create(title="x")
        assert (article.modified > before[0], article.status_changed) == (
            True,
            before[1],
        )
        article.status = "out"
        article.save()
        article, _ = Article.objects.get_or_create(title="x")
        assert article.status_changed > before[1]

    def test_inheritance_queryset_asks_the_database(self, django_assert_num_queries):
        """
        Its rows may belong to a subclass, which their table does not show.
        """
        cat = CachedCat.objects.create(name="Tom")
        animal, created = CachedAnimal.objects.get_or_create(name="Tom")
        assert (type(animal), animal.pk, created) == (CachedAnimal, cat.pk, False)
        for queryset in (
            CachedAnimal.objects,
            CachedAnimal.objects.select_subclasses(),
        ):
            queryset.get_or_create(name="Tom")
            with django_assert_num_queries(1):
                queryset.get_or_create(name="Tom")
        animal, _ = queryset.get_or_create(name="Tom")
        assert (type(animal), animal) == (CachedCat, cat)
        assert CachedAnimal.objects.get_subclass(name="Tom") == cat
        cat.lives -= 1
        cat.name = "Tim"
        cat.save()
        assert CachedAnimal.objects.get_or_create(name="Tim")[0].pk == cat.pk
        assert CachedAnimal.objects.get_or_create(name="Tom")[1]


@pytest.fixture(params=["objects", "theirs"])
def works(request):
    return getattr(Work, request.param)


class TestPolymorphic:
    def test_get_or_create_returns_the_subclass(self, works):
        novel, created = Novel.objects.get_or_create(title="Emma", pages=400)
        assert (type(novel), created) == (Novel, True)
        assert isinstance(works.all(), WorkQuerySet)
        found, created = works.get_or_create(title="Emma")
        assert (type(found), found.pages, created) == (Novel, 400, False)
        assert Novel.objects.get_or_create(title="Emma") == (novel, False)
        song, created = Song.objects.update_or_create({"key": "D"}, title="Ode")
        assert (type(song), created) == (Song, True)
        found, created = works.update_or_create({"title": "Odes"}, title="Ode")
        assert (type(found), found.key, created) == (Song, "D", False)
        assert list(works.instance_of(Song)) == [song]
        work, created = works.get_or_create(title="Plain")
        assert (type(work), created) == (Work, True)
        assert [type(w) for w in works.order_by("pk")] == [Novel, Song, Work]

    def test_database_is_asked(self, works, django_assert_num_queries):
        """The table of a row does not show which subclass it has."""
        Novel.objects.create(title="Emma")
        works.get_or_create(title="Emma")
        with django_assert_num_queries(2):  # Its own table, and the subclass's.
            found, _ = works.get_or_create(title="Emma")
        assert type(found) is Novel
        queryset = works.non_polymorphic()
        queryset.get_or_create(title="Emma")
        with django_assert_num_queries(0):
            found, _ = queryset.get_or_create(title="Emma")
        assert type(found) is Work
        Novel.objects.get(title="Emma").delete()
        assert queryset.get_or_create(title="Emma")[1]

    def test_get_creates(self):
        work = Work.objects.get(title="x")
        assert (type(work), Work.objects.count()) == (Work, 1)
        with pytest.raises(Work.DoesNotExist):
            Work.objects.all().get(title="y")


@pytest.fixture(params=["objects", "theirs"])
def places(request):
    return getattr(Place, request.param)


class TestMPTT:
    def test_tree(self, places, django_assert_num_queries):
        assert isinstance(places.all(), PlusTreeQuerySet)
        world, created = places.get_or_create(name="World")
        assert created
        asia, _ = places.get_or_create(name="Asia", parent=world)
        china, _ = asia.children.get_or_create(name="China")
        # The changes of the parents by adding a child are seen.
        world, created = places.get_or_create(name="World")
        assert not created
        assert list(world.get_descendants()) == [asia, china]
        assert (world.lft, world.rght) == (1, 6)
        with django_assert_num_queries(0):
            assert places.get_or_create(name="World") == (world, False)
        places.get_or_create(name="China")
        with django_assert_num_queries(0):
            china, _ = places.get_or_create(name="China")
        assert list(china.get_ancestors()) == [world, asia]
        assert list(places.root_nodes()) == [world]

    def test_moved_nodes_are_not_stale(self, places):
        world = places.get_or_create(name="World")[0]
        asia = places.get_or_create(name="Asia", parent=world)[0]
        china = places.get_or_create(name="China", parent=world)[0]
        for name in ("World", "Asia", "China"):
            places.get_or_create(name=name)
        china.move_to(asia)
        self.assert_fresh(places)
        places.get_or_create(name="Asia")[0].delete()
        self.assert_fresh(places)
        assert [p.name for p in places.all()] == ["World"]
        places.rebuild()
        self.assert_fresh(places)

    def assert_fresh(self, places):
        for place in places.all():
            hit, created = places.get_or_create(name=place.name)
            assert not created
            for field in Place._meta.concrete_fields:
                assert getattr(hit, field.attname) == getattr(place, field.attname)

    def test_get_creates_a_node(self):
        world = Place.objects.get(name="World")
        asia = world.children.get(name="Asia")
        world.refresh_from_db()
        assert list(world.get_children()) == [asia]
        with pytest.raises(Place.DoesNotExist):
            Place.objects.all().get(name="Mars")


class TestTreebeard:
    def test_tree(self, django_assert_num_queries):
        assert isinstance(Section.objects.all(), SectionQuerySet)
        root = Section.objects.add_root({"name": "root"})
        Section.objects.get_or_create(name="root")
        child = Section.objects.add_child(root, {"name": "child"})
        # The change of the parent by adding a child, with SQL, is seen.
        hit, created = Section.objects.get_or_create(name="root")
        assert (hit.numchild, created) == (1, False)
        with django_assert_num_queries(0):
            hit, _ = Section.objects.get_or_create(name="root")
        assert list(Section.objects.get_children(hit)) == [child]
        other = Section.objects.add_root({"name": "other"})
        Section.objects.get_or_create(name="child")
        Section.objects.move(child, other, "first-child")
        moved, created = Section.objects.get_or_create(name="child")
        assert not created
        assert (Section.objects.get_parent(moved), moved.depth) == (other, 2)
        assert Section.objects.get_or_create(name="root")[0].numchild == 0
        Section.objects.filter(name="other").delete()
        assert not Section.objects.filter(name="child").exists()
        assert Section.objects.find_problems() == ([], [], [], [], [])

    def test_missing_node_is_treebeards_error(self):
        """
        Only add_root() and similar methods determine the place of a node.
        """
        for manager in (models.Manager(), Section.objects):
            manager.model = Section
            with pytest.raises(IntegrityError), transaction.atomic():
                manager.get_or_create(name="x")


class TestSimpleHistory:
    def history(self):
        records = Contract.history.order_by("history_id")
        return list(records.values_list("number", "state", "history_type"))

    def test_records(self):
        for _ in range(2):
            contract, _ = Contract.objects.get_or_create(number="1")
        assert self.history() == [("1", "open", "+")]
        Contract.objects.update_or_create({"state": "shut"}, number="1")
        contract = Contract.objects.get(number="2")
        contract.delete()
        assert self.history() == [
            ("1", "open", "+"),
            ("1", "shut", "~"),
            ("2", "open", "+"),
            ("2", "open", "-"),
        ]

    def test_hit_has_its_history(self):
        Contract.objects.get_or_create(number="1")
        hit, _ = Contract.objects.get_or_create(number="1")
        assert hit.history.count() == 1
        hit.state = "shut"
        hit._change_reason = "done"
        hit.save()
        hit, _ = Contract.objects.get_or_create(number="1")
        assert (hit.state, hit.history.first().history_change_reason) == (
            "shut",
            "done",
        )
        update_change_reason(hit, "paid")
        assert hit.history.first().history_change_reason == "paid"
        # It is unchanged.
        hit.history.last().instance.save()
        assert Contract.objects.get_or_create(number="1")[0].state == "open"
        assert [r.state for r in hit.history.all()] == ["open", "shut", "open"]

    def test_bulk(self):
        contracts = bulk_create_with_history(
            [Contract(number=number) for number in "12"], Contract
        )
        hit, created = Contract.objects.get_or_create(number="1")
        assert not created
        for contract in contracts:
            contract.state = "shut"
        bulk_update_with_history(contracts, Contract, ["state"])
        hit, _ = Contract.objects.get_or_create(number="1")
        assert (hit.state, hit.history.count()) == ("shut", 2)


class PartFilter(django_filters.FilterSet):
    maker = django_filters.ModelChoiceFilter(
        queryset=Maker.objects.all(), to_field_name="name"
    )

    class Meta:
        model = Part
        fields = {"code": ["exact", "startswith"], "price": ["gte"]}


class TestFilter:
    def test_filters(self):
        acme = Maker.objects.get(name="Acme")
        bolt, _ = Part.objects.get_or_create(code="bolt", price=2, maker=acme)
        Part.objects.get_or_create(code="nut", price=1)
        for data, expected in (
            ({"code": "bolt"}, [bolt]),
            ({"code": "missing"}, []),
            ({"code__startswith": "b"}, [bolt]),
            ({"price__gte": 2}, [bolt]),
            ({"maker": "Acme"}, [bolt]),
        ):
            filtered = PartFilter(data, queryset=Part.objects.all())
            assert list(filtered.qs) == expected
            # A manager is possible, too.
            assert list(PartFilter(data, queryset=Part.objects).qs) == expected
        assert Part.objects.count() == 2

    def test_missing_choice_is_not_created(self):
        filtered = PartFilter({"maker": "Missing"}, queryset=Part.objects.all())
        assert not filtered.is_valid()
        assert not Maker.objects.exists()

    def test_filtered_queryset_is_a_lookup(self, django_assert_num_queries):
        Part.objects.create(code="bolt", price=2)
        for queries in (1, 0):
            queryset = PartFilter({"code": "bolt"}, queryset=Part.objects.all()).qs
            with django_assert_num_queries(queries):
                assert not queryset.get_or_create(price=2)[1]


class MakerWidget(widgets.ForeignKeyWidget):
    def clean(self, value, row=None, **kwargs):
        return Maker.objects.get_or_create(name=value)[0]


class PartResource(resources.ModelResource):
    maker = fields.Field("maker", "maker", widget=MakerWidget(Maker, "name"))

    class Meta:
        model = Part
        import_id_fields = ["code"]
        fields = ["code", "price", "maker"]


class BulkPartResource(PartResource):
    class Meta(PartResource.Meta):
        use_bulk = True


class MakerResource(resources.ModelResource):
    class Meta:
        model = Maker
        import_id_fields = ["name"]
        fields = ["name"]


class StrictPartResource(PartResource):
    maker = fields.Field(
        "maker", "maker", widget=widgets.ForeignKeyWidget(Maker, "name")
    )


def imported(resource, *rows, headers=("code", "price", "maker")):
    data = tablib.Dataset(*rows, headers=headers)
    return resource().import_data(data, raise_errors=True).totals


class TestImportExport:
    @pytest.mark.parametrize("resource", [PartResource, BulkPartResource])
    def test_import(self, resource):
        hit, _ = Part.objects.get_or_create(code="bolt")
        Part.objects.get_or_create(code="bolt")
        totals = imported(resource, ("bolt", 2, "Acme"), ("nut", 1, "Acme"))
        assert (totals["new"], totals["update"]) == (1, 1)
        bolt, created = Part.objects.get_or_create(code="bolt")
        assert (bolt, bolt.price, bolt.maker.name, created) == (hit, 2, "Acme", False)
        assert not Part.objects.get_or_create(code="nut")[1]
        assert (Part.objects.count(), Maker.objects.count()) == (2, 1)
        assert resource().export(Part.objects.order_by("code")).csv.splitlines() == [
            "code,price,maker",
            "bolt,2,Acme",
            "nut,1,Acme",
        ]

    def test_makers_are_asked_of_the_cache(self, django_assert_num_queries):
        Maker.objects.get_or_create(name="Acme")
        widget = MakerWidget(Maker, "name")
        with django_assert_num_queries(0):
            assert widget.clean("Acme").name == "Acme"

    def test_rows_are_not_made_by_looking(self):
        totals = imported(MakerResource, ("Acme",), headers=("name",))
        assert (totals["new"], totals["update"]) == (1, 0)
        totals = imported(MakerResource, ("Acme",), headers=("name",))
        assert (totals["new"], totals["skip"] + totals["update"]) == (0, 1)

    def test_missing_maker_is_an_error(self):
        data = tablib.Dataset(("bolt", 1, "X"), headers=("code", "price", "maker"))
        result = StrictPartResource().import_data(data)
        assert result.has_errors() or result.has_validation_errors()
        assert not Maker.objects.exists()

    def test_dry_run_leaves_nothing(self):
        Part.objects.get_or_create(code="bolt")
        data = tablib.Dataset(("bolt", 7, "X"), headers=("code", "price", "maker"))
        PartResource().import_data(data, dry_run=True, use_transactions=True)
        hit, created = Part.objects.get_or_create(code="bolt")
        assert (hit.price, hit.maker, created) == (0, None, False)
        assert Maker.objects.get_or_create(name="X")[1]


class PartSerializer(serializers.ModelSerializer):
    # The manager itself: REST framework takes its all().
    maker = serializers.SlugRelatedField("name", queryset=Maker.objects)

    class Meta:
        model = Part
        fields = ["code", "price", "maker"]


class PartView(viewsets.ModelViewSet):
    queryset = Part.objects.all()
    serializer_class = PartSerializer
    lookup_field = "code"
    filter_backends = [DjangoFilterBackend]
    filterset_class = PartFilter
    authentication_classes = []
    permission_classes = []


def call(method, action, data=None, **kwargs):
    request = getattr(APIRequestFactory(), method)("/", data, format="json")
    response = PartView.as_view({method: action})(request, **kwargs)
    return response.status_code, response.data


class TestRESTFramework:
    def test_viewset(self):
        Maker.objects.get(name="Acme")
        bolt = {"code": "bolt", "price": 2, "maker": "Acme"}
        assert call("post", "create", bolt) == (201, bolt)
        assert call("post", "create", bolt)[0] == 400
        hit, created = Part.objects.get_or_create(code="bolt")
        assert (hit.price, hit.maker.name, created) == (2, "Acme", False)
        status, data = call("patch", "partial_update", {"price": 3}, code="bolt")
        assert (status, data["price"]) == (200, 3)
        assert Part.objects.get_or_create(code="bolt")[0].price == 3
        request = APIRequestFactory().get("/", {"price__gte": 3})
        assert PartView.as_view({"get": "list"})(request).data == [data]
        assert call("delete", "destroy", code="bolt")[0] == 204
        assert call("get", "retrieve", code="bolt")[0] == 404
        assert Part.objects.get_or_create(code="bolt")[1]

    def test_missing_rows_are_not_created(self):
        nut = {"code": "nut", "price": 1, "maker": "Missing"}
        status, errors = call("post", "create", nut)
        assert (status, list(errors)) == (400, ["maker"])
        assert not Maker.objects.exists()
