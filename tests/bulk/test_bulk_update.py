"""bulk_update_or_create(): the results of single calls."""

import random
from decimal import Decimal
from itertools import islice

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import FieldError
from django.db import DataError, IntegrityError, connection, models, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat, Upper
from django.db.models.signals import post_save, pre_save

from ..models import (
    AlwaysItem,
    CachedItem,
    CaseBlind,
    Computed,
    HeavyPlusItem,
    KeyedByBoth,
    KeyedByName,
    KeyedByUUID,
    Label,
    LowerCode,
    NonAtomicItem,
    PlainItem,
    PlusBook,
    PlusItem,
    Postponed,
    ProxyPlusItem,
    Remark,
    Shelf,
)
from ..support.marks import mostly_slow
from .rows import INSERT, exist, first_words, row, stored

pytestmark = [pytest.mark.slow, pytest.mark.django_db]

MODELS = pytest.mark.parametrize(
    "model", [AlwaysItem, CachedItem, NonAtomicItem, PlusItem, ProxyPlusItem]
)
SIMULTANEOUSLY = ",SIMULTANEOUS_ASSIGNMENT"
# SQLite's lock comes first.
SELECT = ["UPDATE", "SELECT"] if connection.vendor == "sqlite" else ["SELECT"]
# MariaDB finds the primary keys first, and then locks the rows by them.
SELECT += ["SELECT"] if connection.vendor == "mysql" else []


def row_by_row(model, rows, create_defaults):
    """Return what Django's update_or_create() returns for each row."""
    results = []
    if connection.vendor == "mysql":
        # As in standard SQL: expressions get the values before the UPDATE.
        with connection.cursor() as cursor:
            cursor.execute("SET sql_mode = CONCAT(@@sql_mode, %s)", [SIMULTANEOUSLY])
    for given in rows:
        values = dict(given)
        code = values.pop("code")
        obj, created = model.objects.update_or_create(
            code=code, defaults=values, create_defaults=values | create_defaults
        )
        obj.refresh_from_db()
        results.append((obj, created))
    if connection.vendor == "mysql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SET sql_mode = REPLACE(@@sql_mode, %s, '')", [SIMULTANEOUSLY]
            )
    return results


def random_rows(chance):
    rows = []
    for _ in range(chance.randrange(12)):
        given = {"code": chance.choice("abcdefgh")}
        for name, values in {
            "size": [3, lambda: 4, F("size") + 1, F("size") + 2, F("size") * 2 - 1],
            "weight": [None, 1.5, 2, F("size") + 0.5],
            "price": [None, Decimal("1.50"), "2.5", 3],
        }.items():
            if chance.random() < 0.6:
                given[name] = chance.choice(values)
        rows.append(given)
    return rows


@pytest.mark.parametrize("only_changed", [False, True])
@pytest.mark.parametrize("seed", mostly_slow(range(20), quick=3))
@pytest.mark.parametrize("model", [CachedItem, NonAtomicItem, PlusItem])
def test_random_rows(model, seed, only_changed):
    chance = random.Random(seed)
    codes = chance.sample("abcdefgh", 4)
    for twin in PlainItem, model:
        exist(twin, codes, size=7, weight=1.5)
    for _ in range(2):
        rows = random_rows(chance)
        defaults = {"size": 9, "weight": 0.25}
        plain = row_by_row(PlainItem, rows, defaults)
        found = model.objects.bulk_update_or_create(
            rows, create_defaults=defaults, only_changed=only_changed
        )
        assert [created for _, created in found] == [created for _, created in plain]
        assert stored(model) == stored(PlainItem)
        for obj, _ in found:
            for field in model._meta.concrete_fields:
                # It keeps the given values, as save() does.
                value = field.to_python(getattr(obj, field.attname))
                setattr(obj, field.attname, value)
            assert row(obj) == row(model._base_manager.get(pk=obj.pk))


