"""The measured calls of a contender. Each answer is checked afterwards."""

import asyncio
import gc
import sys
import time
from contextlib import ExitStack, nullcontext
from functools import partial, wraps
from itertools import islice
from unittest import mock

from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction

from .cases import MIXES
from .models import TABLES, rows_of

MANY = 10_000  # rows of a batch
LOOP_WARM = 30  # calls in an event loop before it is measured


class WrongAnswer(Exception):
    pass


class Stopwatch:
    def __enter__(self):
        gc.collect()
        self.start = time.perf_counter()

    def __exit__(self, *exc_info):
        self.microseconds = (time.perf_counter() - self.start) * 1e6

    def result(self):
        return {"microseconds": self.microseconds}


class Counter:
    """
    Count queries and cache commands.

    Savepoints count as queries, BEGIN and COMMIT do not. A command is one call
    of Django's cache API, even if the backend makes several of it, or one call
    of a Redis client that is used directly.

    Its imports are inside the methods, because this package reads the
    statements of each process that imports it: plain Django is measured first.
    """

    def __init__(self):
        self.queries = self.commands = 0

    def __enter__(self):
        from getorcreateplus.test import CaptureCacheCommands

        with ExitStack() as stack:
            stack.enter_context(connection.execute_wrapper(self.count_query))
            self.made = stack.enter_context(CaptureCacheCommands())
            if redis := sys.modules.get("redis"):
                counted = self.counted(redis.Redis.execute_command)
                stack.enter_context(
                    mock.patch.object(redis.Redis, "execute_command", counted)
                )
            self.stack = stack.pop_all()

    def __exit__(self, *exc_info):
        self.stack.close()
        self.commands += len(self.made)

    def count_query(self, execute, sql, params, many, context):
        self.queries += not sql.startswith("BEGIN")
        return execute(sql, params, many, context)

    def counted(self, method):
        from getorcreateplus.diagnosis.capturing import in_command

        @wraps(method)
        def wrapped(*args, **kwargs):
            self.commands += not in_command.get()
            return method(*args, **kwargs)

        return wrapped

    def result(self):
        return {"queries": self.queries, "commands": self.commands}


def some_rows(table, number, random, value=0):
    return rows_of(random.sample(range(TABLES[table]), number), value)


def ask(contender, model, rows, meter, *, created, atomic=False):
    with meter, transaction.atomic() if atomic else nullcontext():
        answers = [
            contender.get_or_create(model, name, defaults) for name, defaults in rows
        ]
    check(model, rows, answers, created=created)


def check(model, rows, answers, *, created):
    """Raise WrongAnswer unless the answers are these rows of the table."""
    names = [name for name, _ in rows]
    pks = dict(model.objects.filter(name__in=names).values_list("name", "pk"))
    for (name, values), (obj, was_created) in zip(rows, answers, strict=True):
        expected = {"pk": pks.get(name), "name": name, **values}
        found = {attname: getattr(obj, attname) for attname in expected}
        if type(obj) is not model or found != expected or was_created is not created:
            raise WrongAnswer(f"{found}, {was_created} instead of {expected}")


def hit(contender, meter, calls, random, table="read"):
    model = contender.model(table)
    rows = some_rows(table, calls, random)
    contender.warm(model, rows)
    ask(contender, model, rows, meter, created=False)


def async_hit(contender, meter, calls, random):
    """In one event loop, after some calls that connect it to the cache."""
    model = contender.model("read")
    rows = some_rows("read", calls, random)
    contender.warm(model, rows)
    answers = asyncio.run(ask_in_coroutine(model, rows, meter))
    check(model, rows, answers, created=False)


async def ask_in_coroutine(model, rows, meter):
    for name, _ in rows[:LOOP_WARM]:
        await model.objects.aget_or_create(name=name)
    # The meter measures the connection of the thread that sends the queries.
    await sync_to_async(meter.__enter__)()
    answers = [
        await model.objects.aget_or_create(name=name, defaults=defaults)
        for name, defaults in rows
    ]
    await sync_to_async(meter.__exit__)(None, None, None)
    await sync_to_async(connections.close_all)()
    return answers


def miss(contender, meter, calls, random):
    model = contender.model("created")
    numbers = [*islice(contender.numbers, calls)]
    contender.insert("created", numbers)
    ask(contender, model, rows_of(numbers), meter, created=False)
    model.objects.all().delete()


def select(contender, meter, calls, random, call):
    """Read rows that exist from the database."""
    model = contender.model("read")
    rows = some_rows("read", calls, random)
    with contender.select(), meter:
        answers = [call(contender, model, *row) for row in rows]
    answers = [(contender.answer(model, obj), created) for obj, created in answers]
    check(model, rows, answers, created=False)


def existing(contender, model, name, defaults):
    return contender.get_or_create(model, name, defaults)


def get(contender, model, name, defaults):
    return contender.get(model, name), False


def create(contender, meter, calls, random, atomic=False):
    model = contender.model("created")
    rows = rows_of(islice(contender.numbers, calls))
    ask(contender, model, rows, meter, created=True, atomic=atomic)
    model.objects.all().delete()


