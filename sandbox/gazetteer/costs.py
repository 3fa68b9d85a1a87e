"""What single calls take: what helps beside what costs."""

import math
import time
from statistics import median

import plain.models
from django.db import connection

import gazetteer.models
from getorcreateplus.coherence import asking

from .contenders import PLAIN, PLUS
from .measure import as_if_alone

ROUNDS = 100
HIT = "a hit: the row is in the cache"
MISS = "a miss: the row is not in it"
SAVE = "save() of a cached row"


def look_for_each_call():
    """
    Look into the cache for each call of this process. Otherwise a process of
    this package looks for a sample only, after 1,000 calls that have not saved
    time.
    """
    asking.PATIENCE = math.inf


class Costs:
    """
    The medians of `rounds` calls each, in microseconds: lookups and writes of
    the first of `cities`. The contenders take turns, call by call. As many of
    the lookups that were to be hits were hits as `hits` says.
    """

    key = "costs"
    names = (PLAIN, PLUS)

    def __init__(self, cities, rounds=ROUNDS):
        self.rounds = rounds
        self.title = (
            "What helps and what costs: microseconds of one call, median of "
            f"{rounds} calls"
        )
        self.cities = cities[:rounds]
        self.hits = 0
        self.medians = {title: {} for title in (HIT, MISS, SAVE)}

    def run(self):
        """Measure, and yield after each round."""
        times = {title: {PLAIN: [], PLUS: []} for title in self.medians}
        order = [(PLAIN, plain.models), (PLUS, gazetteer.models)]
        for number in range(self.rounds):
            city = self.cities[number % len(self.cities)]
            order.reverse()
            for name, models in order:
                with as_if_alone(name):
                    for title, seconds in self.round(name, models.City.objects, city):
                        times[title][name].append(seconds)
            yield number + 1
        for title, taken in times.items():
            self.medians[title] = {
                name: median(values) * 1e6 for name, values in taken.items()
            }

    def round(self, name, cities, number):
        def look_up():
            return cities.get_or_create(geonameid=number)

        obj, _ = look_up()  # now it is in the cache
        with counted_queries() as queries:
            yield HIT, seconds_of(look_up)
        self.hits += name == PLUS and not queries
        if name == PLUS:
            cities.invalidate(obj)
        yield MISS, seconds_of(look_up)
        yield SAVE, seconds_of(obj.save)

    def ratio(self, title):
        """Return the time of this package, in times of plain Django's."""
        of = self.medians[title]
        return of[PLUS] / of[PLAIN]

    def break_even(self):
        """
        Return the share of hits above which the cache pays, see
        docs/benchmarks.rst. None where it never does.
        """
        hit, miss = self.ratio(HIT), self.ratio(MISS)
        if hit >= 1:
            return None
        return max(0.0, (miss - 1) / (miss - hit)) if miss > 1 else 0.0

    def measures(self):
        """Return [(title, format, {name: number})], in microseconds."""
        return [(title, ",.0f", numbers) for title, numbers in self.medians.items()]


class counted_queries(list):  # noqa: N801 - it reads as a function
    """A context manager that gives a list with an item for each query."""

    def __enter__(self):
        self.wrapper = connection.execute_wrapper(self.note)
        self.wrapper.__enter__()
        return self

    def __exit__(self, *exc_info):
        self.wrapper.__exit__(*exc_info)

    def note(self, execute, sql, *args):
        self.append(sql)
        return execute(sql, *args)


def seconds_of(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
