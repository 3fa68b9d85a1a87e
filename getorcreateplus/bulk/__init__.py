"""
bulk_get_or_create(): many rows with a handful of statements.

The batch first reads the cache, then sends SELECT … IN for the rows that are
not in the cache, and INSERT for the missing ones: with ON CONFLICT DO NOTHING,
or MariaDB's equivalent. So the rows of a concurrent writer do not change, and
are then read. RETURNING shows which rows were inserted, with all their columns
if the cache stores them. The rows are sorted, so two batches with the same
rows do not deadlock. With three batches, InnoDB may still abort one, because
of its locks on the primary key.

get_or_create() handles rows one by one if the statements may be wrong for
them: NULL in an identifying field, a value that may compare differently in
Python and in the database, multi-table inheritance, a table that refuses the
clause, a conflict with another row.

``identity``  which fields identify a row, and their values in a row
``batch``     one batch of rows, step by step
``iterating`` the batches of an async call that yields results as it goes
``reading``   its rows in the cache and in the database
``creating``  its missing rows
``insert``    the INSERT
``equals``    texts that only the database finds equal
``one_of``    the condition that a column has one of many values
``limits``    how large a statement may be
``related``   what a related manager gives to new rows
``single``    one row of a batch, for the queryset's own method

bulk_update_or_create() adds the UPDATE of rows that exist:

``updating``   one batch of rows, step by step
``changes``    what a row changes in a row that exists
``locking``    the SELECT that locks the rows
``pending``    a row that exists, and what is to be written of it
``update``     the UPDATE of many rows, each with values of its own
``sending``    that UPDATE on its way, and what becomes of its rows
``one_by_one`` what goes row by row

These modules may use ``writes``, ``coherence``, ``lookups`` and
``environment``, and the methods of the given queryset.
"""

from contextlib import suppress
from itertools import islice

from django.db import connections, models
from django.db.models.query import ModelIterable
from django.utils.functional import cached_property

from ..conf import conf
from ..environment.coroutines import _get_running_loop, refuse_in_coroutine
from ..lookups.canonical import NotCanonical
from ..lookups.conditions import from_query
from ..lookups.django_path import batch_follows_django
from ..signals import cache_miss
from ..writes import table_facts
from ..writes.guards import can_guard, is_multi_table
from ..writes.refusals import refuses
from .batch import Batch
from .identity import IdentifyingFields
from .limits import StatementLimits
from .related import Relation

BATCH_SIZE = 1000  # rows of a statement, and of a command of the cache
# If reading the cache does not pay, one batch of so many reads it.
READ_ONE_BATCH_OF = 16


class Bulk:
    """The call on one queryset, for one batch of rows or several."""

    method = "bulk_get_or_create"
    batch_class = Batch

    def __init__(self, queryset, unique_fields, batch_size, *, yields_rows):
        """``yields_rows`` is True if the queryset yields rows of the table."""
        if batch_size is not None and batch_size <= 0:
            raise ValueError("Batch size must be a positive integer.")
        self.relation = Relation(queryset)
        self.queryset = self.relation.queryset
        self.model = queryset.model
        self.using = self.queryset.db
        self.connection = connections[self.using]
        self.unique_fields = unique_fields
        self.batch_size = batch_size or BATCH_SIZE
        self.limits = StatementLimits(self)
        self.yields_rows = yields_rows
        self.identifying = None  # the IdentifyingFields, once a row is known
        # Number of created rows that the cache may still keep.
        self.room = conf.OVERLAY_ROWS
        # Rows that were read from the cache since the last hit.
        self.rows_without_hit = 0
        self.batches_not_read = 0  # batches that have not read the cache since then

    def run(self, rows, start=0):
        """
        Return [(obj, created), ...] for rows whose positions begin at start.
        """
        if not rows:
            return []
        if _get_running_loop() is not None:
            refuse_in_coroutine()  # also if all rows are in the cache
        if self.identifying is None:
            self.identifying = self.begin(rows[0], start)
        identity_of = self.identifying.identity_of
        identities = [identity_of(i, row) for i, row in enumerate(rows, start)]
        return self.batch_class(self, rows, identities, start).results()

    def run_batches(self, objs):
        """Yield (obj, created) for any number of rows, batch by batch."""
        start = 0
        for rows in batched(objs, self.batch_size):
            yield from self.run(rows, start)
            start += len(rows)

    def begin(self, row, position):
        """Return the IdentifyingFields, which the first row may determine."""
        queryset = self.queryset
        self.follows_django = batch_follows_django(queryset)
        identifying = IdentifyingFields(
            self.model,
            self.relation.values,
            self.unique_fields,
            self.connection.vendor,
            follows_django=self.follows_django,
        )
        identifying.choose(position, row)
        identifying.allow_batches = (
            identifying.are_canonical
            and self.follows_django
            and issubclass(queryset._iterable_class, ModelIterable)  # not values()
            and not queryset.query.is_sliced  # Django's error
            and can_insert(self.connection, self.model)
        )
        # A row returned by INSERT can be checked against the queryset only by
        # these filters.
        self.filters = None
        if self.yields_rows and identifying.allow_batches:
            with suppress(NotCanonical):
                self.filters = from_query(queryset.query, self.connection.vendor)
        self.uses_cache = (
            self.filters is not None and queryset._begin_batch() is not None
        )
        # RETURNING may return a column in another form than SELECT, for
        # example a geometry.
        self.returns_whole_rows = self.filters is not None and all(
            type(field).select_format is models.Field.select_format
            for field in self.model._meta.concrete_fields
        )
        return identifying

    @cached_property
    def table(self):
        return table_facts.facts_of(self.connection, self.model)

    def choose_cache_read(self):
        """
        Return True if the next batch is to read the cache, and count it. After
        many rows without a hit, one batch of sixteen reads it. (A batch that
        does not read it is right, too.)
        """
        if not self.uses_cache:
            return False
        if self.rows_without_hit < conf.OVERLAY_ROWS or cache_miss.receivers:
            return True
        self.room = 0  # the cache has enough of such rows
        self.batches_not_read += 1
        return self.batches_not_read % READ_ONE_BATCH_OF == 0

    def keeps_created(self):
        """Return True if the cache is to keep created rows."""
        return self.uses_cache and self.returns_whole_rows and self.room > 0

    def make_instance(self, values):
        """Return the instance that a SELECT would yield."""
        return self.queryset._make_instance(self.using, values)


def can_insert(connection, model):
    """Return True if one statement can insert rows of the model."""
    opts = model._meta.concrete_model._meta
    return (
        can_guard(connection)
        and connection.features.has_bulk_insert
        and not is_multi_table(model)
        and not refuses(connection, model)
        # In 5.2 only save() computes the position of a new row.
        and not opts.order_with_respect_to
    )


def batched(rows, size):
    """Yield lists of this size, like itertools.batched() of Python 3.12."""
    rows = iter(rows)
    while batch := list(islice(rows, size)):
        yield batch
