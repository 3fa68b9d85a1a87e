"""Spellings that are the same lookup, and lookups that are not cached."""

import datetime
import enum
import uuid
from contextlib import contextmanager
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, models, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Lower, Now
from django.db.models.lookups import Exact, IsNull
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from getorcreateplus.coherence.region import Region
from getorcreateplus.lookups import canonical, conditions
from getorcreateplus.lookups.rows import is_same, layout

from ..models import (
    Colour,
    Composite,
    Converted,
    Generated,
    Natural,
    Ordinary,
    OtherTarget,
    ProxyOrdinary,
    Rare,
    Shade,
    Size,
    SpecialOrdinary,
    SpecialTarget,
    Target,
    Text,
    TextTarget,
    Unique,
)

pytestmark = pytest.mark.slow

BERLIN = ZoneInfo("Europe/Berlin")
TOKYO = ZoneInfo("Asia/Tokyo")
AWARE = datetime.datetime(2024, 7, 1, 12, 30, 15, 123456, tzinfo=datetime.UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Number(enum.IntEnum):
    TWO = 2


def lookup(kwargs, model=Ordinary):
    return conditions.from_kwargs(model._meta, kwargs, connection.vendor)


def hint(values):
    region = Region(
        Ordinary,
        "default",
        "default",
        database=("default",),
        own_cache=False,
        timeout=None,
        version_per_row=True,
        one_table=True,
    )
    return region.hint_key(sorted(values.items()))


def plain_get(model, kwargs):
    return models.QuerySet(model).get(**kwargs)


# One lookup

SAME = {
    "integer": [
        {"integer": 2},
        {"integer": "2"},
        {"integer": 2.0},
        {"integer": Size.BIG},
        {"integer": Number.TWO},
        {"integer": Decimal(2)},
        {"integer__exact": 2},
        {"integer": 2, "integer__exact": "2"},
    ],
    "one": [{"integer": 1}, {"integer": True}, {"integer": Size.SMALL}],
    "boolean": [
        {"boolean": True},
        {"boolean": 1},
        {"boolean": "True"},
        {"boolean": "1"},
        {"boolean": Size.SMALL},
    ],
    "char": [
        {"char": "red"},
        {"char": Colour.RED},
        {"char": mark_safe("red")},
        {"char": gettext_lazy("red")},
        {"char__exact": "red"},
    ],
    "text of a number": [{"char": "1"}, {"char": 1}],
    "date": [
        {"date": datetime.date(2024, 7, 1)},
        {"date": "2024-07-01"},
        {"date": AWARE},
        {"date": gettext_lazy("2024-07-01")},
    ],
    "uuid": [{"uuid": ID}, {"uuid": str(ID)}, {"uuid": ID.hex}, {"uuid": ID.int}],
    "null": [{"char": None}, {"char__exact": None}],
    "lower": [{"lower": "abc"}, {"lower": "ABC"}, {"lower": mark_safe("aBc")}],
    "column": [{"column": 3}, {"column": "3"}],
}

# SQLite compares the stored texts.
SAME_ELSEWHERE = {
    "datetime": [
        {"datetime": AWARE},
        {"datetime": AWARE.astimezone(BERLIN)},
        {"datetime": AWARE.astimezone(TOKYO)},
        {"datetime": "2024-07-01T14:30:15.123456+02:00"},
    ],
    "decimal": [
        {"decimal": Decimal("1.00")},
        {"decimal": Decimal("1.0")},
        {"decimal": Decimal("1E0")},
        {"decimal": 1},
        {"decimal": "1.000"},
        {"decimal": 1.0},
    ],
    "zero": [{"decimal": 0}, {"decimal": Decimal("-0.00")}, {"decimal": "0E5"}],
    "time": [
        {"time": datetime.time(2, 30)},
        {"time": datetime.time(2, 30, fold=1)},
        {"time": "02:30"},
    ],
}


def check_same(spellings):
    obj = models.QuerySet(Ordinary).create(**spellings[0])
    found = [lookup(kwargs) for kwargs in spellings]

    assert len({hint(values) for values in found}) == 1
    assert all(values == found[0] for values in found)
    assert [plain_get(Ordinary, kwargs) for kwargs in spellings] == [obj] * len(found)
    row = models.QuerySet(Ordinary).values_list(*layout(Ordinary).attnames).get()
    assert layout(Ordinary).matches(found[0], tuple(row))


@pytest.mark.django_db
@pytest.mark.parametrize("spellings", SAME.values(), ids=SAME)
def test_spellings_of_one_value_are_one_lookup(spellings):
    check_same(spellings)


@pytest.mark.django_db
@pytest.mark.database("postgresql", "sqlite")
def test_text_of_an_enum_is_its_value():
    check_same([{"char": "red"}, {"char": Shade.RED}])


@pytest.mark.django_db
@pytest.mark.database("mysql")
def test_enum_that_prints_otherwise_is_no_lookup():
    """mysqlclient before 2.3.2 sends the result of str()."""
    obj = models.QuerySet(Ordinary).create(char=Shade.RED)
    obj.refresh_from_db()

    assert obj.char in {"Shade.RED", "red"}
    with pytest.raises(canonical.NotCanonical):
        lookup({"char": Shade.RED})


@pytest.mark.django_db
@pytest.mark.database("postgresql", "mysql")
@pytest.mark.parametrize("spellings", SAME_ELSEWHERE.values(), ids=SAME_ELSEWHERE)
def test_spellings_of_one_quantity_are_one_lookup(spellings):
    check_same(spellings)


@pytest.mark.django_db
def test_names_of_the_primary_key_are_one_lookup():
    obj = Ordinary.objects.create()
    pk = obj.pk
    spellings = [
        {"pk": pk},
        {"id": pk},
        {"id": str(pk)},
        {"pk__exact": pk},
        {"id__exact": pk, "pk": str(pk)},
    ]
    found = [lookup(kwargs) for kwargs in spellings]

    assert found == [{"id": pk}] * len(spellings)
    assert [plain_get(Ordinary, kwargs) for kwargs in spellings] == [obj] * len(found)
    assert {canonical.pk_text(Ordinary._meta, values) for values in found} == {str(pk)}


@pytest.mark.django_db
def test_names_of_a_foreign_key_are_one_lookup():
    special = SpecialTarget.objects.create(code="code")
    target = Target.objects.get()
    obj = Ordinary.objects.create(target=target, by_code=target, one=target)
    for spellings, expected in [
        (
            [
                {"target": target},
                {"target": special},
                {"target": SimpleLazyObject(lambda: target)},
                {"target": target.pk},
                {"target": str(target.pk)},
                {"target_id": target.pk},
                {"target__exact": target},
                {"target_id__exact": str(target.pk)},
            ],
            {"target_id": target.pk},
        ),
        (
            [{"by_code": target}, {"by_code": "code"}, {"by_code_id": "code"}],
            {"by_code_id": "code"},
        ),
        ([{"one": target}, {"one_id": target.pk}], {"one_id": target.pk}),
        ([{"target": None}, {"target_id": None}], {"target_id": None}),
    ]:
        if expected == {"target_id": None}:
            obj = Ordinary.objects.create()
        assert [lookup(kwargs) for kwargs in spellings] == [expected] * len(spellings)
        assert {plain_get(Ordinary, kwargs) for kwargs in spellings} == {obj}


@pytest.mark.django_db
def test_foreign_key_to_a_foreign_key_is_its_value():
    text = TextTarget.objects.create(text=Text.objects.create(name="key"))
    obj = Ordinary.objects.create(of_text=text)

    for kwargs in ({"of_text": text}, {"of_text": "key"}, {"of_text_id": "key"}):
        assert lookup(kwargs) == {"of_text_id": "key"}
        assert plain_get(Ordinary, kwargs) == obj


@pytest.mark.django_db
def test_spellings_of_a_composite_key_are_one_lookup():
    target = Target.objects.create()
    obj = Composite.objects.create(target=target, number=5)
    spellings = [
        {"pk": (target.pk, 5)},
        {"pk": [str(target.pk), "5"]},
        {"pk__exact": (target.pk, Size(1) + 4)},
        {"target": target, "number": 5},
        {"target_id": target.pk, "number": "5"},
    ]

    for kwargs in spellings:
        values = lookup(kwargs, Composite)
        assert values == {"target_id": target.pk, "number": 5}
        assert canonical.pk_text(Composite._meta, values) == repr([str(target.pk), "5"])
        assert plain_get(Composite, kwargs) == obj


def test_bytes_of_any_kind_are_one_lookup():
    for value in (b"ab", bytearray(b"ab"), memoryview(b"ab")):
        assert lookup({"binary": value}, Rare) == {"binary": b"ab"}


def test_addresses_of_one_host_are_one_lookup():
    for value in ("2001:db8::1", "2001:0DB8:0::0001"):
        assert lookup({"ip": value}, Rare) == {"ip": "2001:db8::1"}


def test_both_zeros_are_one_lookup():
    assert hint(lookup({"float": -0.0}, Rare)) == hint(lookup({"float": 0}, Rare))


def test_proxy_has_the_lookups_of_its_model():
    assert lookup({"pk": "5"}, ProxyOrdinary) == lookup({"id": 5})


def test_parents_columns_are_columns_of_a_child():
    assert lookup({"char": "a", "rank": "1"}, SpecialOrdinary) == {
        "char": "a",
        "rank": 1,
    }
    assert lookup({"pk": "5"}, SpecialOrdinary) == {"ordinary_ptr_id": 5}


# Several lookups


@pytest.mark.django_db
def test_parents_that_print_alike_are_two_lookups():
    target, other = Target.objects.create(pk=5), OtherTarget.objects.create(pk=5)

    assert str(target) == str(other)
    assert hint(lookup({"target": target})) != hint(lookup({"other": other}))
    assert hint(lookup({"target": target})) != hint(
        lookup({"target": Target.objects.create(pk=6)})
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"char": "a"}, {"char": "A"}),
        ({"char": "a"}, {"char": "a "}),
        ({"char": "é"}, {"char": "e\u0301"}),
        ({"char": "1"}, {"integer": 1}),
        ({"char": "a"}, {"text": "a"}),
        ({"char": "None"}, {"char": None}),
        ({"boolean": True}, {"boolean": False}),
        ({"boolean": True}, {"boolean": None}),
        ({"integer": 1}, {"integer": 2}),
        ({"char": "a"}, {"char": "a", "integer": 1}),
    ],
)
def test_different_values_are_two_lookups(first, second):
    assert lookup(first) != lookup(second)
    assert hint(lookup(first)) != hint(lookup(second))


