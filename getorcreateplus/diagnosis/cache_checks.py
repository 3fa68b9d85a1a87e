"""
System checks of the CACHES of the cached models, and of the settings of the
package. checks.py registers them.
"""

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from ..coherence.transports.choice import TRANSPORTS
from ..conf import DEFAULTS, PREFIX, conf
from ..environment.aliases import cache_faults, object_cache_alias
from ..query import CachedGetOrCreateMixin
from .managers import caches_of, queryset_classes
from .suitability import flaws_of, is_cluster, keeping_flaw

DUMMY = "django.core.cache.backends.dummy.DummyCache"
LOCMEM = "django.core.cache.backends.locmem.LocMemCache"


# Caches of one model, or of all


def check_aliases(model):
    """E001: a cache that is not in CACHES, or cannot be loaded."""
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
            value, hint = getattr(cls, attribute), "or remove the attribute."
            said = f"{value!r}, which {fault}."
            if value is None:
                said = f"None, and the cache {alias!r} {fault}."
            if value == getattr(CachedGetOrCreateMixin, attribute):
                hint = f"or set {attribute} to another alias."
            what = "Add the alias to CACHES"
            if "OPTIONS" in fault:
                what = "Correct the LOCATION or the OPTIONS"
            elif alias in settings.CACHES:
                what = "Install what the BACKEND imports"
            yield checks.Error(
                f"{cls.__name__}.{attribute} is {said}",
                hint=f"{what}, {hint}",
                obj=model,
                id="getorcreateplus.E001",
            )


def check_shared_alias(known):
    """W002: two models with the same name, whose rows have the same keys."""
    owners = {}
    for model in known:
        opts = model._meta.concrete_model._meta
        if opts.model_name in caches_of(model):
            owners.setdefault(opts.model_name, {})[opts.label] = model
    for alias, labels in owners.items():
        if len(labels) > 1:
            yield checks.Warning(
                f"The models {', '.join(sorted(labels))} store their rows in the cache "
                f"{alias!r}, with their primary keys as the cache keys: they overwrite "
                "each other's rows.",
                hint="Set an object_cache_alias for all but one of them.",
                obj=labels[max(labels)],
                id="getorcreateplus.W002",
            )


def check_shared_store(known):
    """W003: two aliases of the same store, with the same keys."""
    owned = models_of_own_caches(known)
    for alias, model in owned.items():
        others = [
            other
            for other in settings.CACHES
            if other != alias and is_same_store(other, alias)
        ]
        # If both are named after a model, the first one warns.
        others = [other for other in others if other not in owned or other > alias]
        if others and alias != "default":
            yield checks.Warning(
                f"The cache {alias!r}, where primary keys are the cache keys of rows, "
                f"is the same store as {', '.join(map(repr, others))}, and has the "
                "same keys.",
                hint="Give one of them another LOCATION or KEY_PREFIX.",
                obj=model,
                id="getorcreateplus.W003",
            )


def models_of_own_caches(known):
    """Return {alias: model} of the caches that are named after a model."""
    return {
        model._meta.concrete_model._meta.model_name: model
        for model in known
        if model._meta.concrete_model._meta.model_name in caches_of(model)
    }


