"""
LOCKs of transactions that Django does not track: begun by SQL or the driver,
or managed by hand. The driver shows whether they have ended.
"""

from ..environment.interruptions import failures_suppressed
from .drivers import MAX_KEPT, answer, is_lost, is_open, is_pending


def keep_locked(connection, rows):
    """Release {region: primary keys or None} when the transaction ends."""
    raw, kept = kept_of(connection)
    if raw is not connection.connection:
        kept = {}  # the others were locked on a lost connection
        connection.getorcreateplus_kept = connection.connection, kept
    for region, pks in rows.items():
        known, all_rows = kept.get(region, (set(), False))
        known.update(pks or ())
        kept[region] = known, all_rows or pks is None


def has_locked(connection):
    return bool(kept_of(connection)[1])


def has_locked_many(connection, region):
    """
    Return True if so many rows are locked that all rows of the model are to be
    locked instead: the release is one command, and locked rows are kept in
    memory until then.
    """
    raw, kept = kept_of(connection)
    if not kept or raw is not connection.connection or region not in kept:
        return False
    return len(kept[region][0]) >= MAX_KEPT


def kept_of(connection):
    """
    Return the driver's connection and the locked rows on it: {region: (primary
    keys, True if all rows are locked)}.
    """
    return getattr(connection, "getorcreateplus_kept", (None, {}))


def release_ended(connection):
    """Release the locked rows, if the transaction has ended."""
    raw, kept = kept_of(connection)
    if not kept or is_pending(connection):
        return
    if raw is not connection.connection or is_lost(connection):
        # Its COMMIT may still be on its way. The LOCKs end by their timeout.
        kept.clear()
    elif not is_open(connection):
        release(connection, kept)


def release(connection, kept):
    rows = dict(kept)
    kept.clear()
    for region, (pks, all_rows) in rows.items():
        region.release(connection, list(pks) or None, all_rows=all_rows)


def settle(connection):
    """
    Do the same as release_ended(), before another statement or before a
    close().
    """
    if getattr(connection, "getorcreateplus_pending", None) is not None:
        is_here = is_pending(connection)
        connection.getorcreateplus_pending = None
        if is_here and has_locked(connection):
            # It answers when the last statement is finished.
            with failures_suppressed():
                answer(connection.connection, "SELECT 1")
    release_ended(connection)


def close(connection, close_connection):
    """Close a connection. The server then rolls back its transaction."""
    settle(connection)
    _, kept = kept_of(connection)
    rows = {} if connection.in_atomic_block else dict(kept)
    close_connection()
    if rows and connection.connection is None:
        kept.clear()
        release(connection, rows)