def update_or_create(contender, meter, calls, random, atomic=False):
    model = contender.model("written")
    rows = some_rows("written", calls, random, next(contender.values))
    contender.warm(model, rows)
    with meter, transaction.atomic() if atomic else nullcontext():
        answers = [
            model.objects.update_or_create(defaults, name=name)
            for name, defaults in rows
        ]
    check(model, rows, answers, created=False)
    ask(contender, model, rows, nullcontext(), created=False)


def save(contender, meter, calls, random, atomic=False):
    model = contender.model("written")
    rows = some_rows("written", calls, random, next(contender.values))
    contender.warm(model, rows)
    objs = [contender.get_or_create(model, *row)[0] for row in rows]
    for obj, (_, defaults) in zip(objs, rows, strict=True):
        obj.count = defaults["count"]
    with meter, transaction.atomic() if atomic else nullcontext():
        for obj in objs:
            obj.save()
    ask(contender, model, rows, nullcontext(), created=False)


def update(contender, meter, calls, random):
    model = contender.model("written")
    value = next(contender.values)
    rows = some_rows("written", 50, random, value)
    contender.warm(model, rows)
    if connection.vendor == "postgresql":
        # Dead rows of earlier rounds would slow down some of the tables,
        # depending on how far autovacuum has come.
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM {model._meta.db_table}")
    with meter:
        updated = contender.update(model, value)
    if updated != TABLES["written"]:
        raise WrongAnswer(f"update() of {updated} rows")
    ask(contender, model, rows, nullcontext(), created=False)


def bulk(contender, meter, calls, random):
    """Every other row exists, so that each batch has both kinds."""
    model = contender.model("created")
    numbers = [*islice(contender.numbers, MANY)]
    contender.insert("created", numbers[::2])
    rows = rows_of(numbers)
    with meter, transaction.atomic():
        answers = contender.bulk(model, rows)
    check(model, rows[::2], answers[::2], created=False)
    check(model, rows[1::2], answers[1::2], created=True)
    model.objects.all().delete()


def bulk_hit(contender, meter, calls, random):
    model = contender.model("written")
    values = dict(model.objects.values_list("name", "count"))
    rows = some_rows("written", MANY, random)
    for name, defaults in rows:
        defaults["count"] = values[name]
    contender.warm_in_bulk(model, rows)
    with meter:
        answers = contender.bulk_hit(model, rows)
    check(model, rows, answers, created=False)


def bulk_update(contender, meter, calls, random):
    """Every other row exists, so that each batch has both kinds."""
    model = contender.model("created")
    numbers = [*islice(contender.numbers, MANY)]
    contender.insert("created", numbers[::2])
    rows = rows_of(numbers, next(contender.values))
    with meter, transaction.atomic():
        answers = contender.bulk_update(model, rows)
    check(model, rows[::2], answers[::2], created=False)
    check(model, rows[1::2], answers[1::2], created=True)
    check_stored(model, rows)
    model.objects.all().delete()


def bulk_changed(contender, meter, calls, random):
    """Measure the same feed again, with a new value in every tenth row."""
    model = contender.model("written")
    values = dict(model.objects.values_list("name", "count"))
    rows, value = some_rows("written", MANY, random), next(contender.values)
    for place, (name, defaults) in enumerate(rows):
        defaults["count"] = value if place % 10 == 0 else values[name]
    contender.warm_in_bulk(model, rows)
    with meter, transaction.atomic():
        answers = contender.bulk_changed(model, rows)
    check(model, rows, answers, created=False)
    check_stored(model, rows)


def check_stored(model, rows):
    stored = dict(model.objects.values_list("name", "count"))
    if any(stored[name] != defaults["count"] for name, defaults in rows):
        raise WrongAnswer("a row was not updated")


def mix(contender, meter, calls, random, table, share):
    """Read and write rows that other processes read and write meanwhile."""
    contender.begin_mix()
    model = contender.model(table)
    rows = rows_of(range(TABLES[table]))
    order = [
        (*random.choice(rows), random.randrange(100) < share) for _ in range(calls)
    ]
    found = []
    with meter:
        for name, defaults, reads in order:
            if reads:
                obj, _ = contender.get_or_create(model, name, defaults)
            else:
                obj = model.objects.get(name=name)
                obj.count += 1
                contender.save(obj)
            found.append(obj.name)
    if found != [name for name, *_ in order]:
        raise WrongAnswer("a row of another name")


MEASURES = {
    "hit": hit,
    "async-hit": async_hit,
    "large": partial(hit, table="large"),
    "miss": miss,
    "existing": partial(select, call=existing),
    "get": partial(select, call=get),
    "create": partial(create, atomic=True),
    "autocommit": create,
    "update_or_create": update_or_create,
    "update-atomic": partial(update_or_create, atomic=True),
    "save": save,
    "save-atomic": partial(save, atomic=True),
    "update": update,
    "bulk": bulk,
    "bulk-hit": bulk_hit,
    "bulk-update": bulk_update,
    "bulk-changed": bulk_changed,
    **{name: partial(mix, table=name, share=share) for name, share in MIXES.items()},
}
