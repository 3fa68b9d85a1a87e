"""
The rows that bulk_update_or_create() reads from the cache, and stores there.
"""

from itertools import islice

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test import override_settings

from getorcreateplus import bypass
from getorcreateplus.coherence import process_memory as memory

from ..models import CachedItem, PlusItem
from ..support.caches import commands
from ..support.errors import Rollback
from ..support.queries import count
from ..support.threads import elsewhere
from .rows import INSERT, cached, exist, first_words, stored

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("cache_api"),
]

CACHED = pytest.mark.parametrize("model", [CachedItem, PlusItem])
# Only these return the rows of an UPDATE.
RETURNING = pytest.mark.database("postgresql", "sqlite")


def sized(codes, size):
    return [{"code": code, "size": size} for code in codes]


def sizes(model, codes):
    """Return the values that get_or_create() serves."""
    return [model.objects.get_or_create(code=code)[0].size for code in codes]


@CACHED
class TestCache:
    def test_written_rows_are_served_as_they_are(self, model):
        model.objects.bulk_get_or_create(sized("ab", 1))
        assert sizes(model, "ab") == [1, 1]
        model.objects.bulk_update_or_create(sized("abc", 2))
        assert sizes(model, "abc") == [2, 2, 2]
        assert elsewhere(lambda: sizes(model, "abc")) == [2, 2, 2]
        increments = [{"code": code, "size": F("size") + 1} for code in "ab"]
        model.objects.bulk_update_or_create(increments)
        assert elsewhere(lambda: sizes(model, "abc")) == [3, 3, 2]
        assert [row["size"] for row in stored(model)] == [3, 3, 2]

    @RETURNING
    def test_written_rows_are_hits(self, model):
        exist(model, "ab")
        model.objects.bulk_update_or_create(sized("abc", 2))
        assert cached(lambda: sizes(model, "abc")) == [2, 2, 2]
        hit, _ = cached(lambda: model.objects.get_or_create(code="b"))
        fresh, _ = model.objects.get_or_create(code="b", force_select=True)
        assert (hit.__dict__ | {"_state": 0}) == (fresh.__dict__ | {"_state": 0})
        increments = [{"code": code, "size": F("size") + 1} for code in "ab"]
        model.objects.bulk_update_or_create(increments)
        assert cached(lambda: sizes(model, "abc")) == [3, 3, 2]

    def test_rows_that_are_rolled_back(self, model):
        model.objects.bulk_get_or_create(sized("ab", 1))
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.bulk_update_or_create(sized("abc", 2))
            assert sizes(model, "abc") == [2, 2, 2]
            raise Rollback
        assert sizes(model, "ab") == [1, 1]
        assert model.objects.get_or_create(code="c")[1]
        with transaction.atomic():
            with pytest.raises(Rollback), transaction.atomic():
                model.objects.bulk_update_or_create(sized("ab", 3))
                raise Rollback
            assert sizes(model, "ab") == [1, 1]
        assert sizes(model, "ab") == [1, 1]

    @pytest.mark.database("postgresql", "mysql")
    def test_others_do_not_see_rows_before_the_commit(self, model):
        model.objects.bulk_get_or_create(sized("ab", 1))
        with transaction.atomic():
            model.objects.bulk_update_or_create(sized("ab", 2))
            for _ in range(2):
                assert elsewhere(lambda: sizes(model, "ab")) == [1, 1]
        assert elsewhere(lambda: sizes(model, "ab")) == [2, 2]

    def test_written_again_in_the_transaction(self, model):
        exist(model, "ab")
        with transaction.atomic():
            model.objects.bulk_update_or_create(sized("ab", 2))
            model._base_manager.filter(code="a").update(size=3)
            assert sizes(model, "ab") == [3, 2]
            model.objects.bulk_update_or_create(sized("b", 4))
        assert sizes(model, "ab") == [3, 4]

    def test_other_rows_of_the_model_stay_hits(self, model):
        exist(model, "abcd")
        for _ in range(2):
            sizes(model, "d")
        model.objects.bulk_update_or_create(sized("abc", 2))
        cached(lambda: sizes(model, "d"))
        with transaction.atomic():
            model.objects.bulk_update_or_create(sized("abc", 3))
        cached(lambda: sizes(model, "d"))

    def test_many_rows(self, model):
        """
        There are more rows than a statement names: each is locked and
        released.
        """
        codes = [str(number) for number in range(300)]
        exist(model, [*codes, "other"])
        for _ in range(2):
            sizes(model, ["other"])
        model.objects.bulk_get_or_create({"code": code} for code in codes[:40])
        model.objects.bulk_update_or_create(sized(codes, 5))
        cached(lambda: sizes(model, ["other"]))
        found = model.objects.bulk_get_or_create({"code": code} for code in codes)
        assert {obj.size for obj, _ in found} == {5}

    def test_more_rows_than_the_transaction_keeps(self, model):
        exist(model, "abcdef")
        for _ in range(2):
            sizes(model, "abcdef")
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=3), transaction.atomic():
            model.objects.bulk_update_or_create(sized("abcdef", 2))
            assert sizes(model, "abcdef") == [2] * 6
        assert sizes(model, "abcdef") == [2] * 6

    def test_writer_between_select_and_update(self, model):
        """The rows are locked, so it waits. SQLite locks all rows."""
        exist(model, "ab", size=1)
        for _ in range(2):
            sizes(model, "ab")
        increments = [{"code": code, "size": F("size") + 1} for code in "ab"]
        model.objects.bulk_update_or_create(increments, only_changed=True)
        assert sizes(model, "ab") == [2, 2]

    def test_bypass(self, model):
        exist(model, "ab", size=1)
        for _ in range(2):
            sizes(model, "ab")
        with bypass():
            model.objects.bulk_update_or_create(sized("abc", 2))
        assert sizes(model, "abc") == [2, 2, 2]

    def test_cache_that_does_not_answer(self, model, caplog):
        refuses = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1",
        }
        exist(model, "a")
        with override_settings(CACHES={"default": refuses}):
            for size in 2, 3:
                model.objects.bulk_update_or_create(sized("ab", size))
        assert [row["size"] for row in stored(model)] == [3, 3]
        assert [record.levelname for record in caplog.records] == ["WARNING"]


