"""The rows that a batch reads from the cache, and stores there."""

import datetime
import uuid
from contextlib import nullcontext
from decimal import Decimal
from itertools import islice

import pytest
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus import bypass
from getorcreateplus.coherence import process_memory as memory

from ..models import CachedItem, Ordinary, PlusItem
from ..support.caches import commands
from ..support.errors import Rollback
from ..support.queries import count
from ..support.threads import elsewhere
from .rows import INSERT, cached, exist, first_words, stored

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("cache_api")]

committed = pytest.mark.django_db(transaction=True)
CACHED = pytest.mark.parametrize("model", [CachedItem, PlusItem])


@committed
@CACHED
class TestCache:
    def test_created_rows_are_hits(self, model):
        rows = [{"code": code, "size": 3} for code in "abc"]
        model.objects.bulk_get_or_create(rows)
        found = cached(lambda: model.objects.bulk_get_or_create(rows))
        assert [(obj.size, created) for obj, created in found] == [(3, False)] * 3
        hit, created = cached(lambda: model.objects.get_or_create(code="b"))
        fresh, _ = model.objects.get_or_create(code="b", force_select=True)
        assert (hit.__dict__ | {"_state": 0}) == (fresh.__dict__ | {"_state": 0})
        assert not created

    def test_found_rows_are_hits(self, model):
        exist(model, "abc", size=4)
        rows = [{"code": code} for code in "abc"]
        assert count(lambda: model.objects.bulk_get_or_create(rows))[1] == 1
        found = cached(lambda: model.objects.bulk_get_or_create(rows))
        assert [(obj.size, created) for obj, created in found] == [(4, False)] * 3
        assert cached(lambda: model.objects.get_or_create(code="b"))[0].size == 4
        memory.hints.clear()
        cached(lambda: model.objects.bulk_get_or_create(rows))

    def test_single_hits_are_hits_of_a_batch(self, model):
        for code in "ab":
            model.objects.get_or_create(code=code)
        found = cached(
            lambda: model.objects.bulk_get_or_create([{"code": code} for code in "ab"])
        )
        assert [created for _, created in found] == [False, False]

    def test_only_what_is_missing_is_asked_of_the_database(self, model):
        model.objects.bulk_get_or_create([{"code": code} for code in "ab"])
        with first_words() as sent:
            model.objects.bulk_get_or_create([{"code": code} for code in "abc"])
        assert [word for word in sent if word != "BEGIN"] == ["SELECT", *INSERT]

    @pytest.mark.parametrize(
        "write",
        [
            lambda model: model.objects.update(size=5),
            lambda model: model.objects.bulk_update(
                [*map(resized, model.objects.all())], ["size"]
            ),
            lambda model: [resized(obj).save() for obj in model.objects.all()],
            lambda model: [
                model.objects.update_or_create({"size": 5}, code=code) for code in "ab"
            ],
        ],
    )
    def test_written_rows_are_served_as_they_are(self, model, write):
        rows = [{"code": code, "size": 3} for code in "ab"]
        model.objects.bulk_get_or_create(rows)
        model.objects.bulk_get_or_create(rows)
        write(model)
        for _ in range(2):
            found = model.objects.bulk_get_or_create(rows)
            assert [obj.size for obj, _ in found] == [5, 5]
        with pytest.raises(Rollback), transaction.atomic():
            model.objects.update(size=6)
            found = model.objects.bulk_get_or_create(rows)
            assert [obj.size for obj, _ in found] == [6, 6]
            raise Rollback
        found = model.objects.bulk_get_or_create(rows)
        assert [obj.size for obj, _ in found] == [5, 5]

    def test_deleted_rows_are_created_again(self, model):
        rows = [{"code": code} for code in "ab"]
        model.objects.bulk_get_or_create(rows)
        model.objects.all().delete()
        found = model.objects.bulk_get_or_create(rows)
        assert [created for _, created in found] == [True, True]

    def test_rolled_back_rows_are_not_served(self, model):
        rows = [{"code": code} for code in "ab"]
        with transaction.atomic():
            with pytest.raises(Rollback), transaction.atomic():
                model.objects.bulk_get_or_create(rows)
                cached(lambda: model.objects.bulk_get_or_create(rows))
                raise Rollback
            _, created = model.objects.get_or_create(code="a")
            assert created
        found = model.objects.bulk_get_or_create(rows)
        assert [created for _, created in found] == [False, True]

    def test_transaction_serves_its_own_rows(self, model):
        rows = [{"code": code, "size": 1} for code in "ab"]
        with transaction.atomic():
            model.objects.bulk_get_or_create(rows)
            found = cached(lambda: model.objects.bulk_get_or_create(rows))
            assert [(obj.size, new) for obj, new in found] == [(1, False)] * 2
            obj, _ = cached(lambda: model.objects.get_or_create(code="a"))
            obj.size = 2
            obj.save()
            found = model.objects.bulk_get_or_create(rows)
            assert [obj.size for obj, _ in found] == [2, 1]
        found = model.objects.bulk_get_or_create(rows)
        assert [obj.size for obj, _ in found] == [2, 1]

    def test_more_rows_than_the_transaction_keeps(self, model):
        rows = [{"code": code} for code in "abcdef"]
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=3), transaction.atomic():
            model.objects.bulk_get_or_create(rows[:2])
            model.objects.bulk_get_or_create(rows[2:])
            found = model.objects.bulk_get_or_create(rows)
        assert [created for _, created in found] == [False] * 6
        assert len(model.objects.bulk_get_or_create(rows)) == 6

    def test_other_rows_of_the_model_stay_hits(self, model):
        """A batch is not a write of the whole model."""
        model.objects.get_or_create(code="a")
        model.objects.get_or_create(code="a")
        model.objects.bulk_get_or_create([{"code": "b"}, {"code": "c"}])
        cached(lambda: model.objects.get_or_create(code="a"))
        with transaction.atomic():
            model.objects.bulk_get_or_create([{"code": "d"}, {"code": "e"}])
            cached(lambda: model.objects.get_or_create(code="e"))

    def test_writer_between_select_and_fill(self, model):
        exist(model, "ab", size=1)
        rows = [{"code": code} for code in "ab"]
        written = []

        def write(execute, sql, params, many, context):
            result = execute(sql, params, many, context)
            if sql.startswith("SELECT") and not written:
                written.append(1)
                model.objects.filter(code="a").update(size=2)
            return result

        with connection.execute_wrapper(write):
            found = model.objects.bulk_get_or_create(rows)
        assert written
        assert [obj.size for obj, _ in found] in ([1, 1], [2, 1])
        found = model.objects.bulk_get_or_create(rows)
        assert [obj.size for obj, _ in found] == [2, 1]

    @pytest.mark.database("postgresql", "mysql")
    def test_locked_row_is_not_filled(self, model):
        [a, _] = exist(model, "ab", size=1)
        rows = [{"code": code} for code in "ab"]
        with transaction.atomic():
            a.size = 2
            a.save()
            for _ in range(2):
                found = elsewhere(lambda: model.objects.bulk_get_or_create(rows))
                assert [obj.size for obj, _ in found] == [1, 1]
        found = elsewhere(lambda: model.objects.bulk_get_or_create(rows))
        assert [obj.size for obj, _ in found] == [2, 1]

    def test_payload_of_another_row_is_no_hit(self, model):
        obj, _ = model.objects.get_or_create(code="a")
        model.objects.get_or_create(code="a")
        obj.code = "b"
        obj.save()
        model.objects.get_or_create(code="b")
        found = model.objects.bulk_get_or_create([{"code": "a"}, {"code": "b"}])
        assert [(o.code, created) for o, created in found] == [
            ("a", True),
            ("b", False),
        ]

    def test_batch_of_rows_new_to_the_cache(self, model):
        """
        There are too many to add a version for each, so they are not kept.
        """
        codes = [str(number) for number in range(101)]
        exist(model, codes)
        rows = [{"code": code} for code in codes]
        for _ in range(2):
            assert count(lambda: model.objects.bulk_get_or_create(rows))[1] == 1
        model.objects.bulk_get_or_create(rows[:50])
        cached(lambda: model.objects.bulk_get_or_create(rows[:50]))
        assert count(lambda: model.objects.bulk_get_or_create(rows))[1] == 1
        cached(lambda: model.objects.bulk_get_or_create(rows))

    def test_cache_that_does_not_answer(self, model, caplog):
        refuses = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:1",
        }
        exist(model, "a")
        rows = [{"code": code} for code in "ab"]
        with override_settings(CACHES={"default": refuses}):
            for created in True, False:
                found = model.objects.bulk_get_or_create(rows)
                assert [new for _, new in found] == [False, created]
        [warning] = caplog.records
        assert warning.levelname == "WARNING"

    def test_every_kind_of_field(self, model):
        """RETURNING returns the same values as a SELECT."""
        at = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)
        values = {
            "big": 2**40,
            "boolean": True,
            "column": 5,
            "date": at.date(),
            "datetime": at,
            "decimal": Decimal(2),
            "duration": datetime.timedelta(days=1, microseconds=5),
            "email": "a@example.com",
            "file": "files/a",
            "integer": "7",
            "number": 2,
            "positive": 3,
            "slug": "slug",
            "small": 4,
            "text": "text",
            "time": datetime.time(1, 2, 3),
            "uuid": uuid.uuid4(),
            "lower": "UPPER",
        }
        rows = [{"char": "a", **values}, {"char": "b"}]
        Ordinary.objects.bulk_get_or_create(rows, unique_fields=["char"])
        for code in "ab":
            hit, _ = cached(lambda: Ordinary.objects.get_or_create(char=code))
            fresh, _ = Ordinary.objects.get_or_create(char=code, force_select=True)
            for field in Ordinary._meta.concrete_fields:
                one, other = (o.__dict__[field.attname] for o in (hit, fresh))
                assert (field.name, type(one), one) == (field.name, type(other), other)


