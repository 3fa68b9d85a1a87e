"""
Querysets that look up otherwise than their arguments say, next to twins of
Django's queryset that do so as well.
"""

import functools
import gc
import subprocess
import sys
import threading
import weakref
from functools import wraps
from pathlib import Path
from types import FunctionType
from unittest import mock

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, models
from django.db.models import Q
from django.db.models.lookups import Exact
from django.db.models.query import ModelIterable, QuerySet
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.datastructures import BaseTable
from django.db.models.sql.where import WhereNode
from django.utils.decorators import method_decorator

from getorcreateplus import (
    AlwaysGetOrCreateMixin,
    AlwaysQuerySet,
    CachedGetOrCreateMixin,
    CachedQuerySet,
    NonAtomicGetOrCreateMixin,
    NonAtomicQuerySet,
    PlusQuerySet,
)
from getorcreateplus.checks import check_lookups
from getorcreateplus.explaining import check, explain
from getorcreateplus.lookups import django_path as lookup_path
from getorcreateplus.lookups.django_path import (
    batch_follows_django,
    change_of,
    follows_django,
)
from getorcreateplus.signals import cache_miss

from ..models import Desk, Report, current
from ..support.sql import execute

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def first_region():
    current["region"] = "eu"
    yield
    current["region"] = "eu"


HOLDERS = (FunctionType, property, classmethod, staticmethod, functools.cached_property)


def patched(value):
    """Return an attribute of a class as a patch would leave it."""
    if isinstance(value, classmethod | staticmethod):
        return type(value)(patched(value.__func__))
    if isinstance(value, property):
        return property(patched(value.fget))

    @wraps(value)
    def patch(*args, **kwargs):
        return value(*args, **kwargs)

    return patch


def here():
    return Q(region=current["region"])


# Ways to see one region


class ByGet:
    def get(self, *args, **kwargs):
        return super().get(*args, here(), **kwargs)


class ByGetArgument:
    def get(self, *args, **kwargs):
        return super().get(*args, region=current["region"], **kwargs)


class ByFilter:
    def filter(self, *args, **kwargs):
        return super().filter(*args, here(), **kwargs)


class ByFilterOrExclude:
    def _filter_or_exclude(self, negate, args, kwargs):
        return super()._filter_or_exclude(negate, (*args, here()), kwargs)


class ByFilterInPlace:
    def _filter_or_exclude_inplace(self, negate, args, kwargs):
        super()._filter_or_exclude_inplace(negate, (*args, here()), kwargs)


class ByName:
    """Takes what is called so for something else, as a translation does."""

    def _filter_or_exclude(self, negate, args, kwargs):
        if "name" in kwargs and current["region"] == "us":
            kwargs = kwargs | {"name": "duty"}
        return super()._filter_or_exclude(negate, args, kwargs)


class ByChain:
    def _chain(self):
        chained = super()._chain()
        chained._query.add_q(here())
        return chained


class ByClone:
    def _clone(self):
        clone = super()._clone()
        clone._query.add_q(here())
        return clone


class ByInit:
    def __init__(self, model=None, query=None, using=None, hints=None):
        super().__init__(model, query, using, hints)
        if query is not None:
            self._query.add_q(here())


class ByOrderBy:
    def order_by(self, *field_names):
        ordered = super().order_by(*field_names)
        ordered._query.add_q(here())
        return ordered


class ByFetchAll:
    def _fetch_all(self):
        super()._fetch_all()
        rows = self._result_cache
        if rows and isinstance(rows[0], Report):
            rows[:] = [row for row in rows if row.region == current["region"]]


class ByLen:
    def __len__(self):
        self._fetch_all()
        rows = self._result_cache
        rows[:] = [row for row in rows if row.region == current["region"]]
        return len(rows)


class RegionQuery(Query):
    def get_compiler(self, *args, **kwargs):
        if not self.is_sliced:
            self.add_q(here())
        return super().get_compiler(*args, **kwargs)

    def set_limits(self, low=None, high=None):
        self.add_q(here())
        super().set_limits(low, high)


