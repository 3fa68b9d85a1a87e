"""The signals, their receivers, and the counts of Statistics."""

import asyncio
import json
import logging
import threading
from collections import Counter

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus import NonAtomicQuerySet, bypass
from getorcreateplus.coherence import tokens, transactions
from getorcreateplus.signals import (
    Reason,
    Source,
    cache_hit,
    cache_invalidated,
    cache_miss,
)
from getorcreateplus.statistics import Counts, Statistics

from ..models import Paper, PlusItem, PlusPaper, Poster, Rack, Sheet, Zone
from ..support.databases import isolation
from ..support.errors import Rollback
from ..support.signals import (
    SIGNALS,
    capture_signals,
    entries,
    row_of,
    signals_of,
    warm_row,
)
from ..support.threads import own_connections

pytestmark = pytest.mark.django_db


def miss(reason, model=Paper, **lookup):
    return "miss", model, {"lookup": lookup or {"title": "a"}, "reason": reason}


def hit(source, model=Paper, **lookup):
    return "hit", model, {"lookup": lookup or {"title": "a"}, "source": source}


async def aget_or_create():
    return await Paper.objects.aget_or_create(title="a")


class TestReasons:
    """
    Each is the state of the cache for the lookup, and is sent before the
    query.
    """

    def test_no_hint(self):
        assert signals_of(row_of) == [miss(Reason.NO_HINT)]
        assert Paper.objects.count() == 1

    def test_hit(self):
        obj = warm_row()
        assert signals_of(row_of) == [hit(Source.CACHE)]
        assert signals_of(lambda: row_of(pk=obj.pk)) == [hit(Source.CACHE, id=obj.pk)]

    def test_lookup_is_one_of_columns(self):
        Paper.objects.create(title="a", pages=3)
        sent = signals_of(
            lambda: Paper.objects.get_or_create(title__exact="a", pages="3")
        )
        assert sent == [miss(Reason.NO_HINT, title="a", pages=3)]

    def test_no_row(self):
        obj = warm_row()
        caches["paper"].delete(obj.pk)
        assert signals_of(row_of) == [miss(Reason.NO_ROW)]

    def test_row_that_was_written(self):
        warm_row().save()
        assert signals_of(row_of) == [miss(Reason.NO_ROW)]

    def test_locked(self):
        region, _, version = entries(warm_row())
        region.client.announce(
            {version: transactions.token_prefix("default") + tokens.LOCK}, 60
        )
        assert signals_of(row_of) == [miss(Reason.LOCKED)]
        region.client.announce(
            {region.epoch_key: transactions.token_prefix("default") + "LOCK"}, 60
        )
        assert signals_of(row_of) == [miss(Reason.LOCKED)]

    def test_stamp(self):
        region, _, version = entries(warm_row())
        token = region.new_token(transactions.token_prefix("default"), version)
        region.client.announce({version: token}, 60)
        assert signals_of(row_of) == [miss(Reason.STAMP)]

    def test_model_that_was_written(self):
        warm_row()
        Paper.objects.filter(pages=7).update(pages=8)
        assert signals_of(row_of) == [miss(Reason.STAMP)]

    def test_fields(self):
        region, payload, _ = entries(warm_row())
        stamp, _, *rest = region.client.look([payload])[payload]
        region.client.announce({payload: (stamp, "another", *rest)}, 60)
        assert signals_of(row_of) == [miss(Reason.FIELDS)]

    def test_lookup(self):
        obj = warm_row()
        obj.title = "b"
        obj.save()
        warm_row(title="b")
        # Its hint is still there.
        assert signals_of(row_of) == [miss(Reason.LOOKUP)]

    def test_what_is_no_payload(self):
        region, payload, _ = entries(warm_row())
        region.client.announce({payload: "something"}, 60)
        assert signals_of(row_of) == [miss(Reason.ERROR)]

    def test_version_that_is_gone(self):
        region, _, version = entries(warm_row())
        region.client.delete([version])
        assert signals_of(row_of) == [miss(Reason.NO_ROW)]

    def test_cache_that_fails(self):
        broken = {"BACKEND": "tests.tools.test_signals.RefusingCache"}
        with override_settings(CACHES={"default": broken}):
            assert signals_of(row_of) == [miss(Reason.ERROR)]

    def test_forced(self):
        warm_row()
        sent = signals_of(
            lambda: Paper.objects.get_or_create(force_select=True, title="a")
        )
        assert sent == [miss(Reason.FORCED)]

    def test_bypass(self):
        warm_row()
        with bypass():
            assert signals_of(row_of) == [miss(Reason.BYPASS)]

    @pytest.mark.parametrize(
        "lookup", [{"title__startswith": "a"}, {"rack__name": "a"}, {"title__in": "a"}]
    )
    def test_lookup_that_cannot_be_cached(self, lookup):
        Paper.objects.create(title="a", rack=row_of(Rack, name="a"))
        sent = signals_of(lambda: Paper.objects.get_or_create(**lookup))
        assert sent == [miss(Reason.NOT_CACHEABLE, **lookup)]

    def test_queryset_that_cannot_be_cached(self):
        row_of()
        sent = signals_of(lambda: Paper.objects.only("title").get_or_create(pages=1))
        assert sent == [miss(Reason.NOT_CACHEABLE, pages=1)]

    @pytest.mark.parametrize("model", [Paper, PlusPaper])
    def test_update_or_create_is_no_lookup(self, model):
        """It always needs a query, which is not a miss."""
        sent = signals_of(lambda: model.objects.update_or_create(title="a"))
        sent += signals_of(lambda: model.objects.update_or_create(title="a"))
        assert not {"hit", "miss"} & {name for name, _, _ in sent}

    def test_update_or_create_that_cannot_be_cached(self):
        row_of()
        sent = signals_of(lambda: Paper.objects.update_or_create(title__in="a"))
        assert sent == [miss(Reason.NOT_CACHEABLE, title__in="a")]


