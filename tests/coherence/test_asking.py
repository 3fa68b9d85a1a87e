"""A process decides whether its lookups read the cache at all."""

import logging
from time import monotonic

import pytest
from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus import CachedQuerySet
from getorcreateplus.coherence import asking
from getorcreateplus.coherence.asking import LARGE_REST, PATIENCE, Asking
from getorcreateplus.signals import Reason, cache_miss
from getorcreateplus.writes.registry import region_of

from ..models import Paper, Scroll
from ..support.caches import commands
from ..support.papers import pages, save, warm
from ..support.servers import another_process
from ..support.threads import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The test's own clock, in a process that is not that of a test."""
    clock = Clock()
    monkeypatch.setattr(asking, "is_testing", lambda: False)
    monkeypatch.setattr(asking.time, "monotonic", clock)
    return clock


def asking_of(model=Paper):
    return region_of(model.objects.all()).asking


@pytest.fixture
def reasons():
    found = []

    def note(reason, **kwargs):
        found.append(reason)

    cache_miss.connect(note)
    yield found
    cache_miss.disconnect(note)


# Sampling


def answer(judge, hits, reads=PATIENCE, question=1, query=1, fill=1, names=10):
    """
    Count many reads, some of which are hits. Return how many read the cache.
    """
    asked = 0
    for number in range(reads):
        sample = judge.sample(f"{number % names}")
        if sample is None:
            continue
        asked += 1
        judge.record_look(sample, question, number * 37 % 100 < hits)
        judge.query.add(query)
        judge.fill.add(fill)
    return asked


@pytest.mark.parametrize(
    ("hits", "question", "query", "fill", "pays"),
    [
        (100, 1, 2, 1, True),
        (0, 1, 2, 1, False),
        (60, 1, 2, 1, False),  # 0.6 * 2 < 1 + 0.4 * 1
        (80, 1, 2, 1, True),
        (80, 1, 1, 1, False),
        (10, 1, 100, 1, True),  # a slow query
    ],
)
def test_a_process_asks_as_long_as_that_pays(hits, question, query, fill, pays):
    judge = Asking()
    costs = {"question": question, "query": query, "fill": fill}
    assert answer(judge, hits, **costs) == PATIENCE
    asked = answer(judge, hits, names=10_000, **costs)
    assert asked == PATIENCE if pays else 0 < asked < PATIENCE / 4


def test_process_asks_again_when_hits_return():
    judge = Asking()
    answer(judge, 0, query=2)
    assert judge.rate is not None
    answer(judge, 100, reads=20 * PATIENCE, query=2)
    assert judge.rate is None
    assert answer(judge, 100, query=2) == PATIENCE


def test_rows_that_are_read_seldom_are_seen_to_be_hits():
    """A random sample of reads would not contain any of them twice."""
    judge = Asking()
    answer(judge, 0, query=2)
    names, seen = 50_000, set()
    for number in range(4 * names):
        name = f"{number % names}"
        if (sample := judge.sample(name)) is not None:
            judge.record_look(sample, 1, name in seen)
            seen.add(name)
        if judge.rate is None:
            break
    assert judge.rate is None


@pytest.mark.slow
def test_rows_that_are_never_hits_are_not_read(reasons):
    """Each is written between two reads of it."""
    paper = warm()
    judge = asking_of()
    for number in range(PATIENCE + 300):
        save(paper, number)
        assert pages()[0] == number
        # As on Redis. (The test's clock stands still.)
        judge.query.value = judge.look.value = 1.0
    assert judge.rate is not None
    asked = []
    for number in range(300):
        save(paper, number)
        asked += commands(pages)
    assert reasons.count(Reason.SELDOM) > 150
    assert asked.count("get_many") < 300
    judge.begin()
    pages()
    assert pages() == (299, 0)


def test_what_is_not_asked_for_is_djangos_own_call():
    warm()
    judge = asking_of()
    judge.shares, judge.rate = {"lookups": 0.0, "reads": 0.0}, 0.0
    with CaptureQueriesContext(connection) as queries:
        assert commands(lambda: Paper.objects.get_or_create(title="a")) == []
        obj, created = Paper.objects.get_or_create(title="new", defaults={"pages": 3})
        assert (obj.pages, created) == (3, True)
        assert pages(title="new")[0] == 3
    statements = [query["sql"].partition(" ")[0] for query in queries]
    assert statements.count("SELECT") == 3


def test_force_select_asks_in_any_case():
    paper = warm()
    judge = asking_of()
    judge.shares, judge.rate = {"lookups": 0.0, "reads": 0.0}, 0.0
    Paper._base_manager.filter(pk=paper.pk).update(pages=2)
    Paper.objects.get_or_create(title="a", force_select=True)
    judge.begin()
    assert pages() == (2, 0)


class Remembering(CachedQuerySet):
    local_timeout = 60


