"""diskcache: SQLite files that the processes of one machine share."""

import inspect
import resource
import textwrap
from contextlib import contextmanager
from multiprocessing import get_context

import pytest
from diskcache import FanoutCache
from django.core.cache import caches
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus.coherence import clients
from getorcreateplus.coherence.faults import Unreachable
from getorcreateplus.coherence.transports import transport_of
from getorcreateplus.test import assert_cache_hits

from ..models import Sheet
from ..support.diskcache import DiskCache
from ..support.forks import in_child
from ..support.repository import ROOT
from ..support.servers import PATIENCE
from .test_transports import CLOCK, OTHER, TOKEN, Shared

# It is always the cache here, so these tests run on only one database.
pytestmark = pytest.mark.database("sqlite")

BOUNDED = "tests.support.diskcache.DiskCache"


@pytest.mark.slow
class TestDiskCache(Shared):
    backend = "diskcache.DjangoCache"

    @pytest.fixture
    def location(self, tmp_path):
        return str(tmp_path)

    def test_child_goes_on_after_its_parent_has_closed(self, cache):
        """SQLite deletes the log of a file that no process seems to use."""
        client = clients.by_alias["default"]
        client.fill({"key": TOKEN}, 60)
        context = get_context("fork")
        is_open, is_closed = context.Event(), context.Event()

        def write():
            client.fill({"key": OTHER}, 60)
            is_open.set()
            assert is_closed.wait(PATIENCE)
            client.fill({"key": CLOCK}, 60)

        def close():
            assert is_open.wait(PATIENCE)
            cache.close()
            is_closed.set()

        in_child(write, meanwhile=close)
        assert client.look(["key"]) == {"key": CLOCK}

    def test_release_of_another_process(self):
        self.steps.lock({"version": "LOCK"}, 60)
        step = {"clock": CLOCK}, {"version": TOKEN}, {"row": None}
        in_child(lambda: self.steps.release(step, 60))
        assert self.steps.look(["version", "clock"]) == step[0] | step[1]


@pytest.mark.slow
class TestBoundedDiskCache(TestDiskCache):
    backend = BOUNDED
    parameters = {"DATABASE_TIMEOUT": 5}


@contextmanager
def hanging_writer(location):
    """Hold the files, like another process that is stopped while it writes."""
    other = FanoutCache(location)
    with other.transact():
        yield
    other.close()


@pytest.fixture
def location(tmp_path):
    config = {"BACKEND": BOUNDED, "LOCATION": str(tmp_path), "DATABASE_TIMEOUT": 0.05}
    with override_settings(CACHES={"default": config}):
        yield str(tmp_path)
        caches["default"].close()


def test_steps_raise_while_another_process_hangs(location):
    steps = transport_of("default")
    steps.lock({"version": "LOCK"}, 60)
    with hanging_writer(location):
        for step in (
            lambda: steps.release([{"clock": CLOCK}, {"version": TOKEN}], 60),
            lambda: steps.lock({"another": "LOCK"}, 60),
            lambda: steps.drop([["version"]]),
        ):
            with pytest.raises(TimeoutError, match=r"^diskcache did not"):
                step()
        assert steps.observe({"new": TOKEN}, {"new": 60}) == {}
        assert steps.look(["version"]) == {"version": "LOCK"}
    steps.drop([["version"], ["another"]])
    assert steps.look(["version"]) == {}


@pytest.mark.django_db(transaction=True)
def test_write_while_another_process_hangs(location):
    """
    It costs time, and the row is not stale when the other process continues.
    """
    sheet, _ = Sheet.objects.get_or_create(title="a")
    with assert_cache_hits(1):
        Sheet.objects.get_or_create(title="a")
    with hanging_writer(location):
        Sheet.objects.filter(pk=sheet.pk).update(pages=7)
        with transaction.atomic():
            Sheet.objects.update_or_create({"pages": 8}, title="a")
        assert Sheet.objects.get_or_create(title="a")[0].pages == 8
    clients.by_alias["default"].down_until = 0  # its pause is over
    for hits in 0, 1:
        with assert_cache_hits(hits):
            assert Sheet.objects.get_or_create(title="a")[0].pages == 8
    connection.close()


@contextmanager
def full_disk():
    """Let no file of this process grow beyond a few bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_steps_raise_while_the_disk_is_full(location):
    client = clients.by_alias["default"]
    client.lock({"version": "LOCK"}, 60)

    def write():
        release = [{"clock": CLOCK}, {"version": TOKEN}]
        with full_disk():
            for _ in range(3):
                with pytest.raises(Unreachable):
                    client.release(release, 60)
                client.reconnect()
        client.release(release, 60)

    in_child(write)
    assert client.look(["version"]) == {"version": TOKEN}


def test_documented_subclass():
    source = textwrap.indent(inspect.getsource(DiskCache), "    ")
    assert source in (ROOT / "docs" / "caches.rst").read_text()
