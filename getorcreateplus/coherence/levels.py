"""The rows that an open transaction has written, by savepoint."""

from ..conf import conf
from ..lookups.rows import size_of, unpack
from . import drivers

# The maximum number of open savepoints that are tracked. Rows that are written
# after a later one count as written after the last of these, and are doubted
# together with its rows.
MAX_LEVELS = 64
MAX_BYTES = 16 * 2**20  # besides the setting OVERLAY_ROWS


class Level:
    """
    The rows that a transaction has written since it began, or since a
    savepoint.
    """

    def __init__(self, savepoint=None):
        self.savepoint = savepoint  # its name, quoted by Django
        self.rows = {}  # (region, pk): (sequence, packed values or None)
        self.size = 0  # of these values and of the fills, in bytes
        self.held = set()  # (region, pk) of rows that are locked in the database
        self.hints = {}  # (region, lookup): pk
        self.queries = {}  # region: sequence of its last write by query
        self.locked = {}  # region: set of pks under LOCK
        self.locked_all = set()  # regions under LOCK
        self.published = {}  # region: {pk: version}
        self.fills = {}  # (region, pk): Fill, for rows created or read

    def add_hint(self, region, lookup, pk):
        """
        Add a lookup that finds a row. Any number of lookups may find one row.
        """
        if lookup is not None:
            if len(self.hints) >= conf.OVERLAY_ROWS:
                self.hints.clear()
            self.hints[region, lookup] = pk

    def take(self, other):
        """Take over the rows that were written since a released savepoint."""
        self.rows.update(other.rows)
        self.size += other.size
        self.held |= other.held
        self.hints.update(other.hints)
        self.queries.update(other.queries)
        for region, pks in other.locked.items():
            self.locked.setdefault(region, set()).update(pks)
        self.locked_all |= other.locked_all
        for region, versions in other.published.items():
            self.published.setdefault(region, {}).update(versions)
        self.fills.update(other.fills)

    def doubt(self):
        self.held.clear()
        self.locked.clear()
        self.locked_all.clear()
        self.published.clear()
        self.fills.clear()


class Levels:
    """
    One Level for a transaction, and one for each of Django's savepoints that
    is open in it.

    No step takes longer if the transaction has written more before: a
    savepoint that is rolled back removes only its own Level.
    """

    def __init__(self):
        self.reset_levels()

    def reset_levels(self):
        self.levels = [Level()]
        self.sequence = 0
        self.doubted = 0  # values up to this sequence are not trusted

    # Savepoints

    def add_savepoint(self, name):
        if len(self.levels) < MAX_LEVELS:
            self.levels.append(Level(name))

    def release_savepoint(self, name):
        if (depth := self.depth_of(name)) is not None:
            self.merge(depth)

    def depth_of(self, name):
        for depth in range(len(self.levels) - 1, 0, -1):
            if self.levels[depth].savepoint == name:
                return depth
        return None

    def merge(self, depth):
        """Merge the savepoints from this depth on into the Level below."""
        for level in self.levels[depth:]:
            self.levels[depth - 1].take(level)
        del self.levels[depth:]

    def doubt_levels(self):
        self.doubted = self.sequence
        for level in self.levels:
            level.doubt()

    # Written rows

    def next_sequence(self):
        self.sequence += 1
        return self.sequence

    def record_rows(self, connection, region, pks):
        """Record that this transaction writes or has inserted these rows."""
        for level in self.levels:
            if level.fills:
                for pk in pks:
                    level.fills.pop((region, pk), None)
        if sum(len(level.rows) for level in self.levels) + len(pks) > conf.OVERLAY_ROWS:
            self.drop_rows()
            if len(pks) > conf.OVERLAY_ROWS:
                self.record_query(region)
                return
        level = self.levels[-1]
        rows = [(region, pk) for pk in pks]
        for row in rows:
            level.rows[row] = self.next_sequence(), None
        if region.one_table and not drivers.has_savepoint(connection):
            level.held.update(rows)

    def drop_rows(self):
        """Remember only the models that were written, not the rows."""
        for level in self.levels:
            for region in {region for region, _ in level.rows}:
                level.queries[region] = self.next_sequence()
            level.rows.clear()
            level.held.clear()
            level.hints.clear()
            level.size = 0

    def record_query(self, region):
        """Record that this transaction writes unknown rows of a model."""
        self.levels[-1].queries[region] = self.next_sequence()

    def is_written(self, region, pk):
        return any(
            region in level.queries or (region, pk) in level.rows
            for level in self.levels
        )

    def is_written_by_query(self, region):
        return any(region in level.queries for level in self.levels)

    def held(self, region, pks):
        """Return the rows that are locked in the database."""
        return {pk for pk in pks if any((region, pk) in w.held for w in self.levels)}

    def record_unmatched(self, region, pks):
        """
        Record that a statement may not have found, and so not locked, these
        rows.
        """
        self.levels[-1].held -= {(region, pk) for pk in pks}

    # The overlay: rows that the transaction serves to itself

    def keep(self, connection, region, rows, *, selected=False):
        """
        Serve these rows, (pk, packed values, lookup), without a query: the
        transaction wrote them, or with ``selected`` it has selected them
        afterwards.

        Rows that may not be locked in the database are left out, because
        another transaction may write them.
        """
        if drivers.has_savepoint(connection):
            return
        level, room = self.levels[-1], self.room()
        for pk, values, lookup in rows:
            row = region, pk
            if row not in level.held and not any(row in w.held for w in self.levels):
                continue
            # A write by query between the INSERT and now may have changed it.
            sequence = self.next_sequence() if selected else self.written(region, pk)
            size = size_of(values)
            if size <= room:
                level.rows[row] = sequence, values
                level.size += size
                room -= size
            else:
                level.rows[row] = sequence, None
            level.add_hint(region, lookup, pk)

    def written(self, region, pk):
        """Return the sequence of the last write of a row."""
        return next(
            level.rows[region, pk][0]
            for level in reversed(self.levels)
            if (region, pk) in level.rows
        )

    def room(self):
        """
        Return the number of bytes that the transaction may still keep in
        memory.
        """
        return MAX_BYTES - sum(level.size for level in self.levels)

    def find(self, region, lookup):
        """Return the pk that the lookup finds in the overlay, or None."""
        hint = region, lookup
        for level in reversed(self.levels):
            if hint in level.hints:
                return level.hints[hint]
        return None

    def values(self, region, pk):
        """Return the values of a row that this transaction wrote, or None."""
        known = (level.rows.get((region, pk)) for level in reversed(self.levels))
        sequence, values = next(filter(None, known), (0, None))
        if (
            values is None
            or sequence <= self.doubted
            or any(level.queries.get(region, 0) > sequence for level in self.levels)
        ):
            return None
        return unpack(values)
