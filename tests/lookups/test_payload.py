"""How a row is stored in the cache, and which entries are still valid."""

import datetime
import pickle
import uuid
from decimal import Decimal

import django
import pytest
from django.db import connection, models
from django.db.models.signals import post_init
from django.test.utils import isolate_apps

from getorcreateplus.lookups import rows as payload
from getorcreateplus.lookups.rows import Layout, layout, private_copy
from getorcreateplus.payload import View

from ..models import (
    Colour,
    Composite,
    Converted,
    DatabaseDefault,
    Generated,
    Monitored,
    Ordinary,
    ProxyOrdinary,
    Rare,
    Size,
    SpecialOrdinary,
    Stamped,
    Stripped,
    Target,
)
from ..support.selected_rows import make_instance, select


def mark(model):
    return layout(model).fingerprint(connection)


def through_cache(values):
    return pickle.loads(pickle.dumps(values, pickle.HIGHEST_PROTOCOL))


def state(obj):
    """Return the values of an instance, in a form that has to be equal."""
    state = {
        name: (type(value), bytes(value) if type(value) is memoryview else repr(value))
        for name, value in vars(obj).items()
        if name not in ("_state", "_instance_initialized")
    }
    return state, obj._state.adding, obj._state.db, dict(obj._state.fields_cache)


ROWS = [
    (
        Ordinary,
        {
            "big": 2**62,
            "boolean": True,
            "char": Colour.RED,
            "date": "2024-07-01",
            "datetime": datetime.datetime(
                2024, 7, 1, 12, 30, 15, 123456, tzinfo=datetime.UTC
            ),
            "decimal": Decimal("1.5"),
            "duration": datetime.timedelta(days=-3, microseconds=1),
            "file": "name.txt",
            "integer": Size.BIG,
            "text": "emoji 😀",
            "time": datetime.time(1, 2, 3, 4),
            "uuid": uuid.UUID(int=5),
        },
    ),
    (Ordinary, {}),
    (Rare, {}),
    (
        Rare,
        {
            "binary": b"\x00\xff",
            "float": 0.1 + 0.2,
            "ip": "::FFFF:1.2.3.4",
            "json": {"a": [1, None, {"b": "ä"}]},
        },
    ),
    (Rare, {"binary": b"x" * 1_000_000}),
    (Converted, {"name": "abc", "rounded": "ABC"}),
    (Converted, {}),
    (DatabaseDefault, {"name": "a"}),
    (Generated, {"name": "a"}),
    (Stamped, {}),
    (SpecialOrdinary, {"char": "a", "rank": 5}),
    (Stripped, {"name": "abc"}),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("model", "kwargs"), ROWS)
def test_row_through_the_cache_is_as_a_select_gives_it(model, kwargs):
    model._base_manager.create(**kwargs)
    obj, values = select(model)
    again = make_instance(model, through_cache(values))

    assert type(again) is model
    assert state(again) == state(obj)
    assert layout(model).matches({model._meta.pk.attname: obj.pk}, values)


@pytest.mark.django_db
def test_row_of_a_composite_key_through_the_cache():
    Composite.objects.create(target=Target.objects.create(), number=5)
    obj, values = select(Composite)

    assert state(make_instance(Composite, through_cache(values))) == state(obj)


@pytest.mark.django_db
def test_row_through_the_cache_has_its_trackers():
    Monitored._base_manager.create(name="a", body="text")
    obj, values = select(Monitored)
    again = make_instance(Monitored, through_cache(values))
    assert again.body.content == obj.body.content == "text"
    assert again._monitor_changed == "a"
    assert not again.tracker.has_changed("name")

    changed = again.changed
    again.name = "b"
    assert again.tracker.previous("name") == "a"
    again.save()
    assert again.changed > changed


@pytest.mark.django_db
def test_row_is_loaded_by_the_class_that_asks():
    Ordinary._base_manager.create(char="a")
    _, values = select(Ordinary)
    again = make_instance(ProxyOrdinary, values)

    assert type(again) is ProxyOrdinary
    assert mark(Ordinary) == mark(ProxyOrdinary)


@pytest.mark.django_db
def test_receivers_and_methods_see_what_a_select_gives(monkeypatch):
    class Seen(list):
        def from_db(self, db, field_names, values):
            self.append((db, field_names, list(values)))

    seen = Seen()
    original = Target.from_db.__func__

    def from_db(cls, db, field_names, values, **kwargs):
        seen.from_db(db, field_names, values)
        return original(cls, db, field_names, values, **kwargs)

    def initialise(self, *args):
        models.Model.__init__(self, *args)
        self.code += "!"

    def receive(instance, **kwargs):
        instance.received = instance.code

    monkeypatch.setattr(Target, "from_db", classmethod(from_db))
    monkeypatch.setattr(Target, "__init__", initialise)
    post_init.connect(receive, sender=Target)
    try:
        Target(None, "a").save()
        obj, values = select(Target)
        again = make_instance(Target, through_cache(values))
    finally:
        post_init.disconnect(receive, sender=Target)

    assert seen[0] == seen[1] == ("default", ["id", "code"], [obj.pk, "a!"])
    assert state(again) == state(obj)
    assert (again.code, again.received) == ("a!!", "a!")


