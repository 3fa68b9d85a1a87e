"""
System checks of the managers of a model and of their querysets. checks.py
registers them.
"""

from django.core import checks
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.db import models, router

from ..environment.aliases import usable_connections
from ..lookups.django_path import path_of
from ..managers import BaseAlwaysManager
from ..query import (
    AlwaysGetOrCreateMixin,
    CachedGetOrCreateMixin,
    GetOrCreateBase,
    NonAtomicGetOrCreateMixin,
)
from ..writes.guards import can_guard
from ..writes.model_tables import tables_of
from .managers import class_of, is_cached, lookup_change, name_of, queryset_classes

# Options of Django 6.1 and later.
BY_DATABASE = {
    getattr(models, name): name
    for name in ("DB_CASCADE", "DB_SET_DEFAULT", "DB_SET_NULL")
    if hasattr(models, name)
}


def check_base_manager(model):
    """E007: related objects that are created when they are read."""
    if is_creating(model._base_manager):
        yield checks.Error(
            f"Meta.base_manager_name names {name_of(model._base_manager)}, whose get() "
            "creates rows: obj.relation and refresh_from_db() would create them, too.",
            hint="Remove base_manager_name, or name a manager that only reads.",
            obj=model,
            id="getorcreateplus.E007",
        )


def is_creating(manager):
    return isinstance(manager, BaseAlwaysManager) or issubclass(
        class_of(manager), AlwaysGetOrCreateMixin
    )


def check_unique(model):
    """W009: rows that two connections create twice."""
    names = queryset_classes(model, NonAtomicGetOrCreateMixin)
    if names and not has_unique(model):
        yield checks.Warning(
            f"{model._meta.label}.{min(names)} creates rows without a savepoint, and "
            "the model has no unique constraint except its generated primary key: two "
            "connections that get or create the same row can create it twice.",
            hint="Add a UniqueConstraint on the fields that are looked up.",
            obj=model,
            id="getorcreateplus.W009",
        )


def check_lookups_are_unique(model):
    """I027: a second matching row, which a hit does not detect."""
    classes = queryset_classes(model, CachedGetOrCreateMixin)
    names = [name for name, cls in classes.items() if not cls.caches_unique_only]
    if names and not has_unique(model):
        yield checks.Info(
            f"{model._meta.label}.{min(names)} caches, and the model has no unique "
            "constraint except its generated primary key: if two rows match a lookup, "
            "a hit returns one of them, where Django raises MultipleObjectsReturned.",
            hint="Add a UniqueConstraint on the fields that are looked up, or set "
            "caches_unique_only = True on the queryset class.",
            obj=model,
            id="getorcreateplus.I027",
        )


def has_unique(model):
    return any(
        opts.total_unique_constraints
        or opts.unique_together
        or any(
            field.unique and not is_generated_pk(field)
            for field in opts.local_concrete_fields
        )
        or len(opts.pk_fields) > 1
        for opts in [table._meta for table in tables_of(model)]
    )


def is_generated_pk(field):
    return field.primary_key and (
        isinstance(field, models.AutoField)
        or field.has_default()
        or field.has_db_default()
        # The primary key of the parent.
        or getattr(field.remote_field, "parent_link", False)
    )


def check_databases(model):
    """W010: a database on which the manager has to use Django's savepoint."""
    names = queryset_classes(model, NonAtomicGetOrCreateMixin)
    if not names or not model._meta.managed:
        return
    for connection in usable_connections():
        alias = connection.alias
        if not can_guard(connection) and router.allow_migrate_model(alias, model):
            yield checks.Warning(
                f"{model._meta.label}.{min(names)} cannot create rows without a "
                f"savepoint on the database {alias!r} ({connection.vendor}): it runs "
                "Django's get_or_create() there.",
                hint="Nothing is wrong. PostgreSQL, MySQL, MariaDB and SQLite do not "
                "need the savepoint.",
                obj=model,
                id="getorcreateplus.W010",
            )


def check_on_delete(model):
    """W011: rows that the database deletes or changes by itself."""
    if model._meta.proxy:
        return
    cached = is_cached(model)
    for field in model._meta.local_concrete_fields:
        relation = field.remote_field
        if (
            relation
            and relation.on_delete in BY_DATABASE
            and not isinstance(relation.model, str)  # not defined
            and (cached or is_cached(relation.model))
        ):
            yield checks.Warning(
                f"{model._meta.label}.{field.name} has on_delete="
                f"{BY_DATABASE[relation.on_delete]}, and {model._meta.label} or "
                f"{relation.model._meta.label} is cached: Django does not see which "
                "rows the database changes, so each delete invalidates all rows of "
                "the cached model, and a delete without Django invalidates none.",
                hint="Use an on_delete that Django carries out, such as CASCADE.",
                obj=field,
                id="getorcreateplus.W011",
            )


def check_lookups(model):
    """I019: overridden lookups, which are not cached."""
    for manager in model._meta.managers:
        cls = class_of(manager)
        if not issubclass(cls, GetOrCreateBase):
            continue
        change = lookup_change(manager) or path_of(cls).batch_change
        if change is None:
            continue
        effects = ["its batches get or create the rows one by one"]
        if issubclass(cls, CachedGetOrCreateMixin) and lookup_change(manager):
            effects.insert(0, "the cache is not used")
        yield checks.Info(
            f"{name_of(manager)} makes a {cls.__name__}, whose lookups may differ from "
            f"Django's: {change.what}. So Django's own get_or_create() runs: "
            f"{', and '.join(effects)}.",
            hint=change.remedy,
            obj=model,
            id="getorcreateplus.I019",
        )


def check_timeouts(model):
    """E012 and W013: an invalid cache_timeout or local_timeout."""
    for cls in set(queryset_classes(model, CachedGetOrCreateMixin).values()):
        local, kept = cls.local_timeout, cls.cache_timeout
        for name, value, words in [
            ("local_timeout", local, "0 (off)"),
            ("cache_timeout", kept, "DEFAULT_TIMEOUT (the cache's own)"),
        ]:
            if value is not DEFAULT_TIMEOUT and not (value is None or is_time(value)):
                yield checks.Error(
                    f"{cls.__name__}.{name} must be a number of seconds or None, not "
                    f"{value!r}.",
                    hint=f"Set it to seconds, None (forever) or {words}.",
                    obj=model,
                    id="getorcreateplus.E012",
                )
        if is_time(kept) and (local is None or (is_time(local) and local > kept)):
            yield checks.Warning(
                f"{cls.__name__}.local_timeout is {local!r}, which exceeds its "
                f"cache_timeout of {kept!r}: a process serves rows from its memory "
                "after they have expired in the cache.",
                hint="Set local_timeout to cache_timeout or less.",
                obj=model,
                id="getorcreateplus.W013",
            )


def is_time(value):
    return type(value) in {int, float} and value >= 0
