"""The missing rows of a batch."""

from contextlib import contextmanager, nullcontext

from django.db import DataError, IntegrityError, models, transaction
from django.db.models.expressions import DatabaseDefault

from ..coherence.filling import fill_uncommitted
from ..lookups.canonical import pk_text
from ..lookups.rows import layout, private_copy
from ..writes.pending_transaction import set_rollback
from ..writes.watching import batch_of_inserts
from .identity import identity_from_row, is_generated, value_of
from .insert import Insert
from .limits import length_of


class BatchCreator:
    """Inserts the missing rows of a Batch."""

    def __init__(self, batch):
        self.batch = batch
        self.bulk = batch.bulk
        self.identifying = batch.identifying
        self.queryset = batch.queryset
        self.connection = batch.connection
        # Primary keys of inserted rows whose row of the batch is unknown.
        self.unclaimed = set()

    def insert(self, missing):
        """
        Insert the rows that no other writer has inserted, and record them as
        found.
        """
        if not missing:
            return
        new_instance = self.batch.new_instance
        pairs = [(identity, new_instance(identity)) for identity in missing]
        objs = [obj for _, obj in pairs]
        self.queryset._prepare_for_bulk_create(objs)
        with_pk, without_pk = [], []
        for pair in pairs:
            (with_pk if pair[1]._is_pk_set() else without_pk).append(pair)
        fields = [f for f in self.bulk.model._meta.concrete_fields if not f.generated]
        self.insert_like(with_pk, fields)
        fields = [f for f in fields if not isinstance(f, models.AutoField)]
        self.insert_like(without_pk, fields)

    def insert_like(self, pairs, fields):
        """
        Insert the rows of (identity, obj), which have values for these fields.
        """
        objs = [obj for _, obj in pairs]
        limit = max(self.connection.ops.bulk_batch_size(fields, objs), 1)
        size = min(self.bulk.batch_size, limit)
        returns = can_return_inserted(self.bulk)
        inserted = {}
        for start in range(0, len(pairs), size):
            batch = dict(pairs[start : start + size])
            for piece, insert in statements(self.bulk, batch, fields):
                if returns:
                    inserted |= self.insert_returning(piece, insert)
                else:
                    self.insert_and_select(piece, insert)
            # A statement may have fewer rows.
            if len(inserted) >= self.bulk.batch_size:
                self.fill_inserted(inserted, fields)
                inserted = {}
        self.fill_inserted(inserted, fields)

    def insert_returning(self, batch, insert):
        """Return {identity: columns} of the rows that were inserted."""
        bulk, opts = self.bulk, self.bulk.model._meta
        returned = list(opts.concrete_fields)
        returns_others = self.connection.vendor == "mysql" and bulk.returns_whole_rows
        if not (bulk.keeps_created() or returns_others):
            wanted = {
                *opts.pk_fields,
                *self.identifying.fields,
                *opts.db_returning_fields,
            }
            returned = [field for field in returned if field in wanted]
        attnames = [field.attname for field in returned]
        pks = []
        with (
            batch_of_inserts(self.connection, bulk.model, pks),
            naming_positions(self.batch, batch),
        ):
            inserted, others = insert.send(returned)
            rows = [dict(zip(attnames, values, strict=True)) for values in inserted]
            pks += (pk_text(opts, row) for row in rows)
        rows = self.assign(batch, rows)
        for identity, row in rows.items():
            self.record_inserted(identity, batch[identity], row)
        if bulk.returns_whole_rows:
            self.record_others(batch, others)
        return rows if bulk.keeps_created() else {}

    def assign(self, batch, rows):
        """Return {identity: row} of the rows that were inserted."""
        assigned, others = {}, []
        for row in rows:
            identity = identity_from_row([row[a] for a in self.identifying.attnames])
            if identity in batch:
                assigned[identity] = row
            else:
                others.append(row)
        rest = [identity for identity in batch if identity not in assigned]
        if len(others) == len(rest):
            # In the order of the INSERT, as in bulk_create().
            assigned |= zip(rest, others, strict=True)
        else:
            opts = self.bulk.model._meta
            self.unclaimed |= {pk_text(opts, row) for row in others}
        return assigned

    def claim(self, obj):
        """Return True if this call has inserted the row, but only once."""
        opts = self.bulk.model._meta
        values = {f.attname: getattr(obj, f.attname) for f in opts.pk_fields}
        pk = pk_text(opts, values)
        if pk in self.unclaimed:
            self.unclaimed.discard(pk)
            return True
        return False

    def record_inserted(self, identity, obj, row):
        opts = self.bulk.model._meta
        for field in (*opts.pk_fields, *opts.db_returning_fields):
            setattr(obj, field.attname, row[field.attname])
        obj._state.adding = False
        obj._state.db = self.bulk.using
        self.batch.found[identity] = obj
        self.batch.created.add(identity)

    def record_others(self, batch, others):
        """
        Record the rows that existed already, which MariaDB returns.

        A SELECT would not see them, under REPEATABLE READ. A locking SELECT
        would, but it may scan the table, and deadlock.
        """
        columns, attnames = layout(self.bulk.model), self.identifying.attnames
        for values in map(tuple, others):
            identity = identity_from_row([values[columns.index[a]] for a in attnames])
            if (
                identity in batch
                and identity not in self.batch.found
                and self.identifying.are_unique
                and columns.matches(self.bulk.filters, private_copy(values))
            ):
                self.batch.found[identity] = self.bulk.make_instance(values)

    def fill_inserted(self, rows, fields):
        """
        Let the transaction keep these {identity: columns}, if there is room.
        """
        if not (rows and self.bulk.keeps_created()):
            return
        self.bulk.room -= len(rows)
        opts, reader = self.bulk.model._meta, self.batch.reader
        # Not a row that was looked up in a bypass() block that has ended.
        skipped = reader.not_read
        rows = {i: tuple(r.values()) for i, r in rows.items() if i not in skipped}
        made_pk = is_generated(opts) and opts.pk not in fields
        if (reading := self.queryset._begin_batch()) is not None:
            created = reader.fillable(rows, reader.sought_created)
            fill_uncommitted(reading, created, made_pk)

    def insert_and_select(self, batch, insert):
        """
        Do the same as insert_returning(), if an INSERT cannot ignore a
        conflict.
        """
        using = self.bulk.using
        # PostgreSQL undoes more than the failed statement.
        has_savepoint = self.connection.vendor == "postgresql"
        try:
            with (
                transaction.atomic(using) if has_savepoint else nullcontext(),
                naming_positions(self.batch, batch),
            ):
                insert.send_plainly()
        except IntegrityError:
            # get_or_create() finds out which row conflicts.
            set_rollback(False, using)
            return
        opts = self.bulk.model._meta
        columns = layout(self.bulk.model).attnames
        for part in self.bulk.limits.batches(list(batch), self.identifying.width):
            selected = self.bulk.model._base_manager.using(using)
            rows = selected.filter(self.batch.reader.condition(part))
            for values in rows.values_list(*columns):
                row = dict(zip(columns, values, strict=True))
                identity = identity_from_row(
                    [row[attname] for attname in self.identifying.attnames]
                )
                if identity in batch:
                    self.record_inserted(identity, batch[identity], row)
        for identity, obj in batch.items():
            # It was sent without an error, as by save(): a trigger has omitted
            # it, or changed its identity.
            if identity not in self.batch.created and obj._is_pk_set():
                known = (*opts.pk_fields, *opts.db_returning_fields)
                self.record_inserted(
                    identity, obj, {f.attname: getattr(obj, f.attname) for f in known}
                )


