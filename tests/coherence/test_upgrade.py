"""
Two releases of the package share a cache and a database: during a deployment,
and after an upgrade that was taken back.

Each runs in a process of its own. The newer one keeps the values of a payload
in another order.
"""

import json
import subprocess
import sys
from contextlib import ExitStack

import pytest
from django.conf import settings

from ..support.repository import ROOT

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys
import django
from django.conf import settings

caches, database, changes = map(json.loads, sys.argv[1:])
settings.configure(
    CACHES=caches,
    DATABASES={"default": database},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.contenttypes"],
)
django.setup()
from django.db import connection, models
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

def get():
    obj, created = Tag.objects.get_or_create(name=1)
    return obj.name, obj.uses

def save(uses):
    obj = Tag.objects.get(name=1)
    obj.uses = uses
    obj.save()

def update(uses):
    Tag.objects.update(uses=uses)

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

    def __init__(self, caches, database, changes):
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-c", PROGRAM),
                *map(json.dumps, (caches, database, changes)),
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


@pytest.fixture
def releases(tmp_path):
    """Return a function that starts an older and a newer release."""
    caches = {"default": settings.CACHES["default"]}
    if "locmem" in caches["default"]["BACKEND"]:
        # LocMemCache belongs to one process.
        caches["default"] = {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(tmp_path / "cache"),
        }
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "shared.sqlite3"),
    }
    with ExitStack() as stack:

        def start(*changes):
            older, newer = (
                stack.enter_context(Release(caches, database, each))
                for each in ([], changes)
            )
            older("create_table")
            return older, newer

        yield start


def test_upgrade_and_downgrade(releases):
    older, newer = releases("keep_values_in_another_order", "raise_the_format")
    assert older("get")[:2] == (1, 0)  # created
    assert older("get") == (1, 0, 0, [])
    # The upgrade: what it cannot read is a miss, and it fills in its own.
    assert newer("get") == (1, 0, 1, ["fields"])
    assert newer("get") == (1, 0, 0, [])
    # The downgrade.
    assert older("get") == (1, 0, 1, ["fields"])
    assert older("get") == (1, 0, 0, [])


@pytest.mark.parametrize("write", ["save", "update"])
def test_each_hears_of_the_other_s_writes(releases, write):
    older, newer = releases("keep_values_in_another_order", "raise_the_format")
    older("get")
    for uses, (writer, reader) in enumerate([(newer, older), (older, newer)] * 2, 1):
        reader("get")
        assert reader("get")[2] == 0
        writer(write, uses)
        assert reader("get")[1] == uses
        assert reader("get") == (1, uses, 0, [])


def test_number_of_the_format_is_what_tells(releases):
    """A release that does not raise it takes one column for another."""
    older, newer = releases("keep_values_in_another_order")
    older("get")
    older("save", 1)  # equal to the name, and so a match in either order
    older("get")
    assert newer("get")[2:] == (0, [])
