"""bulk_get_or_create(): what row by row would have done, by few statements."""

import datetime
import gc
import sqlite3
import threading
import uuid
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from itertools import islice

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import FieldError
from django.db import IntegrityError, OperationalError, connection, models, transaction
from django.db.models.signals import post_save, pre_save
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus import bypass
from getorcreateplus.bulk.batch import SAMPLE
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence.many import Sought

from ..models import (
    AlwaysItem,
    CachedItem,
    CaseBlind,
    Chapter,
    Computed,
    HeavyPlusItem,
    KeyedByBoth,
    KeyedByName,
    KeyedByUUID,
    Label,
    LowerCode,
    NonAtomicItem,
    Ordinary,
    PlainBook,
    PlainItem,
    PlusBook,
    PlusItem,
    Postponed,
    ProxyPlusItem,
    Remark,
    Shelf,
)
from ..support.caches import commands
from ..support.queries import count
from ..support.threads import elsewhere, start
from ..support.transactions import Rollback, isolation

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)

MODELS = pytest.mark.parametrize(
    "model", [AlwaysItem, CachedItem, NonAtomicItem, PlusItem, ProxyPlusItem]
)
CACHED = pytest.mark.parametrize("model", [CachedItem, PlusItem])
TIMEOUT = 20  # seconds
DEADLOCK = 1213  # of MariaDB and MySQL


def row(obj):
    """Return the columns of a row, but those that two tables differ in."""
    skipped = {"id", "changed"}
    return {
        field.attname: getattr(obj, field.attname)
        for field in obj._meta.concrete_fields
        if field.name not in skipped
    }


def stored(model):
    return [row(obj) for obj in model._base_manager.order_by("code")]


@contextmanager
def first_words():
    """Yield a list of the first words of the statements, as they are sent."""
    connection.ensure_connection()
    sent = []

    def record(execute, sql, params, many, context):
        sent.append(sql.split()[0])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(record):
        yield sent


def exist(model, codes, **values):
    return model._base_manager.bulk_create(model(code=c, **values) for c in codes)


# What INSERT is, with what it needs on MariaDB.
INSERT = ["SET", "INSERT"] if connection.vendor == "mysql" else ["INSERT"]


