"""The statements of a batch: what Django sends, with less work per row."""

from contextlib import contextmanager
from decimal import Decimal

import pytest
from django.db import connection, models
from django.db.models.functions import Upper
from django.db.models.sql import InsertQuery
from django.test.utils import CaptureQueriesContext

from getorcreateplus import bypass
from getorcreateplus.bulk.insert import Insert, plain_columns

from ..models import (
    HeavyPlusItem,
    KeyedByName,
    KeyedByUUID,
    Ordinary,
    PlusBook,
    PlusItem,
    Shelf,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("cache_api")]

committed = pytest.mark.django_db(transaction=True)

# Texts that are special in an array's literal, in SQL or in a placeholder.
TEXTS = ["", "NULL", "a,b", '"', "\\", "'", "{}", "{a}", "%s", "é", "a b", "$1"]

# The field that identifies rows of PlusItem, and PostgreSQL's index for it.
one_column_or_two = pytest.mark.parametrize(
    ("names", "condition"), [(["code"], "= ANY("), (["code", "size"], "UNNEST(")]
)


def items(codes):
    return [{"code": code, "size": 1} for code in codes]


def fields_of(model):
    return [
        field
        for field in model._meta.concrete_fields
        if not (field.generated or isinstance(field, models.AutoField))
    ]


def as_compiled(model, objs):
    query = InsertQuery(model)
    query.insert_values(fields_of(model), objs)
    [found] = query.get_compiler(connection=connection).as_sql()
    return found


class TestInsert:
    """It is the compiler's SQL, if no value needs to be compiled."""

    @pytest.mark.parametrize("number", [1, 3])
    @pytest.mark.parametrize(
        ("model", "values"),
        [
            (PlusItem, {"size": 1, "weight": 2, "price": Decimal("1.50")}),
            (PlusItem, {"size": None, "weight": None, "price": "3"}),
            (PlusItem, {"size": True, "weight": Decimal(2), "price": 1}),
            (PlusBook, {"shelf_id": 7, "place": "4", "part": None, "isbn": "x"}),
            (Shelf, {"name": "a"}),
            (KeyedByName, {"name": "a", "size": 3}),
            (KeyedByUUID, {"name": 5}),
            (Ordinary, {"char": "a"}),
        ],
    )
    def test_values(self, model, values, number):
        objs = [model(**values) for _ in range(number)]
        assert plain_columns(connection, objs, fields_of(model)) is not None
        made = Insert(connection, model, objs, fields_of(model))
        sql, params = as_compiled(model, objs)
        assert made.sql == sql
        assert without_times(made.params) == without_times(params)

    @pytest.mark.parametrize(
        "size", [models.Value(1), Upper(models.Value("1")), models.F("size")]
    )
    def test_expression_is_left_to_the_compiler(self, size):
        objs = [PlusItem(code="a"), PlusItem(code="b", size=size)]
        assert plain_columns(connection, objs, fields_of(PlusItem)) is None

    def test_pre_save_of_a_project_is_left_to_the_compiler(self, monkeypatch):
        field = PlusItem._meta.get_field("size")
        monkeypatch.setattr(field, "pre_save", lambda obj, add: 7, raising=False)
        assert plain_columns(connection, [PlusItem(code="a")], [field]) is None


def without_times(values):
    """Return the repr() of values, except those of auto_now."""
    if isinstance(values, (list, tuple)):
        return [without_times(value) for value in values]
    text = f"{type(values).__name__} {values}"
    return "a time" if "20" in text and ":" in text else text


