"""
What this process remembers, in front of the caches: where lookups led to, and
under local_timeout the rows themselves.

Both are bounded, and may be lost at any time. A hint may be wrong, for every
hit is compared with its lookup. A row may be as old as local_timeout says, but
never older than a write of this process: what a reader has seen while one of
its threads wrote is not kept.
"""

import threading
import time
from contextlib import contextmanager

from cachetools import LRUCache
from django.core.signals import setting_changed
from django.utils.functional import cached_property

from ..conf import conf
from ..environment.forks import renew_in_child
from ..lookups.rows import pack, size_of, unpack  # noqa: F401 - for protocol.py


class Memory:
    """A bounded mapping that threads share."""

    def __init__(self, setting):
        self.setting = setting  # its bound, in entries
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self):
        # Another thread may have held the lock, and been at half of a change.
        # The handler of a signal may need it while its own thread holds it.
        self.lock = threading.RLock()
        self.__dict__.pop("entries", None)

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
        with self.lock, self.changing():
            if self.entries.maxsize > 0:
                self.entries[key] = value

    @contextmanager
    def changing(self):
        """
        Forget all entries where a time limit, or Ctrl-C, ends a change at its
        half: each later change would fail.
        """
        try:
            yield
        except BaseException as error:
            self.__dict__.pop("entries", None)
            if type(error) is not KeyError:  # by what a signal handler has kept
                raise


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

    def keep(self, region, place, pk, values, read):
        """Keep a row, unless the region was written since the Read began."""
        with self.lock, self.changing():
            if region.writes == read.writes and self.entries.maxsize > 0:
                key = region, region.generation, place, pk
                # A transaction keeps it after its commit, long after its read.
                self.entries[key] = read.began, pack(values)

    def forget(self, region, place, pks):
        """This process writes these rows; None for all of the region."""
        with self.lock, self.changing():
            region.writes += 1
            if pks is None:
                region.generation += 1
            else:
                for pk in pks:
                    self.entries.pop((region, region.generation, place, pk), None)


hints = Memory("LOCAL_HINTS")
rows = Rows("LOCAL_ROWS")

setting_changed.connect(hints.clear)
setting_changed.connect(rows.clear)
