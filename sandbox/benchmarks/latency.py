"""Proxies that make the database and the cache seem further away."""

import time
from statistics import median
from urllib.parse import urlsplit

from django.conf import settings
from django.core.cache import caches
from django.db import connection
from gazetteer import services

from .proxy import HOST, proxy

ROUND_TRIPS = 30  # are measured; the median counts
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306}
CACHE_PORTS = {"RedisCache": 6379, "PyMemcacheCache": 11211}


class CannotDelay(Exception):
    """The reason why a server cannot be delayed, in a sentence."""


def delay_database(milliseconds, option, stack):
    """
    Reach the default database through a proxy, until the stack is closed.

    Return by how many milliseconds a round trip takes longer. Raise
    CannotDelay, which names the option, if the database is not reached by TCP.
    """
    config = settings.DATABASES["default"]
    address = database_address(config, option)
    before = round_trip(query)
    connection.close()
    port = stack.enter_context(proxy(*address, milliseconds))
    services.configure_database(config | {"HOST": HOST, "PORT": port})
    after = round_trip(query)
    connection.close()
    return after - before


def database_address(config, option):
    """Return the host and the port of a database."""
    engine, host = config["ENGINE"].rpartition(".")[2], config["HOST"]
    if engine not in DATABASE_PORTS:
        raise CannotDelay(
            f"{option} cannot delay SQLite, which is a file. Use --database "
            "postgresql://user:password@host:5432/name, or --cache-latency alone."
        )
    # For MySQL's client, "localhost" means the Unix socket.
    if not host or host.startswith("/") or (engine, host) == ("mysql", "localhost"):
        raise CannotDelay(
            f"{option} cannot delay the Unix socket of the database. Give --database "
            "a host that is reached by TCP, such as 127.0.0.1."
        )
    return host, config["PORT"] or DATABASE_PORTS[engine]


def query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchall()


def delay_cache(milliseconds, option, stack):
    """Do the same for the cache, under all aliases."""
    config = settings.CACHES["default"]
    addresses = cache_addresses(config, option)
    before = round_trip(read)
    ports = [
        stack.enter_context(proxy(*address, milliseconds)) for address in addresses
    ]
    location = config["LOCATION"]
    if isinstance(location, list):
        location = [moved(*each) for each in zip(location, ports, strict=True)]
    else:
        location = moved(location, *ports)
    settings.CACHES = {
        alias: each | {"LOCATION": location} for alias, each in settings.CACHES.items()
    }
    services.replace_settings(caches, settings.CACHES)
    return round_trip(read) - before


def cache_addresses(config, option):
    """Return the hosts and the ports of the servers of a cache."""
    backend = config["BACKEND"].rpartition(".")[2]
    if backend not in CACHE_PORTS:
        raise CannotDelay(
            f"{option} cannot delay {backend}, which is in the memory of a process. "
            "Use --cache redis://host:6379/0, or --database-latency alone."
        )
    locations = config["LOCATION"]
    locations = locations if isinstance(locations, list) else [locations]
    if any(location.startswith("unix:") for location in locations):
        raise CannotDelay(
            f"{option} cannot delay the Unix socket of the cache. Give --cache a host "
            "that is reached by TCP, such as 127.0.0.1."
        )
    parts = map(parse, locations)
    return [(each.hostname, each.port or CACHE_PORTS[backend]) for each in parts]


def parse(location):
    """Return the parts of a URL, or of only a host and a port."""
    return urlsplit(location if "://" in location else f"//{location}")


def moved(location, port):
    """Return a location with the address of a proxy in place of its own."""
    parts = parse(location)
    credentials, at, _ = parts.netloc.rpartition("@")
    address = f"{credentials}{at}{HOST}:{port}"
    return parts._replace(netloc=address).geturl().removeprefix("//")


def read():
    caches["default"].get("missing")


def round_trip(call):
    """Return the milliseconds that a call of one round trip takes."""
    call()  # connects
    times = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return median(times)
