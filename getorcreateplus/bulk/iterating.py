"""The batches of an async call that yields results as it goes."""

from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.db import models

from . import BATCH_SIZE


async def arun_batches(begin, objs, batch_size):
    """
    Yield the results of all batches of a sync or an async iterable. ``begin``
    returns the Bulk of the call, and is called together with the first batch,
    because it may query.

    Each batch is one call in a thread. A sync iterable is consumed in that
    call, because it may query. So is a QuerySet, which is both sync and async.
    No iterable is closed: the rest of it belongs to its owner.
    """
    batches = Batches(begin, objs, batch_size or BATCH_SIZE)
    if not hasattr(objs, "__aiter__") or isinstance(objs, models.QuerySet):
        while not batches.is_at_end:
            for result in await sync_to_async(batches.run_next)():
                yield result
        return
    rows = []
    async for row in objs:
        rows.append(row)
        if len(rows) >= batches.size:
            for result in await sync_to_async(batches.run)(rows):
                yield result
            rows = []
    if rows or batches.bulk is None:  # begin() may raise, even without rows
        for result in await sync_to_async(batches.run)(rows):
            yield result


class Batches:
    """The batches of one call, each run in a thread."""

    def __init__(self, begin, objs, size):
        self.begin = begin
        self.objs = objs  # later its iterator
        self.size = size
        self.bulk: Any = None
        self.start = 0  # position of the next row
        self.is_at_end = False

    def run(self, rows):
        """Return the results of these rows, which are the next batch."""
        self.ensure_begun()
        start = self.start
        self.start += len(rows)
        return self.bulk.run(rows, start)

    def run_next(self):
        """Take the next batch of a sync iterable, and return its results."""
        self.ensure_begun()
        self.objs = iter(self.objs)  # iter() of an iterator is the iterator itself
        rows = list(islice(self.objs, self.size))
        self.is_at_end = len(rows) < self.size
        return self.run(rows)

    def ensure_begun(self):
        if self.bulk is None:
            self.bulk = self.begin()