def statements(bulk, batch, fields):
    """Yield ({identity: obj}, Insert), each as large as possible."""
    insert = Insert(bulk.connection, bulk.model, batch.values(), fields)
    limits = bulk.limits
    if len(batch) > 1 and (
        # An expression has any number of parameters.
        (limits.max_params and len(insert.params) > limits.max_params)
        or len(insert.sql) + length_of(insert.params) > limits.max_bytes
    ):
        pairs, half = list(batch.items()), len(batch) // 2
        yield from statements(bulk, dict(pairs[:half]), fields)
        yield from statements(bulk, dict(pairs[half:]), fields)
    else:
        yield batch, insert


@contextmanager
def naming_positions(batch, identities):
    """Add the positions of these rows to the message of an error."""
    try:
        yield
    except (DataError, IntegrityError) as error:
        indexes = [batch.first[identity] for identity in identities]
        raise_naming(error, batch.where(min(indexes), max(indexes)))


def instance_of(row, bulk):
    """Return the instance to insert for a row."""
    if isinstance(row, models.Model):
        obj = row
        for name, value in bulk.relation.row.items():
            setattr(obj, name, value)
    else:
        # The same as resolve_callables(), which takes twice as long.
        params = {n: v() if callable(v) else v for n, v in row.items()}
        for field in bulk.relation.values:
            params.pop(field.attname, None)
        obj = bulk.model(**params | bulk.relation.row)
    if hasattr(bulk.queryset, "_fetch_mode"):  # Django 6.1
        obj._state.fetch_mode = bulk.queryset._fetch_mode
    return obj


def raise_naming(error, where):
    """Raise an error of the database again, which says where its row is."""
    raise type(error)(f"{where}: {error}") from error.__cause__ or error


def can_return_inserted(bulk):
    """Return True if an INSERT may return the rows that it inserted."""
    return (
        bulk.connection.features.can_return_rows_from_bulk_insert
        # Otherwise it does not return rows that a trigger has put elsewhere.
        and bulk.table.takes_each_row
        and (bulk.connection.vendor != "mysql" or bulk.table.takes_updates)
    )


def params_of(instance):
    """Return arguments with which create() makes the same row."""
    params = {}
    for field in instance._meta.concrete_fields:
        value = value_of(instance, field)
        if field.generated or isinstance(value, DatabaseDefault):
            continue
        if value is None and field in instance._meta.pk_fields:
            continue
        if field.is_relation and field.is_cached(instance):
            params[field.name] = field.get_cached_value(instance)
        else:
            params[field.attname] = value
    return params
