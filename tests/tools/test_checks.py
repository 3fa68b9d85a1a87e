"""
System checks: each one reports a model that has the fault, and no other model.
"""

import re
import subprocess
import sys

import pytest
from django.conf import settings
from django.core import checks as django_checks
from django.core.checks import Error
from django.core.checks.registry import registry
from django.db import connections, models
from django.test import override_settings
from django.test.utils import isolate_apps

from getorcreateplus import (
    AlwaysManager,
    AlwaysQuerySet,
    CachedManager,
    CachedQuerySet,
    NonAtomicManager,
    PlusManager,
    checks,
)
from getorcreateplus.conf import conf

from ..models import Paper
from ..support.repository import ROOT

LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
DUMMY = "django.core.cache.backends.dummy.DummyCache"
REDIS = "django.core.cache.backends.redis.RedisCache"


def caches(**aliases):
    return override_settings(
        CACHES={"default": {"BACKEND": REDIS, "LOCATION": "redis://nobody"}} | aliases
    )


def model(attributes=None, **meta):
    """Return a model that is in no registry of apps."""
    attributes = {"name": models.CharField(max_length=9)} | (attributes or {})
    attributes["__module__"] = __name__
    attributes["Meta"] = type("Meta", (), {"app_label": "tests"} | meta)
    with isolate_apps("tests"):
        return type("Book", (models.Model,), attributes)


def child_of(parent):
    """Return a model of two tables, with the managers of its parent."""
    with isolate_apps("tests"):
        return type("Volume", (parent,), {"__module__": __name__})


def with_manager(manager, **attributes):
    return model(attributes={"objects": manager, **attributes})


class NoCache(CachedQuerySet):
    object_cache_alias = "nowhere"


class NoKeys(CachedQuerySet):
    key_cache_alias = "nothing"


@pytest.mark.parametrize(
    ("cls", "attribute", "alias"),
    [
        (NoCache, "object_cache_alias", "nowhere"),
        (NoKeys, "key_cache_alias", "nothing"),
    ],
)
@pytest.mark.parametrize("inherited", [False, True])
def test_cache_that_is_not_there(cls, attribute, alias, inherited):
    book = with_manager(CachedManager(), other=cls.as_manager())
    if inherited:
        book = child_of(book)
    assert list(checks.check_aliases(book)) == [
        Error(
            f"{cls.__name__}.{attribute} is {alias!r}, which is not in CACHES.",
            hint="Add the alias to CACHES, or remove the attribute.",
            obj=book,
            id="getorcreateplus.E001",
        )
    ]
    assert list(checks.check_aliases(with_manager(CachedManager()))) == []


def test_models_of_one_name():
    first = with_manager(CachedManager())
    second = model({"objects": PlusManager()}, app_label="other")
    known = [first, second]
    with caches(book={"BACKEND": REDIS, "LOCATION": "redis://nobody/1"}):
        assert list(checks.check_shared_alias(known)) == [
            django_checks.Warning(
                "The models other.Book, tests.Book store their rows in the cache "
                "'book', with their primary keys as the cache keys: they overwrite "
                "each other's rows.",
                hint="Set an object_cache_alias for all but one of them.",
                obj=first,
                id="getorcreateplus.W002",
            )
        ]
        assert list(checks.check_shared_alias([first])) == []
    with caches():
        assert list(checks.check_shared_alias(known)) == []


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({}, True),
        ({"LOCATION": "redis://nobody/1"}, False),
        ({"KEY_PREFIX": "book"}, False),
        ({"VERSION": 2}, False),
        ({"TIMEOUT": 1}, True),
    ],
)
def test_two_aliases_of_one_store(options, same):
    book = with_manager(CachedManager())
    with caches(book={"BACKEND": REDIS, "LOCATION": "redis://nobody"} | options):
        expected = django_checks.Warning(
            "The cache 'book', where primary keys are the cache keys of rows, is the "
            "same store as 'default', and has the same keys.",
            hint="Give one of them another LOCATION or KEY_PREFIX.",
            obj=book,
            id="getorcreateplus.W003",
        )
        assert list(checks.check_shared_store([book])) == [expected] * same