class RefusingCache(BaseCache):
    def __init__(self, location, params):
        super().__init__(params)

    def get_many(self, keys, version=None):
        raise OSError


@pytest.mark.django_db(transaction=True)
class TestTransactions:
    def test_own_row(self):
        with transaction.atomic():
            row_of()
            assert signals_of(row_of) == [hit(Source.TRANSACTION)]

    def test_own_row_that_has_to_be_read(self):
        obj = warm_row()
        with transaction.atomic():
            obj.save()
            assert signals_of(row_of) == [miss(Reason.TRANSACTION)]
            assert signals_of(row_of) == [hit(Source.TRANSACTION)]

    def test_transaction_that_is_to_be_rolled_back(self):
        warm_row()
        with transaction.atomic():
            transaction.set_rollback(True)
            with (
                capture_signals() as sent,
                pytest.raises(transaction.TransactionManagementError),
            ):
                row_of()
            transaction.set_rollback(False)
        assert sent == [miss(Reason.TRANSACTION)]

    def test_rows_that_are_created_one_after_the_other(self):
        with transaction.atomic():
            for title in "abc":
                row_of(title=title)
            sent = signals_of(lambda: row_of(title="d"))
        assert sent == [miss(Reason.TRANSACTION, title="d")]

    @pytest.mark.database("postgresql", "mysql")
    def test_snapshot(self):
        warm_row()
        connection.close()
        with isolation("repeatable read"), transaction.atomic():
            assert signals_of(row_of) == [miss(Reason.TRANSACTION)]
        connection.close()

    def test_invalidation_is_sent_after_the_commit(self):
        obj, other = warm_row(), warm_row(title="b")
        pks = str(obj.pk), str(other.pk)
        with capture_signals() as sent:
            with transaction.atomic():
                obj.save()
                other.delete()
                assert sent == []
            assert sent == [("invalidated", Paper, {"pks": pks})]

    def test_rollback_invalidates_nothing(self):
        obj = warm_row()
        with capture_signals() as sent, pytest.raises(Rollback), transaction.atomic():
            obj.save()
            raise Rollback
        assert sent == []

    def test_row_is_not_served_by_then(self):
        """A receiver that looks the row up gets the committed values."""
        obj, seen = warm_row(), []

        def look_up(sender, **kwargs):
            seen.append(row_of().pages)

        cache_invalidated.connect(look_up)
        try:
            with transaction.atomic():
                Paper.objects.filter(pk=obj.pk).update(pages=9)
            Paper.objects.update(pages=10)
        finally:
            cache_invalidated.disconnect(look_up)
        assert seen == [9, 10]


