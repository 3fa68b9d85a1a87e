"""
One row by its name: what get_or_create() costs with plain Django and with
this package, and why. What isn't there is not created.
"""

import time
from statistics import median

import plain.models
from django.db import connection

import gazetteer.models
from getorcreateplus.explaining import explain
from getorcreateplus.test import CaptureCacheCommands

SUGGESTIONS = 5
CHOICES = 20
REPEATED = 25  # calls, for the time of one


class Lookup:
    """`kind` is country, region or city; `text` what to look for."""

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
        """Return some of what could have been meant, by name."""
        like = {f"{self.field}__istartswith": str(self.value)[:3]}
        if self.field == "geonameid" or not self.value:
            return []
        return [told(obj) for obj in self.manager.filter(**like)[:SUGGESTIONS]]

    def explain(self):
        return explain(self.manager, **{self.field: self.value})

    def call(self):
        """Return how many seconds it took."""
        start = time.perf_counter()
        self.manager.get_or_create(**{self.field: self.value})
        return time.perf_counter() - start

    def measure(self, *, is_same_again):
        """
        Call get_or_create(), and return what it took. A miss is one only
        once.
        """
        steps = []

        def note(execute, sql, params, many, context):
            steps.append(("query", sql % tuple(map(repr, params or ()))))
            return execute(sql, params, many, context)

        with connection.execute_wrapper(note), NotedCommands(steps):
            seconds = self.call()
        queries = sum(kind == "query" for kind, _ in steps)
        if is_same_again or not queries:
            # The median, for one call is at the mercy of the machine.
            seconds = median(self.call() for _ in range(REPEATED))
        return {
            "call": str(self),
            "time": f"{seconds * 1e6:,.0f} µs",
            "steps": steps,
            "queries": queries,
            "commands": sum(kind == "cache" for kind, _ in steps),
        }


class NotedCommands(CaptureCacheCommands):
    """Note what the caches are given among the other steps of a call."""

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
    Return a dict: `found` is the number of rows. Of one there are its `row`,
    what it took (`plain`, `plus`) and `why`; of several, `choices` of (text
    to look up, what it is); of none, `similar` ones.
    """
    twin = Lookup(plain.models, kind, text)
    found = twin.rows().count()
    if found != 1:
        if not found:
            return {"found": 0, "similar": twin.similar()}
        return {"found": found, "choices": [told(obj) for obj in twin.rows()[:CHOICES]]}
    of_plain = twin.measure(is_same_again=True)
    lookup = Lookup(gazetteer.models, kind, text)
    explanation = lookup.explain()
    of_plus = lookup.measure(is_same_again=False)
    return {
        "found": 1,
        "row": described(twin.rows().get()),
        "plain": of_plain,
        "plus": of_plus,
        "hit": not of_plus["queries"],
        "why": why(explanation),
    }


def told(obj):
    """Return (text that finds this row and no other, what to call it)."""
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
    """Return [(name, sentence)] of what the cache knew before the call."""
    said = [
        ("outcome", explanation.outcome),
        ("why", explanation.why),
        ("next", explanation.next),
        ("remedy", explanation.remedy),
    ]
    return [(name, sentence) for name, sentence in said if sentence]
