"""
bulk_get_or_create(): many rows by a handful of statements.

The cache is asked first, SELECT … IN for what it lacks, and INSERT adds what
is missing: with ON CONFLICT DO NOTHING, or what MariaDB has in its place, so
that the rows of a concurrent writer are left alone, and then read. RETURNING
tells the rows that were inserted, and all their columns where the cache wants
them. Keys are sorted, so that two batches that meet do not deadlock; of three
InnoDB may still pick a victim, by its locks on the primary key.

Whatever that cannot be trusted to do, get_or_create() does row by row: NULL in
a key, a key that may compare otherwise in Python than in the database,
multi-table inheritance, deferrable constraints, a conflict with another row.
"""

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from itertools import islice

from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import IntegrityError, connections, models
from django.db.models import Q
from django.db.models.expressions import DatabaseDefault
from django.db.models.query import ModelIterable
from django.db.models.sql import InsertQuery
from django.db.models.utils import resolve_callables

from . import keys
from .inserts import (
    can_guard,
    is_deferrable,
    is_multi_table,
    locking_read,
    set_rollback,
)
from .invalidation import batch_of_inserts
from .many import Sought
from .payload import freeze, layout
from .related import Relation
from .signals import ask_many_and_tell, cache_hit, cache_miss

BATCH = 1000  # rows of a statement, and of a command of the cache
SPARE = 20  # parameters of a SELECT that are left to the queryset's filters


