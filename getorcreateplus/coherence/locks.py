"""The LOCKs that an open transaction has set in the cache."""

from functools import partial

from ..environment.interruptions import reraise
from .drivers import MAX_KEPT
from .levels import Levels

# Rows of a model that a transaction locks one by one; with more, it locks all.
# So no command of its release has more than some thousand entries.
MAX_LOCKED = MAX_KEPT


class Locks(Levels):
    """
    What a transaction has locked, savepoint by savepoint, and what is to be
    released at its end, also what a savepoint has rolled back.
    """

    def __init__(self, connection):
        super().__init__()
        self.connection = connection
        self.reset_locks()

    def reset_locks(self):
        self.owed = {}  # region: {pk: None} of what was locked
        self.owed_all = set()  # regions
        # (Sent, what to do if that failed) of what was not waited for.
        self.unanswered = []

    def lock(self, region, pks, *, waits=True):
        for level in self.levels:
            if region in level.published:
                for pk in pks:
                    # What was published is no longer what there is.
                    level.published[region].pop(pk, None)
        if self.has_locked_all(region):
            return
        pks = [pk for pk in pks if not self.holds_lock(region, pk)]
        owed = self.owed.setdefault(region, {})
        if len(owed) + len(pks) > MAX_LOCKED:
            self.lock_all(region)
        elif pks:
            owed.update(dict.fromkeys(pks))
            sent = region.lock(self.connection, pks, waits=waits)
            if sent is not None:
                again = partial(region.lock, self.connection, pks)
                self.unanswered.append((sent, again))
            self.levels[-1].locked.setdefault(region, set()).update(pks)

    def wait_for_answers(self):
        """
        Wait for what was sent, because LOCKs and versions must be in place
        before the commit, and payloads before the release.
        """
        while self.unanswered:
            sent, do_without = self.unanswered[0]
            try:
                sent.wait()
            except Exception as error:  # noqa: BLE001 - of any client
                reraise(error)
                do_without()
            del self.unanswered[0]

    def holds_lock(self, region, pk):
        return any(pk in level.locked.get(region, ()) for level in self.levels)

    def lock_all(self, region):
        if not self.has_locked_all(region):
            self.owed_all.add(region)
            region.lock(self.connection, None)
            self.levels[-1].locked_all.add(region)

    def has_locked_all(self, region):
        return any(region in level.locked_all for level in self.levels)

    def record_published(self, region, pk, version):
        """The release of this row is going to set this version."""
        self.levels[-1].published.setdefault(region, {})[pk] = version