def test_cache_that_keeps_nothing():
    book = with_manager(CachedManager())
    with caches(default={"BACKEND": DUMMY}):
        assert list(checks.check_dummy(book)) == [
            django_checks.Warning(
                "Rows of tests.Book are cached in 'default', a DummyCache: it stores "
                "nothing, and each call queries the database.",
                hint="Use another BACKEND, or a manager that does not cache.",
                obj=book,
                id="getorcreateplus.W004",
            )
        ]
        assert list(checks.check_dummy(with_manager(NonAtomicManager()))) == []
    with caches():
        assert list(checks.check_dummy(book)) == []


@pytest.mark.parametrize("debug", [False, True])
def test_cache_of_each_process(debug):
    book = with_manager(CachedManager())
    with caches(default={"BACKEND": LOCMEM}), override_settings(DEBUG=debug):
        expected = django_checks.Warning(
            "Rows of tests.Book are cached in 'default', a LocMemCache: each process "
            "sees only its own writes.",
            hint="Use a cache that all processes share, such as Redis.",
            obj=book,
            id="getorcreateplus.W005",
        )
        assert list(checks.check_locmem(book)) == [expected] * (not debug)


class ForEver(CachedQuerySet):
    cache_timeout = None


class AnHour(CachedQuerySet):
    cache_timeout = 3600


@pytest.mark.parametrize(
    ("timeout", "cls", "expires"),
    [
        (None, CachedQuerySet, False),
        (None, AnHour, True),
        (60, ForEver, False),
        (60, CachedQuerySet, True),
    ],
)
def test_rows_that_never_expire(timeout, cls, expires):
    book = with_manager(cls.as_manager())
    with caches(default={"BACKEND": REDIS, "TIMEOUT": timeout}):
        expected = django_checks.Warning(
            "Rows of tests.Book never expire in the cache 'default': a row that "
            "another program writes stays outdated forever.",
            hint="Set a cache_timeout or a TIMEOUT. Or call invalidate() for such "
            "writes, and silence this check.",
            obj=book,
            id="getorcreateplus.W006",
        )
        assert list(checks.check_forever(book)) == [expected] * (not expires)


@pytest.mark.parametrize(
    ("shared", "own", "function", "is_wrong"),
    [
        (["tests"], [], "django_tenants.cache.make_key", True),
        (["tests"], ["other"], "django_tenants.cache.make_key", True),
        (["tests"], ["tests"], "django_tenants.cache.make_key", False),
        ([], ["tests"], "django_tenants.cache.make_key", False),
        (["tests"], [], None, False),
        (None, None, "shop.make_key", False),
    ],
)
def test_table_of_all_tenants(shared, own, function, is_wrong):
    cache = {"BACKEND": REDIS} | ({"KEY_FUNCTION": function} if function else {})
    apps = {"SHARED_APPS": shared, "TENANT_APPS": own} if shared is not None else {}
    book = with_manager(CachedManager())
    with caches(default=cache), override_settings(**apps):
        found = list(checks.check_shared_app(book))
    expected = django_checks.Warning(
        "tests.Book is in SHARED_APPS, and its rows are cached in 'default', whose "
        "KEY_FUNCTION may make different keys for each tenant: a write by one tenant "
        "does not invalidate the rows of the others.",
        hint="Set its object_cache_alias and key_cache_alias to a cache without that "
        "KEY_FUNCTION.",
        obj=book,
        id="getorcreateplus.W020",
    )
    assert found == [expected] * is_wrong


@pytest.mark.parametrize(
    ("manager", "creates"),
    [
        (AlwaysManager, True),
        (PlusManager, True),
        (AlwaysQuerySet.as_manager, True),
        (models.Manager.from_queryset(AlwaysQuerySet), True),
        (CachedManager, False),
        (models.Manager, False),
    ],
)
def test_creating_manager_in_a_place_of_django(manager, creates):
    attributes = {"objects": manager()}
    book = model(attributes=attributes, base_manager_name="objects")
    base = Error(
        "Meta.base_manager_name names tests.Book.objects, whose get() creates rows: "
        "obj.relation and refresh_from_db() would create them, too.",
        hint="Remove base_manager_name, or name a manager that only reads.",
        obj=book,
        id="getorcreateplus.E007",
    )
    assert list(checks.check_base_manager(book)) == [base] * creates


def test_creating_manager_beside_those_of_django():
    book = with_manager(models.Manager(), others=PlusManager())
    assert list(checks.check_base_manager(book)) == []


