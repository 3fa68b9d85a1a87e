"""
Which rows a get() may create: by which lookups, with which values, and whether
an INSERT can succeed at all.
"""

from datetime import date
from inspect import getattr_static
from operator import attrgetter
from uuid import UUID

from django.conf import settings
from django.core.exceptions import FieldDoesNotExist
from django.db import connections, models
from django.db.models.fields.proxy import OrderWrt
from django.db.models.signals import post_init, post_save, pre_init, pre_save

from ..environment.cached_functions import cached_until_models_change
from ..lookups.django_path import path_of
from ..lookups.origin import is_foreign, is_of_django
from ..selects.parameters import MAX_CALLS
from ..writes.watching import after_save

# Methods of a model that may set values of a new row.
STEPS_OF_MODEL = (
    "__getattribute__",
    "__init__",
    "__new__",
    "__setattr__",
    "_do_insert",
    "_prepare_related_fields_for_save",
    "_save_parents",
    "_save_table",
    "save",
    "save_base",
)
# Methods of a field's class that may do so.
STEPS_OF_FIELD = (
    "get_db_prep_save",
    "get_db_prep_value",
    "get_default",
    "get_prep_value",
    "pre_save",
)
steps_of_model = attrgetter(*STEPS_OF_MODEL)
steps_of_field = attrgetter(*STEPS_OF_FIELD)

# A value of this type certainly fits a field of this class.
FITTING = (
    (bool, models.BooleanField),
    (date, models.DateField),
    (UUID, models.UUIDField),
)
# Characters of a text that certainly fit an index. PostgreSQL refuses to index
# a row of more than 2,700 bytes.
MAX_INDEXED = 200

BEFORE_INSERT = pre_init, post_init, pre_save


@cached_until_models_change(maxsize=MAX_CALLS)
def columns_to_create(model, names):
    """
    Return the (name, field) of each of these arguments, and the fields that
    then have no value. The first is None if get() with these arguments may not
    create a row.
    """
    opts, columns = model._meta, {}
    for argument in names:
        name = argument.removesuffix("__exact")
        try:
            field = opts.pk if name == "pk" else opts.get_field(name)
        except FieldDoesNotExist:  # name__iexact, a misspelt name.
            return None, ()
        # fk= and fk_id= together are ambiguous.
        if field in columns.values() or not may_be_created(model, field):
            return None, ()
        columns[name] = field
    return tuple(columns.items()), fields_without_value(model) - {*columns.values()}


def may_be_created(model, field):
    """Return True if a lookup on this field may create a row of the model."""
    if (
        not field.concrete  # GenericForeignKey, and reverse relations.
        or field.many_to_many  # Concrete, but without a column.
        or field.generated  # The database computes it.
        # Saving the child would overwrite the parent's row.
        or getattr(field.remote_field, "parent_link", False)
        # Logins, sessions and links look up users who may be gone.
        or is_user(model)
    ):
        return False
    return field not in field.model._meta.pk_fields or not (
        isinstance(field, models.AutoField)  # The database generates it,
        or field.has_default()  # or Django does,
        or field.has_db_default()  # or the database again.
        # The parent's key, in multi-table inheritance: see parent_link.
        or field.model is not model._meta.concrete_model
    )


def is_user(model):
    """Return True if the rows of a model are users: AUTH_USER_MODEL."""
    of_users = settings.AUTH_USER_MODEL.lower()
    return any(
        each._meta.label_lower == of_users
        for each in model.__mro__
        if hasattr(each, "_meta")
    )


