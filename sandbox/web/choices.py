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
    command: str = ""  # installs the driver that is missing
    is_given: bool = False  # in the environment or as an option of the server

    @property
    def name(self):
        """Its name in the title of a run."""
        if not self.is_given:
            return self.label
        return NAMES.get(urlsplit(self.url).scheme.partition("+")[0], self.label)


# Their usual addresses and users.
POSTGRESQL = "postgresql://postgres@127.0.0.1:5432/postgres"
MYSQL = "mysql://root@127.0.0.1:3306/mysql"
REDIS = "redis://127.0.0.1:6379/0"
MEMCACHED = "pymemcache://127.0.0.1:11211"

# By the schemes of URLs that django-environ reads.
NAMES = {
    "sqlite": "SQLite",
    **dict.fromkeys(["postgres", "postgresql", "psql", "pgsql"], "PostgreSQL"),
    **dict.fromkeys(["mysql", "mysql2"], "MariaDB or MySQL"),
    "locmemcache": "LocMemCache",
    "dummycache": "DummyCache",
    **dict.fromkeys(["redis", "rediss", "rediscache"], "Redis"),
    **dict.fromkeys(["pymemcache", "memcache", "pylibmc"], "memcached"),
}


def databases():
    found = [
        Choice("sqlite", "SQLite", "a temporary file", None),
        Choice("postgresql", "PostgreSQL", new_at(POSTGRESQL), POSTGRESQL, is_new=True),
        Choice("mysql", "MariaDB or MySQL", new_at(MYSQL), MYSQL, is_new=True),
    ]
    if url := os.environ.get("DATABASE_URL"):
        found.append(given("DATABASE_URL", url))
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
        found.append(given("CACHE_URL", url))
    return probed(found, services.answering_cache)


def given(label, url):
    return Choice("given", label, shown(url), url, is_given=True)


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
    """Return the choices with their problems. All are tried at once."""

    def probe(choice):
        if choice.url is None:
            return choice
        try:
            answering(choice.url, timeout=PROBE_TIMEOUT)
        except services.NoDriver as error:
            return choice._replace(problem=str(error), command=error.command)
        except services.Unusable as error:
            return choice._replace(problem=str(error))
        return choice

    with ThreadPoolExecutor() as pool:
        return list(pool.map(probe, choices))