class TestSelect:
    @pytest.mark.parametrize("model", [PlusItem, KeyedByName])
    def test_texts(self, model):
        name = model._meta.pk.name if model is KeyedByName else "code"
        rows = [{name: text} for text in TEXTS]
        with bypass():
            created = model.objects.bulk_get_or_create(rows, [name])
            found = model.objects.bulk_get_or_create(rows, [name])
        assert [obj.pk for obj, _ in found] == [obj.pk for obj, _ in created]
        assert [getattr(obj, name) for obj, _ in found] == TEXTS
        assert not any(new for _, new in found)

    def test_number_of_parameters(self):
        with bypass(), CaptureQueriesContext(connection) as made:
            PlusItem.objects.bulk_get_or_create({"code": text} for text in "abc")
        sql = made[0]["sql"]
        assert sql.startswith("SELECT")
        assert ("= ANY(" in sql) is (connection.vendor == "postgresql")
        assert (" IN (" in sql) is (connection.vendor != "postgresql")

    def test_several_columns(self):
        """A row whose values each occur in other rows is new."""
        shelves = Shelf.objects.create(name="a"), Shelf.objects.create(name="b")
        known, others = (
            [{"shelf": s, "place": n, "part": text} for n, text in enumerate(TEXTS)]
            for s in shelves
        )
        others[1]["part"] = known[2]["part"]
        names = ["shelf", "place", "part"]
        with bypass():
            created = PlusBook.objects.bulk_get_or_create(known, names)
            with CaptureQueriesContext(connection) as made:
                found = PlusBook.objects.bulk_get_or_create(known + others, names)
        assert [obj.pk for obj, new in found if not new] == [o.pk for o, _ in created]
        assert [obj.part for obj, new in found if new] == [o["part"] for o in others]
        sql = made[0]["sql"]
        assert ("UNNEST(" in sql) is (connection.vendor == "postgresql")
        assert (" OR " in sql) is (connection.vendor != "postgresql")

    def test_columns_of_two_tables(self):
        rows = [{"code": text, "load": n} for n, text in enumerate(TEXTS)]
        with bypass():
            for created in True, False:
                found = HeavyPlusItem.objects.bulk_get_or_create(rows, ["code", "load"])
                assert [new for _, new in found] == [created] * len(rows)

    def test_column_that_is_not_sent_unchanged(self):
        rows = [{"code": code, "price": Decimal("1.5")} for code in "ab"]
        with bypass():
            for created in True, False:
                with CaptureQueriesContext(connection) as made:
                    found = PlusItem.objects.bulk_get_or_create(rows, ["code", "price"])
                assert [new for _, new in found] == [created] * 2
                assert "UNNEST(" not in made[0]["sql"]

    def test_integers(self):
        numbers = [0, -1, 2**15, 2**31 - 1]
        shelf = Shelf.objects.create(name="a")
        rows = [{"shelf": shelf, "place": number} for number in numbers]
        books = [book for book, _ in PlusBook.objects.bulk_get_or_create(rows)]
        with bypass():
            found = PlusBook.objects.bulk_get_or_create(
                [{"id": book.pk} for book in books], ["id"]
            )
        assert [(book.place, created) for book, created in found] == [
            (number, False) for number in numbers
        ]

    @pytest.mark.parametrize("number", [2**31, 2**62])
    def test_integer_that_the_column_cannot_hold(self, number):
        plain = PlusBook._base_manager.filter(id__in=[number, 1])
        with bypass():
            found = PlusBook.objects.filter(id__in=[number, 1])
            assert list(found) == list(plain) == []

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize("kind", ["label", "filled", "text"])
    @one_column_or_two
    def test_column_of_another_type_than_the_model_says(self, names, condition, kind):
        """The array gets the type of the column, as the values of IN do."""
        rows = items("ab")
        PlusItem._base_manager.bulk_create(PlusItem(**row) for row in rows)
        table = PlusItem._meta.db_table
        with connection.cursor() as cursor:
            for statement in (
                "CREATE TYPE label AS ENUM ('a', 'b', 'c')",
                "CREATE DOMAIN filled AS text CHECK (value <> '')",
                f"DROP INDEX {like_index(cursor, table)}",
                f"ALTER TABLE {table} ALTER code TYPE {kind} USING code::text::{kind}",
            ):
                cursor.execute(statement)
        with bypass(), CaptureQueriesContext(connection) as made:
            found = PlusItem.objects.bulk_get_or_create(rows, names)
        assert [created for _, created in found] == [False, False]
        assert len(made) == 1
        assert condition in made[0]["sql"]

    @committed
    @pytest.mark.database("postgresql")
    @one_column_or_two
    def test_values_that_the_server_binds_are_parameters_of_in(self, names, condition):
        rows = items(TEXTS)
        with server_side_binding(), bypass():
            for created in True, False:
                with CaptureQueriesContext(connection) as made:
                    found = PlusItem.objects.bulk_get_or_create(rows, names)
                assert [new for _, new in found] == [created] * len(rows)
                assert condition not in made[0]["sql"]

    @pytest.mark.database("postgresql")
    @one_column_or_two
    def test_index_is_used(self, names, condition):
        with connection.cursor() as cursor, bypass():
            cursor.execute("SET LOCAL enable_seqscan = off")
            with CaptureQueriesContext(connection) as made:
                PlusItem.objects.bulk_get_or_create(items("ab"), names)
            assert condition in made[0]["sql"]
            cursor.execute(f"EXPLAIN {made[0]['sql']}")
            plan = str(cursor.fetchall())
        assert "Index" in plan
        assert "Seq Scan" not in plan


def like_index(cursor, table):
    """Return the name of the index that is only for varchar."""
    cursor.execute(
        "SELECT indexname FROM pg_indexes "
        "WHERE tablename = %s AND indexdef LIKE '%%varchar_pattern_ops%%'",
        [table],
    )
    [[name]] = cursor.fetchall()
    return name


@contextmanager
def server_side_binding():
    options = connection.settings_dict["OPTIONS"]
    connection.close()
    options["server_side_binding"] = True
    connection.features.__dict__.pop("uses_server_side_binding", None)
    try:
        yield
    finally:
        del options["server_side_binding"]
        connection.features.__dict__.pop("uses_server_side_binding", None)
        connection.close()