@MODELS
class TestResult:
    def rows(self, model):
        return [
            {"code": "b", "size": 5},
            model(code="n", price=Decimal("1.50")),
            {"code": "a", "size": lambda: 7},
            {"code": "n", "size": 9},
            {"code": "b"},
            {"title": "TITLE", "code": "x"},
            model(code="a", size=3, weight=2),
        ]

    def test_equals_row_by_row(self, model):
        for twin in PlainItem, model:
            exist(twin, "by", size=1)
        plain = [
            PlainItem.objects.get_or_create(
                code=r.code if isinstance(r, models.Model) else r["code"],
                defaults={k: v for k, v in row(r).items() if k != "code"}
                if isinstance(r, models.Model)
                else {k: v for k, v in r.items() if k != "code"},
            )
            for r in self.rows(PlainItem)
        ]
        found = model.objects.bulk_get_or_create(self.rows(model))
        assert [created for _, created in found] == [created for _, created in plain]
        assert stored(model) == stored(PlainItem)
        for obj, _ in found:
            assert type(obj) is model
            fresh = model._base_manager.get(pk=obj.pk)
            assert obj.code == fresh.code
            assert (obj._state.adding, obj._state.db) == (False, "default")

    def test_created_instance_is_the_one_that_was_given(self, model):
        exist(model, "b")
        given = [model(code="a"), model(code="b")]
        [(a, a_created), (b, b_created)] = model.objects.bulk_get_or_create(given)
        assert (a is given[0], a_created, a.pk is None) == (True, True, False)
        assert (b is given[1], b_created, b.pk is None) == (False, False, False)

    def test_nothing_is_saved_and_no_signal_sent(self, model):
        sent = []

        def receive(sender, **kwargs):
            sent.append(sender)

        pre_save.connect(receive)
        post_save.connect(receive)
        try:
            [(obj, _)] = model.objects.bulk_get_or_create([{"code": "a"}])
        finally:
            pre_save.disconnect(receive)
            post_save.disconnect(receive)
        assert sent == []
        assert obj.changed is not None  # auto_now is a pre_save() of the field

    def test_callables_run_for_rows_that_are_created(self, model):
        exist(model, "b", size=1)
        called = []

        def size():
            called.append(1)
            return 4

        found = model.objects.bulk_get_or_create(
            [{"code": "a", "size": size}, {"code": "b", "size": size}]
        )
        assert [obj.size for obj, _ in found] == [4, 1]
        assert called == [1]

    def test_statements(self, model):
        """However many rows there are."""
        exist(model, map(str, range(0, 300, 2)))
        rows = [{"code": str(number)} for number in range(300)]
        around = (
            [] if model in (NonAtomicItem, PlusItem, ProxyPlusItem) else ["SAVEPOINT"]
        )
        with transaction.atomic(), first_words() as sent:
            found = model.objects.bulk_get_or_create(rows)
        assert [created for _, created in found] == [False, True] * 150
        assert sent == ["SELECT", *around, *INSERT, *(["RELEASE"] if around else [])]

    def test_batches(self, model):
        exist(model, "ace")
        with transaction.atomic(), first_words() as sent:
            found = model.objects.bulk_get_or_create(
                ({"code": code} for code in "abcdef"), batch_size=2
            )
        assert [created for _, created in found] == [False, True] * 3
        assert sent.count("SELECT") == 3
        assert sent.count("INSERT") == 2

    def test_nothing(self, model):
        with first_words() as sent:
            assert model.objects.bulk_get_or_create([]) == []
        assert sent == []

    def test_iterator_goes_batch_by_batch(self, model):
        taken = []

        def rows():
            for code in "abcdef":
                taken.append(code)
                yield {"code": code}

        found = model.objects.ibulk_get_or_create(rows(), batch_size=2)
        assert taken == []
        assert [obj.code for obj, _ in islice(found, 2)] == ["a", "b"]
        assert taken == ["a", "b"]
        assert model._base_manager.count() == 2
        assert [obj.code for obj, _ in found] == ["c", "d", "e", "f"]

    def test_asynchronously(self, model):
        async def call():
            return await model.objects.abulk_get_or_create([{"code": "a"}])

        found = async_to_sync(call)()
        assert [(obj.code, created) for obj, created in found] == [("a", True)]

    def test_violation_writes_nothing(self, model):
        with pytest.raises(IntegrityError), transaction.atomic():
            model.objects.bulk_get_or_create(
                [{"code": "a"}, {"code": "b", "size": 100}]
            )
        assert not model._base_manager.exists()


def test_methods_alter_data():
    for name in "bulk_get_or_create", "ibulk_get_or_create", "abulk_get_or_create":
        assert getattr(PlusItem.objects, name).alters_data
        assert getattr(PlusItem.objects.all(), name).alters_data