def is_storable(field, value):
    """Return True if a row can have this value in this field."""
    if type(value) is str or type(value) is int:
        return True  # Most values take this path, so it has no further call.
    if isinstance(value, models.Model):
        return (
            isinstance(field, models.ForeignKey)
            # Not an instance of its parent, which a lookup accepts, too.
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


# Can an INSERT succeed?


@cached_until_models_change
def fields_without_value(model):
    """
    Return the fields that need a value from the caller: their columns are NOT
    NULL, and neither Django nor the database has a value for them.
    """
    if has_own_steps(model):
        return frozenset()  # The project's own code may set one.
    return frozenset(
        field for field in model._meta.concrete_fields if not has_value(field)
    )


def has_own_steps(model):
    """Return True if a new row is saved by code that is not Django's."""
    return any(
        step is not getattr(object, name, None) and is_foreign(step)
        for name, step in zip(STEPS_OF_MODEL, steps_of_model(model), strict=True)
    )


def has_value(field):
    """Return True if a new row may have a value here that is not given."""
    return (
        field.null
        or field.generated
        or isinstance(field, (models.AutoField, OrderWrt))
        or getattr(field.remote_field, "parent_link", False)  # save() sets it.
        or getattr(field, "auto_now", False)
        or getattr(field, "auto_now_add", False)
        or has_usable_default(field)
        or has_own_value(field)
    )


def has_usable_default(field):
    """Return True if the default of a field, if not given, is not NULL."""
    if field.has_default():
        return field.default is not None
    if field.has_db_default():
        return field.db_default is not None
    # A text has the value "", but "" identifies no row.
    return field.empty_strings_allowed and field not in field.model._meta.pk_fields


def has_own_value(field):
    """Return True if code that is not Django's makes the values of a field."""
    return (
        any(map(is_foreign, steps_of_field(type(field))))
        or not vars(field).keys().isdisjoint(STEPS_OF_FIELD)
        # The attribute that pre_save() reads.
        or not is_of_django(type(getattr_static(field.model, field.attname, None)))
    )


def may_fill_in(queryset):
    """
    Return True if other code may set values of a new row: a create() of the
    project, or a receiver of a signal.
    """
    cls = type(queryset)
    return (
        is_foreign(cls.create)
        or is_foreign(cls.get_or_create)
        or "get_or_create" in path_of(cls).entries
        or not {"create", "get_or_create"}.isdisjoint(vars(queryset))
        or any(signal.has_listeners(queryset.model) for signal in BEFORE_INSERT)
    )


# Does a failed INSERT break the transaction?


def may_be_refused(queryset, connection, kwargs):
    """
    Return True if something other than a unique constraint may refuse the new
    row of these arguments, and break the transaction.
    """
    model = queryset.model
    return (
        has_own_steps(model)
        or may_fill_in(queryset)
        or has_other_receivers(post_save, model)
        # Other databases undo only the failed statement.
        or (
            connection.vendor == "postgresql"
            and (
                has_checks(model, connection.alias)
                or not all_fit(model, kwargs, connection)
            )
        )
    )


def has_other_receivers(signal, model):
    """
    Return True if a signal of a model has receivers other than after_save().
    """
    own, senders = id(after_save), {id(None), id(model)}
    return any(
        receiver != own and sender in senders
        for (receiver, sender), *_ in signal.receivers
    )


def all_fit(model, kwargs, connection):
    """
    Return True if each value certainly fits its column. A SELECT accepts a
    longer text and a larger number than an INSERT.
    """
    columns, _ = columns_to_create(model, tuple(kwargs))
    return all(
        fits(field, value, connection)
        for (_, field), value in zip(columns, kwargs.values(), strict=True)
    )


def fits(field, value, connection):
    if isinstance(value, models.Model):
        return True  # Another row has it.
    while field.remote_field:
        field = field.target_field
    if type(value) is str and isinstance(field, (models.CharField, models.TextField)):
        longest = MAX_INDEXED if field.max_length is None else field.max_length
        return len(value) <= min(longest, MAX_INDEXED)
    if type(value) is int and isinstance(field, models.IntegerField):
        low, high = connection.ops.integer_field_range(field.get_internal_type())
        return low <= value <= high
    return any(
        isinstance(value, kind) and isinstance(field, field_class)
        for kind, field_class in FITTING
    )


@cached_until_models_change
def has_checks(model, using):
    """Return True if the database may check more than unique keys."""
    return any(
        not opts.managed
        or any(isinstance(each, models.CheckConstraint) for each in opts.constraints)
        for opts in (each._meta for each in (model, *model._meta.all_parents))
    ) or any(
        field.db_check(connections[using]) or not is_of_django(type(field))
        for field in model._meta.concrete_fields
    )
