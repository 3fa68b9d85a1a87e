"""Invalidating rows that were written without Django."""

from asgiref.sync import sync_to_async

from ..writes.invalidate import invalidate, invalidate_rows


class InvalidationMixin:
    """The methods of a cached queryset that invalidate rows of its model."""

    def invalidate(self, *objs_or_pks):
        """
        Invalidate these rows, because they were written without Django: like
        getorcreateplus.invalidate(), for instances or primary keys. After
        using(), in that database alone.
        """
        if not objs_or_pks:
            raise TypeError(
                "invalidate() wants instances or primary keys; invalidate_all() "
                "forgets all rows."
            )
        invalidate_rows(self.model, objs_or_pks, self._db)

    invalidate.alters_data = True

    async def ainvalidate(self, *objs_or_pks):
        await sync_to_async(self.invalidate)(*objs_or_pks)

    ainvalidate.alters_data = True

    def invalidate_all(self):
        """Invalidate all rows of the model."""
        invalidate(self.model, using=self._db)

    invalidate_all.alters_data = True

    async def ainvalidate_all(self):
        await sync_to_async(self.invalidate_all)()

    ainvalidate_all.alters_data = True
