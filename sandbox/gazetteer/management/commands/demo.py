from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import bulk.importer
import plain.models
from django import get_version
from django.core.cache import caches
from django.core.management import BaseCommand, CommandError
from django.db import DatabaseError, connection, connections
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import gazetteer.models
from gazetteer import geonames, services
from gazetteer.comparison import Comparison
from gazetteer.importer import batches, import_batch
from gazetteer.measure import Tally
from getorcreateplus import __version__

PLAIN = "plain Django"
PLUS = "getorcreateplus"
BULK = "in bulk"
DIFFERENCES = 10  # printed per model
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
            with chosen_database(database):
                self.demo(console, number, quiet=not verbosity, in_bulk=options["bulk"])
        except DatabaseError as error:
            raise CommandError(
                f"The database gave up: {services.one_line(error)}"
            ) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None

    def demo(self, console, number, *, quiet, in_bulk):
        names = [PLAIN, PLUS, *([BULK] if in_bulk else [])]
        times = "three times" if in_bulk else "twice"
        console.print(
            f"Django {get_version()}, getorcreateplus {__version__}, "
            f"{connection.display_name}, {type(caches['default']).__name__}: "
            f"importing {number:,} cities {times}.",
            soft_wrap=True,
        )
        world = geonames.read(number)
        twins, *others = [services.tables(LABELS[name]) for name in names]
        for models in (*others, twins):
            services.create_tables(connection, models)
        tallies = self.import_all(console, world, names, quiet=quiet)

        compared = [
            [Comparison(twin, model) for twin, model in zip(twins, models, strict=True)]
            for models in others
        ]
        rows = {
            comparison.model._meta.object_name: comparison.count
            for comparison in compared[0]
        }
        differences = [
            comparison.differences(PLAIN, name)
            for name, comparisons in zip(names[1:], compared, strict=True)
            for comparison in comparisons
        ]
        console.print(table(sum(rows.values()), tallies))
        if any(differences):
            raise CommandError("The imports differ.\n" + "\n".join(lines(differences)))
        console.print(
            f"{'All' if in_bulk else 'Both'} imports are equal, row by row: "
            f"{rows['Continent']:,} continents, "
            f"{rows['Country']:,} countries, {rows['TimeZone']:,} time zones, "
            f"{rows['Region']:,} regions, {rows['City']:,} cities, "
            f"{rows['AlternateName']:,} alternate names.",
            soft_wrap=True,
        )

    def import_all(self, console, world, names, *, quiet):
        """Return {name: tally}."""
        tallies = {name: Tally() for name in names}
        total = len(names) * sum(len(rows) for function, rows in batches(world))
        order = list(names)
        with progress(console, total, quiet=quiet) as passed:
            for function, rows in batches(world):
                for name in order:
                    with tallies[name].running():
                        IMPORTS[name](function, passed(rows))
                order.reverse()
        return tallies


LABELS = {PLAIN: "sandbox_plain", PLUS: "sandbox_gazetteer", BULK: "sandbox_bulk"}
IMPORTS = {
    PLAIN: partial(import_batch, plain.models),
    PLUS: partial(import_batch, gazetteer.models),
    BULK: bulk.importer.import_batch,
}


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
def chosen_database(url):
    with TemporaryDirectory() as directory:
        try:
            if url is not None:
                services.use_database(url)
            else:
                services.configure_database(
                    {
                        "ENGINE": "django.db.backends.sqlite3",
                        "NAME": Path(directory, "sandbox.sqlite3"),
                    }
                )
            yield
        finally:
            connections.close_all()


@contextmanager
def progress(console, total, *, quiet):
    """
    Give a function that hands rows on, one by one, and moves a progress bar;
    where there is no terminal, it prints a line at every tenth of the way.
    """
    if console.is_terminal and not quiet:
        with Progress(
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as bar:
            task = bar.add_task("rows", total=total)

            def passed(rows):
                for row in rows:
                    yield row
                    bar.advance(task)

            yield passed
    else:
        done = 0

        def passed(rows):
            nonlocal done
            for row in rows:
                yield row
                done += 1
                if not quiet and done * 10 // total > (done - 1) * 10 // total:
                    console.print(f"{done:,} of {total:,} rows")

        yield passed


CALLS, ANSWERED = "get_or_create() calls", "answered by the cache"


def table(rows, tallies):
    plain = tallies[PLAIN]
    # Plain Django sends one SELECT per get_or_create(). A call that sent none
    # had its row from the cache. Of a batch neither can be told.
    calls = plain.selects
    result = Table("", collapse_padding=True)  # 80 columns
    result.add_column(PLAIN, justify="right")
    for name in list(tallies)[1:]:
        result.add_column(name, justify="right")
        result.add_column("ratio", justify="right")
    for title, spec, of in [
        (CALLS, ",", lambda tally: calls),
        (ANSWERED, ",", lambda tally: calls - tally.selects),
        ("rows written", ",", lambda tally: rows),
        ("seconds", ".2f", lambda tally: tally.seconds),
        ("rows/s", ",.0f", lambda tally: rows / tally.seconds),
        ("queries", ",", lambda tally: tally.queries),
        ("savepoint statements", ",", lambda tally: tally.savepoints),
    ]:
        one = of(plain)
        cells = [format(one, spec)]
        for name, tally in list(tallies.items())[1:]:
            if name == BULK and title in (CALLS, ANSWERED):
                cells += ["", ""]
            else:
                ratio = f"{of(tally) / one:.2f}" if one else ""
                cells += [format(of(tally), spec), ratio]
        result.add_row(title, *cells)
    return result


def lines(differences):
    for sentences in differences:
        yield from sentences[:DIFFERENCES]
        if len(sentences) > DIFFERENCES:
            yield f"… and {len(sentences) - DIFFERENCES:,} more like it"
