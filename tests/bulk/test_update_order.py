"""bulk_update_or_create() where one UPDATE may differ from one per row."""

from decimal import Decimal

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import DecimalField, F, JSONField, QuerySet, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast, Round

from ..models import BlindWord, HeavyPlusItem, Mixed, Rare, ShortNames, Sizes
from ..support.sql import behind_the_back, execute
from .rows import exist, first_words

pytestmark = pytest.mark.django_db


def update(rows, **options):
    return Mixed.objects.bulk_update_or_create(rows, ["code"], **options)


def column(name):
    return [*Mixed.objects.order_by("code").values_list(name, flat=True)]


def rounded(places):
    return Cast("price", DecimalField(max_digits=10, decimal_places=places))


@pytest.mark.database("postgresql", "mysql")
def test_types_that_differ_by_their_arguments():
    exist(Mixed, "ab", price=Decimal("1.2345"))
    update({"code": c, "price": rounded(n)} for c, n in [("a", 1), ("b", 3)])
    # MariaDB rounds half up, too.
    assert column("price") == [Decimal("1.2"), Decimal("1.235")]


def test_values_that_are_equal_in_python_only():
    exist(Mixed, "ab")
    values = [("a", 1), ("b", True)]
    update({"code": c, "data": Value(v, JSONField())} for c, v in values)
    assert [*map(repr, column("data"))] == ["1", "True"]


def test_equal_expressions_are_one_update():
    exist(Mixed, "ab", price=Decimal("1.25"))
    with first_words() as sent:
        update({"code": code, "price": Round("price", 1)} for code in "ab")
    assert sent.count("UPDATE") == (2 if connection.vendor == "sqlite" else 1)


def test_only_changed_distinguishes_null_and_the_null_of_json():
    exist(Mixed, "a", data=Value(None, JSONField()))
    update([{"code": "a", "data": None}], only_changed=True)
    assert Mixed.objects.filter(data__isnull=True).count() == 1


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_but_null_beside_other_values(count):
    exist(Mixed, "ab"[:count], price=1)
    rows = [{"code": c, "price": None, "data": {"a": 1}} for c in "ab"[:count]]
    assert [obj.price for obj, _ in update(rows)] == [None] * count
    assert column("price") == [None] * count


@pytest.mark.parametrize("step", [-1, 1])
@pytest.mark.parametrize("as_expression", [False, True])
def test_values_that_earlier_rows_leave(step, as_expression):
    ranks = range(20)
    for rank in sorted(ranks, key=lambda number: number * 7 % 20):
        Mixed.objects.create(code=f"{rank:02}", rank=rank)
    rows = [
        {"code": f"{n:02}", "rank": F("rank") + step if as_expression else n + step}
        for n in ranks[::-step]
    ]
    found = update(rows)
    assert column("rank") == [n + step for n in ranks]
    assert [obj.rank for obj, _ in found] == [n + step for n in ranks[::-step]]


def test_values_that_no_order_leaves():
    for rank, code in enumerate("abc"):
        Mixed.objects.create(code=code, rank=rank)
    swapped = [("a", 7), ("b", 2), ("c", 1)]
    with pytest.raises(IntegrityError, match="Row 1"), transaction.atomic():
        update({"code": code, "rank": rank} for code, rank in swapped)
    assert column("rank") == [0, 1, 2]


def test_names_that_an_alias_might_have():
    exist(ShortNames, "a", c1=3)
    row = {"code": "a", "c1": 5, "c2": RawSQL("c1 + 1", [])}
    ShortNames.objects.bulk_update_or_create([row])
    assert ShortNames.objects.values_list("c1", "c2").get() == (5, 4)


@pytest.mark.database("postgresql", "sqlite")
def test_trigger_that_leaves_a_row_out():
    """As save() with update_fields."""
    exist(Mixed, "ab", price=1)
    table = Mixed._meta.db_table
    trigger = f"CREATE TRIGGER leave_out BEFORE UPDATE ON {table} "
    if connection.vendor == "postgresql":
        behind_the_back(
            "CREATE OR REPLACE FUNCTION leave_out() RETURNS trigger AS $$ BEGIN "
            "IF old.code = 'b' THEN RETURN NULL; END IF; RETURN new; "
            "END $$ LANGUAGE plpgsql"
        )
        execute(f"{trigger} FOR EACH ROW EXECUTE FUNCTION leave_out()")
    else:
        execute(
            f"{trigger} FOR EACH ROW WHEN old.code = 'b' "
            "BEGIN SELECT RAISE(IGNORE); END"
        )
    update([{"code": "a", "price": 3}])
    message = r"^One of rows 0 to 1: the UPDATE did not affect all of them\.$"
    with pytest.raises(DatabaseError, match=message), transaction.atomic():
        update({"code": code, "price": 2} for code in "ab")
    assert column("price") == [3, 1]
    on = f" ON {table}" if connection.vendor == "postgresql" else ""
    execute(f"DROP TRIGGER leave_out{on}")


# Rows that only the database finds equal


def as_a_loop(rows, key):
    """Return the (key, size) of the rows that a loop leaves, and undo it."""
    with transaction.atomic():
        queryset = QuerySet(BlindWord)
        for row in rows:
            values = {name: value for name, value in row.items() if name != key}
            queryset.update_or_create(**{key: row[key]}, defaults=values)
        left = sorted(queryset.values_list(key, "size"))
        transaction.set_rollback(True)
    return left