class TestBadInput:
    """Nothing is written, and the error names the row."""

    def fails(self, error, message, rows, model=PlusItem, **kwargs):
        with pytest.raises(error) as caught, first_words() as sent:
            model.objects.bulk_get_or_create(rows, **kwargs)
        assert str(caught.value) == message
        assert not {"INSERT", "SAVEPOINT"} & set(sent)
        assert not model._base_manager.exists()

    def test_unknown_field(self):
        self.fails(
            FieldError,
            "Row 1: tests.PlusItem has no field 'colour' (its value is 'red').",
            [{"code": "a"}, {"code": "b", "colour": "red"}],
        )

    def test_property_without_a_setter(self):
        self.fails(
            FieldError,
            "Row 0: tests.PlusItem has no field 'nothing' (its value is 1).",
            [{"code": "a", "nothing": 1}],
        )

    def test_instance_with_a_primary_key(self):
        self.fails(
            ValueError,
            "Row 1 has a primary key: 7. Leave it to the database, or name it in "
            "unique_fields.",
            [PlusItem(code="a"), PlusItem(code="b", pk=7)],
        )

    def test_saved_instance(self):
        obj = PlainItem.objects.create(code="a")
        with pytest.raises(TypeError, match=r"^Row 0 is neither a mapping nor an"):
            PlusItem.objects.bulk_get_or_create([obj])
        obj = PlusItem.objects.create(code="a")
        with pytest.raises(ValueError, match=r"^Row 0 is saved already: <PlusItem:"):
            PlusItem.objects.bulk_get_or_create([obj])

    def test_key_with_a_missing_field(self):
        self.fails(
            ValueError,
            "Row 1 has no value for 'code', which identifies it: {'size': 1}.",
            [{"code": "a"}, {"size": 1}],
        )

    def test_unhashable_value(self):
        self.fails(
            TypeError,
            "Row 1, code = ['b']: what identifies a row must be hashable.",
            [{"code": "a"}, {"code": ["b"]}],
        )

    def test_callable(self):
        self.fails(
            TypeError,
            f"Row 0, code = {str!r}: what identifies a row must not be a callable.",
            [{"code": str}],
        )

    def test_value_of_another_type(self):
        self.fails(
            ValueError,
            "Row 1, size = 'big': Field 'size' expected a number but got 'big'.",
            [{"size": 1}, {"size": "big"}],
            unique_fields=["size"],
        )

    def test_instance_that_is_not_saved(self):
        shelf = Shelf(name="a")
        self.fails(
            ValueError,
            f"Row 0, shelf = {shelf!r}: not a saved instance that the field may refer "
            "to.",
            [{"shelf": shelf, "place": 1}],
            PlusBook,
        )

    def test_unsaved_instance_beside_the_key(self):
        self.fails(
            ValueError,
            "bulk_create() prohibited to prevent data loss due to unsaved related "
            "object 'shelf'.",
            [{"shelf": Shelf(name="a"), "place": 1, "isbn": "1"}],
            PlusBook,
            unique_fields=["isbn"],
        )

    def test_no_unique_constraint(self):
        self.fails(
            ValueError,
            "Which fields identify a row of tests.PlusBook? Row 0 (place) has all "
            "fields of no unique constraint: give unique_fields. Candidates: isbn; "
            "shelf, place.",
            [{"place": 1}],
            PlusBook,
        )

    def test_several_unique_constraints(self):
        shelf = Shelf.objects.create(name="a")
        self.fails(
            ValueError,
            "Which fields identify a row of tests.PlusBook? Row 0 (isbn, place, shelf) "
            "has all fields of several unique constraints: give unique_fields. "
            "Candidates: isbn; shelf, place.",
            [PlusBook(shelf=shelf, place=1, isbn="1")],
            PlusBook,
        )

    def test_unique_fields(self):
        self.fails(
            FieldError,
            "unique_fields names 'colour', which is no column of tests.KeyedByName. "
            "Choices are: name, size",
            [{"name": "a"}],
            KeyedByName,
            unique_fields=["colour"],
        )
        self.fails(
            FieldError,
            "unique_fields names 'pk', a composite primary key: name its fields room, "
            "hour instead.",
            [{"room": 1}],
            KeyedByBoth,
            unique_fields=["pk"],
        )
        self.fails(
            ValueError,
            "unique_fields must name at least one field.",
            [{"code": "a"}],
            unique_fields=[],
        )

    @pytest.mark.parametrize("size", [0, -1])
    def test_batch_size(self, size):
        self.fails(
            ValueError,
            "Batch size must be a positive integer.",
            [{"code": "a"}],
            batch_size=size,
        )

    def test_position_in_an_iterator(self):
        rows = [{"code": "a"}, {"code": "b"}, {"size": 1}]
        found = PlusItem.objects.ibulk_get_or_create(rows, batch_size=2)
        assert len([*islice(found, 2)]) == 2
        with pytest.raises(ValueError, match=r"^Row 2 has no value for 'code'"):
            next(found)


