"""
Two releases of the package share a cache and a database: during a deployment,
and after an upgrade that was reverted.

Each runs in a process of its own. The older one has Django's cache API alone,
as version 1.0 has it, and the newer one the transport of the backend. Where
the format of the rows is tested, the newer one keeps the values of a payload
in another order.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from itertools import count

import pytest

from ..support.repository import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys
import django
from django.conf import settings

caches, database, transports, changes = map(json.loads, sys.argv[1:])
settings.configure(
    CACHES=caches,
    DATABASES={"default": database},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    GETORCREATEPLUS_TRANSPORTS=transports,
    INSTALLED_APPS=["django.contrib.contenttypes"],
)
django.setup()
from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext
from getorcreateplus import CachedManager
from getorcreateplus.signals import cache_miss

def keep_values_in_another_order():
    from getorcreateplus.coherence import fills
    from getorcreateplus.coherence.clients import CacheClient

    payload_of, look = fills.payload_of, CacheClient.look

    def reversed_payload(reading, epoch, version, values):
        return payload_of(reading, epoch, version, values[::-1])

    def look_at_reversed(client, keys):
        return {
            key: (*value[:2], value[2][::-1], *value[3:])
            if type(value) is tuple
            else value
            for key, value in look(client, keys).items()
        }

    fills.payload_of, CacheClient.look = reversed_payload, look_at_reversed

def raise_the_format():
    from getorcreateplus.lookups import rows

    rows.FORMAT += 1

for change in changes:
    globals()[change]()

class Tag(models.Model):
    name = models.IntegerField(unique=True)
    uses = models.IntegerField(default=0)
    objects = CachedManager()
    class Meta:
        app_label = "contenttypes"

reasons = []
def note(reason, **kwargs):
    reasons.append(reason)
cache_miss.connect(note)

def create_table():
    with connection.schema_editor() as editor:
        editor.create_model(Tag)

def transport():
    from getorcreateplus.coherence.transports import transport_of

    return transport_of("default").name, 0

def get(name):
    obj, created = Tag.objects.get_or_create(name=name)
    return obj.name, obj.uses

def save(name, uses):
    obj = Tag.objects.get(name=name)
    obj.uses = uses
    obj.save()

def save_in_transaction(name, uses):
    with transaction.atomic():
        save(name, uses)
        get(name)

def update(name, uses):
    Tag.objects.filter(name=name).update(uses=uses)

def update_in_transaction(name, uses):
    with transaction.atomic():
        update(name, uses)
        get(name)

def update_or_create(name, uses):
    Tag.objects.update_or_create(name=name, defaults={"uses": uses})

def delete(name, uses):
    Tag.objects.get(name=name).delete()
    models.QuerySet(Tag).bulk_create([Tag(name=name, uses=uses)])

def roll_back(name, uses):
    try:
        with transaction.atomic():
            save(name, uses + 100)
            get(name)
            raise ZeroDivisionError
    except ZeroDivisionError:
        save(name, uses)

def begin(name, uses):
    global block
    block = transaction.atomic()
    block.__enter__()
    save(name, uses)

def commit():
    block.__exit__(None, None, None)

for line in sys.stdin:
    name, *args = json.loads(line)
    reasons.clear()
    with CaptureQueriesContext(connection) as queries:
        result = globals()[name](*args)
    answer = *(result or (None, None)), len(queries), reasons
    print(json.dumps(answer), flush=True)
"""


class Release:
    """A process that runs one release of the package."""

    def __init__(self, caches, database, transports=(), changes=()):
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-c", PROGRAM),
                *map(json.dumps, (caches, database, dict(transports), changes)),
            ],
            cwd=ROOT,  # the first place where -c looks for the package
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0

    def __call__(self, *command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return tuple(json.loads(self.process.stdout.readline()))


def file_cache(folder):
    return {
        "default": {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(folder / "cache"),
        }
    }


def file_database(folder):
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(folder / "shared.sqlite3"),
    }


# The format of the rows


@pytest.fixture
def releases_that_differ(tmp_path):
    """Return a function that starts an older and a newer release."""
    with ExitStack() as stack:

        def start(*changes):
            older, newer = (
                stack.enter_context(
                    Release(file_cache(tmp_path), file_database(tmp_path), changes=each)
                )
                for each in ([], changes)
            )
            older("create_table")
            return older, newer

        yield start


def test_upgrade_and_downgrade(releases_that_differ):
    older, newer = releases_that_differ(
        "keep_values_in_another_order", "raise_the_format"
    )
    assert older("get", 1)[:2] == (1, 0)  # created
    assert older("get", 1) == (1, 0, 0, [])
    # The upgrade: rows that it cannot read are misses, and it fills its own
    # rows.
    assert newer("get", 1) == (1, 0, 1, ["fields"])
    assert newer("get", 1) == (1, 0, 0, [])
    # The downgrade.
    assert older("get", 1) == (1, 0, 1, ["fields"])
    assert older("get", 1) == (1, 0, 0, [])


