"""Payloads of another release, and of a process with other settings."""

import collections
import dataclasses
import datetime
import enum
import functools
import os
import subprocess
import sys
import types
import uuid
import zoneinfo
from pathlib import Path, PurePosixPath

import pytest
from django.core.validators import RegexValidator
from django.db import connection, models
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.utils.deconstruct import deconstructible
from django.utils.functional import lazystr
from django.utils.translation import gettext_lazy, override

import getorcreateplus
from getorcreateplus.lookups import rows as payload
from getorcreateplus.lookups.fingerprints import describe

from ..models import Ship


class Cipher(models.CharField):
    """A field whose argument changes its conversion of a column."""

    def __init__(self, *args, key=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.key = key

    def deconstruct(self):
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, kwargs | {"key": self.key}


class Broken(models.CharField):
    def deconstruct(self):
        raise TypeError


class Versioned(models.CharField):
    cache_version = 2


@deconstructible
class Secret:
    def __init__(self, text):
        self.text = text


@dataclasses.dataclass(frozen=True)
class Scale:
    factor: int


class Slotted:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor


class Knot:
    """It contains itself twice, so its text would grow without end."""

    def __init__(self):
        self.one = self.other = self


class Odd:
    """Neither its repr() nor its deconstruct() can be used."""

    def deconstruct(self):
        raise ValueError


class Suit(enum.Enum):
    HEARTS = object()


def palette(**colours):
    """Return an enum as two releases of a module may define it."""
    return enum.Enum("Palette", colours, module=__name__)


class Labelled(models.CharField):
    """A field that converts a column to the texts of its choices."""

    def from_db_value(self, value, expression, connection):
        return f"{self.verbose_name} {dict(self.choices)[value]}"


def double(value):
    return value * 2


@isolate_apps("tests")
def mark(field=None, bases=(models.Model,), table="release", **attributes):
    meta = type("Meta", (), {"app_label": "tests", "db_table": table})
    attributes |= {"__module__": __name__, "Meta": meta}
    if field is not None:
        attributes["a"] = field
    model = type("Release", bases, attributes)
    return payload.Layout(model).fingerprint(connection)


def with_version(field, version):
    field.cache_version = version
    return field


VALUES = [
    1,
    True,
    "1",
    b"1",
    None,
    (1, 2),
    [1, 2],
    {1, 2},
    frozenset({1, 2}),
    {"a": 1},
    {"a": 2},
    {"a": {"b": [2]}},
    double,
    Cipher,
    functools.partial(double, 1),
    functools.partial(double, 2),
    Secret("a"),
    Secret("b"),
    Secret,
    Secret("a").deconstruct,
    models.F("a"),
    models.F("b"),
    models.CharField(max_length=1),
    models.CharField(max_length=2),
    gettext_lazy("Monday"),
    gettext_lazy("Tuesday"),
    datetime.date(1970, 1, 1),
    datetime.date(2000, 1, 1),
    datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(1970, 1, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo")),
    datetime.time(1),
    uuid.NAMESPACE_DNS,
    uuid.NAMESPACE_URL,
    zoneinfo.ZoneInfo("Asia/Tokyo"),
    zoneinfo.ZoneInfo("Europe/Berlin"),
    datetime.UTC,
    datetime.timezone(datetime.timedelta(hours=2)),
    range(10),
    range(100),
    PurePosixPath("/a"),
    PurePosixPath("/b"),
    types.MappingProxyType({1: "a"}),
    types.MappingProxyType({1: "b"}),
    collections.deque([1]),
    collections.deque([2]),
    Scale(1),
    Scale(100),
    Slotted(1),
    Slotted(100),
    palette(RED=1, BLUE=2),
    palette(RED=2, BLUE=1),
]


def test_each_argument_has_a_fingerprint_of_its_own():
    found = [mark(Cipher(key=value)) for value in VALUES]
    assert len(set(found)) == len(VALUES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: 1, lambda: 2),
        (object(), object()),
        (Odd(), Odd()),
        (Suit.HEARTS, Suit.HEARTS),
        ("a", lazystr("a").__str__()),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Secret(object()), Secret(object())),
        (Knot(), Knot()),
        (models.Manager(), models.Manager()),
    ],
)
def test_values_without_a_stable_text_are_described_by_their_type(one, other):
    assert (
        describe(one).partition(".<locals>")[0]
        == (describe(other).partition(".<locals>")[0])
    )
    assert " at 0x" not in describe(one)


