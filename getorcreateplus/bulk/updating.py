"""
bulk_update_or_create(): one batch of rows, step by step.

In one transaction, SELECT … FOR UPDATE locks and reads the rows that exist,
INSERT creates the missing ones, as in bulk_get_or_create(), and UPDATE writes
the existing rows, including those that another writer has inserted in between.
"""

from django.core.exceptions import FieldError
from django.db import models

from ..coherence.filling import fill
from ..coherence.writing import locks_rows
from ..writes.watching import naming_rows
from . import Bulk
from .batch import Batch, is_computed
from .changes import Changes, check_new_row
from .locking import LockingReader
from .one_by_one import OneByOne
from .pending import PendingRow, is_expression, is_unchanged, prepare
from .sending import UpdateSender, pieces
from .update import Update


class UpdateBatch(Batch):
    """One batch of rows: creates the missing rows, and updates the others."""

    def __init__(self, bulk, rows, identities, start):
        self.changes = [bulk.changes.of(start + i, row) for i, row in enumerate(rows)]
        self.resolved = {}  # index: changes without callables
        self.sought = {}  # identity: SoughtRow, for rows that were read from the cache
        self.values = {}  # identity: column values of the found row
        self.indexes = {}  # identity: indexes of its rows
        for index, identity in enumerate(identities):
            self.indexes.setdefault(identity, []).append(index)
        self.merged = {}  # identity: indexes of rows whose changes are in its INSERT
        self.done = set()  # indexes of rows that need no UPDATE
        super().__init__(bulk, rows, identities, start)

    def make_reader(self):
        return LockingReader(self, self.bulk.locking)

    def results(self):
        if self.unknown or self.bulk.changes.need_save:
            return OneByOne(self).results()
        reading = None
        if self.bulk.only_changed:
            reading = self.look_up_unchanged(sorted(self.first))
        wanted = sorted(self.first.keys() - self.found.keys())
        if wanted or self.nulls:
            with self.queryset._bulk_atomic():
                self.write(wanted, reading)
        self.send_ends_of_misses()
        return [*map(self.result_of, range(len(self.rows)))]

    def write(self, wanted, reading):
        """Create or update these rows."""
        if self.connection.vendor == "sqlite":
            lock_database(self.connection, self.bulk.model)
        self.select(wanted)
        missing = [identity for identity in wanted if identity not in self.found]
        self.choose_room(missing, len(wanted) - len(missing))
        if missing or self.nulls:
            self.complete(missing, [*self.parts(missing)])
        for pendings in self.rounds():
            self.update(pendings)
        if reading is not None:
            unchanged = {
                identity: values
                for identity, values in self.values.items()
                if identity in self.sought and self.is_done(identity)
            }
            fill(reading, self.reader.fillable(unchanged, self.sought.get))

    def choose_room(self, missing, found):
        """Keep no row in the cache whose payload the commit would delete."""
        if self.bulk.only_changed and self.bulk.yields_rows:
            for identity, values in self.values.items():
                self.find_unchanged(identity, self.found[identity], values)
            found = sum(not self.is_done(identity) for identity in self.values)
        reading = self.bulk.uses_cache and self.bulk.queryset._begin_batch()
        if len(missing) > self.bulk.room or (
            reading and not locks_rows(self.connection, reading.region, found)
        ):
            self.bulk.room = 0

    def find_unchanged(self, identity, obj, values):
        """Record the row as done if the call does not change it."""
        indexes = self.indexes[identity]
        if is_unchanged(self, obj, values, indexes):
            self.done.update(indexes)

    def is_done(self, identity):
        """Return True if the row has nothing left to be written."""
        return self.done.issuperset(self.indexes[identity])

    # Rows that exist

    def look_up_unchanged(self, identities):
        """
        Find the rows in the cache that the call does not change. Return the
        Reading, None if the cache is not read.
        """
        reading = None
        for start in range(0, len(identities), self.bulk.batch_size):
            part = identities[start : start + self.bulk.batch_size]
            reading, sought, hits = self.reader.look(part)
            self.sought |= sought
            for identity, values in hits.items():
                obj = self.bulk.make_instance(values)
                self.find_unchanged(identity, obj, values)
                if self.is_done(identity):
                    self.found[identity] = obj
        return reading

    def select(self, identities):
        """Lock the rows that exist, and record them as found."""
        if not self.bulk.yields_rows:
            self.found |= self.reader.select(identities)
            return
        self.values = self.reader.select_values(identities)
        make_instance = self.bulk.make_instance
        for identity, values in self.values.items():
            self.found[identity] = make_instance(values)

    # Missing rows

    def new_instance(self, identity):
        """
        Return the instance to insert, with the changes of all rows with this
        identity.
        """
        first, *others = self.indexes[identity]
        obj = super().new_instance(identity)
        set_values(obj, resolve(self.bulk.changes.create_defaults))
        changes = [self.changes_of(index) for index in others]
        if (
            others
            and not self.has_doubtful_texts  # A row in between may be the same.
            and not any(is_expression(v) for some in changes for v in some.values())
        ):
            for some in changes:
                set_values(obj, some)
            self.merged[identity] = others
        check_new_row(self.start + first, obj)
        return obj

    def may_need_row(self, identity):
        return super().may_need_row(identity) or any(
            map(is_computed, self.bulk.changes.create_defaults.values())
        )

    def get_or_create(self, index):
        """Return (obj, created) for one row, and lock it."""
        self.merged.pop(self.identities[index], None)
        return super().get_or_create(index)

    def arguments(self, index):
        lookup, params = super().arguments(index)
        return lookup, params | self.bulk.changes.create_defaults

    # The UPDATE

    def changes_of(self, index):
        """Return the changes of one row. Call its callables once."""
        if index not in self.resolved:
            changes, row = self.changes[index], self.rows[index]
            if not isinstance(row, models.Model):
                changes = resolve(changes)
            self.resolved[index] = changes
        return self.resolved[index]

    def rounds(self):
        """
        Return lists of PendingRows, which are to be written one after the
        other.
        """
        if self.done and self.has_doubtful_texts:
            reconsider_equal_rows(self)
        for identity in self.created & self.merged.keys():
            self.done.update(self.merged[identity])
        rounds, latest, objs = [], {}, {}
        for index, identity in enumerate(self.identities):
            found, created = self.result_of(index)
            # One instance for each row of the table.
            obj = objs.setdefault(found.pk, found)
            if index in self.single:
                self.single[index] = obj, created
            elif obj is not found:
                self.found[identity] = obj
            if created or index in self.done:
                continue
            changes = self.changes_of(index)
            pending, number = latest.get(obj.pk, (None, 0))
            if pending is None or not pending.takes(changes):
                before = None if identity in self.created else self.values.get(identity)
                pending = PendingRow(self.bulk, obj, None if number else before)
                if number == len(rounds):
                    rounds.append([])
                rounds[number].append(pending)
                latest[obj.pk] = pending, number + 1
            pending.add(index, changes)
        return rounds

    def update(self, pendings):
        """
        Write these rows, by one UPDATE for those that set the same fields.
        """
        groups = {}
        for pending in pendings:
            prepare(self, pending)
            if self.bulk.only_changed and pending.is_unchanged():
                self.done.update(pending.indexes)
            elif pending.fields:
                key = pending.fields, pending.shapes
                groups.setdefault(key, []).append(pending)
        for (fields, shapes), some in groups.items():
            try:
                update = Update(self.connection, self.bulk.model, fields, shapes)
            except FieldError as error:
                where = f"Row {self.start + some[0].indexes[0]}"
                raise FieldError(f"{where}: {error}") from error
            for piece in pieces(self.bulk, update, some):
                UpdateSender(self, update, piece).send()


