"""The UPDATE of many rows stores what Django's UPDATE of one row does."""

import datetime
import uuid
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from ..models import (
    KeyedByName,
    Ordinary,
    OtherTarget,
    Rare,
    Stamped,
    Survivor,
    Target,
    Text,
    TextTarget,
)
from .test_statements import TEXTS

pytestmark = pytest.mark.django_db

AT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)
VALUES = {
    Ordinary: {
        "big": [2**40, -(2**63), 1],
        "boolean": [True, False],
        "char": [text for text in TEXTS if len(text) < 11],
        "column": [5, -5],
        "date": [AT.date(), datetime.date(1, 1, 1)],
        "datetime": [AT, AT.replace(microsecond=0)],
        "decimal": [Decimal(2), Decimal("-0.01"), 3, "4.5"],
        "duration": [datetime.timedelta(days=1, microseconds=5)],
        "email": ["a@example.com"],
        "file": ["files/a"],
        "integer": ["7", 2**31 - 1, 0],
        "number": [2, -1.5e300, 0.1],
        "positive": [3],
        "slug": ["slug"],
        "small": [4, -4],
        "text": TEXTS,
        "time": [datetime.time(1, 2, 3, 4)],
        "uuid": [uuid.UUID(int=7), str(uuid.UUID(int=8))],
        "lower": ["UPPER"],
    },
    Survivor: {
        "flag": [True],
        "ratio": [0.5],
        "moment": [AT],
        "span": [datetime.timedelta(-1)],
        "data": [{"a": [1, None, "é'\\"]}, [], "text", 7, None],
        "blob": [b"\x00\xff'", b""],
    },
    Rare: {
        "binary": [b"\x00\\\xff", memoryview(b"a")],
        "float": [1e-300, 7],
        "ip": ["192.168.0.1", "2001:db8::1"],
        "json": [{"a": 1}, [None, True], "text", 1.5],
    },
}
CASES = [(model, name) for model, values in VALUES.items() for name in values]


def new_rows(model, number):
    names = [{"name": str(n)} if model is Survivor else {} for n in range(number)]
    return model._base_manager.bulk_create(model(**each) for each in names)


def stored(model, pks, name):
    rows = model._base_manager.in_bulk(pks)
    values = [getattr(rows[pk], name) for pk in pks]
    return [(type(v), bytes(v) if type(v) is memoryview else v) for v in values]


@pytest.mark.slow
@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize(("model", "name"), CASES)
def test_value(model, name, with_null):
    values = VALUES[model][name] * 2
    if with_null and name != "file":  # save() stores "" for it, and update() NULL
        values.append(None)
    pks = [obj.pk for obj in new_rows(model, 2 * len(values))]
    pks, twins = pks[::2], pks[1::2]
    for pk, value in zip(twins, values, strict=True):
        model._base_manager.filter(pk=pk).update(**{name: value})
    found = model.objects.bulk_update_or_create(
        ({"id": pk, name: value} for pk, value in zip(pks, values, strict=True)), ["id"]
    )
    assert not any(created for _, created in found)
    assert stored(model, pks, name) == stored(model, twins, name)


def test_nothing_but_null():
    objs = new_rows(Ordinary, 3)
    Ordinary._base_manager.update(big=1, text="a", datetime=AT, uuid=uuid.UUID(int=1))
    rows = [
        {"id": o.pk, "big": None, "text": None, "datetime": None, "uuid": None}
        for o in objs
    ]
    Ordinary.objects.bulk_update_or_create(rows, ["id"])
    for obj in Ordinary._base_manager.all():
        assert obj.big is obj.text is obj.datetime is obj.uuid is None


def test_relations():
    targets = [Target.objects.create(code=code) for code in "ab"]
    other, text = (
        OtherTarget.objects.create(),
        TextTarget.objects.create(text=Text.objects.create(name="x")),
    )
    objs = new_rows(Ordinary, 2)
    rows = [
        {
            "id": obj.pk,
            "one": target,
            "target_id": target.pk,
            "by_code": target,
            "other": other,
            "of_text": text,
        }
        for obj, target in zip(objs, targets, strict=True)
    ]
    found = Ordinary.objects.bulk_update_or_create(rows, ["id"])
    for (obj, _), target in zip(found, targets, strict=True):
        fresh = Ordinary._base_manager.get(pk=obj.pk)
        for each in obj, fresh:
            assert each.one == each.target == each.by_code == target
            assert (each.by_code_id, each.of_text_id) == (target.code, "x")
        assert obj.one is target


def test_fields_that_set_themselves():
    objs = new_rows(Stamped, 2)
    old = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    Stamped._base_manager.update(
        saved=old, day=old.date(), at=old.time(), modified=old, created=old
    )
    Stamped.objects.bulk_update_or_create(
        ({"id": obj.pk, "status": "published"} for obj in objs), ["id"]
    )
    for obj in Stamped._base_manager.all():
        assert (obj.created, obj.day) == (old, old.date())
        assert obj.saved > old
        assert obj.modified > old
        assert obj.at != old.time()


@pytest.mark.parametrize("text", TEXTS)
def test_text_key(text):
    KeyedByName._base_manager.create(name=text)
    rows = [{"name": name, "size": 3} for name in (text, "other")]
    found = KeyedByName.objects.bulk_update_or_create(rows, ["name"])
    assert [created for _, created in found] == [False, True]
    assert KeyedByName._base_manager.get(name=text).size == 3


@pytest.mark.database("postgresql")
def test_postgresql_gets_arrays():
    """For any number of rows, and for each type of parameter."""
    objs = new_rows(Ordinary, 3)
    rows = [
        {"id": o.pk, "big": 1, "text": "a", "datetime": AT, "decimal": 1, "date": None}
        for o in objs
    ]
    with CaptureQueriesContext(connection) as made:
        Ordinary.objects.bulk_update_or_create(rows, ["id"])
    [update] = [each["sql"] for each in made if each["sql"].startswith("UPDATE")]
    assert "UNNEST(" in update
    assert "VALUES" not in update
