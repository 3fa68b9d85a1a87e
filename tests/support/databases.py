"""Two databases: a row of one of them, and a router of replicas."""

from django.db import connections
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
    """Reads go to another database than writes."""

    def db_for_read(self, model, **hints):
        return "other"

    def db_for_write(self, model, **hints):
        return "default"
