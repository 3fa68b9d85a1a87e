"""
The signals that report what the cache does. Nothing is sent if a signal has no
receivers: to look at ``receivers`` costs nothing, and send() costs a tenth of
a hit.

The sender is the concrete model. Receivers run where the event happens, in the
middle of a get_or_create() or right after a commit, so they have to be quick.
An exception of a receiver is logged, and stops nothing.
"""

import logging
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

# Arguments: using, pks (texts of primary keys; None: all rows of the model).
# Sent after a write has returned, or after its transaction has committed.
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
    """Why a row was no hit."""

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


def send(signal, model, **arguments):
    """
    Send a signal. Raise nothing that a receiver has raised, except the
    exception of a time limit.
    """
    try:
        answers = signal.send_robust(model, **arguments)
    except Exception as error:
        reraise(error)
        # Coroutine functions cannot be run in a thread with a running loop.
        logger.exception("A signal of %s was not sent to all.", model._meta.label)
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


def send_invalidated(region, pks):
    if cache_invalidated.receivers:
        pks = None if pks is None else tuple(pks)
        send(cache_invalidated, region.model, using=region.using, pks=pks)


def send_savepoint_omitted(model, using):
    if savepoint_omitted.receivers:
        send(savepoint_omitted, model._meta.concrete_model, using=using)