class ByQuery:
    def __init__(self, model=None, query=None, using=None, hints=None):
        super().__init__(model, query or RegionQuery(model), using, hints)


class RegionIterable(ModelIterable):
    def __iter__(self):
        return (row for row in super().__iter__() if row.region == current["region"])


class ByIterable:
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._iterable_class = RegionIterable


class ByIterableOfClass:
    """No method of it is overridden: the class has an attribute."""

    @property
    def _iterable_class(self):
        return RegionIterable

    @_iterable_class.setter
    def _iterable_class(self, value):
        pass


class ByGetOrCreate:
    def get_or_create(self, defaults=None, **kwargs):
        kwargs.setdefault("region", current["region"])
        return super().get_or_create(defaults, **kwargs)


WAYS = [
    ByGet,
    ByGetArgument,
    ByFilter,
    ByFilterOrExclude,
    ByFilterInPlace,
    ByName,
    ByChain,
    ByClone,
    ByInit,
    ByOrderBy,
    ByFetchAll,
    ByLen,
    ByQuery,
    ByIterable,
    ByGetOrCreate,
]
BASES = {
    "cached": (CachedGetOrCreateMixin,),
    "always": (AlwaysGetOrCreateMixin,),
    "nonatomic": (NonAtomicGetOrCreateMixin,),
    "plus": (
        CachedGetOrCreateMixin,
        AlwaysGetOrCreateMixin,
        NonAtomicGetOrCreateMixin,
    ),
}


def made(*bases):
    return type("".join(base.__name__ for base in bases), bases, {})


@pytest.fixture(params=BASES)
def base(request):
    return BASES[request.param]


@pytest.fixture(params=["below", "between"])
def queryset_class(request, base, way):
    if request.param == "below":
        return made(way, made(*base, models.QuerySet))
    return made(*base, made(way, models.QuerySet))


def fill():
    Report.plain.all().delete()
    Report.plain.bulk_create(
        [
            Report(name="tax", region="eu"),
            Report(name="tax", region="us"),
            Report(name="sole", region="eu"),
            Report(name="duty", region="us"),
        ]
    )


def outcome(call):
    """Return what there is to compare of (obj, created), or of an error."""
    try:
        obj, created = call()
    except (Report.DoesNotExist, Report.MultipleObjectsReturned) as error:
        return type(error).__name__
    return obj.name, obj.region, obj.note, created


def in_both_regions(call):
    for region in ("eu", "us", "eu", "us"):
        current["region"] = region
        yield outcome(call)


def story(queryset_class, *, batch, get):
    """Return what one lookup after the other returns."""
    fill()

    def queryset():
        return queryset_class(Report)

    return [
        *in_both_regions(lambda: queryset().get_or_create(name="tax")),
        *in_both_regions(lambda: batch(queryset(), {"name": "tax", "note": "b"})),
        *in_both_regions(
            lambda: queryset().update_or_create({"note": current["region"]}, name="tax")
        ),
        *in_both_regions(lambda: queryset().get_or_create(name="tax")),
        *in_both_regions(lambda: get(queryset(), name="tax")),
        *in_both_regions(lambda: queryset().get_or_create(name="sole")),
        *in_both_regions(lambda: batch(queryset(), {"name": "sole", "note": "b"})),
        *in_both_regions(lambda: batch(queryset(), {"name": "fee", "note": "b"})),
        *in_both_regions(lambda: queryset().get_or_create(name="toll")),
        *in_both_regions(
            lambda: async_to_sync(queryset().aget_or_create)(name="tax"),
        ),
        sorted(Report.plain.values_list("name", "region", "note")),
    ]


def twins_batch(queryset, row):
    row = dict(row)
    return queryset.get_or_create(name=row.pop("name"), defaults=row)


def twins_get(queryset, **kwargs):
    return queryset.get(**kwargs), False


def twins_get_or_create(queryset, **kwargs):
    return queryset.get_or_create(**kwargs)


def our_batch(queryset, row):
    [found] = queryset.bulk_get_or_create([row], unique_fields=["name"])
    return found


