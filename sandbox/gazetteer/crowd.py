"""
The last act of the demo: four processes look up rows while another one writes
them. This module imports no models at its top, because a new process imports
it before Django is set up.
"""

import signal
import time
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import get_context
from multiprocessing.connection import wait
from random import Random

from .contenders import PLAIN, PLUS

READERS = 4
TURN = 1_000  # lookups of all readers, before it is the other contender's turn
WARM_UP = 40  # lookups of each contender that are not counted
HOT = 100  # cities that are looked up and written
PAUSE = 0.01  # seconds between two writes
LATEST = 0.1  # seconds between two occasions to stop
PATIENCE = 1  # seconds until the processes are made to end
LOCK_TIMEOUT = 30  # seconds that a process waits for SQLite's lock


class Failed(Exception):
    """Why the lookups came to no end, as a sentence."""


class LookupTally:
    """What the lookups of one contender took, all processes together."""

    def __init__(self):
        self.lookups = self.queries = self.wrong = self.writes = 0
        self.seconds = 0.0  # by the clock, while all readers were at work

    @property
    def rate(self):
        return self.lookups / self.seconds if self.seconds else 0.0

    @property
    def hits(self):
        """The share of lookups that sent no query."""
        return 1 - self.queries / self.lookups if self.lookups else None


class Lookups:
    """
    `number` lookups by plain Django, and as many by this package, of the first
    of `cities`. A row is wrong if it is older than what had been committed
    when its lookup began, or another one.
    """

    key = "lookups"

    def __init__(self, number, cities):
        self.total = number  # of each contender
        self.title = (
            f"Act 3: {number:,} lookups by four processes while one process writes"
        )
        self.hot = cities[:HOT]
        self.tallies = {PLAIN: LookupTally(), PLUS: LookupTally()}
        self.note = ""
        self.is_skipped = False
        self.uses_cache = True
        self.consider()

    def consider(self):
        """Find out what several processes can share."""
        from django.core.cache import caches
        from django.db import connection

        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            self.is_skipped = True
            self.note = "It needs a database that several processes can open."
        elif type(caches["default"]).__name__ == "LocMemCache":
            self.uses_cache = False
            self.note = (
                "LocMemCache belongs to one process, so getorcreateplus works without "
                "a cache here, under bypass(). Use Redis or memcached to see the cache "
                "answer."
            )

    def run(self):
        """
        Look up, and yield (name, lookups) as it goes. 0 lookups are an
        occasion to stop.
        """
        order = [PLAIN, PLUS]
        with crowd(self.hot, order) as connections:
            for _ in answers(connections):  # they are ready
                yield PLAIN, 0
            writer, *readers = connections
            for name in order:  # untimed: it opens connections
                yield from self.turn(readers, writer, name, WARM_UP, 0, LookupTally())
            for seed, start in enumerate(range(0, self.total, TURN)):
                number = min(TURN, self.total - start)
                for name in order:
                    tally = self.tallies[name]
                    yield from self.turn(readers, writer, name, number, seed, tally)
                    yield name, number
                order.reverse()

    def turn(self, readers, writer, name, number, seed, tally):
        """Let one contender look up. Yield (name, 0) until it is done."""
        writer.send(name)
        began = time.perf_counter()
        for place, reader in enumerate(readers):
            share = number // READERS + (place < number % READERS)
            uses_cache = self.uses_cache or name == PLAIN
            reader.send((name, share, seed * READERS + place, uses_cache))
        for answer in answers(readers):
            if answer is None:
                yield name, 0
                continue
            tally.queries += answer["queries"]
            tally.wrong += answer["wrong"]
        tally.seconds += time.perf_counter() - began
        writer.send(None)
        for answer in answers([writer]):
            if answer is None:
                yield name, 0
            else:
                tally.writes += answer["writes"]
        tally.lookups += number

    @property
    def wrong(self):
        return sum(tally.wrong for tally in self.tallies.values())

    def ratio(self, name):
        """Return how many times as fast as plain Django it is."""
        of = self.tallies[PLAIN].rate
        return self.tallies[name].rate / of if of else 0.0

    def measures(self):
        """Return [(title, format, {name: number, or None})]."""
        return [
            (title, spec, {name: of(tally) for name, tally in self.tallies.items()})
            for title, spec, of in [
                ("lookups", ",", lambda tally: tally.lookups),
                ("answered by the cache", ".1%", lambda tally: tally.hits),
                ("wrong rows", ",", lambda tally: tally.wrong),
                ("writes meanwhile", ",", lambda tally: tally.writes),
                ("seconds", ".2f", lambda tally: tally.seconds),
                ("lookups/s", ",.0f", lambda tally: tally.rate),
            ]
        ]


