"""
Rows in a cache that does not use pickle: a hit if their values survive, and
never another value.
"""

import datetime
import math
import uuid
from decimal import Decimal

import pytest
from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus import checks
from getorcreateplus.coherence import clients
from getorcreateplus.explaining import explain
from getorcreateplus.lookups.rows import PARTS, mark, revive

from ..models import Paper, Survivor
from ..support.papers import pages, save, save_in_transaction, update, warm
from ..support.serializers import Bytes, Plain, Serde, Short, Texts

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

NOON = datetime.datetime(2000, 1, 31, 12, 0, 0, 250, tzinfo=datetime.UTC)


class Serializing(LocMemCache):
    """The OPTIONS of Redis and memcached for a serializer."""

    def __init__(self, name, params):
        super().__init__(name, params)
        self.serializer = params["OPTIONS"]["serializer"]()

    def round_trip(self, value):
        return self.serializer.loads(self.serializer.dumps(value))

    def add(self, key, value, *args, **kwargs):
        return super().add(key, self.round_trip(value), *args, **kwargs)

    def set(self, key, value, *args, **kwargs):
        super().set(key, self.round_trip(value), *args, **kwargs)


def using(serializer):
    config = settings.CACHES["default"]
    if "Redis" in config["BACKEND"]:
        config = config | {"OPTIONS": {"serializer": serializer}}
    elif "PyMemcache" in config["BACKEND"]:
        config = config | {"OPTIONS": {"serde": Serde(serializer())}}
    else:
        config = config | {
            "BACKEND": f"{__name__}.Serializing",
            "LOCATION": uuid.uuid4().hex,
            "OPTIONS": {"serializer": serializer, "MAX_ENTRIES": 1000},
        }
    return override_settings(CACHES={"default": config})


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    monkeypatch.setattr(clients, "by_alias", clients.Clients())


def found(**columns):
    """Compare a row that should be cached; return the number of queries."""
    Survivor.objects.create(name="a", **columns)
    for _ in range(2):
        Survivor.objects.get_or_create(name="a")
    with CaptureQueriesContext(connection) as queries:
        parcel, _ = Survivor.objects.get_or_create(name="a")
    wanted = Survivor._base_manager.get(name="a")
    for field in Survivor._meta.concrete_fields:
        value, right = (getattr(each, field.attname) for each in (parcel, wanted))
        if type(right) is memoryview:
            value, right = bytes(value), bytes(right)
        assert type(value) is type(right), field
        assert value == right, field
    return len(queries)


SURVIVING = [
    {"flag": True},
    {"number": 2**60},
    {"ratio": 0.1},
    {"ratio": -0.0},
    {"data": {"a": [1, 0.1, None, {"b": "c"}]}},
    {"data": [["a"], []]},
]
LOST = [
    {"price": Decimal("1.50")},
    {"moment": NOON},
    {"day": NOON.date()},
    {"hour": NOON.time()},
    {"span": datetime.timedelta(microseconds=1)},
    {"code": uuid.UUID(int=1)},
    {"blob": b"\x80"},
]


@pytest.mark.parametrize("serializer", [Plain, Texts, Short, Bytes])
@pytest.mark.parametrize("columns", SURVIVING + LOST)
def test_row_is_never_another(serializer, columns):
    """The database's row is right, column for column, and type for type."""
    survives = serializer is not Bytes and columns in SURVIVING
    if serializer is Short:
        survives = survives and "0.1" not in str(columns)
    with using(serializer):
        assert found(**columns) == (0 if survives else 1)


@pytest.mark.parametrize("serializer", [Plain, Texts, Short])
def test_row_whose_values_survive_is_a_hit(serializer):
    with using(serializer):
        paper = warm()
        for number, write in enumerate([save, update, save_in_transaction]):
            Paper.objects.update(pages=number + 5)
            pages()
            assert pages() == (number + 5, 0)
            write(paper)
            assert pages()[0] == 2
            pages()
            assert pages() == (2, 0)


def test_rows_of_a_batch_are_hits():
    with using(Plain):
        for _ in range(3):
            with CaptureQueriesContext(connection) as queries:
                Paper.objects.bulk_get_or_create(
                    [{"title": "a"}, {"title": "b"}], unique_fields=["title"]
                )
        assert len(queries) == 0