@MODELS
class TestResult:
    def test_rows(self, model):
        exist(model, "by", size=1, price=3)
        rows = [
            {"code": "b", "size": 5},
            model(code="n", price=Decimal("1.50")),
            {"code": "a", "size": lambda: 7},
            model(code="y", size=2),
            {"code": "n", "size": 9},
            {"code": "b"},
        ]
        found = model.objects.bulk_update_or_create(rows)
        assert [(obj.code, obj.size, created) for obj, created in found] == [
            *(("b", 5, False), ("n", 9, True), ("a", 7, True)),
            *(("y", 2, False), ("n", 9, False), ("b", 5, False)),
        ]
        assert [found[1][0], found[4][0]] == [rows[1], rows[1]]
        assert found[1][0] is found[4][0] is rows[1]
        assert [(each["size"], each["price"]) for each in stored(model)] == [
            *((7, None), (5, 3), (9, Decimal("1.50")), (2, None))
        ]
        for obj, _ in found:
            assert type(obj) is model
            assert (obj._state.adding, obj._state.db) == (False, "default")

    def test_fields_that_are_not_given_stay(self, model):
        exist(model, "ab", size=1, weight=2)
        model.objects.bulk_update_or_create([{"code": "a", "size": 3}, {"code": "b"}])
        assert [(each["size"], each["weight"]) for each in stored(model)] == [
            *((3, 2), (1, 2))
        ]

    def test_update_fields(self, model):
        exist(model, "a", size=1, weight=2)
        rows = [{"code": "a", "size": 3, "weight": 4}, model(code="b", size=5)]
        model.objects.bulk_update_or_create(
            [*rows[:1], {"code": "n", "size": 6, "weight": 7}], update_fields=["size"]
        )
        model.objects.bulk_update_or_create([rows[1]], update_fields=[])
        model.objects.bulk_update_or_create(
            [model(code="b", size=9, weight=8)], update_fields=["weight"]
        )
        assert [(each["size"], each["weight"]) for each in stored(model)] == [
            *((3, 2), (5, 8), (6, 7))
        ]

    def test_create_defaults(self, model):
        exist(model, "a", size=1)
        rows = [{"code": code, "size": F("size") + 4} for code in "aba"]
        found = model.objects.bulk_update_or_create(
            [*rows, model(code="c", size=7)],
            create_defaults={"size": lambda: 2, "weight": 3},
        )
        assert [(obj.size, obj.weight) for obj, _ in found] == [
            *((9, None), (2, 3), (9, None), (2, 3))
        ]
        assert [(each["size"], each["weight"]) for each in stored(model)] == [
            *((9, None), (2, 3), (2, 3))
        ]

    def test_callables_are_called_once(self, model):
        exist(model, "a", size=1)
        called = []

        def size():
            called.append(1)
            return len(called)

        rows = [{"code": code, "size": size} for code in "ab"]
        model.objects.bulk_update_or_create(rows, only_changed=True)
        assert called == [1, 1]
        assert sorted(each["size"] for each in stored(model)) == [1, 2]

    def test_automatic_values(self, model):
        exist(model, "ab")
        before = [obj.changed for obj in model._base_manager.order_by("code")]
        found = model.objects.bulk_update_or_create([{"code": "a", "size": 1}])
        after = [obj.changed for obj in model._base_manager.order_by("code")]
        assert after[0] > before[0]
        assert after[1] == before[1]
        if connection.vendor == "sqlite" or connection.features.has_select_for_update:
            assert found[0][0].changed == after[0]

    def test_nothing_is_saved_and_no_signal_sent(self, model):
        exist(model, "a")
        sent = []

        def receive(sender, **kwargs):
            sent.append(sender)

        pre_save.connect(receive)
        post_save.connect(receive)
        try:
            model.objects.bulk_update_or_create([{"code": "a"}, {"code": "b"}])
        finally:
            pre_save.disconnect(receive)
            post_save.disconnect(receive)
        assert sent == []

    def test_statements(self, model):
        """The number does not depend on the number of rows."""
        exist(model, map(str, range(0, 300, 2)))
        rows = [{"code": str(number), "weight": number} for number in range(300)]
        is_atomic = model in (NonAtomicItem, PlusItem, ProxyPlusItem)
        around = [] if is_atomic else ["SAVEPOINT"]
        with transaction.atomic(), first_words() as sent:
            found = model.objects.bulk_update_or_create(rows)
        assert [created for _, created in found] == [False, True] * 150
        end = ["RELEASE"] if around else []
        assert sent == [*around, *SELECT, *INSERT, "UPDATE", *end]
        with transaction.atomic(), first_words() as sent:
            model.objects.bulk_update_or_create(
                {"code": str(number), "weight": F("size") + number}
                for number in range(300)
            )
        # MariaDB returns nothing from an UPDATE.
        again = ["SELECT"] if connection.vendor == "mysql" else []
        assert sent == [*around, *SELECT, "UPDATE", *again, *end]

    def test_only_changed(self, model):
        exist(model, "abc", size=1, price=Decimal("1.50"))
        rows = [
            {"code": "a", "size": "1", "price": Decimal("1.5")},
            {"code": "b", "size": 2},
            {"code": "n", "size": 3},
            {"code": "c", "size": F("size")},
        ]
        before = model._base_manager.get(code="a").changed
        found = model.objects.bulk_update_or_create(rows, only_changed=True)
        assert [created for _, created in found] == [False, False, True, False]
        assert model._base_manager.get(code="a").changed == before
        with first_words() as sent:
            model.objects.bulk_update_or_create(rows[:3], only_changed=True)
        expected = 1 if "UPDATE" in SELECT and "SELECT" in sent else 0
        assert sent.count("UPDATE") == expected

    def test_nothing(self, model):
        with first_words() as sent:
            assert model.objects.bulk_update_or_create([]) == []
        assert sent == []

    def test_iterator_goes_batch_by_batch(self, model):
        exist(model, "ae")
        taken = []

        def rows():
            for code in "abcdef":
                taken.append(code)
                yield {"code": code, "size": 1}

        found = model.objects.ibulk_update_or_create(rows(), batch_size=2)
        assert taken == []
        assert [obj.code for obj, _ in islice(found, 2)] == ["a", "b"]
        assert taken == ["a", "b"]
        assert model._base_manager.filter(size=1).count() == 2
        assert [obj.code for obj, _ in found] == ["c", "d", "e", "f"]
        assert model._base_manager.filter(size=1).count() == 6

    def test_asynchronously(self, model):
        exist(model, "a")

        async def call():
            return await model.objects.abulk_update_or_create(
                [{"code": "a", "size": 2}], only_changed=True
            )

        found = async_to_sync(call)()
        assert [(obj.size, created) for obj, created in found] == [(2, False)]
        assert [each["size"] for each in stored(model)] == [2]

    def test_violation_writes_nothing(self, model):
        exist(model, "b")
        rows = [{"code": "a"}, {"code": "b", "size": 100}]
        with (
            pytest.raises(IntegrityError, match=r"^Row 1: .*_size"),
            transaction.atomic(),
        ):
            model.objects.bulk_update_or_create(rows)
        assert [each["code"] for each in stored(model)] == ["b"]


