"""
Signals for hits, misses and invalidations. The callers test ``receivers``
first, because that costs nothing, and send() costs a tenth of a hit.

The sender is the concrete model. Receivers run where the event happens, in the
middle of a get_or_create() or right after a commit, so they have to be quick.
An exception of a receiver is logged, and stops nothing.
"""

import logging
from contextlib import contextmanager
from enum import StrEnum

from django.dispatch import Signal

from .environment.interruptions import reraise

logger = logging.getLogger("getorcreateplus")

# Arguments: using, lookup (columns: {attname: value}), source (a Source),
# duration (seconds that the cache took).
cache_hit = Signal()

# Arguments: using, lookup (columns; or the arguments of the call, if it does
# not use the cache), reason (a Reason), duration. The query comes after it.
cache_miss = Signal()

# Arguments: using, lookup (as of cache_miss), result (a Result). It is sent
# after the query that follows a miss, or after the row was created. After an
# exception other than DoesNotExist it is not sent.
cache_miss_ended = Signal()

# Arguments: using, pks (texts of primary keys; None: all rows of the model).
# It is sent after a write has returned, or after its transaction's commit.
cache_invalidated = Signal()

# Arguments: using. NonAtomicGetOrCreateMixin sends it in a transaction, where
# Django would have sent SAVEPOINT and RELEASE SAVEPOINT.
savepoint_omitted = Signal()


# diagnosis/reasons.py has the words for each of these.


class Source(StrEnum):
    """Where a hit came from."""

    CACHE = "cache"
    MEMORY = "memory"
    TRANSACTION = "transaction"


class Reason(StrEnum):
    """Why a lookup was a miss."""

    NO_HINT = "no hint"
    NO_ROW = "no row"
    LOCKED = "locked"
    STAMP = "stamp"
    FIELDS = "fields"
    LOOKUP = "lookup"
    ERROR = "error"
    TRANSACTION = "transaction"
    SELDOM = "seldom a hit"
    LARGE = "too large"
    FORCED = "forced"
    BYPASS = "bypass"
    NOT_CACHEABLE = "not cacheable"


class Result(StrEnum):
    """How a miss has ended."""

    FOUND = "found"
    CREATED = "created"
    MISSING = "missing"  # get() raised DoesNotExist


def send(signal, model, **arguments):
    """
    Send a signal. Do not raise the exception of a receiver, unless it is that
    of a time limit.
    """
    try:
        answers = signal.send_robust(model, **arguments)
    except Exception as error:
        reraise(error)
        # Coroutine functions cannot be run in a thread with a running loop.
        logger.exception(
            "A signal of %s was not sent to all of its receivers.", model._meta.label
        )
    else:
        for _, answer in answers:
            if isinstance(answer, Exception):
                reraise(answer)


def send_hit_or_miss(reading, sought, may_hit, duration):
    """Send the hit or the miss of one SoughtRow of a Reading."""
    arguments = {
        "using": reading.region.using,
        "lookup": dict(sought.wanted),
        "duration": duration,
    }
    if sought.values is not None:
        send(cache_hit, reading.region.model, source=sought.source, **arguments)
    else:
        reason = reading.reason(sought) if may_hit else Reason.FORCED
        send(cache_miss, reading.region.model, reason=reason, **arguments)


def send_unread_miss(model, using, lookup, reason):
    """Send the miss of a call that does not use the cache."""
    lookup = dict(lookup)
    send(cache_miss, model, using=using, lookup=lookup, reason=reason, duration=0)


def send_end_of_miss(queryset, lookup, result):
    if cache_miss_ended.receivers:
        model = queryset.model._meta.concrete_model
        arguments = {"using": queryset.db, "lookup": dict(lookup)}
        send(cache_miss_ended, model, result=result, **arguments)


def result_of(created):
    return Result.CREATED if created else Result.FOUND


@contextmanager
def ending_miss(queryset, lookup):
    """Send the end of the miss of a get(), which runs in the block."""
    try:
        yield
    except queryset.model.DoesNotExist:
        send_end_of_miss(queryset, lookup, Result.MISSING)
        raise
    send_end_of_miss(queryset, lookup, Result.FOUND)


def send_invalidated(region, pks):
    if cache_invalidated.receivers:
        pks = None if pks is None else tuple(pks)
        send(cache_invalidated, region.model, using=region.using, pks=pks)


def send_savepoint_omitted(model, using):
    if savepoint_omitted.receivers:
        send(savepoint_omitted, model._meta.concrete_model, using=using)
