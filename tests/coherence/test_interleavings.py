"""
Every order of two writers and two readers, within a bound, and random orders
beyond it: the package itself, on connections to a real server.

Two things must hold in each. A read that begins after a write has returned
does not yield a value older than that write. And once everybody has finished,
what the cache serves is what the database holds.

The rules are named as in coherence.py; each of them, left out, makes these
tests fail. INTERLEAVINGS_SWITCHES is how often a turn may be taken from an
actor that could go on (1), INTERLEAVINGS_RANDOM the number of random orders
(500), and INTERLEAVINGS_SEED repeats those that were.
"""

import inspect
import itertools
import os
import random
import sys
import textwrap
import threading
from functools import partial

import pytest
from django.core.cache import caches
from django.db import IntegrityError, OperationalError, connection, transaction

from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence import protocol as coherence
from getorcreateplus.writes import invalidation

from ..models import FarGauge, Gauge, History
from ..support.errors import Rollback
from .interleavings import (
    GatedCache,
    Scheduler,
    at_random,
    company,
    explore,
    gate,
)

pytestmark = [
    pytest.mark.slow,
    # SQLite has one writer at a time: nobody else moves before it has ended.
    pytest.mark.database("postgresql"),
    pytest.mark.django_db(transaction=True, available_apps=["tests"]),
]

SWITCHES = int(os.environ.get("INTERLEAVINGS_SWITCHES", "1"))
RANDOM = int(os.environ.get("INTERLEAVINGS_RANDOM", "500"))
SEED = int(os.environ.get("INTERLEAVINGS_SEED", "0")) or random.randrange(2**32)

WARM = {"name": "row"}  # Its hint is in the cache when the actors begin.
COLD = {"name": "row", "colour": "red"}  # The same row, by an unknown lookup.


# The actors' jobs. Each writes a value of its own: its number.


def write(job):
    """Note that a write of row 1 has returned: nobody may see it older now."""

    def written(stage, number):
        value = job(stage, number)
        gate(("returned", True))
        stage.returned.append((1, value))

    written.__name__ = job.__name__
    written.writes = True
    return written


def row(stage, number):
    obj = stage.model(pk=1, value=number, **COLD)
    obj._state.adding = False
    return obj


@write
def save(stage, number):
    row(stage, number).save()
    return number


@write
def save_in_transaction(stage, number):
    with transaction.atomic():
        row(stage, number).save()
    return number


@write
def save_and_read(stage, number):
    """A transaction that sees what it wrote, and leaves it to its commit."""
    with transaction.atomic():
        row(stage, number).save()
        read_own(stage, number)
    return number


@write
def publish(stage, number):
    stage.model.objects.update_or_create(defaults={"value": number}, **WARM)
    return number


@write
def publish_twice(stage, number):
    with transaction.atomic():
        stage.model.objects.update_or_create(defaults={"value": -number}, **WARM)
        stage.model.objects.update_or_create(defaults={"value": number}, **WARM)
        read_own(stage, number)
    return number


@write
def publish_and_save(stage, number):
    with transaction.atomic():
        obj, _ = stage.model.objects.update_or_create(
            defaults={"value": -number}, **WARM
        )
        obj.value = number
        obj.save()
    return number


@write
def update(stage, number):
    stage.model.objects.filter(**WARM).update(value=number)
    return number


@write
def update_in_transaction(stage, number):
    with transaction.atomic():
        if stage.model.objects.filter(**WARM).update(value=number):
            read_own(stage, number)
    return number


@write
def rename(stage, number):
    obj = row(stage, number)
    obj.name = "other"
    obj.save()


@write
def publish_another_name(stage, number):
    stage.model.objects.update_or_create(
        defaults={"name": "other", "value": number}, **WARM
    )


@write
def delete(stage, number):
    row(stage, number).delete()


def roll_back(stage, number):
    try:
        with transaction.atomic():
            row(stage, -number).save()
            stage.model.objects.get_or_create(**WARM)
            raise Rollback
    except Rollback:
        pass


def publish_and_roll_back(stage, number):
    try:
        with transaction.atomic():
            stage.model.objects.update_or_create(defaults={"value": -number}, **WARM)
            raise Rollback
    except Rollback:
        pass


