"""bulk_update_or_create() where one UPDATE may differ from one per row."""

from decimal import Decimal

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import DecimalField, F, JSONField, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast, Round

from ..models import Mixed, ShortNames
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
