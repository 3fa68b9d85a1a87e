"""Equal values, as properties and as each database compares them."""

import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, models
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from getorcreateplus.lookups import canonical
from getorcreateplus.lookups.rows import is_same

from ..models import Ordinary

pytestmark = pytest.mark.slow

BERLIN = ZoneInfo("Europe/Berlin")
TOKYO = ZoneInfo("Asia/Tokyo")


quick = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


# Properties

ZONES = st.sampled_from([datetime.UTC, BERLIN, TOKYO, ZoneInfo("America/St_Johns")])
KINDS = {
    "integer": st.integers(-(2**63), 2**63) | st.integers(-3, 3),
    "text": st.text(),
    "boolean": st.booleans(),
    "float": st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 0.1 + 0.2, 0.3]),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False)
    | st.builds(
        lambda digits, exponent: Decimal(digits).scaleb(exponent),
        st.integers(-120, 120),
        st.integers(-3, 3),
    ),
    "date": st.dates(),
    "datetime": st.datetimes(
        datetime.datetime(2024, 10, 26),  # noqa: DTZ001
        datetime.datetime(2024, 10, 28),  # noqa: DTZ001
        timezones=ZONES,
    ),
    "naive datetime": st.datetimes(),
    "time": st.times(),
    "duration": st.timedeltas(),
    "uuid": st.uuids(),
    "bytes": st.binary(max_size=3),
}


def other_spellings(value):
    """
    Return values that are equal to this one, but are spelled differently.
    """
    if type(value) is Decimal:
        sign, digits, exponent = value.as_tuple()
        return [value, Decimal((sign, (0, *digits, 0, 0), exponent - 2))]
    if type(value) is datetime.datetime and value.tzinfo:
        return [value, value.astimezone(TOKYO), value.astimezone(datetime.UTC)]
    return [value]


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(data=st.data())
def test_texts_are_equal_as_values_are(kind, data):
    first = data.draw(KINDS[kind])
    second = data.draw(KINDS[kind] | st.sampled_from(other_spellings(first)))
    first, second = canonical.canonical(first), canonical.canonical(second)

    assert (canonical.canonical_text(first) == canonical.canonical_text(second)) == (
        first == second
    )
    assert is_same(first, second) == (first == second)


@quick
@given(value=st.integers() | st.text() | st.floats() | st.none() | st.binary())
@example(value=float("nan"))
def test_plain_value_is_itself(value):
    try:
        plain = canonical.canonical(value)
    except canonical.NotCanonical:
        return
    assert plain == value
    assert repr(canonical.canonical(plain)) == repr(plain)


def finds(name, wanted, pk):
    return models.QuerySet(Ordinary).filter(pk=pk, **{name: wanted}).exists()


STORED = {
    "char": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10)
    | st.sampled_from(["a", "A", "a ", "ä", "a\u0308", "ß", "ss", ""]),
    "integer": st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 2),
    "boolean": st.booleans() | st.none(),
    "date": st.dates(datetime.date(1000, 1, 1)),
    "uuid": st.uuids(version=4),  # MariaDB refuses some others
    "decimal": st.decimals(-1000, 1000, places=2),
    "datetime": st.datetimes(
        datetime.datetime(2024, 10, 27),  # noqa: DTZ001
        datetime.datetime(2024, 10, 27, 4),  # noqa: DTZ001
        timezones=ZONES,
    ),
    "time": st.times(),
}


@pytest.mark.slow
@pytest.mark.django_db
@pytest.mark.parametrize("name", STORED)
@settings(quick, max_examples=30)
@given(data=st.data())
def test_row_matches_only_what_the_database_finds(name, data):
    stored = data.draw(STORED[name])
    wanted = data.draw(STORED[name] | st.just(stored))
    row = models.QuerySet(Ordinary).create(**{name: stored})
    [value] = models.QuerySet(Ordinary).filter(pk=row.pk).values_list(name, flat=True)
    prepared = canonical.prepare(
        Ordinary._meta.get_field(name), wanted, connection.vendor
    )

    found = finds(name, wanted, row.pk)
    same = is_same(value, prepared)
    assert found or not same
    if wanted == stored:
        assert found
        assert same