def create_and_roll_back(stage, number):
    try:
        with transaction.atomic():
            read(stage, -number, WARM)
            raise Rollback
    except Rollback:
        pass


@write
def roll_back_to_savepoint(stage, number):
    with transaction.atomic():
        publish_and_roll_back(stage, number)
        row(stage, number).save()
        publish_and_roll_back(stage, number)
    return number


def warm_read(stage, number):
    read(stage, number, WARM)


def cold_read(stage, number):
    read(stage, number, COLD)


def read_in_transaction(stage, number):
    with transaction.atomic():
        read(stage, number, WARM)
        read(stage, number, WARM)


def lock_and_read(stage, number):
    """A transaction that waited for a lock sees what was committed then."""
    with transaction.atomic():
        rows = stage.model.objects.select_for_update().filter(**WARM)
        locked = rows.values_list("value", flat=True).first()
        if locked is not None:
            obj, _ = stage.model.objects.get_or_create(**WARM)
            expect(obj.value == locked, f"it locked {locked} and read {obj.value}")


def write_untold_and_roll_back(stage, number):
    """A transaction whose write is seen by no statement of Django's."""
    try:
        with transaction.atomic():
            gate(("lock", True), ("row", False))
            table = connection.ops.quote_name(stage.model._meta.db_table)
            with connection.connection.cursor() as cursor:
                cursor.execute(f"UPDATE {table} SET value = {-number}")
            stage.model.objects.get_or_create(**WARM)
            raise Rollback
    except Rollback:
        pass


def create(stage, number):
    read(stage, number, WARM)


def create_in_transaction(stage, number):
    with transaction.atomic():
        read(stage, number, WARM)


def warm_read_in_bulk(stage, number):
    read(stage, number, WARM, in_bulk=True)


def cold_read_in_bulk(stage, number):
    read(stage, number, COLD, in_bulk=True)


def create_in_bulk_in_transaction(stage, number):
    with transaction.atomic():
        read(stage, number, WARM, in_bulk=True)


def create_in_bulk_and_roll_back(stage, number):
    try:
        with transaction.atomic():
            read(stage, -number, WARM, in_bulk=True)
            raise Rollback
    except Rollback:
        pass


def read(stage, number, lookup, *, in_bulk=False):
    gate(("returned", False))
    stage.read(number, lookup, in_bulk=in_bulk)


def read_own(stage, number):
    obj, _ = stage.model.objects.get_or_create(**WARM, defaults={"value": number})
    expect(
        obj.value == number,
        f"its own transaction wrote {number} and read {obj.value}",
    )


def evict_payload(stage, number):
    stage.evict(stage.region.payload("1"))


def evict_version(stage, number):
    stage.evict(stage.region.version("1"))


def evict_clock(stage, number):
    stage.evict(stage.region.clock)


def evict_epoch(stage, number):
    stage.evict(stage.region.epoch)


LOST = IntegrityError, OperationalError


class Miss(Exception):
    """A statement was about to be run."""


class Wrong(AssertionError):
    pass


def expect(truth, message):
    if not truth:
        raise Wrong(message)


class Stage:
    """One row, its cache, and what the actors have seen and done."""

    def __init__(self, model, actors):
        self.model = model
        self.actors = actors
        self.region = invalidation.region_of(model.objects.all())
        self.cache = caches[self.region.store.alias]
        self.plays = self.hits = 0

    def evict(self, key):
        caches[self.region.store.alias].evict(key)

    def play(self, jobs, choose, start="warm", mortal=()):
        """Play one order. Raise Wrong, with a note that tells the order."""
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
            sql += f"INSERT INTO {table} VALUES (1, 'row', 'red', 0)"
        with connection.connection.cursor() as cursor:
            cursor.execute(sql)
        if start in {"warm", "evicted"}:
            self.model.objects.get_or_create(**WARM)
        if start == "evicted":
            self.evict(self.region.payload("1"))

    def read(self, number, lookup, *, in_bulk):
        before = list(self.returned)
        actor = threading.current_thread()
        statements = actor.statements
        if in_bulk:
            [(obj, created)] = self.model.objects.bulk_get_or_create(
                [{**lookup, "value": number}], unique_fields=list(lookup)
            )
        else:
            obj, created = self.model.objects.get_or_create(
                defaults={"value": number}, **lookup
            )
        expect(
            not created or obj.value == number, f"created {obj.value} and not {number}"
        )
        self.hits += actor.statements == statements
        if number > 0:
            self.reads.append((obj.pk, obj.value, before))
        if created and not connection.in_atomic_block:
            gate(("returned", True))
            self.returned.append((obj.pk, number))

    def check(self):
        with connection.connection.cursor() as cursor:
            table = History._meta.db_table
            cursor.execute(f'SELECT "row", value FROM {table} ORDER BY id')
            history = cursor.fetchall()
        for pk, value, before in self.reads:
            expect((pk, value) in history, f"{value} was read and never committed")
            # A row that another has taken the place of, by a create() that
            # returned, may be seen until the delete() has returned; but only
            # where a third writer has released its lock.
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


