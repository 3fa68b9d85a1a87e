"""
A cluster of three primaries with a replica each, and a Sentinel: what calls
return while a primary dies, and while keys are moved to another one.
tests.stress does so under load.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from django.core import checks
from django.core.cache import caches
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus.checks import check_caches
from getorcreateplus.coherence import clients
from getorcreateplus.coherence.tokens import FOREIGN, LOCK
from getorcreateplus.coherence.transports import redis, transport_of
from getorcreateplus.coherence.transports.redis import RedisTransport
from getorcreateplus.coherence.transports.redis_cluster import RedisClusterTransport
from getorcreateplus.test import CaptureCacheCommands
from getorcreateplus.writes.registry import region_of

from ..models import Paper, Sheet
from ..support.clusters import redis_cluster, redis_sentinel
from ..support.papers import WRITES, is_fresh, pages, save, save_in_transaction, warm
from ..support.servers import another_process, wait_for
from .test_kinds_of_cache import OnRedis
from .test_transports import Redis, on_servers

pytestmark = [
    pytest.mark.shared_cache,
    pytest.mark.database("postgresql"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture(scope="module")
def cluster():
    with redis_cluster() as cluster:
        yield cluster


class TestSteps(Redis):
    pytestmark = on_servers
    backend = "django_valkey.cluster_cache.cache.ClusterValkeyCache"
    transport = RedisClusterTransport
    follows_hints = False
    key_prefix = "{tag}"  # like the keys of a model

    # In this backend's API, set_many() sets other keys than get_many() gets.
    test_several_processes_of_other_transports = None
    # So the transport does not call methods of the API, not even replaced
    # ones.
    test_replaced_method_is_called = test_each_step_by_replaced_methods = None

    @pytest.fixture
    def location(self, cluster):
        return cluster.config()["LOCATION"]

    def server(self):
        [made] = self.steps.keys(["version"])
        return self.steps.server().commands._of(made).send

    def test_answers(self):
        self.steps.probe()
        assert self.steps.takes_small_entries()
        assert self.steps.has_several_servers()


class TestGuarantees(OnRedis):
    backend = "django_valkey.cluster_cache.cache.ClusterValkeyCache"
    location = "valkey://{}"
    transport = RedisClusterTransport

    test_restart = None  # except test_primary_dies(), below

    def config(self, request):
        self.cluster = request.getfixturevalue("cluster")
        return self.cluster.config()

    def cli(self, *command):
        for server in self.cluster.servers:
            server.cli(*command)

    def test_server_that_is_gone(self, caplog):
        with self.using(self.config_at("127.0.0.1:1")):
            self.write_in_vain(caplog)

    def refuse(self):
        """Let the servers have too few replicas: NOREPLICAS."""
        self.cli("config", "set", "min-replicas-to-write", "2")

    def refuse_no_more(self):
        self.cli("config", "set", "min-replicas-to-write", "0")


# The rows of a model


@contextmanager
def using(**configs):
    with another_process(), override_settings(CACHES=configs):
        yield
        caches.close_all()


@pytest.fixture
def rows(cluster, monkeypatch):
    """The rows of Paper are in the cluster; no pause follows a failure."""
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 0)
    with using(default=cluster.config(KEY_PREFIX=connection.settings_dict["NAME"])):
        yield cluster
        cluster.flush()


@pytest.fixture
def own_cache(cluster):
    config = cluster.config()
    with using(default=config, paper=config | {"KEY_PREFIX": "papers"}):
        yield cluster
        cluster.flush()


@pytest.mark.parametrize("write", WRITES)
def test_write(rows, write):
    paper = warm()
    with another_process():
        assert pages() == (1, 0)
    write(paper)
    assert is_fresh(2)


@pytest.mark.parametrize("write", WRITES)
def test_payload_on_another_server(own_cache, write):
    for number in range(10):
        Sheet.objects.get_or_create(title=f"sheet {number}")
    paper = warm()
    with another_process():
        assert pages() == (1, 0)
    caches["paper"].delete(paper.pk)
    assert pages() == (1, 1)
    write(paper)
    assert is_fresh(2)


def test_packets(rows):
    obj = warm()
    with CaptureCacheCommands() as made:
        pages()
        obj.save()
        pages()
    assert [command.method for command in made] == [
        *("look", "lock", "release"),
        *("look", "fill"),
    ]


def test_keys_of_a_model_have_one_slot(rows):
    warm()
    region = region_of(Paper.objects.all())
    long = "x" * 300
    keys = [region.epoch_key, region.clock_key, region.hint_key((("title", "a"),))]
    keys += [*region.keys_of_row("1"), *region.keys_of_row(long)]
    made = map(caches["default"].make_key, keys)
    assert len({rows.slot(key) for key in made}) == 1


# Keys on their way to another server


@pytest.fixture
def slot_of_papers():
    """Return a function that returns the slot of their entries."""

    def slot_of(cluster):
        key = region_of(Paper.objects.all()).epoch_key
        return cluster.slot(caches["default"].make_key(key))

    return slot_of


def other_port(cluster, slot):
    source, _ = cluster.primary_of(slot)
    return next(
        port
        for port, _, flags, _, _ in cluster.nodes()
        if "master" in flags and port != source.port
    )


def update_to(paper, number):
    Paper.objects.update(pages=number)


@pytest.mark.parametrize("write", [save, update_to])
def test_keys_are_moved(rows, write, slot_of_papers):
    """A write is seen after each of them, and in the end there are hits."""
    paper = warm()
    slot = slot_of_papers(rows)
    for number, _ in enumerate(rows.move(slot, other_port(rows, slot), 1), start=2):
        write(paper, number)
        for _ in range(2):
            assert pages()[0] == number
            with another_process():
                assert pages()[0] == number
    assert is_fresh(number)
    assert pages() == (number, 0)


def moved(cluster, slot, keys):
    """
    Begin to move a slot, with these keys. Return a function that moves the
    others.
    """
    steps = cluster.move(slot, other_port(cluster, slot), 1)
    next(steps)
    source, _ = cluster.primary_of(slot)
    _, _, target = cluster.moving
    for key in keys:
        source.cli("migrate", "127.0.0.1", target, key, 0, 5000)
    return steps


def test_version_that_was_moved_alone(rows):
    """Its token names the server that had it first."""
    paper = warm()
    _, version, epoch = region_of(Paper.objects.all()).keys_of_row(f"{paper.pk}")
    made = caches["default"].make_key(version)
    steps = moved(rows, rows.slot(made), [made])
    found = clients.by_alias["default"].look([version, epoch])
    assert found[version].startswith(FOREIGN)
    assert not found[epoch].startswith(FOREIGN)
    assert pages() == (1, 1)
    for _ in steps:
        assert pages()[0] == 1
    assert is_fresh(1)


def test_transaction_while_keys_are_moved(rows, slot_of_papers):
    paper = warm()
    slot = slot_of_papers(rows)
    for number, _ in enumerate(rows.move(slot, other_port(rows, slot), 1), start=2):
        save_in_transaction(paper)
        Paper.objects.get_or_create(title=f"new {number}")
        with another_process():
            assert pages()[0] == 2
    assert is_fresh(2)


# Commands that are not waited for


@pytest.fixture
def waits_for_less(monkeypatch):
    monkeypatch.setattr(redis, "waits", lambda: False)


@pytest.mark.usefixtures("waits_for_less")
class TestUnanswered:
    def test_fill_and_lock(self, rows):
        paper = warm()
        region = region_of(Paper.objects.all())
        with transaction.atomic():
            save(paper)
            assert caches["default"].get(region.version_key(f"{paper.pk}")) == LOCK
        assert is_fresh(2)

    def test_keys_have_been_moved(self, rows, slot_of_papers):
        """The server reports it in an answer for which no code has waited."""
        paper = warm()
        slot = slot_of_papers(rows)
        for _ in rows.move(slot, other_port(rows, slot)):
            pass
        save_in_transaction(paper)
        assert is_fresh(2)

    def test_fill_is_redirected(self, rows, slot_of_papers):
        Paper._base_manager.create(title="a", pages=1)
        warm()
        slot = slot_of_papers(rows)
        Paper._base_manager.create(title="b", pages=1)

        def move(execute, *args):
            result = execute(*args)
            for _ in rows.move(slot, other_port(rows, slot)):
                pass
            return result

        with connection.execute_wrapper(move):
            assert pages(title="b") == (1, 1)
        pages(title="b")
        pages(title="b")
        assert pages(title="b") == (1, 0)

    def test_each_key_on_its_way(self, rows, slot_of_papers):
        paper = warm()
        slot = slot_of_papers(rows)
        for number, _ in enumerate(rows.move(slot, other_port(rows, slot), 1), start=2):
            with transaction.atomic():
                save(paper, number)
                Paper.objects.get_or_create(title=f"new {number}")
            assert pages()[0] == number
            with another_process():
                assert pages()[0] == number
        assert is_fresh(number)

    def test_rows_of_two_servers(self, own_cache):
        papers = [Paper.objects.create(title=f"{n}") for n in range(20)]
        for title in range(20):
            pages(title=f"{title}")
        with transaction.atomic():
            for paper in papers:
                save(paper)
            Paper.objects.update_or_create({"pages": 3}, title="7")
        assert [pages(title=f"{n}")[0] for n in range(20)] == [
            3 if n == 7 else 2 for n in range(20)
        ]


# The list of servers


def test_first_server_of_location_is_gone(cluster):
    config = cluster.config()
    location = f"valkey://127.0.0.1:1,{config['LOCATION']}"
    with using(default=config | {"LOCATION": location}):
        warm()


def test_all_servers_of_location_are_gone(cluster):
    with using(default=cluster.config(LOCATION="valkey://127.0.0.1:1")):
        assert pages()[0] == 0
        assert pages() == (0, 1)
        rows = [{"title": f"{n}", "pages": n} for n in range(3)]
        with transaction.atomic():
            found = Paper.objects.bulk_get_or_create(rows, unique_fields=["title"])
        assert all(created for _, created in found)


def test_server_that_is_new(rows):
    """Another server names it before the process has found it."""
    warm()
    cluster = transport_of("default").cluster
    [node, *_] = cluster.client.get_nodes()
    cluster.client.nodes_manager.nodes_cache = {}
    cluster.asked = 0.0
    found, _ = cluster.pool_at(SimpleNamespace(host=node.host, port=node.port))
    assert found.name == node.name


# A primary that dies


@pytest.mark.parametrize("write", WRITES)
def test_primary_dies(rows, write, slot_of_papers):
    paper = warm()
    rows.stop_primary_of(slot_of_papers(rows))
    assert pages()[0] == 1
    write(paper)
    assert pages()[0] == 2
    rows.start()
    wait_for(lambda: pages() == (2, 0))
    assert is_fresh(2)


# A Sentinel


@pytest.fixture
def sentinel():
    with redis_sentinel() as sentinel:
        yield sentinel


@pytest.mark.parametrize("package", ["django_redis", "django_valkey"])
def test_sentinel(sentinel, package, monkeypatch):
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 0)
    prefix = f"{package} {connection.settings_dict['NAME']}"
    with using(default=sentinel.config(package, KEY_PREFIX=prefix)):
        assert type(transport_of("default")) is RedisTransport
        paper = warm()
        sentinel.stop(())
        save(paper)
        assert pages()[0] == 2
        sentinel.wait_for_another_primary()
        wait_for(lambda: pages() == (2, 0))
        assert is_fresh(2)


# Aliases in a cluster


def test_check_of_an_own_cache_in_a_cluster(own_cache):
    [warning] = [each for each in check_caches(None) if each.id.endswith("W025")]
    assert isinstance(warning, checks.Warning)
    assert warning.obj is Paper
