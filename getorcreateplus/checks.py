"""
System checks: caches that serve nobody, managers that create too much.

They are registered when the package is imported, and look at each manager of
each model: the default ones, inherited ones and those of as_manager(). None
asks a server.
"""

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.db import models, router

from .conf import DEFAULTS, PREFIX, conf
from .diagnosis.suitability import flaws_of, keeping_flaw
from .environment.aliases import cache_faults, object_cache_alias, usable_connections
from .lookups.django_path import change_of, path_of
from .managers import BaseAlwaysManager
from .query import (
    AlwaysGetOrCreateMixin,
    CachedGetOrCreateMixin,
    GetOrCreateBase,
    NonAtomicGetOrCreateMixin,
)
from .writes.guards import can_guard
from .writes.invalidation import queryset_class_of, tables

DUMMY = "django.core.cache.backends.dummy.DummyCache"
LOCMEM = "django.core.cache.backends.locmem.LocMemCache"

# Django 6.1.
BY_DATABASE = {
    getattr(models, name): name
    for name in ("DB_CASCADE", "DB_SET_DEFAULT", "DB_SET_NULL")
    if hasattr(models, name)
}


# Registered


@checks.register(checks.Tags.models)
def check_models(app_configs=None, **kwargs):
    return [
        message
        for model in models_of(app_configs)
        for check in (
            check_timeouts,
            check_base_manager,
            check_user_manager,
            check_unique,
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
        *check_alone(known),
        *check_settings(),
    ]


@checks.register(checks.Tags.caches, deploy=True)
def check_caches_to_deploy(app_configs=None, **kwargs):
    return [m for model in models_of(app_configs) for m in check_locmem(model)]


def models_of(app_configs):
    configs = apps.get_app_configs() if app_configs is None else app_configs
    for config in configs:
        yield from config.get_models()


# What a model has


def queryset_classes(model, mixin):
    """Return {name of a manager: class} of querysets with this mixin."""
    classes = {m.name: class_of(m) for m in model._meta.managers}
    return {name: c for name, c in classes.items() if issubclass(c, mixin)}


def class_of(manager):
    return queryset_class_of(manager) or manager._queryset_class


def caches_of(model):
    """Return {alias of the rows' cache: classes of the querysets}."""
    found = {}
    for cls in queryset_classes(model, CachedGetOrCreateMixin).values():
        opts = model._meta.concrete_model._meta
        alias = object_cache_alias(opts, cls.object_cache_alias)
        if alias in settings.CACHES:
            found.setdefault(alias, []).append(cls)
    return found


def name_of(manager):
    return f"{manager.model._meta.label}.{manager.name}"


# Caches


def check_aliases(model):
    """E001: a cache that is not there, or cannot be loaded."""
    opts = model._meta.concrete_model._meta
    for cls in set(queryset_classes(model, CachedGetOrCreateMixin).values()):
        named = {
            "key_cache_alias": cls.key_cache_alias,
            "object_cache_alias": object_cache_alias(opts, cls.object_cache_alias),
        }
        if named["key_cache_alias"] == named["object_cache_alias"]:
            del named["object_cache_alias"]
        for attribute, alias in named.items():
            fault = cache_faults[alias]
            if fault is None:
                continue
            value, hint = getattr(cls, attribute), "or leave the attribute out."
            said = f"{value!r}, which {fault}."
            if value is None:
                said = f"None, and the cache {alias!r} {fault}."
                hint = "or name another one."
            what = "Add the alias to CACHES"
            if "OPTIONS" in fault:
                what = "Correct the OPTIONS"
            elif alias in settings.CACHES:
                what = "Install what the BACKEND imports"
            yield checks.Error(
                f"{cls.__name__}.{attribute} is {said}",
                hint=f"{what}, {hint}",
                obj=model,
                id="getorcreateplus.E001",
            )


def check_shared_alias(known):
    """W002: two models of one name, which keep rows under the same keys."""
    owners = {}
    for model in known:
        opts = model._meta.concrete_model._meta
        if opts.model_name in caches_of(model):
            owners.setdefault(opts.model_name, {})[opts.label] = model
    for alias, labels in owners.items():
        if len(labels) > 1:
            yield checks.Warning(
                f"The models {', '.join(sorted(labels))} keep their rows in the cache "
                f"{alias!r}, under their primary keys alone: each drops the others'.",
                hint="Give all but one of them an object_cache_alias.",
                obj=labels[max(labels)],
                id="getorcreateplus.W002",
            )


def check_shared_store(known):
    """W003: two aliases of one store, which do not tell their keys apart."""
    owned = {
        model._meta.concrete_model._meta.model_name: model
        for model in known
        if model._meta.concrete_model._meta.model_name in caches_of(model)
    }
    for alias, model in owned.items():
        others = [
            other
            for other in settings.CACHES
            if other != alias and is_same_store(other, alias)
        ]
        # Of two that are owned, the first one tells.
        others = [other for other in others if other not in owned or other > alias]
        if others and alias != "default":
            yield checks.Warning(
                f"The cache {alias!r}, where rows live under their primary keys, is "
                f"the same store as {', '.join(map(repr, others))}, with the same "
                "keys.",
                hint="Give one of them another LOCATION, or a KEY_PREFIX.",
                obj=model,
                id="getorcreateplus.W003",
            )


def is_same_store(alias, other):
    first, second = settings.CACHES[alias], settings.CACHES[other]
    return all(
        first.get(name, default) == second.get(name, default)
        for name, default in [
            ("BACKEND", None),
            ("LOCATION", ""),
            ("KEY_PREFIX", ""),
            ("KEY_FUNCTION", None),
            ("VERSION", 1),
        ]
    )


def check_dummy(model):
    """W004: a cache that keeps nothing."""
    for alias in caches_of(model):
        if settings.CACHES[alias].get("BACKEND") == DUMMY:
            yield checks.Warning(
                f"Rows of {model._meta.label} are to be cached in {alias!r}, a "
                "DummyCache: it keeps nothing, and each call asks the database.",
                hint="Choose another BACKEND, or a manager that does not cache.",
                obj=model,
                id="getorcreateplus.W004",
            )


def check_shared_app(model):
    """W020: a table of all tenants, under keys of each."""
    for alias in caches_of(model):
        if settings.CACHES[alias].get("KEY_FUNCTION") is not None and is_shared(model):
            yield checks.Warning(
                f"{model._meta.label} is in SHARED_APPS, and its rows are cached in "
                f"{alias!r}, whose KEY_FUNCTION may make other keys for each tenant: "
                "a write of one tenant is not told to the others.",
                hint="Give it an object_cache_alias and a key_cache_alias of a cache "
                "without that KEY_FUNCTION.",
                obj=model,
                id="getorcreateplus.W020",
            )


def is_shared(model):
    """Tell whether django-tenants has one table for all tenants."""
    config = model._meta.app_config
    names = {config.name, f"{type(config).__module__}.{type(config).__qualname__}"}
    shared, own = (
        names & set(getattr(settings, name, ()))
        for name in ("SHARED_APPS", "TENANT_APPS")
    )
    return bool(shared and not own)


def check_locmem(model):
    """W005: a cache of which each process has its own."""
    for alias in caches_of(model):
        if settings.CACHES[alias].get("BACKEND") == LOCMEM and not settings.DEBUG:
            yield checks.Warning(
                f"Rows of {model._meta.label} are cached in {alias!r}, a "
                "LocMemCache: of several processes, each sees its own writes alone.",
                hint="Use a cache that all processes share, such as Redis.",
                obj=model,
                id="getorcreateplus.W005",
            )


def check_forever(model):
    """W006: rows that never expire, should a write not be told."""
    for alias, classes in caches_of(model).items():
        default = settings.CACHES[alias].get("TIMEOUT", 300)
        timeouts = [cls.cache_timeout for cls in classes]
        if all(
            (default if timeout is DEFAULT_TIMEOUT else timeout) is None
            for timeout in timeouts
        ):
            yield checks.Warning(
                f"Rows of {model._meta.label} stay in the cache {alias!r} for ever: "
                "what other programs write is never seen.",
                hint="Set a cache_timeout or a TIMEOUT; or have invalidate() called "
                "for what they write, and silence this check.",
                obj=model,
                id="getorcreateplus.W006",
            )


def check_kept(model):
    """W022: rows that are never served from the cache."""
    for alias, classes in caches_of(model).items():
        timeouts = [cls.cache_timeout for cls in classes]
        flaw = keeping_flaw(model, alias, timeouts)
        if flaw is not None:
            yield checks.Warning(
                f"Rows of {model._meta.label} are never served from the cache "
                f"{alias!r}: it {flaw.what}",
                hint=flaw.remedy,
                obj=model,
                id=flaw.id,
            )


def check_alone(known):
    """W021, W023 and W024: flaws of a cache, whatever rows it keeps."""
    for alias in used_aliases(known):
        for flaw in flaws_of(alias):
            yield checks.Warning(
                f"The cache {alias!r} {flaw.what}",
                hint=flaw.remedy,
                id=flaw.id,
            )


def used_aliases(known):
    """Return the aliases of the caches of these models' rows and lookups."""
    used = set()
    for model in known:
        used.update(caches_of(model))
        for cls in queryset_classes(model, CachedGetOrCreateMixin).values():
            used.add(cls.key_cache_alias)
    return sorted(used & set(settings.CACHES))


# Managers


def check_base_manager(model):
    """E007: related objects that are created by looking at them."""
    if is_creating(model._base_manager):
        yield checks.Error(
            f"Meta.base_manager_name names {name_of(model._base_manager)}, whose get() "
            "creates: so would obj.relation and refresh_from_db().",
            hint="Leave base_manager_name out, or name a manager that only reads.",
            obj=model,
            id="getorcreateplus.E007",
        )


def check_user_manager(model):
    """E008: users that are created by logging in."""
    if model._meta.label_lower == settings.AUTH_USER_MODEL.lower() and is_creating(
        model._default_manager
    ):
        yield checks.Error(
            f"The default manager of AUTH_USER_MODEL, "
            f"{name_of(model._default_manager)}, creates what its get() misses: a "
            "login by get() would create users.",
            hint="Let a manager that only reads be the first one of the model.",
            obj=model,
            id="getorcreateplus.E008",
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
            f"{model._meta.label}.{min(names)} creates without a savepoint, and the "
            "model has no unique constraint but its generated primary key: two "
            "connections that get or create the same row make two.",
            hint="Add a UniqueConstraint on the fields that are looked up.",
            obj=model,
            id="getorcreateplus.W009",
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
        for opts in [table._meta for table in tables(model)]
    )


def is_generated_pk(field):
    return field.primary_key and (
        isinstance(field, models.AutoField)
        or field.has_default()
        or field.has_db_default()
        # The parent's.
        or getattr(field.remote_field, "parent_link", False)
    )


def check_databases(model):
    """W010: a database where a savepoint is needed all the same."""
    names = queryset_classes(model, NonAtomicGetOrCreateMixin)
    if not names or not model._meta.managed:
        return
    for connection in usable_connections():
        alias = connection.alias
        if not can_guard(connection) and router.allow_migrate_model(alias, model):
            yield checks.Warning(
                f"{model._meta.label}.{min(names)} is to create without a savepoint, "
                f"which on the database {alias!r} ({connection.vendor}) it "
                "cannot: there it is Django's.",
                hint="Nothing is wrong. PostgreSQL, MySQL, MariaDB and SQLite can.",
                obj=model,
                id="getorcreateplus.W010",
            )


def check_on_delete(model):
    """W011: deletes that the database does by itself."""
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
                f"{relation.model._meta.label} is cached: which rows the database "
                "changes by it is not known, so that each delete makes the cache "
                "start cold, and one that is not Django's is not seen.",
                hint="Use one of Django's own, such as CASCADE.",
                obj=field,
                id="getorcreateplus.W011",
            )


