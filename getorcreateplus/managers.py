import copy
from functools import wraps

from django.db import models

from .query import (
    AlwaysQuerySet,
    CachedQuerySet,
    NonAtomicQuerySet,
    PlusQuerySet,
    without_creation,
    without_creation_async,
    wrap,
)


class BaseAlwaysManager(models.Manager):
    """
    Create what the manager's own get() misses, and nothing else.

    Admin, forms, get_object_or_404() and REST framework look up by
    get_queryset() or all(): get() on the querysets that these return is
    Django's. It creates on the manager itself, on a related manager, and on
    using(alias). get_by_natural_key() never creates.
    """

    _creates = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Whether the class defines them, its queryset or a neighbour, and in
        # whatever order it inherits.
        wrap(cls, "get_queryset", returning_without_creation)
        wrap(cls, "get_by_natural_key", without_creation)
        wrap(cls, "aget_by_natural_key", without_creation_async)

    def get(self, *args, **kwargs):
        """
        Perform the query and return a single object matching the given
        keyword arguments.
        """
        return self._get_creating_queryset().get(*args, **kwargs)

    async def aget(self, *args, **kwargs):
        return await self._get_creating_queryset().aget(*args, **kwargs)

    def using(self, alias):
        """Select which database this QuerySet should execute against."""
        if (
            alias is None  # Admin's raw-id widget.
            # A GenericForeignKey, which names the database.
            or self.model._base_manager.name == self.name
        ):
            return self.get_queryset().using(alias)
        return self._get_creating_queryset().using(alias)

    def _get_creating_queryset(self):
        queryset = self.get_queryset()
        if not self._creates:  # get_by_natural_key().
            return queryset
        if queryset._result_cache is not None:
            # Prefetched: the instance keeps it.
            queryset = queryset._clone()
        queryset._creates = True
        if hasattr(self, "object_id_field_name"):
            self._tell_generic_relation(queryset)
        return queryset

    def _tell_generic_relation(self, queryset):
        """Let the queryset of a generic relation know what a new row gets."""
        # GenericRelatedObjectManager has given it the database to read from.
        # With the hint, it asks the router for either, as get_or_create() of
        # that manager does.
        queryset._db = self._db
        queryset._hints = {**queryset._hints, "instance": self.instance}
        if not self.instance._state.adding:
            get_field = self.model._meta.get_field
            queryset._generic_row = {
                get_field(self.content_type_field_name): self.content_type,
                get_field(self.object_id_field_name): self.pk_val,
            }

    def _without_creation(self):
        manager = copy.copy(self)
        manager._creates = False
        return manager


def returning_without_creation(method):
    """Return what the method returns, its get() being Django's."""

    @wraps(method)
    def wrapped(self, *args, **kwargs):
        queryset = method(self, *args, **kwargs)
        queryset._creates = False
        return queryset

    return wrapped


class CachedManager(models.Manager.from_queryset(CachedQuerySet)):
    use_for_related_fields = True


class AlwaysManager(BaseAlwaysManager.from_queryset(AlwaysQuerySet)):
    use_for_related_fields = True


class NonAtomicManager(models.Manager.from_queryset(NonAtomicQuerySet)):
    use_for_related_fields = True


class PlusManager(BaseAlwaysManager.from_queryset(PlusQuerySet)):
    use_for_related_fields = True
