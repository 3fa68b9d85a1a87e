"""Invalidating rows that were written without Django, or querying them."""

from asgiref.sync import sync_to_async
from django.core.exceptions import FieldDoesNotExist

from ..writes.invalidate import invalidate, invalidate_rows


class InvalidationMixin:
    """
    The methods of a cached queryset that invalidate rows of its model, or make
    get_or_create() query the database.
    """

    # Whether a lookup queries the database, and refreshes the cache.
    _refreshes = False

    def invalidate(self, *objs_or_pks):
        """
        Invalidate these rows, because they were written without Django. It is
        getorcreateplus.invalidate() for instances or primary keys. After
        using(), it is for that database only.
        """
        if not objs_or_pks:
            raise TypeError(
                "invalidate() takes instances or primary keys. Use invalidate_all() "
                "for all rows."
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

    def refreshed(self):
        """
        Return a queryset whose get_or_create() queries the database, and
        refreshes the cache, as with ``force_select=True``. So does its get(),
        if that is answered from the cache.
        """
        clone = self._clone()
        clone._caches_get = self._caches_get
        clone._refreshes = True
        return clone

    def _pop_force_select(self, kwargs):
        """Take the option out of the kwargs, unless it is a field."""
        if "force_select" not in kwargs:
            return False
        try:
            self.model._meta.get_field("force_select")
        except FieldDoesNotExist:
            return kwargs.pop("force_select")
        return False

    def _clone(self):
        clone = super()._clone()
        clone._refreshes = self._refreshes
        return clone
