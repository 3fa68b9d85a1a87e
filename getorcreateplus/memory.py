"""
What this process remembers, in front of the caches: where lookups led to, and
under local_timeout the rows themselves.

Both are bounded, and may be lost at any time. A hint may be wrong, for every
hit is compared with its lookup. A row may be as old as local_timeout says, but
never older than a write of this process: what a reader has seen while one of
its threads wrote is not kept.
"""

import pickle
import threading
import time
from functools import cached_property

from cachetools import LRUCache
from django.core.signals import setting_changed

from .conf import conf
from .payload import IMMUTABLE


class Memory:
    """A bounded mapping that threads share."""

    def __init__(self, setting):
        self.setting = setting  # its bound, in entries
        self.lock = threading.Lock()

    @cached_property
    def entries(self):
        return LRUCache(getattr(conf, self.setting))

    def clear(self, **kwargs):
        with self.lock:
            self.__dict__.pop("entries", None)

    def get(self, key):
        with self.lock:
            try:
                return self.entries[key]  # get() looks twice
            except KeyError:
                return None

    def put(self, key, value):
        with self.lock:
            if self.entries.maxsize > 0:
                self.entries[key] = value


class Rows(Memory):
    """Rows by (region, its generation, world, primary key)."""

    def find(self, region, place, pk, timeout):
        """Return the values of a row that was seen within timeout seconds."""
        found = self.get((region, region.generation, place, pk))
        if found is None:
            return None
        seen, values = found
        if timeout is not None and time.monotonic() - seen > timeout:
            return None
        return unpack(values)

    def keep(self, region, place, pk, values, writes):
        """Keep a row, unless the region was written since ``writes``."""
        with self.lock:
            if region.writes == writes and self.entries.maxsize > 0:
                key = region, region.generation, place, pk
                self.entries[key] = time.monotonic(), pack(values)

    def forget(self, region, place, pks):
        """This process writes these rows; None for all of the region."""
        with self.lock:
            region.writes += 1
            if pks is None:
                region.generation += 1
            else:
                for pk in pks:
                    self.entries.pop((region, region.generation, place, pk), None)


def pack(values):
    """Return column values in a form that nobody can change."""
    if IMMUTABLE.issuperset(map(type, values)):
        return values
    return pickle.dumps(values, pickle.HIGHEST_PROTOCOL)


def unpack(values):
    return pickle.loads(values) if type(values) is bytes else values


hints = Memory("LOCAL_HINTS")
rows = Rows("LOCAL_ROWS")

setting_changed.connect(hints.clear)
setting_changed.connect(rows.clear)
