"""What a test does to a transaction: undo it, isolate it, see it elsewhere."""

from contextlib import contextmanager

from django.db import connection


class Rollback(Exception):
    """It undoes the atomic() block that it leaves."""


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