class TestAsDjango:
    @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
    def test_rows_are_those_of_the_twin(self, queryset_class, way):
        get = twins_get
        if way is ByGetOrCreate:  # get() of the twin does not call it
            get = twins_get_or_create
        twin = story(made(way, QuerySet), batch=twins_batch, get=get)
        ours = story(queryset_class, batch=our_batch, get=get)
        assert ours == twin

    @pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
    def test_nothing_is_a_hit(self, queryset_class, way, django_assert_num_queries):
        fill()
        for _ in range(2):
            outcome(lambda: queryset_class(Report).get_or_create(name="tax"))
        takes_hits = way is ByGetOrCreate and issubclass(
            queryset_class.__mro__[2], CachedGetOrCreateMixin
        )  # It gives what is looked up to super().
        with django_assert_num_queries(0 if takes_hits else 1):
            outcome(lambda: queryset_class(Report).get_or_create(name="tax"))

    def test_rows_of_an_iterable_class_that_the_class_names(self, base):
        queryset_class = made(ByIterableOfClass, made(*base, models.QuerySet))
        twin = made(ByIterableOfClass, QuerySet)
        assert story(queryset_class, batch=our_batch, get=twins_get) == story(
            twin, batch=twins_batch, get=twins_get
        )

    def test_what_a_neighbour_gives_to_create(self):
        """Names that are no fields are for its get_or_create()."""

        class Neighbour(models.QuerySet):
            def get_or_create(self, defaults=None, **kwargs):
                defaults = dict(defaults or {})
                defaults["note"] = defaults.pop("translation", "")
                return super().get_or_create(defaults, **kwargs)

        for mixins in BASES.values():
            queryset = made(*mixins, Neighbour)(Report)
            row = {"name": f"new {len(mixins)}", "translation": "neu"}
            [(report, _)] = queryset.bulk_get_or_create([row], ["name"])
            assert report.note == "neu"
            report.delete()

    @pytest.mark.parametrize("base", BASES.values(), ids=list(BASES))
    def test_neighbour_that_takes_arguments_by_name_alone(self, base):
        """As django-money's, and as Django's own of a related manager."""

        class Neighbour:
            def get_or_create(self, **kwargs):
                kwargs["defaults"] = kwargs.get("defaults", {}) | {"note": "theirs"}
                return super().get_or_create(**kwargs)

        for mixins in ((*base, Neighbour), (Neighbour, *base)):
            queryset = type("Both", (*mixins, models.QuerySet), {})(Report)
            found = [
                queryset.get_or_create(name="a"),
                queryset.get_or_create(name="b", defaults={"note": "x"}),
                *queryset.bulk_get_or_create([{"name": "c", "note": "x"}], ["name"]),
            ]
            assert [report.note for report, _ in found] == ["theirs"] * 3
            Report._base_manager.all().delete()

    @pytest.mark.parametrize("base", BASES.values(), ids=list(BASES))
    def test_neighbour_that_does_not_know_create_defaults(self, base):
        """As of before Django 5.0."""

        class Neighbour(models.QuerySet):
            def update_or_create(self, defaults=None, **kwargs):
                defaults = (defaults or {}) | {"note": "theirs"}
                return super().update_or_create(defaults=defaults, **kwargs)

        queryset = type("Both", (*base, Neighbour), {})(Report)
        for created in (True, False):
            found = queryset.update_or_create(name="a", defaults={"note": "x"})
            assert (found[0].note, found[1]) == ("theirs", created)

    def test_batch_of_instances_goes_row_by_row(self):
        fill()
        queryset = made(ByGet, PlusQuerySet)(Report)
        current["region"] = "us"
        [(tax, created), (new, new_created)] = queryset.bulk_get_or_create(
            [Report(name="tax", note="x"), Report(name="new", note="x", region="us")],
            ["name"],
        )
        assert (tax.region, tax.note, created) == ("us", "", False)
        assert (new.region, new.note, new_created) == ("us", "x", True)
        assert Report.plain.get(pk=new.pk).note == "x"

    def test_threads(self):
        fill()
        queryset_class, seen = made(ByGetArgument, PlusQuerySet), []

        def look_up():
            seen.append(follows_django(queryset_class(Report)))

        threads = [threading.Thread(target=look_up) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert seen == [False] * 8

    def test_writes_invalidate_as_ever(self, django_assert_num_queries):
        fill()
        queryset = made(ByGet, CachedQuerySet)(Report)
        for _ in range(2):
            Report.objects.get_or_create(name="sole")
        queryset.update_or_create({"note": "new"}, name="sole")
        with django_assert_num_queries(1):
            report, _ = Report.objects.get_or_create(name="sole")
        assert report.note == "new"

    def test_row_of_an_overridden_lookup_is_not_kept(self, django_assert_num_queries):
        fill()
        made(ByGet, CachedQuerySet)(Report).update_or_create({"note": "x"}, name="sole")
        made(ByGet, CachedQuerySet)(Report).get_or_create(name="sole")
        with django_assert_num_queries(1):
            Report.objects.get_or_create(name="sole")


class TestGetThatCreates:
    # Not ByGet, which gives a positional argument to super().
    @pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.__name__)
    @pytest.mark.parametrize("name", ["always", "plus"])
    def test_creates_what_djangos_get_misses(self, way, name):
        fill()
        queryset_class = made(way, made(*BASES[name], models.QuerySet))
        before = Report.plain.count()
        assert queryset_class(Report).get(name="sole").region == "eu"
        created = queryset_class(Report).get(name="new")
        assert (created.name, created.region) == ("new", "eu")
        assert queryset_class(Report).get(name="new") == created
        assert Report.plain.count() == before + 1
        current["region"] = "us"
        found = queryset_class(Report).get(name="tax")
        assert (found.name, found.region) == (
            "duty" if way is ByName else "tax",
            "us",
        )

    def test_override_is_called_once(self):
        """Twice, and what it adds would be there twice."""
        report = made(ByGetArgument, AlwaysQuerySet)(Report).get(name="new")
        assert (report.name, report.region) == ("new", "eu")

    def test_arguments_are_spelled_as_they_were(self):
        """Django gives them to the override in that form."""
        seen = []

        class Noting(PlusQuerySet):
            def filter(self, *args, **kwargs):
                seen.append(kwargs)
                return super().filter(*args, **kwargs)

        report = Report.plain.create(name="tax")
        assert Noting(Report).get(name__exact="tax") == report
        assert seen == [{"name__exact": "tax"}]


