"""Rows on their way into the cache."""

from contextlib import suppress
from functools import partial

from ..lookups.rows import mark, size_of, unpack
from . import process_memory, rules
from .faults import CacheFault, Unreachable

# What a transaction fills after its commit by one command.
MAX_ROWS, MAX_BYTES = 1000, 2**20


class Fill:
    """
    A row that a transaction has created or read, for the cache to hold after
    the commit: with the tokens that were observed before the SELECT, or after
    the INSERT.
    """

    __slots__ = (
        "clock",
        "epoch",
        "hint_key",
        "is_announced",
        "lookup",
        "needs_hint",
        "pk",
        "reading",
        "region",
        "remembered_pk",
        "values",
        "version",
    )

    def __init__(self, reading, sought, pk, values, version):
        self.reading = reading
        self.region = reading.region
        # Not the SoughtRow, of which a batch has many that it does not keep.
        self.lookup, self.hint_key = sought.lookup, sought.hint_key
        self.remembered_pk = sought.remembered_pk
        self.needs_hint = sought.lookup is not None and sought.pk != pk
        self.pk = pk
        self.values = values  # packed
        self.epoch, self.clock = reading.epoch, reading.clock
        self.version = version
        self.is_announced = True  # its version is in the cache

    def payload(self):
        return payload_of(self.reading, self.epoch, self.version, unpack(self.values))


def payload_of(reading, epoch, version, values):
    return (epoch, version), reading.fingerprint, values, mark(values)


def remember(reading, sought, pk, values):
    """
    Let the process keep a row that is committed; ``sought`` is a SoughtRow or
    a Fill.
    """
    if sought.lookup is not None and sought.remembered_pk != pk:
        process_memory.hints.put((reading.region, sought.lookup), pk)
    if reading.local_timeout != 0:
        process_memory.rows.keep(reading, pk, values)


def fill_now(reading, rows, fill=None):
    """
    Put the rows of (sought, pk, values, version) into the cache, by one
    command for each cache. Return True if the cache took all of them, as far
    as is known: ``fill`` is what sets the payloads, if it has to be known.
    """
    region = reading.region
    entries, hints, is_all = {}, {}, True
    for sought, pk, values, version in rows:
        if region.asking.is_too_large(pk):
            is_all = False
        else:
            payload = payload_of(reading, reading.epoch, version, values)
            entries[region.payload_key(pk)] = payload
        if sought.lookup is not None and sought.pk != pk:
            hints[reading.hint_key(sought)] = pk
    if reading.key_client is region.client:
        entries |= hints
    elif hints:
        reading.key_client.fill(hints, region.timeout, waits=False)
    failed = ()
    if entries:
        fill = fill or partial(region.client.fill, waits=False)
        failed = fill(entries, region.timeout)
    for _, pk, values, _ in rows if failed else ():
        if len(rows) == 1 or region.payload_key(pk) in failed:
            region.record_refused(pk, values)
    return is_all and not failed


# After a commit


def fill_committed(fills):
    """Put these Fills into the cache, by a few commands."""
    batches, count, size, reading = {}, 0, 0, None
    for fill in fills:
        if fill.reading is not reading or not batches:
            reading, region = fill.reading, fill.region
            at = region.made_keys, region.timeout
            entries = batches.setdefault((region.client, *at), {})
            hints = entries
            if reading.key_client is not region.client:
                hints = {}  # of another tenant's keys
                if region.made_keys.is_current():
                    hints = batches.setdefault((reading.key_client, *at), {})
        values = unpack(fill.values)
        if not region.asking.is_too_large(fill.pk):
            payload = payload_of(reading, fill.epoch, fill.version, values)
            entries[region.payload_key(fill.pk)] = payload
        if fill.needs_hint:
            hints[reading.hint_key(fill)] = fill.pk
        remember(reading, fill, fill.pk, values)
        count, size = count + 1, size + size_of(fill.values)
        if count >= MAX_ROWS or size >= MAX_BYTES:
            set_batches(batches)
            batches, count, size = {}, 0, 0
    set_batches(batches)


def set_batches(batches):
    for (client, made_keys, timeout), entries in batches.items():
        with suppress(Unreachable), made_keys.again():
            client.fill(entries, timeout, waits=False)


def announce(fills):
    """
    Set the versions of these Fills, whose primary keys the database has just
    made. Return (Sent, what to do if it failed) of what is not waited for.

    Not by add(), which is a command per row, because no other process knows
    these keys yet.
    """
    batches, unanswered = {}, []
    for fill in fills:
        region = fill.region
        at = region.client, region.made_keys, region.timeout
        batches.setdefault(at, []).append(fill)
    for (client, made_keys, timeout), some in batches.items():
        versions = {fill.region.version_key(fill.pk): fill.version for fill in some}
        with made_keys.again():  # a commit may be another tenant's
            sent = client.set_later(versions, timeout, adds=True)
            if sent is None:
                client.announce(versions, timeout)
        if sent is not None:
            unanswered.append((sent, partial(doubt_versions, some, versions, sent)))
    for fill in fills:
        fill.is_announced = True
    return unanswered


def doubt_versions(fills, versions, sent):
    """Have vouched() add the versions that were not."""
    numbers = {version: number for number, version in enumerate(versions.values())}
    for fill in fills:
        number = numbers.get(fill.version)
        fill.is_announced = number is not None and sent.is_done(number)


def vouched(fills):
    """
    Return those of these Fills whose version is in the cache, as it was
    announced or is added now. By then the clock must not have moved.
    """
    late = {fill.region for fill in fills if not fill.is_announced}
    if not late:
        return fills
    kept = []
    for fill in fills:
        region = fill.region
        with suppress(CacheFault), region.made_keys.again():
            if fill.is_announced or region.client.add(
                region.version_key(fill.pk), fill.version, region.timeout
            ):
                kept.append(fill)
    clocks = {}
    for region in late:
        with suppress(CacheFault), region.made_keys.again():
            entries = region.client.look([region.clock_key])
            clocks[region] = entries.get(region.clock_key)
    return [
        fill
        for fill in kept
        if fill.is_announced
        or rules.has_clock_stayed(fill.clock, clocks.get(fill.region))
    ]