# No lookup

AMBIGUOUS = datetime.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN)

REFUSED = {
    "nothing of that name": {"nothing": 1},
    "lookup": {"char__iexact": "a"},
    "transform": {"date__year": 2024},
    "twice exact": {"char__exact__exact": "a"},
    "join": {"target__code": "a"},
    "isnull": {"char__isnull": True},
    "many to many": {"tags": 1},
    "reverse relation": {"specialordinary": 1},
    "contradiction": {"integer": 1, "integer__exact": 2},
    "contradiction of names": {"pk": 1, "id": 2},
    "F": {"char": F("text")},
    "Q": {"char": Q(text="a")},
    "Value": {"char": Value("a")},
    "function": {"char": Lower(Value("A"))},
    "queryset": {"target": Target.objects.none},
    "dict": {"char": {}},
    "list": {"char": ["a"]},
    "set": {"char": {"a"}},
    "tuple": {"target": (1,)},
    "no number": {"integer": "a"},
    "infinite": {"integer": float("inf")},
    "no boolean": {"boolean": "perhaps"},
    "no date": {"date": "yesterday"},
    "no datetime": {"datetime": "yesterday"},
    "no uuid": {"uuid": "a"},
    "NaN": {"decimal": Decimal("NaN")},
    "infinite decimal": {"decimal": Decimal("Infinity")},
    "no decimal": {"decimal": "a"},
    "out of range": {"integer": 2**70},
    "not printable": {"big": 10**5000},
    "unsaved": {"target": Target()},
    "unsaved, with a code": {"by_code": Target(code="code")},
    "without a code": {"by_code": Target(pk=5)},
    "another model": {"target": OtherTarget(pk=5)},
    "object": {"integer": object()},
    "lazy text": {"char": SimpleLazyObject(lambda: "a")},
    "aware time": {"time": datetime.time(1, tzinfo=datetime.UTC)},
    "before the first day": {
        "datetime": datetime.datetime.min.replace(tzinfo=TOKYO),
    },
}


