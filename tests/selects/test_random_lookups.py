"""Lookups of any fields, values and filters, beside Django's."""

import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..models import Ordinary, Target
from .outcomes import check

ANY = (
    st.integers(-3, 3)
    | st.integers()
    | st.text(max_size=4)
    | st.booleans()
    | st.none()
    | st.floats()
    | st.decimals()
    | st.dates()
    | st.datetimes(timezones=st.just(datetime.UTC))
    | st.uuids()
    | st.binary(max_size=3)
    | st.builds(Target, pk=st.integers(1, 3))
)
ALIKE = {
    "integer": st.integers(-2, 2),
    "big": st.integers(-2, 2) | st.sampled_from(["1", "-1", True, 1.0]),
    "char": st.sampled_from(["a", "b", ""]),
    "boolean": st.booleans() | st.none(),
    "target_id": st.integers(1, 2),
    "uuid": st.none(),
}
FIELDS = [field.name for field in Ordinary._meta.concrete_fields]
ALIKE_KWARGS = st.fixed_dictionaries({}, optional=ALIKE)
KWARGS = ALIKE_KWARGS | st.dictionaries(
    st.sampled_from([*FIELDS, *(f"{name}__exact" for name in FIELDS), "pk", "none"]),
    ANY,
    max_size=3,
)
FILTERS = st.lists(ALIKE_KWARGS, max_size=2)


@pytest.mark.slow
@pytest.mark.django_db
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kwargs=KWARGS, filters=FILTERS, rows=st.lists(ALIKE_KWARGS, max_size=3))
def test_lookup(kwargs, filters, rows):
    Ordinary._base_manager.all().delete()
    for pk in (1, 2):
        Target.objects.update_or_create(pk=pk)
    Ordinary._base_manager.bulk_create(Ordinary(**row) for row in rows)

    def prepare(queryset):
        for each in filters:
            queryset = queryset.filter(**each)
        return queryset

    check(Ordinary, kwargs, prepare=prepare)