@pytest.fixture
def archive():
    """Another table, with the same columns."""
    execute(
        "CREATE TEMPORARY TABLE report_archive AS "
        f"SELECT * FROM {Report._meta.db_table}",
        "UPDATE report_archive SET note = 'old'",
    )
    yield "report_archive"
    execute(f"DROP {'TEMPORARY ' * (connection.vendor == 'mysql')}TABLE report_archive")


class TestOtherTables:
    """A query may begin at an archive, a view or a CTE."""

    @pytest.mark.parametrize("manager", [Report.objects, Report.from_queryset])
    @pytest.mark.parametrize("is_first", [True, False])
    def test_rows_of_an_archive_are_not_the_models(self, manager, is_first, request):
        fill()
        Report.plain.filter(region="us").delete()
        table = request.getfixturevalue("archive")

        def live():
            return manager.get_or_create(name="tax")[0].note

        def archived():
            queryset = manager.all()
            queryset.query.join(BaseTable(table, None))
            [(row, _)] = queryset.bulk_get_or_create([{"name": "tax"}], ["name"])
            return queryset.get_or_create(name="tax")[0].note, row.note

        calls = [live, archived] if is_first else [archived, live]
        for _ in range(3):
            found = [call() for call in calls]
            assert sorted(found, key=str) == sorted(["", ("old", "old")], key=str)

    def test_get_of_an_archive_creates_nothing(self, archive):
        queryset = AlwaysQuerySet(Report)
        queryset.query.join(BaseTable(archive, None))
        with pytest.raises(Report.DoesNotExist):
            queryset.get(name="tax")
        assert not Report.plain.exists()
        assert AlwaysQuerySet(Report).get(name="tax").pk


