"""
Every order of two writers and two readers, within a bound, and random orders
beyond it: the package itself, on connections to a real server.

Two things must hold in each. A read that begins after a write has returned
does not yield a value older than that write. And once all actors have
finished, the cache serves what the database holds.

INTERLEAVINGS_SWITCHES is the number of turns that may be taken from an actor
that could continue (1), INTERLEAVINGS_RANDOM is the number of random orders
(500), and INTERLEAVINGS_SEED repeats earlier random orders.
"""

import itertools
import os
import random
import sys

import pytest

from getorcreateplus.coherence import journal
from getorcreateplus.coherence.transports.django import DjangoTransport

from .interleavings import GatedCache, at_random
from .jobs import (
    cold_read,
    cold_read_in_bulk,
    create,
    create_and_roll_back,
    create_in_bulk_and_roll_back,
    create_in_bulk_in_transaction,
    create_in_transaction,
    delete,
    evict_clock,
    evict_epoch,
    evict_payload,
    evict_version,
    lock_and_read,
    publish,
    publish_and_roll_back,
    publish_and_save,
    publish_twice,
    read_in_transaction,
    rename,
    roll_back,
    roll_back_to_savepoint,
    save,
    save_and_read,
    save_in_transaction,
    update,
    update_in_transaction,
    warm_read,
    warm_read_in_bulk,
    write_untold_and_roll_back,
)
from .stages import explored

pytestmark = [
    pytest.mark.slow,
    # SQLite has one writer at a time: the others wait until it has ended.
    pytest.mark.database("postgresql"),
    pytest.mark.django_db(transaction=True, available_apps=["tests"]),
]

RANDOM = int(os.environ.get("INTERLEAVINGS_RANDOM", "500"))
SEED = int(os.environ.get("INTERLEAVINGS_SEED", "0")) or random.randrange(2**32)


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
    # With an empty cache, only the second of two equal reads can be a hit.
    readers = [cold_read, cold_read] if start == "empty" else READERS
    explored(stage, [writer, *readers], start=start)


@pytest.mark.parametrize("writer", [save_in_transaction, publish, update])
def test_every_order_where_the_rows_have_a_cache_of_their_own(far_stage, writer):
    explored(far_stage, [writer, *READERS], start="evicted")


def several_servers(monkeypatch, several=True):
    monkeypatch.setattr(GatedCache, "splits", several)
    monkeypatch.setattr(DjangoTransport, "keeps_order", lambda transport: not several)


@pytest.mark.parametrize("writer", [save_in_transaction, publish])
def test_every_order_where_the_cache_has_several_servers(stage, writer, monkeypatch):
    several_servers(monkeypatch)
    explored(stage, [writer, *READERS], start="evicted")
    explored(stage, [writer, cold_read, cold_read], 2)


@pytest.mark.parametrize(
    "writer", [save, save_in_transaction, publish, update, update_in_transaction]
)
def test_killed_writer_hides_nothing(stage, writer):
    """
    There is one writer, because a second one may release the row that the
    first has locked.
    """
    explored(stage, [writer, warm_read], mortal={writer.__name__})


@pytest.mark.parametrize("writer", [create, create_in_transaction])
def test_every_order_of_two_creators_and_a_reader(stage, writer):
    explored(stage, [writer, create_and_roll_back, cold_read], start="absent")


@pytest.mark.parametrize("batch", [1, 16])
def test_every_order_around_rows_that_are_announced_together(stage, batch, monkeypatch):
    monkeypatch.setattr(journal, "MAX_SINGLE", 0)
    monkeypatch.setattr(journal, "MAX_BATCH", batch)
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
        monkeypatch.setattr(journal, "MAX_SINGLE", rng.choice([0, 4]))
        monkeypatch.setattr(journal, "MAX_BATCH", rng.choice([1, 16]))
        jobs = [
            *rng.choices(WRITERS + OTHER_WRITERS, k=2),
            *rng.choices(OTHERS, k=2),
        ]
        start = rng.choice(["warm", "evicted", "empty", "absent"])
        rng.choice([stage, far_stage]).play(jobs, at_random(rng), start=start)
    # At random, 1 order in 5 has a hit; of few orders it may be 1 in 20.
    assert stage.hits + far_stage.hits > 0
