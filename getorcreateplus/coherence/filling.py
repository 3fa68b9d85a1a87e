"""Stores rows in the cache after a statement of a reader."""

import time
from contextlib import suppress

from ..lookups.rows import pack
from . import drivers, process_memory, rules
from .faults import CacheFault
from .fills import Fill, Publication, entries_of, fill_now, payload_of, remember
from .journal import MAX_SINGLE, journal
from .tokens import is_token
from .transactions import in_transaction, is_apart, is_autocommit

# Versions that one batch adds; 5,000 took Redis 4 s under load. Each costs a
# command, because a writer may be setting a LOCK there, and only add() does
# not overwrite it.
MAX_ADDED = 100


def fill(reading, found):
    """Keep the rows of (sought, pk, values) that a SELECT returned."""
    if reading.answered is None:
        _fill(reading, found)
        return
    began, asking = time.monotonic(), reading.region.asking
    asking.query.add(began - reading.answered)
    _fill(reading, found)
    asking.fill.add(time.monotonic() - began)


def _fill(reading, found):
    connection = reading.connection
    is_inside = in_transaction(connection)
    if is_inside:
        found = keep_own(reading, found)
    if reading.may_fill and found and (is_inside or is_autocommit(connection)):
        with suppress(CacheFault):
            if not is_inside and fill_by_one_step(reading, found):
                return
            kept = vouch(reading, found)
            if is_inside:
                own = journal(connection)
                own.fill_later(
                    Fill(reading, sought, pk, pack(values), version)
                    for sought, pk, values, version in kept
                )
            elif kept:
                fill_now(reading, kept)
                for sought, pk, values, _ in kept:
                    remember(reading, sought, pk, values)


def fill_by_one_step(reading, found):
    """
    Do the same as vouch() and fill_now(), for one row whose primary key the
    SELECT has returned. Return False if the cache cannot do this with one
    command, or has not filled the row: then these two find out why.
    """
    region, [(sought, pk, values), *others] = reading.region, found
    if (
        others
        or not region.is_one_step
        or reading.clock is None
        or (sought.version is not None and sought.pk == pk)
        or region.asking.is_too_large(pk)
    ):
        return False
    key = region.version_key(pk)
    token = region.new_token(reading.token_prefix, key)
    payload = payload_of(reading, reading.epoch, token, values)
    entries, hints = {region.payload_key(pk): payload}, {}
    if sought.lookup is not None and sought.pk != pk:
        hints[reading.hint_key(sought)] = pk
    if reading.key_client is region.client:
        entries |= hints
    answer = region.client.vouch_and_fill(
        key,
        token,
        region.timeout,
        region.clock_key,
        reading.clock,
        entries,
    )
    is_done = answer is None or answer[2]
    if is_done:
        if hints and reading.key_client is not region.client:
            reading.key_client.fill(hints, region.timeout, waits=False)
        remember(reading, sought, pk, values)
    return is_done


def keep_own(reading, found):
    """
    Let the transaction serve the rows that it has written. Return the other
    rows.
    """
    own, region = journal(reading.connection), reading.region
    written, others = [], []
    for sought, pk, values in found:
        if own.is_written(region, pk):
            written.append((pk, pack(values), sought.lookup))
        else:
            others.append((sought, pk, values))
    if written:
        own.keep(reading.connection, region, written, selected=True)
    return others


def vouch(reading, found):
    """
    Return (sought, pk, values, version) of the rows that no writer has
    released since the observation.
    """
    region, kept, late = reading.region, [], []
    for sought, pk, values in found:
        if sought.version is None or sought.pk != pk:
            late.append((sought, pk, values))
        elif not rules.is_locked(sought.version):
            kept.append((sought, pk, values, sought.version))
    if late and reading.clock is None and not reading.is_batch:
        # The primary key that the process remembered belongs to another row
        # now.
        [(sought, _, _)] = late
        process_memory.hints.discard((region, sought.lookup))
    elif late:
        # The primary keys come from the SELECT, so the versions could not be
        # observed before it. A writer in between has moved the clock before
        # the version: so read the versions first, then the clock again.
        versions, clock = versions_of(reading, [pk for _, pk, _ in late])
        if rules.has_clock_stayed(reading.clock, clock):
            for sought, pk, values in late:
                version = versions.get(region.version_key(pk))
                if version is not None and not rules.is_locked(version):
                    kept.append((sought, pk, values, version))
    return kept


def versions_of(reading, pks):
    """
    Return {version key: version} of these rows, adding absent versions, and
    the clock after that.
    """
    region, prefix = reading.region, reading.token_prefix
    fresh = region.new_versions(pks, prefix)
    versions, clock = region.client.vouch(
        fresh, region.timeout, region.clock_key, MAX_ADDED
    )
    if len(fresh) == 1 and is_token(versions.get(*fresh), prefix):
        return versions, clock  # most calls
    versions = {key: versions[key] for key in fresh if versions.get(key) is not None}
    invalid = [key for key in versions if not is_token(versions[key], prefix)]
    for key in invalid[MAX_ADDED:]:
        del versions[key]
    missing = [key for key in fresh if key not in versions] if len(fresh) == 1 else []
    if invalid or missing:
        # They were evicted in the meantime, or belong to another server or
        # test.
        again = [*invalid[:MAX_ADDED], *missing]
        tokens = region.observe(versions, again, prefix)
        versions |= zip(again, tokens, strict=True)
        clock = region.client.look([region.clock_key]).get(region.clock_key)
    return versions, clock