def test_value_that_holds_itself():
    value = []
    value.append(value)
    assert describe(value) == describe([value])


def test_default_that_was_made_when_the_module_was_imported():
    for made in (uuid.uuid4, datetime.datetime.now):
        assert mark(Cipher(default=made())) == mark(Cipher(default=made()))
        assert mark(Cipher(default=[made()])) == mark(Cipher(default=[made()]))
        assert mark(Cipher(key=made())) != mark(Cipher(key=made()))


@pytest.mark.parametrize(
    "arguments",
    [{"verbose_name": "new"}, {"choices": [("a", "new")]}, {"help_text": "new"}],
)
def test_texts_count_where_the_field_converts(arguments):
    before = {"verbose_name": "old", "choices": [("a", "old")], "help_text": "old"}
    assert mark(Labelled(**before)) == mark(Labelled(**before))
    assert mark(Labelled(**before | arguments)) != mark(Labelled(**before))
    assert mark(Cipher(**before | arguments)) == mark(Cipher(**before))


def test_language_does_not_count():
    value = gettext_lazy("Monday")
    texts = set()
    for language in ("en", "de", "fr"):
        with override(language):
            texts.add(describe(value))
    assert len(texts) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"choices": [("a", "A")]},
        {"choices": lambda: [("a", "A")]},
        {"choices": enum.Enum("Choice", {"A": "a"})},
        {"verbose_name": "name"},
        {"help_text": gettext_lazy("Monday")},
        {"validators": [RegexValidator("a")]},
        {"blank": True},
    ],
)
def test_argument_that_changes_no_value(arguments):
    if isinstance(arguments.get("choices"), type):
        arguments = {"choices": [(each, each.value) for each in arguments["choices"]]}
    assert mark(models.CharField(**arguments)) == mark(models.CharField())


@pytest.mark.parametrize(
    "field",
    [
        models.CharField(max_length=5),
        models.CharField(default="a"),
        models.CharField(db_default="a"),
        with_version(models.CharField(), 1),
        with_version(models.CharField(), 2),
        Versioned(),
        Broken(),
    ],
)
def test_argument_that_may_change_values(field):
    assert mark(field) != mark(models.CharField())


def test_versions():
    class Base:
        cache_version = 3

    found = [
        mark(models.CharField()),
        mark(models.CharField(), cache_version=1),
        mark(models.CharField(), cache_version="1"),
        mark(models.CharField(), bases=(Base, models.Model)),
        mark(with_version(models.CharField(), 1)),
        mark(with_version(models.CharField(), 2)),
    ]
    assert len(set(found)) == len(found)


def test_table():
    assert mark(table="release_2") != mark()


def child_of(**attributes):
    meta = type("Meta", (), {"app_label": "tests"})
    shared = {"__module__": __name__, "Meta": meta}
    with isolate_apps("tests"):
        parent = type("Parent", (models.Model,), shared | attributes)
        child = type("Child", (parent,), {**shared, "cache_version": 1})
        return payload.Layout(child).fingerprint(connection)


def test_version_of_a_parent_counts_for_its_children():
    assert child_of(cache_version=2) != child_of(cache_version=3)


