"""
What the cache does, told to whoever listens; nothing is sent to nobody: a look
at ``receivers`` costs nothing, and send() a tenth of a hit.

The sender is the concrete model. Receivers run where the thing happens, in the
middle of a get_or_create() or right after a commit: be quick. What they raise
is logged, and stops nothing.
"""

import logging
from enum import StrEnum
from time import perf_counter

from django.dispatch import Signal

from .environment.interruptions import reraise

logger = logging.getLogger("getorcreateplus")

# Arguments: using, lookup (as columns: {attname: value}), source (a Source),
# duration (seconds that the cache took).
cache_hit = Signal()

# Arguments: using, lookup (as columns; as it was called, {argument: value},
# where it is none of the cache), reason (a Reason), duration. The database is
# asked after it.
cache_miss = Signal()

# Arguments: using, pks (texts of primary keys; None: all rows of the model).
# After a write has returned, or the transaction has committed that did it.
cache_invalidated = Signal()

# Arguments: using. Of NonAtomicGetOrCreateMixin inside of a transaction, where
# Django would have sent SAVEPOINT and RELEASE SAVEPOINT.
savepoint_omitted = Signal()


class Source(StrEnum):
    """Where a hit came from."""

    CACHE = "cache"
    MEMORY = "memory"  # this process's, under local_timeout
    TRANSACTION = "transaction"  # the row is this transaction's own


class Reason(StrEnum):
    """Why a row was no hit."""

    NO_HINT = "no hint"  # this lookup has led nobody to a row, or not lately
    NO_ROW = "no row"  # it was dropped by a write, has expired or was evicted
    LOCKED = "locked"  # somebody is writing it, or has died
    STAMP = "stamp"  # it was written since it was put there
    FIELDS = "fields"  # another release of the code has put it there
    LOOKUP = "lookup"  # the row is no longer one that the lookup finds
    ERROR = "error"  # the cache failed, or what it held is unreadable
    TRANSACTION = "transaction"  # only the database may be asked in this one
    SELDOM = "seldom a hit"  # this process asks for a sample of the reads alone
    LARGE = "too large"  # the cache has refused the row
    FORCED = "forced"  # force_select=True
    BYPASS = "bypass"  # bypass()
    NOT_CACHEABLE = "not cacheable"  # the lookup or the queryset is none


def ask_and_tell(read, pk, may_hit):
    """As Read.ask(), and tell."""
    started = perf_counter()
    values = read.ask(pk, may_hit)
    duration = perf_counter() - started
    tell(read, read, values is not None, may_hit, duration)
    return values


def ask_many_and_tell(many, rows):
    """As ReadMany.ask(), and tell of each row its share of the time."""
    started = perf_counter()
    many.ask(rows)
    duration = (perf_counter() - started) / len(rows)
    for row in rows:
        tell(many.read, row, row.values is not None, True, duration)


def send(signal, model, **arguments):
    try:
        answers = signal.send_robust(model, **arguments)
    except Exception as error:
        reraise(error)
        # Of receivers that are coroutine functions, where a loop is running.
        logger.exception("A signal of %s was not sent to all.", model._meta.label)
    else:
        for _, answer in answers:
            if isinstance(answer, Exception):
                reraise(answer)


def tell(read, row, is_hit, may_hit, duration):
    told = {
        "using": read.region.using,
        "lookup": dict(row.wanted),
        "duration": duration,
    }
    if is_hit:
        send(cache_hit, read.region.model, source=row.source, **told)
    else:
        reason = read.reason(row) if may_hit else Reason.FORCED
        send(cache_miss, read.region.model, reason=reason, **told)


def tell_not_asked(model, using, lookup, reason):
    """The database is asked, for the cache knows nothing of such lookups."""
    lookup = dict(lookup)
    send(cache_miss, model, using=using, lookup=lookup, reason=reason, duration=0)


def tell_invalidated(region, pks):
    if cache_invalidated.receivers:
        pks = None if pks is None else tuple(pks)
        send(cache_invalidated, region.model, using=region.using, pks=pks)


def tell_savepoint_omitted(model, using):
    if savepoint_omitted.receivers:
        send(savepoint_omitted, model._meta.concrete_model, using=using)
