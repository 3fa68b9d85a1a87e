"""Two databases: a row in one of them, and a router of replicas."""

from contextlib import contextmanager

from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

ALIASES = ["default", "other"]


def count_selects(using, call):
    with CaptureQueriesContext(connections[using]) as queries:
        result = call()
    sent = [query["sql"] for query in queries]
    return result, sum(sql.startswith("SELECT") for sql in sent)


def size_and_queries(manager, using, **lookup):
    """Return the row's size, and the number of queries to its database."""
    [other] = {*ALIASES} - {using}
    call = manager.using(using).get_or_create
    ((obj, created), queries), elsewhere = count_selects(
        other, lambda: count_selects(using, lambda: call(**lookup))
    )
    assert (created, elsewhere, obj._state.db) == (False, 0, using)
    return obj.size, queries


class Replica:
    """A router that sends reads to another database than writes."""

    def db_for_read(self, model, **hints):
        return "other"

    def db_for_write(self, model, **hints):
        return "default"


@contextmanager
def isolation(level):
    """Give the connections of the tests' threads an isolation level."""
    options = connection.settings_dict["OPTIONS"]
    before = dict(options)
    if connection.vendor == "mysql":
        options["isolation_level"] = level
    else:
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        options["isolation_level"] = IsolationLevel[level.upper().replace(" ", "_")]
    try:
        yield
    finally:
        options.clear()
        options.update(before)