class TestManagers:
    @pytest.mark.parametrize(
        "name", ["cached_region", "plus_region", "from_queryset", "patched"]
    )
    def test_related_manager(self, name):
        def look_up(name):
            desk = Desk.objects.create(title=name)
            for region in ("eu", "us"):
                desk.reports.create(name="tax", region=region)
            reports = desk.reports(manager=name)
            found = [
                *in_both_regions(lambda: reports.get_or_create(name="tax")),
                *in_both_regions(lambda: reports.update_or_create(name="tax")),
                *in_both_regions(
                    lambda: async_to_sync(reports.aget_or_create)(name="tax")
                ),
                *in_both_regions(lambda: reports.get_or_create(name="new")),
            ]
            assert desk.reports.filter(name="new").count() > 0
            return found, reports

        found, reports = look_up(name)
        twin = "plain_patched" if name == "patched" else "plain_region"
        expected, _ = look_up(twin)
        assert found == expected
        batches = in_both_regions(
            lambda: reports.bulk_get_or_create([{"name": "tax"}], ["name"])[0]
        )
        assert list(batches) == expected[:4]

    def test_own_get_of_a_manager_is_no_step(self, django_assert_num_queries):
        """Django's get_or_create() calls that of the queryset."""
        Report.plain.create(name="tax", region="us")
        for _ in range(2):
            found, _ = Report.by_name.get_or_create(name="tax")
            assert found.region == "us"
        with django_assert_num_queries(0):
            Report.by_name.get_or_create(name="tax")
        assert Report.by_name.get(name="tax").region == "eu"

    def test_step_that_is_set_on_a_queryset_is_kept_by_its_copy(self):
        """The one that does not create, of a queryset that does."""
        fill()
        queryset = AlwaysQuerySet(Report)
        get = queryset.get
        queryset.get = lambda **kwargs: get(region=current["region"], **kwargs)
        assert [*in_both_regions(lambda: queryset.get_or_create(name="tax"))] == [
            ("tax", "eu", "", False),
            ("tax", "us", "", False),
        ] * 2
        with pytest.raises(Report.DoesNotExist):
            queryset.get(name="new")
        assert queryset.get_or_create(name="new")[1]


class RegionNode(WhereNode):
    pass


def patch_where(query):
    query.where = RegionNode()