def test_methods_alter_data():
    for prefix in "", "i", "a":
        name = f"{prefix}bulk_update_or_create"
        assert getattr(PlusItem.objects, name).alters_data
        assert getattr(PlusItem.objects.all(), name).alters_data


class TestExpressions:
    def test_each_row_has_numbers_of_its_own(self):
        exist(PlusItem, "abcd", size=10, weight=1)
        rows = [
            {"code": "a", "size": F("size") + 1},
            {"code": "b", "size": F("size") * 2 + F("size") - 3},
            {"code": "c", "size": 5 - F("size")},
            {"code": "d", "size": F("size") + 20, "weight": F("weight") * 2.5},
        ]
        with first_words() as sent:
            found = PlusItem.objects.bulk_update_or_create(rows)
        assert [obj.size for obj, _ in found] == [11, 27, -5, 30]
        assert found[3][0].weight == 2.5
        assert [each["size"] for each in stored(PlusItem)] == [11, 27, -5, 30]
        assert sent[len(SELECT) :].count("UPDATE") == 4

    def test_functions(self):
        KeyedByName.objects.bulk_create([KeyedByName(name="a"), KeyedByName(name="b")])
        shelves = [Shelf.objects.create(name=name) for name in "ab"]
        books = [
            PlusBook.objects.create(shelf=s, place=1, isbn=s.name) for s in shelves
        ]
        part = Concat(Upper("isbn"), Value("-"), "isbn")
        found = PlusBook.objects.bulk_update_or_create(
            [{"shelf": s, "place": 1, "part": part} for s in shelves],
            unique_fields=["shelf", "place"],
        )
        assert [obj.part for obj, _ in found] == ["A-a", "B-b"]
        assert [obj.pk for obj, _ in found] == [book.pk for book in books]

    def test_values_before_the_update(self):
        """As in standard SQL, also on MariaDB."""
        exist(PlusItem, "a", size=1, weight=5)
        [(obj, _)] = PlusItem.objects.bulk_update_or_create(
            [{"code": "a", "size": F("size") + 1, "weight": F("size") + 0.5}]
        )
        assert (obj.size, obj.weight) == (2, 1.5)

    def test_several_rows_that_are_one(self):
        """
        Each expression uses the values that the row before it has written.
        """
        exist(PlusItem, "a", size=1)
        rows = [
            {"code": "a", "size": F("size") + 1},
            {"code": "n", "size": 3},
            {"code": "a", "size": F("size") * 10},
            {"code": "n", "size": F("size") + 1},
            {"code": "a", "weight": 2},
        ]
        found = PlusItem.objects.bulk_update_or_create(rows)
        assert [obj.size for obj, _ in found] == [20, 4, 20, 4, 20]
        assert [(each["size"], each["weight"]) for each in stored(PlusItem)] == [
            *((20, 2), (4, None))
        ]

    def test_new_row(self):
        message = (
            r"^Row 1, size = F\(size\) \+ Value\(1\): the row is new, so the "
            r"expression has no value. Give one for new rows in create_defaults.$"
        )
        exist(PlusItem, "a")
        rows = [{"code": code, "size": F("size") + 1} for code in "ab"]
        with pytest.raises(ValueError, match=message), transaction.atomic():
            PlusItem.objects.bulk_update_or_create(rows)
        assert [each["size"] for each in stored(PlusItem)] == [0]
        [(obj, _)] = PlusItem.objects.bulk_update_or_create(
            [{"code": "b", "size": Value(3) + 4}]
        )
        obj.refresh_from_db()
        assert obj.size == 7

    def test_joined_field(self):
        shelf = Shelf.objects.create(name="a")
        shelf.plusbook_set.create(place=1)
        with (
            pytest.raises(FieldError, match=r"Row 0: Joined field references"),
            transaction.atomic(),
        ):
            shelf.plusbook_set.bulk_update_or_create(
                [{"place": 1, "isbn": F("shelf__name")}], ["shelf", "place"]
            )


