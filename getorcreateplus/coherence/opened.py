"""
The connections of all threads of this process: are they all in autocommit?

A coroutine cannot see the connection that sync_to_async() would use for it.
asgiref chooses the thread, and each thread has its own connection: the thread
that waits in async_to_sync(), perhaps inside atomic(); that of the request; or
the one thread that serves the whole process. In any case, that connection has
either connected, and is known here, or it has not connected, and is not in a
transaction. So if all known connections are in autocommit, that one is, too.

Another thread may begin a transaction at any moment after that. Then the hit
came before it. Transactions that the coroutine itself has waited for, and
those of code that waits for the coroutine, are seen here, because they came
first.
"""

import weakref
from functools import partial

from django.core.signals import setting_changed
from django.db import connections

from ..environment.databases import aliases_of_database, location
from . import drivers
from .transactions import is_apart

# id: weak reference. There is no lock, because each step is a single operation
# of a dict.
known: dict[int, weakref.ref] = {}
stand_ins = {}  # alias: a connection that never connects


def record_opened(connection):
    """Record a connection that has just connected, perhaps again."""
    key = id(connection)
    known[key] = weakref.ref(connection, partial(drop, key))


def drop(key, ref):
    if known.get(key) is ref:
        known.pop(key, None)


def stand_in(using):
    """
    Return a connection in the state that all connections of this alias in this
    process have, in autocommit. Return None if they differ. The returned
    connection never connects.
    """
    database = connections.settings.get(using)
    if database is None:
        return None
    found = stand_ins.get(using)
    if found is None or found.settings_dict is not database:
        found = stand_ins[using] = connections.create_connection(using)
    if not found.settings_dict["AUTOCOMMIT"]:
        return None
    aliases = aliases_of_database(using, database)
    for ref in known.copy().values():
        connection = ref()
        if (
            connection is not None
            and connection.alias in aliases
            and not (
                is_alike(connection, found if connection.alias == using else None)
                and is_plain(connection)
            )
        ):
            return None
    return found


def is_alike(connection, stand_in):
    """
    Return True if a connection shows the database of the settings, and times
    in their zone.
    """
    own, database = connection.settings_dict, connections.settings[connection.alias]
    if own is not database and location(own) != location(database):
        return False
    zone = vars(connection).get("timezone_name")
    return zone is None or stand_in is None or zone == stand_in.timezone_name


def is_plain(connection):
    """
    Return True if a connection, perhaps that of another thread, is certainly
    in autocommit. Send no query to its server.
    """
    return connection.connection is None or (
        # False in atomic(), and also while the outermost one begins and ends.
        connection.autocommit
        and not is_apart(connection)
        and not drivers.may_have_begun(connection)
    )


def clear(**kwargs):
    stand_ins.clear()


setting_changed.connect(clear)