@pytest.fixture
def cached(settings):
    gated = "tests.coherence.interleavings.GatedCache"
    settings.CACHES = {
        "default": {"BACKEND": gated, "LOCATION": "gated"},
        FarGauge._meta.model_name: {"BACKEND": gated, "LOCATION": "gated far"},
    }


@pytest.fixture
def history(cached):
    """Have the server note every value, in the order of the commits."""
    table = History._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit TO off")
        cursor.execute(
            f"""
            CREATE FUNCTION note_value() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO {table} ("row", value) VALUES (
                    COALESCE(NEW.id, OLD.id),
                    CASE WHEN NEW.name = 'row' THEN NEW.value END
                );
                RETURN NULL;
            END $$
            """
        )
        for model in Gauge, FarGauge:
            cursor.execute(
                f"CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON"
                f" {model._meta.db_table} FOR EACH ROW EXECUTE FUNCTION note_value()"
            )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION note_value CASCADE")
        cursor.execute("RESET synchronous_commit")


@pytest.fixture
def debts_of_the_living(monkeypatch):
    """What a process owes is gone with it: this one stands for several."""
    add = coherence.Store._add

    def add_of_the_living(store, *args):
        if not getattr(threading.current_thread(), "dies", False):
            add(store, *args)

    monkeypatch.setattr(coherence.Store, "_add", add_of_the_living)


@pytest.fixture
def actors(history, debts_of_the_living):
    with company(4) as actors:
        yield actors


@pytest.fixture
def stage(actors):
    return Stage(Gauge, actors)


@pytest.fixture
def far_stage(actors):
    return Stage(FarGauge, actors)


def explored(stage, jobs, switches=SWITCHES, **options):
    explore(lambda choose: stage.play(jobs, choose, **options), switches)
    assert stage.hits > 0


WRITERS = [save, save_in_transaction, publish, update, delete]
READERS = [warm_read, cold_read]
PAIRS = [*itertools.combinations_with_replacement(WRITERS, 2)]


def names(jobs):
    return "-".join(job.__name__ for job in jobs)


@pytest.mark.parametrize("writers", PAIRS, ids=names)
def test_every_order_of_two_writers_and_two_readers(stage, writers):
    explored(stage, [*writers, *READERS])


@pytest.mark.parametrize("start", ["warm", "empty"])
@pytest.mark.parametrize("writer", [*WRITERS, rename])
def test_every_order_of_a_writer_and_two_readers(stage, writer, start):
    # Where nothing is in the cache, it takes two of the same for a hit.
    readers = [cold_read, cold_read] if start == "empty" else READERS
    explored(stage, [writer, *readers], start=start)


@pytest.mark.parametrize("writer", [save_in_transaction, publish, update])
def test_every_order_where_the_rows_have_a_cache_of_their_own(far_stage, writer):
    explored(far_stage, [writer, *READERS], start="evicted")


def several_servers(monkeypatch, several=True):
    monkeypatch.setattr(GatedCache, "splits", several)
    monkeypatch.setattr(coherence.Store, "keeps_order", lambda store: not several)