class TestPredicate:
    @pytest.mark.parametrize(
        "queryset_class",
        [AlwaysQuerySet, CachedQuerySet, NonAtomicQuerySet, PlusQuerySet],
    )
    def test_django_and_this_package_are_followed(self, queryset_class):
        for queryset in (
            queryset_class(Report),
            queryset_class(Report).filter(name="tax").order_by("pk"),
            queryset_class(Report).select_related("desk").all(),
        ):
            assert follows_django(queryset)
            assert change_of(queryset) is None

    def test_other_methods_are_no_steps(self):
        class Harmless(PlusQuerySet):
            def create(self, **kwargs):
                return super().create(**kwargs)

            def delete(self):
                return super().delete()

            def published(self):
                return self.filter(note="")

            def get_or_create(self, defaults=None, **kwargs):
                return super().get_or_create(defaults, **kwargs)

        assert follows_django(Harmless(Report).published())
        assert not batch_follows_django(Harmless(Report))

    @pytest.mark.parametrize("step", sorted(lookup_path.STEPS))
    def test_each_step_counts(self, step):
        inherited = getattr(QuerySet, step)

        class Overriding(PlusQuerySet):
            pass

        if isinstance(inherited, property):

            def get(self):
                return inherited.fget(self)

            overridden = property(get)
        elif step == "__new__":

            def overridden(cls, *args, **kwargs):
                return object.__new__(cls)

        else:

            @wraps(inherited)
            def overridden(self, *args, **kwargs):
                return inherited(self, *args, **kwargs)

        setattr(Overriding, step, overridden)
        queryset = Overriding(Report)
        assert not follows_django(queryset)
        assert f"Overriding overrides {step}" in change_of(queryset).what

    @pytest.mark.parametrize("step", ["filter", "get", "_filter_or_exclude"])
    @pytest.mark.parametrize("cls", [QuerySet, PlusQuerySet])
    def test_patched_class(self, monkeypatch, step, cls):
        original = getattr(cls, step)

        @wraps(original)
        def patched(self, *args, **kwargs):
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, step, patched)
        queryset = made(PlusQuerySet)(Report)
        assert not follows_django(queryset)
        assert change_of(queryset).what == (
            f"{__name__} has replaced {cls.__name__}.{step}()"
        )

    @pytest.mark.parametrize("cls", lookup_path.BENEATH)
    def test_patched_class_beneath(self, monkeypatch, cls):
        class Declaring(PlusQuerySet):
            lookups_as_written = True

        steps = [
            (name, value)
            for name, value in vars(cls).items()
            if isinstance(value, HOLDERS) and name not in lookup_path.FREE
        ]
        # As Django's documentation adds the SQL of a vendor.
        steps.append(("as_vendor", Exact.as_sql))
        for name, value in steps:
            with monkeypatch.context() as patch:
                patch.setattr(cls, name, patched(value), raising=False)
                assert not follows_django(made(PlusQuerySet)(Report)), name
                change = change_of(made(PlusQuerySet)(Report))
                assert f"has replaced {cls.__name__}.{name}()" in change.what
                assert follows_django(made(Declaring)(Report))
        assert follows_django(made(PlusQuerySet)(Report))

    @pytest.mark.parametrize(
        "value",
        [functools.partial(print), mock.Mock(), functools.lru_cache(lambda self: None)],
    )
    def test_patch_that_is_no_function(self, monkeypatch, value):
        monkeypatch.setattr(WhereNode, "as_sql", value)
        assert not follows_django(made(PlusQuerySet)(Report))

    @pytest.mark.parametrize("name", ["execute_sql", "__class_getitem__"])
    def test_patch_that_changes_no_lookup(self, monkeypatch, name):
        monkeypatch.setattr(SQLCompiler, name, lambda *args: None, raising=False)
        assert follows_django(made(PlusQuerySet)(Report))

    def test_decorator_of_django_does_not_hide_what_it_decorates(self):
        def by_region(method):
            return lambda self, *args, **kwargs: method(self, *args, here(), **kwargs)

        class Decorated(PlusQuerySet):
            filter = method_decorator(by_region)(QuerySet.filter)

        assert not follows_django(Decorated(Report))

    def test_method_of_django_under_another_name(self):
        class Renamed(PlusQuerySet):
            filter = QuerySet.exclude

        assert isinstance(Renamed.filter, FunctionType)
        assert not follows_django(Renamed(Report))

    @pytest.mark.parametrize(
        ("patch", "what"),
        [
            (
                lambda queryset: setattr(queryset, "filter", queryset.filter),
                "this queryset has filter() of its own",
            ),
            (
                lambda queryset: setattr(queryset, "query", RegionQuery(Report)),
                f"its query is a {__name__}.RegionQuery",
            ),
            (
                lambda queryset: setattr(
                    queryset.query, "get_compiler", queryset.query.get_compiler
                ),
                "its query has get_compiler() of its own",
            ),
            (
                lambda queryset: setattr(queryset.query, "compiler", "SQLCompiler"),
                "its query has compiler of its own",
            ),
            (
                lambda queryset: patch_where(queryset.query),
                "its WHERE has a node that is not Django's",
            ),
            (
                lambda queryset: queryset.query.where.children.append(RegionNode()),
                "its WHERE has a node that is not Django's",
            ),
            (
                lambda queryset: setattr(queryset, "_iterable_class", RegionIterable),
                f"{__name__}.RegionIterable makes its rows",
            ),
        ],
    )
    def test_what_a_manager_does_to_a_queryset(
        self, patch, what, django_assert_num_queries
    ):
        Report.plain.create(name="tax")
        for _ in range(3):
            queryset = Report.objects.all()
            patch(queryset)
            with django_assert_num_queries(1):
                queryset.get_or_create(name="tax")
        assert not batch_follows_django(queryset)
        assert change_of(queryset).what == what

    @pytest.mark.parametrize("name", sorted(lookup_path.STATE))
    def test_property_in_place_of_a_querysets_state(self, name):
        queryset_class = made(PlusQuerySet)
        setattr(queryset_class, name, None)  # hidden by what Django sets
        assert follows_django(queryset_class(Report))

        class Stateful(PlusQuerySet):
            pass

        def get(self):
            return self.__dict__[name]

        def set_(self, value):
            self.__dict__[name] = value

        setattr(Stateful, name, property(get, set_))
        assert not follows_django(Stateful(Report))
        assert change_of(Stateful(Report)).what.endswith(f"Stateful overrides {name}")

    @pytest.mark.parametrize("step", ["get", "filter", "_fetch_all"])
    @pytest.mark.parametrize("cls", [QuerySet, PlusQuerySet])
    def test_class_is_patched_later(self, cls, step, monkeypatch):
        """As by a package that is loaded late, and by a test."""
        original = getattr(cls, step)

        def patched(self, *args, **kwargs):
            return original(self, *args, **kwargs)

        queryset_class = made(PlusQuerySet)
        assert follows_django(queryset_class(Report))
        monkeypatch.setattr(cls, step, patched)
        assert not follows_django(queryset_class(Report))
        monkeypatch.undo()
        assert follows_django(queryset_class(Report))

    def test_class_of_one_call_is_not_kept(self):
        """modeltranslation makes one for each queryset."""
        queryset_class = made(ByGet, PlusQuerySet)
        assert not follows_django(queryset_class(Report))
        reference = weakref.ref(queryset_class)
        del queryset_class
        gc.collect()
        assert reference() is None

    def test_class_is_looked_at_once(self, monkeypatch):
        queryset_class = made(PlusQuerySet)
        assert follows_django(queryset_class(Report))
        monkeypatch.setattr(lookup_path, "examine", None)
        assert follows_django(queryset_class(Report))
        subclass = made(ByGet, queryset_class)
        with pytest.raises(TypeError):
            follows_django(subclass(Report))

    def test_steps_are_all_that_django_calls(self):
        """In each version of Django, where get_or_create() finds a row."""
        Report.plain.create(name="tax")
        called = set()

        def note(frame, event, arg):
            code, module = frame.f_code, frame.f_globals.get("__name__", "")
            if event == "call" and module == "django.db.models.query":
                owner, _, name = code.co_qualname.rpartition(".")
                if owner == "QuerySet":
                    called.add(name)

        queryset = QuerySet(Report)
        sys.setprofile(note)
        try:
            queryset.get_or_create(name="tax")
        finally:
            sys.setprofile(None)
        assert called - lookup_path.STEPS == {"get_or_create"}
        assert {name for name in lookup_path.STEPS if not hasattr(QuerySet, name)} == (
            set()
        )


