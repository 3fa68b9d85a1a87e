"""
Reads the cache, for one row or for many: by the primary keys that the process
remembers, by hints, and in the transaction's own rows.

A batch reads as a single call does, by the same rules, with one command for
all its rows.
"""

import time
from contextlib import suppress

from ..signals import Source
from . import process_memory, rules
from .faults import CacheFault
from .fills import remember
from .journal import journal
from .situations import release_what_has_ended, situation
from .tokens import LOCK, is_token
from .transactions import in_transaction, token_prefix_of


class SoughtRow:
    """
    A row that a reader looks for, and the results of the read.

    At first it has ``wanted``, ``lookup`` and ``pk``. After a hit it has
    ``values`` and ``source``. After a miss it has ``pk``, if a hint has led to
    it; ``version``, if that was observed; and ``seen``, the (payload, version,
    epoch).
    """

    __slots__ = (
        "hint_key",
        "lookup",
        "pk",
        "remembered_pk",
        "seen",
        "source",
        "values",
        "version",
        "wanted",
    )

    def __init__(self, wanted, lookup, pk):
        """
        ``wanted`` are values by attname, ``lookup`` is the same as a sorted
        tuple. If the primary key is among them, ``pk`` is its text and
        ``lookup`` is None; otherwise ``pk`` is None.
        """
        self.wanted = wanted
        self.lookup = lookup
        self.pk = pk
        self.values = self.version = self.seen = None
        self.hint_key = self.remembered_pk = None
        self.source = Source.CACHE


class Observer:
    """
    The common state of the rows of one read: their region, and the tokens that
    were observed before the statement.

    At first it has the arguments. After a read it has ``epoch``, ``clock`` and
    ``may_fill``, which is True if rows from the statement may be stored in the
    cache; or ``failed``.
    """

    epoch = clock = None
    may_fill = False
    is_batch = False  # ask_many() is called, not ask()

    def __init__(self, region, key_client, layout, connection, local_timeout=0):
        self.region = region
        self.client = region.client
        self.key_client = key_client
        self.layout = layout
        self.connection = connection
        self.fingerprint = layout.fingerprint(connection)
        self.local_timeout = local_timeout
        self.token_prefix = (
            token_prefix_of(connection) if connection.in_atomic_block else ""
        )
        self.write_count = region.write_count
        self.began = time.monotonic()

    def hint_key(self, sought):
        if sought.hint_key is None:
            sought.hint_key = self.region.hint_key(sought.lookup)
        return sought.hint_key

    # The tokens

    def observe(self):
        """
        Observe the tokens before a statement that may insert the row. In a
        transaction, do so only once, for all rows.
        """
        release_what_has_ended(self.connection)
        _, may_fill = situation(self.connection)
        if may_fill and not in_transaction(self.connection):
            with suppress(CacheFault):
                self._observe([], {})

    def _observe(self, rows, entries):
        region, prefix = self.region, self.token_prefix
        keys, known = [region.epoch_key], None
        if not self.is_batch and rows and rows[0].pk is not None:
            [one] = rows
            # Without a version, the primary key may be outdated, too. And one
            # command may add the version, and fill, after the statement.
            if one.version is not None or (
                one.lookup is None and not region.vouches_by_pk
            ):
                known = one
                keys.append(region.version_key(one.pk))
        # If the statement finds another row than the known one, the clock
        # vouches for it. But the clock is not read if that takes another
        # command.
        needs_clock = known is None or entries.get(region.clock_key) is not None
        if needs_clock:
            keys.append(region.clock_key)
        if others := [key for key in keys if key not in entries]:
            entries = entries | self.client.look(others)
        tokens = region.observe(entries, keys, prefix)
        self.epoch = tokens[0]
        self.clock = tokens[-1] if needs_clock else None
        if known is not None:
            known.version = tokens[1]
        self.may_fill = not rules.is_locked(self.epoch)
        if not (self.may_fill or prefix or self.is_batch):
            region.asking.rest()

    def _is_under_lock(self, row):
        """
        Return True if reading the row can lead neither to a hit nor to a fill.

        In a batch it may help the other rows. The LOCK of an earlier TestCase
        does not count, because its token is replaced.
        """
        return (
            not self.is_batch
            and row.seen is not None
            and any(
                rules.is_locked(token) and is_token(token, self.token_prefix)
                for token in row.seen[1:]
            )
        )