@pytest.mark.parametrize("writer", [save_in_transaction, publish])
def test_every_order_where_the_cache_has_several_servers(stage, writer, monkeypatch):
    several_servers(monkeypatch)
    explored(stage, [writer, *READERS], start="evicted")
    explored(stage, [writer, cold_read, cold_read], 2)


@pytest.mark.parametrize(
    "writer", [save, save_in_transaction, publish, update, update_in_transaction]
)
def test_killed_writer_hides_nothing(stage, writer):
    """One writer: of two, the other may release what this one has locked."""
    explored(stage, [writer, warm_read], mortal={writer.__name__})


@pytest.mark.parametrize("writer", [create, create_in_transaction])
def test_every_order_of_two_creators_and_a_reader(stage, writer):
    explored(stage, [writer, create_and_roll_back, cold_read], start="absent")


@pytest.mark.parametrize("batch", [1, 16])
def test_every_order_around_rows_that_are_told_together(stage, batch, monkeypatch):
    monkeypatch.setattr(coherence, "SINGLE", 0)
    monkeypatch.setattr(coherence, "BATCH", batch)
    jobs = [create_in_transaction, publish, cold_read, warm_read]
    explored(stage, jobs, start="absent")


READERS_IN_BULK = [warm_read_in_bulk, cold_read_in_bulk]


@pytest.mark.parametrize("start", ["warm", "evicted", "empty"])
@pytest.mark.parametrize("writer", [*WRITERS, rename])
def test_every_order_of_a_writer_and_two_batches(stage, writer, start):
    empty = [cold_read_in_bulk, cold_read_in_bulk]
    readers = empty if start == "empty" else READERS_IN_BULK
    explored(stage, [writer, *readers], start=start)


@pytest.mark.parametrize("writer", [save_in_transaction, publish, update])
def test_every_order_of_a_batch_whose_rows_have_a_cache_of_their_own(far_stage, writer):
    explored(far_stage, [writer, warm_read_in_bulk, cold_read], start="evicted")


@pytest.mark.parametrize("writer", [save, save_in_transaction, update])
def test_killed_writer_hides_nothing_from_a_batch(stage, writer):
    explored(stage, [writer, warm_read_in_bulk], mortal={writer.__name__})


@pytest.mark.parametrize(
    "writer", [create, create_in_bulk_in_transaction, warm_read_in_bulk]
)
def test_every_order_of_batches_that_create(stage, writer):
    jobs = [writer, create_in_bulk_and_roll_back, cold_read_in_bulk]
    explored(stage, jobs, start="absent")


@pytest.mark.parametrize("writer", [save, publish, update])
def test_every_order_around_a_batch_that_creates(stage, writer):
    jobs = [create_in_bulk_in_transaction, writer, cold_read, warm_read]
    explored(stage, jobs, start="absent")


OTHER_WRITERS = [
    save_and_read,
    publish_twice,
    publish_and_save,
    update_in_transaction,
    rename,
    roll_back,
    publish_and_roll_back,
    create_and_roll_back,
    create_in_bulk_and_roll_back,
    roll_back_to_savepoint,
]
OTHERS = [
    *READERS,
    *READERS_IN_BULK,
    create_in_bulk_in_transaction,
    read_in_transaction,
    lock_and_read,
    write_untold_and_roll_back,
    create_in_transaction,
    evict_payload,
    evict_version,
    evict_clock,
    evict_epoch,
]


def test_random_orders(stage, far_stage, monkeypatch):
    sys.stdout.write(f"INTERLEAVINGS_SEED={SEED}\n")
    rng = random.Random(SEED)
    for _ in range(RANDOM):
        several_servers(monkeypatch, rng.random() < 0.5)
        monkeypatch.setattr(coherence, "SINGLE", rng.choice([0, 4]))
        monkeypatch.setattr(coherence, "BATCH", rng.choice([1, 16]))
        jobs = [
            *rng.choices(WRITERS + OTHER_WRITERS, k=2),
            *rng.choices(OTHERS, k=2),
        ]
        start = rng.choice(["warm", "evicted", "empty", "absent"])
        rng.choice([stage, far_stage]).play(jobs, at_random(rng), start=start)
    assert stage.hits + far_stage.hits > RANDOM / 10


# What each rule of the protocol is for.


