"""
The imports of the same rows by each contender, and what they took: `demo`
prints it, the page draws it.
"""

from functools import partial

import bulk.importer
import plain.models
from django.db import connection

import gazetteer.models

from . import geonames, services
from .comparison import Comparison
from .importer import BATCH, batches, import_batch
from .measure import Tally

PLAIN = "plain Django"
PLUS = "getorcreateplus"
BULK = "in bulk"

LABELS = {PLAIN: "sandbox_plain", PLUS: "sandbox_gazetteer", BULK: "sandbox_bulk"}
IMPORTS = {
    PLAIN: partial(import_batch, plain.models),
    PLUS: partial(import_batch, gazetteer.models),
    BULK: bulk.importer.import_batch,
}


def contenders(*, in_bulk):
    return [PLAIN, PLUS, BULK] if in_bulk else [PLAIN, PLUS]


class Contest:
    """
    The import of the `number` most populous cities by each of `names`, the
    first of which is plain Django, in transactions of `size` rows.
    """

    def __init__(self, number, names, size=BATCH):
        self.tallies = {name: Tally() for name in names}
        self.batches = list(batches(geonames.read(number), size))
        # Of the source, for each contender.
        self.total = sum(len(rows) for function, rows in self.batches)
        self.tables = {name: services.tables(LABELS[name]) for name in names}

    def create_tables(self):
        for models in self.tables.values():
            services.create_tables(connection, models)

    def drop_tables(self):
        for models in self.tables.values():
            services.drop_tables(connection, models)

    def run(self):
        """
        Import, and yield (name, rows imported) as it goes. Each transaction is
        imported by one and then by the others, taking turns to be first.
        """
        order = list(self.tallies)
        for function, rows in self.batches:
            for name in order:
                tally = self.tallies[name]
                with tally.running():
                    for imported, created in IMPORTS[name](function, rows):
                        tally.imported += imported
                        tally.created += created
                        yield name, imported
            order.reverse()

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

    def calls(self, name):
        """
        Return how many calls of get_or_create() there were. None when that
        can't be told: of a batch, and before both have imported the same rows.
        """
        tally, twin = self.tallies[name], self.tallies[PLAIN]
        if name == BULK or tally.imported != twin.imported:
            return None
        return twin.selects  # plain Django sends one for each call

    def answered(self, name):
        """Return how many calls sent no SELECT, None as in calls()."""
        calls = self.calls(name)
        return None if calls is None else calls - self.tallies[name].selects

    def measures(self):
        """Return [(title, format, {name: number, or None})]."""
        return [
            (
                title,
                spec,
                {name: of(name, tally) for name, tally in self.tallies.items()},
            )
            for title, spec, of in [
                ("get_or_create() calls", ",", lambda name, tally: self.calls(name)),
                ("answered by the cache", ",", lambda name, tally: self.answered(name)),
                ("rows written", ",", lambda name, tally: tally.created),
                ("seconds", ".2f", lambda name, tally: tally.seconds),
                ("rows/s", ",.0f", lambda name, tally: tally.rate),
                ("queries", ",", lambda name, tally: tally.queries),
                ("savepoint statements", ",", lambda name, tally: tally.savepoints),
            ]
        ]


def equality(rows, *, in_bulk):
    """Return the sentence for tables that don't differ."""
    return (
        f"{'All' if in_bulk else 'Both'} imports are equal, row by row: "
        f"{rows['Continent']:,} continents, "
        f"{rows['Country']:,} countries, {rows['TimeZone']:,} time zones, "
        f"{rows['Region']:,} regions, {rows['City']:,} cities, "
        f"{rows['AlternateName']:,} alternate names."
    )


DIFFERENCES = 10  # told per model


def lines(differences):
    for sentences in differences:
        yield from sentences[:DIFFERENCES]
        if len(sentences) > DIFFERENCES:
            yield f"… and {len(sentences) - DIFFERENCES:,} more like it"


def verdict(measures):
    """Return sentences about what the measures of equal imports say."""
    numbers = {title: values for title, _, values in measures}
    rates, savepoints = numbers["rows/s"], numbers["savepoint statements"]
    sentences = []
    for name, rate in rates.items():
        if name != PLAIN:
            sentences.append(
                f"{name}: {rate / rates[PLAIN]:.2f} x as many rows per second as "
                f"{PLAIN}."
            )
    sentences += [
        f"{numbers['answered by the cache'][PLUS]:,} of "
        f"{numbers['get_or_create() calls'][PLUS]:,} calls were answered by the cache, "
        "without a query.",
        f"{savepoints[PLUS]:,} savepoint statements instead of {savepoints[PLAIN]:,}.",
    ]
    return sentences
