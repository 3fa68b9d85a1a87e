"""get_or_create() from the cache, and the methods that fill the cache."""

from functools import partial

from django.core.cache import DEFAULT_CACHE_ALIAS
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.db import connections

from ..bypassing import blocks, is_bypassed
from ..coherence import clients
from ..coherence.filling import fill, fill_created, fill_updated, publish
from ..coherence.journal import record_lookup
from ..coherence.reading import Reading, SoughtRow
from ..environment.coroutines import _get_running_loop
from ..lookups.canonical import NotCanonical, pk_text
from ..lookups.conditions import add_condition, from_kwargs, from_query, lookup_tuple
from ..lookups.django_path import has_django_steps, path_of
from ..lookups.queryset_shape import yields_whole_rows
from ..lookups.rows import layout
from ..lookups.unique_lookups import is_unique_lookup
from ..selects.shapes import pending_filter
from ..signals import (
    Reason,
    cache_hit,
    cache_miss,
    result_of,
    send_end_of_miss,
    send_hit_or_miss,
    send_unread_miss,
)
from ..writes.captured_rows import Recording
from ..writes.registry import cached_model_of, region_of
from .base import omit_none
from .coroutines import AsyncTwinsMixin, hit_in_coroutine, is_tried
from .getting import CachedGetMixin
from .invalidating import InvalidationMixin


