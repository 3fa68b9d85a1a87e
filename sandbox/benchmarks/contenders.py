"""The contenders. They use only the public names of their packages."""

import math
from contextlib import nullcontext
from functools import partial
from itertools import count

from django.core.cache import caches
from django.db import connection
from django.db.models import Manager
from gazetteer import services

from .cases import CONTENDERS, ORMS, OURS
from .models import TABLES, make_model, rows_of

BATCH = 10_000  # rows of a bulk_create()
PATIENCE = 1_000  # reads before a process decides whether the cache saves time
CHUNK = 1_000  # rows of a batch by hand
WARM = 100  # new rows that one batch puts into the cache
ENTRIES = 100_000  # of other rows, in the cache of the large table


class Contender:
    """Plain calls, and their tables, which are created at their first use."""

    def __init__(self, name, manager=Manager, **managers):
        self.models = {
            table: make_model(name, table, managers.get(table, manager)())
            for table in TABLES
        }
        self.filled = []
        self.numbers = count(10_000_000)  # of rows that are in no table yet
        self.values = count(1)  # that no row has yet
        self.statements = {}  # model: the SELECT by hand

    def model(self, table):
        if table not in self.filled:
            self.filled.append(table)
            services.create_tables(connection, [self.models[table]])
            self.fill(table)
        return self.models[table]

    def fill(self, table):
        for start in range(0, TABLES[table], BATCH):
            stop = min(start + BATCH, TABLES[table])
            self.insert(table, range(start, stop))

    def insert(self, table, numbers):
        model = self.models[table]
        model.objects.bulk_create(
            model(name=name, **defaults) for name, defaults in rows_of(numbers)
        )

    def join(self):
        """Use the tables that another process has created, and will drop."""
        self.filled = [*TABLES]

    def drop(self):
        with connection.schema_editor() as editor:
            for table in self.filled:
                editor.delete_model(self.models[table])

    def warm(self, model, rows):
        """Put these rows into the cache."""
        for name, defaults in rows:
            self.get_or_create(model, name, defaults)

    def get_or_create(self, model, name, defaults):
        return model.objects.get_or_create(name=name, defaults=defaults)

    def get(self, model, name):
        return model.objects.get(name=name)

    def begin_mix(self):
        """Read the cache as a process of a project does."""

    def select(self):
        """Return the context in which each call queries the database."""
        return nullcontext()

    def answer(self, model, obj):
        """Return the result of a call as an instance of the model."""
        return obj

    def update(self, model, value):
        return model.objects.update(count=value)

    def save(self, obj):
        obj.save()

    def bulk(self, model, rows):
        return [self.get_or_create(model, *row) for row in rows]

    def bulk_hit(self, model, rows):
        found = model.objects.in_bulk([name for name, _ in rows], field_name="name")
        return [(found[name], False) for name, _ in rows]

    def bulk_update(self, model, rows):
        return [
            model.objects.update_or_create(defaults, name=name)
            for name, defaults in rows
        ]

    def bulk_changed(self, model, rows):
        return self.bulk_update(model, rows)

    def warm_in_bulk(self, model, rows):
        pass


class Get(Contender):
    """get() instead of get_or_create()."""

    def get_or_create(self, model, name, defaults):
        return model.objects.get(name=name), False


class ByHand(Contender):
    """A SELECT, an INSERT, no savepoint."""

    def get_or_create(self, model, name, defaults):
        try:
            return model.objects.get(name=name), False
        except model.DoesNotExist:
            return model.objects.create(name=name, **defaults), True


class Select(Contender):
    """SQL by hand with Django's cursor, and an instance of the row."""

    def get(self, model, name):
        fields = model._meta.concrete_fields
        if model not in self.statements:
            columns = ", ".join(connection.ops.quote_name(f.column) for f in fields)
            table = connection.ops.quote_name(model._meta.db_table)
            sql = f"SELECT {columns} FROM {table} WHERE name = %s LIMIT 21"
            converters = {
                place: found
                for place, field in enumerate(fields)
                if (found := connection.ops.get_db_converters(field.cached_col))
            }
            self.statements[model] = sql, converters, [f.attname for f in fields]
        sql, converters, attnames = self.statements[model]
        with connection.cursor() as cursor:
            cursor.execute(sql, [name])
            [row] = cursor.fetchall()
        row = list(row)
        for place, functions in converters.items():
            for function in functions:
                column = fields[place].cached_col
                row[place] = function(row[place], column, connection)
        return model.from_db("default", attnames, row)

    def get_or_create(self, model, name, defaults):
        return self.get(model, name), False


class Invalidating(Contender):
    """Each write sends a command to the cache before it and one after it."""

    def save(self, obj):
        version = f"{obj.name}:version"
        caches["default"].set_many({version: "LOCK"})
        obj.save()
        entries = {"clock": f"{obj.count}", version: f"{obj.count}", obj.name: None}
        caches["default"].set_many(entries)


class BulkByHand(Contender):
    """
    SELECT, bulk_create(ignore_conflicts=True), SELECT. Whether this process
    has created a row is a guess.
    """

    def bulk(self, model, rows):
        answers = []
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            there = self.names(model, chunk)
            model.objects.bulk_create(
                [model(name=name, **d) for name, d in chunk if name not in there],
                ignore_conflicts=True,
            )
            found = self.names(model, chunk)
            answers += [(found[name], name not in there) for name, _ in chunk]
        return answers

    def names(self, model, rows):
        return model.objects.in_bulk([name for name, _ in rows], field_name="name")


