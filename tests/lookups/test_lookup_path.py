"""
Querysets that change the arguments of a lookup, next to twins of Django's
queryset that do the same.
"""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, models
from django.db.models.query import QuerySet
from django.db.models.sql.datastructures import BaseTable

from getorcreateplus import (
    AlwaysGetOrCreateMixin,
    AlwaysQuerySet,
    CachedGetOrCreateMixin,
    CachedQuerySet,
    NonAtomicGetOrCreateMixin,
    PlusQuerySet,
)
from getorcreateplus.lookups.django_path import (
    follows_django,
)

from ..models import Desk, Report, current
from ..support.marks import mostly_slow
from ..support.sql import execute
from .regions import (
    ByChain,
    ByClone,
    ByFetchAll,
    ByFilter,
    ByFilterInPlace,
    ByFilterOrExclude,
    ByGet,
    ByGetArgument,
    ByGetOrCreate,
    ByInit,
    ByIterable,
    ByIterableOfClass,
    ByLen,
    ByName,
    ByOrderBy,
    ByQuery,
    made,
)

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


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


@pytest.fixture(params=mostly_slow(["plus", "cached", "always", "nonatomic"]))
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
    """Return the comparable parts of (obj, created), or of an error."""
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
    """Return the results of one lookup after the other."""
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
        )  # It passes the arguments to super().
        with django_assert_num_queries(0 if takes_hits else 1):
            outcome(lambda: queryset_class(Report).get_or_create(name="tax"))

    def test_rows_of_an_iterable_class_that_the_class_names(self, base):
        queryset_class = made(ByIterableOfClass, made(*base, models.QuerySet))
        twin = made(ByIterableOfClass, QuerySet)
        assert story(queryset_class, batch=our_batch, get=twins_get) == story(
            twin, batch=twins_batch, get=twins_get
        )

    def test_what_a_neighbour_gives_to_create(self):
        """Names that are not fields are for its get_or_create()."""

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
        """
        Like that of django-money, and Django's own for a related manager.
        """

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
        """As before Django 5.0."""

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
    # Not ByGet, which passes a positional argument to super().
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
        """If it ran twice, its arguments would be added twice."""
        report = made(ByGetArgument, AlwaysQuerySet)(Report).get(name="new")
        assert (report.name, report.region) == ("new", "eu")

    def test_arguments_are_spelled_as_they_were(self):
        """Django passes them to the override in that form."""
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
        """Django's get_or_create() calls the get() of the queryset."""
        Report.plain.create(name="tax", region="us")
        for _ in range(2):
            found, _ = Report.by_name.get_or_create(name="tax")
            assert found.region == "us"
        with django_assert_num_queries(0):
            Report.by_name.get_or_create(name="tax")
        assert Report.by_name.get(name="tax").region == "eu"

    def test_step_that_is_set_on_a_queryset_is_kept_by_its_copy(self):
        """The get() that does not create, of a queryset that creates."""
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


class TestNeighbours:
    """
    They run in separate processes, because some of them patch Django's
    classes.
    """

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
