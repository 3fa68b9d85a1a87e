from contextlib import contextmanager

from django import get_version
from django.core.cache import caches
from django.core.management import BaseCommand, CommandError
from django.db import DatabaseError, connection
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gazetteer import geonames, services
from gazetteer.contest import PLAIN, Contest, contenders, equality, lines
from getorcreateplus import __version__

DEFAULT_CITIES = 5_000


class Command(BaseCommand):
    help = (
        "Import the world's cities twice through get_or_create(), with plain Django "
        "and with getorcreateplus, check that the tables are equal row by row, and "
        "print both side by side. Each transaction of 1,000 rows is imported by one "
        "and then by the other, taking turns to be first, so that whatever else the "
        "machine does slows down both."
    )

    def add_arguments(self, parser):
        parser.add_argument(
            "--cities",
            default=DEFAULT_CITIES,
            metavar="N",
            help=(
                "Import the N most populous cities, with their countries, regions, "
                "time zones and alternate names: 1 to "
                f"{geonames.LARGEST} (default: {DEFAULT_CITIES}, under a minute on "
                f"two cores; {geonames.STANDARD} are all above 15,000 inhabitants)."
            ),
        )
        parser.add_argument(
            "--database",
            metavar="URL",
            help=(
                "Import into this database (default: a temporary SQLite file): "
                f"{services.DATABASE_FORMS}. The database must exist. The demo drops "
                "and creates tables named sandbox_gazetteer_* and sandbox_plain_*, "
                "with --bulk sandbox_bulk_*, touches no other, and leaves them there."
            ),
        )
        parser.add_argument(
            "--cache",
            default="locmemcache://",
            metavar="URL",
            help=(
                f"Cache in this (default: %(default)s): {services.CACHE_FORMS}. The "
                "demo's keys have a prefix of their own and expire after an hour; "
                "nothing is cleared."
            ),
        )

        parser.add_argument(
            "--bulk",
            action="store_true",
            help=(
                "Import a third time, each transaction's rows by a few calls of "
                "bulk_get_or_create(), and show it in a column of its own."
            ),
        )

    def handle(self, *, cities, database, cache, verbosity, no_color, **options):
        number = city_number(cities)
        self.stdout.ending = ""  # rich ends its lines itself
        console = Console(file=self.stdout, no_color=no_color, highlight=False)
        services.use_cache(cache)
        try:
            with services.chosen_database(database):
                self.demo(console, number, quiet=not verbosity, in_bulk=options["bulk"])
        except DatabaseError as error:
            raise CommandError(
                f"The database gave up: {services.one_line(error)}"
            ) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None

    def demo(self, console, number, *, quiet, in_bulk):
        times = "three times" if in_bulk else "twice"
        console.print(
            f"Django {get_version()}, getorcreateplus {__version__}, "
            f"{connection.display_name}, {type(caches['default']).__name__}: "
            f"importing {number:,} cities {times}.",
            soft_wrap=True,
        )
        contest = Contest(number, contenders(in_bulk=in_bulk))
        contest.create_tables()
        total = contest.total * len(contest.tallies)
        with progress(console, total, quiet=quiet) as advance:
            for _, imported in contest.run():
                advance(imported)
        rows, differences = contest.compare()
        console.print(table(contest.measures()))
        if any(differences):
            raise CommandError("The imports differ.\n" + "\n".join(lines(differences)))
        console.print(equality(rows, in_bulk=in_bulk), soft_wrap=True)


def city_number(value):
    try:
        number = int(value)
    except ValueError:
        number = 0
    if not 1 <= number <= geonames.LARGEST:
        raise CommandError(
            f"--cities {value!r} is not a number from 1 to {geonames.LARGEST}."
        )
    return number


@contextmanager
def progress(console, total, *, quiet):
    """
    Give a function that moves a progress bar by so many rows; where there is
    no terminal, it prints a line at every tenth of the way.
    """
    if console.is_terminal and not quiet:
        with Progress(
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as bar:
            task = bar.add_task("rows", total=total)
            yield lambda rows: bar.advance(task, rows)
    else:
        done = 0

        def advance(rows):
            nonlocal done
            tenths, done = done * 10 // total, done + rows
            if not quiet and done * 10 // total > tenths:
                console.print(f"{done:,} of {total:,} rows")

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
