"""
Random walks of three connections: writes of every kind, atomic() blocks,
savepoints by hand and errors at every level. After every step each connection
compares what it is served with what its own SELECT finds.

A step is a tuple that can be pasted into a test: (connection, operation, its
arguments, reading), where a reading is (manager, kind of lookup, mask of the
rows). One that makes no sense in the state it meets does nothing, so that any
part of a walk is a walk: a failing one is shrunk by leaving out steps.

Each connection has a thread, and one thread works at a time. A statement that
would wait for another's lock is an error at once.
"""

import argparse
import os
import random
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue

import django

NAMES = "abc"
MODELS = ("Lamp", "Bulb")
MANAGERS = ("plain", "cached", "nonatomic", "plus")
KINDS = ("name", "pk", "get", "bulk", "force")
CONNECTIONS = 3
LENGTH = 80  # steps of a walk
TIMEOUT = 60  # seconds

# Operations with their weights, and what they take besides a model, a manager
# and a name.
WRITES = {
    "get_or_create": 6,
    "update_or_create": 6,
    "create": 2,
    "create_pk": 3,
    "save": 8,
    "save_fields": 3,
    "rename": 3,
    "update_pk": 4,
    "update_name": 4,
    "update_all": 2,
    "update_rename": 2,
    "delete": 4,
    "delete_by_query": 2,
    "bulk_create": 2,
    "bulk_update": 2,
    "bulk_get_or_create": 3,
    "sql_update": 3,
    "sql_insert": 2,
    "sql_delete": 2,
    "invalidate": 3,
    "invalidate_by_query": 1,
    "invalidate_all": 1,
    "select_for_update": 2,
}
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


class Wrong(AssertionError):
    """What is served is not what there is."""


class Fault(Exception):
    """An error of the walk's own, which ends an atomic() block."""


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


