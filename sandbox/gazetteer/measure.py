import time
from contextlib import contextmanager

from django.db import connection

SAVEPOINTS = ("SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO SAVEPOINT")


class Tally:
    """
    Seconds and statements of one side of the demo.

    BEGIN and COMMIT, one of each per transaction, are not counted: most
    databases' drivers send them unseen.
    """

    def __init__(self):
        self.seconds = 0.0
        self.queries = 0
        self.selects = 0
        self.savepoints = 0

    @contextmanager
    def running(self):
        with connection.execute_wrapper(self.count):
            start = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - start

    def count(self, execute, sql, params, many, context):
        if sql.startswith(SAVEPOINTS):
            self.savepoints += 1
        elif not sql.startswith("BEGIN"):
            self.queries += 1
            self.selects += sql.startswith("SELECT")
        return execute(sql, params, many, context)