class TestKeys:
    def shelves(self):
        return [Shelf.objects.create(name=name) for name in "ab"]

    def test_several_columns(self):
        """And foreign keys as instances, or as their values."""
        a, b = self.shelves()
        PlusBook.objects.create(shelf=a, place=1)
        PlusBook.objects.create(shelf=b, place=3)
        rows = [
            {"shelf": a, "place": 1},
            {"shelf_id": a.pk, "place": 3},
            {"shelf": b, "place": "1"},
            {"shelf_id": str(b.pk), "place": "3"},
            PlusBook(shelf=b, place=4),
        ]
        with transaction.atomic(), first_words() as sent:
            found = PlusBook.objects.bulk_get_or_create(rows)
        assert [created for _, created in found] == [False, True, True, False, True]
        assert [(obj.shelf_id, int(obj.place)) for obj, _ in found] == [
            *((a.pk, 1), (a.pk, 3), (b.pk, 1), (b.pk, 3), (b.pk, 4))
        ]
        assert sent == ["SELECT", *INSERT]

    def test_null_in_a_key(self):
        """As row by row: IS NULL finds the row."""
        a, _ = self.shelves()
        rows = [
            {"isbn": None, "shelf": a, "place": 1},
            {"isbn": "1", "shelf": a, "place": 2},
            {"isbn": None, "shelf": a, "place": 3},
        ]
        found = PlusBook.objects.bulk_get_or_create(rows, unique_fields=["isbn"])
        plain = [
            PlainBook.objects.get_or_create(defaults=r, isbn=r["isbn"]) for r in rows
        ]
        assert [(obj.place, created) for obj, created in found] == [
            (obj.place, created) for obj, created in plain
        ]

    def test_key_that_is_not_unique(self):
        a, _ = self.shelves()
        rows = [{"shelf": a, "place": n, "part": p} for n, p in enumerate("xyx")]
        found = PlusBook.objects.bulk_get_or_create(rows, unique_fields=["part"])
        assert [created for _, created in found] == [True, True, False]
        PlusBook.objects.create(shelf=a, place=9, part="x")
        memory.hints.clear()
        PlusBook.objects.update(isbn=None)  # no hit
        with pytest.raises(
            PlusBook.MultipleObjectsReturned, match=r"more than one PlusBook for row 1"
        ):
            PlusBook.objects.bulk_get_or_create(
                [{"part": "y"}, {"part": "x"}], unique_fields=["part"]
            )

    def test_conflict_with_another_row_is_an_error(self):
        a, _ = self.shelves()
        PlusBook.objects.create(shelf=a, place=1, isbn="1")
        with pytest.raises(IntegrityError), transaction.atomic():
            PlusBook.objects.bulk_get_or_create(
                [{"shelf": a, "place": 1, "isbn": "2"}], unique_fields=["isbn"]
            )
        assert PlusBook.objects.count() == 1

    def test_uuid(self):
        key = uuid.uuid4()
        KeyedByUUID.objects.create(name="a")
        rows = [KeyedByUUID(name="a"), KeyedByUUID(name="b"), {"name": "c", "id": key}]
        found = KeyedByUUID.objects.bulk_get_or_create(rows, unique_fields=["name"])
        assert [created for _, created in found] == [False, True, True]
        assert found[1][0].pk == rows[1].pk
        assert found[2][0].pk == key
        assert KeyedByUUID.objects.count() == 3

    def test_natural_primary_key(self):
        KeyedByName.objects.create(name="a", size=1)
        rows = [{"name": "a"}, KeyedByName(name="b", size=2), {"pk": "c"}]
        for _ in range(2):
            found = KeyedByName.objects.bulk_get_or_create(rows[:2])
            assert [(obj.pk, obj.size) for obj, _ in found] == [("a", 1), ("b", 2)]
            rows[1] = {"name": "b"}
        [(obj, created)] = KeyedByName.objects.bulk_get_or_create(rows[2:])
        assert (obj.pk, created) == ("c", True)

    def test_natural_primary_key_beside_the_key(self):
        rows = [KeyedByName(name="a", size=1), KeyedByName(name="b", size=2)]
        for created in True, False:
            found = KeyedByName.objects.bulk_get_or_create(rows, ["size"])
            assert [(obj.pk, new) for obj, new in found] == [
                ("a", created),
                ("b", created),
            ]
            rows = [KeyedByName(name="c", size=1), KeyedByName(name="d", size=2)]

    def test_composite_primary_key(self):
        KeyedByBoth.objects.create(room=1, hour=1, note="there")
        rows = [{"room": 1, "hour": 1}, {"room": 1, "hour": 2}]
        for created in True, False:
            found = KeyedByBoth.objects.bulk_get_or_create(rows)
            assert [(obj.pk, obj.note, new) for obj, new in found] == [
                ((1, 1), "there", False),
                ((1, 2), "", created),
            ]

    def test_what_the_database_fills_in(self):
        Computed.objects.create(name="a", kind="verb")
        for created in True, False:
            found = Computed.objects.bulk_get_or_create(
                [{"name": "a"}, {"name": "b"}, {"name": "c", "kind": "verb"}]
            )
            assert [(obj.kind, obj.upper, new) for obj, new in found] == [
                ("verb", "A", False),
                ("noun", "B", created),
                ("verb", "C", created),
            ]
            assert all(type(obj.born) is datetime.datetime for obj, _ in found)

    def test_field_with_a_preparation_of_its_own(self):
        """Whether it may be prepared twice is not known: row by row."""
        found = LowerCode.objects.bulk_get_or_create([{"code": "A"}, {"code": "a"}])
        assert [created for _, created in found] == [True, False]
        assert LowerCode.objects.get().code == "a"

    @pytest.mark.database("mysql", "sqlite")
    def test_collation(self):
        """The database finds equal what Python does not."""
        CaseBlind.objects.create(name="A")
        found = CaseBlind.objects.bulk_get_or_create(
            [{"name": name} for name in ("a", "b", "B", "A", "c")]
        )
        assert [(obj.name, created) for obj, created in found] == [
            *(("A", False), ("b", True), ("b", False), ("A", False), ("c", True))
        ]


