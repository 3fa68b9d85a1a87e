"""get() from the cache, if a queryset class or a manager enables it."""

from django.db import models, router

from ..environment.coroutines import _get_running_loop
from ..signals import cache_hit, cache_miss, ending_miss, send_hit_or_miss
from ..writes.captured_rows import Recording
from .base import GetOrCreateBase
from .coroutines import hit_in_coroutine, is_tried
from .manager_gets import BaseCachedManager, manager_of
from .selecting import OWN_GETS


class CachedGetMixin(GetOrCreateBase):
    """
    Serve get() from the cache if ``caches_get`` is True.

    The lookups and the database are those of get_or_create(): a get() that
    does not find the row in the cache queries the database for writes, because
    a replica may return an older row. On a queryset of another database, and
    on a queryset that all() returns, get() is Django's.
    """

    caches_get = False

    def as_manager(cls):  # noqa: N805
        manager = super().as_manager()
        if type(manager).__bases__ != (models.Manager,):
            return manager  # of another package, or its get() creates rows
        return manager_of(cls, BaseCachedManager)

    as_manager.queryset_only = True
    as_manager = classmethod(as_manager)  # type: ignore[assignment]

    def get(self, *args, **kwargs):
        """
        Perform the query and return a single object matching the given
        keyword arguments.
        """
        caches = self._caches_get
        if (
            not (self.caches_get if caches is None else caches)
            or args
            or self._recording is not None  # The cache was read.
            or self._may_create(kwargs)  # Then this is a get_or_create().
        ):
            return super().get(*args, **kwargs)
        before, self._for_write = self._for_write, True
        try:
            is_read, obj = self._get_from_cache(kwargs)
        finally:
            self._for_write = before
        if is_read:
            return obj
        with ending_miss(self, kwargs):
            return super().get(**kwargs)

    def _get_from_cache(self, kwargs):
        """
        Return True and the object, which is from the cache or is stored there.
        Return False and None if the cache is not used.
        """
        found = None
        # Without the hints, because an instance of a replica names the
        # replica.
        if self.db == router.db_for_write(self.model):
            if _get_running_loop() is not None and is_tried():
                return True, hit_in_coroutine(self, kwargs)
            found = self._begin_reading(kwargs)
        if found is None:
            self._send_unread_miss(kwargs)
            return False, None
        reading, sought = found
        may_hit = not self._refreshes
        values = reading.ask(sought, may_hit)
        if cache_hit.receivers or cache_miss.receivers:
            send_hit_or_miss(reading, sought, may_hit, reading.seconds())
        if values is not None:
            return True, self._make_instance(reading.region.using, values)
        if reading.is_of_no_use:
            with (
                ending_miss(self, sought.wanted),
                reading.region.asking.timing_query(),
            ):
                return True, super().get(**kwargs)
        recording = Recording(self.model, reading.connection)
        with ending_miss(self, sought.wanted):
            obj = self._find(kwargs, recording)
        self._keep(reading, sought, recording, obj, False)
        return True, obj

    def all(self):
        """
        Return a new QuerySet that is a copy of the current one. This allows a
        QuerySet to proxy for a model manager in some cases.
        """
        clone = super().all()
        # get_object_or_404(), generic views and REST framework use it.
        clone._caches_get = False
        return clone

    def _clone(self):
        clone = super()._clone()
        # The value that a manager has set is only for the get() of this
        # queryset, not for that of filter().
        clone._caches_get = False if self._caches_get else self._caches_get
        return clone


# get_or_create() needs only the SELECT of get().
OWN_GETS.append(CachedGetMixin.get)
