"""
The processes of tests.stress: their actions, and the values that they may see.
"""

import multiprocessing
import random
import sys
import time

from django.core.cache import caches
from django.db import Error, connection, transaction
from django.db.models import F

from getorcreateplus.coherence.clients import by_alias
from getorcreateplus.coherence.tokens import is_locked
from getorcreateplus.writes.registry import region_of

from .models import FarGauge, Gauge
from .stress import LOCK_TIMEOUT
from .support.errors import Rollback

MORTALS = 10_000  # writers that may be killed in one run, each with its row
MAYFLIES = 2  # rows that are deleted and created again
STEP = 1_000_000  # between two values; other writes add one
PROBES = {f"probe{n}": n for n in range(20)}  # some on each server

# Forked, because a new writer soon follows each killed one.
context = multiprocessing.get_context("fork")


class Run:
    def __init__(self, options, servers):
        self.options = options
        self.servers = servers
        self.random = random.Random(options.seed)
        self.jobs = [self.read_rows] * options.readers
        self.jobs += [self.write_rows] * options.writers
        self.jobs += [self.delete_rows] + [self.evict] * options.evict
        workers = len(self.jobs) + 1
        # Killed writers do not take locks that they could leave behind.
        self.lock = context.Lock()
        self.floors = context.RawArray("q", options.rows)
        self.tickets = context.RawArray("q", options.rows)
        self.mortal_floors = context.RawArray("q", MORTALS)
        self.mortals = 0
        self.last_mortal = context.RawValue("q", -1)
        self.deleted = context.RawArray("q", MAYFLIES)
        self.reads = context.RawArray("q", workers)
        self.hits = context.RawArray("q", workers)
        self.writes = context.RawArray("q", workers)
        self.wrong = context.RawArray("q", workers)
        self.reached = context.RawArray("d", workers)  # all servers, last
        self.outages = context.RawValue("q", 0)  # odd while there is one
        self.stopped = context.RawValue("b", 0)
        self.kills = self.flushes = self.restarts = self.moves = 0
        self.script_losses = 0

    def go(self):
        Gauge.objects.bulk_create(
            Gauge(name=f"row {row}", value=0) for row in range(self.options.rows)
        )
        self.pks = [g.pk for g in Gauge.objects.order_by("pk")]
        children = [self.fork(job, n) for n, job in enumerate(self.jobs)]
        try:
            self.disturb(time.monotonic() + self.options.seconds)
            self.stopped.value = True
            for child in children:
                child.join(30)
        finally:
            for child in children:
                child.kill()
                child.join()
        failed = sum(child.exitcode != 0 for child in children)
        return self.report(failed, self.at_rest())

    def fork(self, job, number):
        connection.close()
        caches.close_all()
        child = context.Process(target=self.work, args=(job, number))
        child.start()
        return child

    def work(self, job, number):
        self.number = number
        self.random = random.Random(f"{self.options.seed} {number} {self.mortals}")
        while not self.stopped.value:
            try:
                job()
            except Error:
                # MariaDB has deadlocks and duplicates if rows are deleted and
                # created again, even without a cache.
                connection.close()
            if self.outages.value % 2:
                self.probe()
        connection.close()

    def probe(self):
        """Record that this process reaches all servers, and owes nothing."""
        began = time.monotonic()
        client = by_alias["default"]
        try:
            failed = client.transport.fill(PROBES, 60)
            client.ensure_usable()
        except Exception:
            return
        if not failed:
            self.reached[self.number] = began

    # Reading

    def read_rows(self):
        chance = self.random.random()
        mortal = self.last_mortal.value
        if chance < 0.1:
            self.read_mayfly(self.random.randrange(MAYFLIES))
        elif chance < 0.3 and mortal >= 0:
            # The last value, or that of a dead writer.
            row = max(0, mortal - self.random.randrange(4))
            self.read(FarGauge, {"name": f"mortal {row}"}, self.mortal_floors, row)
        else:
            row = self.random.randrange(self.options.rows)
            name = f"row {row}"
            lookups = {"name": name}, {"name": name, "colour": "red"}
            lookup = self.random.choice([*lookups, {"pk": self.pks[row]}])
            self.read(Gauge, lookup, self.floors, row)

    def read(self, model, lookup, floors, row):
        calm, floor = self.outages.value, floors[row]
        obj, created = self.get(model, lookup)
        if created or obj.value < floor:
            self.judge(calm, f"{lookup}: {obj.value}, {created}, not {floor}")

    def read_mayfly(self, row):
        calm, deleted = self.outages.value, self.deleted[row]
        obj, _ = self.get(Gauge, {"name": f"mayfly {row}"})
        if obj.pk == deleted:
            self.judge(calm, f"mayfly {row}: {obj.pk} was deleted")

    def get(self, model, lookup):
        statements = []

        def count(execute, *args):
            statements.append(args)
            return execute(*args)

        with connection.execute_wrapper(count):
            found = model.objects.get_or_create(defaults={"value": 0}, **lookup)
        self.reads[self.number] += 1
        self.hits[self.number] += not statements
        return found

    def judge(self, calm, message):
        # There are no guarantees from a restart of a server until all
        # processes reach it again.
        if calm % 2 == 0 and calm == self.outages.value:
            self.wrong[self.number] += 1
            say(f"WRONG {message}")

    # Writing

    def write_rows(self):
        row = self.random.randrange(self.options.rows)
        write = self.random.choice([self.save, self.publish, self.update, self.add])
        if self.random.random() < 0.03:
            self.roll_back(row)
        else:
            before = self.floors[row]
            value = write(Gauge, f"row {row}", lambda: self.ticket(row))
            with self.lock:
                self.floors[row] = max(self.floors[row], value or before + 1)
            self.writes[self.number] += 1
        time.sleep(0.03)

    def ticket(self, row):
        """Return a value above all others; the row is locked meanwhile."""
        with self.lock:
            self.tickets[row] += STEP
            return self.tickets[row]

    def save(self, model, name, ticket):
        with transaction.atomic():
            obj = model.objects.select_for_update().get(name=name)
            obj.value = ticket()
            obj.save()
            self.read_own(model, name, obj.value)
        return obj.value

    def publish(self, model, name, ticket):
        obj, _ = model.objects.update_or_create(name=name, defaults={"value": ticket})
        return obj.value

    def update(self, model, name, ticket):
        with transaction.atomic():
            obj = model.objects.select_for_update().get(name=name)
            obj.value = ticket()
            model.objects.filter(name=name).update(value=obj.value)
            self.read_own(model, name, obj.value)
        return obj.value

    def add(self, model, name, ticket):
        """Write in autocommit, where the new value is not published."""
        obj = model.objects.get(name=name)
        obj.value = F("value") + 1
        obj.save()

    def read_own(self, model, name, value):
        obj, _ = model.objects.get_or_create(name=name)
        if obj.value != value:
            self.judge(self.outages.value, f"{name}: {obj.value}, wrote {value}")

    def roll_back(self, row):
        try:
            with transaction.atomic():
                self.publish(Gauge, f"row {row}", lambda: -1)
                self.publish(Gauge, f"row {row}", lambda: -2)
                raise Rollback
        except Rollback:
            pass

    def delete_rows(self):
        row = self.random.randrange(MAYFLIES)
        for obj in Gauge.objects.filter(name=f"mayfly {row}"):
            pk = obj.pk
            obj.delete()
            self.deleted[row] = pk
            self.writes[self.number] += 1
        time.sleep(0.1)

    def write_mortal(self):
        """Write its own row, in each way, until it is killed."""
        row = self.mortals
        name = f"mortal {row}"
        write = self.random.choice([self.save, self.publish, self.update])
        value = self.mortal_floors[row] // STEP * STEP + STEP
        write(FarGauge, name, lambda: value)
        self.mortal_floors[row] = value
        self.writes[self.number] += 1

    # Disturbing

    def evict(self):
        region = region_of(Gauge.objects.all())
        pk = str(self.random.choice(self.pks))
        key = self.random.choice(
            [
                region.payload_key(pk),
                region.version_key(pk),
                region.clock_key,
                region.epoch_key,
            ]
        )
        cache = caches["default"]
        try:
            value = cache.get(key)
            if type(value) is not str or not is_locked(value):
                cache.delete(key)
        except Exception:
            pass  # an outage
        time.sleep(0.1)

    def disturb(self, end):
        options = self.options
        disturbances = [self.kill] * 9 * options.kill
        disturbances += [self.flush] * 2 * options.flush
        disturbances += [self.restart] * options.restart
        if options.cache != "memcached":
            disturbances += [self.lose_scripts] * 3 * options.scripts
        if options.cache == "cluster":
            disturbances += [self.move] * 2 * options.move
        first = [*dict.fromkeys(disturbances)]  # each of them once
        while time.monotonic() < end:
            time.sleep(0.2)
            if disturbances and time.monotonic() < end - 0.2 * options.seconds:
                (first.pop() if first else self.random.choice(disturbances))()

    def kill(self):
        row = self.mortals
        FarGauge.objects.bulk_create([FarGauge(name=f"mortal {row}", value=0)])
        mortal = self.fork(self.write_mortal, len(self.jobs))
        self.last_mortal.value = row
        mortal.join(self.random.uniform(0.2, 0.6))
        mortal.kill()
        mortal.join()
        self.kills += 1
        self.mortals += 1
        # Its committed value must not be hidden. If its last statement is
        # carried out after this, the floor is too low, and the LOCK is there.
        [value] = FarGauge.objects.filter(name=f"mortal {row}").values_list(
            "value", flat=True
        )
        self.mortal_floors[row] = value

    def flush(self):
        for server in self.servers:
            server.flush()
        self.flushes += 1

    def lose_scripts(self):
        for server in self.servers:
            server.lose_scripts()
        self.script_losses += 1

    def restart(self):
        self.outages.value += 1
        server = self.random.choice(self.servers)
        server.stop(self.keys())
        time.sleep(self.random.random())
        server.start()
        began = time.monotonic()
        while min(self.reached[: len(self.jobs)]) < began:
            if time.monotonic() > began + 60:
                raise RuntimeError("A process does not reach the server any more")
            time.sleep(0.05)
        self.outages.value += 1
        self.restarts += 1

    def keys(self):
        """
        Return keys of each model that are on different servers, in the
        servers' form, in any order.
        """
        regions = [region_of(model.objects.all()) for model in (Gauge, FarGauge)]
        keys = [region.epoch_key for region in regions]
        if self.options.buckets > 1:
            pks = map(str, self.pks)
            keys += (region.version_key(pk) for pk in pks for region in regions)
        self.random.shuffle(keys)
        return [caches["default"].make_key(key) for key in keys]

    def move(self):
        [cluster] = self.servers
        cluster.move_anywhere(self.random.choice(self.keys()), self.random)
        self.moves += 1

    # The end

    def at_rest(self):
        """
        Return the number of rows in the cache that differ from the database.
        """
        time.sleep(LOCK_TIMEOUT + 1)
        wrong = 0
        for model in Gauge, FarGauge:
            for obj in model.objects.all():
                lookups = {"name": obj.name}, {"name": obj.name, "colour": "red"}
                for lookup in *lookups, {"pk": obj.pk}:
                    served, _ = model.objects.get_or_create(**lookup)
                    if (served.pk, served.value) != (obj.pk, obj.value):
                        wrong += 1
                        say(f"WRONG at rest {lookup}: {served.value}, not {obj.value}")
        return wrong

    def report(self, failed, wrong_at_rest):
        reads, hits, wrong = sum(self.reads), sum(self.hits), sum(self.wrong)
        wrong += wrong_at_rest
        say(
            f"seed {self.options.seed}: {reads} reads, {hits} hits"
            f" ({hits / max(reads, 1):.0%}), {sum(self.writes)} writes,"
            f" {self.kills} kills, {self.flushes} flushes,"
            f" {self.restarts} restarts, {self.script_losses} losses of scripts,"
            f" {self.moves} moves, {wrong} wrong answers"
        )
        if failed:
            say(f"{failed} processes failed")
        return int(bool(wrong or failed or hits < reads / 5))


def say(message):
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()