class TestRowByRow:
    """Where there is no other way, with the same result."""

    def test_multi_table_inheritance(self):
        exist(PlusItem, "x")
        HeavyPlusItem.objects.create(code="a", load=1)
        given = HeavyPlusItem(code="b", load=2)
        found = HeavyPlusItem.objects.bulk_get_or_create(
            [{"code": "a", "load": 5}, given, {"code": "b"}]
        )
        assert [(obj.code, obj.load, created) for obj, created in found] == [
            *(("a", 1, False), ("b", 2, True), ("b", 2, False))
        ]
        assert found[1][0] is given
        assert given.pk == HeavyPlusItem.objects.get(code="b").pk
        with pytest.raises(IntegrityError), transaction.atomic():
            HeavyPlusItem.objects.bulk_get_or_create([{"code": "c"}, {"code": "x"}])
        assert not HeavyPlusItem.objects.filter(code="c").exists()

    @pytest.mark.database("postgresql")
    def test_deferrable_constraint(self):
        Postponed.objects.create(name="a")
        found = Postponed.objects.bulk_get_or_create(
            [{"name": "a"}, {"name": "b"}], unique_fields=["name"]
        )
        assert [created for _, created in found] == [False, True]

    def test_order_with_respect_to(self):
        shelf = Shelf.objects.create(name="a")
        found = Chapter.objects.bulk_get_or_create(
            [{"shelf": shelf, "title": title} for title in "ba"]
        )
        assert [obj._order for obj, _ in found] == [0, 1]

    def test_values(self):
        exist(PlusItem, "a", size=3)
        queryset = PlusItem.objects.values("code", "size")
        [(found, created)] = queryset.bulk_get_or_create([{"code": "a"}])
        assert (found, created) == ({"code": "a", "size": 3}, False)


class TestQuerysets:
    def test_annotated(self):
        exist(PlusItem, "a", size=3)
        queryset = PlusItem.objects.annotate(double=models.F("size") * 2)
        found = queryset.bulk_get_or_create([{"code": "a"}, {"code": "b"}])
        assert [(obj.code, created) for obj, created in found] == [
            ("a", False),
            ("b", True),
        ]
        assert found[0][0].double == 6

    def test_filtered(self):
        exist(PlusItem, "a", size=3)
        queryset = PlusItem.objects.filter(size=3)
        found = queryset.bulk_get_or_create([{"code": "a"}, {"code": "b", "size": 4}])
        assert [created for _, created in found] == [False, True]
        with pytest.raises(IntegrityError), transaction.atomic():
            queryset.bulk_get_or_create([{"code": "b"}])

    @committed
    def test_locked(self):
        exist(PlusItem, "a")
        with transaction.atomic():
            found = PlusItem.objects.select_for_update().bulk_get_or_create(
                [{"code": "a"}, {"code": "b"}]
            )
        assert [created for _, created in found] == [False, True]
        if connection.features.has_select_for_update:
            with pytest.raises(transaction.TransactionManagementError):
                PlusItem.objects.select_for_update().bulk_get_or_create([{"code": "a"}])


