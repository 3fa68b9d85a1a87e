"""
get() of our querysets beside Django's, for each field and each spelling of a
value: the same SQL and parameters, the same instance or exception.
"""

import datetime
import uuid
from decimal import Decimal

import pytest
from django.core.files.base import ContentFile
from django.db import models
from django.db.models import F, Q, Value
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from ..models import (
    Colour,
    Composite,
    Converted,
    DatabaseDefault,
    Generated,
    Natural,
    Ordinary,
    OtherTarget,
    Programme,
    ProxyOrdinary,
    Rare,
    Seat,
    Shade,
    Size,
    SpecialOrdinary,
    SpecialTarget,
    Spelt,
    Stall,
    Stamped,
    Stripped,
    Target,
    Text,
    TextTarget,
    Unique,
)
from ..support.marks import mostly_slow
from .outcomes import check

pytestmark = [pytest.mark.slow, pytest.mark.django_db]

UTC = datetime.UTC
ZONE = datetime.timezone(datetime.timedelta(hours=5))
CODE = uuid.UUID(int=5)
MOMENT = datetime.datetime(2020, 5, 4, 3, 2, 1, 5, tzinfo=UTC)
NUMBERS = [5, "5", 0, -1, 5.0, 5.5, Decimal(5), True, Size.SMALL, None, "x", "", b"5"]
TEXTS = [
    "a",
    "A",
    "a ",
    "",
    "\u00e9",
    "\x00",
    "x" * 50,
    mark_safe("a"),
    gettext_lazy("a"),
    Colour.RED,
    Shade.RED,
    5,
    True,
    b"a",
    None,
]
ODD = [F("id"), Value(5), Value("a"), [5], (5,), {"a": 5}, {5}, object]

VALUES = {
    "big": [*NUMBERS, 2**31, 2**63 - 1, 2**63, -(2**63) - 1],
    "boolean": [True, False, None, 1, 0, "True", "f", "x", 2],
    "char": TEXTS,
    "column": [*NUMBERS, 2**31],
    "date": [
        datetime.date(2020, 5, 4),
        "2020-05-04",
        MOMENT,
        datetime.datetime(2020, 5, 4, tzinfo=UTC),
        "2020-13-01",
        None,
    ],
    "datetime": [
        MOMENT,
        MOMENT.astimezone(ZONE),
        MOMENT.isoformat(),
        MOMENT.replace(tzinfo=None),
        datetime.date(2020, 5, 4),
        "x",
        None,
    ],
    "decimal": [Decimal("1.5"), Decimal("1.50"), "1.5", 1.5, 1, "NaN", "x", None],
    "duration": [datetime.timedelta(days=1), "1 00:00:00", "x", None],
    "email": TEXTS,
    "file": ["a", ContentFile(b"a", name="a"), "", None],
    "integer": [*NUMBERS, 2**31 - 1, 2**31, -(2**31) - 1],
    "number": [1.5, "1.5", 1, Decimal("1.5"), "x", None],
    "positive": [*NUMBERS, 2**31],
    "slug": TEXTS,
    "small": [*NUMBERS, 2**15],
    "text": TEXTS,
    "time": [datetime.time(1, 2), "01:02", MOMENT, "x", None],
    "uuid": [CODE, str(CODE), CODE.hex, CODE.int, "x", None],
    "lower": TEXTS,
    "id": NUMBERS,
    "pk": [*NUMBERS, 2**63],
    "target_id": NUMBERS,
    "target": NUMBERS,
    "target__exact": NUMBERS,
    "char__exact": TEXTS,
    "by_code": TEXTS,
    "by_code_id": TEXTS,
    "of_text": TEXTS,
    "one": NUMBERS,
    "other_id": NUMBERS,
    # Not equality on a column.
    "char__iexact": ["a", None],
    "integer__gt": [4],
    "integer__isnull": [True, False],
    "target__code": ["a", None],
    "tags": [1],
    "nothing": [1],
    "date__year": [2020],
}