class Member(threading.Thread):
    """A thread with a connection of its own, which does one step at a time."""

    def __init__(self, number):
        super().__init__(daemon=True)
        self.number = number
        self.jobs, self.results = SimpleQueue(), SimpleQueue()
        self.reset()
        self.start()

    def run(self):
        from django.core.cache import close_caches
        from django.db import connection

        while job := self.jobs.get():
            try:
                self.results.put((job(), None))
            except BaseException as error:
                self.results.put((None, error))
        connection.close()
        close_caches()

    def do(self, method, *args):
        self.jobs.put(lambda: method(*args))
        result, error = self.results.get(timeout=TIMEOUT)
        if error is not None:
            raise error
        return result

    def leave(self):
        self.jobs.put(None)
        self.join(TIMEOUT)

    def reset(self):
        self.blocks = []  # (Atomic, length of the log)
        self.points = []  # (name, by_sql, depth, length of the log)
        # (model, primary key) of the rows that were written; what is rolled
        # back is cut off.
        self.log = []
        self.told = set()

    # Before and after a walk

    def begin_walk(self):
        from django.db import connection

        connection.ensure_connection()
        raw = connection.connection
        if connection.vendor == "sqlite":
            raw.execute("PRAGMA busy_timeout = 0")
        else:
            with raw.cursor() as cursor:
                if connection.vendor == "mysql":
                    cursor.execute("SET innodb_lock_wait_timeout = 0")
                else:
                    cursor.execute("SET lock_timeout = '2ms'")
                    cursor.execute("SET synchronous_commit TO off")
        self.reset()

    def end_walk(self):
        from django.core.cache import close_caches
        from django.db import Error, connection

        while self.blocks:
            try:
                self.exit(Fault())
            except Error:
                pass
        if connection.in_atomic_block or not connection.get_autocommit():
            connection.close()
        close_caches()

    # Steps

    def step(self, operation, arguments):
        """Return the error that the operation has met, if any."""
        from django.core.exceptions import ObjectDoesNotExist
        from django.db import DatabaseError, InterfaceError
        from django.db.transaction import TransactionManagementError

        try:
            if operation in WRITES:
                self.write(operation, *arguments)
            else:
                getattr(self, f"do_{operation}")(*arguments)
        except (
            DatabaseError,
            InterfaceError,
            Fault,
            ObjectDoesNotExist,
            TransactionManagementError,
        ) as error:
            return error

    def write(self, operation, model, manager, name, size):
        from . import models

        model = getattr(models, model)
        getattr(self, f"do_{operation}")(model, getattr(model, manager), name, size)

    # What there is

    def rows(self, model):
        """
        Return {name: values}, as this connection finds them; None where it may
        not ask.

        By the driver, for a statement of Django's would be told.
        """
        from django.db import connection

        if connection.needs_rollback:
            return None
        connection.ensure_connection()
        columns = [field.column for field in model._meta.concrete_fields]
        try:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(
                    f"SELECT {', '.join(columns)} FROM {model._meta.db_table}"
                )
                return {row[1]: tuple(row) for row in cursor.fetchall()}
            finally:
                cursor.close()
        except connection.Database.Error:
            return None

    def row(self, model, name):
        return (self.rows(model) or {}).get(name)

    @staticmethod
    def values(obj):
        return tuple(getattr(obj, field.attname) for field in obj._meta.concrete_fields)

    def check(self, manager_name, kind, mask):
        """Compare what the manager serves with what there is."""
        from . import models

        for shift, label in enumerate(MODELS):
            model = getattr(models, label)
            manager = getattr(model, manager_name)
            names = [
                name
                for i, name in enumerate(NAMES)
                if mask >> (i + shift * len(NAMES)) & 1
            ]
            rows = self.rows(model)
            if rows is None:
                for name in names[:1]:
                    self.check_nothing(manager, name)
                continue
            names = [name for name in names if name in rows]
            what = f"connection {self.number}: {label}.{manager_name} by {kind}"
            if not names:
                continue
            served = self.ask(manager, kind, names, rows, what)
            for name, obj in zip(names, served, strict=True):
                if self.values(obj) != rows[name]:
                    raise Wrong(
                        f"{what} serves {self.values(obj)}, and there is {rows[name]}"
                    )

    def ask(self, manager, kind, names, rows, what):
        if kind == "bulk":
            pairs = manager.bulk_get_or_create([{"name": name} for name in names])
        elif kind == "get":
            pairs = [(manager.get(name=name), False) for name in names]
        elif kind == "pk":
            pairs = [manager.get_or_create(pk=rows[name][0]) for name in names]
        elif kind == "force" and hasattr(manager, "invalidate"):
            pairs = [
                manager.get_or_create(name=name, force_select=True) for name in names
            ]
        else:
            pairs = [manager.get_or_create(name=name) for name in names]
        if any(created for _, created in pairs):
            raise Wrong(f"{what} says that it has created one of {names}")
        return [obj for obj, _ in pairs]

    def check_nothing(self, manager, name):
        """The database may not be asked: no row is served."""
        from django.db import DatabaseError, InterfaceError
        from django.db.transaction import TransactionManagementError

        try:
            obj, _ = manager.get_or_create(name=name, defaults={"size": -1})
        except (DatabaseError, InterfaceError, TransactionManagementError):
            return
        raise Wrong(
            f"connection {self.number} serves {self.values(obj)} in a broken "
            "transaction"
        )

    # Blocks and savepoints

    def do_begin(self, _):
        self.enter(savepoint=True)

    def do_begin_without_savepoint(self, _):
        self.enter(savepoint=False)

    def enter(self, savepoint):
        from django.db import transaction

        if len(self.blocks) < 5:
            atomic = transaction.atomic(savepoint=savepoint)
            atomic.__enter__()
            self.blocks.append((atomic, len(self.log)))

    def do_end(self, _):
        if self.blocks:
            self.exit()

    def do_fail(self, _):
        if self.blocks:
            self.exit(Fault())

    def exit(self, error=None):
        from django.db import connection

        atomic, mark = self.blocks.pop()
        self.points = [each for each in self.points if each[2] <= len(self.blocks)]
        commits = error is None and not connection.needs_rollback
        written = self.log[:]
        self.told.clear()
        if not commits or not self.blocks:
            del self.log[mark:]
        try:
            atomic.__exit__(type(error) if error else None, error, None)
        except BaseException:
            del self.log[mark:]
            raise
        if commits and not self.blocks:
            self.check_told(written)

    def check_told(self, written):
        """What is committed must be released, or it is never a hit again."""
        for label, pk in written:
            if not self.told & {(label, pk), (label, None)}:
                raise Wrong(
                    f"connection {self.number} has committed {label} {pk} and not "
                    "released it"
                )

    def do_savepoint(self, _):
        from django.db import connection

        if self.blocks:
            name = connection.savepoint()
            self.points.append((name, False, len(self.blocks), len(self.log)))

    def do_roll_back_to(self, number):
        from django.db import connection

        if point := self.point(number, by_sql=False):
            self.cut(point)
            connection.savepoint_rollback(point[0])

    def do_release(self, number):
        from django.db import connection

        if point := self.point(number, by_sql=False):
            del self.points[self.points.index(point) :]
            connection.savepoint_commit(point[0])

    def do_sql_savepoint(self, number):
        if self.blocks:
            name = "xyz"[number]
            self.execute(f"SAVEPOINT {name}")
            self.points = [each for each in self.points if each[0] != name]
            self.points.append((name, True, len(self.blocks), len(self.log)))

    def do_sql_roll_back_to(self, number):
        if point := self.point(number, by_sql=True):
            self.cut(point)
            self.execute(f"ROLLBACK TO {'SAVEPOINT ' * (number % 2)}{point[0]}")

    def do_sql_release(self, number):
        if point := self.point(number, by_sql=True):
            del self.points[self.points.index(point) :]
            self.execute(f"RELEASE SAVEPOINT {point[0]}")

    def point(self, number, by_sql):
        """Return the last savepoint of the kind, or one before it."""
        points = [each for each in self.points if each[1] is by_sql]
        return points[-1 - number % len(points)] if points else None

    def cut(self, point):
        del self.points[self.points.index(point) + 1 :]
        del self.log[point[3] :]

    def execute(self, sql, params=None):
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(sql, params)

    # Errors

    def do_error(self, kind):
        from . import models

        if kind == 0:
            self.execute("SELECT nothing FROM tests_nowhere")
        else:
            for name in self.rows(models.Lamp) or ():
                models.Lamp.plain.create(name=name, size=0)

    def do_guarded_error(self, kind):
        from django.db import transaction

        with transaction.atomic():
            self.do_error(kind)
            raise Fault

    def do_set_rollback(self, _):
        from django.db import transaction

        if self.blocks:
            transaction.set_rollback(True)

    def do_mend(self, number):
        from django.db import connection, transaction

        if point := self.point(number, by_sql=False):
            transaction.set_rollback(False)
            self.cut(point)
            connection.savepoint_rollback(point[0])

    def do_on_commit(self, number):
        from django.db import transaction

        reading = ("cached", "plus", "plus")[number], ("name", "bulk", "pk")[number], 63
        transaction.on_commit(lambda: self.check(*reading))

    # Writes

    def wrote(self, obj_or_pk, model):
        from django.db import connection

        if connection.in_atomic_block:
            pk = getattr(obj_or_pk, "pk", obj_or_pk)
            self.log.append((model._meta.label, str(pk)))

    def more(self, model, name):
        """Return the values of the other columns of a new row."""
        from .models import Bulb, Lamp

        if model is not Bulb:
            return {}
        lamp = self.row(Lamp, name)
        return {"lamp_id": lamp and lamp[0]}

    def served(self, model, manager, name):
        """Return the row as the manager serves it, or None."""
        if self.row(model, name) is None:
            return None
        return manager.get_or_create(name=name)[0]

    def same(self, obj, model):
        """The object that a method returns must be the row that there is."""
        row = self.row(model, obj.name)
        if row is not None and self.values(obj) != row:
            raise Wrong(
                f"connection {self.number}: {self.values(obj)} is returned, and there "
                f"is {row}"
            )

    def do_get_or_create(self, model, manager, name, size):
        known = self.row(model, name)
        defaults = {"size": size, **self.more(model, name)}
        obj, created = manager.get_or_create(name=name, defaults=defaults)
        if created != (known is None):
            raise Wrong(f"connection {self.number}: created={created} of {known}")
        self.same(obj, model)

    def do_update_or_create(self, model, manager, name, size):
        known = self.row(model, name)
        defaults = {"size": size, **self.more(model, name)}
        obj, created = manager.update_or_create(name=name, defaults=defaults)
        if created != (known is None):
            raise Wrong(f"connection {self.number}: created={created} of {known}")
        if not created:
            self.wrote(obj, model)
        self.same(obj, model)

    def do_create(self, model, manager, name, size):
        manager.create(name=name, size=size, **self.more(model, name))

    def do_create_pk(self, model, manager, name, size):
        # No sequence comes here, and some rows are made anew under their key.
        pk = -1 - size % 2
        manager.create(pk=pk, name=name, size=size, **self.more(model, name))

    def do_save(self, model, manager, name, size):
        if obj := self.served(model, manager, name):
            obj.size = size
            obj.save()
            self.wrote(obj, model)

    def do_save_fields(self, model, manager, name, size):
        if obj := self.served(model, manager, name):
            obj.size = size
            obj.save(update_fields=["size"])
            self.wrote(obj, model)

    def do_rename(self, model, manager, name, size):
        if obj := self.served(model, manager, name):
            obj.name = NAMES[size % len(NAMES)]
            obj.save()
            self.wrote(obj, model)

    def do_update_pk(self, model, manager, name, size):
        row = self.row(model, name)
        if row and manager.filter(pk=row[0]).update(size=size):
            self.wrote(row[0], model)

    def do_update_name(self, model, manager, name, size):
        row = self.row(model, name)
        if manager.filter(name=name).update(size=size) and row:
            self.wrote(row[0], model)

    def do_update_all(self, model, manager, name, size):
        manager.update(size=size)

    def do_update_rename(self, model, manager, name, size):
        manager.filter(name=name).update(name=NAMES[size % len(NAMES)])

    def do_delete(self, model, manager, name, size):
        if obj := self.served(model, manager, name):
            pk = obj.pk
            obj.delete()
            self.wrote(pk, model)

    def do_delete_by_query(self, model, manager, name, size):
        manager.filter(name=name).delete()

    def do_bulk_create(self, model, manager, name, size):
        from django.db import connection

        objs = [
            model(name=each, size=size, **self.more(model, each))
            for each in {name, NAMES[size % len(NAMES)]}
        ]
        options = {}
        if size % 3 == 1:
            options = {"ignore_conflicts": True}
        elif size % 3 == 2:
            options = {"update_conflicts": True, "update_fields": ["size"]}
            if connection.features.supports_update_conflicts_with_target:
                options["unique_fields"] = ["name"]
        manager.bulk_create(sorted(objs, key=lambda obj: obj.name), **options)

    def do_bulk_update(self, model, manager, name, size):
        if self.rows(model):
            objs = list(manager.order_by("name"))
            for obj in objs:
                obj.size = size
            manager.bulk_update(objs, ["size"])

    def do_bulk_get_or_create(self, model, manager, name, size):
        if not hasattr(manager, "bulk_get_or_create"):
            return
        known = self.rows(model) or {}
        names = sorted({name, NAMES[size % len(NAMES)]})
        rows = [
            {"name": each, "size": size, **self.more(model, each)} for each in names
        ]
        pairs = manager.bulk_get_or_create(rows, unique_fields=["name"])
        for each, (obj, created) in zip(names, pairs, strict=True):
            if created != (each not in known):
                raise Wrong(
                    f"connection {self.number}: created={created} of {known.get(each)}"
                )
            self.same(obj, model)

    def do_sql_update(self, model, manager, name, size):
        table = model._meta.db_table
        self.execute(f"UPDATE {table} SET size = %s WHERE name = %s", [size, name])

    def do_sql_insert(self, model, manager, name, size):
        table = model._meta.db_table
        self.execute(f"INSERT INTO {table} (name, size) VALUES (%s, %s)", [name, size])

    def do_sql_delete(self, model, manager, name, size):
        self.execute(f"DELETE FROM {model._meta.db_table} WHERE name = %s", [name])

    def do_invalidate(self, model, manager, name, size):
        from getorcreateplus import invalidate

        if row := self.row(model, name):
            if hasattr(manager, "invalidate") and size % 2:
                manager.using("default").invalidate(row[0])
            else:
                invalidate(model(*row), using="default")

    def do_invalidate_by_query(self, model, manager, name, size):
        from getorcreateplus import invalidate

        invalidate(manager.filter(name=name), using="default")

    def do_invalidate_all(self, model, manager, name, size):
        from getorcreateplus import invalidate

        invalidate(model, using="default")

    def do_select_for_update(self, model, manager, name, size):
        from django.db import connection

        if self.blocks and connection.features.has_select_for_update:
            for obj in manager.select_for_update().filter(name=name):
                self.same(obj, model)
                obj.size = size
                obj.save()
                self.wrote(obj, model)


def note_told(sender, pks, **kwargs):
    member = threading.current_thread()
    if isinstance(member, Member):
        member.told |= {(sender._meta.label, pk) for pk in pks or [None]}


@contextmanager
def company():
    """Provide the connections."""
    from getorcreateplus.signals import cache_invalidated

    members = [Member(number) for number in range(CONNECTIONS)]
    cache_invalidated.connect(note_told)
    try:
        yield members
    finally:
        cache_invalidated.disconnect(note_told)
        for member in members:
            member.leave()


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
    """Return (how many steps were right, what is wrong then, or None)."""
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
    Return the fewest of the steps that are still wrong, and what is.

    `right` and `error` are what play() has returned. Asked again, it may find
    nothing wrong: what InnoDB locks depends on when it purges deleted rows.
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
    """Return a failing walk as what can be pasted into test_walk.py."""
    lines = "".join(f"        {step!r},\n" for step in steps)
    return f"    [\n{lines}    ],\n"


def walk(members, seed, walks, seconds=None, **options):
    """Play so many walks. Return (steps played, what is wrong, or None)."""
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
