"""
Reading and filling many rows of one model at once.

As coherence.Read does for one row, by the same rules, in a few commands of the
cache for a batch. Only a version that is not in the cache is added by a
command of its own: a writer may be setting LOCK there, and no command but
add() leaves that alone. So a batch with many rows that are new to the cache
leaves these out.
"""

from contextlib import suppress

from ..lookups.rows import PARTS, mark
from ..signals import Source
from . import process_memory as memory
from .protocol import (
    Garbage,
    Unavailable,
    in_transaction,
    is_aborted,
    is_apart,
    is_autocommit,
    is_locked,
    is_token,
    journal,
    situation,
    token,
)

MOST_ADDED = 100  # versions, of one batch; 5,000 took Redis 4 s, loaded


class Sought:
    """A row that is looked for, and what was observed of it."""

    __slots__ = (
        "hint",
        "lookup",
        "pk",
        "remembered",
        "seen",
        "source",
        "values",
        "version",
        "wanted",
    )

    def __init__(self, wanted, lookup, pk):
        """
        ``wanted`` are plain values by attname; ``lookup`` and ``pk`` as those
        of Read: one of them is None.
        """
        self.wanted = wanted
        self.lookup = lookup
        self.pk = pk
        self.values = self.version = self.hint = self.remembered = self.seen = None
        self.source = Source.CACHE


