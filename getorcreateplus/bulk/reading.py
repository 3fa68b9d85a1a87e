"""Reads the existing rows of a batch from the cache and the database."""

import time
from contextlib import nullcontext

from django.db.models import Q

from ..coherence.filling import fill
from ..coherence.looking import SoughtRow
from ..lookups.canonical import pk_text
from ..lookups.conditions import lookup_tuple
from ..lookups.rows import layout, private_copy
from ..signals import cache_hit, cache_miss, send_hit_or_miss
from ..writes.locking_reads import locking_read
from .identity import identity_from_row
from .limits import grouped
from .one_of import one_combination_of, one_of


class BatchReader:
    """Finds the rows of a Batch."""

    order: list[str] = []  # rows are locked in the order of these columns

    def __init__(self, batch, queryset):
        self.batch = batch
        self.bulk = batch.bulk
        self.identifying = batch.identifying
        self.queryset = queryset
        self.ambiguous = set()  # identities that are left to get_or_create()
        # True if a row may exist that an identity does not equal in Python.
        self.has_others = False
        self.not_read = set()  # identities that were not read from the cache
        # True if the values of a lookup may be a primary key.
        self.may_name_pk = not {f.attname for f in self.bulk.model._meta.pk_fields} - {
            *self.identifying.attnames,
            *(self.bulk.filters or ()),
        }
        self.missed = {}  # identity: lookup, for the misses that were sent
        self.hint_keys = {}  # identity: key of its hint, for rows to be created

    def look_up(self, identities):
        """Return {identity: obj} of the rows that exist."""
        reading, sought, rows = self.look(identities)
        make_instance = self.bulk.make_instance
        found = {identity: make_instance(values) for identity, values in rows.items()}
        rest = [identity for identity in identities if identity not in found]
        if reading is None:
            return self.select(rest)
        if rest:
            if self.bulk.keeps_created():
                self.keep_hint_keys(rest, sought)
            rows = self.select_values(rest)
            found |= {each: make_instance(values) for each, values in rows.items()}
            fill(reading, self.fillable(rows, sought.get))
        return found

    def look(self, identities):
        """
        Read these rows from the cache. Return the Reading, None if the cache
        is not read, {identity: SoughtRow}, and {identity: column values} of
        hits.
        """
        reading = None
        if self.bulk.choose_cache_read():
            reading = self.bulk.queryset._begin_batch()
        if reading is None:  # also in a bypass() block that has begun in the meantime
            for identity in identities if cache_miss.receivers else ():
                lookup = dict(zip(self.identifying.attnames, identity, strict=True))
                self.queryset._send_unread_miss(lookup)
                self.missed[identity] = lookup
            if self.bulk.keeps_created():
                self.not_read.update(identities)
            return None, {}, {}
        sought = {identity: self.sought(identity) for identity in identities}
        began = time.monotonic()
        reading.ask_many(list(sought.values()))
        if cache_hit.receivers or cache_miss.receivers:
            seconds = (time.monotonic() - began) / len(sought)
            for identity, row in sought.items():
                send_hit_or_miss(reading, row, True, seconds)
                if row.values is None:
                    self.missed[identity] = row.wanted
        hits = {i: row.values for i, row in sought.items() if row.values is not None}
        if hits:
            self.bulk.rows_without_hit = 0
        else:
            self.bulk.rows_without_hit += len(identities)
        return reading, sought, hits

    def sought(self, identity):
        """Return the SoughtRow of the row that has this identity."""
        values = dict(zip(self.identifying.attnames, identity, strict=True))
        values |= self.bulk.filters
        pk = pk_text(self.bulk.model._meta, values) if self.may_name_pk else None
        return SoughtRow(values, lookup_tuple(values) if pk is None else None, pk)

    def keep_hint_keys(self, identities, sought):
        """Keep the keys that take a digest, for the hints of created rows."""
        if len(self.hint_keys) < self.bulk.room:
            self.hint_keys |= {each: sought[each].hint_key for each in identities}

    def sought_created(self, identity):
        """Return the SoughtRow of a row that was created."""
        sought = self.sought(identity)
        sought.hint_key = self.hint_keys.get(identity)
        return sought

    def fillable(self, rows, sought_of):
        """
        Return (row, pk, values) for those {identity: values} that can be kept.
        """
        text_of, kept = layout(self.bulk.model).pk_text, []
        for identity, values in rows.items():
            pk = text_of(values)
            copied = private_copy(values)
            if pk is not None and copied is not None:
                kept.append((sought_of(identity), pk, copied))
        return kept

    def select(self, identities):
        """Return {identity: obj} of the rows in the database."""
        if self.bulk.yields_rows:
            rows = self.select_values(identities)
            return {
                identity: self.bulk.make_instance(values)
                for identity, values in rows.items()
            }
        found, attnames = {}, self.identifying.attnames
        for part in self.parts(identities):
            objs = self.queryset.filter(self.condition(part)).order_by(*self.order)
            with self.selecting():
                rows = [([getattr(obj, a) for a in attnames], obj) for obj in objs]
            found |= self.by_identity(part, rows)
        return found

    def select_values(self, identities):
        """
        Return {identity: column values}, in the order of concrete_fields.
        """
        columns, found = layout(self.bulk.model), {}
        places = [columns.index[attname] for attname in self.identifying.attnames]
        for part in self.parts(identities):
            selected = self.queryset.filter(self.condition(part)).order_by(*self.order)
            with self.selecting():
                rows = [
                    ([values[place] for place in places], values)
                    for values in selected.values_list(*columns.attnames)
                ]
            found |= self.by_identity(part, rows)
        return found

    def parts(self, identities):
        """Yield the identities in batches for one SELECT each."""
        return self.bulk.limits.batches(identities, self.identifying.width)

    def selecting(self):
        """Return the context manager around a SELECT, which may lock rows."""
        if self.queryset.query.select_for_update:
            return locking_read(self.bulk.using)
        return nullcontext()

    def by_identity(self, identities, rows):
        """Return {identity: row} for (identifying values, row)."""
        wanted, found, others = set(identities), {}, False
        for values, row in rows:
            identity = identity_from_row(values)
            if identity not in wanted:
                others = True
            elif identity in found:
                raise self.bulk.model.MultipleObjectsReturned(
                    f"{self.bulk.method}() found more than one "
                    f"{self.bulk.model._meta.object_name} for row "
                    f"{self.batch.start + self.batch.first[identity]}: "
                    f"{self.batch.row_of(identity)!r}."
                )
            else:
                found[identity] = row
        if others and not self.identifying.are_unique:
            # A row that differs in Python may be a second row for get(), which
            # then raises an error. And no constraint prevents another copy.
            self.ambiguous |= wanted
            return {}
        if 0 < len(found) < len(wanted):
            # A found row may equal other identities, too, by the collation.
            others = others or bool(self.batch.doubtful_texts(wanted))
            if others and not self.identifying.are_unique:
                self.ambiguous |= wanted - found.keys()
        self.has_others |= others
        return found

    def condition(self, identities):
        """Return the condition that finds exactly these rows."""
        names, fields = self.identifying.attnames, self.identifying.fields
        if len(names) == 1:
            values, [field] = [value for [value] in identities], fields
            condition = one_of(field, values)
            return Q((f"{names[0]}__in", values)) if condition is None else condition
        condition = one_combination_of(fields, identities, self.batch.connection)
        if condition is not None:
            return condition
        # One condition for each combination of the other columns.
        longest, groups = grouped(identities)
        others = names[:longest] + names[longest + 1 :]
        return Q(
            *(
                Q((f"{names[longest]}__in", values), *zip(others, rest, strict=True))
                for rest, values in groups.items()
            ),
            _connector=Q.OR,
        )
