"""
Records rows that a statement has just inserted, before their primary keys are
known.

Until the end of a transaction, only the transaction itself may get the rows
that it inserted. An INSERT does not name its row; post_save does.
"""

from contextlib import contextmanager

from ..coherence.transactions import in_transaction
from ..coherence.writing import after_inserts
from . import registry
from .tables import has_exact_keys, pk_of


class InsertedRows:
    """
    The rows of the last INSERTs of one connection, in one of three states:

    * empty: there is nothing to record. Both other states return to this one.
    * one: INSERTs of one row have run, into the tables of a model, and
      ``unnamed`` has the regions. post_save names the row. If another
      statement comes first, an unknown row is recorded.
    * batch: the INSERT of a bulk_get_or_create() is running. It names all of
      its rows at the end of batch().
    """

    def __init__(self):
        self.unnamed = []  # (model, region)
        self.is_batch = False

    def add(self, cached_model, regions):
        self.unnamed += ((cached_model.model, region) for region in regions)

    def record(self, connection, instance=None):
        """
        Record the last INSERTs in the transaction. With an instance, one of
        the rows in each region is the row of the instance.
        """
        if not self.unnamed:
            return
        unnamed, self.unnamed = self.unnamed, []
        if not in_transaction(connection):
            return  # the transaction that inserted them has ended
        named = set()
        for model, region in reversed(unnamed):
            pk = None
            if (
                isinstance(instance, model)
                and region not in named
                # The database may store another text than the one that was
                # sent.
                and (
                    not region.version_per_row
                    or has_exact_keys(registry.cached_models[model], connection)
                )
            ):
                named.add(region)
                pk = pk_of(instance, model)
            after_inserts(connection, region, None if pk is None else [pk])

    @contextmanager
    def batch(self, connection, model, pks):
        """
        Send one INSERT of new rows of the model, whose primary keys are in the
        list ``pks`` at the end of the block.
        """
        self.record(connection)
        self.is_batch = True
        try:
            yield
        finally:
            self.is_batch = False
        unnamed, self.unnamed = self.unnamed, []
        named = pks if None not in pks else None
        for other, region in unnamed:
            after_inserts(connection, region, named if other is model else None)
