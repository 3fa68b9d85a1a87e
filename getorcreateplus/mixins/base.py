"""The public methods, in the steps that the other mixins replace."""

from operator import attrgetter

from asgiref.sync import sync_to_async
from django.db import models, transaction

from ..bulk import Bulk, batched
from ..lookups.django_path import with_own_steps
from ..lookups.queryset_shape import yields_whole_rows
from ..lookups.rows import MemoryViewBytes, layout, private_copy, with_memory_views
from ..selects.running import select_rows

try:
    from django.db.models.query import _get_from_db
except ImportError:  # Django < 6.1
    _get_from_db = None

STOCK_FROM_DB = models.Model.from_db.__func__


class GetOrCreateBase:
    """
    What the mixins share: the public methods, in steps that a mixin replaces.

    Each mixin replaces another step, so that they work in any order.
    """

    # A subclass that overrides steps of a lookup sets this to True if its
    # overrides change nothing: lookups/django_path.py.
    lookups_as_written = False
    _getorcreateplus_path = None  # of the class; lookups/django_path.py sets it

    # Whether the SQL of a lookup is kept, and not compiled for each call.
    compiled_selects = True

    # Whether get() creates a missing row: AlwaysGetOrCreateMixin.
    _creates = False

    # The Recording of one call of CachedGetOrCreateMixin on this queryset.
    _recording = None

    def get(self, *args, **kwargs):
        """
        Perform the query and return a single object matching the given
        keyword arguments.
        """
        rows = select_rows(self, args, kwargs)
        if rows is None:
            return super().get(*args, **kwargs)
        using, attnames, values, limit = rows
        objs = [self._make_selected(using, attnames, row) for row in values]
        if len(objs) == 1:
            return objs[0]
        name, count = self.model._meta.object_name, len(objs)
        if not objs:
            raise self.model.DoesNotExist(f"{name} matching query does not exist.")
        if limit and count >= limit:
            count = f"more than {limit - 1}"
        raise self.model.MultipleObjectsReturned(
            f"get() returned more than one {name} -- it returned {count}!"
        )

    def get_or_create(self, defaults=None, **kwargs):
        """
        Look up an object with the given kwargs, creating one if necessary.
        Return a tuple of (object, created), where created is a boolean
        specifying whether an object was created.
        """
        return self._get_or_create_row(defaults, kwargs)

    get_or_create.alters_data = True

    def update_or_create(self, defaults=None, create_defaults=None, **kwargs):
        """
        Look up an object with the given kwargs, updating one with defaults
        if it exists, otherwise create a new one. Optionally, an object can
        be created with different values than defaults by using
        create_defaults.
        Return a tuple (object, created), where created is a boolean
        specifying whether an object was created.
        """
        return self._update_or_create_row(defaults, create_defaults, kwargs)

    update_or_create.alters_data = True

    def bulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        """
        Look up all objects, and create the missing ones, by a few statements.
        Like bulk_create(), do *not* call save(), and do not send any
        pre/post_save signals.

        ``objs`` are unsaved instances, or mappings, whose values may be
        callables, as in defaults. ``unique_fields`` names the fields that
        identify an object; the default is the fields of the one unique
        constraint for which the first object has all fields.

        Return a list of tuples (object, created), in the order of ``objs``.
        Equal objects are one row, created for the first of them.
        """
        self._for_write = True
        return self._bulk(unique_fields, batch_size).run(list(objs))

    bulk_get_or_create.alters_data = True

    def ibulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        """
        Do the same as bulk_get_or_create(), but consume ``objs`` and yield the
        tuples batch by batch. Each batch is a transaction of its own.
        """
        self._for_write = True
        bulk, start = self._bulk(unique_fields, batch_size), 0
        for rows in batched(objs, bulk.batch_size):
            yield from bulk.run(rows, start)
            start += len(rows)

    ibulk_get_or_create.alters_data = True

    async def abulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        return await sync_to_async(self.bulk_get_or_create)(
            objs, unique_fields, batch_size
        )

    abulk_get_or_create.alters_data = True

    # The steps

    def _get_or_create_row(self, defaults, kwargs):
        """Query the database: stock Django, unless a mixin replaces this."""
        self._for_write = True
        # super() of the queryset whose get() is Django's, not of this one:
        # Django's get_or_create() calls self.get().
        return super(GetOrCreateBase, self._without_creation()).get_or_create(
            **omit_none(defaults=defaults), **kwargs
        )

    def _update_or_create_row(self, defaults, create_defaults, kwargs):
        """Do the same for update_or_create()."""
        options = omit_none(defaults=defaults, create_defaults=create_defaults)
        return super().update_or_create(**options, **kwargs)

    def _bulk(self, unique_fields, batch_size):
        return Bulk(
            self, unique_fields, batch_size, yields_rows=yields_whole_rows(self)
        )

    def _bulk_atomic(self):
        """Return the context manager around the INSERTs of a batch."""
        return transaction.atomic(using=self.db)

    def _begin_batch(self):
        """Return a Reading for many rows, None without a cache."""

    def _send_unread_miss(self, lookup):
        """Send cache_miss for a lookup that does not read the cache."""

    def _make_selected(self, using, attnames, values):
        """Return the instance of a row that a SELECT has returned."""
        recording = self._recording
        if recording is None:
            return self._make_instance(using, values, attnames)
        # Before from_db(), which may change them.
        kept = private_copy(values) if attnames == layout(self.model).attnames else None
        obj = self._make_instance(using, values, attnames)
        recording.rows.append((obj, kept))
        return obj

    def _make_instance(self, using, values, attnames=None):
        """
        Return an instance of column values, as ModelIterable does. Without
        attnames they are those of a cached row.
        """
        model = self.model
        if attnames is None:
            attnames = layout(model).attnames
            if MemoryViewBytes in map(type, values):
                values = with_memory_views(values)
        if _get_from_db is None:
            obj = model.from_db(using, list(attnames), values)
        elif model.from_db.__func__ is STOCK_FROM_DB:
            # As _get_from_db(), which is a call more for each row.
            obj = model.from_db(
                using, list(attnames), values, fetch_mode=self._fetch_mode
            )
        else:
            from_db = _get_from_db(model, self._fetch_mode)
            obj = from_db(using, list(attnames), values)
        if self._known_related_objects:
            set_known_related(obj, self._known_related_objects)
        return obj

    def _find(self, **kwargs):
        """Run the get() of get_or_create(), which must not create itself."""
        return self._without_creation().get(**kwargs)

    def _without_creation(self):
        """
        Return a queryset whose get() is Django's: this one, or a copy, because
        other threads may use this one. (The copy takes 6 us, and is made only
        with AlwaysGetOrCreateMixin.)
        """
        if not self._creates:
            return self
        # Not _chain(), which returns self while cloning is disabled (6.1).
        clone = with_own_steps(self._clone(), self)
        clone._creates = False
        return clone


def set_known_related(obj, known_related_objects):
    """Set the objects that a related manager knows, as ModelIterable does."""
    get_field = obj._meta.get_field
    for field, instances in known_related_objects.items():
        if field.is_cached(obj):
            continue
        attnames = [
            field.attname if name == "self" else get_field(name).attname
            for name in field.from_fields
        ]
        if any(attname not in obj.__dict__ for attname in attnames):
            continue
        key = attrgetter(*attnames)(obj)
        if key in instances:
            setattr(obj, field.name, instances[key])


def omit_none(**options):
    """
    Return the options that are not None. They are passed by name, because an
    override may accept only some of them.
    """
    return {name: value for name, value in options.items() if value is not None}