class TestBadInput:
    """Nothing is written, and the error names the row."""

    def fails(self, error, message, rows, model=PlusItem, **kwargs):
        with pytest.raises(error) as caught, first_words() as sent:
            model.objects.bulk_update_or_create(rows, **kwargs)
        assert str(caught.value) == message
        assert sent == []

    def test_unknown_field(self):
        self.fails(
            FieldError,
            "Row 1: tests.PlusItem has no field 'colour' (its value is 'red').",
            [{"code": "a"}, {"code": "b", "colour": "red"}],
        )

    def test_update_fields(self):
        rows = [{"code": "a", "size": 1}]
        self.fails(
            FieldError,
            "update_fields names 'colour', which is not a column of tests.PlusItem. "
            "Choices are: changed, code, id, price, size, weight",
            rows,
            update_fields=["colour"],
        )
        self.fails(
            ValueError,
            "update_fields must be a list of names: ['size'].",
            rows,
            update_fields="size",
        )
        for name in "code", "id", "pk":
            self.fails(
                ValueError,
                f"update_fields names {name!r}, which identifies a row of "
                "tests.PlusItem and so cannot change.",
                rows,
                update_fields=[name],
            )
        self.fails(
            FieldError,
            "update_fields names 'upper', which the database generates.",
            [{"name": "a"}],
            Computed,
            update_fields=["upper"],
        )
        self.fails(
            ValueError,
            "Row 1 has no value for 'size', which update_fields names: {'code': 'b'}.",
            [*rows, {"code": "b"}],
            update_fields=["size"],
        )

    def test_create_defaults(self):
        self.fails(
            FieldError,
            "create_defaults: tests.PlusItem has no field 'colour' (its value is 1).",
            [{"code": "a"}],
            create_defaults={"colour": 1},
        )
        self.fails(
            ValueError,
            "create_defaults names 'code', which identifies a row: its value is that "
            "of the row.",
            [{"code": "a"}],
            create_defaults={"code": 1},
        )

    def test_saved_instance(self):
        obj = PlusItem.objects.create(code="a")
        with pytest.raises(ValueError, match=r"^Row 0 is saved already: <PlusItem:"):
            PlusItem.objects.bulk_update_or_create([obj])

    def test_value_of_another_type(self):
        exist(PlusItem, "ab")
        rows = [{"code": "n"}, {"code": "a"}, {"code": "b", "size": "big"}]
        message = "^Row 2: Field 'size' expected a number but got 'big'.$"
        with pytest.raises(ValueError, match=message), transaction.atomic():
            PlusItem.objects.bulk_update_or_create(rows)
        assert [each["code"] for each in stored(PlusItem)] == ["a", "b"]

    def test_unsaved_instance(self):
        shelf = Shelf.objects.create(name="a")
        shelf.plusbook_set.create(place=1, isbn="1")
        rows = [{"isbn": "1", "shelf": Shelf(name="b")}]
        message = (
            r"^Row 0: bulk_update_or_create\(\) prohibited to prevent data loss due to "
            "unsaved related object 'shelf'.$"
        )
        with pytest.raises(ValueError, match=message):
            PlusBook.objects.bulk_update_or_create(rows, ["isbn"])

    def test_position_in_an_iterator(self):
        exist(PlusItem, "abc")
        rows = [{"code": code, "size": 1 + 99 * (code == "c")} for code in "abc"]
        found = PlusItem.objects.ibulk_update_or_create(rows, batch_size=2)
        assert len([*islice(found, 2)]) == 2
        with pytest.raises(IntegrityError, match=r"^Row 2: "), transaction.atomic():
            next(found)


