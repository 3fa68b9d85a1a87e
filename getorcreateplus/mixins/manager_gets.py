"""
The get() of a manager, which may do more than the get() of its querysets.

Admin, forms, get_object_or_404() and REST framework use get_queryset() or
all(): get() on the querysets that these return is Django's. The get() of the
manager itself, of a related manager, and of using(alias), may read the cache,
or create rows.
"""

from functools import wraps

from django.db import models

from .coroutines import answering_in_coroutine, has_djangos_steps


def manager_of(queryset_class, base):
    """Return what as_manager() returns, but as an instance of this base."""
    # It has the same name as with Django's as_manager(), because django-stubs
    # finds it by this name.
    name = f"ManagerFrom{queryset_class.__name__}"
    manager = base.from_queryset(queryset_class, name)()
    manager._built_with_as_manager = True
    return manager


def wrap_method(cls, name, wrapper):
    """
    Wrap a method of the class or of a base, unless it is wrapped already.
    """
    method = cls.__dict__.get(name)
    if method is None:
        inherited = getattr(cls, name, None)
        if inherited is None or hasattr(inherited, "wrapped_by"):
            return

        @wraps(inherited)
        def method(self, *args, **kwargs):
            return getattr(super(cls, self), name)(*args, **kwargs)

    method = wrapper(method)
    method.wrapped_by = wrapper
    setattr(cls, name, method)


def returning_djangos_get(method):
    """Return the queryset that the method returns, with Django's get()."""

    @wraps(method)
    def wrapped(self, *args, **kwargs):
        queryset = method(self, *args, **kwargs)
        queryset._creates = queryset._caches_get = False
        return queryset

    return wrapped


def with_caches_get(method):
    """
    Make get() of obj.tags(manager="name") do what get() of that manager does.
    """

    @wraps(method)
    def wrapped(self, *, manager):
        related = method(self, manager=manager)
        if isinstance(related, BaseGetManager):
            # Django makes related managers without the arguments.
            caches = getattr(self.model, manager).caches_get
            if caches is None:
                caches = getattr(related._queryset_class, "caches_get", False)
            related.caches_get = caches
        return related

    return wrapped


def refreshed(self):
    """
    Return a queryset whose get_or_create() queries the database, and refreshes
    the cache. So does its get(), if the cache answers that of the manager.
    """
    queryset = self.get_queryset().refreshed()
    self._set_get(queryset)
    queryset._creates = False
    return queryset


class BaseGetManager(models.Manager):
    """A manager whose own get() differs from that of its querysets."""

    # True if get() reads the cache. If it is None, caches_get of the queryset
    # class decides.
    caches_get = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Not for each class, because the wrapper costs each hit two calls.
        if "get_queryset" in cls.__dict__ or getattr(
            cls._queryset_class, "caches_get", False
        ):
            wrap_method(cls, "get_queryset", returning_djangos_get)
        # from_queryset() has made it from the queryset's method.
        if {"_queryset_class", "refreshed"} <= cls.__dict__.keys():
            cls.refreshed = refreshed
        if "__call__" in cls.__dict__:  # a related manager
            wrap_method(cls, "__call__", with_caches_get)
            if has_djangos_steps(cls):
                wrap_method(cls, "aget_or_create", answering_in_coroutine)

    def get(self, *args, **kwargs):
        """
        Perform the query and return a single object matching the given
        keyword arguments.
        """
        return self._queryset_to_get().get(*args, **kwargs)

    async def aget(self, *args, **kwargs):
        return await self._queryset_to_get().aget(*args, **kwargs)

    def using(self, alias):
        """Select which database this QuerySet should execute against."""
        if (
            alias is None  # Admin's raw-id widget.
            # A GenericForeignKey, which names the database.
            or self.model._base_manager.name == self.name
        ):
            return self.get_queryset().using(alias)
        queryset = self._queryset_to_get().using(alias)
        self._set_get(queryset)
        return queryset

    def _queryset_to_get(self):
        queryset = self.get_queryset()
        if queryset._result_cache is not None:
            # Prefetched: the instance keeps this object.
            queryset = queryset._clone()
        self._set_get(queryset)
        return queryset

    def _set_get(self, queryset):
        """Make get() of a queryset do what get() of the manager does."""
        caches = self.caches_get
        if caches is None and "instance" in vars(self):
            # Django makes related managers without the arguments.
            caches = getattr(self.model._default_manager, "caches_get", None)
        if caches is None:
            caches = getattr(queryset, "caches_get", False)
        queryset._caches_get = caches


class BaseCachedManager(BaseGetManager):
    """
    A manager of a queryset that caches. With ``caches_get=True``, get() reads
    the cache, too.
    """

    # The public path, because migrations name it.
    __module__ = "getorcreateplus.managers"

    def __init__(self, *, caches_get=None):
        super().__init__()
        if caches_get is not None:
            self.caches_get = caches_get
