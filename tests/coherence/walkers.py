"""The connections of a walk, and the steps that each can take."""

import threading
from contextlib import contextmanager
from queue import SimpleQueue

from ..support.errors import Wrong

NAMES = "abc"
MODELS = ("Lamp", "Bulb")
CONNECTIONS = 3
TIMEOUT = 60  # seconds

# Operations with their weights, and their arguments besides a model, a manager
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


class Fault(Exception):
    """The walk's own error, which ends an atomic() block."""


class Member(threading.Thread):
    """A thread with its own connection, which runs one step at a time."""

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
        self.invalidated = set()

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
        from .. import models

        model = getattr(models, model)
        getattr(self, f"do_{operation}")(model, getattr(model, manager), name, size)

    # Rows of the database

    def rows(self, model):
        """
        Return {name: values}, as this connection finds them; None where it may
        not query.

        By the driver, because the package sees a statement of Django's.
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
        """
        Compare the rows that the manager serves with those of the database.
        """
        from .. import models

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
        """No query is allowed: no row is served."""
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
        self.invalidated.clear()
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
        """
        Committed rows must be released. Otherwise they are never hits again.
        """
        for label, pk in written:
            if not self.invalidated & {(label, pk), (label, None)}:
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
        from .. import models

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
        from ..models import Bulb, Lamp

        if model is not Bulb:
            return {}
        lamp = self.row(Lamp, name)
        return {"lamp_id": lamp and lamp[0]}

    def served(self, model, manager, name):
        """Return the row that the manager serves, or None."""
        if self.row(model, name) is None:
            return None
        return manager.get_or_create(name=name)[0]

    def same(self, obj, model):
        """The object that a method returns must be the row of the database."""
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
        # There is no sequence here, and some rows are created again with their
        # key.
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
        member.invalidated |= {(sender._meta.label, pk) for pk in pks or [None]}


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
