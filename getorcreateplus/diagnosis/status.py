"""
The state of all cached models and of their caches, for the status command, in
a form for JSON and as text.
"""

import textwrap

from django.apps import apps
from django.conf import settings
from django.core.cache import caches

from ..coherence.transports import transport_of
from ..conf import conf
from ..environment.aliases import usable_connections
from ..environment.failures import error_in_words
from ..query import (
    AlwaysGetOrCreateMixin,
    CachedGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
)
from ..writes.registry import cached_models
from . import WIDTH
from .cache_numbers import numbers_of
from .managers import caches_get, class_of, lookup_change
from .suitability import ENTRIES_PER_ROW, flaws_of, max_entries

MIXINS = {
    CachedGetOrCreateMixin: "caches",
    AlwaysGetOrCreateMixin: "get() creates",
    NonAtomicGetOrCreateMixin: "no savepoint",
}


def status_facts():
    """Return {"models", "others", "caches", "lock_timeout"}."""
    found = {
        "models": [facts_of(each) for each in in_order(cached_models.values())],
        "others": other_managers(),
        "caches": {},
        "lock_timeout": conf.LOCK_TIMEOUT,
    }
    used = {
        alias
        for model in found["models"]
        for rows in model["rows"]
        for alias in (rows["cache"], *model["key_caches"])
    }
    found["caches"] = {alias: answer_of(alias) for alias in sorted(used)}
    return found


def in_order(models):
    return sorted(models, key=lambda each: each.model._meta.label)


def facts_of(cached_model):
    """Return what the command shows of one cached model."""
    model = cached_model.model
    managers = [
        manager_facts(manager)
        for each in apps.get_models(include_auto_created=True)
        if each._meta.concrete_model is model
        for manager in each._meta.managers
        if issubclass(class_of(manager), CachedGetOrCreateMixin)
    ]
    rows = [
        region_facts(region)
        for connection in usable_connections()
        for region in cached_model.all_regions(connection.alias)
    ]
    return {
        "model": model._meta.label,
        "managers": managers,
        "key_caches": sorted(cached_model.key_cache_aliases),
        "rows": rows,
        "error": " ".join(cached_model.faults()) or None,
    }


def manager_facts(manager):
    queryset_class, change = class_of(manager), lookup_change(manager)
    return {
        "name": f"{manager.model._meta.label}.{manager.name}",
        "queryset": f"{queryset_class.__module__}.{queryset_class.__qualname__}",
        "does": [
            *(
                words
                for mixin, words in MIXINS.items()
                if issubclass(queryset_class, mixin)
            ),
            *(["get() from the cache"] if caches_get(manager) else []),
        ],
        "local_timeout": getattr(queryset_class, "local_timeout", 0),
        # Why its lookups are not Django's, so that they are not cached.
        "not_django": change and change.what,
    }


def region_facts(region):
    return {
        "database": region.using,
        "cache": region.client.alias,
        "timeout": region.seconds,
        "version_per_row": region.version_per_row,
    }


def other_managers():
    """Return the managers of this package that do not cache."""
    return [
        manager_facts(manager)
        for model in apps.get_models(include_auto_created=True)
        for manager in model._meta.managers
        if issubclass(class_of(manager), tuple(MIXINS))
        and not issubclass(class_of(manager), CachedGetOrCreateMixin)
    ]


def answer_of(alias):
    error = transport = None
    numbers = {"entries": None, "hit_share": None}
    try:
        caches[alias].get("getorcreateplus")
        transport = transport_of(alias).name
        numbers = numbers_of(alias)
    except Exception as failure:  # noqa: BLE001 - of any client
        error = error_in_words(failure, alias)
    is_known = alias in settings.CACHES
    return {
        "backend": settings.CACHES.get(alias, {}).get("BACKEND"),
        "transport": transport,
        "error": error,
        "entries": numbers["entries"],
        "hit_share": numbers["hit_share"],
        "max_entries": max_entries(alias) if is_known else None,
        "flaws": [flaw.what for flaw in flaws_of(alias)] if is_known else [],
    }


# As text


class StatusWriter:
    """Writes the facts for a terminal."""

    def __init__(self, stdout, style):
        self.stdout = stdout
        self.style = style

    def write_status(self, found):
        heading = self.style.MIGRATE_HEADING
        if not found["models"]:
            self.stdout.write("No model is cached: no manager has a caching queryset.")
        for model in found["models"]:
            self.stdout.write(heading(model["model"]))
            for manager in model["managers"]:
                self.write_manager(model, manager)
            self.write("lookups", f"in {', '.join(model['key_caches'])}")
            for rows, aliases in grouped(model["rows"]):
                self.write("rows", f"in {rows['cache']}, {time_of(rows['timeout'])}")
                self.write("", f"from the database {', '.join(aliases)}")
                self.write("", version_in_words(rows["version_per_row"]))
            if model["error"]:
                self.write("error", model["error"], self.style.ERROR)
        if found["others"]:
            self.stdout.write(heading("Not cached"))
        for manager in found["others"]:
            self.write("manager", f"{manager['name']}, {in_words(manager)}")
        if found["caches"]:
            self.stdout.write(heading("Caches"))
        for alias, cache in found["caches"].items():
            self.write_cache(alias, cache)
        if found["models"]:
            self.stdout.write(
                f"A lock that is not released expires within {found['lock_timeout']} s."
            )

    def write_manager(self, model, manager):
        name = manager["name"].removeprefix(f"{model['model']}.")
        self.write("manager", f"{name}, {in_words(manager)}")
        if manager["not_django"]:
            self.write("", f"queries the database: {manager['not_django']}")

    def write_cache(self, alias, cache):
        self.stdout.write(f"  {alias}, {cache['backend']}")
        if cache["error"]:
            self.write("", f"does not answer: {cache['error']}", self.style.ERROR)
        else:
            said = f"answers; its transport is {cache['transport']}"
            self.write("", said, self.style.SUCCESS)
        if cache["entries"] is not None:
            self.write("", f"{cache['entries']:,} entries")
        if cache["hit_share"] is not None:
            share = f"{cache['hit_share']:.0%}"
            self.write("", f"{share} of all reads from its server were hits")
        limit = cache["max_entries"]
        if limit is not None:
            rows = limit // ENTRIES_PER_ROW
            self.write("", f"up to {limit:,} entries, about {rows:,} rows")
        for flaw in cache["flaws"]:
            self.write("", flaw, self.style.WARNING)

    def write(self, name, text, style=None):
        indent = f"  {name:<9}"
        for line in textwrap.wrap(text, WIDTH - len(indent)):
            self.stdout.write(indent + (style(line) if style else line))
            indent = " " * len(indent)


def in_words(manager):
    words = list(manager["does"])
    if manager["local_timeout"] != 0:
        words.append(f"from memory {time_of(manager['local_timeout'])}")
    return f"{manager['queryset'].rpartition('.')[2]}: {', '.join(words)}"


def time_of(seconds):
    return "forever" if seconds is None else f"for {seconds:g} s"


def version_in_words(version_per_row):
    return "a version per row" if version_per_row else "one version for all rows"


def grouped(rows):
    """Return [(facts, database aliases that have the same facts), ...]."""
    groups = []
    for row in rows:
        facts = row | {"database": None}
        for known, aliases in groups:
            if known == facts:
                aliases.append(row["database"])
                break
        else:
            groups.append((facts, [row["database"]]))
    return groups