class TestInvalidated:
    def test_rows(self):
        obj = warm_row()
        assert signals_of(obj.save) == [("invalidated", Paper, {"pks": (str(obj.pk),)})]
        pk = str(obj.pk)
        assert signals_of(obj.delete) == [("invalidated", Paper, {"pks": (pk,)})]

    def test_all_rows(self):
        sent = signals_of(lambda: Paper.objects.update(pages=1))
        assert sent == [("invalidated", Paper, {"pks": None})]

    def test_created_row_is_none(self):
        assert signals_of(lambda: Paper.objects.create(title="a")) == []


class TestMemory:
    def test_source(self):
        warm_row(Zone, name="a")
        sent = signals_of(lambda: row_of(Zone, name="a"))
        assert sent == [hit(Source.MEMORY, Zone, name="a")]


class TestBatches:
    def test_rows(self):
        warm_row(PlusItem, code="a")
        rows = [{"code": code} for code in "ab"]
        assert signals_of(lambda: PlusItem.objects.bulk_get_or_create(rows)) == [
            hit(Source.CACHE, PlusItem, code="a"),
            miss(Reason.NO_HINT, PlusItem, code="b"),
            ("omitted", PlusItem, {}),
        ]
        assert signals_of(lambda: PlusItem.objects.bulk_get_or_create(rows)) == [
            hit(Source.CACHE, PlusItem, code="a"),
            hit(Source.CACHE, PlusItem, code="b"),
        ]

    def test_reasons(self):
        obj, other = warm_row(PlusItem, code="a"), warm_row(PlusItem, code="b")
        obj.save()
        region, _, version = entries(other)
        region.client.announce(
            {version: transactions.token_prefix("default") + tokens.LOCK}, 60
        )
        rows = [{"code": code} for code in "ab"]
        assert signals_of(lambda: PlusItem.objects.bulk_get_or_create(rows)) == [
            miss(Reason.NO_ROW, PlusItem, code="a"),
            miss(Reason.LOCKED, PlusItem, code="b"),
        ]

    def test_bypass(self):
        warm_row(PlusItem, code="a")
        rows = [{"code": code} for code in "ab"]
        with bypass():
            sent = signals_of(lambda: PlusItem.objects.bulk_get_or_create(rows))
        assert sent[:2] == [
            miss(Reason.BYPASS, PlusItem, code="a"),
            miss(Reason.BYPASS, PlusItem, code="b"),
        ]

    def test_queryset_that_cannot_be_cached(self):
        warm_row(PlusItem, code="a")
        items = PlusItem.objects.only("code")
        sent = signals_of(lambda: items.bulk_get_or_create([{"code": "a"}]))
        assert sent == [miss(Reason.NOT_CACHEABLE, PlusItem, code="a")]

    def test_queryset_that_does_not_cache(self):
        items = NonAtomicQuerySet(PlusItem)
        sent = signals_of(lambda: items.bulk_get_or_create([{"code": "a"}]))
        assert sent == [("omitted", PlusItem, {})]

    def test_cache_that_fails(self):
        broken = {"BACKEND": "tests.tools.test_signals.RefusingCache"}
        PlusItem.objects.create(code="a")
        with override_settings(CACHES={"default": broken}):
            sent = signals_of(
                lambda: PlusItem.objects.bulk_get_or_create([{"code": "a"}])
            )
        assert sent == [miss(Reason.ERROR, PlusItem, code="a")]

    def test_memory(self):
        warm_row(Zone, name="a")
        sent = signals_of(lambda: Zone.objects.bulk_get_or_create([{"name": "a"}]))
        assert sent == [hit(Source.MEMORY, Zone, name="a")]

    @pytest.mark.django_db(transaction=True)
    def test_own_rows(self):
        with transaction.atomic():
            row_of(PlusItem, code="a")
            sent = signals_of(
                lambda: PlusItem.objects.bulk_get_or_create([{"code": "a"}])
            )
        assert sent == [hit(Source.TRANSACTION, PlusItem, code="a")]


