from argparse import BooleanOptionalAction
from contextlib import contextmanager

from django import get_version
from django.core.cache import caches
from django.core.management import BaseCommand, CommandError
from django.db import DatabaseError, connection
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gazetteer import geonames, installing, services
from gazetteer.contenders import PLAIN, contenders
from gazetteer.contest import Contest, lines
from gazetteer.costs import Costs, look_for_each_call
from gazetteer.crowd import Failed, Lookups
from gazetteer.verdict import Verdict, in_words, is_slower
from getorcreateplus import __version__

DEFAULT_CITIES = 2_000
DEFAULT_LOOKUPS = 10_000


class Command(BaseCommand):
    help = (
        "Import the world's cities with plain Django and with getorcreateplus, row by "
        "row and in batches; import the same feed again; look rows up by four "
        "processes while another one writes. Check that all tables are equal and that "
        "no row was old. Print what each of them took, what helps and what costs. The "
        "contenders take turns, so that other programs slow down all of them."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--cities",
            default=DEFAULT_CITIES,
            metavar="N",
            help=(
                "Import the N most populous cities, with their countries, regions, "
                f"time zones and alternate names: 1 to {geonames.LARGEST} (default: "
                f"{DEFAULT_CITIES}; {geonames.STANDARD} are all above 15,000 "
                "inhabitants)."
            ),
        )
        parser.add_argument(
            "--lookups",
            type=int,
            default=DEFAULT_LOOKUPS,
            metavar="N",
            help=(
                "Look up N rows by four processes while one process writes (default: "
                "%(default)s). 0 leaves this act out."
            ),
        )
        parser.add_argument(
            "--database",
            metavar="URL",
            help=(
                "Import into this database (default: a temporary SQLite file): "
                f"{services.DATABASE_FORMS}. The database must exist. The demo drops "
                "and creates tables named sandbox_gazetteer_*, sandbox_plain_* and "
                "sandbox_bulk_*, touches no other, and leaves them there."
            ),
        )
        parser.add_argument(
            "--cache",
            default="locmemcache://",
            metavar="URL",
            help=(
                f"Cache in this (default: %(default)s): {services.CACHE_FORMS}. The "
                "demo's keys have a prefix of their own and expire after an hour. It "
                "clears nothing."
            ),
        )
        parser.add_argument(
            "--bulk",
            action=BooleanOptionalAction,
            default=True,
            help=(
                "Import in batches as well, by bulk_get_or_create() and "
                "bulk_update_or_create() (the default)."
            ),
        )

    def handle(
        self, *, cities, lookups, database, cache, bulk, verbosity, no_color, **options
    ):
        number = city_number(cities)
        if lookups < 0:
            raise CommandError(f"--lookups {lookups}: enter 0 or more.")
        self.stdout.ending = ""  # rich ends its lines itself
        console = Console(file=self.stdout, no_color=no_color, highlight=False)
        services.use_cache(cache)
        look_for_each_call()
        try:
            with services.chosen_database(database):
                show = Show(console, quiet=not verbosity)
                show.demo(number, lookups, contenders(in_bulk=bulk))
        except DatabaseError as error:
            raise CommandError(
                f"The database gave up: {services.one_line(error)}"
            ) from error
        except Failed as error:
            raise CommandError(f"The lookups failed. {error}") from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None