class TestConflicts:
    """The error names the row that the database refuses."""

    def books(self):
        shelf = Shelf.objects.create(name="a")
        for number in range(20):
            shelf.plusbook_set.create(place=number, isbn=f"isbn {number}")
        return shelf

    def test_of_an_update(self):
        shelf = self.books()
        rows = [{"shelf": shelf, "place": n, "isbn": f"new {n}"} for n in range(10)]
        rows[6]["isbn"] = "isbn 15"
        with pytest.raises(IntegrityError, match=r"^Row 6: "), transaction.atomic():
            PlusBook.objects.bulk_update_or_create(rows, ["shelf", "place"])
        assert not PlusBook.objects.filter(isbn__startswith="new").exists()

    def test_of_an_insert(self):
        shelf = self.books()
        rows = [{"shelf": shelf, "place": n, "part": "p"} for n in range(15, 25)]
        rows[8]["isbn"] = "isbn 3"
        with pytest.raises(IntegrityError, match=r"^Row 8: "), transaction.atomic():
            PlusBook.objects.bulk_update_or_create(rows, ["shelf", "place"])
        assert not PlusBook.objects.filter(part="p").exists()
        with pytest.raises(IntegrityError, match=r"^Row 8: "), transaction.atomic():
            PlusBook.objects.bulk_get_or_create(rows, ["shelf", "place"])
        assert PlusBook.objects.count() == 20

    @pytest.mark.parametrize("call", ["bulk_get_or_create", "bulk_update_or_create"])
    def test_null_in_an_insert(self, call):
        rows = [{"code": code, "size": 1} for code in "abc"]
        PlusItem.objects.create(code="a")
        rows[2]["size"] = None
        call = getattr(PlusItem.objects, call)
        with pytest.raises(IntegrityError, match=r"^Row 2: "), transaction.atomic():
            call(rows, batch_size=1)
        rows[1]["size"] = None
        where = r"^(One of rows 1 to 2|Row 1): "  # the latter without RETURNING
        with pytest.raises(IntegrityError, match=where), transaction.atomic():
            call(rows)
        assert PlusItem.objects.count() == 1

    @pytest.mark.database("postgresql", "mysql")
    def test_text_that_is_too_long(self):
        shelf = self.books()
        rows = [{"shelf": shelf, "place": n, "part": "p"} for n in range(3)]
        rows[1]["part"] = "p" * 11
        where = r"^One of rows 0 to 2: value too long"
        if connection.vendor == "mysql":
            where = r"^Row 1: .*Data too long"
        with pytest.raises(DataError, match=where), transaction.atomic():
            PlusBook.objects.bulk_update_or_create(rows, ["shelf", "place"])
        assert not PlusBook.objects.exclude(part=None).exists()


