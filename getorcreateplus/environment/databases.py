"""
The database that an alias shows. It may change while the process runs.

Tests change the NAME of a database, and so do projects that choose a database
per request. The entries of a database are named after it, in the cache and in
the memory of the process.
"""

import functools
import os
import secrets
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.db import connections
from django.db.backends.base.creation import TEST_DATABASE_PREFIX
from django.db.utils import load_backend

from .cached_functions import runs_after_change_of

locations_at_start = {}  # alias: its location() when the process began
# Values by alias, each together with the values from which it was computed.
known_names = {}  # alias: (the source, the parts of its name)
known_aliases = {}  # alias: (the source, the aliases of its database)
# An in-memory database of SQLite belongs to one process, even with a NAME.
process_token = secrets.token_hex(8)


def database_name(alias, database):
    """
    Return the parts that name an alias's database in cache keys.

    They are only the alias, unless another process may have another database
    under it: because this database belongs to tests, or because the project
    has moved the alias after the process began.
    """
    # The same as location() and is_testing(), which are two more calls for
    # each hit.
    tests = sys.modules.get("django.test.utils")
    computed_from = (
        (database.get("NAME"), database.get("HOST"), database.get("PORT")),
        tests is not None and hasattr(tests._TestState, "saved_data"),
    )
    found = known_names.get(alias)
    if found is None or found[0] != computed_from:
        parts = tuple(name_parts(alias, database, *computed_from))
        found = known_names[alias] = computed_from, parts
    return found[1]


def aliases_of_database(alias, database):
    """
    Return the aliases that show the same database as this one, itself first.

    They may show it differently, with another role or search_path. So each
    alias has its own entries, and a write through one of them invalidates the
    rows of all.
    """
    databases = connections.settings
    if len(databases) == 1:
        return (alias,)
    # Tests rename one alias after the other.
    computed_from = (
        location(database),
        *map(location, databases.values()),
        is_testing(),
    )
    found = known_aliases.get(alias)
    if found is None or found[0] != computed_from:
        others = [
            other
            for other, theirs in databases.items()
            if other != alias and is_same_database(alias, database, other, theirs)
        ]
        found = known_aliases[alias] = computed_from, (alias, *others)
    return found[1]


def is_testing():
    """Return True if Django's test environment is set up."""
    tests = sys.modules.get("django.test.utils")
    return tests is not None and hasattr(tests._TestState, "saved_data")


def location(database):
    """
    Return the location of a database according to the settings of its alias.
    """
    return database.get("NAME"), database.get("HOST"), database.get("PORT")


def name_parts(alias, database, now, testing):
    yield alias
    if is_in_memory(database):
        yield process_token
    start = locations_at_start.setdefault(alias, now)
    if testing or is_of_tests(database) or now[0] != start[0]:
        yield str(now[0])
    if now[1:] != start[1:]:
        yield from map(str, now[1:])


def is_of_tests(database):
    """
    Return True if the NAME is one that Django gives to a test database.

    So a process that a test has started without the test environment uses the
    entries of the test.
    """
    name, named = database.get("NAME"), database.get("TEST", {}).get("NAME")
    return name is not None and (
        Path(str(name)).name.startswith(TEST_DATABASE_PREFIX) or str(name) == str(named)
    )


def is_in_memory(database):
    name = str(database.get("NAME"))
    return (":memory:" in name or "mode=memory" in name) and (
        vendor_of(database) == "sqlite"
    )


# The vendor by a word that the names of most engines contain.
VENDORS = {"postg": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}


def vendor_of(database):
    """Return the vendor of a database, whose engine may have any name."""
    return vendor_of_engine(str(database.get("ENGINE")))


@functools.cache
def vendor_of_engine(engine):
    try:
        return load_backend(engine).DatabaseWrapper.vendor
    except Exception:  # noqa: BLE001 - an engine that cannot be used here
        return next((v for part, v in VENDORS.items() if part in engine), engine)


# Do two aliases show the same database?


def is_same_database(alias, database, other, theirs):
    mine = server_and_name(database)
    if mine is not None and server_and_name(theirs) == mine:
        return True
    # Outside of tests a MIRROR is a replica, which lags behind.
    return is_testing() and (mirror_of(database) == other or mirror_of(theirs) == alias)


def is_same_server(one, other):
    found = server_and_name(one), server_and_name(other)
    return None not in found and found[0][:-1] == found[1][:-1]


# Names of this machine, and the ports where servers listen by default.
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
DEFAULT_PORTS = {"5432", "3306"}


def server_and_name(database):
    """
    Return a value that all aliases of a database have in common, None if it
    cannot be compared.
    """
    name, vendor = database.get("NAME"), vendor_of(database)
    if not name or str(name) == ":memory:":
        return None  # named by an option, or one for each connection
    if vendor == "sqlite":
        # A shared in-memory database has a URI, and no path.
        return vendor, name if is_in_memory(database) else real_path(str(name))
    host, port = str(database.get("HOST") or ""), str(database.get("PORT") or "")
    host = "" if host in LOCAL_HOSTS else host
    port = "" if port in DEFAULT_PORTS else port
    return vendor, host, port, str(name)


def real_path(name):
    """Return the path of a database of SQLite, whose NAME may be a URI."""
    parts = urlsplit(name)
    if parts.scheme == "file":
        name = unquote(parts.path)
    return os.path.realpath(name)


def mirror_of(database):
    return database.get("TEST", {}).get("MIRROR")


# When these values become wrong


def record_start():
    for alias, database in connections.settings.items():
        locations_at_start.setdefault(alias, location(database))


def renew_process_token():
    """A forked process has in-memory databases of its own: copies."""
    global process_token  # noqa: PLW0603
    process_token = secrets.token_hex(8)
    known_names.clear()


@runs_after_change_of("DATABASES")
def clear_known_databases():
    known_names.clear()
    known_aliases.clear()
    locations_at_start.clear()


os.register_at_fork(after_in_child=renew_process_token)
if settings.configured:
    record_start()
