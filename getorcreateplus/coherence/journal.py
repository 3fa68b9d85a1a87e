"""
The journal of a connection's open transaction: the rows that it has written
and locked, the rows that it serves to itself, and the steps at its end.
"""

import math
from contextlib import suppress
from enum import Enum

from ..conf import conf
from ..lookups.rows import size_of
from . import drivers
from .connection_methods import watch_connection
from .faults import CacheFault
from .fills import announce, fill_committed, vouched
from .levels import Level
from .locks import Locks
from .transactions import first_block, in_transaction, is_around_test

# A transaction that creates rows one after the other adds the versions of the
# first rows one by one, and announces at most so many of the others together.
# (Fewer at first, because the remaining ones are added at the commit.)
MAX_SINGLE = 2
MAX_BATCH = 16
# The same numbers if nothing waits for the answer.
MAX_LATER_BATCH = 64


class End(Enum):
    """
    How near a transaction is to its end.

    OPEN → COMMITTING → COMMITTED, or → ROLLED_BACK from each of the first two.
    If the connection is lost while COMMIT is on its way, the state stays
    COMMITTING, because the server may commit later: the LOCKs then end with
    their timeout. Another transaction begins with OPEN.
    """

    OPEN = "open"
    COMMITTING = "committing"  # COMMIT is on its way
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


