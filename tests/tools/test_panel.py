"""The panel of Django Debug Toolbar, in requests through its middleware."""

import asyncio
import datetime
import re
import threading
from contextlib import suppress
from html.parser import HTMLParser

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.core import checks
from django.db import connection, connections, models, transaction
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus import bypass, panels
from getorcreateplus.coherence import clients
from getorcreateplus.signals import (
    Reason,
    cache_hit,
    cache_invalidated,
    cache_miss,
    cache_miss_ended,
    savepoint_omitted,
)

from ..models import Page as Page_
from ..models import Paper, PlusItem, Rack, Zone
from ..support.threads import start

SIGNALS = [
    *(cache_hit, cache_miss, cache_miss_ended),
    *(cache_invalidated, savepoint_omitted),
]
PANELS = [
    "debug_toolbar.panels.sql.SQLPanel",
    "getorcreateplus.panels.GetOrCreatePanel",
    "debug_toolbar.panels.cache.CachePanel",
]
TIMEOUT = 10  # seconds; milliseconds are usual

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(databases="__all__", transaction=True),
]


@pytest.fixture(autouse=True, scope="module")
def toolbar(django_db_setup):
    """Install the toolbar, once the tables of all tests are made."""
    installed = override_settings(
        DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": lambda request: True},
        INSTALLED_APPS=[
            *settings.INSTALLED_APPS,
            "django.contrib.staticfiles",
            "debug_toolbar",
        ],
        MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"],
        ROOT_URLCONF="tests.tools.panel_urls",
        STATIC_URL="static/",
    )
    with pytest.MonkeyPatch.context() as patch:
        # Before the app is installed, which loads the panels; setting_changed
        # of override_settings() would reach the toolbar before its import.
        patch.setattr(settings, "DEBUG_TOOLBAR_PANELS", PANELS, raising=False)
        with installed:
            yield
    # SQLPanel leaves its wrappers there.
    for each in connections.all():
        for name in [*vars(each)]:
            if name in {"cursor", "chunked_cursor"} or name.startswith("_djdt"):
                delattr(each, name)


class Page(HTMLParser):
    """
    The visible text: ``tables``, by rows and cells, and the ``texts`` around
    them.
    """

    def __init__(self, html):
        super().__init__()
        self.tables, self.texts, self.cell = [], [], None
        self.tags = set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not {"style", "onclick"} & dict(attrs).keys()
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.cell = ""
        elif tag == "br":
            self.cell += ", "

    def handle_endtag(self, tag):
        if tag in {"td", "th"}:
            text = re.sub(r"\d+\.\d\d\xa0ms", "ms", self.cell)
            # Only the place of the call remains of a stack.
            text = re.sub(
                r"(test_panel\.py):\d+( in \w+).*", r"\1\2", text, flags=re.DOTALL
            )
            self.tables[-1][-1].append(text)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data
        elif data.strip():
            self.texts.append(" ".join(data.split()))


def panel_of(response, client):
    """Return (subtitle, Page) as the toolbar loads them from its store."""
    html = response.content.decode()
    [subtitle] = re.findall(r"get_or_create\(\)\s*<br><small>(.*?)</small>", html)
    # A store_id before 6.0.
    [[name, request_id]] = re.findall(r'data-(request|store)-id="(\w+)"', html)
    loaded = client.get(
        "/__debug__/render_panel/",
        {f"{name}_id": request_id, "panel_id": "GetOrCreatePanel"},
    )
    return subtitle, Page(loaded.json()["content"])


def request(call, client=None, name="a"):
    """Return (subtitle, Page) of a request whose view makes a call."""
    from .panel_urls import calls  # after the toolbar is installed

    client = client or Client()
    calls[name] = call
    return panel_of(client.get(f"/{name}/"), client)


def lookups(page):
    """Return the rows of the second table without model, database, time."""
    return [(row[2], row[3], row[4].split(":")[0]) for row in page.tables[1][1:]]