class CachedGetOrCreateMixin(AsyncTwinsMixin, InvalidationMixin, CachedGetMixin):
    """
    Serve get_or_create() from the cache, and store there the rows that it and
    update_or_create() find, create and update.

    ``key_cache_alias`` is the cache of lookups, ``object_cache_alias`` that of
    rows: by default the alias named after the model
    (``model._meta.model_name``), if CACHES has it, else ``default``.
    ``cache_timeout`` is in seconds, None means forever; the default is the
    TIMEOUT of that cache.

    For ``local_timeout`` seconds after it has read a row, this process serves
    the row from its own memory. It sees its own writes at once, and those of
    other processes after that time. None is for rows that never change; 0 is
    off.

    With ``caches_get = True``, the same lookups of get() read the cache, too.

    A hit cannot detect that the database has two such rows, in which case
    Django raises MultipleObjectsReturned. With ``caches_unique_only = True``,
    each lookup that no unique constraint covers queries the database.
    """

    key_cache_alias = DEFAULT_CACHE_ALIAS
    object_cache_alias = None
    cache_timeout = DEFAULT_TIMEOUT
    local_timeout = 0
    caches_unique_only = False

    def _clone(self):
        clone = super()._clone()
        clone._recording = self._recording
        return clone

    def get_or_create(self, defaults=None, **kwargs):
        """
        Do the same as QuerySet.get_or_create(), without a query if the row is
        in the cache. ``force_select=True`` queries the database, and refreshes
        the cache; a field of that name takes precedence.
        """
        if _get_running_loop() is not None and is_tried():
            return hit_in_coroutine(self, kwargs), False
        # Inline, because a call costs more than the test.
        may_hit = not (
            self._refreshes
            or ("force_select" in kwargs and self._pop_force_select(kwargs))
        )
        # A hit belongs to the database that the get() would query.
        self._for_write = True
        found = self._begin_reading(kwargs)
        if found is None:
            # With a recording this is the SELECT of an update_or_create().
            if self._recording is None:
                self._send_unread_miss(kwargs)
            options = omit_none(defaults=defaults)
            obj, created = super().get_or_create(**options, **kwargs)
            if self._recording is None:
                send_end_of_miss(self, kwargs, result_of(created))
            return obj, created
        reading, sought = found
        values = reading.ask(sought, may_hit)
        if cache_hit.receivers or cache_miss.receivers:
            send_hit_or_miss(reading, sought, may_hit, reading.seconds())
        if values is not None:
            return self._make_instance(reading.region.using, values), False
        if reading.is_of_no_use:
            with reading.region.asking.timing_query():
                obj, created = super().get_or_create(defaults, **kwargs)
            send_end_of_miss(self, sought.wanted, result_of(created))
            return obj, created
        recording = Recording(self.model, reading.connection)
        if "get_or_create" in path_of(type(self)).entries:
            queryset = self._clone_recorded_by(recording)
            with recording:
                # super() of the recorded copy, because the next class's method
                # has to run on the queryset whose rows are recorded.
                obj, created = super(CachedGetOrCreateMixin, queryset).get_or_create(
                    **omit_none(defaults=defaults), **kwargs
                )
        else:
            obj, created = self._get_or_create_row(defaults, kwargs, recording)
        self._keep(reading, sought, recording, obj, created)
        send_end_of_miss(self, sought.wanted, result_of(created))
        return obj, created

    get_or_create.alters_data = True

    def update_or_create(self, defaults=None, create_defaults=None, **kwargs):
        """
        Do the same as QuerySet.update_or_create(). It always writes, and
        leaves the row in the cache.
        """
        self._for_write = True
        if "force_select" in kwargs:
            # No such option here: let filter() raise FieldError, unless it is
            # a field. The get_or_create() below would accept it.
            self.filter(force_select=kwargs["force_select"])
        found = self._begin_reading(kwargs)
        options = omit_none(defaults=defaults, create_defaults=create_defaults)
        if found is None:
            return super().update_or_create(**options, **kwargs)
        reading, sought = found
        reading.observe()
        recording = Recording(self.model, reading.connection)
        recording.on_update = partial(self._publish, reading, sought, recording)
        queryset = self._clone_recorded_by(recording)
        with recording:
            # super() of the recorded copy, as in get_or_create().
            obj, created = super(CachedGetOrCreateMixin, queryset).update_or_create(
                **options, **kwargs
            )
        if created:
            self._keep(reading, sought, recording, obj, created)
        elif not recording.is_undone():
            fill_updated(reading)
        return obj, created

    update_or_create.alters_data = True

    def _begin_reading(self, kwargs, connect=connections.__getitem__, reader=Reading):
        """
        Return a Reading and the SoughtRow that the kwargs name; None if the
        model, the queryset or the kwargs cannot be cached.
        """
        cached_model = cached_model_of(self)
        if cached_model is None:
            return None
        # A related manager's filter is read before Django applies it.
        pending = self._deferred_filter and pending_filter(self)
        query = self.query if self._deferred_filter and not pending else self._query
        if not has_django_steps(self) or not yields_whole_rows(self, query):
            return None
        using = self.db
        connection = connect(using)
        region = cached_model.region(using, self.object_cache_alias, connection)
        if region is None or (blocks.get() and is_bypassed(region.model)):
            return None
        opts, vendor = self.model._meta, connection.vendor
        try:
            values = from_kwargs(opts, kwargs, vendor)
            if query.where.children:
                for attname, value in from_query(query, vendor).items():
                    add_condition(values, attname, value)
            if pending:
                for attname, value in from_kwargs(opts, pending, vendor).items():
                    add_condition(values, attname, value)
        except NotCanonical:
            return None
        if not values or (
            self.caches_unique_only and not is_unique_lookup(self.model, values)
        ):
            return None
        pk = pk_text(opts, values)
        lookup = lookup_tuple(values) if pk is None else None
        key_client = clients.by_alias[self.key_cache_alias]
        columns = layout(self.model)
        reading = reader(region, key_client, columns, connection, self.local_timeout)
        return reading, SoughtRow(values, lookup, pk)

    def _begin_batch(self):
        region = region_of(self)
        if region is None or is_bypassed(region.model):
            return None
        key_client = clients.by_alias[self.key_cache_alias]
        connection, columns = connections[region.using], layout(self.model)
        reading = Reading(region, key_client, columns, connection, self.local_timeout)
        reading.is_batch = True
        return reading

    def _keep(self, reading, sought, recording, obj, created):
        """Store the row that the call has found or created in the cache."""
        if created:
            values = recording.inserted(obj)
        else:
            # If the cache was not read, a row that was found cannot be stored.
            values = None if reading.is_new else recording.selected(obj)
        pk = None if values is None else layout(self.model).pk_text(values)
        record_lookup(reading, created)
        if pk is None:
            return
        if created:
            fill_created(reading, [(sought, pk, values)], recording.made_pk)
        else:
            fill(reading, [(sought, pk, values)])

    def _publish(self, reading, sought, recording):
        """
        Publish the row that was just updated: this transaction holds its lock
        in the database until the commit.
        """
        for obj, _ in recording.rows:
            values = recording.updated(obj)
            pk = None if values is None else layout(self.model).pk_text(values)
            if pk is not None:
                publish(reading, sought, pk, values)

    def _send_unread_miss(self, lookup):
        if cache_miss.receivers:
            model = self.model._meta.concrete_model
            send_unread_miss(model, self.db, lookup, reason_not_read(model))


def reason_not_read(model):
    """Return the Reason of a call that does not read the model's cache."""
    return Reason.BYPASS if is_bypassed(model) else Reason.NOT_CACHEABLE
