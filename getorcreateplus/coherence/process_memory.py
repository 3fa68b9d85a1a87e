"""
The memory of this process, in front of the caches: the primary keys that
lookups have found, and with local_timeout the rows themselves.

Both are bounded, and may be lost at any time. A hint may be wrong, because
every hit is compared with its lookup. A row may be as old as local_timeout,
but never older than a write of this process: a row that a reader has read
while another thread wrote it is not kept.
"""

import threading
import time
from contextlib import contextmanager

from cachetools import LRUCache
from django.core.signals import setting_changed
from django.utils.functional import cached_property

from ..conf import conf
from ..environment.forks import renew_in_child
from ..lookups.rows import pack, unpack


class Memory:
    """A bounded mapping that threads share."""

    def __init__(self, setting):
        self.setting = setting  # the setting with the maximum number of entries
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self):
        # Another thread of the parent may have held the lock, in the middle of
        # a change. It is an RLock, because the handler of a signal may need
        # the lock while its own thread holds it.
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
                return self.entries[key]  # get() reads twice
            except KeyError:
                return None

    def put(self, key, value):
        with self.lock:
            # The same as changing(), which takes as long as the change.
            try:
                if self.entries.maxsize > 0:
                    self.entries[key] = value
            except BaseException as error:  # noqa: BLE001 - it is raised again
                self.drop_entries(error)

    def discard(self, key):
        with self.lock, self.changing():
            self.entries.pop(key, None)

    @contextmanager
    def changing(self):
        """
        Drop all entries if a time limit, or Ctrl-C, interrupts a change,
        because each later change would fail.
        """
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - it is raised again
            self.drop_entries(error)

    def drop_entries(self, error):
        self.__dict__.pop("entries", None)
        if type(error) is not KeyError:  # because of an entry of a signal handler
            raise error


class Rows(Memory):
    """Rows by (region, its generation, token prefix, primary key)."""

    def find(self, region, prefix, pk, timeout):
        """
        Return the values of a row that was read less than timeout seconds ago.
        """
        found = self.get((region, region.generation, prefix, pk))
        if found is None:
            return None
        seen, values = found
        if timeout is not None and time.monotonic() - seen > timeout:
            return None
        return unpack(values)

    def keep(self, reading, pk, values):
        """
        Keep a row, unless the region was written after the reading began.
        """
        region = reading.region
        with self.lock, self.changing():
            if region.write_count == reading.write_count and self.entries.maxsize > 0:
                key = region, region.generation, reading.token_prefix, pk
                # A transaction keeps it after its commit, long after it began.
                self.entries[key] = reading.began, pack(values)

    def drop(self, region, prefix, pks):
        """
        Drop these rows, because this process writes them. None means all rows
        of the region.
        """
        with self.lock, self.changing():
            region.write_count += 1
            if pks is None:
                region.generation += 1
            else:
                for pk in pks:
                    self.entries.pop((region, region.generation, prefix, pk), None)


hints = Memory("LOCAL_HINTS")
rows = Rows("LOCAL_ROWS")

setting_changed.connect(hints.clear)
setting_changed.connect(rows.clear)