@pytest.fixture(autouse=True)
def render_later():
    """Otherwise the test client's requests have the panels in the page."""
    config = settings.DEBUG_TOOLBAR_CONFIG | {"RENDER_PANELS": False}
    with override_settings(DEBUG_TOOLBAR_CONFIG=config):
        yield


def get_or_create(title="a", **kwargs):
    return Paper.objects.get_or_create(title=title, **kwargs)[0]


def in_words(hit, why):
    if hit:
        return panels.HITS[why]
    words = panels.MISSES[why]
    return f"{words.sentence} Remedy: {words.remedy}"


def test_models_and_lookups_are_shown():
    """Writes invalidate, together with the panels for SQL and caches."""
    Zone.objects.get_or_create(name="z")
    Zone.objects.get_or_create(name="z")
    seen = []

    def view():
        get_or_create()
        paper = get_or_create()
        paper.pages = 7
        paper.save()
        seen.append(get_or_create().pages)
        Paper.objects.filter(title="a").update(pages=8)
        seen.append(get_or_create().pages)
        with transaction.atomic():
            PlusItem.objects.get_or_create(code="x")
            PlusItem.objects.get_or_create(code="x")
        Zone.objects.get_or_create(name="z")

    subtitle, page = request(view)
    assert seen == [7, 8]
    assert subtitle == "3 hits, 4 misses"
    assert page.texts[:-1] == ["Models", "Lookups"]
    assert page.tables == [
        [
            [
                "Model",
                "Hits",
                "Misses",
                "Hit ratio",
                "Queries saved",
                "Savepoints saved",
                "Invalidations",
                "Cache time",
            ],
            [
                "tests.Paper",
                "1, 1 cache",
                "3, 1 no hint, 1 no row, 1 stamp",
                "25\xa0%",
                "1",
                "0",
                "2",
                "ms",
            ],
            [
                "tests.PlusItem",
                "1, 1 transaction",
                "1, 1 no hint",
                "50\xa0%",
                "1",
                "1",
                "0",
                "ms",
            ],
            ["tests.Zone", "1, 1 memory", "0", "100\xa0%", "1", "0", "0", "ms"],
            [
                "All",
                "3, 1 cache, 1 transaction, 1 memory",
                "4, 2 no hint, 1 no row, 1 stamp",
                "43\xa0%",
                "3",
                "1",
                "2",
                "ms",
            ],
        ],
        [
            [
                *("Model", "Database", "Lookup", "Outcome", "Reason", "Time"),
                *("Row", "Calls", "Called from"),
            ],
            *(
                [
                    f"tests.{model.__name__}",
                    "default",
                    lookup,
                    "hit" if hit else "miss",
                    f"{why}: {in_words(hit, why)}",
                    "ms",
                    row,
                    "1",
                    f"test_panel.py in {place}",
                ]
                for model, lookup, hit, why, row, place in [
                    (Paper, "title='a'", False, "no hint", "created", "get_or_create"),
                    (Paper, "title='a'", True, "cache", "found", "get_or_create"),
                    (Paper, "title='a'", False, "no row", "found", "get_or_create"),
                    (Paper, "title='a'", False, "stamp", "found", "get_or_create"),
                    (PlusItem, "code='x'", False, "no hint", "created", "view"),
                    (PlusItem, "code='x'", True, "transaction", "found", "view"),
                    (Zone, "name='z'", True, "memory", "found", "view"),
                ]
            ),
        ],
    ]


def test_request_without_lookups():
    subtitle, page = request(lambda: None)
    assert subtitle == "0 hits, 0 misses"
    assert page.tables == []
    assert page.texts == [
        "Models",
        "No cached model was looked up or written during this request.",
    ]


def test_request_that_only_writes():
    paper = get_or_create()
    _, page = request(paper.save)
    [_, row] = page.tables[0]
    assert row == ["tests.Paper", "0", "0", "\N{EN DASH}", "0", "0", "1", "ms"]


