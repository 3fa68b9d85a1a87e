"""
The proxy of the benchmark for distant servers, and the share of hits above
which a cache pays.
"""

import random
import socket
import socketserver
import threading
import time
from contextlib import contextmanager

import pytest

from sandbox.benchmarks.cases import Case
from sandbox.benchmarks.proxy import HOST, proxy
from sandbox.benchmarks.report import Results, break_even, break_evens

from ..support.repository import ROOT
from ..support.servers import can_connect, free_port

PATIENCE = 30  # seconds
DELAY = 200  # milliseconds


class Echo(socketserver.BaseRequestHandler):
    """Send back what arrives, until the client has said "end"."""

    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := self.request.recv(65536):
            self.request.sendall(data)
            if data.endswith(b"end"):
                break
        self.server.closed.set()


@contextmanager
def echo_server():
    with socketserver.ThreadingTCPServer((HOST, 0), Echo) as server:
        server.closed = threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server():
    with echo_server() as server:
        yield server


@contextmanager
def client_of(port):
    with socket.create_connection((HOST, port), timeout=PATIENCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client


def receive(client, length):
    received = bytearray()
    while len(received) < length:
        data = client.recv(65536)
        assert data, f"closed after {len(received)} bytes"
        received += data
    return bytes(received)


# The proxy


def test_bytes_are_the_same_in_both_directions(server):
    sent = random.Random(1).randbytes(3_000_000)
    with proxy(*server.server_address, 1) as port, client_of(port) as client:
        client.sendall(sent)
        assert receive(client, len(sent)) == sent


def test_connections_do_not_mix(server):
    with proxy(*server.server_address, 1) as port:
        with client_of(port) as one, client_of(port) as other:
            one.sendall(b"1" * 1000)
            other.sendall(b"2" * 1000)
            assert receive(one, 1000) == b"1" * 1000
            assert receive(other, 1000) == b"2" * 1000


def test_each_direction_is_delayed(server):
    with proxy(*server.server_address, DELAY) as port, client_of(port) as client:
        start = time.monotonic()
        client.sendall(b"there and back")
        receive(client, len(b"there and back"))
        assert 2 * DELAY <= (time.monotonic() - start) * 1000 < 20 * DELAY


def test_packets_are_under_way_at_the_same_time(server):
    """One after the other, they would take 100 times the delay."""
    with proxy(*server.server_address, DELAY) as port, client_of(port) as client:
        start = time.monotonic()
        for number in range(100):
            client.sendall(b"%03d" % number)
            time.sleep(0.001)  # a packet of its own
        received = receive(client, 300)
        took = (time.monotonic() - start) * 1000
    assert received == b"".join(b"%03d" % number for number in range(100))
    assert 2 * DELAY <= took < 50 * DELAY


def test_last_bytes_arrive_before_the_server_hangs_up(server):
    with proxy(*server.server_address, 1) as port, client_of(port) as client:
        client.sendall(b"the end")
        assert receive(client, 7) == b"the end"
        assert client.recv(1) == b""


def test_server_sees_that_the_client_hangs_up(server):
    with proxy(*server.server_address, 1) as port:
        with client_of(port) as client:
            client.sendall(b"x")
            receive(client, 1)
            assert not server.closed.is_set()
        assert server.closed.wait(PATIENCE)


def test_client_is_hung_up_on_without_a_server():
    with proxy(HOST, free_port(), 1) as port, client_of(port) as client:
        assert client.recv(1) == b""


def test_proxy_ends_with_its_block(server):
    with proxy(*server.server_address, 1) as port, client_of(port) as client:
        client.sendall(b"x")
        receive(client, 1)
    assert not can_connect(port)
    assert server.closed.wait(PATIENCE)


# The addresses

POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "PORT": ""}
MYSQL = {"ENGINE": "django.db.backends.mysql", "PORT": 3307}
REDIS = {"BACKEND": "django.core.cache.backends.redis.RedisCache"}
MEMCACHED = {"BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache"}


@pytest.fixture
def latency(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "sandbox"))
    from benchmarks import latency

    return latency


def test_address_of_a_database(latency):
    config = POSTGRESQL | {"HOST": "db.example.com"}
    assert latency.database_address(config, "") == ("db.example.com", 5432)
    config = MYSQL | {"HOST": "127.0.0.1"}
    assert latency.database_address(config, "") == ("127.0.0.1", 3307)
    config = POSTGRESQL | {"HOST": "localhost"}
    assert latency.database_address(config, "") == ("localhost", 5432)