class ReadMany:
    """One reading of many rows: what was observed before the statement."""

    epoch = clock = None
    fills = False

    def __init__(self, read, layout):
        """``read`` is a Read of no row, and has what all of them share."""
        self.read = read
        self.layout = layout
        self.region = read.region
        self.key_store = read.key_store
        self.connection = read.connection
        self.place = read.place
        self.in_transaction = in_transaction(read.connection)

    def ask(self, rows):
        """Set the values of those rows that are a hit."""
        in_cache, may_fill = situation(self.connection)
        if self.connection.in_atomic_block:
            if self.connection.needs_rollback:
                return  # Django says that no query may be run
            if self.in_transaction:
                if is_aborted(self.connection):
                    return  # PostgreSQL says so
                rows = [row for row in rows if not self._is_own(row)]
        self.read.asked = in_cache
        if rows and (in_cache or may_fill):
            try:
                self._ask(rows, in_cache, may_fill)
            except Unavailable:
                self.fills, self.read.failed = False, True
            except Garbage:
                self.fills, self.read.failed = False, True
                self._sweep(rows)

    def _is_own(self, row):
        """
        Look into the overlay. Return whether nothing else needs to be asked.
        """
        own, region = journal(self.connection), self.region
        if not own.is_in_use():
            return False
        pk = row.pk
        if pk is None:
            pk = own.find(region, row.lookup)
        if pk is not None:
            values = own.values(region, pk)
            if values is not None and self.layout.matches(row.wanted, values):
                row.values, row.source = values, Source.TRANSACTION
                return True
        return own.is_written(region, pk)

    def _ask(self, rows, may_hit, may_fill):
        region, entries = self.region, None
        for row in rows:
            if row.lookup is not None:
                row.remembered = row.pk = memory.hints.get((region, row.lookup))
        by_hint = [row for row in rows if row.pk is None]
        by_pk = [row for row in rows if row.pk is not None]
        by_pk = [row for row in by_pk if not self._is_known(row, may_hit)]
        while by_hint or by_pk:
            entries = (entries or {}) | self._get(by_hint, by_pk)
            missed = [row for row in by_pk if not self._is_hit(row, entries, may_hit)]
            by_pk = [
                row
                for row in by_hint
                if self._is_led(row, entries.get(row.hint))
                and not self._is_known(row, may_hit)
            ]
            # What the process remembers may be out of date.
            by_hint = [row for row in missed if row.lookup is not None and not row.hint]
        if may_fill and any(row.values is None for row in rows):
            names = [region.epoch, region.clock]
            if entries is None:
                entries = region.store.get_many(names)
            self.epoch, self.clock = region.observe(entries, names, self.place)
            self.fills = not is_locked(self.epoch)

    def _get(self, by_hint, by_pk):
        region = self.region
        for row in by_hint:
            row.hint = region.hint(row.lookup)
        hints = [row.hint for row in by_hint]
        keys = [region.epoch, region.clock]
        for row in by_pk:
            keys += region.payload(row.pk), region.version(row.pk)
        if self.key_store is region.store:
            return region.store.get_many(hints + keys)
        entries = region.store.get_many(keys)
        return self.key_store.get_many(hints) | entries if hints else entries

    def _is_led(self, row, pk):
        """Tell whether its hint leads the row to a key that was not tried."""
        if type(pk) is not str or pk == row.pk:
            return False
        row.pk, row.version = pk, None
        return True

    def _is_known(self, row, may_hit):
        """Tell whether the process knows the row, or the transaction."""
        if self.in_transaction and self._is_own(row):
            return True
        read = self.read
        if may_hit and read.local_timeout != 0:
            row.values = memory.rows.find(
                self.region, self.place, row.pk, read.local_timeout
            )
            if row.values is not None and self.layout.matches(row.wanted, row.values):
                row.source = Source.MEMORY
                return True
            row.values = None
        return False

    def _is_hit(self, row, entries, may_hit):
        region, place = self.region, self.place
        version = entries.get(region.version(row.pk))
        epoch = entries.get(region.epoch)
        payload = entries.get(region.payload(row.pk))
        row.version = version if is_token(version, place) else None
        if (
            may_hit
            and type(payload) is tuple
            and len(payload) == PARTS
            and payload[0] == (epoch, version)
            and row.version is not None
            and is_token(epoch, place)
            and not is_locked(version)  # rule lock
            and not is_locked(epoch)
            and payload[1] == self.read.fingerprint
            and self.layout.matches(row.wanted, payload[2])
        ):
            row.values = payload[2]
            self._remember(row, row.pk, row.values)
            return True
        row.seen = payload, version, epoch
        return False

    def _remember(self, row, pk, values):
        """Let the process keep what is committed."""
        if row.lookup is not None and row.remembered != pk:
            memory.hints.put((self.region, row.lookup), pk)
        if self.read.local_timeout != 0:
            memory.rows.keep(self.region, self.place, pk, values, self.read)

    def _sweep(self, rows):
        """
        Delete what may not be unpickled, for it would stay a miss.

        No version: of one that cannot be read, get_or_create() rids the cache,
        and here it would be a LOCK, mostly.
        """
        payloads = [self.region.payload(row.pk) for row in rows if row.pk is not None]
        with suppress(Unavailable):
            self.region.store.delete(payloads)
            self.key_store.delete([row.hint for row in rows if row.hint is not None])

    def fill(self, found):
        """Keep the rows of (row, pk, values) that a SELECT returned."""
        if self.in_transaction:
            found = self._keep_own(found)
        if (
            self.fills
            and found
            and (self.in_transaction or is_autocommit(self.connection))
        ):
            with suppress(Unavailable, Garbage):
                kept = self._vouched_for(found)
                if self.in_transaction:
                    self._fill_later(kept)
                else:
                    self._fill(kept)

    def _keep_own(self, found):
        """Give the overlay what is its. Return the other rows."""
        own, connection, region = journal(self.connection), self.connection, self.region
        others = []
        for row, pk, values in found:
            if own.is_written(region, pk):
                own.keep(connection, region, pk, values, row.lookup, selected=True)
            else:
                others.append((row, pk, values))
        return others

    def _vouched_for(self, found):
        """
        Return (row, pk, values, version) of those that nobody has written
        since the observation.
        """
        region, kept, late = self.region, [], []
        for row, pk, values in found:
            if row.version is None or row.pk != pk:
                late.append((row, pk, values))
            elif not is_locked(row.version):
                kept.append((row, pk, values, row.version))
        if late:
            # The version was not observed before the statement. A writer
            # between the two moved the clock before the version: look at the
            # versions first, at the clock again after them.
            versions = self._versions([pk for _, pk, _ in late])
            clock = region.store.get_many([region.clock]).get(region.clock)
            if clock is not None and clock == self.clock:  # rule recheck
                kept += [
                    (*each, version)
                    for each, version in zip(late, versions, strict=True)
                    if version is not None and not is_locked(version)
                ]
        return kept

    def _versions(self, pks):
        """
        Return the versions of these rows, adding those that are absent. None
        for these where they are too many.
        """
        region = self.region
        names = list(dict.fromkeys(map(region.version, pks)))
        entries = region.store.get_many(names)
        there = [name for name in names if is_token(entries.get(name), self.place)]
        if len(names) - len(there) <= MOST_ADDED:
            there = names
        versions = region.observe(entries, there, self.place)
        versions = dict(zip(there, versions, strict=True))
        return [versions.get(region.version(pk)) for pk in pks]

    def _fill(self, kept):
        region = self.region
        payloads, hints = {}, {}
        for row, pk, values, version in kept:
            stamp = self.epoch, version
            payload = stamp, self.read.fingerprint, values, mark(values)
            if not region.asking.is_too_large(pk):
                payloads[region.payload(pk)] = payload
            if row.lookup is not None and row.pk != pk:
                hints[row.hint or region.hint(row.lookup)] = pk
        if self.key_store is region.store:
            payloads |= hints
        elif hints:
            self.key_store.try_set(hints, region.timeout)
        failed = region.store.try_set(payloads, region.timeout) if payloads else ()
        for _, pk, values, _ in kept if failed else ():
            if region.payload(pk) in failed:
                region.note_refused(pk, values)
        for row, pk, values, _ in kept:
            self._remember(row, pk, values)

    def _fill_later(self, kept):
        own = journal(self.connection)
        for row, pk, values, version in kept:
            read = self._read_of(row, self.epoch, self.clock, version)
            own.fill_later(self.connection, read, pk, memory.pack(values))

    def _read_of(self, row, epoch, clock, version):
        """Return a Read of the row, with what was observed of it."""
        read = self.read.of(row.lookup)
        if row.hint is not None:
            read.hint = row.hint
        read.pk, read.remembered = row.pk, row.remembered
        read.epoch, read.clock, read.version = epoch, clock, version
        return read

    def fill_created(self, created, made_pk):
        """
        Keep the rows of (row, pk, values) that this transaction inserted;
        ``made_pk`` tells whether the database has made their primary keys.
        """
        connection, region = self.connection, self.region
        own = journal(connection)
        created = [(row, pk, memory.pack(values)) for row, pk, values in created]
        own.keep_inserted(region, created)
        if own.is_written_by_query(region) or is_apart(connection):
            return
        with suppress(Unavailable, Garbage):
            # As in Read.fill_created(): nobody else sees the rows yet.
            epoch, clock = own.observe(self)
            if is_locked(epoch):
                return
            pks = [pk for _, pk, _ in created]
            if made_pk and region.version_per_row:
                # Not by add(), for nobody knows a key that was just made.
                versions = [token(self.place) for _ in pks]
                names = map(region.version, pks)
                entries = dict(zip(names, versions, strict=True))
                region.store.set(entries, region.timeout)
            else:
                versions = self._versions(pks)
            for (row, pk, values), version in zip(created, versions, strict=True):
                if version is not None and not is_locked(version):
                    read = self._read_of(row, epoch, clock, version)
                    own.fill_later(connection, read, pk, values)
