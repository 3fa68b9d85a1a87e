"""Rows on their way into the cache."""

from contextlib import suppress
from functools import partial
from typing import NamedTuple

from ..lookups.rows import mark, size_of, unpack
from . import process_memory, rules
from .faults import CacheFault, Unreachable
from .region import Region

# Rows that a transaction fills with one command after its commit.
MAX_ROWS, MAX_BYTES = 1000, 2**20


class Fill:
    """
    A row that a transaction has created or read, and stores in the cache after
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
        # Not the SoughtRow, because a batch has many SoughtRows that it does
        # not keep.
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
    Let the process keep a committed row. ``sought`` is a SoughtRow or a Fill.
    """
    if sought.lookup is not None and sought.remembered_pk != pk:
        process_memory.hints.put((reading.region, sought.lookup), pk)
    if reading.local_timeout != 0:
        process_memory.rows.keep(reading, pk, values)


def fill_now(reading, rows):
    """
    Store the rows of (sought, pk, values, version) in the cache, with one
    command for each cache.
    """
    region = reading.region
    entries = entries_of(reading, rows)
    failed = ()
    if entries:
        failed = region.client.fill(entries, region.timeout, waits=False)
    for _, pk, values, _ in rows if failed else ():
        if len(rows) == 1 or region.payload_key(pk) in failed:
            region.record_refused(pk, values)


def entries_of(reading, rows):
    """
    Return the entries of these rows, without payloads that are too large. If
    the lookups have another cache, store the hints there.
    """
    region, entries, hints = reading.region, {}, {}
    for sought, pk, values, version in rows:
        if not region.asking.is_too_large(pk):
            payload = payload_of(reading, reading.epoch, version, values)
            entries[region.payload_key(pk)] = payload
        if sought.lookup is not None and sought.pk != pk:
            hints[reading.hint_key(sought)] = pk
    if reading.key_client is region.client:
        entries |= hints
    elif hints:
        reading.key_client.fill(hints, region.timeout, waits=False)
    return entries


# Before a commit


class Publication(NamedTuple):
    """A row that a transaction has updated, to be stored in the cache."""

    region: Region
    pk: str
    values: tuple
    version: str  # that the release will set
    entries: dict  # with the payload


def send_publications(publications):
    """
    Store these Publications in the cache. Return (Publications that one
    command has stored, as far as is known, Sent). Sent is None if the cache
    has answered.
    """
    batches, taken = {}, []
    for each in publications:
        region = each.region
        at = region.client, region.made_keys, region.timeout
        batches.setdefault(at, []).append(each)
    for (client, made_keys, timeout), some in batches.items():
        entries = {key: value for each in some for key, value in each.entries.items()}
        failed = ()
        with suppress(Unreachable), made_keys.again():  # another tenant may be current
            sent = client.set_later(entries, timeout)
            if sent is None:
                failed = client.fill(entries, timeout)
            taken.append((without_refused(some, failed, entries), sent))
    return taken


def without_refused(publications, failed, entries):
    """Return the Publications whose payload was stored. Record the others."""
    if not failed:
        return publications
    # An error instead of keys concerns all of them.
    is_known = entries.keys() >= set(failed)
    stored = []
    for each in publications:
        if len(publications) == 1 or each.region.payload_key(each.pk) in failed:
            each.region.record_refused(each.pk, each.values)
        elif is_known:
            stored.append(each)
    return stored


# After a commit


def fill_committed(fills):
    """Store these Fills in the cache, with a few commands."""
    batches, count, size, reading = {}, 0, 0, None
    for fill in fills:
        if fill.reading is not reading or not batches:
            reading, region = fill.reading, fill.region
            at = region.made_keys, region.timeout
            entries = batches.setdefault((region.client, *at), {})
            hints = entries
            if reading.key_client is not region.client:
                hints = {}  # they have the keys of another tenant
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
    made. Return (Sent, what to do if it failed) for commands that are not
    waited for.

    It does not need add(), which is a command per row, because no other
    process knows these keys yet.
    """
    batches, unanswered = {}, []
    for fill in fills:
        region = fill.region
        at = region.client, region.made_keys, region.timeout
        batches.setdefault(at, []).append(fill)
    for (client, made_keys, timeout), some in batches.items():
        versions = {fill.region.version_key(fill.pk): fill.version for fill in some}
        with made_keys.again():  # the commit may come while another tenant is current
            sent = client.set_later(versions, timeout, adds=True)
            if sent is None:
                client.announce(versions, timeout)
        if sent is not None:
            unanswered.append((sent, partial(doubt_versions, some, versions, sent)))
    for fill in fills:
        fill.is_announced = True
    return unanswered


def doubt_versions(fills, versions, sent):
    """Make vouched() add the versions that were not set."""
    numbers = {version: number for number, version in enumerate(versions.values())}
    for fill in fills:
        number = numbers.get(fill.version)
        fill.is_announced = number is not None and sent.is_done(number)


def vouched(fills):
    """
    Return the Fills whose version is in the cache, as it was announced or is
    added now. The clock must not have moved by then.
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
