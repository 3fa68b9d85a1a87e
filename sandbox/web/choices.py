"""The databases and the caches to choose from, and whether they answer."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

from gazetteer import services

PROBE_TIMEOUT = 2  # seconds


class Choice(NamedTuple):
    value: str
    label: str
    description: str
    url: str | None
    is_new: bool = False  # a database made for the run
    problem: str = ""

    @property
    def answers(self):
        return not self.problem


# Where they listen if nobody has said otherwise, and who gets in.
POSTGRESQL = "postgresql://postgres@127.0.0.1:5432/postgres"
MYSQL = "mysql://root@127.0.0.1:3306/mysql"
REDIS = "redis://127.0.0.1:6379/0"
MEMCACHED = "pymemcache://127.0.0.1:11211"


def databases():
    found = [
        Choice("sqlite", "SQLite", "a temporary file", None),
        Choice("postgresql", "PostgreSQL", new_at(POSTGRESQL), POSTGRESQL, is_new=True),
        Choice("mysql", "MariaDB or MySQL", new_at(MYSQL), MYSQL, is_new=True),
    ]
    if url := os.environ.get("DATABASE_URL"):
        found.append(Choice("given", "DATABASE_URL", shown(url), url))
    return probed(found, services.answering_database)


def caches():
    found = [
        Choice(
            "locmem", "LocMemCache", "in the memory of one process", "locmemcache://"
        ),
        Choice("redis", "Redis", shown(REDIS), REDIS),
        Choice("memcached", "memcached", shown(MEMCACHED), MEMCACHED),
    ]
    if url := os.environ.get("CACHE_URL"):
        found.append(Choice("given", "CACHE_URL", shown(url), url))
    return probed(found, services.answering_cache)


def new_at(url):
    return f"a new database at {urlsplit(url).netloc}"


def shown(url):
    """Return a URL without its password, nor options that may be one."""
    address, _, options = url.partition("?")
    scheme, slashes, rest = address.rpartition("://")
    user, at, host = rest.rpartition("@")
    if not at and "@" in options:  # a password with a "?", perhaps
        host = host.partition(":")[0]
    return f"{scheme}{slashes}{user.partition(':')[0]}{at}{host}"


def probed(choices, answering):
    """Return the choices with what is wrong with them, asked all at once."""

    def probe(choice):
        if choice.url is None:
            return choice
        try:
            answering(choice.url, timeout=PROBE_TIMEOUT)
        except services.Unusable as error:
            return choice._replace(problem=str(error))
        return choice

    with ThreadPoolExecutor() as pool:
        return list(pool.map(probe, choices))