class Journal(Locks):
    """
    One per connection. Its Levels remain after a rollback to a savepoint. All
    locked rows are released at the end, even if they were rolled back.
    """

    def __init__(self, connection):
        super().__init__(connection)
        self.block = None  # the outermost atomic() of the transaction
        self.clear()

    def clear(self):
        self.reset_levels()
        self.reset_locks()
        self.in_test = False
        self.end_state = End.OPEN
        self.is_aborted = False  # PostgreSQL has aborted it after an error
        self.waited = None  # the block, if it has waited for locks or holds some
        self.clear_observed()

    def clear_observed(self):
        self.observed = {}  # region: (epoch, clock), as they were at some time
        self.streaks = {}  # region: number of rows created one after the other
        self.unannounced = []  # Fills whose versions are to be set
        self.clear_unpublished()

    def is_in_use(self):
        """Return True if the transaction has written or read anything."""
        return bool(self.sequence or self.owed or self.owed_all) or any(
            level.fills for level in self.levels
        )

    # Begin and end

    def begin(self, block):
        """Begin the journal of another transaction than the known one."""
        if self.in_test:
            self.settle()
        # Otherwise the last transaction has lost its connection, and its end
        # was not seen. Its LOCKs end with their timeout.
        self.clear()
        watch_connection(self.connection)
        self.block = block
        self.in_test = any(map(is_around_test, self.connection.atomic_blocks))

    def settle(self):
        """Release the rows of blocks of a TestCase that have ended."""
        if self.owed or self.owed_all or self.levels[0].fills:
            self.merge(1)
            self.release(has_committed=True)

    def abandon(self):
        """
        Handle an exception such as Ctrl-C in COMMIT or ROLLBACK. The LOCKs end
        with their timeout.
        """
        if not self.connection.in_atomic_block:  # otherwise Django has refused it
            self.clear()
            self.block = None

    def end(self):
        """Handle the end of the transaction, which is over in the database."""
        if self.in_test:
            self.clear()  # the outermost block, which is the test's
            return
        has_committed = self.end_state is End.COMMITTED
        if has_committed:
            self.merge(1)
        else:
            self.doubt()
        self.release(has_committed)

    def release(self, has_committed):
        """
        Let all readers fill the locked rows again. Fill the rows that were
        read.

        After a rollback, too, because each LOCK would stay for its timeout.
        """
        owed, owed_all, [level, *_] = self.owed, self.owed_all, self.levels
        try:
            try:
                # Outside tests another writer may have committed a newer row.
                if has_committed and self.in_test:
                    self.publish_rest()
                # Also after a rollback: no LOCK may come after its release.
                self.wait_for_answers()
            finally:
                self.clear()
            # Before the release of other rows moves the clock.
            fills = vouched(list(level.fills.values()))
            for region, pks in owed.items():
                region.release(
                    self.connection,
                    list(pks),
                    level.published.get(region, {}),
                    region in owed_all,
                    has_committed,
                )
            for region in owed_all - owed.keys():
                region.release(self.connection, None, written=has_committed)
            fill_committed(fills)
        except BaseException:
            # A time limit, or Ctrl-C. Release everything later.
            for region, pks in owed.items():
                region.client.owe_release(region, None if region in owed_all else pks)
            for region in owed_all - owed.keys():
                region.client.owe_release(region, None)
            raise

    # Savepoints

    def roll_back_to(self, name):
        """Drop the rows written since a savepoint, which stays open."""
        depth = self.depth_of(name)
        if depth is None:
            self.doubt()
        else:
            del self.levels[depth:]
            self.levels.append(Level(name))
            self.clear_observed()
        self.is_aborted = False

    def doubt(self):
        """
        Trust no values any longer, only that the rows were written.

        Something was rolled back, but the Journal does not know which rows.
        Their locks in the database may be gone, too, and another writer's
        release may have replaced the LOCKs in the cache.
        """
        self.doubt_levels()
        self.clear_observed()

    # Rows to fill after the commit

    def fill_later(self, fills):
        """
        Rule *commit*: fill these rows after the commit, unless the current
        savepoint is rolled back.

        Not before: a trigger, a function or COPY may have written the row in
        this transaction, and this process would not see the rollback.
        """
        if drivers.has_savepoint(self.connection):
            return
        level, room = self.levels[-1], self.room()
        others = sum(len(each.fills) for each in self.levels[:-1])
        for fill in fills:
            size = size_of(fill.values)
            if size > room or others + len(level.fills) >= conf.OVERLAY_ROWS:
                continue
            region, room = fill.region, room - size
            level.size += size
            level.fills[region, fill.pk] = fill
            level.add_hint(region, fill.lookup, fill.pk)
            if region.made_keys.are_lost_later:
                hints = [] if fill.lookup is None else [fill.reading.hint_key(fill)]
                region.remember_keys([*region.keys_of_a_write([fill.pk]), *hints])

    def payload_to_fill(self, region, pk, fingerprint):
        """Return the payload that the commit will set, or None."""
        for level in reversed(self.levels):
            if (region, pk) in level.fills:
                fill = level.fills[region, pk]
                if fill.reading.fingerprint == fingerprint:
                    return fill.payload()
        return None

    def observe(self, reading):
        """Return the epoch and the clock, as they were in this transaction."""
        region = reading.region
        if reading.clock is not None:  # it has read both, before its SELECT
            self.observed[region] = reading.epoch, reading.clock
        elif region not in self.observed or reading.token_prefix:
            keys = [region.epoch_key, region.clock_key]
            entries = region.client.look(keys)
            self.observed[region] = region.observe(entries, keys, reading.token_prefix)
        return self.observed[region]

    def announce_later(self, fill):
        """Set the version of a new row, together with others."""
        fill.is_announced = False
        self.unannounced.append(fill)
        largest = MAX_LATER_BATCH if fill.region.client.waits_for_less() else MAX_BATCH
        streak = self.streaks.get(fill.region, 0)
        if len(self.unannounced) >= min(math.isqrt(2 * streak), largest):
            self._announce()

    def announce_rest(self):
        """Set the remaining versions, if nothing waits for the answer."""
        if self.unannounced and self.unannounced[0].region.client.waits_for_less():
            with suppress(CacheFault):
                self._announce()

    def _announce(self):
        fills, self.unannounced = self.unannounced, []
        self.unanswered += announce(fills)


def journal(connection):
    # An attribute of the connection, because each call reads it many times.
    try:
        own = connection.getorcreateplus_journal
    except AttributeError:
        own = connection.getorcreateplus_journal = Journal(connection)
    block = first_block(connection)
    if block is not own.block and block is not None:
        own.begin(block)
    return own


def record_lookup(reading, created):
    """
    Count the rows that a transaction creates one after the other, after a call
    that has created or found a row.
    """
    connection = reading.connection
    # The journal of a TestCase does not show where transactions begin.
    if in_transaction(connection) and not reading.token_prefix:
        streaks = journal(connection).streaks
        streaks[reading.region] = streaks.get(reading.region, 0) + 1 if created else 0
