import json
import sys
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from difflib import get_close_matches

from django.apps import apps
from django.core.cache import caches
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management.base import (
    BaseCommand,
    CommandError,
    DjangoHelpFormatter,
)
from django.db import connections

from getorcreateplus import explaining
from getorcreateplus.coherence.transactions import in_transaction
from getorcreateplus.diagnosis.status import StatusWriter, in_order, status_facts
from getorcreateplus.writes.invalidate import invalidate_rows
from getorcreateplus.writes.registry import cached_models, examine

EXAMPLES_OF_STATUS = """\
Examples:
  manage.py getorcreateplus status
  manage.py getorcreateplus status --json
"""
EXAMPLES_OF_EXPLAIN = """\
Examples:
  manage.py getorcreateplus explain shop.Tag name=django
  manage.py getorcreateplus explain shop.Tag name=django --check
  manage.py getorcreateplus explain shop.Page folder=7 slug=about --manager objects
"""
EXAMPLES_OF_INVALIDATE = """\
Examples:
  manage.py getorcreateplus invalidate shop.Tag 1 2
  manage.py getorcreateplus invalidate shop.Tag --all
  manage.py getorcreateplus invalidate --everything --database default
"""
EXAMPLES = """\
Examples:
  manage.py getorcreateplus status
  manage.py getorcreateplus explain shop.Tag name=django --check
  manage.py getorcreateplus invalidate shop.Tag 1 2
"""


class HelpFormatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's help formatter, which does not wrap the examples."""


class Command(BaseCommand):
    help = "Shows how get_or_create() uses the cache, and invalidates cached rows."

    # The command finds out what is wrong, so it has to run with errors, too.
    requires_system_checks = []

    def create_parser(self, prog_name, subcommand, **kwargs):
        self.base_arguments = []
        kwargs = {"formatter_class": HelpFormatter, "epilog": EXAMPLES, **kwargs}
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_base_argument(self, parser, *args, **kwargs):
        super().add_base_argument(parser, *args, **kwargs)
        self.base_arguments.append((args, kwargs))

    def add_arguments(self, parser):
        # Otherwise argparse prints the usage, and ends with status 2.
        parser.called_from_command_line = False
        actions = parser.add_subparsers(
            dest="action", metavar="{status,explain,invalidate}", required=True
        )
        for action in (
            self.add_status(actions),
            self.add_explain(actions),
            self.add_invalidate(actions),
        ):
            # The options of every command of Django, also after the action.
            # Without a default, because they may be before it.
            for args, kwargs in self.base_arguments:
                if "--version" not in args:
                    action.add_argument(*args, **{**kwargs, "default": SUPPRESS})

    def add_status(self, actions):
        parser = actions.add_parser(
            "status",
            help="Show which models are cached where, and whether the caches answer.",
            formatter_class=HelpFormatter,
            epilog=EXAMPLES_OF_STATUS,
        )
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        return parser

    def add_explain(self, actions):
        parser = actions.add_parser(
            "explain",
            help="Show what get_or_create() would do now, and why. Change nothing.",
            formatter_class=HelpFormatter,
            epilog=EXAMPLES_OF_EXPLAIN,
        )
        parser.add_argument("model", help="The label of a model, such as shop.Tag.")
        parser.add_argument(
            "lookup",
            nargs="+",
            metavar="field=value",
            help="The keyword arguments of the call. The value null is None.",
        )
        parser.add_argument(
            "--manager",
            help="The name of a manager. Defaults to the model's default manager.",
        )
        parser.add_argument("--database", help="The alias of the database.")
        parser.add_argument(
            "--check",
            action="store_true",
            help="SELECT the row, and compare it with the cached one.",
        )
        parser.add_argument("--json", action="store_true", help="Print JSON.")
        return parser

    def add_invalidate(self, actions):
        parser = actions.add_parser(
            "invalidate",
            help="Invalidate some or all cached rows of a model, or of all models.",
            formatter_class=HelpFormatter,
            epilog=EXAMPLES_OF_INVALIDATE,
        )
        parser.add_argument(
            "model", nargs="?", help="The label of a model, such as shop.Tag."
        )
        parser.add_argument(
            "pk",
            nargs="*",
            help="Primary keys. If they have several columns, write 1,2.",
        )
        parser.add_argument("--all", action="store_true", help="All rows of the model.")
        parser.add_argument(
            "--everything", action="store_true", help="All rows of all models."
        )
        parser.add_argument(
            "--database", help="The alias of a database. Defaults to all databases."
        )
        return parser

    def run_from_argv(self, argv):
        try:
            super().run_from_argv(argv)
        except CommandError as error:  # of the arguments
            if "--traceback" in argv:
                raise
            message = str(error).removeprefix("Error: ")
            self.stderr.write(f"CommandError: {message}")
            sys.exit(error.returncode)

    def handle(self, *, action, **options):
        examine()
        alias = options.get("database")
        if alias is not None and alias not in connections:
            raise CommandError(
                f"--database {alias}: {alias!r} is not in DATABASES, which has "
                f"{', '.join(connections)}."
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
            # The last match, because the call may contain the same text.
            before, outcome, after = str(found).rpartition(f"Outcome: {found.outcome}")
            self.stdout.write(f"{before}{style(outcome)}{after}")
        warn_of(self, {entry.alias for entry in found.entries})
        if found.is_right is False:
            raise CommandError("The cached row is wrong.")

    # invalidate

    def invalidate(self, **options):
        models, texts = targets(options), options["pk"]
        if not models:
            self.stdout.write("No model is cached: there is nothing to invalidate.")
        done = {}
        for model in models:
            try:
                rows = [explaining.pk_from_text(model, text) for text in texts] or None
                invalidated = invalidate_rows(model, rows, options["database"])
            except ValueError as error:
                raise CommandError(str(error)) from error
            if not invalidated and (
                cached_model := cached_models.get(model._meta.concrete_model)
            ):
                # Its caches cannot be used, or no database can.
                raise CommandError(
                    " ".join(cached_model.faults()) or "No database can be used."
                )
            if not invalidated:
                raise CommandError(
                    f"{model._meta.label} is not cached: none of its managers has a "
                    f"caching queryset. {cached_in_words()}"
                )
            done.update(invalidated)
        owed = [region for region in done if region in region.client.debts.releases]
        self.report(done, owed, texts)
        warn_of(self, {region.client.alias for region in done})
        if owed:
            raise CommandError(
                "A cache does not answer, so its rows were not invalidated. Repeat the "
                "command when the cache answers again."
            )

    def report(self, done, owed, texts):
        invalidated = {}
        for region, pks in done.items():
            for row in [", all rows"] if pks is None else [f" {t}" for t in texts]:
                what = f"{region.model._meta.label}{row}"
                if region in owed:
                    self.stderr.write(
                        f"{what}: not invalidated in {region.using}, because the cache "
                        f"{region.client.alias!r} does not answer",
                        self.style.ERROR,
                    )
                else:
                    invalidated.setdefault(what, {})[region.using] = None
        for what, aliases in invalidated.items():
            later = any(in_transaction(connections[alias]) for alias in aliases)
            when = ", for others at the commit" if later else ""
            self.stdout.write(f"{what}: invalidated in {', '.join(aliases)}{when}")


# From the arguments to models, managers and lookups


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
            f"There is no model {label!r}. Write its label, such as 'app.Model'. "
            f"{f'Did you mean {meant}?' if meant else cached_in_words()}"
        ) from None