class TestKeys:
    def test_several_columns(self):
        a, b = (Shelf.objects.create(name=name) for name in "ab")
        PlusBook.objects.create(shelf=a, place=1)
        rows = [
            {"shelf": a, "place": 1, "part": "1"},
            {"shelf_id": a.pk, "place": 3, "part": "2"},
            {"shelf": b, "place": "1", "part": "3"},
            {"shelf": b, "place": 1, "part": "4"},
        ]
        found = PlusBook.objects.bulk_update_or_create(rows)
        assert [(obj.part, created) for obj, created in found] == [
            *(("1", False), ("2", True), ("4", True), ("4", False))
        ]
        assert {*PlusBook.objects.values_list("part", flat=True)} == {"1", "2", "4"}

    def test_relation_that_changes(self):
        a, b = (Shelf.objects.create(name=name) for name in "ab")
        PlusBook.objects.create(shelf=a, place=1, isbn="1")
        [(book, _)] = PlusBook.objects.bulk_update_or_create(
            [{"isbn": "1", "shelf": b}], ["isbn"]
        )
        assert book.shelf is b
        assert PlusBook.objects.get().shelf_id == b.pk
        PlusBook.objects.bulk_update_or_create(
            [PlusBook(isbn="1", shelf=a, place=2)], ["isbn"]
        )
        book.refresh_from_db()
        assert (book.shelf_id, book.place) == (a.pk, 2)

    def test_null_in_a_key(self):
        """As with single calls, IS NULL finds the row."""
        a = Shelf.objects.create(name="a")
        rows = [
            {"isbn": None, "shelf": a, "place": 1},
            {"isbn": "1", "shelf": a, "place": 2},
            {"isbn": None, "shelf": a, "place": 3},
        ]
        found = PlusBook.objects.bulk_update_or_create(rows, ["isbn"])
        assert [(obj.place, created) for obj, created in found] == [
            *((3, True), (2, True), (3, False))
        ]
        assert sorted(PlusBook.objects.values_list("place", flat=True)) == [2, 3]

    def test_uuid(self):
        KeyedByUUID.objects.create(name="a")
        pk = KeyedByUUID.objects.get().pk
        found = KeyedByUUID.objects.bulk_update_or_create(
            [{"id": pk, "name": "b"}, KeyedByUUID(name="c")], ["id"]
        )
        assert [created for _, created in found] == [False, True]
        assert {*KeyedByUUID.objects.values_list("name", flat=True)} == {"b", "c"}

    def test_natural_primary_key(self):
        KeyedByName.objects.create(name="a", size=1)
        rows = [{"pk": "a", "size": 2}, KeyedByName(name="b", size=3)]
        found = KeyedByName.objects.bulk_update_or_create(rows, ["pk"])
        assert [(obj.pk, obj.size, created) for obj, created in found] == [
            *(("a", 2, False), ("b", 3, True))
        ]
        assert KeyedByName.objects.get(pk="a").size == 2

    def test_composite_primary_key(self):
        KeyedByBoth.objects.create(room=1, hour=1, note="there")
        rows = [{"room": 1, "hour": hour, "note": f"new {hour}"} for hour in (1, 2)]
        for created in True, False:
            found = KeyedByBoth.objects.bulk_update_or_create(rows)
            assert [(obj.pk, obj.note, new) for obj, new in found] == [
                ((1, 1), "new 1", False),
                ((1, 2), "new 2", created),
            ]
        notes = KeyedByBoth.objects.order_by("hour").values_list("note", flat=True)
        assert [*notes] == ["new 1", "new 2"]

    def test_what_the_database_generates(self):
        shelf = Computed.objects.create(name="a", kind="verb")
        rows = [{"id": shelf.pk, "name": "b"}]
        [(obj, _)] = Computed.objects.bulk_update_or_create(rows, ["id"])
        assert (obj.name, obj.upper, obj.kind) == ("b", "B", "verb")
        [(obj, created)] = Computed.objects.bulk_update_or_create([Computed(name="b")])
        assert (obj.kind, obj.upper, created) == ("verb", "B", False)

    @pytest.mark.database("mysql", "sqlite")
    def test_collation(self):
        """The database treats texts as equal that differ in Python."""
        CaseBlind.objects.create(name="A")
        found = CaseBlind.objects.bulk_update_or_create(
            [{"name": name} for name in ("a", "b", "B", "A", "c")]
        )
        assert [created for _, created in found] == [False, True, False, False, True]
        assert CaseBlind.objects.count() == 3


