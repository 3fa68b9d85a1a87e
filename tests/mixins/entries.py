"""
Entries of a rival, and the state that a caller of get_or_create() can see.
"""

from contextlib import contextmanager

from django.db import connection
from django.db.models.signals import post_save, pre_save

from ..models import Audit, NonAtomicEntry, PlainEntry
from ..support.rivals import connected

ENTRIES = [PlainEntry, NonAtomicEntry]


@contextmanager
def signals(log):
    """Append the names of the signals that are sent for entries."""

    def before(sender, instance, **kwargs):
        if sender is not Audit:
            log.append("pre_save")

    def after(sender, instance, created, **kwargs):
        if sender is not Audit:
            log.append(f"post_save({created=})")

    with connected(pre_save, before), connected(post_save, after):
        yield


def outcome(call):
    """Return the state that a caller of get_or_create() can see afterwards."""
    log = []
    with signals(log):
        try:
            obj, created = call()
            result = obj.name, created
        except Exception as exc:
            result = type(exc)
    assert Audit.objects.count() >= 0  # The server agrees.
    return result, log, not connection.get_rollback()


def write_entry():
    # Without its signals, because the receivers are for the entry that is
    # being created.
    NonAtomicEntry.objects.bulk_create([NonAtomicEntry(name="a", size=5)])


def write_audit(sender=None, **kwargs):
    if sender is not Audit:
        Audit.objects.create(text="before")


LOST = ["SELECT", "INSERT", "SELECT"]


def is_postgresql():
    return connection.vendor == "postgresql"


def write_before(create, kwargs):
    Audit.objects.create(text="before")
    return create(**kwargs)


def shaped(model, shape):
    """Return a queryset whose create() has the shape."""

    class ShapedQuerySet(model.objects.all().__class__):
        def create(self, **kwargs):
            return shape(super().create, kwargs)

    return ShapedQuerySet(model)


HELD = ["SELECT", "SAVEPOINT", "INSERT", "INSERT"]