@pytest.fixture
def row():
    target = Target.objects.create(pk=5, code="a")
    text = TextTarget.objects.create(text=Text.objects.create(name="a"))
    other = OtherTarget.objects.create(pk=5)
    Ordinary._base_manager.create(
        pk=5,
        big=5,
        boolean=True,
        char="a",
        column=5,
        date=datetime.date(2020, 5, 4),
        datetime=MOMENT,
        decimal=Decimal("1.5"),
        duration=datetime.timedelta(days=1),
        email="a",
        file="a",
        integer=5,
        number=1.5,
        one=target,
        positive=5,
        slug="a",
        small=5,
        target=target,
        by_code=target,
        other=other,
        of_text=text,
        text="a",
        time=datetime.time(1, 2),
        uuid=CODE,
        lower="a",
    )
    Ordinary._base_manager.create(pk=6, boolean=False)
    return target


@pytest.mark.parametrize("name", mostly_slow(VALUES, quick=8))
def test_value(row, name):
    for value in VALUES[name]:
        check(Ordinary, {name: value})


@pytest.mark.parametrize(
    "name", ["big", "boolean", "char", "date", "decimal", "target", "uuid", "pk"]
)
def test_value_that_is_no_plain_one(row, name):
    for value in ODD:
        check(Ordinary, {name: value})


NOT_KEPT = {"char__iexact", "date__year", "integer__gt", "integer__isnull"}
NOT_KEPT |= {"nothing", "tags", "target__code"}


def test_each_class_of_fields_has_a_twin():
    classes = {
        cls
        for cls in vars(models).values()
        if isinstance(cls, type) and issubclass(cls, models.Field)
    }
    here = [Ordinary, Programme, Seat, Stall, *(row[0] for row in ROWS), Composite]
    tested = {
        type(field)
        for model in here
        for field in [*model._meta.concrete_fields, *model._meta.many_to_many]
    }
    tested |= {type(Composite._meta.pk)}
    assert {cls.__name__ for cls in classes - tested} == {
        "Field",
        "ForeignObject",
        "ImageField",  # a FileField in the database; it needs Pillow
        "OrderWrt",  # an IntegerField that Django adds to a model
        # Left for old migrations.
        "CommaSeparatedIntegerField",
        "IPAddressField",
        "NullBooleanField",
    }


@pytest.mark.parametrize("model", [Programme, Seat, Stall])
def test_value_of_another_class(model, compiled):
    row = model.plain.create()
    values = {"number": NUMBERS, "big": NUMBERS, "small": NUMBERS}
    values |= {"url": TEXTS, "path": TEXTS}
    for field in model._meta.concrete_fields:
        for value in [getattr(row, field.attname), *values[field.name]]:
            check(model, {field.name: value})
    assert compiled.count > 20


@pytest.mark.parametrize("name", VALUES)
def test_sql_is_kept(row, compiled, name):
    check(Ordinary, {name: VALUES[name][0]})
    assert compiled.count == (0 if name in NOT_KEPT else 2)


def test_several_arguments(row, compiled):
    check(Ordinary, {"char": "a", "integer": 5, "boolean": True, "target_id": 5})
    check(Ordinary, {"char": "a", "integer": 6, "boolean": True, "target_id": 5})
    assert compiled.count == 5
    check(Ordinary, {"target_id": 5, "char": "a"})
    check(Ordinary, {"char": "a", "slug": None, "big": None})
    check(Ordinary, {"char": None, "slug": "a"})
    check(Ordinary, {"boolean": False, "char": None})
    check(Ordinary, {"pk": 5, "id": 5})
    check(Ordinary, {"target": row, "target_id": 5})


def test_naive_datetime_is_warned_of_once(row):
    """Also if the SQL is not yet kept, or another value cannot be compiled."""
    naive = MOMENT.replace(tzinfo=None)
    for value in (naive, naive.isoformat(), datetime.date(2020, 5, 4)):
        check(Ordinary, {"datetime": value, "big": 5})
        check(Ordinary, {"datetime": value, "big": 5.5, "integer": 2**40})
        check(Ordinary, {"datetime__exact": value})


def test_objects(row):
    special = SpecialTarget.objects.create(pk=7, code="b")
    lazy = SimpleLazyObject(lambda: Target.objects.get(code="a"))
    assert lazy.code == "a"
    for name in ("target", "target_id", "by_code", "one", "other", "char", "pk"):
        for value in (
            row,
            special,
            special.target_ptr,
            Target(),
            Target(pk=5),
            OtherTarget.objects.get(),
            lazy,
            Target.objects.filter(pk=5),
        ):
            check(Ordinary, {name: value})