def test_one_hit_and_one_miss():
    def view():
        get_or_create()
        get_or_create()

    assert request(view)[0] == "1 hit, 1 miss"


def test_transports_are_shown():
    _, page = request(get_or_create)
    name = clients.by_alias["paper"].transport.name
    assert page.texts[-1].startswith("Transports of the caches: ")
    assert f"paper: {name}" in page.texts[-1]


def test_panel_is_rendered_in_the_page():
    from .panel_urls import calls

    calls["a"] = get_or_create
    config = settings.DEBUG_TOOLBAR_CONFIG | {"RENDER_PANELS": True}
    with override_settings(DEBUG_TOOLBAR_CONFIG=config):
        html = Client().get("/a/").content.decode()
    assert panels.MISSES[Reason.NO_HINT].sentence in html


def test_no_script_and_no_style():
    """A Content-Security-Policy would block them."""
    _, page = request(get_or_create)
    assert page.tags == {
        *("h4", "table", "thead", "tbody", "tr", "th", "td", "colgroup", "col"),
        *("div", "br", "p", "strong", "details", "summary", "pre", "span"),
    }


def test_lookup_is_escaped():
    html = "<script>alert(1)</script>"
    _, page = request(lambda: get_or_create(html))
    assert lookups(page) == [(f"title='{html}'", "miss", "no hint")]
    assert "script" not in page.tags


def test_lookup_is_shown_as_it_was_called():
    def view():
        get_or_create()
        Paper.objects.get_or_create(title__startswith="a")
        get_or_create(force_select=True)
        with bypass():
            get_or_create()

    _, page = request(view)
    # Those of one row after each other.
    assert lookups(page) == [
        ("title='a'", "miss", "no hint"),
        ("title='a'", "miss", "forced"),
        ("title='a'", "miss", "bypass"),
        ("title__startswith='a'", "miss", "not cacheable"),
    ]


def rows_and_calls(page):
    """Return the outcome, the result and the number of calls of each line."""
    return [(row[3], row[6], row[7]) for row in page.tables[1][1:]]


def test_repeated_calls_are_one_line():
    def view():
        for title in "abab":
            get_or_create(title)
            get_or_create(title)

    _, page = request(view)
    assert (
        rows_and_calls(page)
        == [
            ("miss", "created", "1"),
            ("hit", "found", "3"),
        ]
        * 2
    )


def test_what_a_miss_has_ended_in():
    Page_.plain.create(slug="there")

    def view():
        Page_.objects.get(slug="there")
        Page_.objects.get(slug="there")
        for lookup in ({"slug": "x"}, {"slug__iexact": "x"}):
            with suppress(Page_.DoesNotExist):
                Page_.objects.get(**lookup)
        Page_.objects.get_or_create(slug__iexact="new", defaults={"slug": "new"})
        PlusItem.objects.get_or_create(code="1")
        PlusItem.objects.bulk_get_or_create([{"code": "1"}, {"code": "2"}])
        with bypass():
            PlusItem.objects.bulk_get_or_create([{"code": "2"}, {"code": "3"}])

    _, page = request(view)
    assert sorted(rows_and_calls(page)) == sorted(
        [
            ("miss", "found", "1"),
            ("hit", "found", "1"),
            *[("miss", "missing", "1")] * 2,
            ("miss", "created", "1"),
            ("miss", "created", "1"),
            ("hit", "found", "1"),
            ("miss", "created", "1"),
            ("miss", "found", "1"),
            ("miss", "created", "1"),
        ]
    )


def test_no_stack_where_the_toolbar_has_none():
    config = settings.DEBUG_TOOLBAR_CONFIG | {"ENABLE_STACKTRACES": False}
    with override_settings(DEBUG_TOOLBAR_CONFIG=config):
        _, page = request(get_or_create)
    assert page.tables[1][1][8] == ""
    assert "details" not in page.tags


