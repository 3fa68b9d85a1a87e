"""Redis servers that replace each other: a cluster, and a Sentinel."""

import itertools
import os
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .servers import REDIS_SERVER, Server, can_connect, wait_for

# A server counts as dead after this number of milliseconds.
NODE_TIMEOUT = 2000


# A server of a cluster also has another port, 10,000 above its own. Each
# process tries other ports, because it may take a while until they are in use.
ports = itertools.cycle(range(10_000, 22_000))
ports = itertools.islice(ports, os.getpid() % 500 * 24, None)


def free_ports():
    """Return a free port, whose second port is free, too."""
    return next(
        port
        for port in ports
        if not can_connect(port) and not can_connect(port + 10_000)
    )


class RedisServer(Server):
    def __init__(self, folder, *options, sentinel=()):
        port = free_ports()
        self.folder = Path(folder) / str(port)
        self.folder.mkdir()
        command = [REDIS_SERVER]
        if sentinel:
            config = self.folder / "sentinel.conf"  # which it writes itself
            config.write_text("\n".join(sentinel))
            command.append(str(config))
        command += ["--port", str(port), "--bind", "127.0.0.1"]
        super().__init__(port, *command, "--dir", str(self.folder), *options)

    def location(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def cli(self, *args):
        """Return the server's answer to redis-cli."""
        command = ["redis-cli", "-p", str(self.port), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()


@contextmanager
def running_servers(count, *options):
    """
    Start this number of servers. The block gets them, their folder, and a
    stack that ends them.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        running = []
        for _ in range(count):
            running.append(RedisServer(folder, "--save", "", *options))
            stack.callback(running[-1].kill)
            running[-1].start()
        yield running, folder, stack


class RedisCluster:
    """Three primaries, each with a replica."""

    def __init__(self, running):
        self.servers = running

    def config(self, **options):
        return {
            "BACKEND": "django_valkey.cluster_cache.cache.ClusterValkeyCache",
            "LOCATION": ",".join(f"valkey://127.0.0.1:{s.port}" for s in self.servers),
            "OPTIONS": {
                "BASE_CLIENT_KWARGS": {
                    "socket_connect_timeout": 1,
                    "socket_timeout": 1,
                }
            },
            **options,
        }

    def nodes(self):
        """Yield (port, id, flags, id of the primary, slots) of each server."""
        for line in self.alive().cli("cluster", "nodes").splitlines():
            name, address, flags, primary, *rest = line.split()
            port = int(address.split("@")[0].rpartition(":")[2])
            yield port, name, flags.split(","), primary, rest[4:]

    def primary_of(self, slot):
        """Return the server that has a slot, and its id."""
        for port, name, flags, _, ranges in self.nodes():
            for each in ranges:
                first, _, last = each.partition("-")
                if (
                    "master" in flags
                    and "fail" not in flags
                    and not each.startswith("[")
                    and int(first) <= slot <= int(last or first)
                ):
                    return self.server_at(port), name
        return None, None

    def server_at(self, port):
        return next(server for server in self.servers if server.port == port)

    # As a server of tests.stress

    def slot(self, key):
        return int(self.alive().cli("cluster", "keyslot", key))

    def alive(self):
        return next(server for server in self.servers if server.process)

    def flush(self):
        for server in self.servers:
            if server.process:
                server.cli("flushall")  # a replica refuses

    def lose_scripts(self):
        for server in self.servers:
            if server.process:
                server.cli("script", "flush")

    def stop(self, keys):
        """Kill the primary that has the first of these keys."""
        self.stop_primary_of(self.slot(keys[0]))

    def stop_primary_of(self, slot):
        self.stopped_slot = slot
        self.stopped, _ = self.primary_of(slot)
        self.stopped.kill()

    def start(self):
        """Wait until a replica has taken over, and the killed one is back."""
        dead = self.stopped
        wait_for(
            lambda: (
                self.primary_of(self.stopped_slot)[0] not in {None, dead}
                and "cluster_state:ok" in self.alive().cli("cluster", "info")
            ),
            patience=30,
        )
        dead.start()
        wait_for(
            lambda: "master_link_status:up" in dead.cli("info", "replication"),
            patience=30,
        )

    def move_anywhere(self, key, random):
        slot = self.slot(key)
        source, _ = self.primary_of(slot)
        others = [
            port
            for port, _, flags, _, _ in self.nodes()
            if "master" in flags and "fail" not in flags and port != source.port
        ]
        for _ in self.move(slot, random.choice(others), keys_at_once=1):
            pass

    def move(self, slot, to, keys_at_once=10):
        """
        Move a slot to another server, in several steps. Yield after each step.
        """
        (source, source_id), target = self.primary_of(slot), self.server_at(to)
        self.moving = slot, source.port, to
        [target_id] = [name for port, name, *_ in self.nodes() if port == to]
        target.cli("cluster", "setslot", slot, "importing", source_id)
        source.cli("cluster", "setslot", slot, "migrating", target_id)
        yield
        while keys := source.cli("cluster", "getkeysinslot", slot, keys_at_once):
            for key in keys.splitlines():
                source.cli("migrate", "127.0.0.1", to, key, 0, 5000)
                yield
        for server in target, source, *self.servers:
            server.cli("cluster", "setslot", slot, "node", target_id)
        yield


@contextmanager
def redis_cluster():
    options = "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT)
    options += (
        "--repl-diskless-sync-delay",
        "0",
        "--cluster-replica-validity-factor",
        "0",
    )
    with running_servers(6, *options) as (running, _, _):
        command = ["redis-cli", "--cluster", "create"]
        command += [f"127.0.0.1:{server.port}" for server in running]
        command += ["--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for server in running:
            wait_for(
                lambda server=server: (
                    "cluster_state:ok" in server.cli("cluster", "info")
                )
            )
        for server in running[3:]:
            wait_for(
                lambda server=server: (
                    "master_link_status:up" in server.cli("info", "replication")
                )
            )
        yield RedisCluster(running)


class RedisSentinel:
    """A primary and its replica, and a Sentinel that promotes the replica."""

    name = "main"

    def __init__(self, running, sentinel):
        self.servers = running
        self.sentinel = sentinel

    def config(self, package="django_redis", **options):
        scheme = package.removeprefix("django_")
        return {
            "BACKEND": f"{package}.cache.{scheme.title()}Cache",
            "LOCATION": f"{scheme}://{self.name}/0",
            "OPTIONS": {
                "CONNECTION_FACTORY": f"{package}.pool.SentinelConnectionFactory",
                "SENTINELS": [("127.0.0.1", self.sentinel.port)],
                "SOCKET_CONNECT_TIMEOUT": 1,
                "SOCKET_TIMEOUT": 1,
            },
            **options,
        }

    def primary(self):
        port = self.sentinel.cli("sentinel", "get-master-addr-by-name", self.name)
        _, port = port.split()
        return next(server for server in self.servers if server.port == int(port))

    def has_replica(self):
        info = self.sentinel.cli("sentinel", "replicas", self.name)
        return "master-link-status\nok" in info

    # As a server of tests.stress

    def flush(self):
        self.primary().cli("flushall")

    def lose_scripts(self):
        self.primary().cli("script", "flush")

    def stop(self, keys):
        wait_for(self.has_replica, patience=30)
        self.stopped = self.primary()
        self.stopped.kill()

    def wait_for_another_primary(self):
        wait_for(
            lambda: (
                self.primary() is not self.stopped
                and "role:master" in self.primary().cli("info", "replication")
            ),
            patience=30,
        )

    def start(self):
        """Wait until a replica has taken over, and the killed one is back."""
        self.wait_for_another_primary()
        dead = self.stopped
        dead.start()
        wait_for(lambda: "role:slave" in dead.cli("info", "replication"), patience=60)


@contextmanager
def redis_sentinel():
    options = "--repl-diskless-sync-delay", "0"
    with running_servers(2, *options) as (running, folder, stack):
        first, second = running
        second.cli("replicaof", "127.0.0.1", first.port)
        name = RedisSentinel.name
        sentinel = RedisServer(
            folder,
            "--sentinel",
            sentinel=(
                f"sentinel monitor {name} 127.0.0.1 {first.port} 1",
                f"sentinel down-after-milliseconds {name} {NODE_TIMEOUT}",
                f"sentinel failover-timeout {name} 3000",
            ),
        )
        stack.callback(sentinel.kill)
        sentinel.start()
        group = RedisSentinel(running, sentinel)
        wait_for(group.has_replica, patience=30)
        yield group
