"""Cache servers of one test, and a firewall in front of a server."""

import os
import socket
import subprocess
import tempfile
import threading
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from django.conf import settings

from getorcreateplus.coherence import clients
from getorcreateplus.writes.registry import cached_models

# tests.on_server sets another one.
REDIS_SERVER = os.environ.get("REDIS_SERVER", "redis-server")

PATIENCE = 10  # seconds


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def started(*command, port):
    """
    Run a server until the end of the block. The block begins when the server
    listens.
    """
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(lambda: can_connect(port))
            yield
        finally:
            process.kill()


def can_connect(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def wait_for(is_done, patience=PATIENCE):
    event = threading.Event()
    for _ in range(patience * 50):
        if is_done():
            return
        event.wait(0.02)
    raise AssertionError(f"It was not so within {patience} s.")


@contextmanager
def redis_server(*options):
    """Run a Redis without persistence; the block gets its LOCATION."""
    port = free_port()
    command = [REDIS_SERVER, "--port", str(port), "--bind", "127.0.0.1"]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        started(*command, "--dir", folder, "--save", "", *options, port=port),
    ):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def memcached(*options):
    port = free_port()
    command = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-u", "nobody"]
    with started(*command, *options, port=port):
        yield f"127.0.0.1:{port}"


class Server:
    """A server that can be killed and started again."""

    process = None

    def __init__(self, port, *command):
        self.port = port
        self.command = command

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: can_connect(self.port))

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class MemcachedServer(Server):
    def __init__(self):
        port = free_port()
        command = "memcached", "-l", "127.0.0.1", "-p", str(port), "-u", "nobody"
        super().__init__(port, *command)


class Gateway:
    """
    A firewall: it forwards connections to the cache server of the settings,
    and closes idle ones, or drops them silently.
    """

    def __init__(self, location=None):
        location = location or settings.CACHES["default"]["LOCATION"]
        location = location if isinstance(location, str) else location[0]
        parts = urlsplit(location if "://" in location else f"tcp://{location}")
        self.lead_to(location)
        self.listener = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.location = location.replace(parts.netloc, address)
        self.pairs = []
        self.sent = []  # what clients have sent, as it came
        self.is_closed = False  # to new connections
        self.delay = 0  # seconds, of each answer
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def lead_to(self, location):
        """Forward the connections that follow to this server."""
        parts = urlsplit(location if "://" in location else f"tcp://{location}")
        self.target = parts.hostname, parts.port

    def accept(self):
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                if self.is_closed:
                    client.close()
                    continue
                server = socket.create_connection(self.target)
                pair = Pair(self, client, server)
                with self.lock:
                    self.pairs.append(pair)

    def cut(self):
        """Close all connections."""
        with self.lock:
            for pair in self.pairs:
                pair.close()
            self.pairs.clear()

    def freeze(self):
        """Forward nothing more on the existing connections."""
        with self.lock:
            for pair in self.pairs:
                pair.is_frozen = True

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


class Pair:
    def __init__(self, gateway, client, server):
        self.gateway = gateway
        self.is_frozen = False
        self.sockets = client, server
        for source, target in ((client, server), (server, client)):
            threading.Thread(
                target=self.forward, args=(source, target), daemon=True
            ).start()

    def forward(self, source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                if source is self.sockets[1]:
                    threading.Event().wait(self.gateway.delay)
                else:
                    self.gateway.sent.append(data)
                if not self.is_frozen:
                    target.sendall(data)
        if not self.is_frozen:
            self.close()

    def close(self):
        for each in self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def caches_at(location, **options):
    """Return CACHES of one cache, of Redis or memcached."""
    name = "redis.RedisCache" if "redis:" in location else "memcached.PyMemcacheCache"
    backend = f"django.core.cache.backends.{name}"
    return {"default": {"BACKEND": backend, "LOCATION": location, **options}}


@contextmanager
def another_process():
    """Be a process without outages and debts."""
    stores = clients.by_alias
    regions = {watch: watch.regions for watch in cached_models.values()}
    clients.by_alias = clients.Clients()
    for watch in regions:
        watch.regions = {}
    try:
        yield
    finally:
        clients.by_alias = stores
        for watch, known in regions.items():
            watch.regions = known
