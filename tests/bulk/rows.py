"""Rows of a batch, and the statements that it sends."""

from contextlib import contextmanager

from django.db import connection

from ..support.queries import count


def row(obj):
    """
    Return the columns of a row, except those that differ between two tables.
    """
    skipped = {"id", "changed"}
    return {
        field.attname: getattr(obj, field.attname)
        for field in obj._meta.concrete_fields
        if field.name not in skipped
    }


def stored(model):
    return [row(obj) for obj in model._base_manager.order_by("code")]


@contextmanager
def first_words():
    """Yield a list of the first words of the statements, as they are sent."""
    connection.ensure_connection()
    sent = []

    def record(execute, sql, params, many, context):
        sent.append(sql.split()[0])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(record):
        yield sent


def exist(model, codes, **values):
    return model._base_manager.bulk_create(model(code=c, **values) for c in codes)


# The words of an INSERT, and of the statement before it on MariaDB.
INSERT = ["SET", "INSERT"] if connection.vendor == "mysql" else ["INSERT"]


def cached(call):
    """Return what the call returns. It must not send a query."""
    result, queries = count(call)
    assert queries == 0
    return result
