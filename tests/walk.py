"""
Random walks of three connections: writes of every kind, atomic() blocks,
savepoints by hand and errors at every level. After every step each connection
compares the rows that it is served with those of its own SELECT.

A step is a tuple that can be pasted into a test: (connection, operation, its
arguments, reading), where a reading is (manager, kind of lookup, mask of the
rows). A step that is impossible in the current state does nothing, so any part
of a walk is a walk: a failing one is shrunk by leaving out steps.

Each connection has a thread, and one thread works at a time. A statement that
would wait for another's lock is an error at once.
"""

import argparse
import os
import random
import sys
import time
import uuid
from contextlib import contextmanager
from itertools import count

import django

from .coherence.walkers import CONNECTIONS, MODELS, NAMES, WRITES, company

MANAGERS = ("plain", "cached", "nonatomic", "plus")
KINDS = ("name", "pk", "get", "bulk", "force")
LENGTH = 80  # steps of a walk

BLOCKS = {
    "begin": 20,
    "begin_without_savepoint": 2,
    "end": 14,
    "fail": 12,
    "savepoint": 5,
    "roll_back_to": 5,
    "release": 2,
    "sql_savepoint": 3,
    "sql_roll_back_to": 3,
    "sql_release": 1,
    "error": 3,
    "guarded_error": 3,
    "set_rollback": 1,
    "mend": 1,
    "on_commit": 2,
}


def generate(rng, length=LENGTH, managers=MANAGERS):
    """Return the steps of a walk."""
    operations = WRITES | BLOCKS
    steps = []
    number = rng.randrange(CONNECTIONS)
    for size in range(1, length + 1):
        if rng.random() < 0.2:
            number = rng.randrange(CONNECTIONS)
        [operation] = rng.choices(list(operations), operations.values())
        if operation in WRITES:
            arguments = (
                rng.choice(MODELS),
                rng.choice(managers),
                rng.choice(NAMES),
                size,
            )
        else:
            arguments = (rng.randrange(3),)
        reading = None
        if rng.random() < 0.9:
            kind = rng.choice(KINDS)
            reading = (rng.choice(managers[1:]), kind, rng.randrange(1, 64))
        steps.append((number, operation, arguments, reading))
    return steps


# Playing


@contextmanager
def fresh_caches():
    from django.conf import settings
    from django.test import override_settings

    prefix = uuid.uuid4().hex[:8]
    caches = {
        alias: options | {"KEY_PREFIX": f"walk.{prefix}.{alias}"}
        for alias, options in settings.CACHES.items()
    }
    with override_settings(CACHES=caches):
        yield


def play(members, steps):
    """Return (number of right steps, the error after them, or None)."""
    from .models import Bulb, Lamp

    with fresh_caches():
        for member in members:
            member.do(member.begin_walk)
        right = 0
        try:
            for who, operation, arguments, reading in steps:
                members[who].do(members[who].step, operation, arguments)
                if reading is not None:
                    first = reading[2] % len(members)
                    for member in (*members[first:], *members[:first]):
                        member.do(member.check, *reading)
                right += 1
        except Exception as error:
            return right, error
        finally:
            for member in members:
                member.do(member.end_walk)
            member.do(lambda: [m.plain.all().delete() for m in (Bulb, Lamp)])
            member.do(member.end_walk)
    return right, None


# Shrinking


def shrink(members, steps, right, error):
    """
    Return the fewest steps that are still wrong, and their error.

    `right` and `error` are what play() has returned. A second run may find no
    error, because InnoDB's locks depend on when it purges deleted rows.
    """
    steps = steps[: right + 1]
    size = len(steps) // 2
    while size:
        start, has_shrunk = 0, False
        while start < len(steps):
            part = steps[:start] + steps[start + size :]
            right, found = play(members, part)
            if found is None:
                start += size
            else:
                steps, error, has_shrunk = part[: right + 1], found, True
        size = size // 2 if size > 1 else int(has_shrunk)
    # Fewer readings, of fewer rows.
    for i, (*step, reading) in enumerate(steps):
        masks = [reading[2] & 7, reading[2] & 56] if reading else []
        masks += [reading[2] & 1 << bit for bit in range(6)] if reading else []
        for simpler in (None, *((*reading[:2], m) for m in masks)) if reading else ():
            part = [*steps[:i], (*step, simpler), *steps[i + 1 :]]
            right, found = play(members, part)
            if found is not None and right + 1 == len(part):
                steps, error = part, found
                if simpler is None:
                    break
    return steps, error


def as_test(steps):
    """Return a failing walk as text that can be pasted into test_walk.py."""
    lines = "".join(f"        {step!r},\n" for step in steps)
    return f"    [\n{lines}    ],\n"


def walk(members, seed, walks, seconds=None, **options):
    """
    Play this number of walks. Return (number of steps, the error, or None).
    """
    played, end = 0, time.monotonic() + (seconds or float("inf"))
    for number in count() if walks is None else range(walks):
        if time.monotonic() > end:
            break
        steps = generate(random.Random(f"{seed}.{number}"), **options)
        right, error = play(members, steps)
        played += right
        if error is not None:
            shrunk, error = shrink(members, steps, right, error)
            return played, (
                f"Seed {seed}, walk {number}, {len(shrunk)} of {len(steps)} steps: "
                f"{error!r}\n{as_test(shrunk)}"
            )
    return played, None


def new_seed():
    """Return the seed of WALK_SEED, or a new one."""
    return int(os.environ.get("WALK_SEED") or random.randrange(2**32))


def main(args=None):
    options = parse(args)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from django.db import connection

    name = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True)
    if options.wal:
        connection.cursor().execute("PRAGMA journal_mode = wal")
    managers = MANAGERS + ("remembered",) * options.remembered
    try:
        with company() as members:
            played, wrong = walk(
                members,
                options.seed,
                options.steps and -(-options.steps // options.length),
                options.seconds,
                length=options.length,
                managers=managers,
            )
    finally:
        connection.creation.destroy_test_db(name, verbosity=0)
    result = wrong or f"Seed {options.seed}: {played} steps, and all is right."
    sys.stdout.write(f"{result}\n")
    return int(wrong is not None)


def parse(args):
    parser = argparse.ArgumentParser(
        prog="python -m tests.walk",
        description="Walk at random with three connections, and compare what is "
        "served with what there is. DATABASE_URL and CACHE_URL choose the services. "
        "Exit with 1 and the shortest walk, when one is wrong.",
    )
    add = parser.add_argument
    add("--seed", type=int, default=new_seed(), help="of the walks (WALK_SEED)")
    add("--steps", type=int, help="at least so many")
    add("--seconds", type=float, help="no new walk after that (60 without --steps)")
    add("--length", type=int, default=LENGTH, help=f"steps of a walk ({LENGTH})")
    add("--remembered", action="store_true", help="use the process's memory as well")
    add("--wal", action="store_true", help="SQLite with a write-ahead log")
    options = parser.parse_args(args)
    if options.steps is None and options.seconds is None:
        options.seconds = 60
    return options


if __name__ == "__main__":
    sys.exit(main())
