import json
import sys
from difflib import get_close_matches

from django.apps import apps
from django.core.cache import caches
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from getorcreateplus import explaining
from getorcreateplus.coherence.transactions import in_transaction
from getorcreateplus.diagnosis.status import StatusWriter, in_order, status_facts
from getorcreateplus.writes.invalidate import invalidate_rows
from getorcreateplus.writes.registry import cached_models, examine


class Command(BaseCommand):
    help = "Shows what get_or_create() does with the cache, and drops what it keeps."

    # The command is what finds out what is wrong.
    requires_system_checks = []

    def add_arguments(self, parser):
        # Otherwise argparse prints the usage, and ends with status 2.
        parser.called_from_command_line = False
        actions = parser.add_subparsers(
            dest="action", metavar="{status,explain,invalidate}", required=True
        )
        self.add_status(actions)
        self.add_explain(actions)
        self.add_invalidate(actions)

    def add_status(self, actions):
        parser = actions.add_parser(
            "status",
            help="Which models are cached where, and whether the caches answer.",
        )
        parser.add_argument("--json", action="store_true", help="As JSON.")

    def add_explain(self, actions):
        parser = actions.add_parser(
            "explain",
            help="What get_or_create() would do now, and why. It changes nothing.",
        )
        parser.add_argument("model", help="shop.Tag")
        parser.add_argument(
            "lookup",
            nargs="+",
            metavar="field=value",
            help="The keyword arguments; null is None.",
        )
        parser.add_argument(
            "--manager", help="Its name; by default the model's default manager."
        )
        parser.add_argument("--database", help="The alias of the database.")
        parser.add_argument(
            "--check",
            action="store_true",
            help="SELECT the row, and compare it with the cached one.",
        )
        parser.add_argument("--json", action="store_true", help="As JSON.")

    def add_invalidate(self, actions):
        parser = actions.add_parser(
            "invalidate", help="Forget rows, or all of a model, or everything."
        )
        parser.add_argument("model", nargs="?", help="shop.Tag")
        parser.add_argument(
            "pk",
            nargs="*",
            help="Primary keys; of several columns with commas: 1,2.",
        )
        parser.add_argument("--all", action="store_true", help="All rows of the model.")
        parser.add_argument(
            "--everything", action="store_true", help="All rows of all models."
        )
        parser.add_argument("--database", help="Its alias; by default all databases.")

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
        found = status_facts()
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
        else:
            StatusWriter(self.stdout, self.style).write_status(found)
        caches_that_answer = [
            alias for alias, cache in found["caches"].items() if not cache["error"]
        ]
        warn_of(self, caches_that_answer)

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
        warn_of(self, {entry.alias for entry in found.entries})
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
            if not forgotten and (
                cached_model := cached_models.get(model._meta.concrete_model)
            ):
                # Its caches cannot be used, or no database can.
                raise CommandError(
                    " ".join(cached_model.faults()) or "No database can be used."
                )
            if not forgotten:
                raise CommandError(
                    f"{model._meta.label} is not cached: no manager of it makes "
                    f"querysets that do. {cached_in_words()}"
                )
            done.update(forgotten)
        owed = [region for region in done if region in region.client.debts.releases]
        self.report(done, owed, texts)
        warn_of(self, {region.client.alias for region in done})
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
                        f"{region.client.alias!r} does not answer",
                        self.style.ERROR,
                    )
                else:
                    forgotten.setdefault(what, {})[region.using] = None
        for what, aliases in forgotten.items():
            later = any(in_transaction(connections[alias]) for alias in aliases)
            when = ", for all others at the commit" if later else ""
            self.stdout.write(f"{what}: forgotten in {', '.join(aliases)}{when}")


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
    labels = ", ".join(
        each.model._meta.label for each in in_order(cached_models.values())
    )
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
    """Return the models whose rows are to be invalidated."""
    label, pks = options["model"], options["pk"]
    if options["everything"]:
        if label or options["all"]:
            raise CommandError("--everything is all models: name none, nor --all.")
        return [each.model for each in in_order(cached_models.values())]
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


# What the caches are


def warn_of(command, aliases):
    """Warn of caches that no other process shares, or that keep nothing."""
    for alias in sorted(aliases):
        if isinstance(caches[alias], LocMemCache):
            command.stderr.write(
                f"The cache {alias!r} is a LocMemCache, of this process alone: "
                "those of other\nprocesses are neither seen nor changed.",
                command.style.WARNING,
            )
        elif isinstance(caches[alias], DummyCache):
            command.stderr.write(
                f"The cache {alias!r} is a DummyCache: it keeps nothing.",
                command.style.WARNING,
            )