class TestDeclaration:
    def test_covers_the_class_and_its_bases(self, django_assert_num_queries):
        class Declaring(ByGet, PlusQuerySet):
            lookups_as_written = True

            def filter(self, *args, **kwargs):
                return super().filter(*args, **kwargs)

        class Child(Declaring):
            def published(self):
                return self.filter(note="")

        Report.plain.create(name="tax")
        for queryset_class in (Declaring, Child):
            assert batch_follows_django(queryset_class(Report))
            for _ in range(2):
                queryset_class(Report).get_or_create(name="tax")
            with django_assert_num_queries(0):
                queryset_class(Report).get_or_create(name="tax")

    def test_does_not_speak_for_subclasses(self):
        class Declaring(PlusQuerySet):
            lookups_as_written = True

        class Below(ByFilter, Declaring):
            pass

        class Own(Declaring):
            def filter(self, *args, **kwargs):
                return super().filter(*args, **kwargs)

        class Beside(Declaring, made(ByFilter, QuerySet)):
            pass

        assert follows_django(Declaring(Report))
        for queryset_class in (Below, Own, Beside):
            assert not follows_django(queryset_class(Report))

    def test_of_a_query_class(self, django_assert_num_queries):
        class LabelledQuery(Query):
            lookups_as_written = True
            label = ""

        class RewritingQuery(LabelledQuery):
            pass

        Report.plain.create(name="tax")
        for _ in range(2):
            CachedQuerySet(Report, LabelledQuery(Report)).get_or_create(name="tax")
        with django_assert_num_queries(0):
            CachedQuerySet(Report, LabelledQuery(Report)).get_or_create(name="tax")
        assert not follows_django(CachedQuerySet(Report, RewritingQuery(Report)))

    def test_of_a_queryset_class_is_none_of_its_query(self):
        class Declaring(made(ByQuery, CachedQuerySet)):
            lookups_as_written = True

        assert not follows_django(Declaring(Report))


