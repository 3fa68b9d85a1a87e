"""
A scheduler of real calls: threads that stop at every cache command, SQL
statement and commit, until it is their turn.

play() runs the calls of a few actors in one given order; explore() plays every
order that switches between actors at most so many times where it need not.
An order is a tuple of actor's names, one for each gate that is opened; "!name"
stands for the death of an actor at its gate.
"""

import threading
from contextlib import contextmanager, nullcontext
from queue import SimpleQueue

from django.core.cache.backends.locmem import LocMemCache
from django.db import connection

from getorcreateplus.coherence.tokens import is_locked

TIMEOUT = 20  # seconds
# Seconds after which a statement that has not returned may be waiting for a
# row's lock: the scheduler then queries the server.
PATIENCE = 0.002


def gate(*resources):
    """
    Stop here, if this thread belongs to an actor, until the scheduler opens
    the gate.

    A resource is (what the next command uses, True if it changes that).
    """
    actor = threading.current_thread()
    if isinstance(actor, Actor) and not actor.passes:
        actor.stop_at(resources)


class GatedCache(LocMemCache):
    """A cache that the threads share, with a gate before every command."""

    # True if a command for several entries is one command for each, as with
    # several memcached servers.
    splits = False

    def get(self, key, default=None, version=None):
        gate((key, False))
        return super().get(key, default, version)

    def set(self, key, *args, **kwargs):
        gate((key, True))
        super().set(key, *args, **kwargs)

    def add(self, key, *args, **kwargs):
        gate((key, True))
        return super().add(key, *args, **kwargs)

    def delete(self, key, version=None):
        gate((key, True))
        return super().delete(key, version)

    def get_many(self, keys, version=None):
        with self.as_one(keys, False):
            return super().get_many(keys, version)

    def set_many(self, data, *args, **kwargs):
        with self.as_one(data, True):
            return super().set_many(data, *args, **kwargs)

    def delete_many(self, keys, version=None):
        with self.as_one(keys, True):
            super().delete_many(keys, version)

    def as_one(self, keys, changes):
        if self.splits:
            return nullcontext()
        gate(*((key, changes) for key in keys))
        return passage()

    def evict(self, key):
        """
        Lose an entry. A LOCK is not lost, because only its timeout ends it.
        """
        gate((key, True))
        value = super().get(key)
        if type(value) is not str or not is_locked(value):
            super().delete(key)


@contextmanager
def passage():
    """Leave the gates of this thread open."""
    actor = threading.current_thread()
    actor.passes = True
    try:
        yield
    finally:
        actor.passes = False


class Dead(BaseException):
    """The process of this actor was killed."""


class Actor(threading.Thread):
    """A thread with its own connection, which does one job after the other."""

    def __init__(self, name):
        super().__init__(name=name, daemon=True)
        self.jobs = SimpleQueue()
        self.statements = 0
        self.passes = False
        self.unsent = []  # functions that send the remaining commands of a job
        # Bare locks, which cost a tenth of an Event: held until the scheduler
        # opens the gate, or the actor is at one.
        self.opened = threading.Lock()
        self.opened.acquire()
        self.arrived = threading.Lock()
        self.arrived.acquire()
        self.start()

    def run(self):
        self.commit = connection._commit
        self.rollback = connection._rollback
        connection._commit = self.gated_commit
        connection._rollback = self.gated_rollback
        with connection.execute_wrapper(self.gated_statement):
            while job := self.jobs.get():
                self.do(job)
        connection.close()

    def do(self, job):
        try:
            if connection.connection is None:
                connection.ensure_connection()
                connection.connection.execute("SET synchronous_commit TO off")
            self.backend = connection.connection.info.backend_pid
            job()
            for send in self.unsent:
                send()
        except (Dead, Exception) as error:
            self.error = error
        if self.dies:
            # The error that the end of its atomic() block has raised.
            self.error = None
            connection.close()
        self.at = None
        self.arrived.release()

    def begin(self, job):
        """Do the job, up to its first gate."""
        self.dies = False
        self.error = None
        self.jobs.put(job)
        self.wait(TIMEOUT)

    def stop_at(self, resources):
        if self.dies:
            raise Dead
        self.at = resources
        self.arrived.release()
        if not self.opened.acquire(timeout=TIMEOUT):
            raise AssertionError("The scheduler does not open this gate")
        if self.dies:
            # The server rolls back the open transaction.
            connection.connection.close()
            raise Dead

    def wait(self, timeout):
        return self.arrived.acquire(timeout=timeout)

    # The commands

    def gated_statement(self, execute, sql, params, many, context):
        self.statements += 1
        verb = sql.split(" ", 1)[0]
        locks = verb in {"UPDATE", "INSERT", "DELETE"} or " FOR UPDATE" in sql
        if locks:
            # Other connections see it after the commit, which may be now.
            gate(("lock", True), ("row", not connection.in_atomic_block))
        elif verb == "SELECT":
            gate(("row", False))
        elif verb == "ROLLBACK":  # to a savepoint
            gate(("lock", True))
        return execute(sql, params, many, context)

    def gated_commit(self):
        gate(("lock", True), ("row", True))
        self.commit()

    def gated_rollback(self):
        if not self.dies:
            gate(("lock", True))
        self.rollback()


