"""One batch of rows, step by step."""

from bisect import bisect
from collections.abc import Mapping

from ..signals import result_of, send_end_of_miss
from .creating import BatchCreator, instance_of
from .equals import EqualTexts
from .limits import cut
from .pending import is_expression
from .reading import BatchReader
from .single import arguments_of, as_given, as_one_object, naming_row

MAX_UNITED_SELECTS = 500  # that one statement unites


class Batch(EqualTexts):
    """One batch of rows: finds the rows that exist, and creates the others."""

    def __init__(self, bulk, rows, identities, start):
        """
        ``identities`` are those of the rows, as identity_of() returns them.
        ``start`` is the position of the first row in the call.
        """
        self.bulk = bulk
        self.start = start
        self.identifying = bulk.identifying
        self.queryset = bulk.queryset
        self.connection = bulk.connection
        self.rows = rows
        self.identities = identities
        self.first = {}  # identity: index of the first row that has it
        self.unknown = []  # indexes of rows that may be equal to any other
        self.nulls = []  # indexes of rows that are equal to no other
        for index, identity in enumerate(identities):
            if identity is None:
                self.unknown.append(index)
            elif None in identity:
                self.nulls.append(index)
            else:
                self.first.setdefault(identity, index)
        self.found = {}  # identity: obj
        self.created = set()  # identities
        self.single = {}  # index: (obj, created), of rows without an identity
        self.reader = self.make_reader()
        self.creator = BatchCreator(self)

    def make_reader(self):
        return BatchReader(self, self.queryset)

    def results(self):
        """Return [(obj, created), ...] for the rows, in their order."""
        wanted = sorted(self.first)
        for start in range(0, len(wanted), self.bulk.batch_size):
            batch = wanted[start : start + self.bulk.batch_size]
            self.found |= self.reader.look_up(batch)
        missing = [identity for identity in wanted if identity not in self.found]
        del wanted
        if missing or self.unknown or self.nulls:
            if len(missing) > self.bulk.room:
                self.bulk.room = 0  # the transaction would discard all of them
            parts = [*self.parts(missing)]
            with self.queryset._bulk_atomic():
                self.complete(missing, parts)
        self.send_ends_of_misses()
        results = [self.result_of(index) for index in range(len(self.rows))]
        return as_one_object(results) if self.single else results

    def send_ends_of_misses(self):
        for identity, lookup in self.reader.missed.items():
            result = result_of(identity in self.created)
            send_end_of_miss(self.queryset, lookup, result)

    def result_of(self, index):
        """Return (obj, created) for a row."""
        if index in self.single:
            return self.single[index]
        identity = self.identities[index]
        is_first = self.first[identity] == index
        return self.found[identity], is_first and identity in self.created

    def row_of(self, identity):
        """Return the first row that has this identity."""
        return self.rows[self.first[identity]]

    def where(self, first, last):
        """Return in words which rows those of these indexes are."""
        if first == last:
            return f"Row {self.start + first}"
        return f"One of rows {self.start + first} to {self.start + last}"

    def new_instance(self, identity):
        """Return the instance to insert for a missing row."""
        return instance_of(self.row_of(identity), self.bulk)

    def complete(self, missing, parts):
        """Create the missing rows, in a transaction."""
        for number, (part, index) in enumerate(parts):
            if number and not self.identifying.are_unique:
                # The parts before it may have created one of these.
                self.found |= self.reader.select(part)
            self.create([each for each in part if each not in self.found])
            if index is not None:
                self.single[index] = self.get_or_create(index)
        for index in self.nulls:
            self.single[index] = self.get_or_create(index)
        objs = [self.found[each] for each in missing if each in self.created]
        objs += (obj for obj, created in self.single.values() if created)
        self.bulk.relation.add(objs)

    def parts(self, missing):
        """
        Yield (identities, index): these rows can be created together, before
        the row of that index, because it may be equal to one of them.
        """
        parts = [[] for _ in range(len(self.unknown) + 1)]
        for identity in missing:
            parts[bisect(self.unknown, self.first[identity])].append(identity)
        is_doubtful = (
            missing and self.bulk.table.takes_each_row and self.doubtful_texts(missing)
        )
        for part, index in zip(parts, [*self.unknown, None], strict=True):
            if is_doubtful and len(part) > MAX_UNITED_SELECTS:
                # A row that equals a row of an earlier part finds it there.
                part.sort(key=self.first.__getitem__)
                max_bytes = self.bulk.limits.max_bytes
                pieces = [sorted(p) for p in cut(part, MAX_UNITED_SELECTS, max_bytes)]
                yield from ((piece, None) for piece in pieces[:-1])
                yield pieces[-1], index
            else:
                yield part, index

    def create(self, part):
        """Create these rows, and find those that others have created."""
        if not part:
            return
        repeated = self.repeated(part)
        ambiguous = self.reader.ambiguous
        if self.reader.has_others:
            ambiguous.update(each for each in part if self.may_need_row(each))
        together = [i for i in part if not (i in ambiguous or i in repeated)]
        self.creator.insert(together)
        lost = [identity for identity in together if identity not in self.found]
        if lost:
            self.read_winners(lost)
        # In the order of a loop, because the first of them may be equal to the
        # others.
        rest = [i for i in part if not (i in self.found or i in repeated)]
        for identity in sorted(rest, key=self.first.__getitem__):
            obj, created = self.get_or_create(self.first[identity])
            self.found[identity] = obj
            if created:
                self.created.add(identity)
        for identity, first in repeated.items():
            self.found[identity] = self.found[first]

    def may_need_row(self, identity):
        """
        Return True if the values for a new row must not be computed before it
        is certain that no row exists.
        """
        row = self.row_of(identity)
        return isinstance(row, Mapping) and any(map(is_computed, row.values()))

    def read_winners(self, lost):
        """Read the rows that other writers have inserted in the meantime."""
        self.found |= self.reader.select(lost)
        if self.creator.unclaimed:
            # This call may have created one: get_or_create() finds out.
            for identity in lost:
                obj = self.found.get(identity)
                if obj is not None and self.creator.claim(obj):
                    self.created.add(identity)

    def get_or_create(self, index):
        """Return (obj, created) for one row, by the queryset's own method."""
        lookup, params = self.arguments(index)
        # That of the reader, which locks the row if the batch locks rows.
        queryset = self.reader.queryset
        with naming_row(self.start + index):
            obj, created = queryset.get_or_create(defaults=params, **lookup)
        if self.creator.unclaimed and not created:
            created = self.creator.claim(obj)
        return as_given(self.rows[index], obj) if created else obj, created

    def arguments(self, index):
        """Do the same as arguments_of(), for one row."""
        return arguments_of(self.bulk, self.rows[index])


def is_computed(value):
    """Return True for a callable and for an expression."""
    return callable(value) or is_expression(value)