def resized(obj):
    obj.size = 5
    return obj


@committed
def test_local_timeout():
    rows = [{"code": code} for code in "ab"]
    PlusItem.local.bulk_get_or_create(rows)
    PlusItem.local.bulk_get_or_create(rows)
    found = []
    made = commands(lambda: found.extend(PlusItem.local.bulk_get_or_create(rows)))
    assert made == []
    assert [obj.code for obj, _ in found] == ["a", "b"]


@committed
@pytest.mark.parametrize("bypassed", [(0,), (1,), (0, 1)])
def test_bypass_that_begins_or_ends_between_batches(bypassed):
    found = PlusItem.objects.ibulk_get_or_create(
        ({"code": code} for code in "abcdef"), batch_size=2
    )
    results = []
    for batch in range(3):
        with bypass() if batch in bypassed else nullcontext():
            results += islice(found, 2)
    assert [(obj.code, created) for obj, created in results] == [
        (code, True) for code in "abcdef"
    ]
    assert [row["code"] for row in stored(PlusItem)] == list("abcdef")


@committed
class TestCommands:
    """The commands of the cache do not depend on the number of rows."""

    def test_created(self):
        rows = [{"code": str(number)} for number in range(1000)]
        made = commands(lambda: PlusItem.objects.bulk_get_or_create(rows))
        assert made == [
            "get_many",  # hints, epoch, clock
            *("add", "add"),  # of the epoch and the clock, once forever
            "get_many",  # epoch and clock, in the transaction
            "set_many",  # versions
            "set_many",  # payloads and hints
        ]

    def test_hits(self):
        rows = [{"code": str(number)} for number in range(1000)]
        PlusItem.objects.bulk_get_or_create(rows)
        memory.hints.clear()

        def call():
            cached(lambda: PlusItem.objects.bulk_get_or_create(rows))

        assert commands(call) == ["get_many", "get_many"]
        assert commands(call) == ["get_many"]

    def test_found(self):
        exist(PlusItem, map(str, range(50)))
        rows = [{"code": str(number)} for number in range(50)]
        made = commands(lambda: PlusItem.objects.bulk_get_or_create(rows))
        assert made == [
            "get_many",
            *("add", "add"),
            "get_many",  # versions
            *["add"] * 50,
            "get_many",  # the clock again
            "set_many",
        ]
        PlusItem.objects.update(size=1)
        made = commands(lambda: PlusItem.objects.bulk_get_or_create(rows))
        assert made == ["get_many", "get_many", "set_many"]
