"""
The cached models, and their caches.

A model is cached if one of its managers, or a manager of one of its proxies,
has a caching queryset. Every process with the model's code finds this out, so
each process invalidates the rows that it writes.
"""

import logging
import os
import threading
import weakref

from django.apps import apps
from django.core.cache import DEFAULT_CACHE_ALIAS, caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.db import connections
from django.db.models.signals import class_prepared
from django.utils.functional import cached_property

from ..coherence import clients
from ..coherence.region import Region
from ..environment import cache_keys, databases
from ..environment.aliases import cache_faults, object_cache_alias
from ..environment.cached_functions import runs_after_change_of
from ..environment.interruptions import reraise
from ..lookups.canonical import has_exact_pk, is_text_field
from .model_tables import tables_of

logger = logging.getLogger("getorcreateplus")

MAX_REGIONS = 1000  # of one model, which has one for each database and tenant

cached_models = {}  # concrete model: CachedModel
unexamined = []  # models whose managers have not been examined yet
being_examined = []  # the models that a thread is examining
indexes = {}  # database alias: TableIndex
examining = threading.RLock()


def region_of(queryset):
    """
    Return the region of a queryset's rows, None if the model is not cached, or
    if its caches cannot be used.
    """
    cached_model = cached_model_of(queryset)
    if cached_model is None:
        return None
    return cached_model.region(queryset.db, queryset.object_cache_alias)


def cached_model_of(queryset):
    """
    Return the CachedModel of a queryset, None if it cannot use the cache.
    """
    if unexamined or being_examined:
        examine()
    cached_model = cached_models.get(queryset.model._meta.concrete_model)
    if (
        cached_model is None
        or queryset.object_cache_alias not in cached_model.declared
        or cache_faults[queryset.key_cache_alias]
    ):
        return None
    return cached_model


class CachedModel:
    """A cached model, and the caches of its querysets."""

    def __init__(self, model):
        self.model = model
        self.declared = {}  # object_cache_alias: the timeouts that are declared with it
        self.key_cache_aliases = set()
        self.aliases = {}  # object_cache_alias: the alias that is used for it
        # (object_cache_alias, database, keys): region
        self.regions = {}
        self.others = weakref.WeakValueDictionary()
        self.without_keys = set()  # aliases of caches whose KEY_FUNCTION raised

    def declare(self, queryset_class):
        # A queryset class that does not cache counts with the defaults of a
        # caching one.
        alias = getattr(queryset_class, "object_cache_alias", None)
        timeout = getattr(queryset_class, "cache_timeout", DEFAULT_TIMEOUT)
        self.declared.setdefault(alias, set()).add(timeout)
        self.key_cache_aliases.add(
            getattr(queryset_class, "key_cache_alias", DEFAULT_CACHE_ALIAS)
        )

    def region(self, using, declared, connection=None):
        """
        Return the region for the current database and cache keys, None if the
        cache of the rows cannot be used. A caller may pass the connection of
        the alias, because getting it takes as long as everything else here.
        """
        alias = self.aliases.get(declared)
        if alias is None:
            alias = self.aliases[declared] = self.alias(declared)
        if not alias:
            return None  # getorcreateplus.E001
        if connection is None:
            connection = connections[using]
        name = databases.database_name(using, connection.settings_dict)
        try:
            at = declared, name, cache_keys.key_identity(caches[alias])
        except Exception as error:  # noqa: BLE001 - of a KEY_FUNCTION
            reraise(error)
            self.warn_of_key_function(alias, error)
            return None
        try:
            return self.regions[at]
        except KeyError:
            with examining:
                return self._add_region(at, using, alias)

    def warn_of_key_function(self, alias, error):
        if alias not in self.without_keys:
            self.without_keys.add(alias)
            logger.warning(
                "%s is not cached while KEY_FUNCTION of the cache %r raises: %r",
                self.model._meta.label,
                alias,
                error,
            )

    def alias(self, declared):
        """Return the alias of the rows' cache, "" if it cannot be used."""
        alias = object_cache_alias(self.model._meta, declared)
        return "" if cache_faults[alias] else alias

    def _add_region(self, at, using, alias):
        region = self.regions.get(at) or self.others.get(at)
        if region is None:
            region = self._make_region(at, using, alias)
        if len(self.regions) >= MAX_REGIONS:
            # Regions in self.others exist as long as something refers to them.
            oldest = next(iter(self.regions))
            self.others[oldest] = self.regions.pop(oldest)
        self.regions[at] = region
        return region

    def _make_region(self, at, using, alias):
        declared, name, _ = at
        opts = self.model._meta
        return Region(
            self.model,
            using,
            alias,
            database=name,
            # If other models may share the cache, its keys name the model.
            own_cache=alias == opts.model_name != DEFAULT_CACHE_ALIAS,
            timeout=shortest_timeout(self.declared[declared], alias),
            version_per_row=has_exact_pk(opts, connections[using].vendor),
            one_table=len(tables_of(self.model)) == 1,
        )

    @cached_property
    def text_keys(self):
        """
        Return the (table, column) pairs of its primary keys that hold texts.
        """
        return frozenset(
            (table._meta.db_table, field.column)
            for table in tables_of(self.model)
            for field in table._meta.pk_fields
            if is_text_field(field)
        )

    def all_regions(self, using, of_all_tenants=False):
        """
        Return the regions that a write through this alias changes: those of
        the current tenant, or those of all tenants that this process has seen.
        """
        connection = connections[using]
        aliases = databases.aliases_of_database(using, connection.settings_dict)
        regions = [
            self.region(alias, declared, connection if alias == using else None)
            for alias in aliases
            for declared in self.declared
        ]
        if of_all_tenants:
            met = [*self.regions.values(), *self.others.values()]
            regions += [region for region in met if region.using in aliases]
        return [region for region in dict.fromkeys(regions) if region is not None]

    def clear_regions(self):
        self.aliases.clear()
        self.regions.clear()
        self.others.clear()

    def faults(self):
        """Yield the faults of the caches that its querysets name."""
        opts = self.model._meta
        rows = {object_cache_alias(opts, declared) for declared in self.declared}
        for name, aliases in (
            ("key_cache_alias", self.key_cache_aliases),
            ("object_cache_alias", rows),
        ):
            for alias in sorted(aliases):
                if cache_faults[alias]:
                    yield (
                        f"{name} = {alias!r} of a queryset of {opts.label} "
                        f"{cache_faults[alias]}: see the system check "
                        "getorcreateplus.E001."
                    )


