"""
A child of a fork does not wait for a thread of its parent, and does not read
an answer to a command of its parent.
"""

import os
import re
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.cache import caches

import getorcreateplus
from getorcreateplus import test as kit
from getorcreateplus.coherence import clients
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.diagnosis import capturing
from getorcreateplus.statistics import Statistics
from getorcreateplus.writes import registry
from getorcreateplus.writes.registry import region_of

from ..models import Paper
from ..support.forks import in_child
from ..support.papers import pages, save, store, warm
from ..support.threads import start

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def stores(monkeypatch):
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    # Regions have the stores of other tests.
    watch = registry.cached_models[Paper]
    monkeypatch.setattr(watch, "regions", {})


@contextmanager
def held(lock):
    """Let another thread hold a lock."""
    holds, may_go = threading.Event(), threading.Event()

    def hold():
        with lock:
            holds.set()
            may_go.wait(60)

    thread = start(hold)
    assert holds.wait(10)
    try:
        yield
    finally:
        may_go.set()
        thread.join(10)


LOCKS = {
    "hints": lambda: memory.hints.lock,
    "rows": lambda: memory.rows.lock,
    "store": lambda: store().debts.lock,
    "keys": lambda: region_of(Paper.objects.all()).made_keys.lock,
    "models": lambda: registry.examining,
    "taps": lambda: capturing.command_spy.lock,
}


def read_and_write():
    assert pages()[0] == 1
    save(Paper.objects.get(title="a"))
    assert pages()[0] == 2
    with kit.assert_cache_commands(0):
        pass
    store().mark_down(ConnectionError("refused"))
    with region_of(Paper.objects.all()).made_keys.lock:
        pass


@pytest.mark.parametrize("name", LOCKS)
def test_lock_that_another_thread_holds(name):
    warm()
    with held(LOCKS[name]()):
        in_child(read_and_write)


def test_lock_of_statistics():
    with Statistics() as counted, held(counted.lock):
        in_child(lambda: pages() and counted.total)


def test_no_lock_is_left_out():
    """Each owner of a lock renews it, with renew_in_child() or a hook."""
    for file in Path(getorcreateplus.__file__).parent.rglob("*.py"):
        source = file.read_text()
        if re.search(r"threading\.R?Lock\(\)", source):
            assert "def begin_anew(" in source, file
        # On Python 3.11 it has one lock for all instances of the class.
        assert "import cached_property" not in source.replace(
            "from django.utils.functional import cached_property", ""
        ), file


def test_model_that_another_thread_was_looking_at(monkeypatch):
    """Its writes would not be detected."""
    looked = threading.Event()
    may_go = threading.Event()
    look_at = registry.examine_model

    def slowly(model):
        looked.set()
        may_go.wait(60)
        look_at(model)

    monkeypatch.setattr(registry, "examine_model", slowly)
    monkeypatch.setattr(registry, "unexamined", [Paper])
    watched = registry.cached_models.copy()
    monkeypatch.setattr(registry, "cached_models", {})
    thread = start(registry.examine)
    assert looked.wait(10)

    def child():
        may_go.set()
        registry.examine()
        assert Paper in registry.cached_models
        assert registry.being_examined == []

    try:
        in_child(child)
    finally:
        may_go.set()
        thread.join(10)
    registry.cached_models.update(watched)


def test_entries_that_another_thread_was_changing():
    """An LRUCache has several parts, which then disagree."""
    warm()
    memory.hints.entries._LRUCache__order.clear()

    def child():
        memory.hints.put("key", "value")
        assert memory.hints.get("key") == "value"
        assert len(memory.hints.entries) == 1

    in_child(child)
    memory.hints.clear()


def test_keys_that_cannot_be_made_again(settings):
    """The child continues with them."""
    config = settings.CACHES["paper"] | {"KEY_FUNCTION": f"{__name__}.hashed"}
    settings.CACHES = settings.CACHES | {"paper": config}
    region = region_of(Paper.objects.all())
    assert region.made_keys.are_lost_later

    def child():
        assert region.made_keys.are_known([region.epoch_key, region.clock_key])
        assert region.made_keys.make(region.epoch_key) == caches["paper"].make_key(
            region.epoch_key
        )

    with held(region.made_keys.lock):
        in_child(child)


def hashed(key, prefix, version):
    return f"{prefix}:{hash((prefix, version, key))}"


def test_cache_that_another_thread_was_trying():
    warm()
    store().mark_down(ConnectionError("refused"))
    store().down_until += 1000

    def child():
        pages()
        assert store().down_until is None

    in_child(child)


@pytest.mark.shared_cache
def test_child_has_a_connection_of_its_own():
    """Both send commands at once, and each gets its own answers."""
    paper = warm()
    caches["paper"].set("parent", "for the parent")
    caches["paper"].set("child", "for the child")
    before = caches["paper"]
    ready, go = os.pipe()

    def child():
        assert caches["paper"] is not before
        assert caches["default"] is not None
        os.write(go, b"!")
        for _ in range(300):
            assert caches["paper"].get("child") == "for the child"
        assert Paper.objects.get_or_create(pk=paper.pk)[0].pages == 1

    def ask():
        os.read(ready, 1)
        for _ in range(300):
            assert before.get("parent") == "for the parent"

    failures = []

    def watched():
        try:
            ask()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=watched)
    thread.start()
    in_child(child)
    thread.join(20)
    assert failures == []
    assert caches["paper"] is before
    assert before.get("parent") == "for the parent"


def test_child_writes_and_the_parent_sees_it():
    """If they share the cache. With LocMemCache each has its own."""
    paper = warm()
    in_child(lambda: save(Paper.objects.get(pk=paper.pk)))
    shared = "LocMem" not in type(caches["paper"]).__name__
    assert pages()[0] == (2 if shared else 1)


def test_debts_stay_debts_in_the_child():
    paper = warm()
    region = region_of(Paper.objects.all())
    region.client.owe_release(region, [f"{paper.pk}"])

    def child():
        assert region.client.debts.releases == {region: {f"{paper.pk}"}}
        pages()
        assert region.client.debts.releases == {}

    in_child(child)
    assert region.client.debts.releases == {region: {f"{paper.pk}"}}