def test_memory_of_the_process_is_always_asked():
    """It costs nothing, so the share of hits in the cache does not matter."""
    warm()
    judge = region_of(Remembering(Paper)).asking
    judge.shares, judge.rate = {"lookups": 0.0, "reads": 0.0}, 0.0
    Remembering(Paper).get_or_create(title="a")
    with CaptureQueriesContext(connection) as queries:
        assert commands(lambda: Remembering(Paper).get_or_create(title="a")) == []
    assert len(queries) == 0


def test_tests_ask_for_all(monkeypatch):
    monkeypatch.setattr(asking, "is_testing", lambda: True)
    judge = Asking()
    answer(judge, 0, reads=2 * PATIENCE)
    assert answer(judge, 0) == PATIENCE


# LOCK


@pytest.mark.database("postgresql", "mysql")
@pytest.mark.shared_cache
def test_model_under_lock_is_not_asked_for(clock, reasons):
    def asks():
        return elsewhere(lambda: commands(pages)) != []

    warm()
    with transaction.atomic():
        Paper.objects.update(pages=2)
        with another_process():
            assert asks()
            reasons.clear()
            assert not asks()
            assert reasons == [Reason.LOCKED]
            clock.now += asking.REST
            assert asks()


def test_own_release_ends_the_rest():
    paper = warm()
    judge = asking_of()
    judge.rest()
    assert pages() == (1, 1)
    save(paper)
    assert pages() == (2, 1)
    assert pages() == (2, 0)


# Rows that are too large


class SmallCache(LocMemCache):
    """Like memcached: no entry may have more than a megabyte."""

    sent = []

    def set_many(self, data, *args, **kwargs):
        large = [key for key, value in data.items() if len(str(value)) > 2**20]
        self.sent += large
        for key in data.keys() - set(large):
            self.set(key, data[key], *args, **kwargs)
        return large


class FullCache(SmallCache):
    """It does not store anything."""

    def set_many(self, data, *args, **kwargs):
        self.sent += data
        return list(data)


def use(backend):
    path = f"{__name__}.{backend.__name__}"
    config = {"default": {"BACKEND": path, "LOCATION": f"{monotonic()}"}}
    SmallCache.sent.clear()
    return override_settings(CACHES=config)


LARGE = "x" * 2**21


def scroll(name, text=""):
    return Scroll.objects.get_or_create(name=name, defaults={"text": text})[0]


@pytest.mark.parametrize("way", ["get_or_create", "bulk_get_or_create", "pk"])
def test_large_row_is_remembered(way, clock, reasons, caplog):
    def read():
        if way == "bulk_get_or_create":
            rows = Scroll.objects.bulk_get_or_create(
                [{"name": "a"}, {"name": "b"}], unique_fields=["name"]
            )
            return rows[0][0]
        key = {"pk": pk} if way == "pk" else {"name": "a"}
        return Scroll.objects.get_or_create(**key)[0]

    with use(SmallCache):
        pk = Scroll._base_manager.create(name="a", text=LARGE).pk
        scroll("b")
        for _ in range(3):
            assert read().text == LARGE
        assert len(SmallCache.sent) == 1
        # Others are as before.
        scroll("b")
        reasons.clear()
        scroll("b")
        assert reasons == []
        if way != "bulk_get_or_create":
            assert commands(read) == []
            assert reasons == [Reason.LARGE]
        with transaction.atomic():
            assert read().text == LARGE
        assert len(SmallCache.sent) == 1

        clock.now += LARGE_REST
        assert read().text == LARGE
        assert len(SmallCache.sent) == 2
    [record] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert f"primary key {pk}, " in record.getMessage()
    assert Scroll._meta.label in record.getMessage()


def test_row_that_has_become_smaller_is_a_hit_again(clock):
    with use(SmallCache):
        obj = scroll("a", LARGE)
        scroll("a")
        obj.text = "small"
        obj.save()
        assert scroll("a").text == "small"
        clock.now += LARGE_REST
        scroll("a")
        with CaptureQueriesContext(connection) as queries:
            assert scroll("a").text == "small"
        assert len(queries) == 0


def test_cache_that_takes_nothing_says_nothing_of_the_row(caplog):
    with use(FullCache):
        scroll("a", LARGE)
        scroll("a")
        scroll("a")
        assert asking_of(Scroll).large == {}
    assert not [r for r in caplog.records if "too large" in r.getMessage()]


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(asking, "MAX_LARGE", 10)
    judge = Asking()
    for number in range(25):
        judge.record_too_large(f"{number}")
    assert len(judge.large) <= 10
    assert judge.is_too_large("24")


@pytest.mark.shared_cache
def test_large_row_of_a_server(caplog):
    is_memcached = "memcached" in settings.CACHES["default"]["BACKEND"].lower()
    for _ in range(2):
        scroll("a", LARGE)
    with CaptureQueriesContext(connection) as queries:
        assert scroll("a").text == LARGE
    assert len(queries) == is_memcached
    assert ("as too large" in caplog.text) is is_memcached
