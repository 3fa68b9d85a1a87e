"""Cases in which Django's own get() runs, and code that sees our SELECTs."""

import subprocess
import sys

import pytest
from django.db import connection, connections, models
from django.test.utils import CaptureQueriesContext, override_settings

from getorcreateplus import NonAtomicQuerySet, PlusQuerySet
from getorcreateplus.bypassing import bypass

from ..lookups import regions
from ..models import Report, Style
from ..support.repository import ROOT
from .outcomes import outcome, statements_seen

pytestmark = pytest.mark.django_db

WAYS = [
    way
    for name, way in vars(regions).items()
    if name.startswith("By") and name not in {"ByGetOrCreate", "ByIterable"}
]


@pytest.fixture
def style():
    return Style.plain.create(name="a")


def counts_of(compiled, call):
    """Return the number of kept SELECTs that each of three calls runs."""
    counts = []
    for _ in range(3):
        compiled.count = 0
        call()
        counts.append(compiled.count)
    return counts


# The get() that runs


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_step_that_is_overridden(compiled, way):
    """test_lookup_path.py compares the rows."""
    Report.plain.create(name="tax", region="eu")
    queryset_class = regions.made(way, NonAtomicQuerySet)
    counts = counts_of(
        compiled, lambda: outcome(lambda: queryset_class(Report).get(name="tax"))
    )
    assert counts == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("filter", lambda *args, **kwargs: Style.plain.all()),
        ("_clone", Style.plain.all),
        ("get", lambda **kwargs: "mine"),
    ],
)
def test_step_that_is_set_on_the_queryset(style, compiled, name, value):
    def call():
        queryset = NonAtomicQuerySet(Style)
        setattr(queryset, name, value)
        return queryset.get(name="a")

    assert counts_of(compiled, call) == [0, 0, 0]


def test_subclass_that_changes_no_lookup(style, compiled):
    class Named(NonAtomicQuerySet):
        def named(self, name):
            return self.get(name=name)

    assert counts_of(compiled, lambda: Named(Style).named("a")) == [0, 1, 1]


@pytest.mark.parametrize("name", ["get", "filter", "_filter_or_exclude", "_fetch_all"])
def test_queryset_that_is_patched_later(style, compiled, monkeypatch, name):
    def get():
        return NonAtomicQuerySet(Style).get(name="a")

    assert counts_of(compiled, get) == [0, 1, 1]
    calls, original = [], getattr(models.QuerySet, name)

    def patch(self, *args, **kwargs):
        calls.append(name)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(models.QuerySet, name, patch)
        assert counts_of(compiled, get) == [0, 0, 0]
        assert len(calls) >= 3
    assert counts_of(compiled, get)[1:] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("package", ["backend", "cachalot", "silk"])
def test_package_that_runs_selects_itself(package):
    done = subprocess.run(
        [sys.executable, "-m", "tests.selects.patchers", package],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ok\n", "", 0)


# The switches


def test_class_that_is_switched_off(style, compiled):
    class Off(NonAtomicQuerySet):
        compiled_selects = False

    assert counts_of(compiled, lambda: Off(Style).get(name="a")) == [0, 0, 0]
    assert counts_of(compiled, lambda: Off(Style).get_or_create(name="a")) == [0] * 3


def test_all_that_is_switched_off(style, compiled):
    def get():
        return NonAtomicQuerySet(Style).get(name="a")

    assert counts_of(compiled, get) == [0, 1, 1]
    with override_settings(GETORCREATEPLUS_COMPILED_SELECTS=False):
        assert counts_of(compiled, get) == [0, 0, 0]
    assert counts_of(compiled, get) == [0, 1, 1]


@pytest.mark.parametrize("is_on", [True, False])
def test_row_is_cached_with_either_switch(is_on):
    """The row is stored in the cache, with and without kept SQL."""
    model = Report
    row = model.plain.create(name="tax", region="eu")
    with override_settings(GETORCREATEPLUS_COMPILED_SELECTS=is_on):
        for queries in (1, 0):
            with CaptureQueriesContext(connection) as seen:
                found, created = PlusQuerySet(model).get_or_create(name="tax")
            assert (found.pk, created, len(seen)) == (row.pk, False, queries)


def test_bypass_is_of_the_cache_alone(compiled):
    Report.plain.create(name="tax", region="eu")
    with bypass():
        counts = counts_of(
            compiled, lambda: PlusQuerySet(Report).get_or_create(name="tax")
        )
    assert counts == [0, 1, 1]


# Code that sees it


def test_query_log_and_wrappers_see_what_django_sends(style, compiled):
    with statements_seen() as seen, CaptureQueriesContext(connection) as queries:
        models.QuerySet(Style).get(name="a")
        for _ in range(3):
            NonAtomicQuerySet(Style).get(name="a")
    assert compiled.count == 2
    assert seen == [seen[0]] * 4
    logged = [query["sql"] for query in queries]
    assert logged == [logged[0]] * 4


def test_cursor_of_a_profiler_sees_it(style, compiled, monkeypatch):
    """Like Debug Toolbar, which replaces cursor() of the connection."""
    wrapper, made = connections["default"], []
    original = wrapper.cursor

    def cursor(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(wrapper, "cursor", cursor)
    for number, queryset in enumerate(
        (models.QuerySet(Style), *[NonAtomicQuerySet(Style)] * 3), start=1
    ):
        queryset.get(name="a")
        assert len(made) == number
    assert compiled.count == 2