def referring_to(field):
    meta = type("Meta", (), {"app_label": "tests"})
    shared = {"__module__": __name__, "Meta": meta}
    with isolate_apps("tests"):
        target = type("Target", (models.Model,), shared | {"code": field})
        key = models.ForeignKey(target, models.CASCADE)
        model = type("Referring", (models.Model,), shared | {"target": key})
        return payload.Layout(model).fingerprint(connection)


def test_foreign_key_converts_as_the_field_that_it_refers_to():
    one, two = (
        referring_to(Cipher(primary_key=True, max_length=9, key=key)) for key in "ab"
    )
    assert one != two
    assert one == referring_to(Cipher(primary_key=True, max_length=9, key="a"))


@pytest.mark.django_db
@pytest.mark.parametrize("is_field", [False, True])
def test_row_of_an_older_version_is_not_served(is_field, monkeypatch):
    def queries():
        with CaptureQueriesContext(connection) as found:
            Ship.objects.get_or_create(name="a")
        return len(found)

    Ship.objects.create(name="a")
    queries()
    assert queries() == 0
    owner = Ship._meta.get_field("name") if is_field else Ship
    monkeypatch.setattr(owner, "cache_version", 2, raising=False)
    payload.layout.cache_clear()
    assert [queries(), queries()] == [1, 0]
    monkeypatch.undo()
    payload.layout.cache_clear()


# Processes

PROGRAM = """
import os, sys, functools
import django
from django.conf import settings

folder, role = sys.argv[1:]
def database(name, **options):
    path = os.path.join(folder, name)
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": path} | options
others = {
    "alone": {},
    "web": {"analytics": database("b", TIME_ZONE="Asia/Tokyo")},
    "driver": {"legacy": {"ENGINE": "no_such_driver", "NAME": "x"}},
    "tenant": {},
}[role]
settings.configure(
    LANGUAGE_CODE="de" if role == "web" else "en",
    DATABASES={"default": database("a"), **others},
    CACHES={"default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": os.path.join(folder, "cache"),
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    }},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.contenttypes"],
)
django.setup()
from django.db import connection, connections, models
from django.test.utils import CaptureQueriesContext
from django.utils.translation import gettext_lazy
from getorcreateplus import CachedManager, invalidate

if role == "tenant":  # added at run time, without Django's defaults
    connections.databases["tenant"] = {"ENGINE": "django.db.backends.sqlite3"}

class Odd(models.CharField):
    def __init__(self, *args, made=None, **kwargs):
        super().__init__(*args, **kwargs)

    def deconstruct(self):
        name, path, args, kwargs = super().deconstruct()
        kwargs["made"] = [object(), {"a", "b", "c"}, lambda: 1, gettext_lazy("Monday"),
                          functools.partial(print, object())]
        return name, path, args, kwargs

class Tag(models.Model):
    name = Odd("name", max_length=9, unique=True, default=lambda: "a",
               choices=lambda: [(str(os.getpid()), gettext_lazy("Monday"))])
    time = models.DateTimeField(null=True)
    objects = CachedManager()
    plain = models.Manager()
    class Meta:
        app_label = "contenttypes"

if not connection.introspection.table_names():
    with connection.schema_editor() as editor:
        editor.create_model(Tag)
    Tag.plain.create(name="a")
with CaptureQueriesContext(connection) as queries:
    Tag.objects.get_or_create(name="a")
count = len(queries)
if role in ("driver", "tenant"):
    invalidate(Tag)
    invalidate(Tag(pk=1))
    Tag.objects.get_or_create(name="a")
    from getorcreateplus.checks import check_caches, check_models
    assert check_caches() + check_models() == []
print(count)
"""


def run(folder, role, seed):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), role],
        env={
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(getorcreateplus.__file__).parent.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_processes_with_other_databases_share_their_rows(tmp_path):
    roles = ["alone", "web", "driver", "tenant", "alone"]
    counts = [run(tmp_path, role, str(seed)) for seed, role in enumerate(roles, 1)]
    assert counts == [1, 0, 0, 0, 0]