class TestRelatedManagers:
    def test_foreign_key(self):
        a, b = Shelf.objects.create(name="a"), Shelf.objects.create(name="b")
        b.plusbook_set.create(place=1)
        for created in True, False:
            with CaptureQueriesContext(connection) as queries:
                found = a.plusbook_set.bulk_get_or_create([{"place": 1}, {"place": 2}])
            assert [(obj.shelf_id, new) for obj, new in found] == [(a.pk, created)] * 2
            assert all(obj.shelf is a for obj, _ in found)
            assert bool(queries) is created
        book = PlusBook(place=3)
        assert a.plusbook_set.bulk_get_or_create([book]) == [(book, True)]
        assert book.shelf is a
        # One lookup with that of get_or_create().
        with CaptureQueriesContext(connection) as queries:
            assert a.plusbook_set.get_or_create(place=2) == (found[1][0], False)
        assert len(queries) == (1 if connection.in_atomic_block is None else 0)

    def test_instance_that_is_not_saved(self):
        with pytest.raises(ValueError, match="needs to have a primary key value"):
            Shelf(name="a").plusbook_set.bulk_get_or_create([{"place": 1}])

    def test_many_to_many(self):
        """Rows that are created are added; looked for among its own."""
        a, b = Shelf.objects.create(name="a"), Shelf.objects.create(name="b")
        label = a.labels.create(text="x")
        b.labels.create(text="y")
        found = a.labels.bulk_get_or_create(
            [{"text": "x"}, {"text": "y"}], unique_fields=["text"]
        )
        assert [created for _, created in found] == [False, True]
        assert found[0][0] == label
        assert {obj.text for obj in a.labels.all()} == {"x", "y"}
        assert Label.objects.count() == 3
        [(shelf, created)] = label.shelves.bulk_get_or_create([{"name": "c"}])
        assert created
        assert set(label.shelves.all()) == {a, shelf}

    def test_generic_relation(self):
        a, b = Shelf.objects.create(name="a"), Shelf.objects.create(name="b")
        b.remarks.create(text="x")
        for created in True, False:
            found = a.remarks.bulk_get_or_create(
                [{"text": "x"}, Remark(text="y")], unique_fields=["text"]
            )
            assert [(obj.of, new) for obj, new in found] == [(a, created)] * 2
        assert Remark.objects.count() == 3


def cached(call):
    """Return what the call returns, which has to need no query."""
    result, queries = count(call)
    assert queries == 0
    return result


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

    def test_rolled_back_rows_are_served_to_nobody(self, model):
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
        """A batch is no write of the whole model."""
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
        """Too many of them to add a version each: they are not kept."""
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
        """What RETURNING told is what a SELECT tells."""
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
    """The commands of the cache, however many rows there are."""

    def test_created(self):
        rows = [{"code": str(number)} for number in range(1000)]
        made = commands(lambda: PlusItem.objects.bulk_get_or_create(rows))
        assert made == [
            "get_many",  # hints, epoch, clock
            *("add", "add"),  # of the epoch and the clock, once for ever
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


@contextmanager
def limit(name, number):
    """Give SQLite a limit that it may have been built with."""
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
    """The database limits what one statement may have."""

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

    @pytest.mark.database("sqlite")
    def test_parameters(self):
        """Those of the queryset's own filters, and of expressions, too."""
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
    """What a batch keeps in memory, and in the cache."""

    def rows(self, count, start=0):
        return [{"code": str(number)} for number in range(start, start + count)]

    @CACHED
    def test_what_was_asked_is_not_kept(self, model):
        """Only of the rows of one statement, however many there are."""
        alive = []

        def look(execute, sql, params, many, context):
            if sql.startswith("INSERT"):
                alive.append(sum(type(each) is Sought for each in gc.get_objects()))
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
            batches = 2 + 4 * SAMPLE
            found = model.objects.ibulk_get_or_create(
                self.rows(10 * batches), batch_size=10
            )
            list(islice(found, 20))
            made = commands(lambda: list(found))
            assert made == ["get_many"] * 4

    @committed
    @CACHED
    def test_iterator_asks_each_batch_again_after_a_hit(self, model):
        there = self.rows(10 * (SAMPLE + 5), start=5000)
        model.objects.bulk_get_or_create(there)
        memory.hints.clear()
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=20):
            found = model.objects.ibulk_get_or_create(
                [*self.rows(20), *there], batch_size=10
            )
            list(islice(found, 20))
            results, queries = count(lambda: list(found))
        assert not any(created for _, created in results)
        assert queries == SAMPLE - 1

    @committed
    @CACHED
    def test_more_rows_than_a_transaction_keeps(self, model):
        """They are not put together for a cache that will not have them."""
        rows = self.rows(50)
        with override_settings(GETORCREATEPLUS_OVERLAY_ROWS=20):
            made = commands(
                lambda: model.objects.bulk_get_or_create(rows, batch_size=10)
            )
        assert "set_many" not in made