UNIQUE = {
    "a unique field": {"name": models.CharField(max_length=9, unique=True)},
    "a natural key": {"name": models.CharField(max_length=9, primary_key=True)},
    "a composite key": {
        "pk": models.CompositePrimaryKey("name", "size"),
        "size": models.IntegerField(),
    },
}
NOT_UNIQUE = {
    "a generated key": {},
    "a default": {"id": models.UUIDField(primary_key=True, default=len)},
}


@pytest.mark.parametrize("attributes", UNIQUE.values(), ids=UNIQUE)
def test_unique_constraint(attributes):
    book = with_manager(NonAtomicManager(), **attributes)
    assert list(checks.check_unique(book)) == []
    if "pk" not in attributes:  # Django makes no child of a composite key.
        assert list(checks.check_unique(child_of(book))) == []


@pytest.mark.parametrize(
    ("meta", "is_unique"),
    [
        (
            {"constraints": [models.UniqueConstraint(fields=["name"], name="one")]},
            True,
        ),
        ({"unique_together": [("name",)]}, True),
        (
            {
                "constraints": [
                    models.UniqueConstraint(
                        fields=["name"], name="one", condition=models.Q(name="a")
                    )
                ]
            },
            False,
        ),
    ],
)
def test_unique_constraint_of_the_meta(meta, is_unique):
    book = model(attributes={"objects": NonAtomicManager()}, **meta)
    assert bool(list(checks.check_unique(book))) is not is_unique


@pytest.mark.parametrize("attributes", NOT_UNIQUE.values(), ids=NOT_UNIQUE)
def test_no_unique_constraint(attributes):
    book = with_manager(models.Manager(), others=NonAtomicManager(), **attributes)
    assert list(checks.check_unique(book)) == [
        django_checks.Warning(
            "tests.Book.others creates rows without a savepoint, and the model has no "
            "unique constraint except its generated primary key: two connections that "
            "get or create the same row can create it twice.",
            hint="Add a UniqueConstraint on the fields that are looked up.",
            obj=book,
            id="getorcreateplus.W009",
        )
    ]
    assert list(checks.check_unique(with_manager(CachedManager()))) == []


@pytest.mark.parametrize("attributes", NOT_UNIQUE.values(), ids=NOT_UNIQUE)
def test_lookups_that_are_not_unique(attributes):
    book = with_manager(models.Manager(), others=CachedManager(), **attributes)
    assert list(checks.check_lookups_are_unique(book)) == [
        django_checks.Info(
            "tests.Book.others caches, and the model has no unique constraint except "
            "its generated primary key: if two rows match a lookup, a hit returns one "
            "of them, where Django raises MultipleObjectsReturned.",
            hint="Add a UniqueConstraint on the fields that are looked up, or set "
            "caches_unique_only = True on the queryset class.",
            obj=book,
            id="getorcreateplus.I027",
        )
    ]

    class QuerySet(CachedQuerySet):
        caches_unique_only = True

    manager = CachedManager.from_queryset(QuerySet)()
    for each in (manager, NonAtomicManager()):
        assert list(checks.check_lookups_are_unique(with_manager(each))) == []


@pytest.mark.parametrize("attributes", UNIQUE.values(), ids=UNIQUE)
def test_lookups_that_are_unique(attributes):
    book = model(attributes={"objects": CachedManager(), **attributes})
    assert list(checks.check_lookups_are_unique(book)) == []


def test_database_that_needs_a_savepoint(monkeypatch):
    book = with_manager(PlusManager())
    assert list(checks.check_databases(book)) == []
    monkeypatch.setattr(type(connections["other"]), "vendor", "oracle")
    found = {alias: f"the database {alias!r} (oracle)" for alias in settings.DATABASES}
    messages = list(checks.check_databases(book))
    assert {alias for alias, name in found.items() if name in str(messages)} == set(
        found
    )
    assert messages[0] == django_checks.Warning(
        "tests.Book.objects cannot create rows without a savepoint on the database "
        "'default' (oracle): it runs Django's get_or_create() there.",
        hint="Nothing is wrong. PostgreSQL, MySQL, MariaDB and SQLite do not need "
        "the savepoint.",
        obj=book,
        id="getorcreateplus.W010",
    )
    assert list(checks.check_databases(with_manager(CachedManager()))) == []


