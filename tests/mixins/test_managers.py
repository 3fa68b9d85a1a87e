"""The ready-made managers, every order of the mixins, and their neighbours."""

import inspect
import itertools
import pickle

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import BaseUserManager
from django.db import migrations, models
from django.db.migrations.state import ModelState
from django.db.migrations.writer import MigrationWriter
from model_utils.managers import (
    InheritanceManagerMixin,
    InheritanceQuerySet,
    SoftDeletableManagerMixin,
)

import getorcreateplus
from getorcreateplus import (
    AlwaysGetOrCreateMixin,
    AlwaysManager,
    AlwaysQuerySet,
    CachedGetOrCreateMixin,
    CachedManager,
    CachedNonAtomicManager,
    CachedNonAtomicQuerySet,
    CachedQuerySet,
    NonAtomicGetOrCreateMixin,
    NonAtomicManager,
    NonAtomicQuerySet,
    PlusManager,
    PlusQuerySet,
)

from ..models import (
    AlwaysAnimal,
    AlwaysDog,
    AlwaysGenre,
    AlwaysIssue,
    AlwaysLabel,
    AlwaysMood,
    AlwaysNote,
    AlwaysReader,
    AlwaysShelf,
    AlwaysUser,
    AlwaysVolume,
    NaturalKeyManager,
    NaturalKeyQuerySet,
    PlainVolume,
    UserManager,
)
from ..support.marks import mostly_slow
from ..support.twins import outcome_of_twin, values_of_row

pytestmark = pytest.mark.django_db

MIXINS = (
    CachedGetOrCreateMixin,
    AlwaysGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
)
ORDERS = [
    order
    for length in (1, 2, 3)
    for subset in itertools.combinations(MIXINS, length)
    for order in itertools.permutations(subset)
]
QUERYSETS = [
    CachedQuerySet,
    AlwaysQuerySet,
    NonAtomicQuerySet,
    CachedNonAtomicQuerySet,
    PlusQuerySet,
]
MANAGERS = [
    CachedManager,
    AlwaysManager,
    NonAtomicManager,
    CachedNonAtomicManager,
    PlusManager,
]


def bound(manager, model):
    """Return the manager after contribute_to_class()."""
    manager.model = model
    manager.name = "manager"
    return manager