def test_other_database():
    _, page = request(lambda: Paper.objects.using("other").get_or_create(title="a"))
    assert page.tables[1][1][:2] == ["tests.Paper", "other"]


@pytest.mark.slow
def test_many_lookups_are_counted_and_left_out(monkeypatch):
    assert panels.MAX_LOOKUPS == 500  # whose stacks and page take seconds
    monkeypatch.setattr(panels, "MAX_LOOKUPS", 20)
    rows = [{"code": f"{i:03}"} for i in range(21)]
    subtitle, page = request(lambda: PlusItem.objects.bulk_get_or_create(rows))
    assert subtitle == "0 hits, 21 misses"
    assert len(lookups(page)) == 20
    assert page.texts[-2] == "1 more lookup is counted above, but not listed here."
    rows.append({"code": "z"})
    subtitle, page = request(lambda: PlusItem.objects.bulk_get_or_create(rows))
    assert subtitle == "21 hits, 1 miss"
    assert page.texts[-2] == "2 more lookups are counted above, but not listed here."


class TestListening:
    def is_any(self):
        return any(signal.receivers for signal in SIGNALS)

    def test_while_the_request_runs(self):
        listened = []
        request(lambda: listened.append(self.is_any()))
        assert listened == [True]
        assert not self.is_any()

    def test_until_the_view_fails(self):
        def view():
            get_or_create()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            request(view)
        assert not self.is_any()

    def test_not_where_the_panel_is_off(self):
        """Like the checkbox in the toolbar."""
        from .panel_urls import calls

        listened = []
        calls["a"] = lambda: listened.append(self.is_any())
        client = Client()
        client.cookies["djdtGetOrCreatePanel"] = "off"
        html = client.get("/a/").content.decode()
        assert listened == [False]
        assert 'id="djdt-GetOrCreatePanel"' in html

    def test_request_inside_of_a_request(self):
        """The lookups of the inner request do not end the outer one's."""
        inner = []

        def view():
            get_or_create("a")
            inner.append(request(lambda: get_or_create("b"), name="b")[0])
            get_or_create("c")

        subtitle, page = request(view)
        assert inner == ["0 hits, 1 miss"]
        assert subtitle == "0 hits, 3 misses"
        assert [lookup for lookup, _, _ in lookups(page)] == [
            f"title='{title}'" for title in "abc"
        ]


def test_requests_of_two_threads_are_apart():
    both = threading.Barrier(2, timeout=TIMEOUT)
    shown = {}

    def visit(name, count):
        def view():
            for _ in range(count):
                both.wait()
                get_or_create(name)
            both.wait()

        shown[name] = request(view, name=name)

    for name in "ab":
        get_or_create(name)
        get_or_create(name)
    threads = [start(visit, name, 3) for name in "ab"]
    for thread in threads:
        thread.join(TIMEOUT)
    assert {name: subtitle for name, (subtitle, _) in shown.items()} == {
        "a": "3 hits, 0 misses",
        "b": "3 hits, 0 misses",
    }
    for name, (_, page) in shown.items():
        assert lookups(page) == [(f"title='{name}'", "hit", "cache")]
        assert rows_and_calls(page) == [("hit", "found", "3")]
    assert not any(signal.receivers for signal in SIGNALS)


