"""bulk_get_or_create(): the results of single calls, with few statements."""

import datetime
import uuid
from decimal import Decimal
from itertools import islice

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import FieldError
from django.db import IntegrityError, connection, models, transaction
from django.db.models.signals import post_save, pre_save
from django.test.utils import CaptureQueriesContext

from getorcreateplus.coherence import process_memory as memory

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
    PlainBook,
    PlainItem,
    PlusBook,
    PlusItem,
    Postponed,
    ProxyPlusItem,
    Remark,
    Shelf,
)
from .rows import INSERT, exist, first_words, row, stored

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)

MODELS = pytest.mark.parametrize(
    "model", [AlwaysItem, CachedItem, NonAtomicItem, PlusItem, ProxyPlusItem]
)


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
        """The number does not depend on the number of rows."""
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
            "Which fields identify a row of tests.PlusBook? Row 0 (place) lacks a "
            "field of each unique constraint: pass unique_fields. Candidates: isbn; "
            "shelf, place.",
            [{"place": 1}],
            PlusBook,
        )

    def test_several_unique_constraints(self):
        shelf = Shelf.objects.create(name="a")
        self.fails(
            ValueError,
            "Which fields identify a row of tests.PlusBook? Row 0 (isbn, place, shelf) "
            "has all fields of several unique constraints: pass unique_fields. "
            "Candidates: isbn; shelf, place.",
            [PlusBook(shelf=shelf, place=1, isbn="1")],
            PlusBook,
        )

    def test_unique_fields(self):
        self.fails(
            FieldError,
            "unique_fields names 'colour', which is not a column of tests.KeyedByName. "
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
        self.fails(
            ValueError,
            "unique_fields must be a list of names: ['code'].",
            [{"code": "a"}],
            unique_fields="code",
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
        """As with single calls, IS NULL finds the row."""
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
        """Values must not be prepared twice, so each row is a call."""
        found = LowerCode.objects.bulk_get_or_create([{"code": "A"}, {"code": "a"}])
        assert [created for _, created in found] == [True, False]
        assert LowerCode.objects.get().code == "a"

    @pytest.mark.database("mysql", "sqlite")
    def test_collation(self):
        """The database treats texts as equal that differ in Python."""
        CaseBlind.objects.create(name="A")
        found = CaseBlind.objects.bulk_get_or_create(
            [{"name": name} for name in ("a", "b", "B", "A", "c")]
        )
        assert [(obj.name, created) for obj, created in found] == [
            *(("A", False), ("b", True), ("b", False), ("A", False), ("c", True))
        ]


class TestRowByRow:
    """Single calls are necessary here, and have the same result."""

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
        """Created rows are added, and rows are looked up among its own."""
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
