"""The public methods that get, create and update many rows at once."""

from functools import partial

from asgiref.sync import sync_to_async

from ..bulk import Bulk
from ..bulk.iterating import arun_batches
from ..bulk.updating import BulkUpdate
from ..lookups.queryset_shape import yields_whole_rows


class BatchMethods:
    """The methods of a queryset that take many rows."""

    def bulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        """
        Look up all objects, and create the missing ones, with a few
        statements. Like bulk_create(), do *not* call save(), and do not send
        any pre/post_save signals.

        ``objs`` are unsaved instances, or mappings, whose values may be
        callables, as in defaults. ``unique_fields`` names the fields that
        identify an object; the default is the fields of the one unique
        constraint for which the first object has all fields.

        Return a list of tuples (object, created), in the order of ``objs``.
        Equal objects are one row, created for the first of them.
        """
        return self._bulk(unique_fields, batch_size).run(list(objs))

    bulk_get_or_create.alters_data = True

    def ibulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        """
        Do the same as bulk_get_or_create(), but consume ``objs`` and yield the
        tuples batch by batch. Each batch is a transaction of its own.
        """
        yield from self._bulk(unique_fields, batch_size).run_batches(objs)

    ibulk_get_or_create.alters_data = True

    async def abulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        return await sync_to_async(self.bulk_get_or_create)(
            objs, unique_fields, batch_size
        )

    abulk_get_or_create.alters_data = True

    def aibulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        """
        Do the same as ibulk_get_or_create(), as an async generator. ``objs``
        may be an async iterable. Any other iterable is consumed in the thread
        that queries.
        """
        begin = partial(self._bulk, unique_fields, batch_size)
        return arun_batches(begin, objs, batch_size)

    aibulk_get_or_create.alters_data = True

    def bulk_update_or_create(
        self,
        objs,
        unique_fields=None,
        update_fields=None,
        create_defaults=None,
        batch_size=None,
        *,
        only_changed=False,
    ):
        """
        Update all objects, and create the missing ones, with a few statements.
        Like bulk_create(), do *not* call save(), and do not send any
        pre/post_save signals.

        ``objs`` and ``unique_fields`` are those of bulk_get_or_create(). An
        object that exists gets the values of ``update_fields``, which may be
        expressions. By default these are all fields that are given, except
        those that identify the object. A new object gets all values; for
        fields in the mapping ``create_defaults``, it gets the values from
        there. With ``only_changed``, an object that already has its values is
        neither written nor locked.

        Return a list of tuples (object, created), in the order of ``objs``.
        Equal objects are one row, which gets the changes in their order.
        """
        return self._bulk_update(
            unique_fields, update_fields, create_defaults, batch_size, only_changed
        ).run(list(objs))

    bulk_update_or_create.alters_data = True

    def ibulk_update_or_create(
        self,
        objs,
        unique_fields=None,
        update_fields=None,
        create_defaults=None,
        batch_size=None,
        *,
        only_changed=False,
    ):
        """
        Do the same as bulk_update_or_create(), but consume ``objs`` and yield
        the tuples batch by batch. Each batch is a transaction of its own.
        """
        yield from self._bulk_update(
            unique_fields, update_fields, create_defaults, batch_size, only_changed
        ).run_batches(objs)

    ibulk_update_or_create.alters_data = True

    async def abulk_update_or_create(
        self,
        objs,
        unique_fields=None,
        update_fields=None,
        create_defaults=None,
        batch_size=None,
        *,
        only_changed=False,
    ):
        return await sync_to_async(self.bulk_update_or_create)(
            objs,
            unique_fields,
            update_fields,
            create_defaults,
            batch_size,
            only_changed=only_changed,
        )

    abulk_update_or_create.alters_data = True

    def aibulk_update_or_create(
        self,
        objs,
        unique_fields=None,
        update_fields=None,
        create_defaults=None,
        batch_size=None,
        *,
        only_changed=False,
    ):
        """
        Do the same as ibulk_update_or_create(), as an async generator.
        ``objs`` may be an async iterable. Any other iterable is consumed in
        the thread that queries.
        """
        begin = partial(
            self._bulk_update,
            unique_fields,
            update_fields,
            create_defaults,
            batch_size,
            only_changed,
        )
        return arun_batches(begin, objs, batch_size)

    aibulk_update_or_create.alters_data = True

    def _bulk(self, unique_fields, batch_size):
        self._for_write = True
        return Bulk(
            self, unique_fields, batch_size, yields_rows=yields_whole_rows(self)
        )

    def _bulk_update(self, *arguments):
        self._for_write = True
        return BulkUpdate(self, *arguments, yields_rows=yields_whole_rows(self))
