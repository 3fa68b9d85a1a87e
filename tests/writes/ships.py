"""
Compares the rows that get_or_create() serves after a write with those of a
SELECT.
"""

import pytest
from django.core import serializers
from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext

from getorcreateplus.writes import model_tables, registry

from ..support.errors import Rollback
from ..support.marks import mostly_slow
from ..support.twins import values_of_row


class Missing(Exception):
    pass


def missing():
    raise Missing


def served(manager, **lookup):
    """
    Return the row that get_or_create() finds, None if it would create one.
    """
    try:
        obj, created = manager.get_or_create(defaults={"name": missing}, **lookup)
    except Missing:
        return None
    assert created is False
    return values_of_row(obj)


def selected(model, **lookup):
    """Return the row of the database."""
    obj = models.QuerySet(model).filter(**lookup).first()
    return obj and values_of_row(obj)


def warm(manager, **lookup):
    # Twice, because the process may remember a deleted row.
    for _ in range(2):
        assert served(manager, **lookup) is not None
    with CaptureQueriesContext(connection) as queries:
        served(manager, **lookup)
    assert len(queries) == 0


def check(*lookups, write=None):
    """Compare each (manager, lookup) with the database, and again a hit."""
    expected = [selected(manager.model, **lookup) for manager, lookup in lookups]
    for _ in range(2):
        found = [served(manager, **lookup) for manager, lookup in lookups]
        assert (write, found) == (write, expected)


def autocommit(write, look):
    write()
    look()


def commit(write, look):
    with transaction.atomic():
        write()
        look()
    look()


def roll_back(write, look):
    with pytest.raises(Rollback), transaction.atomic():
        write()
        look()
        raise Rollback
    look()


def roll_back_savepoint(write, look):
    with transaction.atomic():
        with pytest.raises(Rollback), transaction.atomic():
            write()
            look()
            raise Rollback
        look()
    look()


def commit_after_savepoint(write, look):
    with transaction.atomic():
        with transaction.atomic():
            write()
        look()
    look()


contexts = pytest.mark.parametrize(
    "context",
    mostly_slow([autocommit, commit, roll_back_savepoint]),
    ids=lambda context: context.__name__,
)


def try_each(writes, context, prepare, *models_written):
    """
    Write to what prepare() returns, objects and lookups, in each way.

    Not a test of each: they would take longer to set up than to run.
    """
    for name, write in writes.items():
        objects, lookups = prepare()
        check(*lookups)
        context(lambda: write(*objects), lambda: check(*lookups, write=name))
        for model in models_written:
            models.QuerySet(model).all().delete()
        # Rows that were rolled back stay locked.
        for watch in registry.cached_models.values():
            if not set(models_written).isdisjoint(model_tables.tables_of(watch.model)):
                for region in watch.all_regions("default"):
                    region.release(connection, None)


def execute_sql(sql, params=()):
    with connection.cursor() as cursor:
        cursor.execute(sql, params)


def save(obj, using=None, update_fields=None, **kwargs):
    for name, value in kwargs.items():
        setattr(obj, name, value)
    obj.save(using=using, update_fields=update_fields)


def load(obj):
    """Save a row as loaddata does."""
    data = serializers.serialize("json", [obj])
    [deserialized] = serializers.deserialize("json", data)
    deserialized.save()


def schema():
    if connection.vendor == "mysql":
        return connection.settings_dict["NAME"]
    return "public" if connection.vendor == "postgresql" else "main"
