"""caches_unique_only: lookups that no unique constraint covers."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from getorcreateplus.explaining import explain
from getorcreateplus.lookups.unique_lookups import is_unique_lookup

from ..models import Basket, GiftBasket

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("model", "values", "expected"),
    [
        (Basket, {"id": 1}, True),
        (Basket, {"number": 1}, True),
        (Basket, {"number": 1, "owner": "a"}, True),
        (Basket, {"code": "x"}, True),
        (Basket, {"owner": "a", "code": "x"}, True),
        (Basket, {"owner": "a"}, False),
        (Basket, {"owner": "a", "status": "frozen"}, False),
        (Basket, {"code": None}, False),
        (Basket, {"owner": "a", "code": None}, False),
        (GiftBasket, {"number": 1}, True),
        (GiftBasket, {"basket_ptr_id": 1}, True),
        (GiftBasket, {"text": "a"}, False),
    ],
)
def test_constraints(model, values, expected):
    assert is_unique_lookup(model, values) == expected


@pytest.mark.parametrize("method", ["get", "get_or_create"])
def test_other_lookups_query_the_database(method):
    Basket.objects.create(number=1, owner="ada")
    call = getattr(Basket.objects, method)
    for lookup, expected in [({"number": 1}, [1, 0]), ({"owner": "ada"}, [1, 1])]:
        counts = []
        for _ in range(2):
            with CaptureQueriesContext(connection) as queries:
                call(**lookup)
            counts.append(len(queries))
        assert counts == expected
    Basket.objects.create(number=2, owner="ada")
    with pytest.raises(Basket.MultipleObjectsReturned):
        call(owner="ada")


def test_explain_says_why():
    found = explain(Basket.objects, owner="ada")
    assert found.why == (
        "No unique constraint covers the lookup, and caches_unique_only is True."
    )
