"""The package's signals for a call."""

from contextlib import contextmanager

from getorcreateplus.signals import (
    cache_hit,
    cache_invalidated,
    cache_miss,
    savepoint_omitted,
)
from getorcreateplus.writes.registry import region_of

from ..models import Paper

SIGNALS = {
    "hit": cache_hit,
    "miss": cache_miss,
    "invalidated": cache_invalidated,
    "omitted": savepoint_omitted,
}


@contextmanager
def capture_signals():
    """Yield a list of the signals sent: (signal, model, arguments)."""
    sent, receivers = [], {}
    for name, signal in SIGNALS.items():

        def receiver(sender, signal, name=name, **kwargs):
            assert kwargs.pop("using") == "default"
            if "duration" in kwargs:
                assert 0 <= kwargs.pop("duration") < 10
            sent.append((name, sender, kwargs))

        receivers[name] = receiver
        signal.connect(receiver)
    try:
        yield sent
    finally:
        for name, signal in SIGNALS.items():
            assert signal.disconnect(receivers[name])


def signals_of(call):
    with capture_signals() as sent:
        call()
    return sent


def entries(obj):
    region = region_of(type(obj).objects.all())
    pk = str(obj.pk)
    return region, region.payload_key(pk), region.version_key(pk)


def row_of(model=Paper, **lookup):
    return model.objects.get_or_create(**(lookup or {"title": "a"}))[0]


def warm_row(model=Paper, **lookup):
    """Return a row that is in the cache."""
    obj = row_of(model, **lookup)
    row_of(model, **lookup)
    return obj
