"""
The acts of the demo that import: each contender imports the same feed three
times. `demo` prints what that takes, and the page draws it. The lookups of
several processes are in crowd.py.
"""

from functools import partial

import bulk.importer
import plain.models
from django.db import connection
from django.utils import timezone
from model_utils.models import TimeStampedModel

import gazetteer.models

from . import geonames, services
from .comparison import Comparison
from .contenders import BULK, LABELS, PLAIN, PLUS
from .importer import AGAIN, BATCH, FIRST, batches, import_batch
from .measure import Tally, as_if_alone

IMPORTS = {
    PLAIN: partial(import_batch, plain.models),
    PLUS: partial(import_batch, gazetteer.models),
    BULK: bulk.importer.import_batch,
}


class Contest:
    """
    Three imports of the `number` most populous cities by each of `names`, the
    first of which is plain Django, in transactions of `size` rows.
    """

    def __init__(self, number, names, size=BATCH):
        self.names = names
        world = geonames.read(number)
        changed = geonames.changed(world)
        self.cities = [city.geonameid for city in world.cities]
        self.before, self.after = populations(world), populations(changed)
        self.tables = {name: services.tables(LABELS[name]) for name in names}
        self.imports = [
            FirstImport(self, batches(world, FIRST, size)),
            SameFeed(self, batches(world, FIRST, size)),
            ChangedFeed(self, batches(changed, AGAIN, size)),
        ]

    def create_tables(self):
        for models in self.tables.values():
            services.create_tables(connection, models)

    def drop_tables(self):
        for models in self.tables.values():
            services.drop_tables(connection, models)

    def compare(self):
        """Return ({model: rows}, [[sentence for each row that differs]])."""
        twins, *others = self.tables.values()
        _, *names = self.tables
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
            for name, comparisons in zip(names, compared, strict=True)
            for comparison in comparisons
        ]
        return rows, differences


def populations(world):
    return {city.geonameid: city.population for city in world.cities}


def differing(ours, theirs):
    """Return for how many cities the populations are not the same."""
    return sum(ours.get(number) != theirs[number] for number in theirs)


class Import:
    """One import of the feed by each contender, and what it takes them."""

    key = title = rate_title = None

    def __init__(self, contest, work):
        self.contest = contest
        self.tallies = {name: Tally() for name in contest.names}
        self.batches = list(work)
        # Rows of the feed, for each contender.
        self.total = sum(len(rows) for function, rows in self.batches)

    def run(self):
        """
        Import, and yield (name, rows imported) as it goes. The contenders take
        turns: each imports a transaction, and then each the next one, in the
        reverse order.
        """
        order = list(self.tallies)
        for function, rows in self.batches:
            for name in order:
                tally = self.tallies[name]
                with tally.running(), as_if_alone(name):
                    for imported, created in IMPORTS[name](function, rows):
                        tally.imported += imported
                        tally.created += created
                        yield name, imported
            order.reverse()

    def check(self):
        """
        Compare the tables. Return (sentence for tables that are equal,
        [[sentence for each row that differs]]).
        """
        raise NotImplementedError

    def calls(self, name, tally):
        """
        Return the number of get_or_create() and update_or_create() calls. None
        where it is not known: of a batch, and before both contenders have
        imported the same rows.
        """
        twin = self.tallies[PLAIN]
        if name == BULK or tally.imported != twin.imported:
            return None
        return twin.selects  # plain Django sends one for each call

    def answered(self, name, tally):
        """Return how many calls sent no SELECT, None as in calls()."""
        calls = self.calls(name, tally)
        return None if calls is None else calls - tally.selects

    def rate(self, name, tally):
        """Return rows of the feed per second."""
        return tally.import_rate

    def ratio(self, name):
        """Return how many times as fast as plain Django it is."""
        mine, plains = (self.rate(key, self.tallies[key]) for key in (name, PLAIN))
        return mine / plains if plains else 0.0

    def counted(self):
        """Return [(title, format, method)] of what this import shows."""
        return [
            ("calls", ",", self.calls),
            ("answered by the cache", ",", self.answered),
            ("rows read", ",", lambda name, tally: tally.imported),
        ]

    def measures(self):
        """Return [(title, format, {name: number, or None})]."""
        return [
            (
                title,
                spec,
                {name: of(name, tally) for name, tally in self.tallies.items()},
            )
            for title, spec, of in [
                *self.counted(),
                ("seconds", ".2f", lambda name, tally: tally.seconds),
                (self.rate_title, ",.0f", self.rate),
                ("queries", ",", lambda name, tally: tally.queries),
                ("savepoint statements", ",", lambda name, tally: tally.savepoints),
            ]
        ]


class FirstImport(Import):
    key = "first"
    title = "Act 1: the first import"
    rate_title = "rows/s"

    def counted(self):
        return [
            ("get_or_create() calls", ",", self.calls),
            ("answered by the cache", ",", self.answered),
            ("rows written", ",", lambda name, tally: tally.created),
        ]

    def rate(self, name, tally):
        """Return rows written per second."""
        return tally.rate

    def check(self):
        rows, differences = self.contest.compare()
        sentence = (
            f"{every(self.contest)} imports are equal, row by row: "
            f"{rows['Continent']:,} continents, "
            f"{rows['Country']:,} countries, {rows['TimeZone']:,} time zones, "
            f"{rows['Region']:,} regions, {rows['City']:,} cities, "
            f"{rows['AlternateName']:,} alternate names."
        )
        return sentence, differences


class SameFeed(Import):
    key = "same"
    title = "Act 2: the same feed again, every row is known"
    rate_title = "rows read/s"

    def check(self):
        _, differences = self.contest.compare()
        differences += [
            [f"{name} wrote {tally.created:,} rows again"]
            for name, tally in self.tallies.items()
            if tally.created
        ]
        sentence = "No contender wrote a row, and the tables are still equal."
        return sentence, differences


class ChangedFeed(Import):
    key = "changed"
    title = "Act 2, once more: a tenth of the cities has changed"
    rate_title = "rows read/s"

    def run(self):
        began = timezone.now()
        yield from super().run()
        for name, models in self.contest.tables.items():
            self.tallies[name].updated = sum(
                model._base_manager.filter(modified__gte=began).count()
                for model in models
                if issubclass(model, TimeStampedModel)
            )

    def counted(self):
        return [
            *super().counted(),
            ("rows updated", ",", lambda name, tally: tally.updated),
        ]

    def check(self):
        contest = self.contest
        _, differences = contest.compare()
        cities = plain.models.City.objects
        now = dict(cities.values_list("geonameid", "population"))
        if wrong := differing(now, contest.after):
            differences.append(
                [f"City: {wrong:,} without the population that was imported last"]
            )
        sentence = (
            f"{every(contest)} imports are equal again, row by row: "
            f"{differing(now, contest.before):,} of {len(contest.after):,} cities have "
            "changed."
        )
        return sentence, differences


def every(contest):
    return "Both" if len(contest.names) == 2 else "All"


DIFFERENCES = 10  # shown of each model


def lines(differences):
    for sentences in differences:
        yield from sentences[:DIFFERENCES]
        if len(sentences) > DIFFERENCES:
            yield f"… and {len(sentences) - DIFFERENCES:,} more like it"