@pytest.mark.parametrize("kwargs", REFUSED.values(), ids=REFUSED)
def test_what_has_no_canonical_form_is_no_lookup(kwargs):
    kwargs = {n: v() if n == "target" and callable(v) else v for n, v in kwargs.items()}
    with pytest.raises(canonical.NotCanonical):
        lookup(kwargs)


@pytest.mark.parametrize(
    ("model", "kwargs"),
    [
        (Rare, {"json": {}}),
        (Rare, {"json": None}),
        (Rare, {"json": "a"}),
        (Rare, {"float": float("nan")}),
        (Rare, {"float": 10**400}),
        (Rare, {"ip": object()}),
        (Converted, {"name": "a"}),
        (Converted, {"rounded": "a"}),
        (Converted, {"target": 1}),
        (Generated, {"upper": "A"}),
        (Composite, {"pk": 5}),
        (Composite, {"pk": (1, 2, 3)}),
        (Composite, {"pk": (1, None)}),
        (Composite, {"pk": (Target(pk=5), 1)}),
        (Composite, {"pk": (1, "a")}),
        (Composite, {"pk": (1, 2), "number": 3}),
    ],
)
def test_what_a_field_does_not_vouch_for_is_no_lookup(model, kwargs):
    with pytest.raises(canonical.NotCanonical):
        lookup(kwargs, model)


