"""
A reader. It finds out whether the cache may be read, reads it, and returns the
reason if a row is not a hit.
"""

import time
from contextlib import suppress

from ..signals import Reason
from . import process_memory, rules
from .ahead import Ahead
from .faults import CacheFault, Unreachable, Unreadable
from .journal import MAX_SINGLE, journal
from .looking import Look, SoughtRow
from .situations import is_aborted, release_what_has_ended, situation
from .transactions import in_transaction

__all__ = ["CoroutineReading", "Reading", "SoughtRow"]


class Reading(Look):
    """
    The reads of the cache by one call.

    ask() serves a single call, ask_many() a batch, with the same steps and the
    same verdict. asking.py measures only single calls, because a batch costs
    less per row.
    """

    asked = False  # True if the cache was read for a hit
    failed = False  # True if the cache has failed
    omitted = None  # the Reason why the cache was not read
    sample = "all"  # the part of the reads that this one represents: asking.py
    insists = False  # True to read the cache even if that does not save time
    is_new = False  # the row is probably one that does not exist yet
    answered = None  # time.monotonic() at the end of the read
    updated = None  # (sought, pk, values) of a row that the call has updated

    @property
    def is_of_no_use(self):
        """Return True if the rows from the database are not kept."""
        return self.omitted is not None and not in_transaction(self.connection)

    # One row

    def ask(self, sought, may_hit=True):
        """Return the column values of a hit, or None."""
        connection, region = self.connection, self.region
        if connection.in_atomic_block or "getorcreateplus_kept" in vars(connection):
            release_what_has_ended(connection)
        in_cache, may_fill = situation(connection)
        if connection.in_atomic_block and self._ask_transaction(sought, may_hit):
            return sought.values
        self.asked = may_hit = may_hit and in_cache
        if not (may_hit or may_fill):
            return None
        asking = region.asking
        if (
            may_hit
            and (asking.rate is not None or asking.rests_until or asking.large)
            and self._omit(sought)
        ):
            return None
        began = time.monotonic()
        pk = sought.pk
        if pk is None:
            pk = process_memory.hints.get((region, sought.lookup))
            sought.pk = sought.remembered_pk = pk
        try:
            if not may_hit or self.local_timeout != 0 or connection.in_atomic_block:
                self._look([sought], may_hit, may_fill)
            elif pk is None:
                self._look_by_hint(sought, may_fill)
            else:
                # The short path to a hit: the same as _look(), for one known
                # row.
                keys = region.keys_of_row(pk)
                if sought.lookup is None and region.vouches_by_pk:
                    # The version may be absent: then the clock vouches.
                    entries = self.client.look((*keys, region.clock_key))
                else:
                    entries = self.client.look(keys)
                sought.seen = seen = tuple(map(entries.get, keys))
                if rules.verdict(seen, self, sought) is None:
                    sought.values = seen[0][2]
                else:
                    entries = dict.fromkeys(keys) | entries
                    self._look([sought], may_hit, may_fill, entries)
        except CacheFault as fault:
            self._give_up(fault, [sought])
        self.answered = time.monotonic()
        if may_hit and not self.failed:
            is_hit = sought.values is not None
            asking.record_look(self.sample, self.answered - began, is_hit)
        return sought.values

    def _ask_transaction(self, sought, may_hit):
        """
        Serve the row if this transaction has written it. Return True if the
        cache must not be read.
        """
        if self.connection.needs_rollback:
            return True  # Django refuses any query
        if not in_transaction(self.connection):
            return False
        if is_aborted(self.connection):
            return True  # PostgreSQL refuses any query
        if self._serve_own(sought, may_hit):
            return True
        # A transaction that only creates rows would read without a hit.
        self.is_new = self._is_probably_new(sought)
        return self.is_new

    def _is_probably_new(self, sought):
        region = self.region
        return (
            journal(self.connection).streaks.get(region, 0) >= MAX_SINGLE
            and sought.lookup is not None
            and process_memory.hints.get((region, sought.lookup)) is None
        )

    def _omit(self, sought):
        """If the cache is not to be read, set the reason and return True."""
        # Rows under the LOCK of a TestCase are its own. A forced SELECT
        # corrects the cache. The process's own memory costs nothing.
        if self.token_prefix or self.insists or self.local_timeout != 0:
            return False
        asking, lookup = self.region.asking, sought.lookup
        pk = sought.pk
        if pk is None and asking.large:
            pk = process_memory.hints.get((self.region, lookup))
        if asking.is_too_large(pk):
            self.omitted = Reason.LARGE
        elif asking.is_resting():
            self.omitted = Reason.LOCKED
        else:
            self.sample = asking.sample(lookup or pk)
            if self.sample is None:
                self.omitted = Reason.SELDOM
        return self.omitted is not None

    # Many rows

    def ask_many(self, rows):
        """Set the values of the rows that are hits."""
        connection = self.connection
        release_what_has_ended(connection)
        may_hit, may_fill = situation(connection)
        if connection.in_atomic_block:
            if connection.needs_rollback:
                return  # Django refuses any query
            if in_transaction(connection):
                if is_aborted(connection):
                    return  # PostgreSQL refuses any query
                rows = self._not_own(rows)
        self.asked = may_hit
        if not rows or not (may_hit or may_fill):
            return
        for row in rows:
            if row.lookup is not None and row.pk is None:
                row.pk = process_memory.hints.get((self.region, row.lookup))
                row.remembered_pk = row.pk
        try:
            self._look(rows, may_hit, may_fill)
        except CacheFault as fault:
            self._give_up(fault, rows)

    # Failures

    def _give_up(self, fault, rows):
        """Continue without the cache, because it has failed."""
        self.may_fill, self.failed = False, True
        if isinstance(fault, Unreadable):
            self._delete_unreadable(rows)

    def _delete_unreadable(self, rows):
        """
        Delete entries that cannot be unpickled, because they would stay
        misses.
        """
        region = self.region
        # In a batch, most hints and versions are good, and versions may be
        # LOCKs.
        hints = [
            self.hint_key(row)
            for row in rows
            if row.lookup is not None and not (self.is_batch and row.hint_key is None)
        ]
        keys = [region.payload_key(row.pk) for row in rows if row.pk is not None]
        if not self.is_batch:
            keys += (region.version_key(row.pk) for row in rows if row.pk is not None)
        for client, unreadable in ((self.key_client, hints), (self.client, keys)):
            if unreadable:
                with suppress(Unreachable):
                    client.delete(unreadable)

    # Results

    def seconds(self):
        """Return the seconds since the reading began."""
        return time.monotonic() - self.began

    def reason(self, row):
        """Return the Reason why a row was not a hit."""
        if self.failed:
            return Reason.ERROR
        if not self.asked:
            return Reason.TRANSACTION
        if self.omitted is not None:
            return self.omitted
        if row.seen is None:
            return Reason.NO_HINT if row.pk is None else Reason.TRANSACTION
        return rules.verdict(row.seen, self, row)