class TestAsync:
    def test_async_view(self):
        from .panel_urls import calls

        async def view():
            await Paper.objects.aget_or_create(title="a")
            await Paper.objects.aget_or_create(title="a")

        calls["a"] = view
        response = async_to_sync(AsyncClient().get)("/async/a/")
        subtitle, page = panel_of(response, Client())
        assert subtitle == "1 hit, 1 miss"
        assert lookups(page) == [
            ("title='a'", "miss", "no hint"),
            ("title='a'", "hit", "cache"),
        ]
        assert not any(signal.receivers for signal in SIGNALS)

    def test_sync_view(self):
        from .panel_urls import calls

        calls["a"] = get_or_create
        response = async_to_sync(AsyncClient().get)("/a/")
        assert panel_of(response, Client())[0] == "0 hits, 1 miss"

    def test_two_tasks_are_apart(self):
        from .panel_urls import calls

        async def visit():
            turns = [asyncio.Event(), asyncio.Event()]

            def view(name, mine, other):
                async def call():
                    for _ in range(3):
                        await asyncio.wait_for(mine.wait(), TIMEOUT)
                        mine.clear()
                        await Paper.objects.aget_or_create(title=name)
                        other.set()

                return call

            calls["a"] = view("a", *turns)
            calls["b"] = view("b", *reversed(turns))
            turns[0].set()
            client = AsyncClient()
            return await asyncio.gather(
                client.get("/async/a/"), client.get("/async/b/")
            )

        for name, response in zip("ab", async_to_sync(visit)(), strict=True):
            subtitle, page = panel_of(response, Client())
            assert subtitle == "2 hits, 1 miss"
            assert {lookup for lookup, _, _ in lookups(page)} == {f"title='{name}'"}


NOON = datetime.datetime(2024, 2, 3, 12, tzinfo=datetime.UTC)


class Loud(str):
    __slots__ = ()

    def __repr__(self):
        raise AssertionError


class Quiet:
    def __repr__(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (1, "1"),
        (b"a", "b'a'"),
        (NOON, "datetime.datetime(2024, 2, 3, 12, 0, tzinfo=datetime.timezone.utc)"),
        (datetime.date(2024, 2, 3), "datetime.date(2024, 2, 3)"),
        (Loud("a"), "'a'"),
        (Quiet(), "<Quiet>"),
        (models.F("title"), "<F>"),
        ([1, "a", Quiet()], "[1, 'a', <Quiet>]"),
        (list(range(100)), "[0, 1, 2, 3, 4, 5, ...]"),
        ([[[[1]]]], "[[[[...]]]]"),
        ({"a": Quiet()}, "{'a': <Quiet>}"),
        ("x" * 1000, f"'{'x' * 37}...{'x' * 38}'"),
        (b"x" * 1000, f"b'{'x' * 78}..."),
        (Rack(pk=7, name="a"), "<Rack pk=7>"),
    ],
    ids=lambda value: value[:20] if type(value) is str else type(value).__name__,
)
def test_values_are_brief(value, text):
    assert panels.shown({"argument": value}) == f"argument={text}"


def test_values_are_shown_without_a_query():
    rack = Rack.objects.defer("name").get(pk=Rack.objects.create(name="a").pk)
    with CaptureQueriesContext(connection) as queries:
        text = panels.shown({"rack": rack, "pk__in": Rack.objects.all()})
    assert len(queries) == 0
    assert text == f"rack=<Rack pk={rack.pk}>, pk__in=<PlusQuerySet>"


def test_apps_without_the_package_are_an_error():
    assert ids() == []
    apps = [app for app in settings.INSTALLED_APPS if app != "getorcreateplus"]
    with override_settings(INSTALLED_APPS=apps):
        assert ids() == ["getorcreateplus.E018"]
        assert panels.GetOrCreatePanel.run_checks() == [
            checks.Error(
                "getorcreateplus.panels.GetOrCreatePanel is in DEBUG_TOOLBAR_PANELS, "
                "but 'getorcreateplus' is not in INSTALLED_APPS: Django does not find "
                "the panel's template.",
                hint="Add 'getorcreateplus' to INSTALLED_APPS.",
                id="getorcreateplus.E018",
            )
        ]


def ids():
    """Return the ids of the panel's check, as manage.py check runs it."""
    found = {message.id for message in checks.run_checks()}
    return sorted(found & {"getorcreateplus.E018"})