class UpdatesByHand(Contender):
    """SELECT … FOR UPDATE, bulk_create(), bulk_update(): lost races raise."""

    def bulk_update(self, model, rows, only_changed=False):
        answers = []
        for start in range(0, len(rows), CHUNK):
            chunk = dict(rows[start : start + CHUNK])
            locked = model.objects.select_for_update().filter(name__in=[*chunk])
            there = {obj.name: obj for obj in locked}
            changed = []
            for name, obj in there.items():
                values = vars(obj)
                if only_changed and chunk[name].items() <= values.items():
                    continue
                values.update(chunk[name])
                changed.append(obj)
            model.objects.bulk_update(changed, [*rows[0][1]])
            new = model.objects.bulk_create(
                model(name=name, **chunk[name]) for name in chunk if name not in there
            )
            found = there | {obj.name: obj for obj in new}
            answers += ((found[name], name not in there) for name in chunk)
        return answers

    def bulk_changed(self, model, rows):
        return self.bulk_update(model, rows, only_changed=True)


class Ours(Contender):
    def begin_mix(self):
        asking().PATIENCE = PATIENCE

    def bulk(self, model, rows):
        return model.objects.bulk_get_or_create(
            {"name": name, **defaults} for name, defaults in rows
        )

    def bulk_hit(self, model, rows):
        return model.objects.bulk_get_or_create({"name": name} for name, _ in rows)

    def bulk_update(self, model, rows, **options):
        return model.objects.bulk_update_or_create(
            ({"name": name, **defaults} for name, defaults in rows), **options
        )

    def bulk_changed(self, model, rows):
        return self.bulk_update(model, rows, only_changed=True)

    def warm_in_bulk(self, model, rows):
        for start in range(0, len(rows), WARM):
            for _ in range(2):
                self.bulk_hit(model, rows[start : start + WARM])


class Bypassing(Ours):
    def select(self):
        from getorcreateplus import bypass

        return bypass()


class Floor(Contender):
    """One cache command, a comparison of the stamp, and an instance."""

    def __init__(self, name, alias="default"):
        super().__init__(name)
        self.alias = alias
        fields = self.models["read"]._meta.concrete_fields
        self.attnames = [field.attname for field in fields]

    def warm(self, model, rows):
        names = [name for name, _ in rows]
        found = model.objects.filter(name__in=names).values_list(*self.attnames)
        stamp = "an epoch token", "a version token"
        entries = {"epoch": stamp[0]}
        for values in found:
            name = values[self.attnames.index("name")]
            entries |= {f"{name}:version": stamp[1], name: (stamp, values)}
        caches[self.alias].set_many(entries)

    def get_or_create(self, model, name, defaults):
        version = f"{name}:version"
        entries = caches[self.alias].get_many([name, version, "epoch"])
        stamp, values = entries[name]
        if stamp == (entries["epoch"], entries[version]):
            return model.from_db("default", self.attnames, values), False
        raise LookupError(f"The floor has lost {name}.")


class Cached(Ours):
    """The cache of the large table has entries of other rows as well."""

    batches = [
        [f"entry-{number}" for number in range(start, start + BATCH // 10)]
        for start in range(0, ENTRIES, BATCH // 10)
    ]

    def fill(self, table):
        super().fill(table)
        if table == "large":
            row = self.models[table].objects.values_list()[0]
            for keys in self.batches:
                caches["large"].set_many(dict.fromkeys(keys, row))

    def drop(self):
        super().drop()
        if "large" in self.filled:
            for keys in self.batches:
                caches["large"].delete_many(keys)


class InvalidatedUpdate(Contender):
    """Invalidates the rows that update() of cacheops leaves in its cache."""

    def update(self, model, value):
        return model.objects.invalidated_update(count=value)


def contenders_of(process):
    """Return {name: contender} for the contenders of this process."""
    if process == OURS:
        return our_contenders()
    if process in ORMS:
        from . import orms

        classes = {
            "sqlalchemy": orms.SQLAlchemyORM,
            "sqlalchemy-core": orms.SQLAlchemyCore,
            "peewee": orms.Peewee,
        }
        return made(process, classes)
    classes = {
        "select": Select,
        "by-hand": ByHand,
        "bulk-by-hand": BulkByHand,
        "updates-by-hand": UpdatesByHand,
        "invalidating": Invalidating,
        "cacheops-get": Get,
        "cacheops-update": InvalidatedUpdate,
    }
    return made(process, classes)


def made(process, classes):
    return {
        name: classes.get(name, Contender)(name)
        for name, contender in CONTENDERS.items()
        if contender.process == process
    }


def asking():
    from getorcreateplus.coherence import asking

    return asking


def our_contenders():
    # If reading the cache for each lookup does not save time, a process reads
    # it only for a sample of them. Here each call shall read it.
    asking().PATIENCE = math.inf
    # Imported here, because this package reads each statement of a connection
    # that is made after its import.
    from getorcreateplus import (
        AlwaysManager,
        CachedManager,
        CachedNonAtomicManager,
        CachedQuerySet,
        NonAtomicManager,
        PlusManager,
    )

    class LocalQuerySet(CachedQuerySet):
        local_timeout = 60

    class LargeQuerySet(CachedQuerySet):
        key_cache_alias = object_cache_alias = "large"

    return {
        "cached": Cached("cached", CachedManager, large=LargeQuerySet.as_manager),
        "nonatomic": Ours("nonatomic", NonAtomicManager),
        "cached-nonatomic": Ours("cached-nonatomic", CachedNonAtomicManager),
        "always": Contender("always", AlwaysManager),
        "always-get": Get("always-get", AlwaysManager),
        "plus": Ours("plus", PlusManager),
        "plus-get": Get("plus-get", partial(PlusManager, caches_get=True)),
        "plus-bypass": Bypassing("plus-bypass", PlusManager),
        "local": Ours("local", LocalQuerySet.as_manager),
        "floor": Floor("floor"),
        "floor-locmem": Floor("floor-locmem", alias="memory"),
    }