@pytest.mark.parametrize(
    ("values", "is_plain"),
    [
        (("a", 1, True, None), True),
        ((0.1, math.inf), True),
        (({"a": [1.5]}, ["b"]), True),
        ((b"a",), True),
        ((("a",),), False),
        (({1: "a"},), False),
        ((Decimal(1),), False),
        ((NOON,), False),
        ((bytearray(b"a"),), False),
    ],
)
def test_mark(values, is_plain):
    payload = ("epoch", "version"), "fingerprint", values, mark(values)
    assert len(payload) == PARTS
    as_lists = [list(payload[0]), "fingerprint", list(values), payload[3]]
    assert revive(as_lists) == (payload if is_plain else as_lists)
    assert len(mark((0.1,) * 1000)) < 100


@pytest.mark.parametrize(
    "entry",
    [
        [],
        [1],
        ["stamp", "fingerprint", [], ""],
        [["a", "b"], "fingerprint", "values", ""],
        [["a", "b"], "fingerprint", [1.5], ""],
        [["a", "b"], "fingerprint", [1], [2]],
        [["a", "b"], "fingerprint", ["2000-01-31"], "*"],
        [None, None, None, None],
    ],
)
def test_list_that_is_no_payload(entry):
    assert revive(entry) == entry


@pytest.mark.parametrize(
    ("serializer", "lost"),
    [
        (Plain, "blob, code, day, hour, moment, price, span"),
        (Texts, "blob, code, day, hour, moment, price, span"),
        (Short, "blob, code, day, hour, moment, price, ratio, span"),
        (Bytes, "a text"),
    ],
)
def test_check_and_explain_say_what_is_lost(serializer, lost):
    with using(serializer):
        messages = list(checks.check_kept(Survivor))
        if "Serializing" in settings.CACHES["default"]["BACKEND"]:
            # The package has no check for this backend, and reports nothing.
            assert messages == []
            return
        [message] = messages
        name = f"{serializer.__module__}.{serializer.__qualname__}"
        if "PyMemcache" in settings.CACHES["default"]["BACKEND"]:
            name = "tests.support.serializers.Serde"
        what = f"has the serializer {name}, which does not return the same values for "
        assert message.id == "getorcreateplus.W022"
        assert message.msg == (
            "Rows of tests.Survivor are never served from the cache 'default': it "
            f"{what}{lost}."
        )
        Survivor.objects.create(name="a", moment=NOON)
        Survivor.objects.get_or_create(name="a")
        explained = explain(Survivor.objects, name="a")
        assert explained.why == f"The cache 'default' {what}{lost}."
        assert explained.remedy.endswith("See the system check getorcreateplus.W022.")
        assert list(checks.check_kept(Paper)) == [] or serializer is Bytes


class Keeping(LocMemCache):
    """
    It keeps the objects themselves, like LRUObjectCache and other backends.
    """

    kept = {}

    def add(self, key, value, *args, **kwargs):
        is_new = key not in self.kept
        self.kept.setdefault(key, value)
        return is_new

    def set(self, key, value, *args, **kwargs):
        self.kept[key] = value

    def get(self, key, default=None, version=None):
        return self.kept.get(key, default)

    def delete(self, key, version=None):
        return self.kept.pop(key, None) is not None


def one(name):
    return Survivor.objects.get_or_create(name=name)[0]


def one_of_a_batch(name):
    [(obj, _)] = Survivor.objects.bulk_get_or_create([{"name": name}])
    return obj


@pytest.mark.parametrize("read", [one, one_of_a_batch])
def test_object_of_a_hit_is_not_shared(read, monkeypatch):
    monkeypatch.setattr(Keeping, "kept", {})
    config = {"BACKEND": f"{__name__}.Keeping", "LOCATION": uuid.uuid4().hex}
    with override_settings(CACHES={"default": config}):
        Survivor.objects.get_or_create(name="a", defaults={"data": {"a": [1]}})
        for _ in range(3):
            with CaptureQueriesContext(connection) as queries:
                obj = read("a")
            assert obj.data == {"a": [1]}
            obj.data["a"].append(2)
        assert len(queries) == 0