class Look(Observer):
    """The steps in which an Observer reads its rows."""

    def _look(self, rows, may_hit, may_fill, entries=None):
        """
        Read these rows: first those with a known primary key, then those with
        a hint, and then those to which a hint has led. Observe the tokens that
        fill() needs for the others.

        ``entries`` are those of the rows' keys, if they were read before.
        """
        by_pk, by_hint, missed = [], [], []
        for row in rows:
            if row.pk is None:
                by_hint.append(row)
            elif entries or not self._serve_locally(row, may_hit):
                by_pk.append(row)
        is_looked_at, entries = entries is not None, entries or {}
        while by_pk or by_hint:
            if not is_looked_at:
                entries |= self._entries_of(by_pk, by_hint, entries, len(rows))
            is_looked_at = False
            led, again = [], []
            for row in by_pk:
                if not self._judge(row, entries, may_hit):
                    # The process may remember an outdated primary key. If the
                    # row is gone from the cache, a SELECT finds out.
                    may_be_led = (
                        row.lookup is not None
                        and row.hint_key is None
                        and (self.is_batch or row.seen[0] is not None)
                    )
                    is_useless = self._is_under_lock(row)
                    (again if may_be_led and not is_useless else missed).append(row)
            for row in by_hint:
                if not self._follow_hint(row, entries):
                    missed.append(row)
                elif not self._serve_locally(row, may_hit):
                    led.append(row)
            by_pk, by_hint = led, again
        missed = [row for row in missed if not self._is_under_lock(row)]
        if may_fill and missed:
            self._observe(missed, entries)

    def _look_by_hint(self, sought, may_fill):
        """
        Do the same as _look(), for a row whose primary key the process does
        not remember. It takes fewer steps if the cache does not have it
        either.
        """
        if self.key_client is not self.client:
            self._look([sought], True, may_fill)
            return
        region = self.region
        keys = self.hint_key(sought), region.epoch_key, region.clock_key
        entries = self.client.look_by_hint(keys, region.payload_key, region.version_key)
        hint = entries.get(keys[0])
        if type(hint) is str and region.version_key(hint) in entries:
            # The row was read, too.
            sought.pk = hint
            self._look([sought], True, may_fill, dict.fromkeys(keys) | entries)
        elif keys[0] in entries or len(entries) < 2:
            entries = dict.fromkeys(keys) | entries
            self._look([sought], True, may_fill, entries)
        elif may_fill:
            self._observe([sought], entries)

    def _entries_of(self, by_pk, by_hint, entries, count):
        """
        Return {key: value or None} for these rows, with one read of a cache.
        """
        region = self.region
        hints = [self.hint_key(row) for row in by_hint]
        keys = []
        for row in by_pk:
            keys += region.keys_of_row(row.pk)[:2]
        is_together = self.key_client is self.client
        if keys or is_together:
            keys.append(region.epoch_key)
            # A lookup that misses needs the clock. So does a batch.
            if region.clock_key not in entries and (
                by_hint or count > 1 or any(row.hint_key for row in by_pk)
            ):
                keys.append(region.clock_key)
        if is_together:
            keys, hints = hints + keys, []
        found = dict.fromkeys(hints + keys)
        if keys:
            found |= self.client.look(keys)
        if hints:
            found |= self.key_client.look(hints)
        return found

    def _judge(self, row, entries, may_hit):
        """If the row is a hit, set its values and return True."""
        region, prefix = self.region, self.token_prefix
        keys = region.keys_of_row(row.pk)
        row.seen = _, version, epoch = tuple(map(entries.get, keys))
        row.version = version if is_token(version, prefix) else None
        if epoch == LOCK and not self.is_batch:
            region.asking.rest()
        if not may_hit:
            return False
        if rules.verdict(row.seen, self, row) is None:
            row.values = row.seen[0][2]
            remember(self, row, row.pk, row.values)
            return True
        if in_transaction(self.connection):
            # A row that this transaction will fill.
            own = journal(self.connection)
            later = own.payload_to_fill(region, row.pk, self.fingerprint)
            if later and rules.verdict((later, version, epoch), self, row) is None:
                row.values, row.source = later[2], Source.TRANSACTION
                return True
        return False

    def _follow_hint(self, row, entries):
        """
        Set the primary key from a hint. Return True if it is another one.
        """
        pk = entries.get(row.hint_key)
        if type(pk) is not str or pk == row.pk:
            return False
        row.pk, row.version = pk, None
        return True

    # Without the cache

    def _serve_own(self, row, may_hit):
        """
        Serve a row that this transaction has written. Return True if it has
        written the row, so the cache must not be read.
        """
        own, region = journal(self.connection), self.region
        if not own.is_in_use():
            return False
        if row.pk is None:
            row.pk = own.find(region, row.lookup)
        if row.pk is not None and may_hit:
            values = own.values(region, row.pk)
            if values is not None and self.layout.matches(row.wanted, values):
                row.values, row.source = values, Source.TRANSACTION
                return True
        return own.is_written(region, row.pk)

    def _not_own(self, rows):
        """
        Serve the rows that this transaction has written. Return the other
        rows.
        """
        own, region, others = journal(self.connection), self.region, []
        if not own.is_in_use():
            return rows
        by_query = own.is_written_by_query(region)
        for row in rows:
            # Most rows take this path: the same as _serve_own(), without its
            # calls.
            is_unknown = row.pk is None and own.find(region, row.lookup) is None
            if (is_unknown and not by_query) or not self._serve_own(row, True):
                others.append(row)
        return others

    def _serve_locally(self, row, may_hit):
        """
        Serve a row from the transaction or from the process's memory. Return
        True if the cache need not be read.
        """
        if in_transaction(self.connection) and self._serve_own(row, may_hit):
            return True
        if may_hit and self.local_timeout != 0:
            values = process_memory.rows.find(
                self.region, self.token_prefix, row.pk, self.local_timeout
            )
            if values is not None and self.layout.matches(row.wanted, values):
                row.values, row.source = values, Source.MEMORY
                return True
        return False
