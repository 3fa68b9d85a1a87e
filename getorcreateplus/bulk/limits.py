"""Limits of the size of a statement, and batches within these limits."""

from sqlite3 import SQLITE_LIMIT_EXPR_DEPTH

from django.core.exceptions import EmptyResultSet, FullResultSet
from django.utils.functional import cached_property

from ..writes import table_facts

MAX_POSTGRESQL_PARAMS = 2**16 - 1  # of one statement, with server-side binding
CONDITION_SIZE = 140  # bytes of a condition without its value


class StatementLimits:
    """The limits of a Bulk's statements. Each is computed when needed."""

    def __init__(self, bulk):
        self.bulk = bulk
        self.connection = bulk.connection

    def batches(self, identities, width, size=None):
        """Yield the identities in batches that one SELECT can have."""
        size = size or self.bulk.batch_size
        if self.max_params:
            size = min(size, max((self.max_params - self.own_params) // width, 1))
        for batch in cut(identities, size, self.max_bytes):
            if width > 1 and self.has_too_many_groups(batch):
                yield from cut(batch, self.max_groups, self.max_bytes)
            else:
                yield batch

    def has_too_many_groups(self, batch):
        limit = self.max_groups
        return limit and len(batch) > limit and len(grouped(batch)[1]) > limit

    @cached_property
    def max_params(self):
        """
        The maximum number of parameters in a statement; None means no limit.
        """
        found = self.connection.features.max_query_params
        if found is None and self.connection.vendor == "postgresql":
            return MAX_POSTGRESQL_PARAMS  # Django 5.2 has no number for this
        return found

    @cached_property
    def max_bytes(self):
        # SQLite has no such limit, so the facts of its table are not read
        # here.
        is_local = self.connection.vendor == "sqlite"
        return (table_facts.TableFacts() if is_local else self.bulk.table).max_bytes

    @cached_property
    def max_groups(self):
        """
        The maximum number of conditions that a statement may connect with OR;
        None means no limit.
        """
        if self.connection.vendor != "sqlite":
            return None
        self.connection.ensure_connection()
        try:
            depth = self.connection.connection.getlimit(SQLITE_LIMIT_EXPR_DEPTH)
        except AttributeError:  # by another driver
            depth = 1000
        # Half of it, because the conditions and the queryset's filters are
        # nested.
        return max(depth // 2, 1) if depth else None

    @cached_property
    def own_params(self):
        """The number of parameters of the queryset itself."""
        query = self.bulk.queryset.query
        if not (query.where.children or query.annotations or query.extra):
            return 0
        try:
            return len(query.get_compiler(self.bulk.using).as_sql()[1])
        except (EmptyResultSet, FullResultSet):
            return 0


def cut(identities, size, max_bytes):
    """Yield lists with at most this number of identities and of bytes."""
    start = end = total = 0
    for identity in identities:
        length = length_of(identity) + CONDITION_SIZE * len(identity)
        total += length
        if end > start and (end - start == size or total > max_bytes):
            yield identities[start:end]
            start, total = end, length
        end += 1
    if end > start:
        yield identities[start:end]


def length_of(values):
    """
    Return the maximum number of bytes that these values take in a statement.
    """
    total = 0
    for value in values:
        kind = type(value)
        if kind is str or kind is bytes:
            total += 4 * len(value) + 10  # as UTF-8, or quoted
        elif kind is list:  # Django's own, for UNNEST
            total += length_of(value)
        else:
            total += 60
    return total


def grouped(batch):
    """
    Return the place of the column with the most values, and {values of the
    other columns: [its values]}.
    """
    columns = list(zip(*batch, strict=True))
    longest = max(range(len(columns)), key=lambda i: len(set(columns[i])))
    groups = {}
    for identity in batch:
        rest = identity[:longest] + identity[longest + 1 :]
        groups.setdefault(rest, []).append(identity[longest])
    return longest, groups