def is_cached(model):
    return any(
        queryset_classes(each, CachedGetOrCreateMixin)
        for each in [model, *model.__subclasses__()]
        if each._meta.concrete_model is model._meta.concrete_model
    )


def check_lookups(model):
    """I019: lookups that may not be Django's, and so are not cached."""
    for manager in model._meta.managers:
        cls = class_of(manager)
        if not issubclass(cls, GetOrCreateBase):
            continue
        change = lookup_change(manager) or path_of(cls).batch_change
        if change is None:
            continue
        effects = ["its batches go row by row"]
        if issubclass(cls, CachedGetOrCreateMixin) and lookup_change(manager):
            effects.insert(0, "the cache is not used")
        yield checks.Info(
            f"{name_of(manager)} makes a {cls.__name__} whose lookups may not be "
            f"Django's: {change.what}. So Django's own get_or_create() runs: "
            f"{', and '.join(effects)}.",
            hint=change.remedy,
            obj=model,
            id="getorcreateplus.I019",
        )


def lookup_change(manager):
    """Return the Change of the lookups of a manager's querysets, or None."""
    try:
        queryset = manager.get_queryset()
    except Exception:  # noqa: BLE001 - it may want a request, or a tenant.
        return path_of(class_of(manager)).change
    return change_of(queryset)


