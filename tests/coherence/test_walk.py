"""Random walks of three connections: tests/walk.py."""

import random
import sys

import pytest
from django.db import connection

from getorcreateplus.coherence import journal, levels

from .. import walk
from ..support.errors import Wrong
from ..walk import MANAGERS, generate, new_seed, play, shrink
from .walkers import company

pytestmark = pytest.mark.django_db(transaction=True)

# Walks of 80 steps: ten seconds on PostgreSQL, and less on SQLite.
WALKS = 20


@pytest.fixture
def members():
    with company() as members:
        yield members


@pytest.fixture
def write_ahead_log():
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode = wal")
    connection.close()
    yield
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode = delete")
    connection.close()


def check(members, walks, managers=MANAGERS):
    seed = new_seed()
    sys.stdout.write(f"WALK_SEED={seed}\n")
    played, wrong = walk.walk(members, seed, walks, managers=managers)
    assert wrong is None, wrong
    assert played == walks * walk.LENGTH


@pytest.mark.slow
def test_shared_cache(members):
    check(members, WALKS)


@pytest.mark.slow
def test_shared_cache_for_long(members):
    check(members, 3 * WALKS)


@pytest.mark.slow
def test_memory_of_the_process(members):
    check(members, 2 * WALKS, (*MANAGERS, "remembered"))


@pytest.mark.slow
@pytest.mark.database("sqlite")
@pytest.mark.usefixtures("write_ahead_log")
def test_write_ahead_log(members):
    check(members, 2 * WALKS)


def do_nothing(*args, **kwargs):
    pass


def ignore_what_is_owed(monkeypatch):
    """A write in a transaction is neither locked nor released."""
    monkeypatch.setattr(journal.Journal, "lock", do_nothing)
    monkeypatch.setattr(journal.Journal, "lock_all", do_nothing)


def trust_what_was_rolled_back(monkeypatch):
    monkeypatch.setattr(journal.Journal, "doubt", do_nothing)
    release = journal.Journal.release_savepoint
    monkeypatch.setattr(journal.Journal, "roll_back_to", release)


def drop_what_is_released(monkeypatch):
    """
    Rows that are written in a savepoint are lost with it, even after a commit.
    """
    monkeypatch.setattr(levels.Level, "take", do_nothing)


def shrunk_walks(members):
    for seed in range(400):
        steps = generate(random.Random(seed))
        right, error = play(members, steps)
        if error is not None:
            yield shrink(members, steps, right, error)


@pytest.mark.slow
@pytest.mark.database("sqlite")  # a search of minutes on a server
@pytest.mark.parametrize(
    "break_rule",
    [ignore_what_is_owed, trust_what_was_rolled_back, drop_what_is_released],
)
def test_broken_rule_is_found_and_its_walk_is_short(members, monkeypatch, break_rule):
    with monkeypatch.context() as patch:
        break_rule(patch)
        # Some long walks stay long, because no step can be left out alone.
        shrunk, error = next(
            found for found in shrunk_walks(members) if len(found[0]) <= 12
        )
        assert isinstance(error, Wrong)
    assert play(members, shrunk) == (len(shrunk), None)


def test_walk_that_found_a_row_which_is_never_released(members):
    steps = [
        (0, "update_or_create", ("Bulb", "plain", "c", 30), None),
        (1, "begin", (0,), None),
        (1, "update_or_create", ("Bulb", "plain", "c", 36), None),
        (1, "begin", (2,), None),
        (1, "update_or_create", ("Lamp", "plain", "c", 37), None),
        (1, "begin", (0,), None),
        (1, "fail", (1,), None),
        (1, "fail", (1,), None),
        (1, "end", (1,), None),
    ]
    assert play(members, steps) == (len(steps), None)


def test_failing_walk_is_reported(members, monkeypatch):
    """The text can be pasted into a test, and has the seed that repeats it."""
    ignore_what_is_owed(monkeypatch)
    monkeypatch.setenv("WALK_SEED", "7")
    seed = new_seed()
    _, wrong = walk.walk(members, seed, None)
    heading, *lines = wrong.splitlines()
    assert heading.startswith("Seed 7, walk ")
    steps = eval("\n".join(lines).strip().rstrip(","))
    right, error = play(members, steps)
    assert right == len(steps) - 1
    assert isinstance(error, Wrong)
