"""The steps of a writer in the cache, before and after its statement."""

from . import by_hand
from .journal import journal
from .locks import MAX_LOCKED
from .transactions import in_transaction, is_autocommit


def before_write(connection, region, pks, *, commits=True):
    """
    Lock these rows, which a statement will write. ``pks`` None means unknown
    rows of this model. If the statement ``commits`` nothing, do not wait for
    the LOCKs.

    Return the rows whose locks this transaction does not hold yet in the
    database.
    """
    if not in_transaction(connection):
        region.lock(connection, pks, has_release=is_autocommit(connection))
        return ()
    own = journal(connection)
    if pks is None:
        own.lock_all(region)
        own.record_query(region)
        return ()
    new = set(pks) - own.held(region, pks)
    own.lock(region, pks, waits=commits)
    for pk in pks:
        own.record_rows(connection, region, [pk])
    return new


def locks_rows(connection, region, number):
    """
    Return True if this transaction may lock this number of further rows one by
    one. Otherwise it locks all rows of the model.
    """
    own = journal(connection)
    locked = len(own.owed.get(region, ()))
    return not own.has_locked_all(region) and locked + number <= MAX_LOCKED


def wait_for_answers(connection):
    """
    Wait for the LOCKs, versions and payloads that this transaction has sent,
    because a statement may commit.
    """
    if in_transaction(connection):
        journal(connection).wait_for_answers()


def after_unmatched(connection, region, pks):
    """Handle a statement that did not match all of the rows that it named."""
    if in_transaction(connection):
        journal(connection).record_unmatched(region, pks)


def after_inserts(connection, region, pks=None):
    """
    Handle rows that this transaction has inserted, with these primary keys;
    None means unknown keys. They need no lock, because there are no older
    rows.
    """
    if pks is None:
        journal(connection).record_query(region)
    else:
        journal(connection).record_rows(connection, region, pks)


def after_writes(connection, rows):
    """
    Release {region: primary keys, None for all rows}, which a statement has
    written. In a transaction, its end releases them.
    """
    if not is_autocommit(connection):
        if not in_transaction(connection):
            by_hand.keep_locked(connection, rows)
        return
    try:
        for region, pks in rows.items():
            region.release(connection, pks)
    except BaseException:
        # A time limit, or Ctrl-C.
        for region, pks in rows.items():
            region.client.owe_release(region, pks)
        raise


def after_interrupted_write(connection, rows):
    """
    Handle a statement that the database may have carried out, or may still be
    carrying out: its LOCKs end with their timeout.
    """
    if is_autocommit(connection):
        for region, pks in rows.items():
            region.client.keep_locked(region, pks)


def invalidate_rows(connection, region, pks):
    """
    Prevent readers from trusting these rows, which other code has written.
    """
    if is_autocommit(connection):
        region.release(connection, pks)
        return
    before_write(connection, region, pks)
    if not in_transaction(connection):
        by_hand.keep_locked(connection, {region: pks})
    if pks is not None:
        # The transaction need not hold their locks in the database.
        after_unmatched(connection, region, pks)