@pytest.mark.parametrize(
    "config",
    [
        POSTGRESQL | {"HOST": ""},
        POSTGRESQL | {"HOST": "/var/run/postgresql"},
        MYSQL | {"HOST": ""},
        MYSQL | {"HOST": "localhost"},
    ],
)
def test_unix_socket_of_a_database_is_refused(latency, config):
    with pytest.raises(latency.CannotDelay) as caught:
        latency.database_address(config, "--latency 1")
    assert str(caught.value) == (
        "--latency 1 cannot delay the Unix socket of the database. Give --database a "
        "host that is reached by TCP, such as 127.0.0.1."
    )


@pytest.mark.parametrize(
    ("config", "addresses", "behind_proxies"),
    [
        (
            REDIS | {"LOCATION": "redis://user:se%40cret@cache.example.com/4"},
            [("cache.example.com", 6379)],
            ["redis://user:se%40cret@127.0.0.1:1000/4"],
        ),
        (
            REDIS | {"LOCATION": ["rediss://[::1]:7000/0", "redis://b:7001/0"]},
            [("::1", 7000), ("b", 7001)],
            ["rediss://127.0.0.1:1000/0", "redis://127.0.0.1:1001/0"],
        ),
        (
            MEMCACHED | {"LOCATION": ["a", "b:11212"]},
            [("a", 11211), ("b", 11212)],
            ["127.0.0.1:1000", "127.0.0.1:1001"],
        ),
    ],
)
def test_addresses_of_a_cache(latency, config, addresses, behind_proxies):
    assert latency.cache_addresses(config, "") == addresses
    locations = config["LOCATION"]
    locations = locations if isinstance(locations, list) else [locations]
    assert [
        latency.moved(location, port)
        for port, location in enumerate(locations, start=1000)
    ] == behind_proxies


@pytest.mark.parametrize(
    "config",
    [
        REDIS | {"LOCATION": "unix:///tmp/redis.sock"},
        MEMCACHED | {"LOCATION": ["127.0.0.1:11211", "unix:/tmp/memcached.sock"]},
    ],
)
def test_unix_socket_of_a_cache_is_refused(latency, config):
    with pytest.raises(latency.CannotDelay) as caught:
        latency.cache_addresses(config, "--cache-latency 0.5")
    assert str(caught.value) == (
        "--cache-latency 0.5 cannot delay the Unix socket of the cache. Give --cache a "
        "host that is reached by TCP, such as 127.0.0.1."
    )


# The break-even


@pytest.mark.parametrize(
    ("hit", "miss", "share"),
    [
        (0.5, 1.5, 0.5),
        (0.25, 1.25, 0.25),
        (0.5, 3, 0.8),
        (0, 2, 0.5),
        (0.5, 1, 0),
        (0.3, 0.8, 0),
        (1, 2, None),
        (1.2, 2, None),
        (1.2, 0.9, None),
    ],
)
def test_break_even(hit, miss, share):
    assert break_even(hit, miss) == pytest.approx(share)


@pytest.mark.parametrize(("hit", "miss"), [(0.1, 1.1), (0.58, 2.98), (0.9, 4)])
def test_at_the_break_even_a_call_costs_what_plain_django_costs(hit, miss):
    share = break_even(hit, miss)
    assert share * hit + (1 - share) * miss == pytest.approx(1)


def results(rounds, queries=None):
    """Return results of {(operation, contender): microseconds by round}."""
    rounds = {Case(*names): times for names, times in rounds.items()}
    found = Results([*rounds])
    found.rounds = rounds
    found.counts = dict.fromkeys(rounds, (1, 0))
    for contender, number in (queries or {}).items():
        found.counts[Case("hit", contender)] = number, 1
    return found


def test_break_even_is_that_of_the_ratios_within_a_round():
    found = results(
        {
            ("hit", "plain"): [100, 200, 300],
            ("hit", "plus"): [50, 100, 30],
            ("hit", "cached"): [100, 200, 600],
            ("miss", "plain"): [100, 100, 200],
            ("miss", "plus"): [150, 150, 600],
            ("miss", "cached"): [90, 90, 90],
        },
        queries={"plus": 0, "cached": 0},
    )
    assert [*break_evens(found)] == [
        "PlusManager: hit 0.50, miss 1.50; the cache pays above 50 % of hits",
        "CachedManager: hit 1.00, miss 0.90; the cache never pays",
    ]


def test_break_even_needs_a_hit_and_a_miss_of_a_cache_and_of_plain_django():
    hits = {("hit", "plain"): [100], ("hit", "plus"): [50], ("hit", "nonatomic"): [40]}
    misses = {("miss", "plus"): [150], ("miss", "nonatomic"): [40]}
    queries = {"plus": 0}
    assert [*break_evens(results(hits, queries))] == []
    assert [*break_evens(results(misses))] == []
    assert [*break_evens(results(hits | misses, queries))] == []
    misses |= {("miss", "plain"): [100]}
    [line] = break_evens(results(hits | misses, queries))
    assert line.startswith("PlusManager: ")