class CoroutineReading(Reading):
    """
    The reads of a coroutine in its own thread: from the memory of the process,
    from LocMemCache, which is in that memory, too, and the entries of Redis
    that it has awaited. Any other cache would block the event loop.

    It does not fill, and does not count misses, because a call in a thread
    follows.
    """

    ahead: Ahead  # the awaited entries

    def ask(self, sought, may_hit=True):
        asking, began = self.region.asking, time.monotonic()
        if self.local_timeout == 0 and (
            asking.rate is not None or asking.rests_until or asking.large
        ):
            return None  # asking.py decides in the thread
        if sought.pk is None:
            sought.pk = process_memory.hints.get((self.region, sought.lookup))
            sought.remembered_pk = sought.pk
        if sought.pk is None or not self._serve_locally(sought, may_hit):
            if not (self.client.is_in_process() and self.key_client.is_in_process()):
                return self._ask_ahead(sought)
            try:
                self._look([sought], may_hit, may_fill=False)
            except CacheFault:
                return None
        if sought.values is not None:
            asking.record_look(self.sample, time.monotonic() - began, is_hit=True)
        return sought.values

    def _ask_ahead(self, sought):
        """Do the same as the short path to a hit in Reading.ask()."""
        # With local_timeout, a call in a thread leaves the row in the memory.
        if sought.pk is None or self.local_timeout != 0:
            return None
        keys = self.region.keys_of_row(sought.pk)
        entries = self.ahead.entries(self.client, keys)
        if entries is None:
            return None
        sought.seen = seen = tuple(map(entries.get, keys))
        if rules.verdict(seen, self, sought) is not None:
            return None
        sought.values = seen[0][2]
        # Not more than the average, because the event loop may have been busy.
        asking, seconds = self.region.asking, self.ahead.seconds
        seconds = min(seconds, asking.look.value or seconds)
        asking.record_look(self.sample, seconds, is_hit=True)
        return sought.values
