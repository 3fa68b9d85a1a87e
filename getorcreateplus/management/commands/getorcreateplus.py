import json
import sys
import textwrap
from difflib import get_close_matches

from django.apps import apps
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from getorcreateplus import explaining
from getorcreateplus.checks import class_of, lookup_change
from getorcreateplus.coherence.protocol import in_transaction
from getorcreateplus.conf import conf
from getorcreateplus.diagnosis.suitability import PER_ROW, flaws_of, most_entries
from getorcreateplus.environment.aliases import usable_connections
from getorcreateplus.environment.failures import described
from getorcreateplus.query import (
    AlwaysGetOrCreateMixin,
    CachedGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
)
from getorcreateplus.writes.invalidation import examine, invalidate_rows, watched

MIXINS = {
    CachedGetOrCreateMixin: "caches",
    AlwaysGetOrCreateMixin: "get() creates",
    NonAtomicGetOrCreateMixin: "no savepoint",
}


class Command(BaseCommand):
    help = "Shows what get_or_create() does with the cache, and drops what it keeps."

    # It is to tell what is wrong.
    requires_system_checks = []

    def add_arguments(self, parser):
        # Django ends with status 2, and a text of the usage, otherwise.
        parser.called_from_command_line = False
        actions = parser.add_subparsers(
            dest="action", metavar="{status,explain,invalidate}", required=True
        )

        status = actions.add_parser(
            "status",
            help="Which models are cached where, and whether the caches answer.",
        )
        status.add_argument("--json", action="store_true", help="As JSON.")

        explain = actions.add_parser(
            "explain",
            help="What get_or_create() would do now, and why. It changes nothing.",
        )
        explain.add_argument("model", help="shop.Tag")
        explain.add_argument(
            "lookup",
            nargs="+",
            metavar="field=value",
            help="The keyword arguments; null is None.",
        )
        explain.add_argument(
            "--manager", help="Its name; by default the model's default manager."
        )
        explain.add_argument("--database", help="The alias of the database.")
        explain.add_argument(
            "--check",
            action="store_true",
            help="SELECT the row, and compare it with the cached one.",
        )
        explain.add_argument("--json", action="store_true", help="As JSON.")

        invalidate = actions.add_parser(
            "invalidate", help="Forget rows, or all of a model, or everything."
        )
        invalidate.add_argument("model", nargs="?", help="shop.Tag")
        invalidate.add_argument(
            "pk",
            nargs="*",
            help="Primary keys; of several columns with commas: 1,2.",
        )
        invalidate.add_argument(
            "--all", action="store_true", help="All rows of the model."
        )
        invalidate.add_argument(
            "--everything", action="store_true", help="All rows of all models."
        )
        invalidate.add_argument(
            "--database", help="Its alias; by default all databases."
        )

    def run_from_argv(self, argv):
        try:
            super().run_from_argv(argv)
        except CommandError as error:  # of the arguments
            if "--traceback" in argv:
                raise
            self.stderr.write(f"CommandError: {error}")
            sys.exit(error.returncode)

    def handle(self, *, action, **options):
        examine()
        alias = options.get("database")
        if alias is not None and alias not in connections:
            raise CommandError(
                f"--database {alias}: DATABASES has {', '.join(connections)}."
            )
        getattr(self, action)(**options)

    # status

    def status(self, **options):
        found = {
            "models": [facts_of(watch) for watch in in_order(watched.values())],
            "others": managers_beside(),
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
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
        else:
            self.write_status(found)
        self.warn_of(a for a, cache in found["caches"].items() if not cache["error"])

    def write_status(self, found):
        heading = self.style.MIGRATE_HEADING
        if not found["models"]:
            self.stdout.write("No model is cached: no manager makes querysets that do.")
        for model in found["models"]:
            self.stdout.write(heading(model["model"]))
            for manager in model["managers"]:
                self.write_manager(model, manager)
            self.write("lookups", f"in {', '.join(model['key_caches'])}")
            for rows, aliases in grouped(model["rows"]):
                self.write("rows", f"in {rows['cache']}, {time_of(rows['timeout'])}")
                self.write("", f"of the database {', '.join(aliases)}")
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
                f"A lock that nobody releases goes within {found['lock_timeout']} s."
            )

    def write_manager(self, model, manager):
        name = manager["name"].removeprefix(f"{model['model']}.")
        self.write("manager", f"{name}, {in_words(manager)}")
        if manager["not_django"]:
            self.write("", f"asks the database: {manager['not_django']}")

    def write_cache(self, alias, cache):
        self.stdout.write(f"  {alias}, {cache['backend']}")
        if cache["error"]:
            self.write("", f"does not answer: {cache['error']}", self.style.ERROR)
        else:
            self.write("", "answers", self.style.SUCCESS)
        most = cache["entries"]
        if most is not None:
            self.write("", f"up to {most:,} entries, some {most // PER_ROW:,} rows")
        for flaw in cache["flaws"]:
            self.write("", flaw, self.style.WARNING)

    def write(self, name, text, style=None):
        indent = f"  {name:<9}"
        for line in textwrap.wrap(text, explaining.WIDTH - len(indent)):
            self.stdout.write(indent + (style(line) if style else line))
            indent = " " * len(indent)

    # explain

    def explain(self, **options):
        model = model_of(options["model"])
        manager = manager_of(model, options["manager"])
        if options["database"]:
            manager = manager.db_manager(options["database"])
        lookup = lookup_of(model, options["lookup"])
        ask = explaining.check if options["check"] else explaining.explain
        found = ask(manager, **lookup)
        if options["json"]:
            self.stdout.write(json.dumps(found.as_dict(), indent=2))
        else:
            style = self.style.SUCCESS if found.is_hit else self.style.WARNING
            # The outcome comes after the call, which may say the same.
            before, outcome, after = str(found).rpartition(f"Outcome: {found.outcome}")
            self.stdout.write(f"{before}{style(outcome)}{after}")
        self.warn_of({entry.alias for entry in found.entries})
        if found.is_right is False:
            raise CommandError("The cache is wrong.")

    # invalidate

    def invalidate(self, **options):
        models, texts = targets(options), options["pk"]
        if not models:
            self.stdout.write("No model is cached: there is nothing to forget.")
        done = {}
        for model in models:
            try:
                rows = [explaining.pk_from_text(model, text) for text in texts] or None
                forgotten = invalidate_rows(model, rows, options["database"])
            except ValueError as error:
                raise CommandError(str(error)) from error
            if not forgotten and (watch := watched.get(model._meta.concrete_model)):
                # Its caches cannot be used, or no database can.
                raise CommandError(
                    " ".join(watch.faults()) or "No database can be used."
                )
            if not forgotten:
                raise CommandError(
                    f"{model._meta.label} is not cached: no manager of it makes "
                    f"querysets that do. {cached_in_words()}"
                )
            done.update(forgotten)
        owed = [region for region in done if region in region.store.owed]
        self.report(done, owed, texts)
        self.warn_of({region.store.alias for region in done})
        if owed:
            raise CommandError(
                "A cache does not answer. What it was to forget only this process "
                "knows, which ends: repeat it when the cache is back."
            )

    def report(self, done, owed, texts):
        forgotten = {}
        for region, pks in done.items():
            for row in [", all rows"] if pks is None else [f" {t}" for t in texts]:
                what = f"{region.model._meta.label}{row}"
                if region in owed:
                    self.stderr.write(
                        f"{what}: not forgotten in {region.using}, the cache "
                        f"{region.store.alias!r} does not answer",
                        self.style.ERROR,
                    )
                else:
                    forgotten.setdefault(what, {})[region.using] = None
        for what, aliases in forgotten.items():
            later = any(in_transaction(connections[alias]) for alias in aliases)
            when = ", for all others at the commit" if later else ""
            self.stdout.write(f"{what}: forgotten in {', '.join(aliases)}{when}")

    def warn_of(self, aliases):
        for alias in sorted(aliases):
            if isinstance(caches[alias], LocMemCache):
                self.stderr.write(
                    f"The cache {alias!r} is a LocMemCache, of this process alone: "
                    "those of other\nprocesses are neither seen nor changed.",
                    self.style.WARNING,
                )
            elif isinstance(caches[alias], DummyCache):
                self.stderr.write(
                    f"The cache {alias!r} is a DummyCache: it keeps nothing.",
                    self.style.WARNING,
                )


