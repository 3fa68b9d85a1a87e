"""One batch of rows, step by step."""

from bisect import bisect

from django.db import models

from ..writes import table_facts
from .creating import BatchCreator, params_of
from .identity import value_of
from .limits import cut
from .reading import BatchReader

MAX_UNITED_SELECTS = 500  # that one statement unites
# Names that get_or_create() takes for arguments, and not for a field.
ARGUMENTS = {"defaults", "self"}


class Batch:
    """One batch of rows: which of them exist, and the creation of the rest."""

    def __init__(self, bulk, rows, identities):
        """
        ``identities`` are those of the rows, as identity_of() returns them.
        """
        self.bulk = bulk
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
        self.reader = BatchReader(self)
        self.creator = BatchCreator(self)

    def results(self):
        """Return [(obj, created), ...] of the rows, in their order."""
        wanted = sorted(self.first)
        for start in range(0, len(wanted), self.bulk.batch_size):
            batch = wanted[start : start + self.bulk.batch_size]
            self.found |= self.reader.look_up(batch)
        missing = [identity for identity in wanted if identity not in self.found]
        del wanted
        if missing or self.unknown or self.nulls:
            self.complete(missing)
        return [
            self.single[index]
            if index in self.single
            else (
                self.found[identity],
                identity in self.created and self.first[identity] == index,
            )
            for index, identity in enumerate(self.identities)
        ]

    def row_of(self, identity):
        """Return the first row that has this identity."""
        return self.rows[self.first[identity]]

    def complete(self, missing):
        """Create the missing rows, all or nothing."""
        if len(missing) > self.bulk.room:
            self.bulk.room = 0  # the transaction would drop all of them
        parts = [*self.parts(missing)]
        with self.queryset._bulk_atomic():
            for number, (part, index) in enumerate(parts):
                if number and not self.identifying.are_unique:
                    # The parts before it may have created one of these.
                    self.found |= self.reader.select(part)
                self.create([each for each in part if each not in self.found])
                if index is not None:
                    self.single[index] = self.get_or_create(self.rows[index])
            for index in self.nulls:
                self.single[index] = self.get_or_create(self.rows[index])
            objs = [self.found[each] for each in missing if each in self.created]
            objs += (obj for obj, created in self.single.values() if created)
            self.bulk.relation.add(objs)

    def parts(self, missing):
        """
        Yield (identities, index): these can be created together, and before
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
                # A row that equals one of an earlier piece finds it there.
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
        together = [i for i in part if not (i in ambiguous or i in repeated)]
        self.creator.insert(together)
        lost = [identity for identity in together if identity not in self.found]
        if lost:
            self.read_winners(lost)
        # In the order of a loop: the first of them may be equal to the others.
        rest = [i for i in part if not (i in self.found or i in repeated)]
        for identity in sorted(rest, key=self.first.__getitem__):
            obj, created = self.get_or_create(self.row_of(identity))
            self.found[identity] = obj
            if created:
                self.created.add(identity)
        for identity, first in repeated.items():
            self.found[identity] = self.found[first]

    def read_winners(self, lost):
        """Read the rows that others have inserted in the meantime."""
        self.found |= self.reader.select(lost)
        if self.creator.unclaimed:
            # Whether this call has created one of them, get_or_create() has to
            # find out.
            for identity in lost:
                obj = self.found.get(identity)
                if obj is not None and self.creator.claim(obj):
                    self.created.add(identity)

    def doubtful_texts(self, part):
        """
        Return {place: texts} of the identifying columns in which the database
        may find some of these texts equal.
        """
        doubtful = {}
        for place, field in enumerate(self.identifying.fields):
            texts = {each[place] for each in part if type(each[place]) is str}
            if len(texts) > 1 and not table_facts.are_distinct(
                self.bulk.table, field.column, texts
            ):
                doubtful[place] = sorted(texts)
        return doubtful

    def repeated(self, part):
        """
        Return {identity: the first one that the database finds equal to it}.
        """
        equals = {
            place: table_facts.first_equals(
                self.connection,
                self.bulk.model,
                self.identifying.fields[place].column,
                texts,
            )
            for place, texts in self.doubtful_texts(part).items()
        }
        if not equals:
            return {}
        first, repeated = {}, {}
        for identity in sorted(part, key=self.first.__getitem__):
            same = tuple(
                equals[place][value] if place in equals else value
                for place, value in enumerate(identity)
            )
            if same in first:
                repeated[identity] = first[same]
            else:
                first[same] = identity
        return repeated

    def get_or_create(self, row):
        """Return (obj, created) of one row, by the queryset's own method."""
        params = params_of(row) if isinstance(row, models.Model) else dict(row)
        for field in self.bulk.relation.values:
            params.pop(field.attname, None)
        params |= self.bulk.relation.row
        lookup = {}
        for field in self.identifying.fields:
            names = [field.name, field.attname, *(["pk"] if field.primary_key else [])]
            name = next((name for name in names if name in params), None)
            # A field may have the name of an argument.
            value = params[name] if name else value_of(row, field)
            if self.bulk.follows_django or name in ARGUMENTS:
                lookup[f"{field.name}__exact"] = value
            else:
                # An override may know only the name, and may replace the
                # value: defaults would take precedence.
                lookup[name or field.attname] = value
                params.pop(name, None)
        obj, created = self.queryset.get_or_create(defaults=params, **lookup)
        if self.creator.unclaimed and not created:
            created = self.creator.claim(obj)
        if created and all(isinstance(each, models.Model) for each in (row, obj)):
            # As bulk_create(): it is that instance that has been saved.
            row.__dict__.update(obj.__dict__)
            obj = row
        return obj, created
