"""
get() that creates a missing row: the mixin of the queryset, and the manager
that decides on which querysets get() creates.
"""

import copy
from functools import wraps

from django.conf import settings
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models.query import ModelIterable

from ..environment.cached_functions import cached_until_models_change
from ..lookups.django_path import follows_django
from ..lookups.queryset_shape import filters_only_by
from ..selects.parameters import MAX_CALLS
from .base import GetOrCreateBase
from .selecting import OWN_GETS


class AlwaysGetOrCreateMixin(GetOrCreateBase):
    """
    Create the row that get() misses.

    get() is get_or_create() when it is given keyword arguments alone, each an
    exact lookup (name=, name__exact=, fk=, fk_id=) of a plain value on a
    concrete field, none of them a primary key that is generated, and when the
    queryset carries no filter but a related manager's own: the new row then
    gets that manager's foreign key. Any other get() is Django's, and so is
    every get() on a queryset that all() returns.
    """

    _creates = True

    # What a generic relation's manager gives to a new row, {field: value}.
    # Unlike a foreign key's, the queryset does not show it.
    _generic_row = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # loaddata calls them, and so does a login.
        wrap_method(cls, "get_by_natural_key", without_creation)
        wrap_method(cls, "aget_by_natural_key", without_creation_async)

    def as_manager(cls):  # noqa: N805
        # Named as by Django's as_manager(): that is how django-stubs finds it.
        name = f"ManagerFrom{cls.__name__}"
        manager = BaseAlwaysManager.from_queryset(cls, name)()
        manager._built_with_as_manager = True
        return manager

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
            return self.get_or_create(**row)[0]
        return super().get(*args, **kwargs)

    def _get_or_create_as_django(self, kwargs, row):
        """
        Create the row that Django's get() misses, if a step of the lookup is
        overridden.
        """
        queryset = self._without_creation()
        queryset._for_write = True
        # super() of the copy, whose get() may not create.
        get = super(AlwaysGetOrCreateMixin, queryset).get
        try:
            # With the names as written: an override may know fk= only, and not
            # fk_id=.
            return get(**kwargs)
        except self.model.DoesNotExist:
            # A subclass's get() has run already, and would add to these
            # arguments once more.
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
        clone._creates = self._creates
        clone._generic_row = self._generic_row
        return clone

    def _row_to_create(self, kwargs):
        """
        Return the arguments for get_or_create() if get() with these kwargs
        may create, None if not.
        """
        related = self._related_row()
        if (
            related is None
            or not filters_only_by(self.query, related)
            or not issubclass(self._iterable_class, ModelIterable)  # values()
        ):
            return None
        columns = columns_to_create(self.model, tuple(kwargs))
        if columns is None:
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
        Return what the related manager that made this queryset gives to a
        new row, as {field: value}: {} without a related manager, None for one
        whose get() is Django's.
        """
        instance = self._hints.get("instance")
        if instance is None or self._generic_row:
            return self._generic_row
        # One-to-one access and many-to-many managers give the hint as well,
        # but only a foreign key's manager sets the known related objects.
        if len(self._known_related_objects) != 1:
            return None
        [(field, known)] = self._known_related_objects.items()
        if (
            not isinstance(field, models.ForeignKey)  # ForeignObject: columns.
            or instance._state.adding  # No row yet to refer to.
            # The instance has got another key since.
            or known != {getattr(instance, field.target_field.attname): instance}
        ):
            return None
        return {field: instance}


# _find() asks with _creates = False in mind, so it needs no call of get().
OWN_GETS.append(AlwaysGetOrCreateMixin.get)


class BaseAlwaysManager(models.Manager):
    """
    Create the row that the manager's own get() misses, and no other.

    Admin, forms, get_object_or_404() and REST framework look up by
    get_queryset() or all(): get() on the querysets that these return is
    Django's. It creates on the manager itself, on a related manager, and on
    using(alias). get_by_natural_key() never creates.
    """

    # The public path, because migrations name it.
    __module__ = "getorcreateplus.managers"

    _creates = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Whether the class defines them, or its queryset, or a base from
        # another package, and in whatever order it inherits.
        wrap_method(cls, "get_queryset", returning_without_creation)
        wrap_method(cls, "get_by_natural_key", without_creation)
        wrap_method(cls, "aget_by_natural_key", without_creation_async)

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
            # Prefetched: the instance keeps this object.
            queryset = queryset._clone()
        queryset._creates = True
        if hasattr(self, "object_id_field_name"):
            self._set_generic_row(queryset)
        return queryset

    def _set_generic_row(self, queryset):
        """Set on a generic relation's queryset what a new row gets."""
        # GenericRelatedObjectManager has given it the database to read from.
        # With the hint it queries the router for either database, as that
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


# Which rows get() may create


@cached_until_models_change(maxsize=MAX_CALLS)
def columns_to_create(model, names):
    """
    Return the (name, field) of each of these arguments; None if get() with
    them may not create a row.
    """
    opts, columns = model._meta, {}
    for argument in names:
        name = argument.removesuffix("__exact")
        try:
            field = opts.pk if name == "pk" else opts.get_field(name)
        except FieldDoesNotExist:  # name__iexact, a misspelt name.
            return None
        # fk= and fk_id=: which is meant?
        if field in columns.values() or not may_be_created(model, field):
            return None
        columns[name] = field
    return tuple(columns.items())


def may_be_created(model, field):
    """Return True if a lookup on this field may create a row of the model."""
    if (
        not field.concrete  # GenericForeignKey, and relations of others.
        or field.many_to_many  # Concrete, but without a column.
        or field.generated  # The database computes it.
        # Saving the child would overwrite the parent's row.
        or getattr(field.remote_field, "parent_link", False)
    ):
        return False
    if model._meta.label_lower == settings.AUTH_USER_MODEL.lower() and (
        # Sessions and password reset links look up users who are gone.
        field in field.model._meta.pk_fields
        # changepassword and logins look up what somebody has typed.
        or field.name == getattr(model, "USERNAME_FIELD", None)
    ):
        return False
    return field not in field.model._meta.pk_fields or not (
        isinstance(field, models.AutoField)  # The database generates it,
        or field.has_default()  # or Django does,
        or field.has_db_default()  # or the database again.
        # The parent's, in multi-table inheritance: as for parent_link.
        or field.model is not model._meta.concrete_model
    )


def is_storable(field, value):
    """Return True if a row can have this value in this field."""
    if type(value) is str or type(value) is int:
        return True  # Most values: no call more than it takes.
    if isinstance(value, models.Model):
        return (
            isinstance(field, models.ForeignKey)
            # Not the parent of it, which a lookup accepts as well.
            and isinstance(value, field.remote_field.model._meta.concrete_model)
            and not value._state.adding  # No row yet to refer to.
        )
    return (
        value is not None  # IS NULL would find any number of rows.
        and not hasattr(value, "resolve_expression")  # F(), QuerySet
        and not callable(value)  # create() gets what it returns.
        # A text field would accept it, and save its repr().
        and not (
            isinstance(value, (dict, list, set, tuple))
            and isinstance(field, (models.CharField, models.TextField))
        )
    )


# Wrapping the methods of subclasses


def wrap_method(cls, name, wrapper):
    """
    Wrap a method, the class's own or an inherited one, unless it is wrapped.
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


def returning_without_creation(method):
    """Return the queryset that the method returns, with Django's get()."""

    @wraps(method)
    def wrapped(self, *args, **kwargs):
        queryset = method(self, *args, **kwargs)
        queryset._creates = False
        return queryset

    return wrapped
