"""Caches and databases that are configured or named, but cannot be used."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.checks import Error
from django.core.management import CommandError, call_command
from django.db import connection, models, transaction
from django.test import Client, override_settings
from django.test.utils import isolate_apps

import getorcreateplus
from getorcreateplus import CachedManager, CachedQuerySet, checks, invalidate
from getorcreateplus.explaining import explain
from getorcreateplus.signals import Reason, cache_miss

from ..models import Dinghy, Paper, PlusPaper, Ship, Ticket, Twofold
from ..support.queries import queries_of

pytestmark = pytest.mark.django_db

LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
REDIS = "django.core.cache.backends.redis.RedisCache"
CONFIGS = {
    "other": {"renditions": LOCMEM},
    "none": {},
    "no module": {"default": {"BACKEND": "no.such.Cache"}},
    "no client": {"default": {"BACKEND": f"{__name__}.NoClient"}},
    "no option": {
        "default": {
            "BACKEND": REDIS,
            "LOCATION": "redis://127.0.0.1:1",
            "OPTIONS": {"socket_timout": 1},
        }
    },
    "no scheme": {"default": {"BACKEND": REDIS, "LOCATION": "127.0.0.1:1"}},
}
FAULTS = {
    "other": "not in CACHES",
    "none": "not in CACHES",
    "no module": "BACKEND that cannot be loaded",
    "no client": "BACKEND that cannot be loaded",
    "no option": "LOCATION or OPTIONS that its client does not take",
    "no scheme": "LOCATION or OPTIONS that its client does not take",
}


class NoClient:
    """A backend of a library that is not installed."""

    def __init__(self, location, params):
        import no_such_client  # noqa: F401


@pytest.fixture(params=CONFIGS)
def broken(request):
    with override_settings(CACHES=CONFIGS[request.param]):
        yield request.param


def test_every_write_is_as_without_a_cache(broken):
    Dinghy.objects.bulk_create([Dinghy(name="a")])
    obj, created = Dinghy.objects.get_or_create(name="b")
    assert created
    obj.size = 2
    obj.save()
    Dinghy.objects.filter(name="a").update(size=1)
    Dinghy.objects.update_or_create({"size": 3}, name="b")
    with transaction.atomic():
        Dinghy(name="c").save()
        Dinghy.objects.get_or_create(name="d", defaults={"size": 4})
        Dinghy.objects.filter(name="c").delete()
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {Dinghy._meta.db_table} SET size = size + 1")
    rows = Dinghy.objects.bulk_get_or_create([{"name": "a"}, {"name": "e"}], ["name"])
    assert [created for _, created in rows] == [False, True]
    invalidate(Dinghy)
    invalidate(obj)
    Dinghy.objects.invalidate(obj.pk)
    Dinghy.objects.invalidate_all()
    assert dict(Dinghy.objects.values_list("name", "size")) == {
        "a": 2,
        "b": 4,
        "d": 5,
        "e": 0,
    }


def test_every_lookup_asks_the_database(broken):
    for manager in (Ship.objects, Ticket.objects):
        name = "name" if manager is Ship.objects else "code"
        manager.create(**{name: "a"})
        for _ in range(2):
            assert queries_of(lambda: manager.get_or_create(**{name: "a"})) == 1
    PlusPaper.objects.get(title="a")
    assert queries_of(lambda: PlusPaper.objects.get(title="a")) == 1


def test_miss_is_reported(broken):
    reasons = []

    def receive(reason, **kwargs):
        reasons.append(reason)

    cache_miss.connect(receive)
    try:
        Ship.objects.get_or_create(name="a")
    finally:
        cache_miss.disconnect(receive)
    assert reasons == [Reason.NOT_CACHEABLE]


def test_commands_say_why(broken):
    fault = FAULTS[broken]
    for arguments in (["status"], ["explain", "tests.Ship", "name=a"]):
        output = StringIO()
        call_command("getorcreateplus", *arguments, stdout=output, stderr=output)
        assert fault in " ".join(output.getvalue().split())
    with pytest.raises(CommandError, match=fault):
        call_command("getorcreateplus", "invalidate", "tests.Ship", "--all")
    found = explain(Ship.objects, name="a")
    assert not found.is_hit
    assert fault in found.why
    assert found.remedy == (
        "Run `manage.py check`: getorcreateplus.E001 has the remedy."
    )


def test_admin_says_why(broken):
    row = Paper.objects.create(title="a")
    client = Client()
    client.force_login(User.objects.create_superuser("a"))
    with override_settings(ROOT_URLCONF="tests.tools.test_admin"):
        for url in ("/admin/tests/paper/", f"/admin/tests/paper/{row.pk}/change/"):
            response = client.get(url)
            assert response.status_code == 200
            words = response.context["getorcreateplus"]["words"]
            assert ("Not everything is cached" in "".join(words)) == (
                url == "/admin/tests/paper/"
            )


def test_caching_goes_on_with_the_caches_of_before():
    Ship.objects.get_or_create(name="a")
    Ship.objects.get_or_create(name="a")
    with override_settings(CACHES={"renditions": LOCMEM}):
        assert queries_of(lambda: Ship.objects.get_or_create(name="a")) == 1
    assert queries_of(lambda: Ship.objects.get_or_create(name="a")) == 0


def test_queryset_that_names_a_key_cache_of_its_own():
    class Lost(CachedQuerySet):
        key_cache_alias = "lost"

    Ship.objects.create(name="a")
    for _ in range(2):
        assert queries_of(lambda: Lost(Ship).get_or_create(name="a")) == 1


def test_other_querysets_of_the_model_cache():
    kept = {"default": LOCMEM | {"KEY_PREFIX": "kept"}}
    Twofold.plain.create(name="a")
    with override_settings(CACHES=kept):
        for _ in range(2):
            Twofold.near.get_or_create(name="a")
        assert queries_of(lambda: Twofold.near.get_or_create(name="a")) == 0
        assert queries_of(lambda: Twofold.far.get_or_create(name="a")) == 1
        Twofold.plain.update(size=5)
        assert Twofold.near.get_or_create(name="a")[0].size == 5
        invalidate(Twofold)


# The system check


@isolate_apps("tests")
def errors(config, queryset_class=CachedQuerySet):
    class Book(models.Model):
        objects = CachedManager.from_queryset(queryset_class)()

        class Meta:
            app_label = "tests"

    with override_settings(CACHES=config):
        found = list(checks.check_aliases(Book))
    for message in found:
        assert (type(message), message.id) == (Error, "getorcreateplus.E001")
    return [(message.msg.partition(".")[2], message.hint) for message in found]


class Elsewhere(CachedQuerySet):
    key_cache_alias = "renditions"


def test_check_of_caches():
    assert errors({"default": LOCMEM}) == []
    assert errors({"renditions": LOCMEM}) == [
        (
            "key_cache_alias is 'default', which is not in CACHES.",
            "Add the alias to CACHES, or set key_cache_alias to another alias.",
        )
    ]
    assert errors({"renditions": LOCMEM}, Elsewhere) == [
        (
            "object_cache_alias is None, and the cache 'default' is not in CACHES.",
            "Add the alias to CACHES, or set object_cache_alias to another alias.",
        )
    ]
    [(message, hint)] = errors(CONFIGS["no client"])
    assert message == (
        "key_cache_alias is 'default', which has a BACKEND that cannot be loaded: No "
        "module named 'no_such_client'."
    )
    assert hint == (
        "Install what the BACKEND imports, or set key_cache_alias to another alias."
    )
    [(message, hint)] = errors(CONFIGS["no option"])
    assert message.startswith(
        "key_cache_alias is 'default', which has a LOCATION or OPTIONS that its client "
        "does not take: "
    )
    assert "socket_timout" in message
    assert hint == (
        "Correct the LOCATION or the OPTIONS, or set key_cache_alias to another alias."
    )
    [(_, hint)] = errors({"default": LOCMEM}, Elsewhere)
    assert hint == "Add the alias to CACHES, or remove the attribute."


def test_fault_is_logged_once(broken, caplog):
    for name in "ab":
        Dinghy.objects.get_or_create(name=name)
    [record] = [each for each in caplog.records if "'default'" in each.getMessage()]
    assert (record.name, record.levelname) == ("getorcreateplus", "WARNING")
    assert FAULTS[broken] in record.getMessage()


# Databases

PROGRAM = """
import sys
import django
from django.conf import settings

