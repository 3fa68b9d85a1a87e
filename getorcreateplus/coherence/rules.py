"""
The rules of the protocol, each a pure function with the name that the model
(tests/coherence_model.py) gives it.

tests/coherence/test_rules.py replaces each function in turn with one that
breaks its rule, and shows that a reader then returns a wrong row. Two rules
concern transactions, and are elsewhere: "waited" is situations.has_waited(),
and "commit" is Journal.fill_later().
"""

from ..lookups.rows import PARTS
from ..signals import Reason
from .tokens import LOCK, is_locked

__all__ = [
    "entries_to_lock",
    "has_clock_stayed",
    "is_locked",
    "steps_of_release",
    "verdict",
]


def verdict(seen, reading, sought):
    """
    Return None if a payload is a hit, otherwise the Reason why it is not.

    ``seen`` are the (payload, version, epoch) that the cache holds now. This
    is the only place that decides: single reads, batches, explain(), the admin
    and the panel all call it.
    """
    payload, version, epoch = seen
    prefix = reading.token_prefix
    # Inline, because this runs for each hit, and a call costs as much as a
    # clause.
    for token in (version, epoch):
        if type(token) is str and token.endswith(LOCK):
            return Reason.LOCKED  # rule lock
    for token in (version, epoch):
        if type(token) is not str or (
            not token.startswith(prefix) if prefix else "." in token
        ):
            return Reason.NO_ROW
    if payload is None:
        return Reason.NO_ROW
    if type(payload) is not tuple:
        return Reason.ERROR
    if len(payload) != PARTS:
        return Reason.FIELDS  # version 1.0 had one part less
    if payload[0] != (epoch, version):
        return Reason.STAMP
    if payload[1] != reading.fingerprint:
        return Reason.FIELDS
    # Hints are never invalidated, so the row may be another one by now.
    if not reading.layout.matches(sought.wanted, payload[2]):
        return Reason.LOOKUP
    return None


def entries_to_lock(region, pks, prefix):
    """
    Rule *lock*: return the entries that a writer sets before its statement.
    While they are set, no reader trusts or fills these rows. ``pks`` None
    means all rows of the model.
    """
    keys = [region.epoch_key] if pks is None else map(region.version_key, pks)
    return dict.fromkeys(keys, prefix + LOCK)


def steps_of_release(region, pks, published, all_rows, prefix):
    """
    Return the entries that a writer sets after its commit, in this order: the
    clock (rule *clock*), the versions, and None for the payloads (rule
    *drop*).

    A reader that did not know the row before its SELECT, and that sees the new
    version, must find that the clock has moved. A reader that got the old
    payload must find that the version has moved. The payload itself must be
    gone, because the version may be evicted.
    """
    clock_key, epoch_key = region.clock_key, region.epoch_key
    clock = {clock_key: region.new_token(prefix, clock_key)}
    versions, dropped = {}, {}
    if pks is not None:
        keys = {pk: region.version_key(pk) for pk in pks}
        versions = {
            key: published[pk] if pk in published else region.new_token(prefix, key)
            for pk, key in keys.items()
        }
        # None is not a payload, so it is a miss. delete_many() would be
        # another command.
        dropped = {region.payload_key(pk): None for pk in pks if pk not in published}
    if pks is None or all_rows or not region.made_keys.are_known([*versions, *dropped]):
        versions[epoch_key] = region.new_token(prefix, epoch_key)
    return clock, versions, dropped


def has_clock_stayed(before, now):
    """
    Rule *recheck*: return True if no writer has released any row of the model
    between a reader's two reads of the clock.
    """
    return now is not None and now == before
