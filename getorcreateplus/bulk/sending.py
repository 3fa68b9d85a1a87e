"""Sends one UPDATE to the database, and handles its rows afterwards."""

from contextlib import nullcontext
from itertools import chain

from django.db import DatabaseError, DataError, IntegrityError, transaction

from ..coherence.filling import publish_batch
from ..writes.pending_transaction import set_rollback
from ..writes.watching import naming_rows
from .creating import can_return_inserted, raise_naming
from .limits import cut


class UpdateSender:
    """One UPDATE of these PendingRows."""

    def __init__(self, batch, update, pendings):
        self.batch = batch
        self.bulk = batch.bulk
        self.connection = batch.connection
        self.opts = batch.bulk.model._meta
        self.update = update
        self.pendings = pendings
        # Fields whose values the database computes.
        self.computed = [
            field
            for field, shape in zip(update.fields, update.shapes, strict=True)
            if shape is not None
        ]
        self.computed += (f for f in self.opts.concrete_fields if f.generated)
        self.returned = self.fields_to_return()

    def fields_to_return(self):
        """Return the fields that RETURNING is to return."""
        if not can_return_updated(self.bulk):
            return []
        if self.bulk.keeps_created():
            return self.opts.concrete_fields
        return [*self.opts.pk_fields, *self.computed] if self.computed else []

    def send(self):
        """
        Send it, and give the written values to the cache and the instances.
        """
        is_undone = has_conflicts(self.connection, self.opts, self.update.fields)
        try:
            with transaction.atomic(self.bulk.using) if is_undone else nullcontext():
                returned = self.execute(self.pendings)
        except (DataError, IntegrityError) as error:
            returned = self.send_parts(self.pendings, error, is_undone)
        by_key = {key_of(each.obj): each for each in self.pendings}
        rows = []
        for values in returned:
            row = dict(zip((f.attname for f in self.returned), values, strict=True))
            key = tuple(row[field.attname] for field in self.opts.pk_fields)
            pending = by_key.get(key)
            if pending is not None:
                self.set_computed(pending.obj, row)
                rows.append((pending, values))
        if self.computed and not self.returned:
            self.select_computed(by_key)
        if self.bulk.keeps_created() and rows:
            self.publish(rows)

    def execute(self, pendings):
        """Return the rows that the UPDATE has returned."""
        sql, params = self.update.as_sql([each.row for each in pendings], self.returned)
        names = [field.attname for field in self.opts.pk_fields]
        keys = [{n: getattr(each.obj, n) for n in names} for each in pendings]
        with naming_rows(self.connection, self.bulk.model, sql, keys):
            returned, count = self.update.send(sql, params, self.returned)
        if count != len(pendings):
            # Because of a trigger or a rule. save() raises the same error.
            raise DatabaseError(
                f"{self.where(pendings)}: the UPDATE did not affect "
                f"{'it' if len(pendings) == 1 else 'all of them'}."
            )
        return returned

    def send_parts(self, pendings, error, is_undone):
        """
        Send the UPDATE of these rows again, in halves, in the order of the
        rows, because a value may be free only after an earlier row has been
        written. Return the rows that the UPDATEs have returned. If a single
        row causes the error, raise it again, and name that row.
        """
        if self.connection.vendor != "postgresql":
            set_rollback(False, self.bulk.using)  # The UPDATE undid only itself.
        elif not is_undone:
            self.raise_error(error, pendings)
        if len(pendings) == 1:
            self.raise_error(error, pendings)
        returned, half = [], len(pendings) // 2
        for part in (pendings[:half], pendings[half:]):
            try:
                with transaction.atomic(self.bulk.using):
                    returned += self.execute(part)
            except (DataError, IntegrityError) as found:
                returned += self.send_parts(part, found, is_undone)
        return returned

    def raise_error(self, error, pendings):
        """Raise the error again, and name the rows that cause it."""
        raise_naming(error, self.where(pendings))

    def where(self, pendings):
        """Return in words which rows these are."""
        first, last = pendings[0].indexes[0], pendings[-1].indexes[-1]
        return self.batch.where(first, first if len(pendings) == 1 else last)

    def set_computed(self, obj, row):
        for field in self.computed:
            setattr(obj, field.attname, row[field.attname])

    def select_computed(self, by_key):
        """
        Query the values that the database has computed, if UPDATE returns
        nothing.
        """
        fields = [*self.opts.pk_fields, *self.computed]
        attnames = [field.attname for field in fields]
        rows = self.bulk.model._base_manager.using(self.bulk.using)
        pks = [each.obj.pk for each in self.pendings]
        for values in rows.filter(pk__in=pks).values_list(*attnames):
            pending = by_key[values[: len(self.opts.pk_fields)]]
            self.set_computed(pending.obj, dict(zip(attnames, values, strict=True)))

    def publish(self, rows):
        """Store these rows of (PendingRow, column values) in the cache."""
        reading = self.bulk.queryset._begin_batch()
        if reading is None:
            return
        reader, found = self.batch.reader, {}
        for pending, values in rows:
            identity = self.batch.identities[pending.indexes[0]]
            if None not in identity:
                found[identity] = tuple(values)
        self.bulk.room -= len(found)
        publish_batch(reading, reader.fillable(found, reader.sought))


def pieces(bulk, update, pendings):
    """Yield lists of PendingRows, for one UPDATE each."""
    limits, size = bulk.limits, bulk.batch_size
    if limits.max_params:
        room = limits.max_params - len(update.params)
        size = min(size, max(room // len(update.columns), 1))
    start = 0
    for rows in cut([each.row for each in pendings], size, limits.max_bytes):
        yield pendings[start : start + len(rows)]
        start += len(rows)


def key_of(obj):
    """Return the values of the primary key."""
    return tuple(getattr(obj, field.attname) for field in obj._meta.pk_fields)


def can_return_updated(bulk):
    """Return True if an UPDATE can return the rows that it updates."""
    return (
        bulk.connection.vendor != "mysql"
        and bulk.connection.features.can_return_rows_from_bulk_insert
        and can_return_inserted(bulk)
    )


def has_conflicts(connection, opts, fields):
    """
    Return True if an UPDATE of these fields may violate a constraint, and the
    error would abort the transaction.
    """
    if connection.vendor != "postgresql":
        return False
    names = {field.name for field in fields}
    constrained = {*chain(*opts.unique_together)}
    constrained.update(field.name for field in fields if field.unique)
    for constraint in opts.constraints:
        constrained.update(getattr(constraint, "fields", ()))
        if getattr(constraint, "expressions", ()):
            return True
        condition = getattr(constraint, "condition", None)
        if condition is not None:
            if not hasattr(condition, "referenced_base_fields"):
                return True
            constrained |= condition.referenced_base_fields
    return not names.isdisjoint(constrained)
