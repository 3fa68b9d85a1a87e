"""
The async twins. They return a hit in the coroutine's own thread, if it is
certain that the synchronous call would return the same. Otherwise they make
one call in another thread.

The synchronous method is tried in the coroutine, so that a related manager's
own steps are Django's. A step that needs a thread raises
SynchronousOnlyOperation, and then the method is called in a thread. It is not
tried if code of the project may run before a hit, because such code must run
neither twice nor in another thread than that of sync_to_async().
"""

import os
from contextvars import ContextVar
from functools import wraps
from inspect import getattr_static

from django.core.cache import caches
from django.core.exceptions import SynchronousOnlyOperation
from django.db import models, router
from django.db.models.signals import post_init, pre_init
from django.utils.functional import LazyObject, Promise

from ..coherence import clients
from ..coherence.ahead import Ahead
from ..coherence.opened import stand_in
from ..coherence.reading import CoroutineReading
from ..environment.cache_keys import makes_plain_keys
from ..environment.cached_functions import cached_until_models_change
from ..environment.coroutines import refuse_in_coroutine
from ..lookups.django_path import has_django_steps
from ..lookups.origin import DJANGO, OWN_PACKAGE, is_of_django, module_of
from ..signals import cache_hit, cache_miss
from ..writes import registry
from .selecting import OWN_GETS, STOCK_FROM_DB

trying: ContextVar[Ahead | None] = ContextVar("getorcreateplus_trying", default=None)


class NeedsThread(SynchronousOnlyOperation):
    """The coroutine cannot answer this itself."""


class AsyncTwinsMixin:
    """The async twins of the methods that the cache may answer."""

    async def aget_or_create(self, defaults=None, **kwargs):
        if "get_or_create" not in self.__dict__ and is_of_this_package_alone(
            type(self).get_or_create
        ):
            found = await answer(self.get_or_create, self.model, **kwargs)
            if found is not None:
                return found
        return await super().aget_or_create(defaults, **kwargs)

    aget_or_create.alters_data = True

    async def aget(self, *args, **kwargs):
        caches = self.caches_get if self._caches_get is None else self._caches_get
        if (
            not args
            and type(self).get in OWN_GETS
            and is_of_this_package_alone(type(self).get_or_create)
            # It also shows that no get() was set on this queryset.
            and has_django_steps(self)
            and (caches or self._may_create(kwargs))
        ):
            found = await answer(self.get, self.model, **kwargs)
            if found is not None:
                return found
        return await super().aget(*args, **kwargs)


async def answer(method, model, /, **kwargs):
    """
    Return what a synchronous method returns, if it is a hit that needs no
    thread; otherwise None.
    """
    ahead = Ahead()
    found = try_in_coroutine(ahead, method, model, kwargs)
    if found is None and ahead.wanted and await ahead.look():
        found = try_in_coroutine(ahead, method, model, kwargs)
    return found


def try_in_coroutine(ahead, method, model, kwargs):
    if not can_try(model, kwargs.values()):
        return None
    token = trying.set(ahead)
    try:
        return method(**kwargs)
    except SynchronousOnlyOperation:
        return None
    finally:
        trying.reset(token)


def can_try(model, values):
    """
    Return True if no code of the project runs before a hit, or after it.
    """
    return (
        # It would let Django query on the coroutine's own connection.
        not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
        # A router may read values of its thread.
        and not router.routers
        # Receivers may query, and coroutine functions need another thread.
        and not (cache_hit.receivers or cache_miss.receivers)
        and not (registry.unexamined or registry.being_examined)
        and makes_plain_instances(model)
        # SimpleLazyObject(get_user) may query, and keep the exception.
        and not any(issubclass(type(value), (LazyObject, Promise)) for value in values)
    )


def makes_plain_instances(model):
    """Return True if no code of the project makes the model's instances."""
    return (
        model.from_db.__func__ is STOCK_FROM_DB
        and model.__new__ is object.__new__
        and model.__init__ is models.Model.__init__
        and model.__setattr__ is object.__setattr__
        and not pre_init.has_listeners(model)
        and not post_init.has_listeners(model)
        and has_djangos_fields(model)
    )


@cached_until_models_change
def has_djangos_fields(model):
    """
    Return True if no code of the project prepares the values of a lookup, or
    sets those of an instance.
    """
    return all(
        is_of_django(type(field))
        and is_of_django(type(getattr_static(model, field.attname)))
        and (not field.remote_field or has_djangos_target(field))
        for field in model._meta.concrete_fields
    )


def has_djangos_target(field):
    """Return True if the field that a relation refers to is Django's."""
    while field.remote_field:
        field = field.target_field
    return is_of_django(type(field))


def is_tried():
    """
    Return True in answer(). Otherwise, if an event loop runs in this thread,
    raise the exception that Django raises for a query there.
    """
    if trying.get() is not None:
        return True
    refuse_in_coroutine()
    return False


def hit_in_coroutine(queryset, kwargs):
    """
    Return the instance of a hit. If this process has no row for the lookup, or
    if the call in a thread might return another instance, raise NeedsThread.
    """
    cached_model = registry.cached_model_of(queryset)
    alias = cached_model and cached_model.aliases.get(queryset.object_cache_alias)
    if (
        not alias  # A call in a thread finds it.
        or queryset._refreshes
        or "force_select" in kwargs
        # The tenant may be set for its thread only.
        or not makes_plain_keys(caches[alias])
        or not makes_plain_keys(caches[queryset.key_cache_alias])
        # A hit in the memory of the process or in LocMemCache, or an awaited
        # hit.
        or (queryset.local_timeout == 0 and needs_thread(clients.by_alias[alias]))
    ):
        raise NeedsThread
    queryset._for_write = True  # as get_or_create() does
    found = queryset._begin_reading(kwargs, certain_stand_in, CoroutineReading)
    if found is None:
        raise NeedsThread
    reading, sought = found
    reading.ahead = trying.get()
    values = reading.ask(sought)
    if values is None:
        raise NeedsThread
    return queryset._make_instance(reading.region.using, values)


def needs_thread(client):
    return not client.is_in_process() and client.in_loop() is None


def certain_stand_in(using):
    """Return the stand_in(). Raise NeedsThread if that is None."""
    found = stand_in(using)
    if found is None:
        raise NeedsThread
    return found


# The related managers


def answering_in_coroutine(aget_or_create):
    """Try get_or_create() of a related manager before its async twin."""

    @wraps(aget_or_create)
    async def wrapped(self, **kwargs):
        found = await answer(self.get_or_create, self.model, **kwargs)
        return await aget_or_create(self, **kwargs) if found is None else found

    return wrapped


def has_djangos_steps(related_manager):
    """
    Return True if a class is a related manager made by Django, which calls
    only methods of Django and of this package until a hit.
    """
    own = related_manager.__dict__
    if not ({"get_or_create", "aget_or_create"} <= own.keys()) or not (
        is_of_django(related_manager)
    ):
        return False
    manager = related_manager.__mro__[1]
    return is_of_this_package_alone(manager._queryset_class.get_or_create) and all(
        is_without_other_code(getattr(manager, name))
        for name in ("get_or_create", "get_queryset", "db_manager", "using")
    )


def is_of_this_package_alone(function):
    """Return True if this package wrote the function and its wrappers."""
    return module_of(function).partition(".")[0] == OWN_PACKAGE


def is_without_other_code(function):
    """
    Return True if Django or this package wrote the function and its wrappers.
    """
    while function is not None:
        if module_of(function).partition(".")[0] not in {DJANGO, OWN_PACKAGE}:
            return False
        function = getattr(function, "__wrapped__", None)
    return True
