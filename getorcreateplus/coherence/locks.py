"""The LOCKs that an open transaction has set in the cache."""

import math
from functools import partial

from ..environment.interruptions import reraise
from .drivers import MAX_KEPT
from .fills import send_publications
from .levels import Levels

# Rows of a model that a transaction locks one by one; if there are more, it
# locks all. So a command of its release has no more than a few thousand
# entries.
MAX_LOCKED = MAX_KEPT
# Updated rows that a transaction publishes together; fewer at first, because
# the commit has to publish the remaining ones.
MAX_PUBLISHED = 16


class Locks(Levels):
    """
    The locked rows of a transaction, by savepoint, and the rows to be released
    at its end, including those that a savepoint has rolled back.
    """

    def __init__(self, connection):
        super().__init__()
        self.connection = connection
        self.reset_locks()

    def reset_locks(self):
        self.owed = {}  # region: {pk: None} of locked rows
        self.owed_all = set()  # regions
        # (Sent, what to do if it failed) for commands that were not waited
        # for.
        self.unanswered = []
        self.clear_unpublished()

    def lock(self, region, pks, *, waits=True):
        # Rows that were published, or will be, are outdated.
        for pk in pks if self.unpublished else ():
            self.unpublished.pop((region, pk), None)
        for level in self.levels:
            if region in level.published:
                for pk in pks:
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
        Wait for the commands that were sent, because LOCKs and versions must
        be set before the commit, and payloads before the release.
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

    # Updated rows, which are published before the commit

    def clear_unpublished(self):
        self.unpublished = {}  # (region, pk): Publication to be sent
        self.publications = 0  # the number of Publications

    def publish_later(self, publication):
        """
        Publish an updated row, together with others. A release drops rows that
        are not published before.
        """
        self.unpublished[publication.region, publication.pk] = publication
        self.publications += 1
        count = min(math.isqrt(2 * self.publications), MAX_PUBLISHED)
        if len(self.unpublished) >= count:
            self.publish_rest()

    def publish_now(self, publications):
        """Publish the rows of one statement."""
        for each in publications:
            self.unpublished[each.region, each.pk] = each
        self.publish_rest()

    def publish_rest(self):
        """Publish the remaining rows."""
        publications, self.unpublished = self.unpublished, {}
        for some, sent in send_publications(publications.values()):
            if sent is not None:
                self.unanswered.append((sent, partial(self.drop_published, some)))
            for each in some:
                self.record_published(each.region, each.pk, each.version)

    def record_published(self, region, pk, version):
        """Record that the release of this row will set this version."""
        self.levels[-1].published.setdefault(region, {})[pk] = version

    def drop_published(self, publications):
        """Let the release delete these payloads, which were not stored."""
        for level in self.levels:
            for each in publications:
                level.published.get(each.region, {}).pop(each.pk, None)