def without(monkeypatch, cls, name, line, instead):
    """Replace one line of a method."""
    source = textwrap.dedent(inspect.getsource(getattr(cls, name)))
    assert source.count(line) == 1
    scope = {}
    exec(source.replace(line, instead), vars(coherence), scope)
    monkeypatch.setattr(cls, name, scope[name])


RULES = {
    "lock": (
        [
            (
                coherence.Region,
                "lock_now",
                "keys = [self.epoch] if pks is None else map(self.version, pks)",
                "keys = [self.epoch] if pks is None else []",
            )
        ],
        [save_in_transaction, warm_read],
        {"mortal": {"save_in_transaction"}},
    ),
    "lock of all rows": (
        [
            (
                coherence.Region,
                "lock_now",
                "keys = [self.epoch] if pks is None else map(self.version, pks)",
                "keys = [] if pks is None else map(self.version, pks)",
            )
        ],
        [update, warm_read],
        {"mortal": {"update"}},
    ),
    "lock, as readers see it": (
        [
            (
                coherence.Read,
                "_is_vouched_for",
                "return not is_locked(self.version)",
                "return True",
            ),
            (
                coherence.Read,
                "_is_hit",
                "and not is_locked(version)  # rule lock",
                "",
            ),
            (
                coherence.Read,
                "_is_locked",
                "return any(is_locked(str(entries.get(name))) for name in names)",
                "return False",
            ),
        ],
        [save_in_transaction, warm_read, warm_read],
        {"start": "evicted", "mortal": {"save_in_transaction"}},
    ),
    "clock": (
        [
            (
                coherence.Region,
                "release_now",
                "clock = {self.clock: token(place)}  # rule clock",
                "clock = {}",
            )
        ],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "recheck": (
        [
            (
                coherence.Read,
                "_is_vouched_for",
                "return clock is not None and clock == self.clock  # rule recheck",
                "return True",
            )
        ],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "drop": (
        [
            (
                coherence.Region,
                "release_now",
                "dropped,  # rule drop",
                "",
            )
        ],
        [publish, save_in_transaction, warm_read],
        {},
    ),
    "the clock before the version": (
        [
            (
                coherence.Region,
                "release_now",
                "clock,\n            versions,",
                "versions,\n            clock,",
            ),
            (coherence.Store, "keeps_order", "return not", "return False and not"),
        ],
        [save_in_transaction, cold_read],
        {"switches": 3},
    ),
    "the version before the clock": (
        [
            (
                coherence.Read,
                "_is_vouched_for",
                "entries = store.get_in_order([name, region.clock])",
                "entries = store.get_in_order([region.clock, name])",
            ),
            (coherence.Store, "keeps_order", "return not", "return False and not"),
        ],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "the commit of a created row": (
        [
            (
                coherence.Read,
                "fill_created",
                "own.fill_later(self.connection, self, pk, memory.pack(values))",
                "self._fill(pk, values)",
            )
        ],
        [create_and_roll_back, warm_read],
        {"start": "absent"},
    ),
    "commit": (
        [
            (
                coherence.Read,
                "_keep",
                "own.fill_later(connection, self, pk, memory.pack(values))",
                "self._fill(pk, values)",
            )
        ],
        [write_untold_and_roll_back, warm_read],
        {"start": "evicted"},
    ),
    "waited": (
        [
            (
                coherence,
                "has_locked",
                "return locking is not None and locking is first_block(connection)",
                "return False",
            )
        ],
        [save_in_transaction, save_in_transaction, warm_read, lock_and_read],
        {"switches": 2},
    ),
    "the lookup of a hit": (
        [(coherence.Read, "_is_hit", "and self.matches(payload[2])", "")],
        [publish_another_name, warm_read],
        {},
    ),
    "the epoch of a hit": (
        [
            (
                coherence.Read,
                "_is_hit",
                "payload[0] == (epoch, version)",
                "payload[0][1] == version",
            )
        ],
        [update, warm_read],
        {},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(stage, monkeypatch, rule):
    lines, jobs, options = RULES[rule]
    for cls, name, line, instead in lines:
        without(monkeypatch, cls, name, line, instead)
    with pytest.raises(Wrong):
        explored(stage, jobs, **{"switches": 1} | options)