def settings_of(using):
    # Not settings.DATABASES, because a connection may have other settings.
    return connections[using].settings_dict


def shortest_timeout(timeouts, alias):
    """Return the shortest of the timeouts that share the rows of a cache."""
    if len(timeouts) == 1:
        [timeout] = timeouts
        return timeout
    default = caches[alias].default_timeout
    seconds = [default if t is DEFAULT_TIMEOUT else t for t in timeouts]
    return min((t for t in seconds if t is not None), default=None)


# Discovery


def add_model(sender, **kwargs):
    """Examine a new model's managers later, when all models are loaded."""
    # The models of a migration's state have the same tables.
    if sender._meta.apps is apps:
        unexamined.append(sender)


def examine():
    """Find the cached models among the new models."""
    # Both lists are empty only if no thread is examining a model. Another
    # thread, which is about to write, waits here.
    if not (unexamined or being_examined) or not apps.models_ready:
        return
    with examining:
        while unexamined:
            # So that a fork finds it in one of the lists.
            being_examined.append(unexamined[0])
            unexamined.pop(0)
            examine_model(being_examined[-1])
            indexes.clear()
            being_examined.pop()


def begin_anew():
    """Examine the models that another thread was examining at the fork."""
    global examining  # noqa: PLW0603
    examining = threading.RLock()
    unexamined[:0] = being_examined
    being_examined.clear()


os.register_at_fork(after_in_child=begin_anew)


def examine_model(model):
    opts = model._meta
    if opts.swapped:
        return  # the model has no table
    for manager in opts.managers:
        queryset_class = queryset_class_of(manager)
        if not hasattr(queryset_class, "object_cache_alias"):
            # In another process get_queryset() may not raise, but return a
            # queryset that caches. So the writes of this process must
            # invalidate.
            raises = queryset_class is None
            queryset_class = manager._queryset_class
            if not (raises or hasattr(queryset_class, "object_cache_alias")):
                continue
        model = opts.concrete_model
        cached_models.setdefault(model, CachedModel(model)).declare(queryset_class)


def queryset_class_of(manager):
    """Return the class of a manager's querysets, or None."""
    try:
        return type(manager.get_queryset())
    except Exception as error:  # noqa: BLE001 - it may require a request, or a tenant
        reraise(error)
        return None


@runs_after_change_of("CACHES")
@runs_after_change_of("GETORCREATEPLUS_BUCKETS")
@runs_after_change_of("GETORCREATEPLUS_TRANSPORTS")
def clear_regions():
    clients.by_alias.clear()
    for cached_model in cached_models.values():
        cached_model.clear_regions()


class_prepared.connect(add_model)

# Models that were defined before this module was imported.
for registered in apps.all_models.values():
    unexamined.extend(registered.values())