def check_own_cluster(known):
    """W025: primary keys as cache keys, which a cluster spreads."""
    for alias, model in models_of_own_caches(known).items():
        if is_cluster(alias):
            yield checks.Warning(
                f"Rows of {model._meta.label} are in the cache {alias!r}, a cluster, "
                "with their primary keys as the cache keys: a row and its version may "
                "be on two servers, and each step then takes a packet to both.",
                hint="Rename the alias and set object_cache_alias to its new name, so "
                "that all keys of the model are on one server.",
                obj=model,
                id="getorcreateplus.W025",
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
    """W004: a cache that stores nothing."""
    for alias in caches_of(model):
        if settings.CACHES[alias].get("BACKEND") == DUMMY:
            yield checks.Warning(
                f"Rows of {model._meta.label} are cached in {alias!r}, a DummyCache: "
                "it stores nothing, and each call queries the database.",
                hint="Use another BACKEND, or a manager that does not cache.",
                obj=model,
                id="getorcreateplus.W004",
            )


def check_shared_app(model):
    """W020: a table that all tenants share, with cache keys by tenant."""
    for alias in caches_of(model):
        if settings.CACHES[alias].get("KEY_FUNCTION") is not None and is_shared(model):
            yield checks.Warning(
                f"{model._meta.label} is in SHARED_APPS, and its rows are cached in "
                f"{alias!r}, whose KEY_FUNCTION may make different keys for each "
                "tenant: a write by one tenant does not invalidate the rows of the "
                "others.",
                hint="Set its object_cache_alias and key_cache_alias to a cache "
                "without that KEY_FUNCTION.",
                obj=model,
                id="getorcreateplus.W020",
            )


def is_shared(model):
    """Return True if django-tenants has one table for all tenants."""
    config = model._meta.app_config
    names = {config.name, f"{type(config).__module__}.{type(config).__qualname__}"}
    shared, own = (
        names & set(getattr(settings, name, ()))
        for name in ("SHARED_APPS", "TENANT_APPS")
    )
    return bool(shared and not own)


def check_locmem(model):
    """W005: a cache that processes do not share."""
    for alias in caches_of(model):
        if settings.CACHES[alias].get("BACKEND") == LOCMEM and not settings.DEBUG:
            yield checks.Warning(
                f"Rows of {model._meta.label} are cached in {alias!r}, a "
                "LocMemCache: each process sees only its own writes.",
                hint="Use a cache that all processes share, such as Redis.",
                obj=model,
                id="getorcreateplus.W005",
            )


def check_forever(model):
    """W006: rows that never expire, even after an undetected write."""
    for alias, classes in caches_of(model).items():
        default = settings.CACHES[alias].get("TIMEOUT", 300)
        timeouts = [cls.cache_timeout for cls in classes]
        if all(
            (default if timeout is DEFAULT_TIMEOUT else timeout) is None
            for timeout in timeouts
        ):
            yield checks.Warning(
                f"Rows of {model._meta.label} never expire in the cache {alias!r}: a "
                "row that another program writes stays outdated forever.",
                hint="Set a cache_timeout or a TIMEOUT. Or call invalidate() for such "
                "writes, and silence this check.",
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
    """W021, W023 and W024: flaws that concern the rows of all models."""
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


# Settings of the package


def default_in_words(value):
    return f"{value:,}" if type(value) is int else f"{value}"


def is_integer(value, lowest):
    return type(value) is int and value >= lowest


def validity(name, value):
    """Return whether a setting has a valid value, and what is valid."""
    if name == "COMPILED_SELECTS":
        return type(value) is bool, "True or False"
    if name == "TRANSPORTS":
        is_valid = type(value) is dict and set(value.values()) <= set(TRANSPORTS)
        names = ", ".join(map(repr, TRANSPORTS))
        return is_valid, f"a dictionary of cache aliases, each with one of {names}"
    if name == "BUCKETS":
        is_valid = type(value) is dict and all(
            type(label) is str and is_integer(number, 1)
            for label, number in value.items()
        )
        return (
            is_valid,
            "a dictionary of model labels, each with an integer of at least 1",
        )
    lowest = 1 if name == "LOCK_TIMEOUT" else 0
    return is_integer(value, lowest), f"an integer of at least {lowest}"


def check_settings():
    """E014 and W015: an invalid setting, or an unknown one."""
    for name, default in DEFAULTS.items():
        value = getattr(conf, name)
        is_valid, wanted = validity(name, value)
        if not is_valid:
            yield checks.Error(
                f"{PREFIX}{name} must be {wanted}, not {value!r}.",
                hint=f"Correct it, or remove it for the default, "
                f"{default_in_words(default)}.",
                id="getorcreateplus.E014",
            )
    for name in dir(settings):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in DEFAULTS:
            yield checks.Warning(
                f"{name} is not a setting of this package.",
                hint=f"Use one of {', '.join(PREFIX + known for known in DEFAULTS)}.",
                id="getorcreateplus.W015",
            )


def check_buckets():
    """E026: buckets for an unknown model, or for a proxy, without own rows."""
    is_valid, _ = validity("BUCKETS", conf.BUCKETS)
    installed = {model._meta.label.lower(): model._meta for model in apps.get_models()}
    for label in conf.BUCKETS if is_valid else ():
        what, remedy = "not an installed model", 'Write it as "app.Model"'
        if opts := installed.get(label.lower()):
            if not opts.proxy:
                continue
            concrete = opts.concrete_model._meta.label  # type: ignore[union-attr]
            what, remedy = "a proxy", f"Use {concrete}, the model that has its rows"
        yield checks.Error(
            f"{PREFIX}BUCKETS has {label!r}, which is {what}.",
            hint=f"{remedy}, or remove it.",
            id="getorcreateplus.E026",
        )