class TestExplained:
    what = (
        "its lookups may not be Django's: tests.models.lookup_path.RegionMixin "
        "overrides get()."
    )
    remedy = (
        "Set lookups_as_written = True on RegionMixin, or on a class below it, if it "
        "finds the rows that Django's finds, as they are in the table."
    )

    def test_explain(self):
        Report.plain.create(name="tax")
        found = explain(Report.cached_region, name="tax")
        assert (found.why, found.remedy) == (f"I{self.what[1:]}", self.remedy)
        assert found.outcome == "miss (not cacheable)"
        assert check(Report.cached_region, name="tax").is_right is None

    def test_explain_of_a_patched_queryset(self):
        found = explain(Report.patched, name="tax")
        assert found.why == (
            "Its lookups may not be Django's: this queryset has get() of its own."
        )

    def test_check(self):
        messages = {m.msg.partition(" ")[0]: m for m in check_lookups(Report)}
        label = "tests.Report"
        assert sorted(messages) == [
            f"{label}.{name}"
            for name in ("cached_region", "from_queryset", "patched", "plus_region")
        ]
        message = messages[f"{label}.cached_region"]
        assert message.msg == (
            f"{label}.cached_region makes a CachedRegionQuerySet whose lookups may not "
            "be Django's: tests.models.lookup_path.RegionMixin overrides get(). So "
            "Django's own get_or_create() runs: the cache is not used, and its batches "
            "go row by row."
        )
        assert (message.hint, message.obj, message.id, message.level) == (
            self.remedy,
            Report,
            "getorcreateplus.I019",
            20,
        )

    def test_check_of_a_manager_that_cannot_make_a_queryset(self):
        class Shy(models.Manager.from_queryset(made(ByGet, AlwaysQuerySet))):
            def get_queryset(self):
                raise RuntimeError

        manager = Shy()
        manager.model, manager.name = Report, "shy"

        class Model:
            class _meta:  # noqa: N801
                managers = [manager]

        [message] = check_lookups(Model)
        assert "overrides get()" in message.msg
        assert message.msg.endswith(": its batches go row by row.")

    def test_signal(self):
        told = []

        def note(reason, **kwargs):
            told.append(reason)

        Report.plain.create(name="tax")
        cache_miss.connect(note)
        try:
            Report.cached_region.get_or_create(name="tax")
        finally:
            cache_miss.disconnect(note)
        assert [str(reason) for reason in told] == ["not cacheable"]


class TestNeighbours:
    """In processes of their own: some of them patch Django's classes."""

    @pytest.mark.parametrize("package", ["modeltranslation", "safedelete", "parler"])
    def test_rows_are_those_of_the_package(self, package):
        program = Path(__file__).with_name("lookup_path_neighbours.py")
        done = subprocess.run(
            [sys.executable, "-m", f"tests.lookups.{program.stem}", package],
            cwd=program.parent.parent.parent,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert (done.stdout, done.stderr, done.returncode) == ("ok\n", "", 0)
