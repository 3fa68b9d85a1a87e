"""get_or_create() from the cache, and what keeps the cache filled."""

from functools import partial

from django.core.cache import DEFAULT_CACHE_ALIAS
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import FieldDoesNotExist
from django.db import connections

from ..bypassing import blocks, is_bypassed
from ..coherence import protocol as coherence
from ..coherence.many import ReadMany
from ..lookups.canonical import NotCanonical, pk_text
from ..lookups.conditions import add_condition, from_kwargs, from_query, lookup_tuple
from ..lookups.django_path import has_django_steps
from ..lookups.queryset_shape import yields_whole_rows
from ..lookups.rows import layout
from ..signals import (
    Reason,
    ask_and_tell,
    cache_hit,
    cache_miss,
    tell_not_asked,
)
from ..writes.captured_rows import Recording, RecordingIterable
from ..writes.invalidation import region_of
from .base import GetOrCreateBase, omit_none
from .invalidation import InvalidationMixin


class CachedGetOrCreateMixin(InvalidationMixin, GetOrCreateBase):
    """
    Serve get_or_create() from the cache, and keep there what it and
    update_or_create() find, create and update.

    ``key_cache_alias`` names the cache of the lookups, ``object_cache_alias``
    that of the rows: by default the one that is named after the model
    (``model._meta.model_name``), or else ``default``. ``cache_timeout`` is in
    seconds, None means for ever; the default is the TIMEOUT of the row's
    cache.

    Within ``local_timeout`` seconds of having seen a row, this process serves
    it from its own memory: its own writes are seen at once, those of other
    processes after that time. None is for rows that never change; 0 is off.
    """

    key_cache_alias = DEFAULT_CACHE_ALIAS
    object_cache_alias = None
    cache_timeout = DEFAULT_TIMEOUT
    local_timeout = 0

    # The Recording of the SELECTs and writes of one call on this queryset.
    _recording = None

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
        forces_select = self._pop_force_select(kwargs)
        # A hit belongs to the database that the get() would query.
        self._for_write = True
        read = self._begin_reading(kwargs)
        if read is None:
            # With a recording this is the SELECT of an update_or_create().
            if self._recording is None:
                self._send_unread_miss(kwargs)
            return super().get_or_create(**omit_none(defaults=defaults), **kwargs)
        if cache_hit.receivers or cache_miss.receivers:
            values = ask_and_tell(read, read.named_pk, not forces_select)
        else:
            values = read.ask(read.named_pk, not forces_select)
        if values is not None:
            return self._make_instance(read.region.using, values), False
        if read.is_of_no_use:
            with read.region.asking.timing_query():
                return super().get_or_create(defaults, **kwargs)
        recording = Recording(self.model, self.db)
        # Without a read of the cache, a found row cannot be stored.
        queryset = self if read.is_new else self._clone_recorded_by(recording)
        with recording:
            # super() of the recorded copy: the next class's method has to run
            # on the queryset whose rows are captured, not this method again.
            obj, created = super(CachedGetOrCreateMixin, queryset).get_or_create(
                **omit_none(defaults=defaults), **kwargs
            )
        self._fill(read, recording, obj, created)
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
        read = self._begin_reading(kwargs)
        options = omit_none(defaults=defaults, create_defaults=create_defaults)
        if read is None:
            return super().update_or_create(**options, **kwargs)
        read.observe()
        recording = Recording(self.model, self.db)
        recording.on_update = partial(self._publish, read, recording)
        queryset = self._clone_recorded_by(recording)
        with recording:
            # super() of the recorded copy, as in get_or_create().
            obj, created = super(CachedGetOrCreateMixin, queryset).update_or_create(
                **options, **kwargs
            )
        if created:
            self._fill(read, recording, obj, created)
        elif not recording.is_undone():
            read.fill_updated()
        return obj, created

    update_or_create.alters_data = True

    def _pop_force_select(self, kwargs):
        """Take the option out of the kwargs, unless it is a field."""
        if "force_select" not in kwargs:
            return False
        try:
            self.model._meta.get_field("force_select")
        except FieldDoesNotExist:
            return kwargs.pop("force_select")
        return False

    def _begin_reading(self, kwargs):
        """
        Return a Read of the row that the kwargs name, None if the cache cannot
        be used: it has no such lookups, or no such model.

        Its ``named_pk`` is the text of the primary key, None if the kwargs
        name other columns only.
        """
        region = region_of(self)
        if (
            region is None
            or (blocks.get() and is_bypassed(region.model))
            or not has_django_steps(self)
            or not yields_whole_rows(self)
        ):
            return None
        opts, connection = self.model._meta, connections[region.using]
        vendor = connection.vendor
        try:
            values = from_kwargs(opts, kwargs, vendor)
            if self.query.where.children:
                for attname, value in from_query(self.query, vendor).items():
                    add_condition(values, attname, value)
        except NotCanonical:
            return None
        if not values:
            return None
        columns = layout(self.model)
        pk = pk_text(opts, values)
        read = coherence.Read(
            region,
            coherence.stores[self.key_cache_alias],
            lookup_tuple(values) if pk is None else None,
            columns.fingerprint(connection),
            partial(columns.matches, values),
            self.local_timeout,
            connection,
        )
        read.wanted, read.named_pk = values, pk
        return read

    def _read_many(self):
        region = region_of(self)
        if region is None or is_bypassed(region.model):
            return None
        columns = layout(self.model)
        read = coherence.Read(
            region,
            coherence.stores[self.key_cache_alias],
            None,
            columns.fingerprint(connections[region.using]),
            None,
            self.local_timeout,
        )
        return ReadMany(read, columns)

    def _clone_recorded_by(self, recording):
        """Return a recorded copy, whose get() is Django's."""
        queryset = self._clone()
        queryset._creates = False
        queryset._iterable_class = RecordingIterable
        queryset._recording = recording
        return queryset

    def _fill(self, read, recording, obj, created):
        """Put the row that the call has found or created into the cache."""
        values = recording.inserted(obj) if created else recording.selected(obj)
        pk = None if values is None else layout(self.model).pk_text(values)
        read.note(created)
        if pk is None:
            return
        if created:
            read.fill_created(pk, values, recording.made_pk)
        else:
            read.fill(pk, values)

    def _publish(self, read, recording):
        """
        Publish the row that was just updated: this transaction has it locked
        in the database until the commit.
        """
        for obj, _ in recording.rows:
            values = recording.updated(obj)
            pk = None if values is None else layout(self.model).pk_text(values)
            if pk is not None:
                read.publish(pk, values)

    def _send_unread_miss(self, lookup):
        if cache_miss.receivers:
            model = self.model._meta.concrete_model
            tell_not_asked(model, self.db, lookup, reason_not_read(model))


def reason_not_read(model):
    """Return the Reason of a call that does not read the model's cache."""
    return Reason.BYPASS if is_bypassed(model) else Reason.NOT_CACHEABLE