class TestRowByRow:
    """Single calls are necessary here, and have the same result."""

    def test_multi_table_inheritance(self):
        HeavyPlusItem.objects.create(code="a", load=1)
        given = HeavyPlusItem(code="b", load=2)
        rows = [{"code": "a", "load": F("load") + 5, "size": 3}, given]
        found = HeavyPlusItem.objects.bulk_update_or_create([*rows, {"code": "b"}])
        assert [(obj.load, obj.size, created) for obj, created in found] == [
            *((6, 3, False), (2, 0, True), (2, 0, False))
        ]
        assert found[1][0] is given
        assert HeavyPlusItem.objects.get(code="a").load == 6
        with (
            pytest.raises(IntegrityError, match=r"^Row 1: "),
            transaction.atomic(),
        ):
            HeavyPlusItem.objects.bulk_update_or_create(
                [{"code": "c"}, {"code": "a", "load": None}]
            )
        assert not HeavyPlusItem.objects.filter(code="c").exists()

    def test_only_changed(self):
        HeavyPlusItem.objects.create(code="a", load=1)
        rows = [{"code": "a", "load": 1}, {"code": "b", "load": 2}]
        HeavyPlusItem.objects.bulk_update_or_create(rows, only_changed=True)
        with first_words() as sent:
            found = HeavyPlusItem.objects.bulk_update_or_create(rows, only_changed=True)
        assert not {"UPDATE", "INSERT"} & set(sent)
        assert [obj.load for obj, _ in found] == [1, 2]
        rows[0]["load"] = 3
        HeavyPlusItem.objects.bulk_update_or_create(rows, only_changed=True)
        assert HeavyPlusItem.objects.get(code="a").load == 3

    def test_property(self):
        exist(PlusItem, "x")
        rows = [{"code": "x", "title": "Y"}, {"code": "n", "title": "N"}]
        found = PlusItem.objects.bulk_update_or_create(rows)
        assert [(obj.code, created) for obj, created in found] == [
            *(("y", False), ("n", True))
        ]
        assert [each["code"] for each in stored(PlusItem)] == ["n", "y"]

    def test_field_with_a_preparation_of_its_own(self):
        found = LowerCode.objects.bulk_update_or_create([{"code": "A"}, {"code": "a"}])
        assert [created for _, created in found] == [True, False]

    @pytest.mark.database("postgresql")
    def test_deferrable_constraint(self):
        Postponed.objects.create(name="a")
        found = Postponed.objects.bulk_update_or_create(
            [{"name": "a"}, {"name": "b"}], unique_fields=["name"]
        )
        assert [created for _, created in found] == [False, True]

    @pytest.mark.database("sqlite")
    def test_old_sqlite(self, monkeypatch):
        monkeypatch.setattr(connection.Database, "sqlite_version_info", (3, 32, 9))
        exist(PlusItem, "a", size=1)
        rows = [{"code": code, "size": 4} for code in "ab"]
        found = PlusItem.objects.bulk_update_or_create(rows)
        assert [(obj.size, created) for obj, created in found] == [
            *((4, False), (4, True))
        ]


