"""
System checks, for example of caches that never serve a row.

Django registers them when the package is imported. They inspect each manager
of each model: default ones, inherited ones and those of as_manager(). No check
connects to a server. The checks themselves are in diagnosis/cache_checks.py
and diagnosis/manager_checks.py.
"""

from django.apps import apps
from django.core import checks

from .diagnosis.cache_checks import (
    DUMMY,
    LOCMEM,
    check_aliases,
    check_alone,
    check_buckets,
    check_dummy,
    check_forever,
    check_kept,
    check_locmem,
    check_own_cluster,
    check_settings,
    check_shared_alias,
    check_shared_app,
    check_shared_store,
    is_same_store,
    is_shared,
    used_aliases,
)
from .diagnosis.manager_checks import (
    BY_DATABASE,
    check_base_manager,
    check_databases,
    check_lookups,
    check_lookups_are_unique,
    check_on_delete,
    check_timeouts,
    check_unique,
    has_unique,
    is_creating,
    is_generated_pk,
    is_time,
)
from .diagnosis.managers import (
    caches_of,
    class_of,
    is_cached,
    lookup_change,
    name_of,
    queryset_classes,
)

__all__ = [
    "BY_DATABASE",
    "DUMMY",
    "LOCMEM",
    "caches_of",
    "check_admin",
    "check_aliases",
    "check_alone",
    "check_base_manager",
    "check_buckets",
    "check_caches",
    "check_caches_to_deploy",
    "check_databases",
    "check_dummy",
    "check_forever",
    "check_kept",
    "check_locmem",
    "check_lookups",
    "check_lookups_are_unique",
    "check_models",
    "check_on_delete",
    "check_own_cluster",
    "check_settings",
    "check_shared_alias",
    "check_shared_app",
    "check_shared_store",
    "check_timeouts",
    "check_unique",
    "class_of",
    "has_unique",
    "is_cached",
    "is_creating",
    "is_generated_pk",
    "is_same_store",
    "is_shared",
    "is_time",
    "lookup_change",
    "models_of",
    "name_of",
    "queryset_classes",
    "used_aliases",
]


# Registered


@checks.register(checks.Tags.models)
def check_models(app_configs=None, **kwargs):
    return [
        message
        for model in models_of(app_configs)
        for check in (
            check_timeouts,
            check_base_manager,
            check_unique,
            check_lookups_are_unique,
            check_databases,
            check_on_delete,
            check_lookups,
        )
        for message in check(model)
    ]


@checks.register(checks.Tags.caches)
def check_caches(app_configs=None, **kwargs):
    known = list(models_of(app_configs))
    return [
        *(
            message
            for model in known
            for check in (
                check_aliases,
                check_dummy,
                check_forever,
                check_shared_app,
                check_kept,
            )
            for message in check(model)
        ),
        *check_shared_alias(known),
        *check_shared_store(known),
        *check_own_cluster(known),
        *check_alone(known),
        *check_settings(),
        *check_buckets(),
    ]


@checks.register(checks.Tags.caches, deploy=True)
def check_caches_to_deploy(app_configs=None, **kwargs):
    return [m for model in models_of(app_configs) for m in check_locmem(model)]


def models_of(app_configs):
    configs = apps.get_app_configs() if app_configs is None else app_configs
    for config in configs:
        yield from config.get_models()


# Run by the admin's own check, for each ModelAdmin


def check_admin(model_admin):
    """E016 and E017: a CachedModelAdminMixin that cannot show anything."""
    cls, opts = type(model_admin), model_admin.model._meta
    if not is_cached(opts.concrete_model):
        yield checks.Error(
            f"{cls.__name__} has the CachedModelAdminMixin, but {opts.label} is not "
            "cached.",
            hint="Give the model a CachedManager or a PlusManager, or remove the "
            "mixin.",
            obj=cls,
            id="getorcreateplus.E016",
        )
    elif not apps.is_installed("getorcreateplus"):
        yield checks.Error(
            f"{cls.__name__} has the CachedModelAdminMixin, but 'getorcreateplus' is "
            "not in INSTALLED_APPS: Django does not find the mixin's template.",
            hint="Add 'getorcreateplus' to INSTALLED_APPS.",
            obj=cls,
            id="getorcreateplus.E017",
        )