@pytest.mark.parametrize("write", ["save", "update"])
def test_each_sees_the_other_s_writes(releases_that_differ, write):
    older, newer = releases_that_differ(
        "keep_values_in_another_order", "raise_the_format"
    )
    older("get", 1)
    for uses, (writer, reader) in enumerate([(newer, older), (older, newer)] * 2, 1):
        reader("get", 1)
        assert reader("get", 1)[2] == 0
        writer(write, 1, uses)
        assert reader("get", 1)[1] == uses
        assert reader("get", 1) == (1, uses, 0, [])


def test_number_of_the_format_decides(releases_that_differ):
    """A release that does not increase it confuses two columns."""
    older, newer = releases_that_differ("keep_values_in_another_order")
    older("get", 1)
    older("save", 1, 1)  # equal to the name, and so a match in either order
    older("get", 1)
    assert newer("get", 1)[2:] == (0, [])


# Each kind of cache


@pytest.fixture(scope="class")
def releases(request, tmp_path_factory):
    """Return an older and a newer release, for all tests of a class."""
    folder = tmp_path_factory.mktemp("upgrade")
    caches = request.cls.caches(request, folder)
    database = file_database(folder)
    with (
        Release(caches, database, {"default": "django"}) as older,
        Release(caches, database) as newer,
    ):
        older("create_table")
        yield older, newer


names = count(1)


class Sharing:
    """Entries that two releases read from each other."""

    transport = "django"
    scheme = "redis:"

    @classmethod
    def caches(cls, request, folder):
        location = request.getfixturevalue(cls.server)
        location = location.replace("redis:", cls.scheme)
        return {"default": {"BACKEND": cls.backend, "LOCATION": location}}

    @pytest.fixture
    def name(self, releases):
        """Return the name of a row that is in the cache."""
        name = next(names)
        for release in releases:
            self.settle(release, name, 0)
        return name

    def settle(self, release, name, uses):
        """A release reads this, in the end as a hit."""
        for _ in range(20):
            found = release("get", name)
            assert found[:2] == (name, uses)
            if found[2] == 0:
                return
        raise AssertionError(f"There is no hit, because of {found[3]}.")

    def test_transports(self, releases):
        older, newer = releases
        assert older("transport")[0] == "django"
        assert newer("transport")[0] == self.transport

    @pytest.mark.parametrize(
        "write",
        [
            "save",
            "save_in_transaction",
            "update",
            "update_in_transaction",
            "update_or_create",
            "delete",
            "roll_back",
        ],
    )
    def test_write(self, releases, name, write):
        older, newer = releases
        pairs = [(newer, older), (older, newer)] * 2
        for uses, (writer, reader) in enumerate(pairs, 1):
            writer(write, name, uses)
            for release in reader, writer, reader:
                self.settle(release, name, uses)

    def test_transaction(self, releases, name):
        """The other release has no hit while a row is being written."""
        older, newer = releases
        pairs = [(newer, older), (older, newer)] * 2
        for uses, (writer, reader) in enumerate(pairs, 1):
            writer("begin", name, uses)
            for _ in range(2):
                assert reader("get", name)[:3] == (name, uses - 1, 1)
            writer("commit")
            for release in reader, writer:
                self.settle(release, name, uses)

    def test_hit_of_what_the_other_has_read(self, releases, name):
        older, newer = releases
        for uses, (writer, reader) in enumerate([(newer, older), (older, newer)], 1):
            writer("save", name, uses)
            self.settle(writer, name, uses)
            if reader is newer and self.transport == "redis":
                # The tokens of the older release name no server.
                self.settle(reader, name, uses)
            assert reader("get", name) == (name, uses, 0, [])
            assert writer("get", name) == (name, uses, 0, [])


# They start their own servers, so one database is enough.
on_servers = [pytest.mark.shared_cache, pytest.mark.database("postgresql")]


class TestFiles(Sharing):
    """A cache of an unknown kind."""

    @classmethod
    def caches(cls, request, folder):
        return file_cache(folder)


class TestRedis(Sharing):
    pytestmark = on_servers
    backend = "django.core.cache.backends.redis.RedisCache"
    server = "redis_location"
    transport = "redis"


class TestDjangoRedis(TestRedis):
    backend = "django_redis.cache.RedisCache"


class TestDjangoValkey(TestRedis):
    backend = "django_valkey.cache.ValkeyCache"
    scheme = "valkey:"


class TestMemcached(Sharing):
    pytestmark = on_servers
    backend = "django.core.cache.backends.memcached.PyMemcacheCache"
    server = "memcached_location"
    transport = "memcached"