@contextmanager
def registered(field, lookup_class):
    field.register_lookup(lookup_class)
    try:
        yield
    finally:
        field._unregister_lookup(lookup_class)


class CaseBlind(Exact):
    def process_lhs(self, compiler, connection, lhs=None):
        sql, params = super().process_lhs(compiler, connection, lhs)
        return f"LOWER({sql})", params


@pytest.mark.django_db
def test_exact_lookup_of_a_project_is_no_lookup():
    Ordinary.objects.create(char="A")
    assert lookup({"char": "a"}) == {"char": "a"}
    with registered(Ordinary._meta.get_field("char"), CaseBlind):
        assert plain_get(Ordinary, {"char": "a"}).char == "A"
        with pytest.raises(canonical.NotCanonical):
            lookup({"char": "a"})
        with pytest.raises(canonical.NotCanonical):
            conditions.from_query(
                Ordinary.objects.filter(char="a").query, connection.vendor
            )
    number = Composite._meta.get_field("number")
    with registered(number, CaseBlind), pytest.raises(canonical.NotCanonical):
        lookup({"pk": (1, 2)}, Composite)


class Empty(IsNull):
    """If a project treats an empty text as NULL."""

    def as_sql(self, compiler, connection):
        sql, params = super().as_sql(compiler, connection)
        lhs, more = self.process_lhs(compiler, connection)
        return f"({sql} OR {lhs} = '')", (*params, *more)


