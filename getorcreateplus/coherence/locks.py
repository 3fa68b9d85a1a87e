"""The LOCKs that an open transaction has set in the cache."""

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

    def lock(self, region, pks):
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
            region.lock(self.connection, pks)
            self.levels[-1].locked.setdefault(region, set()).update(pks)

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