class BulkUpdate(Bulk):
    """A call of bulk_update_or_create()."""

    method = "bulk_update_or_create"
    batch_class = UpdateBatch

    def __init__(
        self,
        queryset,
        unique_fields,
        update_fields,
        create_defaults,
        batch_size,
        only_changed,
        *,
        yields_rows,
    ):
        super().__init__(queryset, unique_fields, batch_size, yields_rows=yields_rows)
        self.locking = self.queryset
        if not self.queryset.query.select_for_update:
            self.locking = self.queryset.select_for_update()
        self.arguments = update_fields, create_defaults
        self.only_changed = only_changed

    def begin(self, row, position):
        identifying = super().begin(row, position)
        self.changes = Changes(self, identifying, *self.arguments)
        if not has_joined_update(self.connection):
            identifying.allow_batches = False
        return identifying


def reconsider_equal_rows(batch):
    """
    Have a row written if the database has found several identities equal
    to its own: each was compared only with its own changes.
    """
    identities = {}  # primary key: identities
    for identity, obj in batch.found.items():
        identities.setdefault(obj.pk, []).append(identity)
    for equal in identities.values():
        if len(equal) > 1:
            for identity in equal:
                batch.done.difference_update(batch.indexes[identity])
                batch.sought.pop(identity, None)


def resolve(values):
    """Return the values, with callables replaced by what they return."""
    if not any(map(callable, values.values())):
        return values
    return {n: v() if callable(v) else v for n, v in values.items()}


def set_values(obj, values):
    for name, value in values.items():
        setattr(obj, name, value)


def has_joined_update(connection):
    """Return True if an UPDATE can join other rows."""
    if connection.vendor == "sqlite":
        return connection.Database.sqlite_version_info >= (3, 33)
    return True


def lock_database(connection, model):
    """
    Take SQLite's lock before the first SELECT. SQLite refuses a write if
    another transaction has changed what this one has read.
    """
    quote, opts = connection.ops.quote_name, model._meta
    table, column = quote(opts.db_table), quote(opts.pk_fields[0].column)
    sql = f"UPDATE {table} SET {column} = {column} WHERE 1 = 0"
    with naming_rows(connection, model, sql, []), connection.cursor() as cursor:
        cursor.execute(sql)
