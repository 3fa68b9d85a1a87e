"""The result of a SELECT: the instance, and the column values of its row."""

from django.db import connection

from getorcreateplus.query import CachedQuerySet
from getorcreateplus.writes.captured_rows import Recording


def recording_queryset(model, recording):
    """Return a queryset whose get() records what it selects."""
    queryset = CachedQuerySet(model, using="default")
    queryset._recording = recording
    return queryset


def select(model, **kwargs):
    """Return an instance and its column values, from a SELECT."""
    recording = Recording(model, connection)
    obj = recording_queryset(model, recording).get(**kwargs)
    return obj, recording.selected(obj)


def make_instance(model, values):
    """Return the instance of a hit with these column values."""
    return CachedQuerySet(model)._make_instance("default", values)