# The admin, whose ModelAdmin asks


def check_admin(model_admin):
    """E016 and E017: a CachedModelAdminMixin that has nothing to show."""
    cls, opts = type(model_admin), model_admin.model._meta
    if not is_cached(opts.concrete_model):
        yield checks.Error(
            f"{cls.__name__} has the CachedModelAdminMixin, and {opts.label} is not "
            "cached.",
            hint="Give the model a CachedManager or a PlusManager, or leave the mixin "
            "out.",
            obj=cls,
            id="getorcreateplus.E016",
        )
    elif not apps.is_installed("getorcreateplus"):
        yield checks.Error(
            f"{cls.__name__} has the CachedModelAdminMixin, whose template is not "
            "found without 'getorcreateplus' in INSTALLED_APPS.",
            hint="Add 'getorcreateplus' to INSTALLED_APPS.",
            obj=cls,
            id="getorcreateplus.E017",
        )


# Times


def check_timeouts(model):
    """E012 and W013: a cache_timeout or a local_timeout of no sense."""
    for cls in set(queryset_classes(model, CachedGetOrCreateMixin).values()):
        local, kept = cls.local_timeout, cls.cache_timeout
        for name, value, words in [
            ("local_timeout", local, "0 for off"),
            ("cache_timeout", kept, "DEFAULT_TIMEOUT for the cache's own"),
        ]:
            if value is not DEFAULT_TIMEOUT and not (value is None or is_time(value)):
                yield checks.Error(
                    f"{cls.__name__}.{name} is {value!r}, which is no time.",
                    hint=f"Set it to seconds, None for ever, or {words}.",
                    obj=model,
                    id="getorcreateplus.E012",
                )
        if is_time(kept) and (local is None or (is_time(local) and local > kept)):
            yield checks.Warning(
                f"{cls.__name__}.local_timeout is {local!r}, longer than its "
                f"cache_timeout of {kept!r}: rows are served from memory that are no "
                "longer in the cache.",
                hint="Set local_timeout to no more than cache_timeout.",
                obj=model,
                id="getorcreateplus.W013",
            )


def is_time(value):
    return type(value) in {int, float} and value >= 0


def check_settings():
    """E014 and W015: a setting of no sense, or of no such name."""
    for name in DEFAULTS:
        value = getattr(conf, name)
        lowest = 1 if name == "LOCK_TIMEOUT" else 0
        if type(value) is not int or value < lowest:
            yield checks.Error(
                f"{PREFIX}{name} is {value!r}, not an integer from {lowest}.",
                hint=f"Leave it out for {DEFAULTS[name]:,}.",
                id="getorcreateplus.E014",
            )
    for name in dir(settings):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in DEFAULTS:
            yield checks.Warning(
                f"There is no setting {name}.",
                hint=f"There are {', '.join(PREFIX + known for known in DEFAULTS)}.",
                id="getorcreateplus.W015",
            )
