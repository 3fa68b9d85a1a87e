"""
Processes that read and write hot rows on real servers, while entries of the
cache are evicted, the cache is flushed and restarted, Redis loses its scripts,
and writers are killed. In a cluster, or with a Sentinel, the primary dies, and
a replica takes over. A cluster also moves the rows to another server in the
meantime.

Every write that has returned raises the floor of its row, in memory that the
processes share; a read that began after that and yields less is a wrong
answer. So is a value that was rolled back, a row that was deleted, and at the
end a row in the cache that differs from the database.

Three things are left out, because the protocol does not promise them. A killed
writer has its own row: another writer of it could release the row that the
dead one had locked. No cache is flushed while a writer may be killed, because
that loses its LOCK. And answers are not judged from the restart of a server
until every process reaches it again, because processes that do not reach it
owe their releases.
"""

import argparse
import os
import random
import socket
import sys
from contextlib import contextmanager

from .support.clusters import redis_cluster, redis_sentinel
from .support.servers import REDIS_SERVER, Server, free_port

LOCK_TIMEOUT = 5  # seconds; longer than any transaction here


def main(args=None):
    options = parse(args)
    with servers(options) as running:
        configure(options, running)
        with database():
            # It imports models, so it is imported after Django is set up.
            from .stress_processes import Run

            return Run(options, running).go()


def parse(args):
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress",
        description="Look for wrong answers of a cache under load. Exit with 1 for "
        "any, or when under a fifth of the reads were hits.",
    )
    add = parser.add_argument
    add("--seconds", type=float, default=60, help="of reading and writing (60)")
    add(
        "--database",
        metavar="URL",
        default=os.environ.get("DATABASE_URL"),
        help="PostgreSQL or MariaDB, where a database is created for the run "
        "(DATABASE_URL)",
    )
    add(
        "--cache",
        choices=["redis", "memcached", "cluster", "sentinel"],
        default="memcached"
        if "memcache" in os.environ.get("CACHE_URL", "")
        else "redis",
        help="which servers to start for the run (as in CACHE_URL, or else redis)",
    )
    add("--servers", type=int, default=1, help="memcached servers of the alias (1)")
    add("--buckets", type=int, default=1, help="of each model in the cluster (1)")
    add("--readers", type=int, default=3, help="processes (3)")
    add("--writers", type=int, default=2, help="processes (2)")
    add("--rows", type=int, default=8, help="hot rows (8)")
    add("--seed", type=int, default=None, help="of all random choices")
    for name in "kill", "flush", "restart", "evict", "scripts", "move":
        add(f"--no-{name}", dest=name, action="store_false", help="leave it alone")
    options = parser.parse_args(args)
    if not options.database or options.database.startswith("sqlite"):
        parser.error("--database or DATABASE_URL: PostgreSQL or MariaDB is needed.")
    if options.servers > 1 and options.cache != "memcached":
        parser.error("--servers: several are for memcached.")
    if options.buckets > 1 and options.cache != "cluster":
        parser.error("--buckets: several are for a cluster.")
    if options.seed is None:
        options.seed = random.randrange(2**32)
    return options


# The servers


class CacheServer(Server):
    """A cache server of this run, on its own port."""

    def __init__(self, kind):
        self.kind = kind
        port = free_port()
        if kind == "redis":
            command = [REDIS_SERVER, "--port", str(port), "--save", ""]
        else:
            command = ["memcached", "-p", str(port), "-U", "0", "-u", "nobody"]
            command += ["-m", "64", "-l", "127.0.0.1"]
        super().__init__(port, *command)
        self.start()

    def flush(self):
        self.send("FLUSHALL" if self.kind == "redis" else "flush_all")

    def lose_scripts(self):
        self.send("SCRIPT FLUSH")

    def send(self, command):
        with socket.create_connection(("127.0.0.1", self.port)) as client:
            client.sendall(f"{command}\r\n".encode())
            client.recv(100)

    def stop(self, keys):
        self.kill()


@contextmanager
def servers(options):
    if options.cache in {"cluster", "sentinel"}:
        kind = {"cluster": redis_cluster, "sentinel": redis_sentinel}[options.cache]
        with kind() as group:
            yield [group]
        return
    started = []
    try:
        for _ in range(options.servers):
            started.append(CacheServer(options.cache))  # noqa: PERF401
        yield started
    finally:
        for server in started:
            server.stop(())


def configure(options, running):
    os.environ["DATABASE_URL"] = options.database
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django
    from django.conf import settings

    default = settings.DATABASES["default"]
    default["TEST"] = {"NAME": f"stress_{os.getpid()}"}
    settings.DATABASES = {"default": default}
    settings.GETORCREATEPLUS_LOCK_TIMEOUT = LOCK_TIMEOUT
    labels = "tests.Gauge", "tests.FarGauge"
    settings.GETORCREATEPLUS_BUCKETS = dict.fromkeys(labels, options.buckets)
    if options.cache in {"cluster", "sentinel"}:
        cache = running[0].config()
    elif options.cache == "redis":
        cache = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{running[0].port}",
        }
    else:
        cache = {
            "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
            "LOCATION": [f"127.0.0.1:{server.port}" for server in running],
            # A server that does not answer keeps its keys. If each process
            # moved them to another server at its own time, there would be two
            # entries, one of them outdated.
            "OPTIONS": {"retry_attempts": 2**31, "retry_timeout": 0.1},
        }
    settings.CACHES = {"default": cache}
    django.setup()
    from getorcreateplus.coherence import asking
    from getorcreateplus.coherence.clients import CacheClient

    # Each write that fails doubles the pause, and all have to come back.
    CacheClient.MAX_PAUSE = 5
    # Each read uses the cache, because only a hit can be wrong.
    asking.REST, asking.PATIENCE = 0, 2**31


@contextmanager
def database():
    from django.db import connection

    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)


if __name__ == "__main__":
    sys.exit(main())
