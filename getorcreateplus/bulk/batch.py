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
multi-table inheritance, a table that refuses the clause, a conflict with
another row.
"""

from bisect import bisect
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import partial
from itertools import islice
from sqlite3 import SQLITE_LIMIT_EXPR_DEPTH

from django.core.exceptions import (
    EmptyResultSet,
    FieldDoesNotExist,
    FieldError,
    FullResultSet,
)
from django.db import IntegrityError, connections, models, transaction
from django.db.models import Q
from django.db.models.expressions import DatabaseDefault
from django.db.models.query import ModelIterable
from django.db.models.sql import InsertQuery
from django.db.models.utils import resolve_callables
from django.utils.functional import cached_property

from ..coherence.many import Sought
from ..conf import conf
from ..environment.interruptions import reraise
from ..lookups import equality as keys
from ..lookups.django_path import batch_follows_django
from ..lookups.rows import freeze, layout
from ..signals import ask_many_and_tell, cache_hit, cache_miss
from ..writes import table_facts as tables
from ..writes.guards import (
    can_guard,
    is_multi_table,
    locking_read,
    set_rollback,
)
from ..writes.invalidation import batch_of_inserts
from ..writes.refusals import Refused, refuses, try_clause
from .related import Relation

BATCH = 1000  # rows of a statement, and of a command of the cache
# Names that get_or_create() does not take for a field.
ARGUMENTS = {"defaults", "self"}
PARAMETERS = 2**16 - 1  # of one statement, where PostgreSQL binds them
SELECTS = 500  # that one statement unites
SAMPLE = 16  # one batch of so many asks the cache, where it is no use
NAMES = 140  # bytes of a condition that are not its value's


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
        self.room = conf.OVERLAY_ROWS  # for created rows that the cache may keep
        self.vain = 0  # rows that the cache was asked for since it had one
        self.left_out = 0  # batches that it was not asked for since

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
        key = Key(
            self.model,
            self.relation.values,
            self.unique_fields,
            self.connection.vendor,
        )
        self.follows_django = key.follows_django = batch_follows_django(queryset)
        key.choose(position, row)
        key.is_exact = (
            key.is_exact
            and self.follows_django
            and issubclass(queryset._iterable_class, ModelIterable)  # not values()
            and not queryset.query.is_sliced  # Django's error
            and can_insert(self.connection, self.model)
        )
        # Of a row that is not selected by this queryset it cannot be told
        # otherwise whether it is one of its rows.
        self.filters = None
        if self.whole and key.is_exact:
            with suppress(keys.NotCanonical):
                self.filters = keys.from_query(queryset.query, self.connection.vendor)
        self.reads = self.filters is not None and queryset._read_many() is not None
        # Where a SELECT would ask for a column in another form, of geometries,
        # RETURNING does not tell it.
        self.returns_all = self.filters is not None and all(
            type(field).select_format is models.Field.select_format
            for field in self.model._meta.concrete_fields
        )
        return key

    @cached_property
    def table(self):
        return tables.table_of(self.connection, self.model)

    @cached_property
    def most_params(self):
        """How many parameters a statement may have; None for any number."""
        most = self.connection.features.max_query_params
        if most is None and self.connection.vendor == "postgresql":
            return PARAMETERS  # Django 5.2 does not tell
        return most

    @cached_property
    def most_bytes(self):
        # Of SQLite, which has no such limit, nothing is asked so early.
        is_local = self.connection.vendor == "sqlite"
        return (tables.Table() if is_local else self.table).most_bytes

    @cached_property
    def most_groups(self):
        """How many conditions a statement may connect by OR; None for any."""
        if self.connection.vendor != "sqlite":
            return None
        self.connection.ensure_connection()
        try:
            depth = self.connection.connection.getlimit(SQLITE_LIMIT_EXPR_DEPTH)
        except AttributeError:  # of another driver
            depth = 1000
        # Half of it, for the conditions have a depth, and so have the filters.
        return max(depth // 2, 1) if depth else None

    @cached_property
    def own_params(self):
        """How many parameters the queryset has by itself."""
        query = self.queryset.query
        if not (query.where.children or query.annotations or query.extra):
            return 0
        try:
            return len(query.get_compiler(self.using).as_sql()[1])
        except (EmptyResultSet, FullResultSet):
            return 0

    def batches(self, wanted, width):
        """Yield the keys in batches of what a SELECT can take."""
        size = self.batch_size
        if self.most_params:
            size = min(size, max((self.most_params - self.own_params) // width, 1))
        for batch in cut(wanted, size, self.most_bytes):
            if width > 1 and self.has_many_groups(batch):
                yield from cut(batch, self.most_groups, self.most_bytes)
            else:
                yield batch

    def has_many_groups(self, batch):
        most = self.most_groups
        return most and len(batch) > most and len(grouped(batch)[1]) > most

    def asks(self):
        """
        Tell whether to ask the cache for the next batch: after many rows
        without a hit for one batch of sixteen. (Not asking is always right.)
        """
        if not self.reads:
            return False
        if self.vain < conf.OVERLAY_ROWS or cache_miss.receivers:
            return True
        self.room = 0  # of such rows the cache has more than enough
        self.left_out += 1
        return self.left_out % SAMPLE == 0

    def instance(self, values):
        """Return the instance that a SELECT would yield."""
        return self.queryset._instance(self.using, values)


def cut(wanted, size, most_bytes):
    """Yield lists of at most so many keys, and of so many bytes."""
    start = end = total = 0
    for key in wanted:
        length = length_of(key) + NAMES * len(key)
        total += length
        if end > start and (end - start == size or total > most_bytes):
            yield wanted[start:end]
            start, total = end, length
        end += 1
    if end > start:
        yield wanted[start:end]


def length_of(values):
    """Return how many bytes of a statement these values take, at most."""
    return sum(
        4 * len(value) + 10  # as UTF-8, or quoted
        if (kind := type(value)) is str or kind is bytes
        else length_of(value)
        if kind is list  # Django's, for UNNEST
        else 60
        for value in values
    )


def grouped(batch):
    """
    Return the place of the column with the most values, and {values of the
    other columns: [its values]}.
    """
    columns = list(zip(*batch, strict=True))
    longest = max(range(len(columns)), key=lambda i: len(set(columns[i])))
    groups = {}
    for key in batch:
        rest = key[:longest] + key[longest + 1 :]
        groups.setdefault(rest, []).append(key[longest])
    return longest, groups


def can_insert(connection, model):
    """Tell whether rows of the model can be inserted by one statement."""
    opts = model._meta.concrete_model._meta
    return (
        can_guard(connection)
        and connection.features.has_bulk_insert
        and not is_multi_table(model)
        and not refuses(connection, model)
        # In 5.2 save() alone knows the place of a new row.
        and not opts.order_with_respect_to
    )


class Key:
    """The fields that identify a row, and what a row gives for them."""

    allows_pk = False
    follows_django = True

    def __init__(self, model, given, unique_fields, vendor):
        """``given`` are the values of a related manager, by field."""
        self.model = model
        self.vendor = vendor
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
        known = keys.columns(self.opts, self.vendor)
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
            # As create(): a property will do, if it has a setter. What else a
            # neighbour's get_or_create() takes, that tells.
            if self.follows_django and not (
                name in self.opts._property_names and getattr(self.model, name).fset
            ):
                raise FieldError(
                    f"Row {position}: {self.opts.label} has no field {name!r} (its "
                    f"value is {row[name]!r})."
                ) from None
            return None

    def of(self, position, row):
        """
        Return the plain values that identify a row, None where it is not known
        what it may be equal to. Raise an error where nothing can be.
        """
        values = self.values(position, row)
        if self.is_exact:
            try:
                key = tuple(
                    plain(*each, self.vendor)
                    for each in zip(self.fields, self.kinds, values, strict=True)
                )
            except keys.NotCanonical:
                pass
            else:
                return key
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
            reraise(error)
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


def plain(field, kind, value, vendor):
    if type(value) is kind and kind in keys.PLAIN:
        return value
    if callable(value):
        raise keys.NotCanonical(value)
    return keys.prepare(field, value, vendor)


def value_of(instance, field):
    value = instance.__dict__.get(field.attname)
    if value is None and field.is_relation and field.is_cached(instance):
        # It may have been saved since.
        return field.get_cached_value(instance)
    return value


class Run:
    """One batch of rows, step by step."""

    def __init__(self, bulk, rows, wanted):
        """``wanted`` are the keys of the rows, as Key.of() returns them."""
        self.bulk = bulk
        self.key = bulk.key
        self.queryset = bulk.queryset
        self.connection = bulk.connection
        self.rows = rows
        self.wanted = wanted
        self.first = {}  # key: index of the first row that has it
        self.unknown = []  # indexes of rows that may be equal to any other
        self.nulls = []  # indexes of rows that are equal to none
        for index, key in enumerate(wanted):
            if key is None:
                self.unknown.append(index)
            elif None in key:
                self.nulls.append(index)
            else:
                self.first.setdefault(key, index)
        self.found = {}  # key: obj
        self.created = set()  # keys
        self.single = {}  # index: (obj, created), of rows without a key
        self.unclaimed = set()  # primary keys that were inserted, of some row
        self.ambiguous = set()  # keys that are for get_or_create()
        self.unasked = set()  # keys for which the cache was not asked

    def results(self):
        wanted = sorted(self.first)
        for start in range(0, len(wanted), self.bulk.batch_size):
            batch = wanted[start : start + self.bulk.batch_size]
            self.found |= self.look_up(batch)
        missing = [key for key in wanted if key not in self.found]
        del wanted
        if missing or self.unknown or self.nulls:
            self.complete(missing)
        return [
            self.single[index]
            if index in self.single
            else (
                self.found[key],
                key in self.created and self.first[key] == index,
            )
            for index, key in enumerate(self.wanted)
        ]

    def complete(self, missing):
        """Create what is missing, all or nothing."""
        if len(missing) > self.bulk.room:
            self.bulk.room = 0  # the transaction would forget all of them
        parts = [*self.parts(missing)]
        with self.queryset._bulk_atomic():
            for number, (part, index) in enumerate(parts):
                if number and not self.key.is_unique:
                    # The parts before it may have made one of these.
                    self.found |= self.select(part)
                self.create([key for key in part if key not in self.found])
                if index is not None:
                    self.single[index] = self.get_or_create(self.rows[index])
            for index in self.nulls:
                self.single[index] = self.get_or_create(self.rows[index])
            objs = [self.found[key] for key in missing if key in self.created]
            objs += (obj for obj, created in self.single.values() if created)
            self.bulk.relation.add(objs)

    def parts(self, missing):
        """
        Yield (keys, index): the keys can be created together, and before the
        row of that index, as it may be equal to one of them.
        """
        parts = [[] for _ in range(len(self.unknown) + 1)]
        for key in missing:
            parts[bisect(self.unknown, self.first[key])].append(key)
        is_doubtful = missing and self.bulk.table.is_plain and self.doubtful(missing)
        for part, index in zip(parts, [*self.unknown, None], strict=True):
            if is_doubtful and len(part) > SELECTS:
                # What is equal to the rows of an earlier part is lost to it.
                part.sort(key=self.first.__getitem__)
                pieces = [sorted(p) for p in cut(part, SELECTS, self.bulk.most_bytes)]
                yield from ((piece, None) for piece in pieces[:-1])
                yield pieces[-1], index
            else:
                yield part, index

    def create(self, part):
        """Create these rows, and find those that others have created."""
        if not part:
            return
        repeated = self.repeated(part)
        together = [k for k in part if not (k in self.ambiguous or k in repeated)]
        self.insert(together)
        lost = [key for key in together if key not in self.found]
        if lost:
            self.read_winners(lost)
        # As a loop does: the first of them may be equal to the others.
        rest = [k for k in part if not (k in self.found or k in repeated)]
        for key in sorted(rest, key=self.first.__getitem__):
            obj, created = self.get_or_create(self.rows[self.first[key]])
            self.found[key] = obj
            if created:
                self.created.add(key)
        for key, first in repeated.items():
            self.found[key] = self.found[first]

    def doubtful(self, part):
        """
        Return {place: texts} of a key's columns in which the database may find
        some of these texts equal.
        """
        doubtful = {}
        for place, field in enumerate(self.key.fields):
            texts = {key[place] for key in part if type(key[place]) is str}
            if len(texts) > 1 and not tables.are_distinct(
                self.bulk.table, field.column, texts
            ):
                doubtful[place] = sorted(texts)
        return doubtful

    def repeated(self, part):
        """Return {key: the first one that the database finds equal to it}."""
        equals = {
            place: tables.first_equals(
                self.connection,
                self.bulk.model,
                self.key.fields[place].column,
                texts,
            )
            for place, texts in self.doubtful(part).items()
        }
        if not equals:
            return {}
        first, repeated = {}, {}
        for key in sorted(part, key=self.first.__getitem__):
            same = tuple(
                equals[place][value] if place in equals else value
                for place, value in enumerate(key)
            )
            if same in first:
                repeated[key] = first[same]
            else:
                first[same] = key
        return repeated

    # Looking up

    def look_up(self, batch):
        """Return {key: obj} of the rows that are there."""
        many = self.queryset._read_many() if self.bulk.asks() else None
        if many is None:  # also in a bypass() that has begun since
            for key in batch if cache_miss.receivers else ():
                self.queryset._tell_not_asked(
                    dict(zip(self.key.attnames, key, strict=True))
                )
            if self.keeps():
                self.unasked.update(batch)
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
        self.bulk.vain = 0 if found else self.bulk.vain + len(batch)
        rest = [key for key in batch if key not in found]
        if rest:
            rows = self.select_values(rest)
            found |= {key: instance(values) for key, values in rows.items()}
            many.fill(self.fillable(rows, sought.get))
        return found

    def sought(self, key):
        values = dict(zip(self.key.attnames, key, strict=True))
        values |= self.bulk.filters
        pk = keys.pk_text(self.bulk.model._meta, values)
        return Sought(values, keys.lookup_of(values) if pk is None else None, pk)

    def fillable(self, rows, sought_of):
        """Return (row, pk, values) of {key: values} that can be kept."""
        pk_text, kept = layout(self.bulk.model).pk_text, []
        for key, values in rows.items():
            pk = pk_text(values)
            frozen = freeze(values)
            if pk is not None and frozen is not None:
                kept.append((sought_of(key), pk, frozen))
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
        if others and not self.key.is_unique:
            # The row that Python takes for another one may be one more for
            # get() to complain of, and no constraint keeps out another copy.
            self.ambiguous |= batch
            return {}
        return found

    def condition(self, batch):
        """Return the Q that finds these rows, and no others."""
        names = self.key.attnames
        if len(names) == 1:
            return Q((f"{names[0]}__in", [key[0] for key in batch]))
        # One condition for each combination of the other columns.
        longest, groups = grouped(batch)
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
        tells = self.tells_inserted()
        inserted = {}
        for start in range(0, len(pairs), size):
            batch = dict(pairs[start : start + size])
            for piece, insert in self.statements(batch, fields):
                if tells:
                    inserted |= self.insert_returning(piece, insert)
                else:
                    self.insert_and_select(piece, insert)
            # A statement may have had fewer rows.
            if len(inserted) >= self.bulk.batch_size:
                self.fill_inserted(inserted, fields)
                inserted = {}
        self.fill_inserted(inserted, fields)

    def tells_inserted(self):
        """Tell whether an INSERT may tell which rows were inserted."""
        table = self.bulk.table
        return (
            self.connection.features.can_return_rows_from_bulk_insert
            # Or else it does not tell of rows that a trigger puts elsewhere.
            and table.is_plain
            and (self.connection.vendor != "mysql" or table.takes_updates)
        )

    def statements(self, batch, fields):
        """Yield ({key: obj}, its Insert), each as large as it may be."""
        insert = Insert(self.connection, self.bulk.model, batch.values(), fields)
        most = self.bulk.most_params
        if len(batch) > 1 and (
            # An expression has any number of parameters.
            (most and len(insert.params) > most)
            or len(insert.sql) + length_of(insert.params) > self.bulk.most_bytes
        ):
            pairs, half = list(batch.items()), len(batch) // 2
            yield from self.statements(dict(pairs[:half]), fields)
            yield from self.statements(dict(pairs[half:]), fields)
        else:
            yield batch, insert

    def keeps(self):
        """Tell whether the cache is to have what is created."""
        return self.bulk.reads and self.bulk.returns_all and self.bulk.room > 0

    def insert_returning(self, batch, insert):
        """Return {key: columns} of the rows that were inserted."""
        opts = self.bulk.model._meta
        returned = list(opts.concrete_fields)
        tells_others = self.connection.vendor == "mysql" and self.bulk.returns_all
        if not (self.keeps() or tells_others):
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
        return rows if self.keeps() else {}

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
        """Let the transaction keep {key: columns}, while there is room."""
        if not (rows and self.keeps()):
            return
        self.bulk.room -= len(rows)
        opts = self.bulk.model._meta
        # Not one that was looked up in a block that has ended since.
        rows = {k: tuple(v.values()) for k, v in rows.items() if k not in self.unasked}
        made_pk = is_generated(opts) and opts.pk not in fields
        if (many := self.queryset._read_many()) is not None:
            many.fill_created(self.fillable(rows, self.sought), made_pk)

    def insert_and_select(self, batch, insert):
        """As insert_returning(), where no conflict can be left alone."""
        using = self.bulk.using
        # PostgreSQL undoes more than the statement.
        has_savepoint = self.connection.vendor == "postgresql"
        try:
            with transaction.atomic(using) if has_savepoint else nullcontext():
                insert.send_plainly()
        except IntegrityError:
            # get_or_create() tells of which row.
            set_rollback(False, using)
            return
        opts = self.bulk.model._meta
        columns = layout(self.bulk.model).attnames
        for keys_ in self.bulk.batches(list(batch), self.key.width):
            selected = self.bulk.model._base_manager.using(using)
            rows = selected.filter(self.condition(keys_)).values_list(*columns)
            for values in rows:
                row = dict(zip(columns, values, strict=True))
                key = plain_key([row[attname] for attname in self.key.attnames])
                if key in batch:
                    self.note_inserted(key, batch[key], row)
        for key, obj in batch.items():
            # It was sent without an error, as by save(): a trigger has left it
            # out, or changed its key.
            if key not in self.created and obj._is_pk_set():
                known = (*opts.pk_fields, *opts.db_returning_fields)
                self.note_inserted(
                    key, obj, {f.attname: getattr(obj, f.attname) for f in known}
                )

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
            if self.bulk.follows_django or name in ARGUMENTS:
                lookup[f"{field.name}__exact"] = value
            else:
                # What is overridden may know the name alone, and may replace
                # the value: defaults would win.
                lookup[name or field.attname] = value
                params.pop(name, None)
        obj, created = self.queryset.get_or_create(defaults=params, **lookup)
        created = self.claim(obj) if self.unclaimed and not created else created
        if created and all(isinstance(each, models.Model) for each in (row, obj)):
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
                attempt = partial(try_clause, self.connection, self.model)
                sql = f"{self.sql} ON CONFLICT DO NOTHING RETURNING {columns}"
                try:
                    with self.connection.execute_wrapper(attempt):
                        cursor.execute(sql, self.params)
                except Refused:
                    return [], []  # get_or_create() inserts them.
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