class TestManagers:
    @pytest.mark.parametrize(
        ("manager", "queryset"), list(zip(MANAGERS, QUERYSETS, strict=True))
    )
    def test_managers(self, manager, queryset):
        assert issubclass(manager, models.Manager)
        assert manager.use_for_related_fields is True
        assert type(bound(manager(), AlwaysVolume).get_queryset()) is queryset

    def test_plus_queryset_has_the_mixins_in_order(self):
        assert PlusQuerySet.__bases__ == (*MIXINS, models.QuerySet)

    @pytest.mark.parametrize("manager", MANAGERS)
    def test_manager_deconstructs(self, manager):
        path = f"getorcreateplus.managers.{manager.__name__}"
        assert manager().deconstruct() == (False, path, None, (), {})
        assert manager() == manager()

    @pytest.mark.parametrize("queryset", QUERYSETS)
    def test_as_manager_deconstructs(self, queryset):
        manager = queryset.as_manager()
        path = f"getorcreateplus.query.{queryset.__name__}"
        assert isinstance(manager, models.Manager)
        # django-stubs uses Django's name of the class.
        assert type(manager).__name__ == f"ManagerFrom{queryset.__name__}"
        assert manager.deconstruct() == (True, None, path, None, None)

    def test_as_manager_is_for_querysets_only(self):
        assert AlwaysQuerySet.as_manager.queryset_only is True
        for manager in (AlwaysManager, AlwaysQuerySet.as_manager()):
            assert not hasattr(manager, "as_manager")

    @pytest.mark.parametrize("make", [*MANAGERS, *(q.as_manager for q in QUERYSETS)])
    def test_migration_writer(self, make):
        manager = make()
        manager.use_in_migrations = True
        options = {"managers": [("objects", manager)]}
        operation = migrations.CreateModel("Book", [], **options)
        migration = type("Migration", (migrations.Migration,), {})("0001", "tests")
        migration.operations = [operation]
        namespace = {}
        exec(MigrationWriter(migration).as_string(), namespace)
        [operation] = namespace["Migration"].operations
        [(name, written)] = operation.managers
        assert (name, written.deconstruct()) == ("objects", manager.deconstruct())
        assert written._queryset_class is manager._queryset_class

    def test_migration_state_clones_the_manager(self):
        manager = bound(PlusManager(), AlwaysVolume)
        state = ModelState("tests", "Book", [], managers=[("objects", manager)])
        [(name, cloned)] = state.construct_managers()
        assert (name, type(cloned)) == ("objects", PlusManager)
        assert cloned is not manager

    def test_related_managers_are_the_default_managers(self):
        shelf = AlwaysShelf.objects.create(name="Poetry")
        volume = AlwaysVolume.objects.create(title="Odes", shelf=shelf)
        for manager, model in (
            (shelf.volumes, AlwaysVolume),
            (shelf.labels, AlwaysLabel),
            (volume.readers, AlwaysReader),
        ):
            assert isinstance(manager, AlwaysManager)
            assert isinstance(manager.all(), AlwaysQuerySet)
            assert manager.model is model

    @pytest.mark.parametrize("queryset", QUERYSETS)
    def test_querysets_pickle(self, queryset):
        volume = AlwaysVolume.objects.create(title="Odes")
        pickled = pickle.dumps(queryset(AlwaysVolume).filter(title="Odes"))
        assert list(pickle.loads(pickled)) == [volume]
        shelf = AlwaysShelf.objects.create(name="Poetry")
        pickled = pickle.loads(pickle.dumps(shelf.labels.using("default")))
        assert pickled.get(text="old").content_object == shelf

    def test_from_queryset_of_another_kind(self):
        """AlwaysManager can create only what its querysets can create."""
        manager = bound(AlwaysManager.from_queryset(models.QuerySet)(), AlwaysVolume)
        assert type(manager.get_queryset()) is models.QuerySet
        with pytest.raises(AlwaysVolume.DoesNotExist):
            manager.get(title="Emma")

    def test_using_a_database_by_name_only(self):
        """Admin's raw-id widget passes None."""
        with pytest.raises(AlwaysVolume.DoesNotExist):
            AlwaysVolume.objects.using(None).get(title="Emma")
        volume = AlwaysVolume.objects.using("default").get(title="Emma")
        assert AlwaysVolume.plain.get() == volume

    @pytest.mark.parametrize("name", ["all", "filter", "order_by", "only", "reverse"])
    def test_queryset_of_a_database(self, name):
        """Only get() of using() itself creates a row, as of the manager."""
        shelf = AlwaysShelf.objects.get(name="a")
        for manager in (AlwaysVolume.objects, shelf.volumes):
            for queryset in (manager, manager.using("default")):
                other = getattr(queryset, name)()
                with pytest.raises(AlwaysVolume.DoesNotExist):
                    other.get(title="Emma")
        assert not AlwaysVolume.plain.exists()

    def test_names_are_exported(self):
        names = {c.__name__ for c in (*MIXINS, *QUERYSETS, *MANAGERS)}
        assert set(getorcreateplus.__all__) >= names


def public(cls):
    return [name for name in dir(cls) if not name.startswith("_")]


class TestDjangosInterface:
    @pytest.mark.parametrize("queryset", [*QUERYSETS, *MANAGERS])
    def test_signatures(self, queryset):
        is_manager = issubclass(queryset, models.Manager)
        django = models.Manager if is_manager else models.QuerySet
        for name in public(django):
            ours, theirs = getattr(queryset, name), getattr(django, name)
            if callable(theirs):
                assert inspect.signature(ours) == inspect.signature(theirs), name
            alters_data = getattr(theirs, "alters_data", False)
            assert getattr(ours, "alters_data", False) is alters_data, name

    @pytest.mark.parametrize("queryset", QUERYSETS)
    def test_async_twins(self, queryset):
        for name in public(models.QuerySet):
            ours, theirs = getattr(queryset, name), getattr(models.QuerySet, name)
            assert inspect.iscoroutinefunction(ours) is inspect.iscoroutinefunction(
                theirs
            )

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (AlwaysQuerySet, models.QuerySet),
            (NonAtomicQuerySet, models.QuerySet),
            (AlwaysManager, models.Manager),
            (PlusManager, models.Manager),
        ],
    )
    def test_docstrings(self, ours, theirs):
        # CachedGetOrCreateMixin documents an option that Django does not have.
        cached = {"get_or_create"} if ours is PlusManager else set()
        for name in set(public(theirs)) - cached:
            if callable(getattr(theirs, name)):
                assert inspect.getdoc(getattr(ours, name)) == inspect.getdoc(
                    getattr(theirs, name)
                ), name

    def test_related_managers_keep_alters_data(self):
        shelf = AlwaysShelf.objects.create(name="Poetry")
        for manager in (shelf.volumes, shelf.labels):
            for name in ("create", "get_or_create", "update_or_create"):
                assert getattr(manager, name).alters_data is True
                assert getattr(manager, f"a{name}").alters_data is True
            assert not hasattr(manager.get, "alters_data")


def run(querysets):
    """Call get_or_create() and similar methods, in every possible way."""
    results = []
    for step in (
        lambda qs: qs.get_or_create(title="Odes", defaults={"pages": lambda: 1}),
        lambda qs: qs.get_or_create(title="Odes", defaults={"pages": 2}),
        lambda qs: qs.get_or_create(title__iexact="odes"),
        lambda qs: qs.get_or_create(title="Odes", pages__gt=5),
        lambda qs: qs.filter(pages=7).get_or_create(title="Ruth"),
        lambda qs: qs.update_or_create(title="Odes", pages=1),
        lambda qs: qs.update_or_create({"pages": 3}, title="Emma"),
        lambda qs: qs.update_or_create({"pages": 4}, {"pages": 9}, title="Emma"),
        lambda qs: qs.update_or_create({"pages": 4}, {"pages": 9}, title="Dune"),
        lambda qs: qs.get(title="Odes"),
        lambda qs: qs.get(title="Dune"),
        lambda qs: qs.get(pages=4),
        lambda qs: qs.get(title__iexact="missing"),
        lambda qs: qs.filter(title="missing").get(),
        lambda qs: qs.get_or_create(pages="x"),
        lambda qs: qs.get_or_create(titel="x"),
        lambda qs: qs.get_or_create({"titel": "x"}, title="x"),
    ):
        results += [outcome_of_twin(lambda: tell(step(make()))) for make in querysets]
    return results


def tell(result):
    if isinstance(result, tuple):
        obj, created = result
        obj.refresh_from_db()
        return values_of_row(obj) | {"id": 0, "created": created}
    return values_of_row(result) | {"id": 0}


@pytest.mark.parametrize(
    "order",
    mostly_slow(ORDERS, quick=5),
    ids=lambda o: "-".join(m.__name__[0] for m in o),
)
class TestOrders:
    def querysets(self, order):
        """Each way to the queryset class."""
        queryset = type("QuerySet", (*order, models.QuerySet), {})
        base = AlwaysManager if AlwaysGetOrCreateMixin in order else models.Manager
        return [
            lambda: queryset(AlwaysVolume),
            lambda: bound(models.Manager.from_queryset(queryset)(), AlwaysVolume),
            lambda: bound(queryset.as_manager(), AlwaysVolume),
            lambda: bound(base.from_queryset(queryset)(), AlwaysVolume),
        ]

    def test_same_as_plain_django(self, order):
        expected = run([lambda: PlainVolume.objects] * 4)
        assert run(self.querysets(order)) == expected
        rows = PlainVolume.objects.order_by("id").values_list("title", "pages")
        assert list(
            AlwaysVolume.plain.order_by("id").values_list("title", "pages")
        ) == (list(rows))

    def test_get_creates_with_the_mixin_alone(self, order):
        for number, make in enumerate(self.querysets(order)):
            title = f"Emma {number}"
            if AlwaysGetOrCreateMixin in order:
                volume = make().get(title=title)
                assert AlwaysVolume.plain.get(title=title) == volume
                assert make().get(title=title) == volume
                assert make().get_or_create(title=title) == (volume, False)
                assert AlwaysVolume.plain.count() == number + 1
            else:
                with pytest.raises(AlwaysVolume.DoesNotExist):
                    make().get(title=title)

    def test_savepoints(self, order, django_assert_num_queries):
        """SELECT and INSERT, and the savepoint unless it is omitted."""
        extra = 0 if NonAtomicGetOrCreateMixin in order else 2
        queryset = self.querysets(order)[0]()
        with django_assert_num_queries(2 + extra):
            queryset.get_or_create(title="Emma")
        if AlwaysGetOrCreateMixin in order:
            with django_assert_num_queries(2 + extra):
                queryset.get(title="Odes")

    def test_async(self, order):
        queryset = self.querysets(order)[0]()
        volume, created = async_to_sync(queryset.aget_or_create)(title="Emma")
        assert created
        update = async_to_sync(queryset.aupdate_or_create)
        assert update({"pages": 3}, title="Emma") == (volume, False)
        assert async_to_sync(queryset.aget)(title="Emma").pages == 3

    def test_overridden_create_and_save_are_reached(self, order, monkeypatch):
        calls = []

        class QuerySet(*order, models.QuerySet):
            def create(self, **kwargs):
                calls.append(kwargs)
                return super().create(**kwargs)

        class Manager(models.Manager.from_queryset(QuerySet)):
            def get_queryset(self):
                return super().get_queryset().order_by("title")

        def save(self, **kwargs):
            calls.append("save")
            models.Model.save(self, **kwargs)

        monkeypatch.setattr(AlwaysVolume, "save", save)
        manager = bound(Manager(), AlwaysVolume)
        manager.get_or_create(title="Emma")
        assert calls == [{"title": "Emma"}, "save"]
        if AlwaysGetOrCreateMixin in order:
            manager.get(title="Odes")
            assert calls[2:] == [{"title": "Odes"}, "save"]


class CooperativeManager(NaturalKeyManager):
    def get_by_natural_key(self, name):
        return super().get_by_natural_key(name)

    async def aget_by_natural_key(self, name):
        return await super().aget_by_natural_key(name)


class Neighbour:
    def get_by_natural_key(self, name):
        return self.get(name=name)

    async def aget_by_natural_key(self, name):
        return await self.aget(name=name)


class NeighbourFirst(Neighbour, AlwaysManager):
    pass


class NeighbourLast(PlusManager, Neighbour):
    pass


class NeighbourQuerySet(Neighbour, PlusQuerySet):
    pass


class NeighbourOfBoth(AlwaysManager.from_queryset(NeighbourQuerySet), Neighbour):
    pass


class ReverseUserManager(BaseUserManager, AlwaysManager):
    pass


class TestNaturalKeys:
    @pytest.mark.parametrize(
        "make",
        [
            NaturalKeyManager,
            CooperativeManager,
            NeighbourFirst,
            NeighbourLast,
            NeighbourOfBoth,
            AlwaysManager.from_queryset(NaturalKeyQuerySet),
            models.Manager.from_queryset(NaturalKeyQuerySet),
            models.Manager.from_queryset(NeighbourQuerySet),
            NeighbourQuerySet.as_manager,
        ],
    )
    def test_natural_key_is_not_created(self, make):
        manager = bound(make(), AlwaysGenre)
        for bound_to in (manager, manager.db_manager("default")):
            with pytest.raises(AlwaysGenre.DoesNotExist):
                bound_to.get_by_natural_key("Ode")
            with pytest.raises(AlwaysGenre.DoesNotExist):
                call_async(bound_to.aget_by_natural_key, "Ode")
        assert not AlwaysGenre.objects.exists()
        ode = manager.get(name="Ode")
        assert AlwaysGenre.objects.all().get(name="Ode") == ode
        assert manager.get_by_natural_key("Ode") == ode
        assert call_async(manager.aget_by_natural_key, "Ode") == ode

    @pytest.mark.parametrize("make", [UserManager, ReverseUserManager])
    def test_users(self, make):
        manager = bound(make(), AlwaysUser)
        with pytest.raises(AlwaysUser.DoesNotExist):
            manager.get_by_natural_key("ann")
        with pytest.raises(AlwaysUser.DoesNotExist):
            call_async(manager.aget_by_natural_key, "ann")
        ann = manager.get(email="ann")
        assert manager.get_by_natural_key("ann") == ann

    def test_managers_of_a_model(self):
        for manager in (AlwaysMood.objects, AlwaysMood.rule):
            with pytest.raises(AlwaysMood.DoesNotExist):
                manager.get_by_natural_key("calm")
        calm = AlwaysMood.rule.get(name="calm")
        assert AlwaysMood.objects.get_by_natural_key("calm") == calm


