"""
The cost of a row must not depend on earlier steps of its transaction.

These tests do not measure time: they count the lines of the package's code
that run, and the memory that is used, which would show a copy of all rows.
"""

import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from django.db import connection, transaction

import getorcreateplus
from getorcreateplus.writes.statements import Names
from getorcreateplus.writes.tables import table_index

from ..models import Paper, PlusPaper
from ..support.errors import Rollback
from ..support.sql import execute

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    # The counts are the same on each.
    pytest.mark.database("sqlite"),
]

PACKAGE = str(Path(getorcreateplus.__file__).parent)
FEW, MANY = 400, 3_000
MEASURED = 20  # rows


def lines_of(call):
    """Return how many lines of the package a call runs."""
    count = 0

    def note(frame, event, arg):
        nonlocal count
        count += event == "line"
        return note

    def enter(frame, event, arg):
        return note if frame.f_code.co_filename.startswith(PACKAGE) else None

    outer = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(outer)
    return count


def memory_of(call):
    """Return how many bytes a call takes at its peak."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def save(model, i):
    obj = model(pk=i + 1, title=f"{i}", pages=i)
    obj.save(force_update=True)


def update(model, i):
    model.objects.filter(pk=i + 1).update(pages=i)


def delete(model, i):
    model.objects.filter(pk=i + 1).delete()


def update_or_create(model, i):
    model.objects.update_or_create(title=f"{i}", defaults={"pages": i})


def get(model, i):
    model.objects.get_or_create(title=f"{i}")


def create(model, i):
    model.objects.get_or_create(title=f"new {i}")


def create_in_savepoint(model, i):
    with transaction.atomic():
        create(model, i)


def save_in_savepoint(model, i):
    with transaction.atomic():
        save(model, i)


def roll_back_savepoint(model, i):
    with suppress(Rollback), transaction.atomic():
        save(model, i)
        create(model, i)
        raise Rollback


def save_beside_savepoint(model, i):
    save(model, i)
    with suppress(Rollback), transaction.atomic():
        raise Rollback


def never_release_savepoint(model, i):
    connection.savepoint()
    save(model, i)


def sql(model, i):
    execute(f"UPDATE {model._meta.db_table} SET pages = {i} WHERE id = {i + 1}")


def test_cost_of_a_text(monkeypatch):
    """The number of models does not matter to SQL about another table."""
    execute("CREATE TABLE growth (text varchar(20))")
    words = ", ".join(f"('word{i}')" for i in range(1000))
    insert = f"INSERT INTO growth VALUES {words}"

    def cost():
        execute(insert)
        return lines_of(lambda: execute(insert))

    few = cost()
    known = table_index(connection)
    names = [f"shop_model{i}" for i in range(10_000)]
    for attribute, own in (
        ("cached_names", known.cached),
        ("all_names", known.quoted_names),
    ):
        assert hasattr(known, attribute)
        monkeypatch.setattr(known, attribute, Names([*own, *names]))
    many = cost()
    execute("DROP TABLE growth")
    assert 0 < many < 1.1 * few


@pytest.mark.parametrize(
    ("model", "write"),
    [
        (PlusPaper, save),
        (PlusPaper, update),
        (PlusPaper, delete),
        (PlusPaper, get),
        (PlusPaper, create),
        (PlusPaper, save_in_savepoint),
        (PlusPaper, roll_back_savepoint),
        (PlusPaper, save_beside_savepoint),
        (PlusPaper, never_release_savepoint),
        (PlusPaper, sql),
        # Django's create() has a savepoint.
        (Paper, update_or_create),
        (Paper, create_in_savepoint),
    ],
)
def test_cost_of_a_row(model, write):
    model._base_manager.bulk_create(
        [model(pk=i + 1, title=f"{i}", pages=0) for i in range(MANY)], batch_size=500
    )
    numbers = iter(range(MANY))
    costs = []

    def some():
        for _ in range(MEASURED):
            write(model, next(numbers))

    with transaction.atomic():
        for total in (FEW, MANY):
            for i in numbers:
                write(model, i)
                if i == total - 2 * MEASURED - 1:
                    break
            costs.append((lines_of(some), memory_of(some)))
    (few_lines, few_bytes), (many_lines, many_bytes) = costs
    assert few_lines > MEASURED
    assert many_lines < 1.5 * few_lines
    assert many_bytes < 1.5 * few_bytes + 50_000