class Order:
    """
    The order of the commands that do not commute.

    Two orders of commands with the same value have the same effect.
    """

    def __init__(self):
        self.last = {}  # actor's name: its last event
        self.written = {}  # resource: the event that changed it last
        self.read = {}  # resource: the events that have read it since

    def event(self, name, resources):
        before = [
            (
                resource,
                self.written.get(resource),
                tuple(sorted(self.read.get(resource, ()))) if changes else None,
            )
            for resource, changes in resources
        ]
        return hash((name, self.last.get(name), tuple(before)))

    def after(self, name, resources):
        """Return what distinguishes the state after this command."""
        last = self.last | {name: self.event(name, resources)}
        return frozenset(last.items())

    def add(self, name, resources):
        event = self.last[name] = self.event(name, resources)
        for resource, changes in resources:
            if changes:
                self.written[resource] = event
                self.read[resource] = ()
            else:
                self.read[resource] = (*self.read.get(resource, ()), event)


class Point:
    """A place in an order where one of several actors was chosen."""

    def __init__(self, chosen, options, resources):
        self.chosen = chosen
        self.options = options  # name: (switches so far, state that follows)
        self.resources = resources

    def __str__(self):
        names = (f"{name}{'!' * changes}" for name, changes in self.resources)
        return f"{self.chosen}: {', '.join(names)}"


class Scheduler:
    """Play one order of the actors' jobs: {name: job}."""

    def __init__(self, actors, jobs, mortal=()):
        self.actors = dict(zip(jobs, actors, strict=False))
        self.jobs = jobs
        self.mortal = mortal  # names of the actors of which one may die
        self.order = Order()
        self.points = []
        self.waiting = []
        self.switches = 0
        self.current = None

    def play(self, choose):
        """``choose`` takes the names and the one whose turn it was."""
        for name, job in self.jobs.items():
            self.actors[name].begin(job)
        self.running = [n for n in self.jobs if self.actors[n].at is not None]
        while self.running or self.waiting:
            self.settle()
            if len(self.waiting) == len(self.running):
                continue  # the server ends a deadlock
            names = [n for n in self.running if n not in self.waiting]
            if not any(actor.dies for actor in self.actors.values()):
                names += ["!" + n for n in names if n in self.mortal]
            chosen = choose(names, self.current)
            options = {n: self.option(n) for n in names}
            resources = self.actors[chosen.removeprefix("!")].at
            self.points.append(Point(chosen, options, resources))
            self.switches = self.points[-1].options[chosen][0]
            self.open(chosen)

    def option(self, chosen):
        name = chosen.removeprefix("!")
        switches = self.switches + (
            name != self.current
            and self.current in self.running
            and self.current not in self.waiting
        )
        if name != chosen:
            return switches, self.order.after(name, (("lock", True), ("death", True)))
        return switches, self.order.after(name, self.actors[name].at)

    def open(self, chosen):
        self.current = name = chosen.removeprefix("!")
        actor = self.actors[name]
        if name != chosen:
            actor.dies = True
            self.order.add(name, (("lock", True), ("death", True)))
        else:
            self.order.add(name, actor.at)
        locks = ("lock", True) in actor.at
        actor.opened.release()
        while not actor.wait(PATIENCE if locks else TIMEOUT):
            if self.is_blocked(actor):
                self.waiting.append(name)
                return
        self.note(name)

    def note(self, name):
        if self.actors[name].at is None:
            self.running.remove(name)

    def settle(self):
        """
        Let the actors whose statement has returned run to their next gate.
        """
        for name in list(self.waiting):
            actor = self.actors[name]
            while not self.is_blocked(actor):
                if actor.wait(PATIENCE):
                    self.waiting.remove(name)
                    self.order.add(name, (("lock", True), ("row", True)))
                    self.note(name)
                    break

    def is_blocked(self, actor):
        """
        Return True if the actor's statement waits for the row lock of another.
        """
        with connection.cursor() as cursor:
            cursor.execute("SELECT cardinality(pg_blocking_pids(%s))", [actor.backend])
            return cursor.fetchone()[0] > 0

    @property
    def choices(self):
        return tuple(point.chosen for point in self.points)


@contextmanager
def company(size):
    """Provide this number of actors."""
    actors = [Actor(f"actor {n}") for n in range(size)]
    try:
        yield actors
    finally:
        for actor in actors:
            actor.jobs.put(None)
        for actor in actors:
            actor.join(TIMEOUT)


def follow(choices):
    """Choose as in an order, and after its end switch only if necessary."""
    choices = iter(choices)

    def choose(names, current):
        chosen = next(choices, current)
        return chosen if chosen in names else names[0]

    return choose


def at_random(random):
    def choose(names, current):
        if current in names and random.random() < 0.6:
            return current
        return random.choice(names)

    return choose


def explore(play, switches):
    """
    Play every order with at most this number of switches. Return the number of
    orders.

    A switch is a turn taken from an actor that could continue. ``play`` takes
    a chooser and returns the Scheduler. Orders with fewer switches come first.
    """
    plays = 0
    known = {}  # (state, whose turn it was): fewest switches to it
    open_orders = [[()], *([] for _ in range(switches))]
    for orders in open_orders:
        while orders:
            order = orders.pop()
            scheduler = play(follow(order))
            plays += 1
            choices = scheduler.choices
            for i in range(len(order), len(choices)):
                point = scheduler.points[i]
                fresh = {
                    name: cost
                    for name, (cost, state) in point.options.items()
                    if cost <= switches and cost < known.get((state, name), cost + 1)
                }
                for name, cost in fresh.items():
                    known[point.options[name][1], name] = cost
                    if name != point.chosen:
                        open_orders[cost].append((*choices[:i], name))
                if point.chosen not in fresh:
                    break
    return plays