class Bulk:
    """The call on one queryset, for one batch of rows or several."""

    def __init__(self, queryset, unique_fields, batch_size, *, whole):
        """``whole`` tells whether the queryset yields rows as they are."""
        if batch_size is not None and batch_size <= 0:
            raise ValueError("Batch size must be a positive integer.")
        self.relation = Relation(queryset)
        self.queryset = self.relation.queryset
        self.model = queryset.model
        self.using = self.queryset.db
        self.connection = connections[self.using]
        self.unique_fields = unique_fields
        self.batch_size = batch_size or BATCH
        self.whole = whole
        self.key = None

    def run(self, rows, start=0):
        """
        Return [(obj, created), ...] of rows whose positions begin at start.
        """
        if not rows:
            return []
        if self.key is None:
            self.key = self.begin(rows[0], start)
        key_of = self.key.of
        wanted = [key_of(position, row) for position, row in enumerate(rows, start)]
        return Run(self, rows, wanted).results()

    def begin(self, row, position):
        """Return the Key, by the first row."""
        queryset = self.queryset
        key = Key(self.model, self.relation.values, self.unique_fields)
        key.choose(position, row)
        key.is_exact = (
            key.is_exact
            and issubclass(queryset._iterable_class, ModelIterable)  # not values()
            and not queryset.query.is_sliced  # Django's error
            and can_insert(self.connection, self.model)
        )
        # Of a row that is not selected by this queryset it cannot be told
        # otherwise whether it is one of its rows.
        self.filters = None
        if self.whole and key.is_exact:
            with suppress(keys.NotCanonical):
                self.filters = keys.from_query(queryset.query)
        self.reads = self.filters is not None and queryset._read_many() is not None
        # Where a SELECT would ask for a column in another form, of geometries,
        # RETURNING does not tell it.
        self.returns_all = self.filters is not None and all(
            type(field).select_format is models.Field.select_format
            for field in self.model._meta.concrete_fields
        )
        return key

    def batches(self, wanted, width):
        """Yield the keys in batches of what a SELECT can take."""
        # In 6.1 SQLite is asked for it, by a connection.
        size, limit = self.batch_size, self.connection.features.max_query_params
        if limit:
            size = max(min(size, (limit - SPARE) // width), 1)
        for start in range(0, len(wanted), size):
            yield wanted[start : start + size]

    def instance(self, values):
        """Return the instance that a SELECT would yield."""
        return self.queryset._instance(self.using, values)


def can_insert(connection, model):
    """Tell whether rows of the model can be inserted by one statement."""
    opts = model._meta.concrete_model._meta
    return (
        can_guard(connection)
        and connection.features.has_bulk_insert
        and not is_multi_table(model)
        and not is_deferrable(model)
        # In 5.2 save() alone knows the place of a new row.
        and not opts.order_with_respect_to
    )


class Key:
    """The fields that identify a row, and what a row gives for them."""

    allows_pk = False

    def __init__(self, model, given, unique_fields):
        """``given`` are the values of a related manager, by field."""
        self.model = model
        self.opts = model._meta
        self.given = given
        self.unique_fields = unique_fields
        self.shapes = {}  # the names in a mapping: those of the key's fields

    def choose(self, position, row):
        if self.unique_fields is None:
            self.fields = self.covered(position, row)
        else:
            self.fields = [self.field(name) for name in self.unique_fields]
            if not self.fields:
                raise ValueError("unique_fields must name at least one field.")
        self.attnames = [field.attname for field in self.fields]
        self.width = len(self.fields)
        self.is_unique = {field.name for field in self.fields} in [
            set(names) for names in unique_constraints(self.opts)
        ]
        self.allows_pk = self.opts.pk in self.fields
        known = keys.columns(self.opts)
        self.is_exact = all(
            field.name in known
            and field.get_lookup("exact") in keys.EXACT
            and prepares_as_django(field)
            for field in self.fields
        )
        if self.is_exact:
            self.kinds = [known[field.name][1] for field in self.fields]

    def field(self, name):
        """Return the concrete field of a name that the user wrote."""
        opts = self.opts
        try:
            field = opts.pk if name == "pk" else opts.get_field(name)
        except FieldDoesNotExist:
            field = None
        if field is opts.pk and len(opts.pk_fields) > 1:
            raise FieldError(
                f"unique_fields names {name!r}, a composite primary key: name its "
                f"fields {', '.join(each.name for each in opts.pk_fields)} instead."
            )
        if field is None or not field.concrete or field.many_to_many:
            names = ", ".join(sorted(field.name for field in opts.concrete_fields))
            raise FieldError(
                f"unique_fields names {name!r}, which is no column of "
                f"{opts.label}. Choices are: {names}"
            )
        return field

    def covered(self, position, row):
        """Return the fields of the one unique constraint that a row covers."""
        given = {field.name for field in self.given} | self.names_of(position, row)
        candidates = unique_constraints(self.opts)
        found = [names for names in candidates if given.issuperset(names)]
        if len(found) != 1:
            listed = "; ".join(", ".join(names) for names in found or candidates)
            raise ValueError(
                f"Which fields identify a row of {self.opts.label}? Row {position} "
                f"({', '.join(sorted(given))}) has all fields of "
                + ("several unique constraints" if found else "no unique constraint")
                + f": give unique_fields. Candidates: {listed or 'none'}."
            )
        return [self.opts.get_field(name) for name in found[0]]

    def names_of(self, position, row):
        if isinstance(row, Mapping):
            names = set()
            for name in row:
                field = self.named(position, row, name)
                if field is not None:
                    names.add(field.name)
            return names
        self.check_instance(position, row)
        return {
            field.name
            for field in self.opts.concrete_fields
            if not (field in self.opts.pk_fields and field.has_default())
            and not isinstance(value := value_of(row, field), DatabaseDefault)
            and value is not None
        }

    def named(self, position, row, name):
        """Return the field that a mapping names, None for a property."""
        try:
            return self.opts.pk if name == "pk" else self.opts.get_field(name)
        except FieldDoesNotExist:
            # As create(): a property will do, if it has a setter.
            if not (
                name in self.opts._property_names and getattr(self.model, name).fset
            ):
                raise FieldError(
                    f"Row {position}: {self.opts.label} has no field {name!r} (its "
                    f"value is {row[name]!r})."
                ) from None
            return None

    def of(self, position, row):
        """
        Return the plain values that identify a row, None where get_or_create()
        has to find it. Raise an error where nothing can.
        """
        values = self.values(position, row)
        if self.is_exact:
            try:
                key = tuple(map(plain, self.fields, self.kinds, values))
            except keys.NotCanonical:
                pass
            else:
                return None if None in key else key
        for field, value in zip(self.fields, values, strict=True):
            self.check(position, field, value)
        return None

    def values(self, position, row):
        """Return what a row gives for the fields of the key."""
        if isinstance(row, Mapping):
            names = self.shapes.get(tuple(row)) or self.shape(position, row)
            return [
                self.given[name] if isinstance(name, models.Field) else row[name]
                for name in names
            ]
        self.check_instance(position, row)
        values = [
            self.given[field] if field in self.given else value_of(row, field)
            for field in self.fields
        ]
        for field, value in zip(self.fields, values, strict=True):
            if isinstance(value, DatabaseDefault):
                self.refuse_missing(position, row, field)
        return values

    def shape(self, position, row):
        """Note which names of a mapping give the key."""
        found = {field: field for field in self.given}
        for name in row:
            field = self.named(position, row, name)
            if field is not None:
                found.setdefault(field, name)
        for field in self.fields:
            if field not in found:
                self.refuse_missing(position, row, field)
        names = self.shapes[tuple(row)] = [found[field] for field in self.fields]
        return names

    def refuse_missing(self, position, row, field):
        raise ValueError(
            f"Row {position} has no value for {field.name!r}, which identifies it: "
            f"{row!r}."
        )

    def check_instance(self, position, row):
        if not isinstance(row, self.opts.concrete_model):
            raise TypeError(
                f"Row {position} is neither a mapping nor an instance of "
                f"{self.opts.label}: {row!r}."
            )
        if not row._state.adding:
            raise ValueError(
                f"Row {position} is saved already: {row!r} (primary key {row.pk!r})."
            )
        if row._is_pk_set() and is_generated(self.opts) and not self.allows_pk:
            raise ValueError(
                f"Row {position} has a primary key: {row.pk!r}. Leave it to the "
                "database, or name it in unique_fields."
            )

    def check(self, position, field, value):
        """Raise an error where no row can have the value."""
        where = f"Row {position}, {field.name} = {value!r}"
        if hasattr(value, "resolve_expression") or value is None:
            return
        if isinstance(value, models.Model):
            try:
                keys.related_value(field, value)
            except (AttributeError, keys.NotCanonical):
                raise ValueError(
                    f"{where}: not a saved instance that the field may refer to."
                ) from None
            return
        if callable(value):
            raise TypeError(f"{where}: what identifies a row must not be a callable.")
        try:
            hash(value)
        except TypeError:
            raise TypeError(
                f"{where}: what identifies a row must be hashable."
            ) from None
        try:
            field.get_prep_value(value)
        except Exception as error:
            raise ValueError(f"{where}: {error}") from error


def unique_constraints(opts):
    """Return lists of the names of fields that are unique together."""
    found = [
        [field.name]
        for field in opts.concrete_fields
        if field.unique and not (field.primary_key and is_generated(opts))
    ]
    if len(opts.pk_fields) > 1:
        found.append([field.name for field in opts.pk_fields])
    found += map(list, opts.unique_together)
    found += (list(constraint.fields) for constraint in opts.total_unique_constraints)
    return [names for i, names in enumerate(found) if names not in found[:i]]


def is_generated(opts):
    return isinstance(opts.pk, models.AutoField)


def prepares_as_django(field):
    """Tell whether a prepared value may be prepared again."""
    while True:
        if not keys.converts_as_django(type(field), "get_prep_value", "to_python"):
            return False
        if not field.is_relation:
            return True
        field = field.target_field


def plain(field, kind, value):
    if type(value) is kind and kind in keys.PLAIN:
        return value
    if callable(value):
        raise keys.NotCanonical(value)
    return keys.prepare(field, value)


def value_of(instance, field):
    value = instance.__dict__.get(field.attname)
    if value is None and field.is_relation and field.is_cached(instance):
        # It may have been saved since.
        return field.get_cached_value(instance)
    return value


class Run:
    """One batch of rows, step by step."""

    def __init__(self, bulk, rows, wanted):
        """``wanted`` are the keys of the rows, None for row by row."""
        self.bulk = bulk
        self.key = bulk.key
        self.queryset = bulk.queryset
        self.connection = bulk.connection
        self.rows = rows
        self.wanted = wanted
        self.first = {}  # key: index of the first row that has it
        for index, key in enumerate(wanted):
            if key is not None:
                self.first.setdefault(key, index)
        self.found = {}  # key: obj
        self.created = set()  # keys
        self.single = {}  # index: (obj, created), of rows without a key
        self.unclaimed = set()  # primary keys that were inserted, of some row
        self.missed = {}  # key: its Sought, of those that were asked for

    def results(self):
        wanted = sorted(self.first)
        for start in range(0, len(wanted), self.bulk.batch_size):
            batch = wanted[start : start + self.bulk.batch_size]
            self.found |= self.look_up(batch)
        missing = [key for key in wanted if key not in self.found]
        if missing or len(self.first) < len(self.rows):
            self.complete(missing)
        return [
            self.single[index]
            if key is None
            else (
                self.found[key],
                key in self.created and self.first[key] == index,
            )
            for index, key in enumerate(self.wanted)
        ]

    def complete(self, missing):
        """Create what is missing, all or nothing."""
        alone = [index for index, key in enumerate(self.wanted) if key is None]
        if not (missing or alone):
            return
        with self.queryset._bulk_atomic():
            self.insert(missing)
            lost = [key for key in missing if key not in self.found]
            if lost:
                self.read_winners(lost)
            # Of a collation, mostly, that finds equal what Python does not.
            for key in lost:
                if key not in self.found:
                    obj, created = self.get_or_create(self.rows[self.first[key]])
                    self.found[key] = obj
                    if created:
                        self.created.add(key)
            for index in alone:
                self.single[index] = self.get_or_create(self.rows[index])
            objs = [self.found[key] for key in missing if key in self.created]
            objs += (obj for obj, created in self.single.values() if created)
            self.bulk.relation.add(objs)

    # Looking up

    def look_up(self, batch):
        """Return {key: obj} of the rows that are there."""
        many = self.queryset._read_many() if self.bulk.reads else None
        if many is None:  # also in a bypass() that has begun since
            for key in batch if cache_miss.receivers else ():
                self.queryset._tell_not_asked(
                    dict(zip(self.key.attnames, key, strict=True))
                )
            return self.select(batch)
        instance = self.bulk.instance
        sought = {key: self.sought(key) for key in batch}
        if cache_hit.receivers or cache_miss.receivers:
            ask_many_and_tell(many, list(sought.values()))
        else:
            many.ask(list(sought.values()))
        found = {
            key: instance(row.values)
            for key, row in sought.items()
            if row.values is not None
        }
        rest = [key for key in batch if key not in found]
        if rest:
            rows = self.select_values(rest)
            found |= {key: instance(values) for key, values in rows.items()}
            many.fill(self.fillable(rows, sought))
            self.missed |= {key: sought[key] for key in rest if key not in rows}
        return found

    def sought(self, key):
        values = dict(zip(self.key.attnames, key, strict=True))
        values |= self.bulk.filters
        pk = keys.pk_text(self.bulk.model._meta, values)
        return Sought(values, tuple(sorted(values.items())) if pk is None else None, pk)

    def fillable(self, rows, sought):
        """Return (row, pk, values) of {key: values} that can be kept."""
        pk_text, kept = layout(self.bulk.model).pk_text, []
        for key, values in rows.items():
            pk = pk_text(values)
            frozen = freeze(values)
            if pk is not None and frozen is not None:
                kept.append((sought[key], pk, frozen))
        return kept

    def select(self, wanted):
        if self.bulk.whole:
            rows = self.select_values(wanted)
            return {key: self.bulk.instance(values) for key, values in rows.items()}
        found, attnames = {}, self.key.attnames
        for batch in self.bulk.batches(wanted, self.key.width):
            objs = self.queryset.filter(self.condition(batch)).order_by()
            with locking_read(self.bulk.using) if self.locks() else nullcontext():
                rows = [([getattr(obj, a) for a in attnames], obj) for obj in objs]
            found |= self.by_key(batch, rows)
        return found

    def select_values(self, wanted):
        """Return {key: column values}, in the order of concrete_fields."""
        columns, found = layout(self.bulk.model), {}
        places = [columns.index[attname] for attname in self.key.attnames]
        for batch in self.bulk.batches(wanted, self.key.width):
            selected = self.queryset.filter(self.condition(batch)).order_by()
            rows = [
                ([values[place] for place in places], values)
                for values in selected.values_list(*columns.attnames)
            ]
            found |= self.by_key(batch, rows)
        return found

    def locks(self):
        return self.queryset.query.select_for_update

    def by_key(self, batch, rows):
        """Return {key: row} of (values of the key, row)."""
        batch, found, others = set(batch), {}, False
        for values, row in rows:
            key = plain_key(values)
            if key not in batch:
                others = True
            elif key in found:
                raise self.bulk.model.MultipleObjectsReturned(
                    f"bulk_get_or_create() found more than one "
                    f"{self.bulk.model._meta.object_name} for row "
                    f"{self.first[key]}: {self.rows[self.first[key]]!r}."
                )
            else:
                found[key] = row
        # Where nothing is unique, the row that Python takes for another one
        # may be one more for get() to complain of.
        return {} if others and not self.key.is_unique else found

    def condition(self, batch):
        """Return the Q that finds these rows, and no others."""
        columns = list(zip(*batch, strict=True))
        names = self.key.attnames
        if len(names) == 1:
            return Q((f"{names[0]}__in", [key[0] for key in batch]))
        # One condition for each combination of the other columns.
        longest = max(range(len(names)), key=lambda i: len(set(columns[i])))
        groups = {}
        for key in batch:
            rest = key[:longest] + key[longest + 1 :]
            groups.setdefault(rest, []).append(key[longest])
        others = names[:longest] + names[longest + 1 :]
        return Q(
            *(
                Q((f"{names[longest]}__in", values), *zip(others, rest, strict=True))
                for rest, values in groups.items()
            ),
            _connector=Q.OR,
        )

    def read_winners(self, lost):
        """Read the rows that others have inserted in the meantime."""
        self.found |= self.select(lost)
        if self.unclaimed:
            # Whether this call has made one of them is for get_or_create().
            for key in lost:
                obj = self.found.get(key)
                if obj is not None and self.claim(obj):
                    self.created.add(key)

    # Creating

    def insert(self, missing):
        """Insert what nobody else inserts, and note it as found."""
        if not missing:
            return
        pairs = [(key, self.make(self.rows[self.first[key]])) for key in missing]
        objs = [obj for _, obj in pairs]
        self.queryset._prepare_for_bulk_create(objs)
        with_pk, without_pk = [], []
        for pair in pairs:
            (with_pk if pair[1]._is_pk_set() else without_pk).append(pair)
        fields = [f for f in self.bulk.model._meta.concrete_fields if not f.generated]
        self.insert_like(with_pk, fields)
        fields = [f for f in fields if not isinstance(f, models.AutoField)]
        self.insert_like(without_pk, fields)

    def make(self, row):
        """Return the instance that is to be inserted."""
        if isinstance(row, models.Model):
            obj = row
            for name, value in self.bulk.relation.row.items():
                setattr(obj, name, value)
        else:
            params = dict(resolve_callables(row))
            for field in self.bulk.relation.values:
                params.pop(field.attname, None)
            obj = self.bulk.model(**params | self.bulk.relation.row)
        if hasattr(self.queryset, "_fetch_mode"):  # Django 6.1
            obj._state.fetch_mode = self.queryset._fetch_mode
        return obj

    def insert_like(self, pairs, fields):
        """Insert the rows of (key, obj), which give values to these fields."""
        objs = [obj for _, obj in pairs]
        most = max(self.connection.ops.bulk_batch_size(fields, objs), 1)
        size = min(self.bulk.batch_size, most)
        inserted = []
        for start in range(0, len(pairs), size):
            batch = dict(pairs[start : start + size])
            if self.connection.features.can_return_rows_from_bulk_insert:
                inserted += self.insert_returning(batch, fields).items()
            else:
                self.insert_and_select(batch, fields)
        if self.bulk.reads and self.bulk.returns_all:
            # A statement may have had fewer rows.
            for start in range(0, len(inserted), self.bulk.batch_size):
                batch = dict(inserted[start : start + self.bulk.batch_size])
                self.fill_inserted(batch, fields)

    def insert_returning(self, batch, fields):
        """Return {key: columns} of the rows that were inserted."""
        opts = self.bulk.model._meta
        insert = Insert(self.connection, self.bulk.model, batch.values(), fields)
        returned = list(opts.concrete_fields)
        tells_others = self.connection.vendor == "mysql"  # MariaDB
        if not ((self.bulk.reads or tells_others) and self.bulk.returns_all):
            wanted = {*opts.pk_fields, *self.key.fields, *opts.db_returning_fields}
            returned = [field for field in returned if field in wanted]
        attnames = [field.attname for field in returned]
        pks = []
        with batch_of_inserts(self.connection, self.bulk.model, pks):
            inserted, others = insert.send(returned)
            rows = [dict(zip(attnames, values, strict=True)) for values in inserted]
            pks += (keys.pk_text(opts, row) for row in rows)
        rows = self.claimed(batch, rows)
        for key, row in rows.items():
            self.note_inserted(key, batch[key], row)
        if self.bulk.returns_all:
            self.note_others(batch, others)
        return rows

    def note_others(self, batch, others):
        """
        Note the rows that were there, as MariaDB returns them.

        A SELECT would not see them, under REPEATABLE READ. One that locks
        would, but it may scan the table, and deadlock.
        """
        columns = layout(self.bulk.model)
        for values in map(tuple, others):
            key = plain_key([values[columns.index[a]] for a in self.key.attnames])
            if (
                key in batch
                and key not in self.found
                and self.key.is_unique
                and columns.matches(self.bulk.filters, freeze(values))
            ):
                self.found[key] = self.bulk.instance(values)

    def claimed(self, batch, rows):
        """Return {key: row} of the rows that were inserted."""
        claimed, others = {}, []
        for row in rows:
            key = plain_key([row[attname] for attname in self.key.attnames])
            if key in batch:
                claimed[key] = row
            else:
                others.append(row)
        rest = [key for key in batch if key not in claimed]
        if len(others) == len(rest):
            # In the order of the INSERT, as bulk_create() takes them.
            claimed |= zip(rest, others, strict=True)
        else:
            opts = self.bulk.model._meta
            self.unclaimed |= {keys.pk_text(opts, row) for row in others}
        return claimed

    def claim(self, obj):
        """Tell whether this call has inserted the row, once."""
        opts = self.bulk.model._meta
        values = {f.attname: getattr(obj, f.attname) for f in opts.pk_fields}
        pk = keys.pk_text(opts, values)
        if pk in self.unclaimed:
            self.unclaimed.discard(pk)
            return True
        return False

    def note_inserted(self, key, obj, row):
        opts = self.bulk.model._meta
        for field in (*opts.pk_fields, *opts.db_returning_fields):
            setattr(obj, field.attname, row[field.attname])
        obj._state.adding = False
        obj._state.db = self.bulk.using
        self.found[key] = obj
        self.created.add(key)

    def fill_inserted(self, rows, fields):
        opts = self.bulk.model._meta
        # Not one that was looked up in a block that has ended since.
        rows = {k: tuple(row.values()) for k, row in rows.items() if k in self.missed}
        made_pk = is_generated(opts) and opts.pk not in fields
        if (many := self.queryset._read_many()) is not None:
            many.fill_created(self.fillable(rows, self.missed), made_pk)

    def insert_and_select(self, batch, fields):
        """As insert_returning(), of MySQL and SQLite before 3.35."""
        insert = Insert(self.connection, self.bulk.model, batch.values(), fields)
        try:
            insert.send_plainly()
        except IntegrityError:
            # It undid just that statement. get_or_create() tells which.
            set_rollback(False, self.bulk.using)
            return
        columns = layout(self.bulk.model).attnames
        for keys_ in self.bulk.batches(list(batch), self.key.width):
            selected = self.bulk.model._base_manager.using(self.bulk.using)
            rows = selected.filter(self.condition(keys_)).values_list(*columns)
            for values in rows:
                row = dict(zip(columns, values, strict=True))
                key = plain_key([row[attname] for attname in self.key.attnames])
                if key in batch:
                    self.note_inserted(key, batch[key], row)

    # Row by row

    def get_or_create(self, row):
        params = params_of(row) if isinstance(row, models.Model) else dict(row)
        for field in self.bulk.relation.values:
            params.pop(field.attname, None)
        params |= self.bulk.relation.row
        lookup = {}
        for field in self.key.fields:
            names = [field.name, field.attname, *(["pk"] if field.primary_key else [])]
            name = next((name for name in names if name in params), None)
            # A field may have the name of an argument.
            value = params[name] if name else value_of(row, field)
            lookup[f"{field.name}__exact"] = value
        obj, created = self.queryset.get_or_create(params, **lookup)
        created = self.claim(obj) if self.unclaimed and not created else created
        if created and isinstance(row, models.Model):
            # As bulk_create(): it is that instance that has been saved.
            row.__dict__.update(obj.__dict__)
            obj = row
        return obj, created


def params_of(instance):
    """Return what create() needs to make the same row."""
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


def plain_key(values):
    try:
        return tuple(
            value if type(value) in keys.PLAIN else keys.plain(value)
            for value in values
        )
    except keys.NotCanonical:
        return None


class Insert:
    """
    One INSERT of many rows, as bulk_create() sends it, except that it leaves
    alone the rows that are there.
    """

    def __init__(self, connection, model, objs, fields):
        self.connection = connection
        self.model = model
        query = InsertQuery(model)
        query.insert_values(fields, list(objs))
        self.compiler = query.get_compiler(connection=connection)
        [(self.sql, self.params)] = self.compiler.as_sql()

    def send_plainly(self):
        with self.connection.cursor() as cursor:
            cursor.execute(self.sql, self.params)

    def send(self, returned):
        """
        Return the columns of the rows that were inserted, and of those that
        were there, where the database returns them.

        Not by INSERT OR IGNORE or INSERT IGNORE, which store what violates
        other constraints, or leave it out.
        """
        quote, opts = self.connection.ops.quote_name, self.model._meta
        table = quote(opts.db_table)
        columns = ", ".join(f"{table}.{quote(field.column)}" for field in returned)
        others = []
        with self.connection.cursor() as cursor:
            if self.connection.vendor == "mysql":
                column = quote(opts.pk_fields[0].column)
                rows, others = self.send_counting(cursor, column, columns)
            else:
                cursor.execute(
                    f"{self.sql} ON CONFLICT DO NOTHING RETURNING {columns}",
                    self.params,
                )
                rows = cursor.fetchall()
        if self.connection.vendor == "sqlite":
            rows = self.as_stored(rows, returned)
        cols = [field.get_col(opts.db_table) for field in returned]
        converters = self.compiler.get_converters(cols)
        if converters:
            convert = self.compiler.apply_converters
            rows, others = convert(rows, converters), convert(others, converters)
        return list(rows), list(others)

    def send_counting(self, cursor, column, columns):
        # MariaDB returns the rows that were there as well: they are counted.
        # Nothing is updated, but the lock is an exclusive one, so that those
        # who wait for the same row do not deadlock on it.
        cursor.execute("SET @getorcreateplus = 0")
        cursor.execute(
            f"{self.sql} ON DUPLICATE KEY UPDATE {column} = IF("
            f"@getorcreateplus := @getorcreateplus + 1, {column}, {column}) "
            f"RETURNING {columns}, @getorcreateplus",
            self.params,
        )
        rows, others, before = [], [], 0
        for *values, count in cursor.fetchall():
            (rows if int(count) == before else others).append(values)
            before = int(count)
        return rows, others

    def as_stored(self, rows, returned):
        # SQLite returns an integer that was sent to a REAL column as one.
        reals = [
            place
            for place, field in enumerate(returned)
            if (field.db_type(self.connection) or "")
            .upper()
            .startswith(("REAL", "FLOA", "DOUB"))
        ]
        if not reals:
            return rows
        rows = [list(row) for row in rows]
        for row in rows:
            for place in reals:
                if type(row[place]) is int:
                    row[place] = float(row[place])
        return rows


def batched(rows, size):
    """Yield lists of this size, as itertools.batched() of Python 3.12."""
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch
