"""
The relations between a database's tables as one connection sees them, in a
transaction that may have changed the schema.
"""

from contextlib import suppress

from django.db import Error

from ..coherence.transactions import is_autocommit
from . import registry, relations
from .tables import table_index


class OwnRelations:
    """
    The Relations of one connection. All connections of the process share them
    until a transaction changes the schema. From then on until its end, the
    transaction has its own Relations.
    """

    def __init__(self):
        self.changes_schema, self.own = False, None

    def cached_models_of(self, connection, index, name):
        """Return the cached models that show rows of a quoted table."""
        found = self.current(connection, index)
        if found is None:
            # On PostgreSQL the transaction is aborted, so the statement fails.
            is_refused = connection.vendor == "postgresql"
            return () if is_refused else registry.cached_models.values()
        return index.cached_models_of(found.affected(index.folded_names[name]))

    def current(self, connection, index, text=None):
        """
        Return the Relations, None if they cannot be read. With a text, they
        cover the tables that it names.
        """
        self.discard_after_commit(connection)
        names = index.folded_names.values()
        if self.changes_schema:
            if self.own is None:
                self.own = relations.read_relations(connection, names)
            return self.own
        found = relations.relations_of(connection, names)
        if text is not None and found and not found.covers(text, index.all_names):
            # Another process may have created a partition, or a view.
            found = relations.relations_of(connection, names, fresh=True)
            if found:
                found.record_unrelated(text)
        return found

    def discard_after_commit(self, connection):
        if self.changes_schema and is_outside(connection):
            self.discard(connection)

    def discard(self, connection):
        """
        Make the next call read the Relations again, because the schema has
        changed.
        """
        relations.discard_relations(connection)
        self.own = None
        self.changes_schema = not is_outside(connection)
        if not self.changes_schema:
            read_early(connection)


def is_outside(connection):
    """Return True if no transaction is open, not even that of a TestCase."""
    return not connection.in_atomic_block and is_autocommit(connection)


def read_early(connection):
    """
    Read SQLite's Relations before a transaction needs them, because a SELECT
    at the beginning of a transaction that writes may fail while others write.
    """
    if connection.vendor == "sqlite" and connection.connection is not None:
        with suppress(Error):
            relations.relations_of(
                connection, table_index(connection).folded_names.values()
            )