@pytest.mark.parametrize("cached", ["to", "on", None])
def test_deletes_of_the_database(cached):
    """Django has them since 6.1."""
    for on_delete, name in checks.BY_DATABASE.items():
        managers = {
            place: CachedManager() if place == cached else models.Manager()
            for place in ("to", "on")
        }
        with isolate_apps("tests"):
            author = type(
                "Author",
                (models.Model,),
                {"__module__": __name__, "objects": managers["to"]},
            )
            field = models.ForeignKey(
                author, on_delete, null=True, db_default=models.Value(1)
            )
            book = type(
                "Book",
                (models.Model,),
                {"__module__": __name__, "author": field, "objects": managers["on"]},
            )
        expected = django_checks.Warning(
            f"tests.Book.author has on_delete={name}, and tests.Book or tests.Author "
            "is cached: Django does not see which rows the database changes, so each "
            "delete invalidates all rows of the cached model, and a delete without "
            "Django invalidates none.",
            hint="Use an on_delete that Django carries out, such as CASCADE.",
            obj=book._meta.get_field("author"),
            id="getorcreateplus.W011",
        )
        assert list(checks.check_on_delete(book)) == [expected] * (cached is not None)
    assert len(checks.BY_DATABASE) == (3 if hasattr(models, "DB_CASCADE") else 0)


@pytest.mark.parametrize("value", ["60", -1, True, object()])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("local_timeout", "0 (off)"),
        ("cache_timeout", "DEFAULT_TIMEOUT (the cache's own)"),
    ],
)
def test_invalid_timeout(name, words, value):
    book = with_manager(type("Timed", (CachedQuerySet,), {name: value}).as_manager())
    assert list(checks.check_timeouts(book)) == [
        Error(
            f"Timed.{name} must be a number of seconds or None, not {value!r}.",
            hint=f"Set it to seconds, None (forever) or {words}.",
            obj=book,
            id="getorcreateplus.E012",
        )
    ]


@pytest.mark.parametrize(
    ("local", "kept", "is_wrong"),
    [(60, 30, True), (None, 30, True), (30, 60, False), (30, None, False)],
)
def test_memory_that_outlives_the_cache(local, kept, is_wrong):
    timed = type(
        "Timed", (CachedQuerySet,), {"local_timeout": local, "cache_timeout": kept}
    )
    book = with_manager(timed.as_manager())
    expected = django_checks.Warning(
        f"Timed.local_timeout is {local!r}, which exceeds its cache_timeout of "
        f"{kept!r}: a process serves rows from its memory after they have expired in "
        "the cache.",
        hint="Set local_timeout to cache_timeout or less.",
        obj=book,
        id="getorcreateplus.W013",
    )
    assert list(checks.check_timeouts(book)) == [expected] * is_wrong


TRANSPORT = (
    "a dictionary of cache aliases, each with one of 'django', 'locmem', 'memcached', "
    "'redis', 'redis-cluster'"
)
BUCKETS = "a dictionary of model labels, each with an integer of at least 1"


@pytest.mark.parametrize(
    ("name", "value", "wanted", "default"),
    [
        ("LOCK_TIMEOUT", 0, "an integer of at least 1", "600"),
        ("LOCK_TIMEOUT", None, "an integer of at least 1", "600"),
        ("OVERLAY_ROWS", -1, "an integer of at least 0", "10,000"),
        ("LOCAL_HINTS", "5", "an integer of at least 0", "10,000"),
        ("LOCAL_ROWS", 0.5, "an integer of at least 0", "10,000"),
        ("COMPILED_SELECTS", "no", "True or False", "True"),
        ("TRANSPORTS", "redis", TRANSPORT, "{}"),
        ("TRANSPORTS", {"default": "rediss"}, TRANSPORT, "{}"),
        ("BUCKETS", 16, BUCKETS, "{}"),
        ("BUCKETS", {"tests.Paper": 0}, BUCKETS, "{}"),
        ("BUCKETS", {"tests.Paper": True}, BUCKETS, "{}"),
        ("BUCKETS", {Paper: 16}, BUCKETS, "{}"),
    ],
)
def test_invalid_setting(name, value, wanted, default):
    assert list(checks.check_settings()) == []
    # LOCAL_* are read again at once, so that nothing else sees the value.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conf, name, value)
        assert list(checks.check_settings()) == [
            Error(
                f"GETORCREATEPLUS_{name} must be {wanted}, not {value!r}.",
                hint=f"Correct it, or remove it for the default, {default}.",
                id="getorcreateplus.E014",
            )
        ]


