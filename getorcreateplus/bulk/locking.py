"""Reads the existing rows of a batch with a SELECT that locks them."""

from ..lookups.rows import layout
from .one_of import one_of
from .reading import BatchReader


class LockingReader(BatchReader):
    """
    Finds and locks the rows of an UpdateBatch, in the order of their primary
    keys. So two batches with the same rows wait for each other, and do not
    deadlock.
    """

    def __init__(self, batch, queryset):
        super().__init__(batch, queryset)
        self.vendor = batch.connection.vendor
        if self.vendor == "postgresql":
            self.order = ["pk"]

    def parts(self, identities):
        # All of them together, because each part has its own order.
        if self.vendor == "sqlite":
            return super().parts(identities)
        size = len(identities)
        return self.bulk.limits.batches(identities, self.identifying.width, size)

    def select_values(self, identities):
        opts = self.bulk.model._meta
        if (
            self.vendor != "mysql"
            or self.identifying.names_pk
            or len(opts.pk_fields) > 1
            or self.queryset is self.bulk.queryset
        ):
            return super().select_values(identities)
        # InnoDB locks rows in the order in which it finds them, which is the
        # order of any index, and with REPEATABLE READ also the gaps in which
        # it finds no row. So find the primary keys first.
        pks = []
        for part in self.parts(identities):
            found = self.bulk.queryset.filter(self.condition(part)).order_by()
            pks += found.values_list("pk", flat=True)
        if not pks:
            return {}
        named = one_of(opts.pk, pks)
        selected = self.queryset.order_by()
        selected = (
            selected.filter(pk__in=pks) if named is None else selected.filter(named)
        )
        attnames = layout(self.bulk.model).attnames
        with self.selecting():
            rows = [*selected.values_list(*attnames)]
        places = [attnames.index(attname) for attname in self.identifying.attnames]
        return self.by_identity(
            identities, [([row[place] for place in places], row) for row in rows]
        )