# Created rows


def fill_created(reading, created, made_pk=False):
    """
    Keep the rows of (sought, pk, values) that this call inserted. ``made_pk``
    is True if the database has made their primary keys.
    """
    if in_transaction(reading.connection):
        fill_uncommitted(reading, created, made_pk)
    else:
        fill(reading, created)


def fill_uncommitted(reading, created, made_pk):
    """
    Do the same as fill_created(), for rows that no other connection sees yet:
    in a transaction, or in that of a TestCase.
    """
    connection, region = reading.connection, reading.region
    own = journal(connection)
    rows = [(sought, pk, pack(values)) for sought, pk, values in created]
    own.keep(
        connection, region, [(pk, values, sought.lookup) for sought, pk, values in rows]
    )
    if own.is_written_by_query(region) or is_apart(connection):
        return
    with suppress(CacheFault):
        # No other transaction sees the rows before the commit. So the INSERT
        # corresponds to the SELECT of other readers, and the versions that
        # this reader observes now vouch for the rows.
        reading.epoch, reading.clock = own.observe(reading)
        if rules.is_locked(reading.epoch):
            return
        own.fill_later(
            new
            for new in fills_of_created(reading, own, rows, made_pk)
            if not rules.is_locked(new.version)
        )


def fills_of_created(reading, own, rows, made_pk):
    """Return Fills for created rows, whose versions are set or will be set."""
    region, prefix = reading.region, reading.token_prefix
    pks = [pk for _, pk, _ in rows]
    is_unknown = made_pk and region.version_per_row
    if is_unknown and reading.is_batch:
        # Not by add(): no other process knows these keys yet.
        versions = region.new_versions(pks, prefix)
        region.client.announce(versions, region.timeout)
    elif is_unknown and (
        region.client.waits_for_less() or own.streaks.get(region, 0) > MAX_SINGLE
    ):
        [(sought, pk, values)] = rows
        version = region.new_token(prefix, region.version_key(pk))
        new = Fill(reading, sought, pk, values, version)
        own.announce_later(new)
        return [new]
    else:
        versions = observed_versions(region, pks, prefix)
    found = [versions.get(region.version_key(pk)) for pk in pks]
    return [
        Fill(reading, sought, pk, values, version)
        for (sought, pk, values), version in zip(rows, found, strict=True)
        if version is not None
    ]


def observed_versions(region, pks, prefix):
    """
    Return {version key: version} of these rows, adding absent versions. If
    more than MAX_ADDED are absent, add none of them.
    """
    keys = list(dict.fromkeys(map(region.version_key, pks)))
    entries = region.client.look(keys) if len(keys) > 1 else {}
    there = [key for key in keys if is_token(entries.get(key), prefix)]
    if len(keys) - len(there) <= MAX_ADDED:
        there = keys
    return dict(zip(there, region.observe(entries, there, prefix), strict=True))


# Updated rows


def publish(reading, sought, pk, values):
    """
    Keep the row that this transaction has just updated, before its commit. Its
    stamp has the version that the transaction's own release will set.
    """
    if in_transaction(reading.connection):
        for publication in publications(reading, [(sought, pk, values)]):
            journal(reading.connection).publish_later(publication)
    else:
        reading.updated = sought, pk, values


def publish_batch(reading, rows):
    """Do the same for rows of (sought, pk, values), with few commands."""
    if in_transaction(reading.connection):
        found = publications(reading, rows)
        journal(reading.connection).publish_now(found)


def publications(reading, rows):
    """
    Let the transaction serve the rows that it has updated. Return Publications
    of the rows that no other transaction can write before its end.
    """
    region, connection = reading.region, reading.connection
    own = journal(connection)
    own.keep(
        connection,
        region,
        [(pk, pack(values), sought.lookup) for sought, pk, values in rows],
    )
    if (
        own.is_written_by_query(region)
        or is_apart(connection)
        or drivers.has_savepoint(connection)
    ):
        return []
    rows = [row for row in rows if own.holds_lock(region, row[1])]
    found = []
    with suppress(CacheFault):
        if rows and reading.epoch is None:
            reading.epoch, _ = own.observe(reading)
        if not rows or rules.is_locked(reading.epoch):
            return []
        for sought, pk, values in rows:
            version = region.new_token(reading.token_prefix, region.version_key(pk))
            entries = entries_of(reading, [(sought, pk, values, version)])
            if region.payload_key(pk) in entries:
                found.append(Publication(region, pk, values, version, entries))
            elif entries:
                region.client.fill(entries, region.timeout, waits=False)
    return found


def fill_updated(reading):
    """
    Keep a row that was updated only in the transaction around a TestCase.

    It is already released, and no other process sees it: its version is still
    the one that this update has set.
    """
    if (
        reading.updated is None
        or not reading.may_fill
        or not is_autocommit(reading.connection)
    ):
        return
    sought, pk, values = reading.updated
    region, prefix = reading.region, reading.token_prefix
    keys = [region.epoch_key, region.version_key(pk)]
    with suppress(CacheFault):
        entries = region.client.look(keys)
        reading.epoch, version = region.observe(entries, keys, prefix)
        if not rules.is_locked(reading.epoch) and not rules.is_locked(version):
            fill_now(reading, [(sought, pk, values, version)])