ROWS = [
    (Converted, {"name": "abc"}, {"rounded": "ABC"}, {"name": None}),
    (DatabaseDefault, {"name": "a"}, {"size": 5}, {"name": "b"}),
    (Generated, {"name": "a"}, {"upper": "A"}, {"upper": "a"}),
    (Natural, {"code": "a"}, {"pk": "a"}, {"size": 0}),
    (Rare, {"ip": "10.0.0.1"}, {"ip": "::ffff:10.0.0.1"}, {"ip": ""}),
    (Rare, {"float": 1.5}, {"float": float("nan")}, {"float": float("inf")}),
    (Rare, {"binary": b"ab"}, {"binary": memoryview(b"ab")}, {"binary": None}),
    (Rare, {"json": "a"}, {"json": {"a": 1}}, {"json": None}),
    (SpecialOrdinary, {"char": "a", "rank": 5}, {"rank": 5}, {"ordinary_ptr_id": 5}),
    (ProxyOrdinary, {"char": "a"}, {"pk": 5}, {"char": "b"}),
    (Spelt, {"date": datetime.date(2020, 5, 4)}, {"date": "2020-05-04"}, {}),
    (Stamped, {"status": "draft"}, {"status": "published"}, {"pk": "x"}),
    (Stripped, {"name": "abc"}, {"name": "bc"}, {"pk": 5}),
    (Unique, {"name": "a"}, {"id": str(CODE)}, {"pk": CODE.hex}),
]


@pytest.mark.parametrize(
    ("model", "created", "first", "second"),
    ROWS,
    ids=lambda value: getattr(value, "__name__", None),
)
def test_row(model, created, first, second):
    model._base_manager.create(**created)
    check(model, created)
    check(model, first)
    check(model, second)


def test_composite_key():
    target = Target.objects.create(code="a")
    Composite._base_manager.create(target=target, number=5)
    check(Composite, {"pk": (target.pk, 5)})
    check(Composite, {"target": target, "number": 5})
    check(Composite, {"number": "5"})


def test_queries_that_are_more_than_a_filter(row):
    """The calls for which Django's get() runs, and its errors."""
    for prepare in (
        lambda q: q.filter(char="a"),
        lambda q: q.filter(char="a", target=row),
        lambda q: q.filter(char="a").filter(target__code="a"),
        lambda q: q.filter(Q(char="a") | Q(char="b")),
        lambda q: q.filter(Q(char="a") & Q(integer=5)),
        lambda q: q.filter(target__code="a"),
        lambda q: q.filter(tags=None),
        lambda q: q.exclude(char="b"),
        lambda q: q.exclude(char=None),
        lambda q: q.filter(char__in=["a"]),
        lambda q: q.filter(small=2**40),
        lambda q: q.filter(column="99999999999999999999"),
        lambda q: q.filter(boolean=True),
        lambda q: q.filter(boolean=False),
        lambda q: q.filter(slug=None),
        lambda q: q.order_by("char"),
        lambda q: q.reverse(),
        lambda q: q.distinct(),
        lambda q: q[:5],
        lambda q: q.none(),
        lambda q: q.union(q),
        lambda q: q.values("char"),
        lambda q: q.values_list("char"),
        lambda q: q.only("char"),
        lambda q: q.defer("char"),
        lambda q: q.select_related("target"),
        lambda q: q.prefetch_related("tags"),
        lambda q: q.annotate(more=F("integer") + 1),
        lambda q: q.alias(more=F("integer") + 1).filter(more=6),
        lambda q: q.extra(where=["1 = 1"]),
        lambda q: q.using("default"),
        lambda q: q.select_for_update(),
    ):
        check(Ordinary, {"integer": 5}, prepare=prepare)
        check(Ordinary, {}, (Q(integer=5),), prepare=prepare)
        check(Ordinary, {"big": 5}, (Q(integer=5),), prepare=prepare)
        check(Ordinary, {}, prepare=prepare)


def test_filters_are_part_of_the_shape(row, compiled):
    for prepare in (
        lambda q: q.filter(char="a"),
        lambda q: q.filter(char="b"),
        lambda q: q.filter(char=None),
        lambda q: q.filter(target=row),
        lambda q: q.filter(target__code="a"),
    ):
        check(Ordinary, {"integer": 5}, prepare=prepare)
    assert compiled.count == 2 + 3 + 2 + 2 + 2
