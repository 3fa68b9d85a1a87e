"""
Reads what the cache holds now, for a call that explain() explains and for a
row that the admin shows. It changes nothing.

This is the only module of the tools that sees the parts of a Reading: its
cache clients, its entries and its tokens.
"""

import time
from dataclasses import dataclass
from typing import Any

from django.db import connections

from ..coherence import clients, process_memory, rules
from ..coherence.clients import CacheClient
from ..coherence.faults import CacheFault, Unreachable, Unreadable
from ..coherence.reading import Reading, SoughtRow
from ..coherence.tokens import FOREIGN, LOCK, is_locked, is_token
from ..environment.failures import error_in_words
from ..lookups.canonical import pk_text
from ..lookups.rows import PARTS, layout
from ..signals import Reason


@dataclass
class Entry:
    """An entry of the cache. ``holds`` describes its value in words."""

    kind: str  # "hint", "payload", "version" or "epoch"
    alias: str
    key: str | None  # as caches[alias].get() takes it; None if it is unknown
    holds: str
    values: dict[str, Any] | None = None  # of a row, by attname


# A call of get_or_create()


class DryReading(Reading):
    """
    A Reading that decides as the call's own does, and changes nothing: neither
    the cache nor what the process remembers.
    """

    insists = True

    def __init__(self, reading):
        self.__dict__.update(reading.__dict__)
        self.client = LookingClient(reading.client)
        is_shared = reading.key_client is reading.client
        self.key_client = (
            self.client if is_shared else LookingClient(reading.key_client)
        )

    @property
    def error(self):
        """Return how one of the caches failed, in words, or None."""
        return self.client.error or self.key_client.error

    def _judge(self, row, entries, may_hit):
        # Otherwise the process would remember the hint and the row of a hit.
        row.remembered_pk = row.pk
        local_timeout, self.local_timeout = self.local_timeout, 0
        try:
            return super()._judge(row, entries, may_hit)
        finally:
            self.local_timeout = local_timeout

    def _observe(self, rows, entries):
        # The call adds the tokens that are absent. If the cache fails when it
        # reads them, that is the reason of the miss.
        if self.region.epoch_key not in entries:
            self.client.look([self.region.epoch_key, self.region.clock_key])

    def _delete_unreadable(self, rows):
        pass


class LookingClient(CacheClient):
    """
    A CacheClient that only reads. A failure neither pauses the real client nor
    pays its debts.
    """

    def __init__(self, client):
        super().__init__(client.alias)
        self.entries = {}
        self.error = None
        if client.down_until is not None:
            seconds = max(client.down_until - time.monotonic(), 0)
            if seconds or client.debts:
                self.error = f"It failed, and is not used for {seconds:.0f} s."
                self.down_until = client.down_until

    def look(self, keys):
        found = super().look(keys)
        self.entries |= dict.fromkeys(keys) | found
        return found

    def try_again(self):
        raise Unreachable

    def mark_down(self, error):
        self.error = f"It failed: {error_in_words(error, self.alias)}"
        self.down_until = time.monotonic()

    def holds(self, key, in_words):
        """Return in words which value a key has, by ``in_words(value)``."""
        if key not in self.entries:
            try:
                self.look([key])
            except Unreachable:
                return "no answer"
            except Unreadable as error:
                return f"unreadable: {error.__cause__!r}"
        value = self.entries[key]
        return "nothing" if value is None else in_words(value)


def is_model_locked(sought):
    """Return True if a bulk write has put all rows of the model under LOCK."""
    return sought.seen is not None and is_locked(sought.seen[2])


def entries_of(reading, sought):
    """
    Return the entries that the call would read, and the primary key that the
    lookup leads to. ``reading`` is a DryReading after its ask().
    """
    region, client, entries = reading.region, reading.client, []
    pk = sought.pk
    if sought.lookup is not None:
        entry, pk = hint_of(reading, sought)
        entries.append(entry)
    if sought.values is not None:
        pk = pk_text(region.model._meta, by_attname(region.model, sought.values))
    if pk is None:
        unknown = "unknown without a hint"
        entries += [
            Entry(kind, client.alias, None, unknown) for kind in ("payload", "version")
        ]
    else:
        key = region.payload_key(pk)
        holds = client.holds(key, payload_in_words)
        values = row_of(reading, client.entries.get(key))
        entries.append(Entry("payload", client.alias, key, holds, values))
        entries.append(token_of(reading, "version", region.version_key(pk)))
    entries.append(token_of(reading, "epoch", region.epoch_key))
    return entries, pk


def hint_of(reading, sought):
    """Return the entry of the hint, and the primary key that it leads to."""
    known = process_memory.hints.get((reading.region, sought.lookup))
    client, key = reading.key_client, reading.hint_key(sought)
    holds = client.holds(key, lambda value: f"primary key {value}")
    found = client.entries.get(key)
    if known is not None and known != found:
        holds += f"; this process remembers {known}"
    pk = sought.pk or known or (found if type(found) is str else None)
    return Entry("hint", client.alias, key, holds), pk


def token_of(reading, kind, key):
    def in_words(value):
        if not is_token(value, reading.token_prefix):
            return f"{as_kept(value)!r}, not a token of this server and database"
        return LOCK if is_locked(value) else f"token {value}"

    client = reading.client
    return Entry(kind, client.alias, key, client.holds(key, in_words))


def as_kept(value):
    """Return the value in the cache, without the mark of a transport."""
    return value.removeprefix(FOREIGN) if type(value) is str else value


def payload_in_words(payload):
    if type(payload) is not tuple or len(payload) != PARTS:
        return f"not a row: {as_kept(payload)!r}"
    (epoch, version), *_ = payload
    return f"a row, stamped {version} in {epoch}"


def row_of(reading, payload):
    """Return {attname: value} of a payload, None if its fields differ."""
    if (
        type(payload) is tuple
        and len(payload) == PARTS
        and payload[1] == reading.fingerprint
    ):
        return by_attname(reading.region.model, payload[2])
    return None


def by_attname(model, values):
    return dict(zip(layout(model).attnames, values, strict=True))


# A row


def why_not_cached(region, pk):
    """
    Return the Reason why a lookup of the row with this primary key, a text,
    would be a miss; None if it would be a hit.
    """
    connection = connections[region.using]
    reading = Reading(region, region.client, layout(region.model), connection)
    # Not ask(), which adds absent entries.
    keys = region.keys_of_row(pk)
    try:
        entries = region.client.look(keys)
    except CacheFault:
        return Reason.ERROR
    seen = tuple(map(entries.get, keys))
    return rules.verdict(seen, reading, SoughtRow({}, None, pk))


def answers(alias):
    """Return True if a cache answers now."""
    try:
        clients.by_alias[alias].look(["getorcreateplus"])
    except CacheFault:
        return False
    return True