def call_async(method, *args):
    async def call():
        return await method(*args)

    return async_to_sync(call)()


class TestGetQueryset:
    def test_neighbours_queryset_does_not_create(self):
        """In no order of inheritance, and for no class that builds it."""

        class First(InheritanceManagerMixin, AlwaysManager):
            _queryset_class = AlwaysQuerySet

        class Own(AlwaysManager):
            def get_queryset(self):
                return AlwaysQuerySet(self.model)

        class Child(Own):
            pass

        for make in (First, Own, Child):
            manager = bound(make(), AlwaysVolume)
            for queryset in (manager.get_queryset(), manager.all(), manager.none()):
                with pytest.raises(AlwaysVolume.DoesNotExist):
                    queryset.get(title="Emma")
            volume = manager.get(title="Emma")
            assert AlwaysVolume.plain.get() == volume
            volume.delete()


class TestModelUtils:
    def test_inheritance_manager(self):
        dog = AlwaysDog.objects.get(name="Rex", breed="Boxer")
        for manager in (AlwaysAnimal.objects, AlwaysAnimal.rule):
            assert isinstance(manager.all(), InheritanceQuerySet)
            assert manager.select_subclasses().get(name="Rex") == dog
            assert manager.get_or_create(name="Rex")[0].pk == dog.pk
        cat = AlwaysAnimal.objects.get(name="Tom")
        assert list(AlwaysAnimal.objects.order_by("name").select_subclasses()) == [
            dog,
            cat,
        ]
        with pytest.raises(AlwaysAnimal.DoesNotExist):
            AlwaysAnimal.objects.select_subclasses().get(name="Missing")
        assert AlwaysAnimal.objects.get_subclass(name="Rex") == dog
        assert AlwaysAnimal.objects.count() == 2

    def test_soft_deletable(self):
        """Its managers filter, so get() is Django's."""
        with pytest.raises(AlwaysNote.DoesNotExist):
            AlwaysNote.objects.get(text="x")
        note, created = AlwaysNote.objects.get_or_create(text="x")
        assert created
        assert AlwaysNote.objects.get_or_create(text="x") == (note, False)
        note.delete()
        assert AlwaysNote.objects.count() == 0
        assert AlwaysNote.all_objects.get(text="x") == note
        again, created = AlwaysNote.objects.get_or_create(text="x")
        assert created
        assert again != note
        AlwaysNote.objects.all().delete()
        assert [n.is_removed for n in AlwaysNote.all_objects.all()] == [True, True]
        created = AlwaysNote.all_objects.get(text="y")
        assert AlwaysNote.objects.get(text="y") == created
        assert issubclass(type(AlwaysNote.objects), SoftDeletableManagerMixin)

    def test_query_manager(self):
        """Its conditions are a filter."""
        with pytest.raises(AlwaysIssue.DoesNotExist):
            AlwaysIssue.urgent.get(title="urgent: x")
        issue = AlwaysIssue.everything.get(title="urgent: x")
        assert AlwaysIssue.urgent.get(title="urgent: x") == issue
        assert AlwaysIssue.objects.count() == 1

    def test_status_model_and_field_tracker(self):
        issue = AlwaysIssue.objects.get(title="x")
        assert (issue.status, issue.tracker.changed()) == ("open", {})
        assert AlwaysIssue.objects.get(title="x") == issue
        issue.status = "shut"
        assert issue.tracker.changed() == {"status": "open"}
        found, created = AlwaysIssue.objects.update_or_create(
            {"status": "shut"}, title="x"
        )
        assert (found.status, found.tracker.changed(), created) == ("shut", {}, False)
        assert list(AlwaysIssue.shut.all()) == [issue]
        assert list(AlwaysIssue.open.all()) == []
