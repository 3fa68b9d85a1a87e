import time
from contextlib import contextmanager

from django.db import connection

from .contenders import PLAIN

SAVEPOINTS = ("SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO SAVEPOINT")


@contextmanager
def as_if_alone(name):
    """
    Let a contender work. Plain Django works as if this package were not
    installed, because the package reads each statement of a connection, by an
    execute wrapper: a row that is created takes up to a fourth longer.
    """
    wrappers = connection.execute_wrappers
    before = [*wrappers]
    if name == PLAIN:
        wrappers[:] = [
            wrapper
            for wrapper in wrappers
            if not type(wrapper).__module__.startswith("getorcreateplus.")
        ]
    try:
        yield
    finally:
        wrappers[:] = before


class Tally:
    """
    Rows, seconds and statements of one contender.

    BEGIN and COMMIT, one of each per transaction, are not counted: most
    databases' drivers send them unseen.
    """

    def __init__(self):
        self.imported = 0  # of the source
        self.created = 0  # in the database
        self.updated = None  # in the database: counted at the end
        self.since = None  # of a turn that is not over
        self.past = 0.0  # seconds of the turns before
        self.queries = 0
        self.selects = 0
        self.savepoints = 0

    @contextmanager
    def running(self):
        with connection.execute_wrapper(self.count):
            self.since = time.perf_counter()
            yield
            self.past, self.since = self.seconds, None

    @property
    def seconds(self):
        if self.since is None:
            return self.past
        return self.past + time.perf_counter() - self.since

    @property
    def rate(self):
        """Rows created per second."""
        return self.created / self.seconds if self.seconds else 0.0

    @property
    def import_rate(self):
        """Rows of the source per second."""
        return self.imported / self.seconds if self.seconds else 0.0

    def count(self, execute, sql, params, many, context):
        if sql.startswith(SAVEPOINTS):
            self.savepoints += 1
        elif not sql.startswith("BEGIN"):
            self.queries += 1
            self.selects += sql.startswith("SELECT")
        return execute(sql, params, many, context)