def cached_in_words():
    labels = ", ".join(
        each.model._meta.label for each in in_order(cached_models.values())
    )
    return f"Cached models: {labels}." if labels else "No model is cached."


def manager_of(model, name):
    if name is None:
        return model._default_manager
    if name not in model._meta.managers_map:
        raise CommandError(
            f"--manager {name}: {model._meta.label} has no manager {name!r}. It has "
            f"{', '.join(sorted(model._meta.managers_map))}."
        )
    return getattr(model, name)


def lookup_of(model, arguments):
    """Return the keyword arguments of texts of the form name=value."""
    lookup = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not (name and equals):
            raise CommandError(f"{argument!r} does not have the form field=value.")
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
            raise CommandError(
                "--everything is all rows of all models: leave out the model and --all."
            )
        return [each.model for each in in_order(cached_models.values())]
    if label is None:
        raise CommandError(
            "Nothing to invalidate: give a model with primary keys or --all, or give "
            "--everything."
        )
    model = model_of(label)
    if options["all"] and pks:
        raise CommandError("--all is all rows of the model: leave out primary keys.")
    if not (options["all"] or pks):
        raise CommandError(
            f"Which rows of {model._meta.label}? Give primary keys, or --all."
        )
    return [model]


# Kinds of caches


def warn_of(command, aliases):
    """Warn of caches that processes do not share, or that keep nothing."""
    for alias in sorted(aliases):
        if isinstance(caches[alias], LocMemCache):
            command.stderr.write(
                f"The cache {alias!r} is a LocMemCache, which belongs to this process: "
                "the\ncaches of other processes are neither read nor changed.",
                command.style.WARNING,
            )
        elif isinstance(caches[alias], DummyCache):
            command.stderr.write(
                f"The cache {alias!r} is a DummyCache, which stores nothing.",
                command.style.WARNING,
            )
