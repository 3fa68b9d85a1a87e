from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

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
                "touches no other, and leaves them there."
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

    def handle(self, *, cities, database, cache, verbosity, no_color, **options):
        number = city_number(cities)
        self.stdout.ending = ""  # rich ends its lines itself
        console = Console(file=self.stdout, no_color=no_color, highlight=False)
        services.use_cache(cache)
        try:
            with chosen_database(database):
                self.demo(console, number, quiet=not verbosity)
        except DatabaseError as error:
            raise CommandError(
                f"The database gave up: {services.one_line(error)}"
            ) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None

    def demo(self, console, number, *, quiet):
        console.print(
            f"Django {get_version()}, getorcreateplus {__version__}, "
            f"{connection.display_name}, {type(caches['default']).__name__}: "
            f"importing {number:,} cities twice.",
            soft_wrap=True,
        )
        world = geonames.read(number)
        models = services.tables("sandbox_gazetteer")
        twins = services.tables("sandbox_plain")
        services.create_tables(connection, models)
        services.create_tables(connection, twins)
        plain_tally, plus_tally = self.import_twice(console, world, quiet=quiet)

        comparisons = [
            Comparison(twin, model) for twin, model in zip(twins, models, strict=True)
        ]
        rows = {
            comparison.model._meta.object_name: comparison.count
            for comparison in comparisons
        }
        differences = [
            comparison.differences(PLAIN, PLUS) for comparison in comparisons
        ]
        console.print(table(sum(rows.values()), plain_tally, plus_tally))
        if any(differences):
            raise CommandError("The imports differ.\n" + "\n".join(lines(differences)))
        console.print(
            f"Both imports are equal, row by row: {rows['Continent']:,} continents, "
            f"{rows['Country']:,} countries, {rows['TimeZone']:,} time zones, "
            f"{rows['Region']:,} regions, {rows['City']:,} cities, "
            f"{rows['AlternateName']:,} alternate names.",
            soft_wrap=True,
        )

    def import_twice(self, console, world, *, quiet):
        tallies = Tally(), Tally()
        sides = list(zip((plain.models, gazetteer.models), tallies, strict=True))
        total = 2 * sum(len(rows) for function, rows in batches(world))
        with progress(console, total, quiet=quiet) as passed:
            for function, rows in batches(world):
                for models, tally in sides:
                    with tally.running():
                        import_batch(models, function, passed(rows))
                sides.reverse()
        return tallies


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


def table(rows, plain, plus):
    # Plain Django sends one SELECT per get_or_create(). A call that sent none
    # had its row from the cache.
    calls = plain.selects
    result = Table("")
    for title in (PLAIN, PLUS, "ratio"):
        result.add_column(title, justify="right")
    for title, spec, one, other in [
        ("get_or_create() calls", ",", calls, calls),
        ("answered by the cache", ",", calls - plain.selects, calls - plus.selects),
        ("rows written", ",", rows, rows),
        ("seconds", ".2f", plain.seconds, plus.seconds),
        ("rows/s", ",.0f", rows / plain.seconds, rows / plus.seconds),
        ("queries", ",", plain.queries, plus.queries),
        ("savepoint statements", ",", plain.savepoints, plus.savepoints),
    ]:
        ratio = f"{other / one:.2f}" if one else ""
        result.add_row(title, format(one, spec), format(other, spec), ratio)
    return result


def lines(differences):
    for sentences in differences:
        yield from sentences[:DIFFERENCES]
        if len(sentences) > DIFFERENCES:
            yield f"… and {len(sentences) - DIFFERENCES:,} more like it"
