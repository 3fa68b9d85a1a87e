"""The table, as reStructuredText, and the picture, as SVG."""

from html import escape
from itertools import groupby
from statistics import median, quantiles

from .cases import CONTENDERS, OPERATIONS, OURS, Case, case_beside

TITLES = [
    "",
    "median µs",
    "quartiles",
    "queries",
    "commands",
    "to plain Django",
    "to another",
]


class Results:
    """The measurements: microseconds by case and round, and the counts."""

    def __init__(self, cases):
        self.cases = cases
        self.counts = {}
        self.rounds = {case: [] for case in cases}

    def leave_out(self, case):
        self.cases.remove(case)

    def median(self, case):
        return median(self.rounds[case])

    def quartiles(self, case):
        return quartiles(self.rounds[case])

    def ratios(self, case, other):
        """Return the ratio in each round, or None if one was not measured."""
        if other not in self.cases:
            return None
        pairs = zip(self.rounds[case], self.rounds[other], strict=True)
        return [mine / its for mine, its in pairs]


def quartiles(values):
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def by_operation(cases):
    return groupby(cases, key=lambda case: case.operation)


def plain(case):
    return Case(case.operation, "plain")


# The table


def table(results):
    """Return the lines of a table, a section for each operation."""
    sections = [
        (OPERATIONS[name].title, [row(results, case) for case in cases])
        for name, cases in by_operation(results.cases)
    ]
    cells = [TITLES, *(row for _, rows in sections for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    yield from (rule, line(TITLES, widths), rule)
    for title, rows in sections:
        yield from (title, "-" * len(rule))
        yield from (line(row, widths) for row in rows)
    yield rule


def line(row, widths):
    first, *middle, last = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in middle)]
    return "  ".join([*cells, last[0]]).rstrip()


def row(results, case):
    first, third = results.quartiles(case)
    queries, commands = results.counts[case]
    beside = case_beside(case, results.cases)
    return [
        CONTENDERS[case.contender].label,
        duration(results.median(case)),
        f"{duration(first)}-{duration(third)}",
        count(queries),
        count(commands),
        ratio(results.ratios(case, plain(case))),
        f"{ratio(results.ratios(case, beside))} {name_of(beside, case)}"
        if beside
        else "",
    ]


def duration(microseconds):
    return f"{microseconds:,.{1 if microseconds < 100 else 0}f}"


def count(number):
    return f"{number:,.2f}".removesuffix(".00")


def ratio(ratios):
    if not ratios:
        return ""
    first, third = quartiles(ratios)
    return f"{median(ratios):.2f} ({first:.2f}-{third:.2f})"


def name_of(other, case):
    if other.contender == case.contender:
        return "in 1,000 rows"
    return CONTENDERS[other.contender].label


# The break-even


def break_evens(results):
    """Yield a line for each contender whose hits save a query."""
    for hit in results.cases:
        miss = Case("miss", hit.contender)
        needed = {miss, plain(hit), plain(miss)}
        if hit.operation != "hit" or not needed <= {*results.cases}:
            continue
        if results.counts[hit][0] >= results.counts[plain(hit)][0]:
            continue
        costs = [median(results.ratios(case, plain(case))) for case in (hit, miss)]
        share = break_even(*costs)
        verdict = "never pays"
        if share is not None:
            verdict = f"pays above {share * 100:.0f} % of hits"
        yield (
            f"{CONTENDERS[hit.contender].label}: hit {costs[0]:.2f}, miss "
            f"{costs[1]:.2f}; the cache {verdict}"
        )


def break_even(hit, miss):
    """
    Return the share of hits above which the cache pays, or None if it never
    does. The costs of a hit and a miss are multiples of the time that plain
    Django's get_or_create() takes to find the row.
    """
    if hit >= 1:
        return None
    if miss <= 1:
        return 0
    return (miss - 1) / (miss - hit)


# The picture

STYLE = """
text { font: 13px sans-serif; fill: #1f2328 }
.title { font-weight: bold }
.bar { fill: #9aa4ae }
.ours { fill: #2f8f4e }
line { stroke: #1f2328; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .bar { fill: #6b7683 }
  .ours { fill: #46b36b }
  line { stroke: #e6edf3 }
}
"""
LEFT, WIDTH, HEIGHT = 230, 850, 20
ONE, LONGEST = 220, 2  # the length of plain Django's bar; its largest multiple


def picture(results, caption):
    """
    Return an SVG: a bar for each case, relative to plain Django's, or to the
    longest if plain Django was not measured. Bars over twice that are cut.
    """
    parts = [
        text(HEIGHT, caption),
        text(2 * HEIGHT, "µs of a call, and its ratio to plain Django (the line)"),
    ]
    y = 2 * HEIGHT
    for name, group in by_operation(results.cases):
        cases = list(group)
        slowest = max(map(results.median, cases))
        y += 2 * HEIGHT
        parts.append(text(y, OPERATIONS[name].title, 'class="title"'))
        top = y + 6
        for case in cases:
            y += HEIGHT
            ratios = results.ratios(case, plain(case))
            times = median(ratios or [results.median(case) / slowest])
            parts += bar(y, case, duration(results.median(case)), times)
        x = LEFT + ONE
        parts.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{y + 5}"/>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {WIDTH} '
            f'{y + HEIGHT}" role="img">',
            f"<title>{escape(caption)}</title>",
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def bar(y, case, microseconds, times):
    contender = CONTENDERS[case.contender]
    is_ours = contender.process == OURS and not case.contender.startswith("floor")
    length = ONE * min(times, LONGEST)
    cut = "… " if times > LONGEST else ""
    return [
        text(y, contender.label),
        f'<rect x="{LEFT}" y="{y - 13}" width="{length:.1f}" height="{HEIGHT - 4}" '
        f'class="bar{" ours" if is_ours else ""}"/>',
        text(
            y,
            f"{cut}{microseconds} µs, {times:.2f}",
            f'x="{LEFT + max(length, ONE) + 8:.1f}"',
        ),
    ]


def text(y, value, attributes=""):
    return f'<text y="{y}" {attributes}>{escape(value)}</text>'