@pytest.mark.parametrize(
    ("label", "what", "remedy"),
    [
        ("tests.Papper", "not an installed model", 'Write it as "app.Model"'),
        ("shop.Paper", "not an installed model", 'Write it as "app.Model"'),
        ("Paper", "not an installed model", 'Write it as "app.Model"'),
        ("tests.ProxyShip", "a proxy", "Use tests.Ship, the model that has its rows"),
    ],
)
def test_buckets_of_no_model(label, what, remedy):
    labels = {"TESTS.paper": 3, "tests.sheet": 1, label: 16}
    with override_settings(GETORCREATEPLUS_BUCKETS=labels):
        assert [m for m in checks.check_caches() if m.id.endswith("E026")] == [
            Error(
                f"GETORCREATEPLUS_BUCKETS has {label!r}, which is {what}.",
                hint=f"{remedy}, or remove it.",
                id="getorcreateplus.E026",
            )
        ]
    with override_settings(GETORCREATEPLUS_BUCKETS=16):  # E014 says so
        assert [m.id[-4:] for m in checks.check_caches() if "BUCK" in m.msg] == ["E014"]


def test_unknown_setting():
    with override_settings(GETORCREATEPLUS_LOCK_TIME=5):
        assert list(checks.check_settings()) == [
            django_checks.Warning(
                "GETORCREATEPLUS_LOCK_TIME is not a setting of this package.",
                hint="Use one of GETORCREATEPLUS_LOCK_TIMEOUT, "
                "GETORCREATEPLUS_OVERLAY_ROWS, GETORCREATEPLUS_LOCAL_HINTS, "
                "GETORCREATEPLUS_LOCAL_ROWS, GETORCREATEPLUS_TRANSPORTS, "
                "GETORCREATEPLUS_BUCKETS, GETORCREATEPLUS_COMPILED_SELECTS.",
                id="getorcreateplus.W015",
            )
        ]


PROJECT = """
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["shop"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "none/x"}},
    CACHES={"default": {"BACKEND": "%s", "LOCATION": "redis://127.0.0.1:1"}},
    DEBUG=False,
)
from django.core.management import execute_from_command_line

execute_from_command_line(["manage.py", "check", *%r])
"""
SHOP = """
from django.db import models
from getorcreateplus import PlusManager

class Tag(models.Model):
    name = models.CharField(max_length=9)
    plain = models.Manager()
    objects = PlusManager()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "options", "ids"),
    [
        (REDIS, [], ["I027", "W009"]),
        (LOCMEM, [], ["I027", "W009", "W024"]),
        (LOCMEM, ["--deploy"], ["I027", "W005", "W009", "W024"]),
        (DUMMY, ["--tag", "caches"], ["W004"]),
    ],
)
def test_project_without_the_app(tmp_path, backend, options, ids):
    """The checks connect to no server, and make no file."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text(SHOP)
    result = subprocess.run(
        [sys.executable, "-c", PROJECT % (backend, options)],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    found = [
        word.rstrip(")").removeprefix("(getorcreateplus.")
        for word in result.stderr.split()
        if word.startswith("(getorcreateplus.")
    ]
    assert sorted(found) == ids
    assert {path.name for path in tmp_path.iterdir()} == {"shop"}


def test_each_check_has_a_section():
    files = (ROOT / "getorcreateplus").rglob("*.py")
    source = "".join(file.read_text() for file in files)
    page = (ROOT / "docs" / "checks.rst").read_text()
    ids = set(re.findall(r'id="getorcreateplus\.(\w+)"', source))
    sections = re.findall(
        r"^\.\. _(\w+):\n\n(\w+): .+\n-+\n\n {4}\*(?s:.+?)\n\n\*\*Hint\*\*: ",
        page,
        re.MULTILINE,
    )
    assert all(anchor == each for anchor, each in sections)
    assert sorted(each for _, each in sections) == sorted(ids)
    assert len(ids) == 26


def test_all_are_registered():
    registered = {*registry.registered_checks, *registry.deployment_checks}
    assert registered >= {
        checks.check_models,
        checks.check_caches,
        checks.check_caches_to_deploy,
    }
