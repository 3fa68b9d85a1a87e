"""Batches of many rows, and the limits of databases."""

import gc
import sqlite3
from contextlib import contextmanager
from itertools import islice

import pytest
from django.db import connection, models
from django.test import override_settings

from getorcreateplus import bypass
from getorcreateplus.bulk import READ_ONE_BATCH_OF
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence.looking import SoughtRow

from ..models import CachedItem, KeyedByBoth, Ordinary, PlusItem
from ..support.caches import commands
from ..support.queries import count
from .rows import cached, exist, first_words

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("cache_api")]

committed = pytest.mark.django_db(transaction=True)
CACHED = pytest.mark.parametrize("model", [CachedItem, PlusItem])


@contextmanager
def limit(name, number):
    """Give SQLite a limit with which it may have been built."""
    connection.ensure_connection()
    category = getattr(sqlite3, f"SQLITE_LIMIT_{name}")
    before = connection.connection.setlimit(category, number)
    connection.features.__dict__.pop("max_query_params", None)
    try:
        yield
    finally:
        connection.connection.setlimit(category, before)
        connection.features.__dict__.pop("max_query_params", None)


class TestLimits:
    """The database limits the size of a statement."""

    @pytest.mark.slow
    @pytest.mark.parametrize("batch_size", [None, 1100, 3000])
    def test_keys_with_no_value_in_common(self, batch_size):
        rows = [{"room": number, "hour": -number} for number in range(1100)]
        for created in True, False:
            with bypass():
                found = KeyedByBoth.objects.bulk_get_or_create(
                    rows, batch_size=batch_size
                )
            assert [new for _, new in found] == [created] * 1100
            assert [obj.pk for obj, _ in found] == [
                (row["room"], row["hour"]) for row in rows
            ]

    @pytest.mark.database("sqlite")
    def test_depth_of_an_expression(self):
        rows = [{"room": number, "hour": -number} for number in range(100)]
        filters = models.Q()
        for number in range(25):
            filters |= models.Q(note__startswith=f"no {number}", hour__lt=50)
        with limit("EXPR_DEPTH", 40), bypass():
            queryset = KeyedByBoth.objects.exclude(filters)
            found = queryset.bulk_get_or_create(rows)
        assert all(created for _, created in found)

    def test_keys_with_a_value_in_common_are_one_statement(self):
        rows = [{"room": 1, "hour": number} for number in range(300)]
        with bypass(), first_words() as sent:
            KeyedByBoth.objects.bulk_get_or_create(rows)
        assert sent.count("SELECT") == 1

    @pytest.mark.slow
    @pytest.mark.database("sqlite")
    def test_parameters(self):
        """
        The parameters of the queryset's own filters and of expressions count,
        too.
        """
        rows = [
            {"code": str(number), "size": models.Value(1) + models.Value(number % 7)}
            for number in range(1100)
        ]
        with limit("VARIABLE_NUMBER", 999), bypass():
            queryset = PlusItem.objects.filter(size__in=range(300))
            found = queryset.bulk_get_or_create(rows)
            assert all(created for _, created in found)
            found = queryset.bulk_get_or_create(rows)
            assert not any(created for _, created in found)

    @committed
    @pytest.mark.database("postgresql")
    def test_parameters_that_the_server_binds(self):
        rows = [{"room": 1 + number % 2, "hour": number} for number in range(33_000)]
        options = connection.settings_dict["OPTIONS"]
        connection.close()
        options["server_side_binding"] = True
        try:
            found = KeyedByBoth.objects.bulk_get_or_create(rows, batch_size=70_000)
            assert all(created for _, created in found)
        finally:
            del options["server_side_binding"]
            connection.close()

    @pytest.mark.database("mysql")
    def test_size_of_a_packet(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            [packet] = cursor.fetchone()
        text = "x" * 1_000_000
        count = packet // len(text) + 5
        rows = [{"char": str(number), "text": text} for number in range(count)]
        with bypass():
            found = Ordinary.objects.bulk_get_or_create(rows, unique_fields=["char"])
        assert [created for _, created in found] == [True] * count
        rows = [{"text": f"{number}{text}"} for number in range(count)]
        with bypass():
            found = Ordinary.objects.bulk_get_or_create(rows, unique_fields=["text"])
        assert [created for _, created in found] == [True] * count


class TestManyRows:
    """The rows that a batch keeps in memory, and in the cache."""

    def rows(self, count, start=0):
        return [{"code": str(number)} for number in range(start, start + count)]

    @pytest.mark.slow
    @CACHED
    def test_what_was_asked_is_not_kept(self, model):
        """It keeps only the rows of one statement in memory."""
        alive = []

        def look(execute, sql, params, many, context):
            if sql.startswith("INSERT"):
                alive.append(sum(type(each) is SoughtRow for each in gc.get_objects()))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(look):
            model.objects.bulk_get_or_create(self.rows(300), batch_size=20)
        assert len(alive) >= 15
        assert max(alive) <= 40

    @committed
    @CACHED
    def test_iterator_fills_the_cache_up_to_a_number(self, model):
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=20):
            found = model.objects.ibulk_get_or_create(self.rows(200), batch_size=10)
            made = commands(lambda: list(found))
            assert made.count("set_many") == 2 * 2
            for _ in range(2):
                cached(lambda: model.objects.bulk_get_or_create(self.rows(20)))
            _, queries = count(lambda: model.objects.get_or_create(code="100"))
            assert queries == 1

    @committed
    @CACHED
    def test_iterator_asks_less_where_nothing_is_found(self, model):
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=20):
            batches = 2 + 4 * READ_ONE_BATCH_OF
            found = model.objects.ibulk_get_or_create(
                self.rows(10 * batches), batch_size=10
            )
            list(islice(found, 20))
            made = commands(lambda: list(found))
            assert made == ["get_many"] * 4

    @committed
    @CACHED
    def test_iterator_asks_each_batch_again_after_a_hit(self, model):
        there = self.rows(10 * (READ_ONE_BATCH_OF + 5), start=5000)
        model.objects.bulk_get_or_create(there)
        memory.hints.clear()
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=20):
            found = model.objects.ibulk_get_or_create(
                [*self.rows(20), *there], batch_size=10
            )
            list(islice(found, 20))
            results, queries = count(lambda: list(found))
        assert not any(created for _, created in results)
        assert queries == READ_ONE_BATCH_OF - 1

    @committed
    @CACHED
    def test_more_rows_than_a_transaction_keeps(self, model):
        """Payloads are not built for a cache that will not store them."""
        rows = self.rows(50)
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=20):
            made = commands(
                lambda: model.objects.bulk_get_or_create(rows, batch_size=10)
            )
        assert "set_many" not in made


def test_created_without_returning(monkeypatch):
    """As on MySQL, the keys of the new rows are read afterwards."""
    features = connection.features
    monkeypatch.setattr(
        type(features), "can_return_rows_from_bulk_insert", False, raising=False
    )
    monkeypatch.setitem(features.__dict__, "can_return_rows_from_bulk_insert", False)
    exist(PlusItem, "b")
    for created in True, False:
        found = PlusItem.objects.bulk_get_or_create([{"code": c} for c in "abc"])
        assert [new for _, new in found] == [created, False, created]
        assert [obj.code for obj, _ in found] == ["a", "b", "c"]
        assert all(obj.pk for obj, _ in found)