WORDS = {
    "new": (None, [("a", 1), ("A", 2), ("a", 3)]),
    "existing": (0, [("a", 1), ("A", 2), ("a", 3)]),
    "unchanged": (3, [("A", 2), ("a", 3)]),
    "unchanged first": (3, [("a", 3), ("A", 2)]),
    "expression": (3, [("a", 3), ("A", F("size") + 1)]),
    "others": (3, [("a", 3), ("b", 4), ("A", 2), ("B", 5), ("b", 6)]),
}


@pytest.mark.database("sqlite", "mysql")
@pytest.mark.parametrize("key", ["unique", "name"])
@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("only_changed", [False, True])
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_changes_of_other_spellings(key, is_cached, only_changed, words):
    before, rows = words
    if before is not None:
        BlindWord.objects.create(**{key: "a"}, size=before)
        if is_cached:
            BlindWord.objects.get_or_create(**{key: "a"})
    rows = [{key: word, "size": size} for word, size in rows]
    expected = as_a_loop(rows, key)
    BlindWord.objects.bulk_update_or_create(rows, [key], only_changed=only_changed)
    assert sorted(BlindWord.objects.values_list(key, "size")) == expected
    for word, size in expected:
        assert BlindWord.objects.get_or_create(**{key: word})[0].size == size


@pytest.mark.database("sqlite", "mysql")
def test_other_spelling_that_no_constraint_keeps_out():
    BlindWord.objects.create(name="a")
    rows = [{"name": name} for name in "aAbB"]
    found = BlindWord.objects.bulk_get_or_create(rows, ["name"])
    assert [created for _, created in found] == [False, False, True, False]
    assert BlindWord.objects.count() == 2


@pytest.mark.database("sqlite", "mysql")
@pytest.mark.parametrize("call", ["bulk_get_or_create", "bulk_update_or_create"])
def test_callable_for_a_row_that_has_another_spelling(call):
    BlindWord.objects.create(unique="a", size=5)
    called = []

    def size():
        called.append(1)
        return 7

    rows = [{"unique": word, "size": 6} for word in "Ab"]
    options = {"create_defaults": {"size": size}}
    if call == "bulk_get_or_create":
        rows, options = [{"unique": word, "size": size} for word in "Ab"], {}
    found = getattr(BlindWord.objects, call)(rows, ["unique"], **options)
    assert [created for _, created in found] == [False, True]
    assert len(called) == 1  # for the row that was created
    assert BlindWord.objects.get(unique="a").size == (6 if options else 5)
    assert BlindWord.objects.get(unique="b").size == 7


def test_equal_rows_are_one_object_also_row_by_row():
    """A multi-table child goes row by row."""
    rows = [{"code": "a", "load": load} for load in (1, 2)]
    (first, created), (second, again) = HeavyPlusItem.objects.bulk_update_or_create(
        rows, ["code"]
    )
    assert first is second
    assert (first.load, created, again) == (2, True, False)
    (first, _), (second, _) = HeavyPlusItem.objects.bulk_get_or_create(rows, ["code"])
    assert first is second


# Types


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"small": 100}, {"number": F("small") * 1000}),
        ({"small": 2**15 - 1}, {"big": F("small") + 1}),
        ({"number": 5}, {"number": F("number") * 0.5}),
        ({"number": 5}, {"big": F("number") * 3_000_000_000}),
        ({"number": 5}, {"big": F("number") - 2**31}),
        ({"big": 2**53 + 1}, {"big": F("big") + 0.0}),
        ({"price": Decimal("123456789.1234567891")}, {"price": F("price") + 0.5}),
        ({"price": Decimal("123456789.1234567891")}, {"price": F("price") * 1.5}),
        ({"price": Decimal("123456789.1234567891")}, {"price": F("price") * 1e-3}),
    ],
)
def test_numbers_in_expressions(values, changes):
    [name] = changes
    Sizes.objects.create(code="a", **values)
    QuerySet(Sizes).update_or_create(code="a", defaults=changes)
    expected = QuerySet(Sizes).values_list(name, flat=True).get()
    QuerySet(Sizes).update(**values)
    Sizes.objects.bulk_update_or_create([{"code": "a", **changes}], ["code"])
    assert QuerySet(Sizes).values_list(name, flat=True).get() == expected


def test_numbers_that_have_several_types():
    numbers = dict(zip("abcd", [1, 2**31, 2.0, 2**15], strict=True))
    for code in numbers:
        Sizes.objects.create(code=code, number=2)
    Sizes.objects.bulk_update_or_create(
        {"code": code, "big": F("number") + n} for code, n in numbers.items()
    )
    found = QuerySet(Sizes).order_by("code").values_list("big", flat=True)
    assert [*found] == [3, 2**31 + 2, 4, 2**15 + 2]


@pytest.mark.parametrize(
    "values", [{"binary": b"ab"}, {"ip": "::1"}, {"ip": "10.0.0.1"}, {"binary": b""}]
)
def test_value_that_is_not_changed(values):
    row = Rare.objects.create(**values)
    rows = [{"id": row.pk, **values}]
    with first_words() as sent:
        Rare.objects.bulk_update_or_create(rows, ["id"], only_changed=True)
    # On SQLite, one locks the database.
    assert sent.count("UPDATE") == (connection.vendor == "sqlite")
    values = dict.fromkeys(values)
    Rare.objects.bulk_update_or_create(
        [{"id": row.pk, **values}], ["id"], only_changed=True
    )
    assert [*QuerySet(Rare).values(*values)] == [values]
