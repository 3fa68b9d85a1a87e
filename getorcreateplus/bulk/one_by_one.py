"""A bulk_update_or_create() that calls update_or_create() row by row."""

from django.db import models

from ..lookups.rows import layout
from .pending import is_expression, is_unchanged
from .single import as_given, as_one_object, naming_row


class OneByOne:
    """
    The rows of an UpdateBatch whose statements may be wrong for one of them.
    """

    def __init__(self, batch):
        self.batch = batch
        self.bulk = batch.bulk

    def results(self):
        """Return [(obj, created), ...] for the rows, in their order."""
        with self.bulk.queryset._bulk_atomic():
            results = [*map(self.update_or_create, range(len(self.batch.rows)))]
            self.bulk.relation.add([obj for obj, created in results if created])
        return as_one_object(results)

    def update_or_create(self, index):
        """Return (obj, created) for one row, by the queryset's own method."""
        if self.bulk.only_changed:
            obj, created = self.batch.get_or_create(index)
            if created or self.leaves(obj, index):
                return obj, created
        lookup, params = self.batch.arguments(index)
        changes = self.batch.changes_of(index)
        options = {"defaults": changes}
        if params != changes:  # An override may not have the argument.
            options["create_defaults"] = params
        with naming_row(self.batch.start + index):
            obj, created = self.bulk.queryset.update_or_create(**options, **lookup)
        if created:
            return as_given(self.batch.rows[index], obj), created
        names = [name for name, value in changes.items() if is_expression(value)]
        if names and isinstance(obj, models.Model):
            obj.refresh_from_db(using=self.bulk.using, fields=names)
        return obj, created

    def leaves(self, obj, index):
        """
        Return True if a row of the batch does not change an existing row.
        """
        if self.bulk.changes.need_save or not isinstance(obj, models.Model):
            return False
        values = tuple(getattr(obj, name) for name in layout(self.bulk.model).attnames)
        return is_unchanged(self.batch, obj, values, [index])