class Show:
    """The demo on a console."""

    def __init__(self, console, *, quiet):
        self.console, self.quiet = console, quiet

    def say(self, text="", **options):
        self.console.print(text, soft_wrap=True, markup=False, **options)

    def demo(self, number, lookups, names):
        self.say(
            f"Django {get_version()}, getorcreateplus {__version__}, "
            f"{connection.display_name}, {type(caches['default']).__name__}: "
            f"importing {number:,} cities."
        )
        contest = Contest(number, names)
        contest.create_tables()
        for act in contest.imports:
            self.show_import(act)
        act = None
        if lookups:
            act = self.show_lookups(Lookups(lookups, contest.cities))
        costs = self.show_costs(Costs(contest.cities))
        self.show_verdict(Verdict(contest, act, costs))
        self.say_what_is_next()

    def show_import(self, act):
        self.title(act.title)
        total = act.total * len(act.tallies)
        with progress(self.console, total, "rows", quiet=self.quiet) as advance:
            for _, imported in act.run():
                advance(imported)
        self.console.print(table(act.measures()))
        sentence, differences = act.check()
        if any(differences):
            raise CommandError("The imports differ.\n" + "\n".join(lines(differences)))
        self.say(sentence)

    def show_lookups(self, act):
        """Return the act, or None if it is left out here."""
        self.title(act.title)
        if act.is_skipped:
            self.say(f"Left out. {act.note}")
            return None
        total = act.total * len(act.tallies)
        with progress(self.console, total, "lookups", quiet=self.quiet) as advance:
            for _, number in act.run():
                advance(number)
        self.console.print(table(act.measures()))
        if act.wrong:
            raise CommandError(
                f"{act.wrong:,} rows were wrong. That must not happen: please report "
                "it."
            )
        self.say("No row was older than the last commit.")
        if act.note:
            self.say(act.note)
        return act

    def show_costs(self, costs):
        self.title(costs.title)
        for _ in costs.run():
            pass
        self.console.print(table(costs.measures()))
        return costs

    def show_verdict(self, verdict):
        self.title("The verdict")
        self.say(verdict.lead)
        result = Table("times as fast as plain Django")
        for name in verdict.columns:
            result.add_column(name, justify="right")
        for title, ratios in verdict.ratios:
            result.add_row(
                title,
                *(
                    in_words(ratio) + (", slower" if is_slower(ratio) else "")
                    for ratio in ratios
                ),
            )
        self.console.print(result)
        for sentence in verdict.sentences:
            self.say(f"- {sentence}")

    def title(self, text):
        self.say()
        self.say(text, style="bold")

    def say_what_is_next(self):
        command = f"{installing.python()} sandbox/manage.py"
        self.say()
        self.say("What next?", style="bold")
        for what, how in [
            ("In a browser", f"{command} runserver"),
            (
                "On your servers",
                f"{command} demo --database postgresql://user@127.0.0.1:5432/name "
                "--cache redis://127.0.0.1:6379/0",
            ),
            ("In your project", "docs/tutorial.rst"),
            ("All numbers", "docs/benchmarks.rst"),
        ]:
            self.say(f"- {what}: {how}")


def city_number(value):
    try:
        number = int(value)
    except ValueError:
        number = 0
    if not 1 <= number <= geonames.LARGEST:
        raise CommandError(
            f"--cities: enter a whole number of cities from 1 to {geonames.LARGEST:,}, "
            f"not {value!r}."
        )
    return number


@contextmanager
def progress(console, total, unit, *, quiet):
    """
    Give a function that moves a progress bar by so many rows; where there is
    no terminal, it prints a line at every tenth of the way.
    """
    if console.is_terminal and not quiet:
        with Progress(
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + unit),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as bar:
            task = bar.add_task(unit, total=total)
            yield lambda number: bar.advance(task, number)
    else:
        done = 0

        def advance(number):
            nonlocal done
            tenths, done = done * 10 // total, done + number
            if not quiet and done * 10 // total > tenths:
                console.print(f"{done:,} of {total:,} {unit}")

        yield advance


def table(measures):
    result = Table("", collapse_padding=True)  # 80 columns
    _, _, numbers = measures[0]
    for name in numbers:
        result.add_column(name, justify="right")
        if name != PLAIN:
            result.add_column("ratio", justify="right")
    for title, spec, numbers in measures:
        cells = []
        for name, number in numbers.items():
            cells.append("" if number is None else format(number, spec))
            if name != PLAIN:
                of = numbers[PLAIN]
                cells.append(f"{number / of:.2f}" if of and number is not None else "")
        result.add_row(title, *cells)
    return result