class TestQuerysets:
    def test_annotated(self):
        exist(PlusItem, "a", size=3)
        queryset = PlusItem.objects.annotate(double=models.F("size") * 2)
        rows = [{"code": code, "size": 4} for code in "ab"]
        found = queryset.bulk_update_or_create(rows)
        assert [(obj.size, created) for obj, created in found] == [
            *((4, False), (4, True))
        ]
        assert found[0][0].double == 6

    def test_filtered(self):
        exist(PlusItem, "a", size=3)
        queryset = PlusItem.objects.filter(size=3)
        rows = [{"code": "a", "weight": 1}, {"code": "b", "size": 4}]
        found = queryset.bulk_update_or_create(rows)
        assert [created for _, created in found] == [False, True]
        with pytest.raises(IntegrityError, match=r"^Row 0: "), transaction.atomic():
            queryset.bulk_update_or_create([{"code": "b"}])

    def test_deferred(self):
        exist(PlusItem, "a", size=3)
        for queryset in PlusItem.objects.only("code"), PlusItem.objects.defer("size"):
            [(obj, _)] = queryset.bulk_update_or_create([{"code": "a", "weight": 2}])
            assert "size" in obj.get_deferred_fields()
        assert [each["weight"] for each in stored(PlusItem)] == [2]


class TestRelatedManagers:
    def test_foreign_key(self):
        a, b = Shelf.objects.create(name="a"), Shelf.objects.create(name="b")
        b.plusbook_set.create(place=1)
        rows = [{"place": place, "part": f"{place}"} for place in (1, 2)]
        for created in True, False:
            found = a.plusbook_set.bulk_update_or_create(rows)
            assert [(obj.shelf_id, new) for obj, new in found] == [(a.pk, created)] * 2
            assert all(obj.shelf is a for obj, _ in found)
            rows[0]["part"] = "x"
        assert {*a.plusbook_set.values_list("part", flat=True)} == {"x", "2"}
        assert b.plusbook_set.get().part is None

    def test_many_to_many(self):
        a = Shelf.objects.create(name="a")
        a.labels.create(text="x")
        found = a.labels.bulk_update_or_create(
            [{"text": "x"}, {"text": "y"}], unique_fields=["text"]
        )
        assert [created for _, created in found] == [False, True]
        assert {obj.text for obj in a.labels.all()} == {"x", "y"}
        assert Label.objects.count() == 2

    def test_generic_relation(self):
        a, b = Shelf.objects.create(name="a"), Shelf.objects.create(name="b")
        b.remarks.create(text="x")
        for created in True, False:
            found = a.remarks.bulk_update_or_create(
                [{"text": "x"}, Remark(text="y")], unique_fields=["text"]
            )
            assert [(obj.of, new) for obj, new in found] == [(a, created)] * 2
        assert Remark.objects.count() == 3