def answers(connections):
    """
    Yield what each of the processes answers, and None every tenth of a second
    until then. Raise ConnectionError if one of them has ended, and Failed if
    it could not go on.
    """
    waiting = list(connections)
    while waiting:
        ready = wait(waiting, LATEST)
        if not ready:
            yield None
        for connection in ready:
            try:
                answer = connection.recv()
            except EOFError:
                raise ConnectionError from None
            if "problem" in answer:
                raise Failed(answer["problem"])
            waiting.remove(connection)
            yield answer


@contextmanager
def crowd(hot, names):
    """
    Start the processes, and end them. Give their connections: the first one is
    the writer's.
    """
    from django.conf import settings

    context = get_context("spawn")
    # For each contender, the population of each city that is committed: the
    # writer sets it when save() has returned.
    committed = {name: context.Array("q", len(hot), lock=False) for name in names}
    services = settings.DATABASES["default"], settings.CACHES
    processes, connections = [], []
    try:
        # The CTRL-C of a terminal is for this process, which ends the others.
        with ignored_interrupts():
            for job in [write, *[read] * READERS]:
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=work, args=(job, theirs, services, hot, committed)
                )
                process.daemon = True
                process.start()
                theirs.close()
                processes.append(process)
                connections.append(ours)
        yield connections
    except ConnectionError as error:
        raise Failed("A process has ended.") from error
    finally:
        for connection in connections:
            connection.close()
        latest = time.monotonic() + PATIENCE
        for process in processes:
            # It ends by itself, because its connection is closed.
            process.join(max(0, latest - time.monotonic()))
            process.terminate()
            process.join()
            process.close()


@contextmanager
def ignored_interrupts():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# In the processes


def work(job, connection, chosen, hot, committed):
    """Be one of the processes, until its connection is closed."""
    import django

    django.setup()
    from django.db import Error

    from . import services

    database, caches = chosen
    if database["ENGINE"].endswith("sqlite3"):
        options = {"timeout": LOCK_TIMEOUT} | database.get("OPTIONS", {})
        database = database | {"OPTIONS": options}
    services.configure_database(database)
    services.configure_caches(caches)
    try:
        connection.send({"ready": True})
        while True:
            order = connection.recv()
            connection.send(job(connection, order, hot, committed))
    except Error as error:
        problem = f"The database gave up: {services.one_line(error)}"
        with suppress(ConnectionError):  # another one has failed already
            connection.send({"problem": problem})
    except (EOFError, ConnectionError):  # it is over
        pass


def models_of(name):
    import plain.models

    import gazetteer.models

    return plain.models if name == PLAIN else gazetteer.models


def read(connection, order, hot, committed):
    """Look up cities, and return the queries and the wrong rows."""
    from django.db import connection as database

    from getorcreateplus import bypass

    from .measure import as_if_alone

    name, number, seed, uses_cache = order
    cities, known = models_of(name).City.objects, committed[name]
    places = Random(seed).choices(range(len(hot)), k=number)
    queries = wrong = 0

    def count(execute, *args):
        nonlocal queries
        queries += 1
        return execute(*args)

    with (
        database.execute_wrapper(count),
        as_if_alone(name),
        nullcontext() if uses_cache else bypass(),
    ):
        for place in places:
            least = known[place]  # before the lookup begins
            city, created = cities.get_or_create(geonameid=hot[place])
            is_other = created or city.geonameid != hot[place]
            wrong += is_other or city.population < least
    return {"queries": queries, "wrong": wrong}


def write(connection, name, hot, committed):
    """Add inhabitants, one by one, until the next order. Count the writes."""
    cities, known = models_of(name).City._base_manager, committed[name]
    random, writes = Random(), 0
    while not connection.poll(PAUSE):
        place = random.randrange(len(hot))
        city = cities.get(geonameid=hot[place])
        city.population += 1
        city.save()
        known[place] = city.population
        writes += 1
    connection.recv()
    return {"writes": writes}