class Router:
    def db_for_read(self, model, **hints):
        return "main"
    db_for_write = db_for_read

settings.configure(
    DATABASES={
        "default": {},
        "main": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        "legacy": {"ENGINE": "no_such_driver", "NAME": "x"},
    },
    DATABASE_ROUTERS=[Router()],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.contenttypes", "getorcreateplus"],
)
django.setup()
from django.core.management import CommandError, call_command
from django.db import connections, models
from getorcreateplus import PlusManager, checks, invalidate

connections.databases["later"] = {"ENGINE": "django.db.backends.sqlite3"}

class Tag(models.Model):
    name = models.CharField(max_length=9, primary_key=True)
    objects = PlusManager()
    class Meta:
        app_label = "contenttypes"

with connections["main"].schema_editor() as editor:
    editor.create_model(Tag)
for _ in range(3):
    tag, created = Tag.objects.get_or_create(name="a")
tag.save()
Tag.objects.bulk_get_or_create([{"name": "a"}, {"name": "b"}])
Tag.objects.filter(name="a").update(name="a")
loaded = {each.alias for each in connections.all(initialized_only=True)}
assert loaded <= {"default", "main"}, loaded  # Django looks at default

invalidate(Tag)
invalidate(tag)
Tag.objects.invalidate("a")
call_command("getorcreateplus", "status")
call_command("getorcreateplus", "explain", "contenttypes.Tag", "name=a")
call_command("getorcreateplus", "invalidate", "contenttypes.Tag", "a")
try:
    call_command("getorcreateplus_triggers")
except CommandError as error:
    assert "'default'" in str(error)
assert checks.check_models() == []
"""


def test_databases_that_cannot_be_used():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(getorcreateplus.__file__).parent.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "from the database main" in done.stdout