# What the arguments name


def model_of(label):
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        known = {
            model._meta.label.lower(): model._meta.label
            for model in apps.get_models(include_auto_created=True)
        }
        close = get_close_matches(label.lower(), known, n=3) or [
            name for name in known if name.partition(".")[2] == label.lower()
        ]
        meant = " or ".join(known[name] for name in close)
        raise CommandError(
            f"There is no model {label!r}; say 'app.Model'. "
            f"{f'Is it {meant}?' if meant else cached_in_words()}"
        ) from None


def cached_in_words():
    labels = ", ".join(watch.model._meta.label for watch in in_order(watched.values()))
    return f"Cached are: {labels}." if labels else "No model is cached."


def manager_of(model, name):
    if name is None:
        return model._default_manager
    if name not in model._meta.managers_map:
        raise CommandError(
            f"--manager {name}: {model._meta.label} has "
            f"{', '.join(sorted(model._meta.managers_map))}."
        )
    return getattr(model, name)


def lookup_of(model, arguments):
    """Return the keyword arguments that texts of the form name=value are."""
    lookup = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not (name and equals):
            raise CommandError(f"{argument!r} is not of the form field=value.")
        if name in lookup:
            raise CommandError(f"{name} is given twice.")
        try:
            lookup[name] = explaining.from_text(model, name, text)
        except ValueError as error:
            raise CommandError(str(error)) from error
    return lookup


