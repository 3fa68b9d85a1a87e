"""
What docs/contract.rst guarantees, sentence by sentence, and README.rst again.

Each is shown once, from another connection or process; the tests of the other
modules, the interleavings and the stress run look into each more deeply.
"""

import json
import re
import signal
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.cache import caches
from django.db import connection, models, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus.writes.registry import cached_models, region_of

from ..models import Paper, Sheet
from ..support.errors import Rollback
from ..support.papers import update_by_cursor, update_or_create
from ..support.repository import ROOT
from ..support.threads import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)


def read():
    """Return the pages of the row, None if it is new, and the queries."""
    with CaptureQueriesContext(connection) as queries:
        obj, created = Paper.objects.get_or_create(title="a")
    return None if created else obj.pages, len(queries)


def served():
    return elsewhere(read)


def row():
    """Return the row, which is in the cache."""
    paper, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    Paper.objects.get_or_create(title="a")
    assert served() == (1, 0)
    return paper


def save(paper):
    paper.pages = 2
    paper.save()


def base_manager(paper):
    Paper._base_manager.update(pages=2)


def bulk_update(paper):
    paper.pages = 2
    Paper.objects.bulk_update([paper], ["pages"])


def upsert(paper):
    paper.pages = 2
    unique = {} if connection.vendor == "mysql" else {"unique_fields": ["id"]}
    Paper.objects.bulk_create(
        [paper], update_conflicts=True, update_fields=["pages"], **unique
    )


def plain_queryset(paper):
    models.QuerySet(Paper).update(pages=2)


WRITES = [
    save,
    base_manager,
    bulk_update,
    plain_queryset,
    update_by_cursor,
    update_or_create,
    upsert,
]


@pytest.mark.parametrize("write", WRITES)
def test_write_that_has_returned(write):
    """
    Once a write has returned, no reader in any process gets the older row from
    the cache.
    """
    paper = row()
    write(paper)
    assert served()[0] == 2
    with transaction.atomic():
        Paper.objects.filter(title="a").update(pages=3)
    assert served()[0] == 3


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("savepoint", [False, True])
def test_rolled_back_row(write, savepoint):
    """
    A row that is rolled back, with its transaction or a savepoint, is never
    served to anyone outside of it.
    """
    paper = row()
    with transaction.atomic():
        if savepoint:
            Paper.objects.get_or_create(title="another")
        try:
            with transaction.atomic():
                write(paper)
                assert read()[0] == 2
                # SQLite's one writer keeps others from the table.
                raise Rollback
        except Rollback:
            pass
        if not savepoint:
            assert read()[0] == 1
    assert read()[0] == 1
    assert served()[0] == 1


DIES = """
import json, os, signal, sys
from django.conf import settings

settings.DATABASES["default"]["NAME"], config, point = sys.argv[1:]
settings.CACHES = json.loads(config)
import django
django.setup()
from django.db import transaction
from tests.models import Paper

def die():
    os.kill(os.getpid(), signal.SIGKILL)

with transaction.atomic():
    if point == "after the commit":
        transaction.on_commit(die)
    paper, created = Paper.objects.get_or_create(title="a")
    paper.pages = 2
    paper.save()
    Paper.objects.get_or_create(title="a")
    if point == "before the commit":
        die()
die()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "pages"),
    [("before the commit", 1), ("after the commit", 2), ("after the release", 2)],
)
def test_process_that_dies(point, pages, tmp_path):
    """
    A process may die at any point: what it had committed is not hidden by an
    older row.
    """
    config = {
        "default": {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(tmp_path),
        }
    }
    with override_settings(CACHES=config):
        row()
        connection.close()
        died = subprocess.run(
            [
                sys.executable,
                "-c",
                DIES,
                str(connection.settings_dict["NAME"]),
                json.dumps(config),
                point,
            ],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert served() == (pages, 1)


def test_entries_that_are_lost():
    """
    Eviction, a flush or a lost entry of the cache costs a query, no more.
    """
    paper = row()
    region = region_of(Paper.objects.all())
    cache, pk = caches[region.client.alias], str(paper.pk)
    for key in (
        region.payload_key(pk),
        region.version_key(pk),
        region.epoch_key,
        region.clock_key,
    ):
        cache.delete(key)
        assert served()[0] == 1
        assert served() == (1, 0)
    for alias in "default", region.client.alias:
        caches[alias].clear()
        assert served()[0] == 1
        # Where the cache was empty, the first reader adds the tokens.
        served()
        assert served() == (1, 0)


def test_cache_that_does_not_answer(caplog):
    """
    So does a cache that fails or does not answer. It is not used for a while,
    with one warning of the logger getorcreateplus; the invalidations that it
    has missed are sent before it is used again.
    """
    refuses = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "redis://127.0.0.1:1",
    }
    with override_settings(CACHES={"default": refuses}):
        paper, created = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        assert created
        assert read() == (1, 1)
        save(paper)
        assert read() == (2, 1)
        assert cached_models[Paper].region("default", None).client.debts.releases
    [warning] = caplog.records
    assert (warning.name, warning.levelname) == ("getorcreateplus", "WARNING")


def test_hit_is_compared(monkeypatch):
    """
    A hit is compared with its lookup, and with the fields of this release of
    the code: a renamed row, a collision of keys, two models in one cache, a
    payload of another release are a miss.
    """
    paper = row()
    with override_settings(CACHES={"default": settings.CACHES["default"]}):
        # The same primary key, in the same cache.
        Sheet.objects.create(pk=paper.pk, title="a", pages=5)
        for _ in range(2):
            assert Sheet.objects.get_or_create(title="a")[0].pages == 5
            assert Paper.objects.get_or_create(title="a")[0].pages == 1
    paper.title = "renamed"
    paper.save()
    Paper.objects.get_or_create(title="renamed")
    other = Paper.objects.create(title="a", pages=9)
    assert served() == (9, 1)
    # Two lookups of one digest.
    monkeypatch.setattr(
        type(region_of(Paper.objects.all())), "hint_key", lambda *_: "hint"
    )
    assert read()[0] == 9
    assert Paper.objects.get_or_create(title="renamed")[0] == paper
    assert read()[0] == 9
    monkeypatch.undo()
    # A payload with the values of a model that has got other fields.
    served()
    key = region_of(Paper.objects.all()).payload_key(str(other.pk))
    cache = caches[region_of(Paper.objects.all()).client.alias]
    stamp, _, *rest = cache.get(key)
    cache.set(key, (stamp, "another fingerprint", *rest))
    assert served() == (9, 1)


@pytest.mark.parametrize("page", ["README.rst", "docs/contract.rst"])
def test_all_guarantees_are_here(page):
    _, _, text = (ROOT / page).read_text().partition("\nWhat is guaranteed\n")
    text, _, _ = text.partition("\n\nA write is ")
    promises = re.findall(r"^\* (.*(?:\n  .*)*)", text, re.MULTILINE)
    shown = {
        " ".join((test.__doc__ or "").split())
        for name, test in globals().items()
        if name.startswith("test_")
    }
    assert len(promises) == 6
    assert {" ".join(p.replace("``", "").split()) for p in promises} <= shown
