"""
One row by its name: what get_or_create() costs with plain Django and with this
package, and why. A row that is not there is not created.
"""

import time
from statistics import median

import plain.models
from django.db import connection

import gazetteer.models
from getorcreateplus.explaining import explain
from getorcreateplus.test import CaptureCacheCommands

from .contenders import PLAIN, PLUS
from .measure import as_if_alone

SUGGESTIONS = 5
CHOICES = 20
CALLS = 100  # of each kind, whose median is shown


class Lookup:
    """`kind` is country, region or city; `text` is the name or the code."""

    def __init__(self, models, kind, text):
        self.kind = kind
        self.field, self.value = "name", text
        self.manager = getattr(models, kind.capitalize()).objects
        self.source = f"{kind.capitalize()}.objects"
        if kind == "country" and len(text) == 2:
            self.field, self.value = "code", text.upper()
        elif kind == "city" and text.isdecimal():
            self.field, self.value = "geonameid", int(text)
        elif kind == "region":
            code, dash, rest = text.partition("-")
            country = models.Country._base_manager.filter(code=code.upper()).first()
            self.field = "code"
            if dash and country:
                self.value = rest
                self.manager, self.source = country.regions, f"{code.lower()}.regions"

    def __str__(self):
        return f"{self.source}.get_or_create({self.field}={self.value!r})"

    def rows(self):
        return self.manager.filter(**{self.field: self.value})

    def similar(self):
        """Return some rows whose names begin as this one does."""
        like = {f"{self.field}__istartswith": str(self.value)[:3]}
        if self.field == "geonameid" or not self.value:
            return []
        return [choice(obj) for obj in self.manager.filter(**like)[:SUGGESTIONS]]

    def explain(self):
        return explain(self.manager, **{self.field: self.value})

    def call(self):
        """Return (row, seconds that the call took)."""
        start = time.perf_counter()
        obj, _ = self.manager.get_or_create(**{self.field: self.value})
        return obj, time.perf_counter() - start

    def steps(self):
        """Call get_or_create(), and return what it sent, in order."""
        steps = []

        def note(execute, sql, params, many, context):
            steps.append(("query", sql % tuple(map(repr, params or ()))))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(note), NotedCommands(steps):
            self.call()
        return steps

    def invalidate(self, obj):
        """Drop the row from the cache, which plain Django does not have."""
        if hasattr(self.manager, "invalidate"):
            self.manager.invalidate(obj)


def measure(lookups, *, is_cold):
    """
    Return {name: what a call takes}: the steps of one, the median time of
    CALLS others. The lookups take turns. Before a cold call, which is untimed,
    the row is invalidated. The last call leaves the row in the cache.
    """
    taken = {name: [] for name in lookups}
    steps = {}
    objs = {name: lookup.call()[0] for name, lookup in lookups.items()}
    for name, lookup in lookups.items():
        if is_cold:
            lookup.invalidate(objs[name])
        steps[name] = lookup.steps()
    for _ in range(CALLS):
        for name, lookup in lookups.items():
            if is_cold:
                lookup.invalidate(objs[name])
            with as_if_alone(PLAIN if name == "plain" else PLUS):
                taken[name].append(lookup.call()[1])
    return {
        name: {
            "seconds": median(taken[name]),
            "time": f"{median(taken[name]) * 1e6:,.0f} µs",
            "steps": steps[name],
            "queries": sum(kind == "query" for kind, _ in steps[name]),
            "commands": sum(kind == "cache" for kind, _ in steps[name]),
        }
        for name in lookups
    }


class NotedCommands(CaptureCacheCommands):
    """Note the commands of the caches among the other steps of a call."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def record_command(self, command):
        number = len(command.keys)
        entries = "1 entry" if number == 1 else f"{number} entries"
        self.steps.append(
            ("cache", f"{command.method}: {entries} in {command.alias!r}")
        )


def look_up(kind, text):
    """
    Return a dict: `found` is the number of rows. If it is 1, there are also
    the `row`, the `call`, what it takes (`warm` and `cold`, each {"plain": …,
    "plus": …}) and `why`. If it is more, there are `choices` of (text to look
    up, description). If it is 0, there are `similar` ones.
    """
    twin = Lookup(plain.models, kind, text)
    found = twin.rows().count()
    if found != 1:
        if not found:
            return {"found": 0, "similar": twin.similar()}
        choices = [choice(obj) for obj in twin.rows()[:CHOICES]]
        return {"found": found, "choices": choices}
    lookup = Lookup(gazetteer.models, kind, text)
    explanation = lookup.explain()  # before the calls change it
    lookups = {"plain": twin, "plus": lookup}
    warm = measure(lookups, is_cold=False)
    cold = measure(lookups, is_cold=True)
    return {
        "found": 1,
        "row": described(twin.rows().get()),
        "call": str(lookup),
        "calls": CALLS,
        "warm": warm,
        "cold": cold,
        "verdict": verdict(warm, cold),
        "why": why(explanation),
    }


def verdict(warm, cold):
    of_warm, of_cold = (
        taken["plus"]["seconds"] / taken["plain"]["seconds"] for taken in (warm, cold)
    )
    return (
        f"Warm, getorcreateplus takes {of_warm:.2f} of plain Django's time. "
        f"Cold, it takes {of_cold:.2f} of it."
    )


def choice(obj):
    """Return (text that finds this row and no other, its description)."""
    kind = obj._meta.model_name
    if kind == "city":
        region = obj.region
        place = f"{region.country.code}-{region.code}, {region.country}"
        return str(obj.geonameid), f"{obj}, {place} ({obj.population:,} inhabitants)"
    if kind == "region":
        return f"{obj.country.code}-{obj.code}", f"{obj.code}, {obj.country}"
    return obj.code, f"{obj} ({obj.code})"


def described(obj):
    """Return [(name, value)] of a row."""
    kind = obj._meta.model_name
    if kind == "country":
        return [
            ("name", obj.name),
            ("code", obj.code),
            ("continent", str(obj.continent)),
            ("capital", obj.capital),
            ("area", f"{obj.area:,.0f} km²"),
            ("population", f"{obj.population:,}"),
        ]
    if kind == "region":
        return [
            ("code", obj.code),
            ("country", str(obj.country)),
            ("imported cities", f"{obj.cities.count():,}"),
        ]
    return [
        ("name", obj.name),
        ("region", f"{obj.region.country.code}-{obj.region.code}"),
        ("country", str(obj.region.country)),
        ("population", f"{obj.population:,}"),
        ("latitude, longitude", f"{obj.latitude:.4f}, {obj.longitude:.4f}"),
        ("time zone", str(obj.time_zone)),
        (
            "also called",
            ", ".join(map(str, obj.alternate_names.all())) or "nothing else",
        ),
        ("GeoNames number", str(obj.geonameid)),
    ]


def why(explanation):
    """Return [(name, sentence)]: what explain() said before the calls."""
    sentences = [
        ("outcome", explanation.outcome),
        ("why", explanation.why),
        ("next", explanation.next),
        ("remedy", explanation.remedy),
    ]
    return [(name, sentence) for name, sentence in sentences if sentence]