def targets(options):
    """Return the models that invalidate is to forget."""
    label, pks = options["model"], options["pk"]
    if options["everything"]:
        if label or options["all"]:
            raise CommandError("--everything is all models: name none, nor --all.")
        return [watch.model for watch in in_order(watched.values())]
    if label is None:
        raise CommandError(
            "Nothing to forget: name a model with primary keys or --all, or say "
            "--everything."
        )
    model = model_of(label)
    if options["all"] and pks:
        raise CommandError("--all is all rows: name no primary keys with it.")
    if not (options["all"] or pks):
        raise CommandError(
            f"Which rows of {model._meta.label}? Name primary keys, or say --all."
        )
    return [model]


# What there is


def in_order(watches):
    return sorted(watches, key=lambda watch: watch.model._meta.label)


def facts_of(watch):
    model = watch.model
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
        for region in watch.all_regions(connection.alias)
    ]
    return {
        "model": model._meta.label,
        "managers": managers,
        "key_caches": sorted(watch.key_cache_aliases),
        "rows": rows,
        "error": " ".join(watch.faults()) or None,
    }


def manager_facts(manager):
    queryset_class, change = class_of(manager), lookup_change(manager)
    return {
        "name": f"{manager.model._meta.label}.{manager.name}",
        "queryset": f"{queryset_class.__module__}.{queryset_class.__qualname__}",
        "does": [
            words
            for mixin, words in MIXINS.items()
            if issubclass(queryset_class, mixin)
        ],
        "local_timeout": getattr(queryset_class, "local_timeout", 0),
        # What makes its lookups others than Django's, which are not cached.
        "not_django": change and change.what,
    }


def region_facts(region):
    return {
        "database": region.using,
        "cache": region.store.alias,
        "timeout": region.seconds,
        "version_per_row": region.version_per_row,
    }


def managers_beside():
    """Return the managers of this package that do not cache."""
    return [
        manager_facts(manager)
        for model in apps.get_models(include_auto_created=True)
        for manager in model._meta.managers
        if issubclass(class_of(manager), tuple(MIXINS))
        and not issubclass(class_of(manager), CachedGetOrCreateMixin)
    ]


def answer_of(alias):
    error = None
    try:
        caches[alias].get("getorcreateplus")
    except Exception as failure:  # noqa: BLE001 - of whatever client
        error = described(failure, alias)
    is_known = alias in settings.CACHES
    return {
        "backend": settings.CACHES.get(alias, {}).get("BACKEND"),
        "error": error,
        "entries": most_entries(alias) if is_known else None,
        "flaws": [flaw.what for flaw in flaws_of(alias)] if is_known else [],
    }


# In words


def in_words(manager):
    words = list(manager["does"])
    if manager["local_timeout"] != 0:
        words.append(f"from memory {time_of(manager['local_timeout'])}")
    return f"{manager['queryset'].rpartition('.')[2]}: {', '.join(words)}"


def time_of(seconds):
    return "for ever" if seconds is None else f"for {seconds:g} s"


def version_in_words(version_per_row):
    return "a version per row" if version_per_row else "one version for all rows"


def grouped(rows):
    """Return (facts, database aliases) of those that are the same."""
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