class TestSavepoints:
    """It is sent once for each savepoint that Django would have made."""

    @pytest.mark.parametrize(
        ("call", "omitted"),
        [
            (lambda: PlusItem.objects.get_or_create(code="a"), 0),  # it is there
            (lambda: PlusItem.objects.get_or_create(code="b"), 1),
            (lambda: PlusItem.objects.update_or_create({"size": 1}, code="a"), 1),
            (lambda: PlusItem.objects.update_or_create({"size": 1}, code="b"), 2),
            (lambda: PlusItem.objects.bulk_get_or_create([{"code": "b"}]), 1),
        ],
    )
    def test_inside_of_a_transaction(self, call, omitted):
        PlusItem.objects.create(code="a")
        sent = [name for name, _, _ in signals_of(call)]
        assert sent.count("omitted") == omitted

    @pytest.mark.django_db(transaction=True)
    def test_outside_of_one(self):
        sent = signals_of(lambda: PlusItem.objects.get_or_create(code="b"))
        assert "omitted" not in [name for name, _, _ in sent]

    def test_one_that_has_to_be_made(self):
        """The callable writes, before the INSERT."""

        def size():
            PlusItem.objects.create(code="c")
            return 1

        sent = signals_of(
            lambda: PlusItem.objects.get_or_create({"size": size}, code="b")
        )
        assert "omitted" not in [name for name, _, _ in sent]


class TestReceivers:
    def test_sender_is_the_concrete_model(self):
        sent = []

        def receiver(sender, **kwargs):
            sent.append(sender)

        cache_miss.connect(receiver, sender=Poster)
        try:
            row_of(Poster, title="a")
            row_of()
        finally:
            cache_miss.disconnect(receiver, sender=Poster)
        assert sent == [Poster]

    @pytest.mark.parametrize("name", ["hit", "miss", "invalidated", "omitted"])
    def test_error_stops_nothing(self, name, caplog):
        def receiver(sender, **kwargs):
            raise ZeroDivisionError

        SIGNALS[name].connect(receiver)
        try:
            with caplog.at_level(logging.ERROR, "django.dispatch"):
                obj = warm_row(PlusPaper)
                obj.pages = 7
                obj.save()
                assert row_of(PlusPaper).pages == 7
        finally:
            SIGNALS[name].disconnect(receiver)
        assert "ZeroDivisionError" in caplog.text

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("name", ["hit", "miss", "invalidated"])
    def test_coroutine_function_where_a_loop_runs(self, name, caplog, monkeypatch):
        """A synchronous caller cannot await it there, as in a notebook."""
        monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

        async def receiver(sender, **kwargs):
            pass

        async def call():
            with own_connections():
                obj = warm_row()
                obj.pages = 7
                obj.save()
                return row_of().pages

        SIGNALS[name].connect(receiver)
        try:
            assert asyncio.run(call()) == 7
        finally:
            SIGNALS[name].disconnect(receiver)
        assert (
            "A signal of tests.Paper was not sent to all of its receivers."
            in caplog.text
        )

    @pytest.mark.parametrize("lookup", [{"title": "b"}, {"title__in": "b"}])
    def test_lookup_is_a_copy(self, lookup):
        def receiver(sender, lookup, **kwargs):
            lookup.clear()

        Paper.objects.create(title="a")
        Paper.objects.create(title="b")
        cache_miss.connect(receiver)
        try:
            assert row_of(**lookup).title == "b"
        finally:
            cache_miss.disconnect(receiver)

    def test_async_call(self):
        assert signals_of(async_to_sync(aget_or_create)) == [miss(Reason.NO_HINT)]