@pytest.mark.django_db
def test_isnull_lookup_of_a_project_is_no_lookup():
    Ordinary.objects.create(char="")
    assert lookup({"char": None}) == {"char": None}
    with registered(Ordinary._meta.get_field("char"), Empty):
        assert plain_get(Ordinary, {"char": None}).char == ""
        for kwargs in ({"char": None}, {"char__exact": None}):
            with pytest.raises(canonical.NotCanonical):
                lookup(kwargs)
        with pytest.raises(canonical.NotCanonical):
            conditions.from_query(
                Ordinary.objects.filter(char=None).query, connection.vendor
            )
        assert lookup({"char": "a"}) == {"char": "a"}


@pytest.mark.parametrize("name", sorted(canonical.FIELD_STEPS))
def test_field_with_a_conversion_of_its_own_instance_is_no_lookup(name):
    field = models.CharField(max_length=9)
    assert canonical.stores_as_django(field)
    setattr(field, name, lambda *args: None)
    assert not canonical.stores_as_django(field)


@pytest.mark.parametrize("name", ["from_db_value", "get_db_prep_value", "db_type"])
def test_class_of_django_that_was_patched(name, monkeypatch):
    patch = lambda self, *args: args[0]  # noqa: E731
    monkeypatch.setattr(models.CharField, name, patch, raising=False)
    assert not canonical.stores_as_django(models.CharField(max_length=9))
    assert canonical.stores_as_django(models.IntegerField())


@pytest.mark.parametrize(
    "value",
    [datetime.datetime(2024, 7, 1), "2024-07-01 12:00", datetime.date.today()],  # noqa: DTZ001, DTZ011
)
def test_naive_datetime_is_left_to_django_which_warns(value):
    with pytest.raises(canonical.NotCanonical):
        canonical.prepare(
            Ordinary._meta.get_field("datetime"), value, connection.vendor
        )


def test_naive_datetime_is_a_value_without_time_zones(settings):
    settings.USE_TZ = False
    naive = datetime.datetime(2024, 7, 1, fold=1)  # noqa: DTZ001
    field = Ordinary._meta.get_field("datetime")

    assert repr(canonical.prepare(field, naive, connection.vendor)) == repr(
        naive.replace(fold=0)
    )
    assert (
        canonical.canonical_text(
            canonical.prepare(field, "2024-07-01", connection.vendor)
        )
        == "2024-07-01 00:00:00"
    )


class Zone(datetime.tzinfo):
    def utcoffset(self, dt):
        return None


def test_datetime_of_a_zone_that_knows_no_offset_is_no_value():
    with pytest.raises(canonical.NotCanonical):
        canonical.canonical(AWARE.replace(tzinfo=Zone()))


def test_times_that_one_clock_shows_twice_are_two():
    first, second = AMBIGUOUS, AMBIGUOUS.replace(fold=1)

    assert first == second  # to Python
    assert canonical.canonical(first) != canonical.canonical(second)
    assert canonical.canonical_text(
        canonical.canonical(first)
    ) != canonical.canonical_text(canonical.canonical(second))
    assert is_same(second, canonical.canonical(second))
    assert not is_same(first, canonical.canonical(second))


# The same as Django, in every case


def answer(model, kwargs, queryset_class):
    """Return the result of a get_or_create(), and the rows after it."""
    try:
        with transaction.atomic():
            obj, created = queryset_class(model).get_or_create(**kwargs)
            result = (
                created,
                {
                    name: value
                    for name, value in vars(obj).items()
                    if name in layout(model).attnames and name != model._meta.pk.attname
                },
            )
    except Exception as error:
        result = type(error), str(error)
    return result, models.QuerySet(model).count()


CASES = {
    **REFUSED,
    **{name: spellings[0] for name, spellings in (SAME | SAME_ELSEWHERE).items()},
}


@pytest.mark.django_db
@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
def test_call_has_the_result_or_the_error_of_plain_django(kwargs):
    kwargs = {n: v() if n == "target" and callable(v) else v for n, v in kwargs.items()}
    answers = []
    for queryset_class in (models.QuerySet, type(Ordinary.objects.all())):
        with transaction.atomic():
            answers.append([answer(Ordinary, kwargs, queryset_class) for _ in range(2)])
            transaction.set_rollback(True)

    assert repr(answers[0]) == repr(answers[1])


