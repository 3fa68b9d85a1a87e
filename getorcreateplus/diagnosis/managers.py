"""The managers of a model, their querysets, and the caches of these."""

from django.conf import settings

from ..environment.aliases import object_cache_alias
from ..lookups.django_path import change_of, path_of
from ..mixins.cached import CachedGetOrCreateMixin
from ..writes.registry import queryset_class_of


def queryset_classes(model, mixin):
    """Return {name of a manager: class} of querysets with this mixin."""
    classes = {m.name: class_of(m) for m in model._meta.managers}
    return {name: c for name, c in classes.items() if issubclass(c, mixin)}


def class_of(manager):
    return queryset_class_of(manager) or manager._queryset_class


def caches_get(manager):
    """Return True if the get() of a manager is answered from the cache."""
    own = getattr(manager, "caches_get", None)
    cls = class_of(manager)
    return issubclass(cls, CachedGetOrCreateMixin) and bool(
        cls.caches_get if own is None else own
    )


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


def lookup_change(manager):
    """Return the Change of the lookups of a manager's querysets, or None."""
    try:
        queryset = manager.get_queryset()
    except Exception:  # noqa: BLE001 - it may want a request, or a tenant.
        return path_of(class_of(manager)).change
    return change_of(queryset)


def is_cached(model):
    return any(
        queryset_classes(each, CachedGetOrCreateMixin)
        for each in [model, *model.__subclasses__()]
        if each._meta.concrete_model is model._meta.concrete_model
    )