class TestStatistics:
    def test_counts(self):
        with Statistics() as statistics:
            obj = row_of()
            row_of()
            row_of()
            obj.save()
            row_of()
            row_of(PlusPaper)
        papers, plus = (
            statistics.models["tests.Paper"],
            statistics.models.pop("tests.PlusPaper"),
        )
        assert papers.hits == papers.queries_saved == 2
        assert papers.misses == Counter({Reason.NO_HINT: 1, Reason.NO_ROW: 1})
        assert papers.invalidations == 1
        assert papers.hit_ratio == 0.5
        assert json.loads(json.dumps(statistics.as_dict()))["tests.Paper"] == {
            "hits": papers.hits,
            "misses": {str(reason): n for reason, n in papers.misses.items()},
            "hit_ratio": 0.5,
            "invalidations": papers.invalidations,
            "savepoints_saved": papers.savepoints_saved,
            "duration": papers.duration,
        }
        total = statistics.total
        assert repr(statistics) == (
            f"<Statistics: {total.hits} hits, {total.misses.total()} misses, "
            f"{total.invalidations} invalidations of {len(statistics.models)} models>"
        )
        assert 0 < papers.duration < 10
        assert plus == Counts(0, Counter({"no hint": 1}), 0, 1, plus.duration)
        total = statistics.total
        assert (total.hits, total.misses.total(), total.savepoints_saved) == (2, 3, 1)

    def test_nothing(self):
        statistics = Statistics()
        assert statistics.models == {}
        assert statistics.total == Counts()
        assert statistics.total.hit_ratio is None

    def test_reset(self):
        with Statistics() as statistics:
            row_of()
            statistics.reset()
            row_of()
        assert statistics.total.misses.total() == 0
        assert statistics.total.hits == 1

    def test_models_are_a_copy(self):
        with Statistics() as statistics:
            row_of()
            before = statistics.models["tests.Paper"]
            row_of()
        assert before.hits == 0

    def test_nothing_is_counted_after_stop(self):
        statistics = Statistics()
        statistics.start()
        statistics.start()
        statistics.stop()
        row_of()
        assert statistics.models == {}
        assert not any(signal.receivers for signal in SIGNALS.values())

    @pytest.mark.parametrize("own_context", [True, False])
    def test_threads(self, own_context):
        statistics = Statistics(own_context=own_context)

        def send():
            cache_hit.send(Sheet, using="default", lookup={}, duration=0)

        with statistics:
            thread = threading.Thread(target=send)
            thread.start()
            thread.join()
            send()
        assert statistics.total.hits == (1 if own_context else 2)

    def test_thread_that_has_stopped(self):
        statistics = Statistics(own_context=True)
        with statistics:
            pass
        begun, done = threading.Event(), threading.Event()

        def count():
            with statistics:
                begun.set()
                done.wait(60)

        thread = threading.Thread(target=count)
        thread.start()
        begun.wait(60)
        row_of()
        done.set()
        thread.join()
        assert statistics.models == {}

    def test_several(self):
        with Statistics(own_context=True) as outer:
            row_of()
            with Statistics(own_context=True) as inner:
                row_of()
            row_of()
        assert (outer.total.hits, inner.total.hits) == (2, 1)

    def test_async_calls(self):
        with Statistics(own_context=True) as statistics:
            async_to_sync(aget_or_create)()
        assert statistics.total.misses.total() == 1