@CACHED
class TestOnlyChanged:
    def test_unchanged_rows_are_answered_from_the_cache(self, model):
        rows = sized("abc", 1)
        model.objects.bulk_get_or_create(rows)
        found = cached(
            lambda: model.objects.bulk_update_or_create(rows, only_changed=True)
        )
        assert [(obj.size, created) for obj, created in found] == [(1, False)] * 3
        rows[1]["size"] = 2
        with first_words() as sent:
            model.objects.bulk_update_or_create(rows, only_changed=True)
        assert sent.count("UPDATE") == (2 if connection.vendor == "sqlite" else 1)
        assert sizes(model, "abc") == [1, 2, 1]

    def test_unchanged_rows_are_kept(self, model):
        exist(model, "abc", size=1)
        rows = sized("abc", 1)
        model.objects.bulk_update_or_create(rows, only_changed=True)
        cached(lambda: model.objects.bulk_update_or_create(rows, only_changed=True))
        memory.hints.clear()
        cached(lambda: sizes(model, "abc"))

    def test_row_that_another_has_written(self, model):
        rows = sized("ab", 1)
        model.objects.bulk_get_or_create(rows)
        elsewhere(lambda: model._base_manager.update(size=7))
        model.objects.bulk_update_or_create(rows, only_changed=True)
        assert [row["size"] for row in stored(model)] == [1, 1]

    def test_row_that_this_transaction_has_written(self, model):
        rows = sized("ab", 1)
        model.objects.bulk_get_or_create(rows)
        with transaction.atomic():
            model._base_manager.filter(code="a").update(size=7)
            model.objects.bulk_update_or_create(rows, only_changed=True)
        assert [row["size"] for row in stored(model)] == [1, 1]

    def test_writer_between_look_and_select(self, model):
        """A change after the read was not there at the read."""
        rows = sized("ab", 1)
        model.objects.bulk_get_or_create(sized("a", 1))
        exist(model, "b", size=2)
        written = []

        def write(execute, sql, params, many, context):
            if sql.startswith("SELECT") and not written:
                written.append(1)
                if connection.vendor != "sqlite":
                    elsewhere(lambda: model._base_manager.update(size=8))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(write):
            model.objects.bulk_update_or_create(rows, only_changed=True)
        a, b = [row["size"] for row in stored(model)]
        assert (a, b) in {(1, 1), (8, 1)}
        assert sizes(model, "ab") == [a, b]


class TestCommands:
    """The commands of the cache do not depend on the rows of a statement."""

    def test_update(self):
        # As many as one statement may have on SQLite, with Django 5.2.
        codes = [*map(str, range(300))]
        exist(PlusItem, codes)
        rows = sized(codes, 2)
        made = commands(lambda: PlusItem.objects.bulk_update_or_create(rows))
        assert len(made) <= 10
        again = commands(lambda: PlusItem.objects.bulk_update_or_create(rows))
        assert len(again) <= 8

    def test_created(self):
        rows = sized(map(str, range(1000)), 2)
        made = commands(lambda: PlusItem.objects.bulk_update_or_create(rows))
        assert len(made) <= 6

    def test_unchanged(self):
        rows = sized(map(str, range(1000)), 2)
        PlusItem.objects.bulk_update_or_create(rows)

        def call():
            PlusItem.objects.bulk_update_or_create(rows, only_changed=True)

        call()
        made = commands(lambda: cached(call))
        assert made == ["get_many"]


def test_queries_of_an_iterator():
    exist(PlusItem, "abcd")
    found = PlusItem.objects.ibulk_update_or_create(sized("abcd", 1), batch_size=2)
    assert len([*islice(found, 2)]) == 2
    assert sizes(PlusItem, "abcd") == [1, 1, 0, 0]
    assert count(lambda: [*found])[1] >= len(INSERT)
    assert sizes(PlusItem, "abcd") == [1, 1, 1, 1]