# Filters


@pytest.mark.django_db
def test_filters_on_own_columns_are_part_of_the_lookup():
    target = Target.objects.create(code="code")
    text = TextTarget.objects.create(text=Text.objects.create(name="key"))
    for queryset, expected in [
        (Ordinary.objects.all(), {}),
        (Ordinary.objects.filter(char="a"), {"char": "a"}),
        (Ordinary.objects.filter(char=Colour.RED), {"char": "red"}),
        (Ordinary.objects.filter(integer="5"), {"integer": 5}),
        (Ordinary.objects.filter(boolean=False), {"boolean": False}),
        (Ordinary.objects.filter(lower="ABC"), {"lower": "abc"}),
        (Ordinary.objects.filter(pk="5"), {"id": 5}),
        (Ordinary.objects.filter(char=None), {"char": None}),
        (Ordinary.objects.filter(char__isnull=True), {"char": None}),
        (Ordinary.objects.filter(target__isnull=True), {"target_id": None}),
        (Ordinary.objects.filter(target=None), {"target_id": None}),
        (Ordinary.objects.filter(by_code=target), {"by_code_id": "code"}),
        (Ordinary.objects.filter(of_text=text), {"of_text_id": "key"}),
        (target.ordinary_set.all(), {"target_id": target.pk}),
        (target.by_code.filter(char="a"), {"by_code_id": "code", "char": "a"}),
        (
            Ordinary.objects.filter(char="a").filter(integer=1, small=2),
            {"char": "a", "integer": 1, "small": 2},
        ),
        (
            Ordinary.objects.filter(Q(char="a") & Q(integer=1)),
            {"char": "a", "integer": 1},
        ),
        (Ordinary.objects.filter(Q(Q(char="a"), _connector=Q.OR)), {"char": "a"}),
        (Ordinary.objects.filter(char="a").filter(char="a"), {"char": "a"}),
        (ProxyOrdinary.objects.filter(char="a"), {"char": "a"}),
        (SpecialOrdinary.objects.filter(rank=1), {"rank": 1}),
    ]:
        assert conditions.from_query(queryset.query, connection.vendor) == expected


@pytest.mark.django_db
def test_other_filters_are_no_lookup():
    target = Target.objects.create(code="code")
    for queryset in [
        Ordinary.objects.none(),
        Ordinary.objects.exclude(char="a"),
        Ordinary.objects.filter(~Q(char="a")),
        Ordinary.objects.filter(Q(char="a") | Q(char="b")),
        Ordinary.objects.filter(Q(char="a") ^ Q(text="b")),
        Ordinary.objects.filter(char__isnull=False),
        Ordinary.objects.filter(char__iexact="a"),
        Ordinary.objects.filter(char__in=["a"]),
        Ordinary.objects.filter(integer__gt=1),
        Ordinary.objects.filter(date__year=2024),
        Ordinary.objects.filter(char=F("text")),
        Ordinary.objects.filter(char=Value("a")),
        Ordinary.objects.filter(Exact(Lower("char"), "a")),
        Ordinary.objects.filter(target__code="code"),
        Ordinary.objects.filter(tags=1),
        Ordinary.objects.filter(target=Target.objects.filter(code="code")[:1]),
        Ordinary.objects.filter(char="a").filter(char="b"),
        Ordinary.objects.extra(where=["1 = 1"]),
        SpecialOrdinary.objects.filter(char="a"),
        Composite.objects.filter(pk=(target.pk, 1)),
        Rare.objects.filter(json={}),
        Rare.objects.filter(json__a=1),
        Converted.objects.filter(name="a"),
    ]:
        with pytest.raises(canonical.NotCanonical):
            conditions.from_query(queryset.query, connection.vendor)


# Primary keys