def test_memoryview_is_one_again():
    """Like the binary columns of psycopg2."""
    values = private_copy([5, memoryview(b"ab"), None, None, None])

    assert through_cache(values) == (5, b"ab", None, None, None)
    assert layout(Rare).matches({"binary": b"ab"}, values)
    again = make_instance(Rare, through_cache(values))
    assert type(again.binary) is memoryview
    assert bytes(again.binary) == b"ab"
    assert type(make_instance(Rare, (5, b"ab", None, None, None)).binary) is bytes


def test_frozen_values_do_not_change_with_the_instance():
    json = {"a": [1]}
    values = private_copy([5, json])
    json["a"].append(2)

    assert values == (5, {"a": [1]})


def test_what_cannot_be_pickled_is_not_frozen():
    assert private_copy([5, lambda: None]) is None


# The comparison of a hit with its lookup


def row(**values):
    return tuple(values.get(name) for name in layout(Ordinary).attnames)


@pytest.mark.parametrize(
    ("lookup", "is_match"),
    [
        ({}, True),
        ({"char": "a"}, True),
        ({"char": "A"}, False),
        ({"char": "a", "integer": 1}, True),
        ({"char": "a", "integer": 2}, False),
        ({"integer": True}, False),
        ({"integer": "1"}, False),
        ({"text": None}, True),
        ({"char": None}, False),
        ({"decimal": Decimal("1.0")}, True),
        ({"float": 1.0}, None),
    ],
)
def test_match(lookup, is_match):
    values = row(id=5, char="a", integer=1, decimal=Decimal("1.00"))

    if is_match is None:  # a column that the model does not have
        with pytest.raises(KeyError):
            layout(Ordinary).matches(lookup, values)
    else:
        assert layout(Ordinary).matches(lookup, values) is is_match


@pytest.mark.parametrize("values", [None, 5, "text", [], (), (1,), [1] * 25])
def test_garbage_does_not_match(values):
    assert not layout(Ordinary).matches({}, values)


def test_value_without_a_canonical_form_does_not_match():
    values = row(id=5, decimal=Decimal("NaN"))

    assert not layout(Ordinary).matches({"decimal": Decimal("NaN")}, values)


# Other releases


@isolate_apps("tests")
def fingerprint(bases=(models.Model,), label="Release", **fields):
    meta = type("Meta", (), {"app_label": "tests"})
    model = type(label, bases, {"__module__": __name__, "Meta": meta, **fields})
    return Layout(model).fingerprint(connection)


class Char(models.CharField):
    pass


def test_fingerprint_of_the_same_fields_is_the_same():
    assert fingerprint(a=models.CharField()) == fingerprint(a=models.CharField())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"b": models.CharField()},
        {"a": models.CharField(), "b": models.CharField()},
        {"a": models.TextField()},
        {"a": Char()},
        {"a": models.CharField(db_column="b")},
        {"a": models.CharField(), "label": "Other"},
    ],
)
def test_fingerprint_changes_with_the_fields(fields):
    assert fingerprint(**fields) != fingerprint(a=models.CharField())


def test_fingerprint_changes_with_the_digits_of_a_decimal():
    two, three = (
        fingerprint(a=models.DecimalField(max_digits=8, decimal_places=places))
        for places in (2, 3)
    )

    assert two != three


def test_fingerprint_changes_with_what_changes_values(settings, monkeypatch):
    first = mark(Target)
    assert mark(Target) == first

    settings.USE_TZ = False
    naive = mark(Target)
    settings.USE_TZ = True
    monkeypatch.setitem(vars(connection), "timezone_name", "Europe/Berlin")
    berlin = mark(Target)
    monkeypatch.undo()
    monkeypatch.setattr(django, "VERSION", (9, 9, 9, "final", 0))
    payload.layout.cache_clear()
    django_9 = mark(Target)
    monkeypatch.undo()
    payload.layout.cache_clear()

    assert len({first, naive, berlin, django_9}) == 4
    assert mark(Target) == first


def test_binary_values_are_pickled_as_by_release_1_0():
    """Releases that share a cache read each other's rows."""
    [value] = private_copy([memoryview(b"a")])
    pickled = pickle.dumps(value, protocol=0)
    assert b"getorcreateplus.payload\nView\n" in pickled
    assert type(pickle.loads(pickled)) is type(value) is View
