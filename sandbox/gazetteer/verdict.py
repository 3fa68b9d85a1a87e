"""What the measures say, in words: what helps and what costs."""

from .contenders import BULK, PLAIN, PLUS
from .costs import HIT, MISS, SAVE


class Verdict:
    """The verdict of imports that are equal, of lookups and single calls."""

    def __init__(self, contest, lookups, costs):
        self.names = [name for name in (BULK, PLUS) if name in contest.names]
        self.imports, self.lookups, self.costs = contest.imports, lookups, costs

    @property
    def lead(self):
        """Return the sentence that stands first."""
        first, *_ = self.imports
        ratios = [f"{WAYS[name]} {in_words(first.ratio(name))}" for name in self.names]
        ratios[0] += f" as many rows per second as {PLAIN}"
        return f"The first import: {', '.join(ratios)}."

    @property
    def columns(self):
        return [WAYS[name] for name in self.names]

    @property
    def ratios(self):
        """
        Return [(title, [times as fast as plain Django, or None])], a number
        for each of `columns`.
        """
        rows = [
            (TITLES[act.key], {name: act.ratio(name) for name in self.names})
            for act in self.imports
        ]
        if act := self.lookups:
            without = "" if act.uses_cache else ", no cache"
            title = f"{act.total:,} lookups{without}, four processes"
            rows.append((title, {PLUS: act.ratio(PLUS)}))
        rows += [
            (title, {PLUS: 1 / self.costs.ratio(title)}) for title in (HIT, MISS, SAVE)
        ]
        return [
            (title, [ratios.get(name) for name in self.names]) for title, ratios in rows
        ]

    @property
    def sentences(self):
        return [
            *self.of_ways(),
            "After each import the tables were equal, row by row.",
            *self.of_hits(),
            *self.of_lookups(),
            *self.of_costs(),
        ]

    def of_ways(self):
        yield (
            "Row by row, the code is plain Django's: only the manager of the models "
            "differs."
        )
        if BULK in self.names:
            yield (
                "Batches need other code: it collects the rows of a transaction and "
                "calls bulk_get_or_create() or bulk_update_or_create()."
            )

    def of_hits(self):
        first, same, _ = self.imports
        mine, plains = first.tallies[PLUS], first.tallies[PLAIN]
        yield (
            f"First import: {mine.savepoints:,} savepoint statements instead of "
            f"{plains.savepoints:,}. Only {answered(first)}, because a transaction "
            "that has inserted a row has no hits."
        )
        yield f"The same feed again: {answered(same)}."

    def of_lookups(self):
        act = self.lookups
        if not act:
            return
        tally = act.tallies[PLUS]
        hits = f"{tally.hits:.1%} of them were hits; " if act.uses_cache else ""
        yield (
            f"{tally.lookups:,} lookups by four processes during {tally.writes:,} "
            f"writes: {hits}{tally.wrong:,} rows were older than the last commit."
        )

    def of_costs(self):
        costs = self.costs
        hit, miss, save = (costs.ratio(title) for title in (HIT, MISS, SAVE))
        sentence = (
            f"One lookup takes {hit:.2f} of plain Django's time with a hit and "
            f"{miss:.2f} with a miss; a save() takes {save:.2f}."
        )
        share = costs.break_even()
        if share is None:
            yield (
                f"{sentence} Here the cache does not pay, so a process of your project "
                "would look into it for a sample of its lookups only."
            )
        elif share:
            yield f"{sentence} So here the cache pays above {share:.0%} hits."
        else:
            yield f"{sentence} So here the cache always pays for lookups."
        if costs.hits < costs.rounds:
            yield (
                f"Only {costs.hits} of {costs.rounds} lookups of a row that had just "
                "been looked up were hits: this cache does not keep its entries."
            )


WAYS = {BULK: "in batches", PLUS: "row by row"}
TITLES = {
    "first": "first import",
    "same": "the same feed again",
    "changed": "a tenth of it changed",
}


def answered(act):
    calls = act.calls(PLUS, act.tallies[PLUS])
    hits = act.answered(PLUS, act.tallies[PLUS])
    return f"{hits:,} of {calls:,} calls were answered by the cache"


def in_words(ratio):
    """Return how fast that is, as text."""
    if ratio is None:
        return ""
    return f"{ratio:.1f} x" if ratio >= 10 else f"{ratio:.2f} x"


def is_slower(ratio):
    """Return True if it shows as less than 1."""
    return ratio is not None and round(ratio, 2) < 1