def test_created_without_returning(monkeypatch):
    """As on MySQL: the keys of the new rows are read afterwards."""
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


# Races


def together(*calls):
    """Run the calls at once, each with a connection of its own."""
    barrier = threading.Barrier(len(calls))
    results = [None] * len(calls)

    def run(index, call):
        try:
            connection.ensure_connection()
            barrier.wait(TIMEOUT)
            results[index] = call()
        except Exception as error:
            results[index] = error

    threads = [start(run, *each) for each in enumerate(calls)]
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "A batch waits for ever"
    return results


@committed
@pytest.mark.database("postgresql", "mysql")
class TestRaces:
    def batch(self, codes, model=PlusItem):
        def call():
            with transaction.atomic():
                return model.objects.bulk_get_or_create([{"code": c} for c in codes])

        return call

    def check(self, results, *batches):
        for result, codes in zip(results, batches, strict=True):
            assert not isinstance(result, Exception), result
            assert [obj.code for obj, _ in result] == list(codes)
        pks = dict(PlusItem.objects.values_list("code", "pk"))
        assert len(pks) == len(set().union(*batches))
        creators = {}
        for result in results:
            for obj, created in result:
                assert obj.pk == pks[obj.code]
                if created:
                    creators[obj.code] = creators.get(obj.code, 0) + 1
        assert creators == dict.fromkeys(pks, 1)

    @pytest.mark.parametrize("level", ["read committed", "repeatable read"])
    def test_opposite_order(self, level):
        if connection.vendor == "postgresql" and level == "repeatable read":
            return self.check_serialization()
        codes = [str(number) for number in range(500)]
        with isolation(level):
            results = together(self.batch(codes), self.batch(codes[::-1]))
        self.check(results, codes, codes[::-1])
        return None

    def check_serialization(self):
        """PostgreSQL has one of them try again, as it would row by row."""
        codes = [str(number) for number in range(500)]
        with isolation("repeatable read"):
            results = together(self.batch(codes), self.batch(codes[::-1]))
        errors = [each for each in results if isinstance(each, Exception)]
        assert all(isinstance(error, OperationalError) for error in errors)
        assert len(errors) < 2
        assert PlusItem.objects.count() == 500

    def test_batches_that_overlap(self):
        batches = [
            [str(number) for number in range(100 * i % 7, 300, i + 1)] for i in range(6)
        ]
        results = together(*(self.until_done(self.batch(each)) for each in batches))
        self.check(results, *batches)

    def until_done(self, call):
        """InnoDB may have one of three or more try again, sorted or not."""

        def retry():
            for _ in range(10):
                try:
                    return call()
                except OperationalError as error:
                    if connection.vendor != "mysql" or error.args[0] != DEADLOCK:
                        raise
            raise AssertionError("Ten deadlocks in a row")

        return retry

    def test_winner_between_select_and_insert(self):
        """Certain: it commits while the loser is about to insert."""
        loser = self.batch("abcd")

        def write(execute, sql, params, many, context):
            if sql.startswith("INSERT") and not written:
                written.append(1)
                elsewhere(self.batch("bd"))
            return execute(sql, params, many, context)

        written = []
        with connection.execute_wrapper(write):
            found = loser()
        assert written
        assert [(obj.code, created) for obj, created in found] == [
            *(("a", True), ("b", False), ("c", True), ("d", False))
        ]

    @pytest.mark.database("mysql")
    def test_winner_behind_the_snapshot(self):
        connection.close()
        with isolation("repeatable read"):
            try:
                self.test_winner_between_select_and_insert()
            finally:
                connection.close()


@committed
def test_winner_in_autocommit():
    """On SQLite too, where no other writes inside of a transaction."""

    def write(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith("SELECT") and not written:
            written.append(1)
            elsewhere(lambda: PlusItem.objects.create(code="b", size=7))
        return result

    written = []
    with connection.execute_wrapper(write):
        found = PlusItem.objects.bulk_get_or_create([{"code": c} for c in "abc"])
    assert written
    assert [(obj.size, created) for obj, created in found] == [
        *((0, True), (7, False), (0, True))
    ]
