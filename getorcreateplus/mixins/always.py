"""
get() that creates a missing row: the mixin of the queryset, and the manager
that decides on which querysets get() creates rows.
"""

import copy
from functools import wraps

from django.db import connections, models
from django.db.models.query import ModelIterable

from ..lookups.django_path import follows_django
from ..lookups.queryset_shape import filters_only_by
from .base import GetOrCreateBase
from .creatable import columns_to_create, is_storable, may_be_refused, may_fill_in
from .manager_gets import (
    BaseGetManager,
    manager_of,
    returning_djangos_get,
    wrap_method,
)
from .selecting import OWN_GETS


class AlwaysGetOrCreateMixin(GetOrCreateBase):
    """
    Create the row that get() misses.

    get() is get_or_create() if it has only keyword arguments, each an exact
    lookup (name=, name__exact=, fk=, fk_id=) of a plain value on a concrete
    field that is not a generated primary key, and if the queryset has no
    filter except that of a related manager. The new row then gets that
    manager's foreign key. Any other get() is Django's, and so is every get()
    on a queryset that all() returns.

    get() is also Django's if no row can be created, because a NOT NULL column
    has no value, and on AUTH_USER_MODEL.
    """

    _creates = True

    # {field: value} that a generic relation's manager gives to a new row. The
    # queryset does not show it, unlike the value of a foreign key.
    _generic_row = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # loaddata calls them, and so does a login.
        wrap_method(cls, "get_by_natural_key", without_creation)
        wrap_method(cls, "aget_by_natural_key", without_creation_async)

    def as_manager(cls):  # noqa: N805
        return manager_of(cls, BaseAlwaysManager)

    as_manager.queryset_only = True
    as_manager = classmethod(as_manager)  # type: ignore[assignment]

    def get(self, *args, **kwargs):
        """
        Perform the query and return a single object matching the given
        keyword arguments.
        """
        if (
            self._creates
            and kwargs
            and not args
            # A get() that was set on this queryset has called this one.
            and "get" not in self.__dict__
            and (row := self._row_to_create(kwargs)) is not None
        ):
            if not follows_django(self):
                return self._get_or_create_as_django(kwargs, row)
            queryset = self
            if self._needs_savepoint(kwargs):
                queryset = self._clone()
                queryset._creates_in_savepoint = True
            return queryset.get_or_create(**row)[0]
        return super().get(*args, **kwargs)

    def _needs_savepoint(self, kwargs):
        """
        Return True if the database may refuse a new row in a way that breaks
        the transaction. A caller of get() does not expect that.
        """
        self._for_write = True
        connection = connections[self.db]
        return connection.in_atomic_block and may_be_refused(self, connection, kwargs)

    def _may_create(self, kwargs):
        return (
            self._creates and bool(kwargs) and self._row_to_create(kwargs) is not None
        )

    def _get_or_create_as_django(self, kwargs, row):
        """
        Create the row that Django's get() does not find, if a step of the
        lookup is overridden.
        """
        queryset = self._without_creation()
        queryset._for_write = True
        queryset._creates_in_savepoint = self._needs_savepoint(kwargs)
        # super() of the copy, whose get() may not create a row.
        get = super(AlwaysGetOrCreateMixin, queryset).get
        try:
            # With the names as written: an override may support only fk=, and
            # not fk_id=.
            return get(**kwargs)
        except self.model.DoesNotExist:
            # A subclass's get() has already run, and would add to these
            # arguments again.
            queryset.get = get
            return queryset.get_or_create(**row)[0]

    def all(self):
        """
        Return a new QuerySet that is a copy of the current one. This allows a
        QuerySet to proxy for a model manager in some cases.
        """
        clone = super().all()
        # Form fields, generic views and REST framework look up by all().
        clone._creates = False
        return clone

    def _clone(self):
        clone = super()._clone()
        if "_creates" in vars(self):
            # A manager has set it for the get() of this queryset, and not for
            # that of using(alias).filter().
            clone._creates = False
        clone._creates_in_savepoint = self._creates_in_savepoint
        clone._generic_row = self._generic_row
        return clone

    def _row_to_create(self, kwargs):
        """
        Return the arguments for get_or_create() if get() with these kwargs may
        create a row, None if not.
        """
        related = self._related_row()
        if (
            related is None
            or not filters_only_by(self.query, related)
            or not issubclass(self._iterable_class, ModelIterable)  # values()
        ):
            return None
        columns, without_value = columns_to_create(self.model, tuple(kwargs))
        if columns is None or not (
            without_value.issubset(related) or may_fill_in(self)
        ):
            return None
        row = {}
        for (name, field), value in zip(columns, kwargs.values(), strict=True):
            if (related and field in related) or not is_storable(field, value):
                return None
            if not field.is_relation:
                row[name] = value
            elif isinstance(value, models.Model):
                row[field.name] = value  # create(fk_id=obj) fails.
            else:
                row[field.attname] = value  # create(fk=1) fails.
        row |= {field.name: value for field, value in related.items()}
        if "defaults" in row:  # A field that is named like the argument.
            value = row.pop("defaults")
            row |= {"defaults": {"defaults": value}, "defaults__exact": value}
        return row

    def _related_row(self):
        """
        Return {field: value} that the related manager of this queryset gives
        to a new row. Return {} without a related manager, and None if its
        get() is Django's.
        """
        instance = self._hints.get("instance")
        if instance is None or self._generic_row:
            return self._generic_row
        # One-to-one access and many-to-many managers pass the hint, too, but
        # only a foreign key's manager sets the known related objects.
        if len(self._known_related_objects) != 1:
            return None
        [(field, known)] = self._known_related_objects.items()
        if (
            not isinstance(field, models.ForeignKey)  # ForeignObject: columns.
            or instance._state.adding  # No row yet to refer to.
            # The instance has got another key in the meantime.
            or known != {getattr(instance, field.target_field.attname): instance}
        ):
            return None
        return {field: instance}


# _find() relies on _creates = False, so it does not need to call get().
OWN_GETS.append(AlwaysGetOrCreateMixin.get)


class BaseAlwaysManager(BaseGetManager):
    """
    Create the row that the manager's own get() does not find, and no other.

    get() creates rows on the manager itself, on a related manager, and on
    using(alias). get_by_natural_key() never creates a row.
    """

    # The public path, because migrations name it.
    __module__ = "getorcreateplus.managers"

    _creates = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # The class may define them, or its queryset, or a base from another
        # package, in any order of the bases.
        wrap_method(cls, "get_queryset", returning_djangos_get)
        wrap_method(cls, "get_by_natural_key", without_creation)
        wrap_method(cls, "aget_by_natural_key", without_creation_async)

    def _set_get(self, queryset):
        super()._set_get(queryset)
        if self._creates:  # Not in get_by_natural_key().
            queryset._creates = True
            if hasattr(self, "object_id_field_name"):
                self._set_generic_row(queryset)

    def _set_generic_row(self, queryset):
        """
        Set the values that a new row gets on a generic relation's queryset.
        """
        # GenericRelatedObjectManager has set the database to read from. With
        # the hint, the queryset gets either database from the router, as that
        # manager's get_or_create() does.
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


# Wrapping the methods of subclasses


def without_creation(method):
    """Run the method on a manager or queryset whose get() is Django's."""

    @wraps(method)
    def wrapped(self, *args, **kwargs):
        return method(self._without_creation(), *args, **kwargs)

    return wrapped


def without_creation_async(method):
    """Do the same for a coroutine function."""

    @wraps(method)
    async def wrapped(self, *args, **kwargs):
        return await method(self._without_creation(), *args, **kwargs)

    return wrapped