def test_text_of_a_primary_key():
    text = canonical.pk_text

    assert text(Ordinary._meta, {"id": "5", "char": "a"}) == "5"
    assert text(Unique._meta, {"id": ID.hex}) == str(ID)
    assert text(Natural._meta, {"code": Colour.RED}) == "red"
    assert text(TextTarget._meta, {"text_id": "key"}) == "key"
    assert text(Composite._meta, {"target_id": 1, "number": "2"}) == "['1', '2']"


def test_text_of_a_primary_key_that_is_not_there():
    text = canonical.pk_text

    assert text(Ordinary._meta, {"char": "a"}) is None
    assert text(Ordinary._meta, {"id": None}) is None
    assert text(Ordinary._meta, {"id": "a"}) is None
    assert text(Ordinary._meta, {"id": F("big")}) is None
    assert text(Composite._meta, {"target_id": 1}) is None
    assert text(Composite._meta, {"target_id": 1, "number": None}) is None


@pytest.mark.parametrize(
    ("model", "vendors"),
    [
        (Ordinary, {"postgresql", "sqlite", "mysql"}),
        (Unique, {"postgresql", "sqlite", "mysql"}),
        (Composite, {"postgresql", "sqlite", "mysql"}),
        (SpecialOrdinary, {"postgresql", "sqlite", "mysql"}),
        (Natural, {"postgresql", "sqlite"}),
        (TextTarget, {"postgresql", "sqlite"}),
    ],
)
def test_database_that_finds_primary_keys_by_their_text(model, vendors):
    exact = {
        vendor
        for vendor in ("postgresql", "sqlite", "mysql", "oracle")
        if canonical.has_exact_pk(model._meta, vendor)
    }
    assert exact - {"oracle"} == vendors


class Pk:
    """The attributes of Options that a primary key needs."""

    def __init__(self, field):
        self.pk_fields = [field]


@pytest.mark.parametrize(
    "field",
    [
        models.CharField(db_collation="nocase"),
        models.DateTimeField(),
        models.FloatField(),
        Converted._meta.get_field("name"),
        Ordinary._meta.get_field("lower"),
    ],
)
def test_primary_key_that_may_be_spelt_in_several_ways(field):
    assert not canonical.has_exact_pk(Pk(field), "sqlite")


# Values that only Python treats as equal


@pytest.mark.django_db
@pytest.mark.database("sqlite")
def test_decimal_and_moment_of_sqlite_are_no_lookup():
    """
    SQLite compares floats, and texts that may have another form than Django's.
    """
    obj = Ordinary.objects.create(decimal=Decimal("0.1"))
    rows = models.QuerySet(Ordinary).filter(pk=obj.pk)
    rows.update(
        decimal=F("decimal") + Decimal("0.2"),
        datetime=Now(),
        time=Now(),
    )
    obj.refresh_from_db()

    assert obj.decimal == Decimal("0.30")
    assert not rows.filter(decimal=obj.decimal).exists()
    assert not rows.filter(datetime=obj.datetime).exists()
    for name in ("decimal", "datetime", "time", "duration"):
        with pytest.raises(canonical.NotCanonical):
            lookup({name: "2024-07-01T12:00:00Z"})


@pytest.mark.django_db
@pytest.mark.database("postgresql")
def test_interval_of_postgresql_is_no_lookup():
    obj = Ordinary.objects.create()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tests_ordinary SET duration = interval '1 year'")
    obj.refresh_from_db()

    assert not Ordinary.objects.filter(duration=obj.duration).exists()
    with pytest.raises(canonical.NotCanonical):
        lookup({"duration": obj.duration})


@pytest.mark.database("mysql")
def test_duration_of_mysql_is_a_lookup():
    assert lookup({"duration": datetime.timedelta(1)}) == {
        "duration": datetime.timedelta(1)
    }


def test_columns_are_looked_up_again_when_settings_change(settings):
    before = conditions.lookup_columns(Ordinary._meta, "sqlite")
    assert conditions.lookup_columns(Ordinary._meta, "sqlite") is before
    settings.USE_TZ = False

    assert conditions.lookup_columns(Ordinary._meta, "sqlite") is not before
