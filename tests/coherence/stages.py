"""A stage: one row, its cache, and what the actors have seen and done."""

import os
import threading
from functools import partial

from django.core.cache import caches
from django.db import IntegrityError, OperationalError, connection

from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence.tokens import DIGITS
from getorcreateplus.writes import registry

from ..models import History
from ..support.errors import expect
from .interleavings import Scheduler, explore, gate
from .jobs import COLD, WARM

SWITCHES = int(os.environ.get("INTERLEAVINGS_SWITCHES", "1"))
# Also errors of the driver, whose cursor some jobs use.
LOST = IntegrityError, OperationalError, connection.Database.OperationalError


class Miss(Exception):
    """Pass the gate before a statement."""


class Stage:
    """One row, its cache, and what the actors have seen and done."""

    def __init__(self, model, actors):
        self.model = model
        self.actors = actors
        self.region = registry.region_of(model.objects.all())
        self.cache = caches[self.region.client.alias]
        self.plays = self.hits = 0
        self.in_bulk = False  # True if all reads are batches of two rows

    def evict(self, key):
        caches[self.region.client.alias].evict(key)

    def play(self, jobs, choose, start="warm", mortal=()):
        """Play one order. Raise Wrong, with a note of the order."""
        self.set_up(start)
        self.writers = sum(hasattr(job, "writes") for job in jobs)
        jobs = {
            f"{job.__name__} {n}": partial(job, self, n)
            for n, job in enumerate(jobs, 1)
        }
        mortal = [name for name in jobs if name.split()[0] in mortal]
        scheduler = Scheduler(self.actors, jobs, mortal)
        scheduler.play(choose)
        self.plays += 1
        try:
            for actor in scheduler.actors.values():
                # A save() of a row that was deleted, and created by another; a
                # deadlock of two such transactions.
                if actor.error and not isinstance(actor.error, LOST):
                    raise actor.error
            self.check()
        except Exception as error:
            steps = "\n".join(map(str, scheduler.points))
            error.add_note(f"in {scheduler.choices}\n{steps}")
            raise
        return scheduler

    def set_up(self, start):
        memory.hints.clear()
        self.reads = []  # (pk, value, writes that had returned before)
        self.returned = []  # writes: (pk, value)
        for cache in caches.all():
            cache.clear()
        table = self.model._meta.db_table
        sql = (
            f"DELETE FROM {table}; DELETE FROM {History._meta.db_table};"
            f"SELECT setval('{table}_id_seq', 1);"
        )
        if start != "absent":
            sql += f"INSERT INTO {table} VALUES (1, 'row', 'red', 0);"
        if self.in_bulk:
            sql += (
                f"INSERT INTO {table} VALUES (2, 'second', 'red', 0);"
                f"SELECT setval('{table}_id_seq', 2);"
            )
        with connection.connection.cursor() as cursor:
            cursor.execute(sql)
        if start in {"warm", "evicted", "restored"}:
            self.model.objects.get_or_create(**WARM)
        if start == "restored":
            self.restore()
        if start == "evicted":
            self.evict(self.region.payload_key("1"))

    def restore(self):
        """Take the entries of another server, which are older than the row."""
        region, cache = self.region, caches[self.region.client.alias]
        payload_key, *keys = region.keys_of_row("1")
        keys.append(region.clock_key)
        tokens = {key: f"another-{cache.get(key)[-DIGITS:]}" for key in keys}
        version, epoch, _ = tokens.values()
        _, fingerprint, values, mark = cache.get(payload_key)
        older = (*values[:-1], -1)
        payload = (epoch, version), fingerprint, older, mark
        cache.set_many({**tokens, payload_key: payload})

    def read(self, number, lookup, *, in_bulk):
        before = list(self.returned)
        actor = threading.current_thread()
        statements = actor.statements
        if in_bulk:
            [(obj, created)] = self.model.objects.bulk_get_or_create(
                [{**lookup, "value": number}], unique_fields=list(lookup)
            )
        else:
            obj, created = self.get_or_create(number, lookup)
        expect(
            not created or obj.value == number, f"created {obj.value} and not {number}"
        )
        self.hits += actor.statements == statements
        if number > 0:
            self.reads.append((obj.pk, obj.value, before))
        if created and not connection.in_atomic_block:
            gate(("returned", True))
            self.returned.append((obj.pk, number))

    def get_or_create(self, number, lookup):
        if not self.in_bulk:
            return self.model.objects.get_or_create(
                defaults={"value": number}, **lookup
            )
        rows = [lookup, {**lookup, "name": "second"}]
        found = self.model.objects.bulk_get_or_create(
            [{**row, "value": number} for row in rows], unique_fields=list(lookup)
        )
        return found[0]

    def check(self):
        with connection.connection.cursor() as cursor:
            table = History._meta.db_table
            cursor.execute(f'SELECT "row", value FROM {table} ORDER BY id')
            history = cursor.fetchall()
        for pk, value, before in self.reads:
            expect((pk, value) in history, f"{value} was read and never committed")
            # A row that a create() has replaced, which has returned, may be
            # seen until the delete() has returned; but only if a third writer
            # has released its lock.
            floor = [
                history.index(write)
                for write in before
                if write in history
                and (write[0] == pk or (write[1] is not None and self.writers < 2))
            ]
            expect(
                history.index((pk, value)) >= max(floor, default=0),
                f"{value} was read after {before} had returned",
            )
        for lookup in WARM, COLD:
            served = self.served(lookup)
            if served is not None:
                rows = self.model.objects.filter(**WARM).values_list("pk", "value")
                expect(served in rows, f"at rest {served} is served, not {list(rows)}")

    def served(self, lookup):
        """Return the (pk, value) of a hit, or None."""
        try:
            with connection.execute_wrapper(miss):
                obj, _ = self.model.objects.get_or_create(**lookup)
                return obj.pk, obj.value
        except Miss:
            return None


def miss(*args):
    raise Miss


def explored(stage, jobs, switches=SWITCHES, **options):
    explore(lambda choose: stage.play(jobs, choose, **options), switches)
    assert stage.hits > 0
