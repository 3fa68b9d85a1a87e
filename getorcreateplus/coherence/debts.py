"""
Debts of a process to a cache that did not answer: releases, and LOCKs without
a later release.

A debt is kept until it is paid. No debt is lost if paying is interrupted, and
no other thread treats the cache as paid in the meantime.
"""

import threading
from functools import partial

MAX_ROWS = 1000  # rows of one model; if there are more, all of its rows are owed


class Debts:
    """
    The debts to one cache, each a region and its primary keys, None for all
    rows of the model.

    A region has release_now(), lock_now() and drop_rows(), which pay.
    """

    def __init__(self):
        self.begin_anew()
        self.releases, self.locks = {}, {}
        self.marks = {}  # region: an object that is replaced with each new debt

    def begin_anew(self):
        # An RLock, because the handler of a signal may write while its own
        # thread holds it.
        self.lock = threading.RLock()

    def __bool__(self):
        return bool(self.releases or self.locks)

    def owe_release(self, region, pks):
        self._add(self.releases, region, pks)

    def owe_lock(self, region, pks):
        self._add(self.locks, region, pks)

    def _add(self, owed, region, pks):
        with self.lock:
            known = owed.get(region, set())
            if known is not None and pks is not None:
                known = known | set(pks)
            if pks is None or (known and len(known) > MAX_ROWS):
                known = None
            owed[region] = known
            self.marks[region] = object()

    def copy(self):
        with self.lock:
            return self.releases.copy(), self.locks.copy()

    def pay(self, releases, locks, attempt):
        """
        Pay these debts. ``attempt`` gets functions, and calls them until the
        cache accepts one; or it raises.
        """
        for region, pks in releases.items():
            mark = self.marks.get(region)
            attempt(partial(region.release_now, pks), partial(region.drop_rows, pks))
            self._clear(self.releases, region, pks, mark)
        for region, pks in locks.items():  # last, because they may be the same rows
            mark = self.marks.get(region)
            region.lock_now(pks)
            self._clear(self.locks, region, pks, mark)

    def _clear(self, owed, region, pks, mark):
        with self.lock:
            # Unless rows of the region, perhaps the same, are owed since then.
            if owed.get(region, ()) is pks and self.marks.get(region) is mark:
                del owed[region]
                self.marks.pop(region, None)
