import logging
import math
import pickle
import re
import secrets
import time
import weakref
from contextlib import closing, suppress
from functools import partial, wraps
from typing import NamedTuple

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, memcache_key_warnings
from django.db import Error, connections
from django.utils.functional import cached_property

from ..conf import conf
from ..environment.failures import named
from ..environment.identity import Keys, aliases_of_database
from ..lookups.canonical import canonical_text, digest
from ..lookups.rows import PARTS, mark
from ..signals import Reason, Source, tell_invalidated
from ..writes.statements import OF_SAVEPOINT, READING, statement_of
from . import drivers
from . import process_memory as memory
from .asking import LARGE, Asking
from .outages import Garbage, Store, Stores, Unavailable, stores  # noqa: F401

logger = logging.getLogger("getorcreateplus")

LOCK = "LOCK"

# Of the rows that one transaction creates one after the other, those whose
# versions are added one by one; and how many of the others at most are set at
# once. (Fewer at first, for those that are left at the commit are added.)
SINGLE = 2
BATCH = 16

# Times that a token is added which goes again at once.
MOST_ADDS = 3

# Rows of a model that a transaction locks one by one; with more, it locks all.
# So no command of its release has more than some thousand entries.
MOST_LOCKED = drivers.MOST_KEPT
# Savepoints that are open at once. What is written since a later one counts as
# a part of the last of these; rolled back, it is doubted together with it.
MOST_LEVELS = 64
OVERLAY_BYTES = 16 * 2**20  # beside the setting OVERLAY_ROWS
# What a transaction fills after its commit by one command.
FILL_ROWS, FILL_BYTES = 1000, 2**20


class Region:
    """
    The entries of one model, in one database, in one object cache.

    With a cache of its own the payload's key is the primary key alone, so that
    ``caches[model_name].delete(pk)`` invalidates a row by hand.
    """

    def __init__(
        self,
        model,
        using,
        alias,
        *,
        database,
        own_cache,
        timeout,
        version_per_row,
        one_table,
    ):
        """``database`` are the parts that name the database in keys."""
        self.model = model  # that signals are sent by
        self.using = using
        self.keys = Keys(alias)
        self.store = stores[alias]
        self.own_cache = own_cache
        self.timeout = timeout  # seconds, of payloads, versions and hints
        # Not where the database may find two spellings of a primary key equal:
        # there all rows have one version.
        self.version_per_row = version_per_row
        # Whether a lock on a row of its table is one on the whole row.
        self.one_table = one_table
        # Short, for Django looks at each character of a key, and pymemcache
        # hashes each. (Two models of one name would be misses to each other.)
        self.name = f"goc{digest(model._meta.label_lower, *database)[:10]}"
        self.epoch = f"{self.name}@epoch"
        self.clock = f"{self.name}@clock"
        self.all = f"{self.name}@version"
        self.remember_keys([self.epoch, self.clock, self.all])
        self.asking = Asking()
        # Of the rows in this process's memory: what tells it of its writes.
        self.writes = self.generation = 0

    @property
    def seconds(self):
        """The timeout in seconds, the cache's own where none is set."""
        if self.timeout is DEFAULT_TIMEOUT:
            return caches[self.store.alias].default_timeout
        return self.timeout

    def payload(self, pk):
        return key(pk if self.own_cache else f"{self.name}:{pk}")

    def hint(self, lookup):
        """Return the key of the hint of a lookup, (attname, plain value)s."""
        columns = [(name, type(v).__name__, canonical_text(v)) for name, v in lookup]
        return f"{self.name}#{digest(columns)[:20]}"

    def version(self, pk):
        return key(f"{self.name}!{pk}") if self.version_per_row else self.all

    def entries(self, pks):
        """Return the keys of what a write of these rows changes."""
        if pks is None:
            return [self.clock, self.epoch]
        names = [f(pk) for pk in pks for f in (self.version, self.payload)]
        return [self.clock, *names]

    def remember_keys(self, names):
        """Have the cache's keys of these, where they cannot be made later."""
        if self.keys.are_lost_later and self.keys.is_current():
            self.keys.remember(names)

    # Writing

    def lock(self, connection, pks, has_release=True):
        """
        Rule lock: nobody fills, nor trusts, these rows until the release; None
        for all rows of the model.
        """
        place = world_of(connection)
        memory.rows.forget(self, place, pks)
        self.remember_keys([self.epoch, *self.entries(pks)])
        self.store.lock_rows(self, pks, has_release, place)

    def lock_now(self, pks, place=""):
        keys = [self.epoch] if pks is None else map(self.version, pks)
        with self.keys.again():
            self.store.set_now(dict.fromkeys(keys, place + LOCK), conf.LOCK_TIMEOUT)

    def release(self, connection, pks, published=(), all_rows=False, written=True):
        """
        Let readers fill these rows again; None for all rows of the model, or
        both, where both were locked.

        The published rows, {pk: version}, keep their payloads. ``written``
        tells whether to send a signal: not for rows that were rolled back.
        """
        place = world_of(connection)
        changed = None if all_rows else pks
        self.remember_keys(self.entries(pks))
        try:
            self.store.release_rows(self, pks, published, all_rows, place)
        finally:
            # Last: what was read until now may be what there was before.
            memory.rows.forget(self, place, changed)
            self.asking.rests_until = 0.0
        if written:
            tell_invalidated(self, changed)

    def release_now(self, pks, published=(), all_rows=False, place=""):
        # In this order. A cold reader that saw the old row and sees the new
        # version must find the clock moved. Who read the old payload before
        # must find the version moved; and the payload itself gone, should the
        # version be evicted.
        clock = {self.clock: token(place)}  # rule clock
        versions, dropped = {}, {}
        if pks is not None:
            versions = {
                self.version(pk): published[pk] if pk in published else token(place)
                for pk in pks
            }
            # A payload that is no tuple is a miss. delete_many() would be a
            # command of its own.
            dropped = {self.payload(pk): None for pk in pks if pk not in published}
        if pks is None or all_rows or not self.keys.are_known([*versions, *dropped]):
            versions[self.epoch] = token(place)
        timeout = None if pks is None else self.timeout
        with self.keys.again():
            self.store.set_in_order(
                clock,
                versions,
                dropped,  # rule drop
                timeout=timeout,
            )

    def note_refused(self, pk, values):
        """Remember a row that the cache has refused, if it is too large."""
        size = len(pickle.dumps(values, pickle.HIGHEST_PROTOCOL))
        if size < LARGE or not self.store.takes_small_entries():
            return
        self.asking.note_too_large(pk)
        if not self.asking.has_told:
            self.asking.has_told = True
            logger.warning(
                "Cache %s refuses a row of %s as too large (primary key %s, %s bytes). "
                "Each lookup of such a row is a query. Raise the limit of the cache's "
                "server, or keep the large columns in another model.",
                named(self.store.alias),
                self.model._meta.label,
                pk,
                f"{size:,}",
            )

    # Reading

    def observe(self, entries, keys, place):
        """
        Return the tokens under the keys, adding those that are absent.

        ``entries`` is what a get_many() of them returned.
        """
        return [self._observed(entries.get(key), key, place) for key in keys]

    def _observed(self, found, key, place):
        timeout = None if key in (self.epoch, self.clock) else self.timeout
        for _ in range(MOST_ADDS):
            if is_token(found, place):
                return found  # perhaps another reader's, or a writer's LOCK
            new = token(place)
            if found is not None:
                # A token of another test's transaction, which has ended.
                self.store.set({key: new}, timeout)
                return new
            if self.store.add(key, new, timeout):
                return new
            # It may have gone again since. Only add() leaves a LOCK alone.
            found = self.store.get_many([key]).get(key)
        if is_token(found, place):
            return found
        raise Unavailable(f"{key!r} does not stay in the cache")


# memcached's 250 bytes, less room for KEY_PREFIX and VERSION.
LONGEST_KEY = 150
is_short_ascii = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_KEY}}}").fullmatch


def key(name):
    """Return name as a key that every cache takes."""
    if is_short_ascii(name):
        return name
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > LONGEST_KEY or any(memcache_key_warnings(name)):
        return "goc:" + digest(name)
    return name


def token(place):
    return place + secrets.token_hex(8)


def is_token(value, place):
    if type(value) is not str:
        return False
    return value.startswith(place) if place else "." not in value


def is_locked(value):
    return value.endswith(LOCK)


class Read:
    """
    One reading of a row: what was observed before the statement.

    ``values`` are the column values of a hit, or None.
    """

    values = updated = None
    pk = remembered = epoch = version = clock = None
    fills = unsent = is_new = False
    # What signals tell of it.
    wanted = seen = None
    source = Source.CACHE
    asked = failed = False
    insists = False  # on an answer, even if asking does not pay
    sample, omitted = "all", None  # as Asking has it, and the Reason not to ask
    answered = None  # when, as time.monotonic() tells

    def __init__(
        self,
        region,
        key_store,
        lookup,
        fingerprint,
        matches,
        local_timeout=0,
        connection=None,
    ):
        """
        ``lookup`` is a sorted tuple of (attname, plain value), None where it
        names the primary key; ``matches`` tells whether column values are
        those of a row that is looked for.
        """
        self.region = region
        self.store = region.store
        self.key_store = key_store
        self.lookup = lookup
        self.fingerprint = fingerprint
        self.matches = matches
        self.local_timeout = local_timeout
        self.connection = connection or connections[region.using]
        self.place = world_of(self.connection)
        self.writes = region.writes
        self.began = time.monotonic()

    @property
    def is_of_no_use(self):
        """Tell whether nothing of what the database answers is kept."""
        return self.omitted is not None and not in_transaction(self.connection)

    @cached_property
    def hint(self):
        """The key of the hint, in the key cache."""
        return self.region.hint(self.lookup)

    def of(self, lookup):
        """Return a copy of a Read of no row, which is one of this lookup."""
        read = object.__new__(Read)
        read.__dict__.update(self.__dict__)  # a tenth of copy.copy()
        read.lookup = lookup
        return read

    def ask(self, pk=None, may_hit=True):
        """
        Return the column values of a hit, or None.

        ``pk`` is the text of the primary key where the lookup names it.
        """
        connection = self.connection
        in_cache, may_fill = situation(connection)
        if connection.in_atomic_block:
            if connection.needs_rollback:
                return None  # Django says that no query may be run
            if in_transaction(connection):
                if is_aborted(connection):
                    return None  # PostgreSQL says so
                pk = self._ask_own(pk, may_hit)
                if (
                    self.values is not None
                    or self._is_written(pk)
                    or self._is_probably_new()
                ):
                    return self.values
        self.asked = may_hit = may_hit and in_cache
        if (may_hit or may_fill) and self._pays(pk, may_hit):
            began = time.monotonic()
            try:
                self._ask(pk, may_hit, may_fill)
            except Unavailable:
                self.fills, self.failed = False, True
            except Garbage:
                self.fills, self.failed = False, True
                self._sweep()
            self.answered = time.monotonic()
            if may_hit and not self.failed:
                is_hit = self.values is not None
                asking = self.region.asking
                asking.note_answer(self.sample, self.answered - began, is_hit)
        return self.values

    def _pays(self, pk, may_hit):
        asking = self.region.asking
        # What a TestCase sees under LOCK is its own. A forced SELECT mends
        # what is in the cache. The process's own memory costs nothing.
        if self.place or self.insists or not may_hit or self.local_timeout != 0:
            return True
        if asking.large and asking.is_too_large(pk or self._known_pk()):
            self.omitted = Reason.LARGE
        elif asking.is_resting():
            self.omitted = Reason.LOCKED
        else:
            self.sample = asking.sample(self.lookup or pk)
            if self.sample is None:
                self.omitted = Reason.SELDOM
        return self.omitted is None

    def _known_pk(self):
        """Return the primary key to which the lookup has led this process."""
        return self.lookup and memory.hints.get((self.region, self.lookup))

    def observe(self):
        """
        Look at the clock before a statement that may insert the row. In a
        transaction that is done once, for all rows.
        """
        _, may_fill = situation(self.connection)
        if may_fill and not in_transaction(self.connection):
            try:
                entries = self.region.store.get_many(
                    [self.region.epoch, self.region.clock]
                )
                self._observe(entries)
            except (Unavailable, Garbage):
                return

    def _observe(self, entries):
        region = self.region
        [self.epoch] = region.observe(entries, [region.epoch], self.place)
        if self.pk is not None:
            name = region.version(self.pk)
            [self.version] = region.observe(entries, [name], self.place)
        if self.pk is None or self.lookup is not None:
            # It may be another row that is found.
            [self.clock] = region.observe(entries, [region.clock], self.place)
        self.fills = not is_locked(self.epoch)
        if not self.fills and not self.place:
            region.asking.rest()

    def _ask_own(self, pk, may_hit):
        """Look into the overlay. Return the primary key, where it is known."""
        own = journal(self.connection)
        if pk is None and self.lookup is not None:
            pk = own.find(self.region, self.lookup)
        if pk is not None and may_hit:
            values = own.values(self.region, pk)
            if values is not None and self.matches(values):
                self.values, self.source = values, Source.TRANSACTION
        return pk

    def _is_written(self, pk):
        own = journal(self.connection)
        return own.is_written(self.region, pk)

    def _is_probably_new(self):
        """
        Tell whether the row is probably none yet, as of a transaction that
        does nothing but create: asking the cache would be in vain.
        """
        self.is_new = (
            journal(self.connection).streaks.get(self.region, 0) >= SINGLE
            and self.lookup is not None
            and self._known_pk() is None
        )
        return self.is_new

    def _ask(self, pk, may_hit, may_fill):
        region, entries = self.region, {}
        if self.lookup is not None and pk is None:
            pk = self.remembered = self._known_pk()
        if pk is not None and (
            self._get(pk, entries, may_hit) or self._is_locked(entries)
        ):
            return
        if self.lookup is not None:
            # What the process remembers may be out of date.
            together = self.key_store is self.store
            keys, others = [self.hint], [region.clock, region.epoch]
            entries |= self.key_store.get_many(keys + others if together else keys)
            pk = entries.get(keys[0])
            if type(pk) is str and pk != self.pk:
                if self._get(pk, entries, may_hit, [] if together else others):
                    return
            elif not together and may_fill:
                entries |= self.store.get_many(others)
        if may_fill:
            self._observe(entries)

    def _is_locked(self, entries):
        """Tell whether neither a hit nor a fill is possible now."""
        region = self.region
        names = region.epoch, region.version(self.pk)
        return any(is_locked(str(entries.get(name))) for name in names)

    def _get(self, pk, entries, may_hit, others=()):
        """Ask for the row. Return whether nothing else needs to be asked."""
        region = self.region
        self.pk = pk
        if in_transaction(self.connection) and self._is_written(pk):
            self._ask_own(pk, may_hit)
            return True
        if may_hit and self.local_timeout != 0:
            values = memory.rows.find(region, self.place, pk, self.local_timeout)
            if values is not None and self.matches(values):
                self.values, self.source = values, Source.MEMORY
                return True
        payload, version = region.payload(pk), region.version(pk)
        entries |= self.store.get_many([payload, version, region.epoch, *others])
        seen = entries.get(payload), entries.get(version), entries.get(region.epoch)
        if seen[2] == LOCK:
            region.asking.rest()
        if may_hit and self._is_hit(*seen):
            self.values = entries[payload][2]
            self._remember(pk, self.values)
            return True
        if may_hit and in_transaction(self.connection):
            # What this transaction is going to fill.
            own = journal(self.connection)
            later = own.filled(region, pk, self.fingerprint)
            if self._is_hit(later, *seen[1:]):
                self.values, self.source = later[2], Source.TRANSACTION
                return True
        self.seen = seen
        return False

    def _remember(self, pk, values):
        """Let the process keep what is committed."""
        if self.lookup is not None and self.remembered != pk:
            memory.hints.put((self.region, self.lookup), pk)
        if self.local_timeout != 0:
            memory.rows.keep(self.region, self.place, pk, values, self)

    def _is_hit(self, payload, version, epoch):
        return (
            type(payload) is tuple
            and len(payload) == PARTS
            and payload[0] == (epoch, version)
            and is_token(version, self.place)
            and is_token(epoch, self.place)
            and not is_locked(version)  # rule lock
            and not is_locked(epoch)
            and payload[1] == self.fingerprint
            and self.matches(payload[2])
        )

    def reason(self, row):
        """Return the Reason why a row, of this Read or of many, is no hit."""
        if self.failed:
            return Reason.ERROR
        if not self.asked:
            return Reason.TRANSACTION
        if self.omitted is not None:
            return self.omitted
        if row.seen is None:
            return Reason.NO_HINT if row.pk is None else Reason.TRANSACTION
        payload, version, epoch = row.seen
        if is_locked(str(version)) or is_locked(str(epoch)):
            return Reason.LOCKED
        if (
            payload is None
            or not is_token(version, self.place)
            or not is_token(epoch, self.place)
        ):
            return Reason.NO_ROW
        if type(payload) is not tuple or len(payload) != PARTS:
            return Reason.ERROR
        if payload[0] != (epoch, version):
            return Reason.STAMP
        if payload[1] != self.fingerprint:
            return Reason.FIELDS
        return Reason.LOOKUP

    def _sweep(self):
        """Delete what cannot be unpickled, for it would stay a miss."""
        with suppress(Unavailable):
            if self.lookup is not None:
                self.key_store.delete([self.hint])
            if self.pk is not None:
                self.region.store.delete(
                    [self.region.payload(self.pk), self.region.version(self.pk)]
                )

    def note(self, created):
        """The statement has created the row, or found it."""
        # The journal of a TestCase does not know where transactions begin.
        if in_transaction(self.connection) and not self.place:
            streaks = journal(self.connection).streaks
            streaks[self.region] = streaks.get(self.region, 0) + 1 if created else 0

    def fill(self, pk, values):
        """Keep the row that a SELECT returned."""
        if self.answered is None:
            self._keep(pk, values)
            return
        began, asking = time.monotonic(), self.region.asking
        asking.query.add(began - self.answered)
        self._keep(pk, values)
        asking.fill.add(time.monotonic() - began)

    def _keep(self, pk, values):
        connection = self.connection
        own = journal(connection) if in_transaction(connection) else None
        if own is not None and own.is_written(self.region, pk):
            row = self.region, pk, values, self.lookup
            own.keep(connection, *row, selected=True)
            return
        if self.fills and (own is not None or is_autocommit(connection)):
            with suppress(Unavailable, Garbage):
                if not self._is_vouched_for(pk):
                    return
                if own is not None:
                    own.fill_later(connection, self, pk, memory.pack(values))
                    return
                self._fill(pk, values)
                self._remember(pk, values)

    def fill_created(self, pk, values, made_pk=False):
        """
        Keep the row that this call inserted; ``made_pk`` tells whether the
        database has made its primary key.
        """
        if not in_transaction(self.connection):
            self.fill(pk, values)
            return
        region = self.region
        own = journal(self.connection)
        own.keep(self.connection, region, pk, values, self.lookup)
        if own.is_written_by_query(region) or is_apart(self.connection):
            return
        with suppress(Unavailable, Garbage):
            # Nobody else sees the row before the commit, which is to this
            # reader what the SELECT is to others: the version that is observed
            # now vouches for the row.
            self.epoch, self.clock = own.observe(self)
            if (
                made_pk
                and own.streaks.get(region, 0) > SINGLE
                and region.version_per_row
            ):
                own.send_later(self, region.version(pk))
            else:
                [self.version] = region.observe({}, [region.version(pk)], self.place)
            if not is_locked(self.epoch) and not is_locked(self.version):
                own.fill_later(self.connection, self, pk, memory.pack(values))

    def publish(self, pk, values):
        """
        Keep the row that this transaction has just updated, before its commit.

        The stamp holds the version that its own release is going to set.
        """
        region = self.region
        if not in_transaction(self.connection):
            self.updated = pk, values
            return
        own = journal(self.connection)
        own.keep(self.connection, region, pk, values, self.lookup)
        if (
            own.is_written_by_query(region)
            or is_apart(self.connection)
            or not own.holds_lock(region, pk)
            or drivers.has_savepoint(self.connection)
        ):
            return
        self.version = token(self.place)
        with suppress(Unavailable, Garbage):
            if self.epoch is None:
                self.epoch, _ = own.observe(self)
            # What the cache did not take is dropped, by the release.
            if not is_locked(self.epoch) and self._fill(pk, values):
                own.publish(region, pk, self.version)

    def fill_updated(self):
        """
        Keep a row that was updated in the transaction around a TestCase alone.

        It is released already, and nobody else sees it: its version is still
        that of this update.
        """
        if self.updated is None or not self.fills or not is_autocommit(self.connection):
            return
        pk, values = self.updated
        region = self.region
        names = [region.epoch, region.version(pk)]
        with suppress(Unavailable, Garbage):
            self.epoch, self.version = region.observe(
                region.store.get_many(names), names, self.place
            )
            if not is_locked(self.epoch) and not is_locked(self.version):
                self._fill(pk, values)

    def _is_vouched_for(self, pk):
        """Tell whether nobody has written the row since the observation."""
        region = self.region
        if self.version is not None and pk == self.pk:
            return not is_locked(self.version)
        # The version of this row was not observed before the statement, which
        # alone knew the pk. A writer between the two moved the clock before
        # the version: look at the version first, at the clock again after it.
        store, name = region.store, region.version(pk)
        self.version = token(self.place)
        entries = {}
        if not store.add(name, self.version, region.timeout):
            entries = store.get_in_order([name, region.clock])
            self.version = entries.get(name)
            if not is_token(self.version, self.place):
                # Evicted since, or of another test.
                [self.version] = region.observe(entries, [name], self.place)
                entries = {}
        if is_locked(self.version):
            return False
        entries = entries or store.get_many([region.clock])
        clock = entries.get(region.clock)
        return clock is not None and clock == self.clock  # rule recheck

    def _fill(self, pk, values):
        """Return whether the row was stored."""
        region, entries = self.region, {}
        is_sent = not region.asking.is_too_large(pk)
        if is_sent:
            entries[region.payload(pk)] = self.payload(values)
        if self.lookup is not None and self.pk != pk:
            if self.key_store is region.store:
                entries[self.hint] = pk
            else:
                self.key_store.try_set({self.hint: pk}, region.timeout)
        if entries and region.store.try_set(entries, region.timeout):
            region.note_refused(pk, values)
            return False
        return is_sent

    def payload(self, values):
        return (self.epoch, self.version), self.fingerprint, values, mark(values)


def fill_committed(rows):
    """
    Fill the rows of (read, pk, values frozen), which a transaction has created
    or read, by a few commands.
    """
    batches, count, size = {}, 0, 0
    for read, pk, frozen in rows:
        region, values = read.region, memory.unpack(frozen)
        objects = batches.setdefault((region.store, region.keys, region.timeout), {})
        if not region.asking.is_too_large(pk):
            objects[region.payload(pk)] = read.payload(values)
        if read.lookup is not None and read.pk != pk:
            if read.key_store is region.store:
                objects[read.hint] = pk
            elif region.keys.is_current():
                keys = read.key_store, region.keys, region.timeout
                batches.setdefault(keys, {})[read.hint] = pk
        read._remember(pk, values)
        count, size = count + 1, size + memory.size_of(frozen)
        if count >= FILL_ROWS or size >= FILL_BYTES:
            set_batches(batches)
            batches, count, size = {}, 0, 0
    set_batches(batches)


def set_batches(batches):
    for (store, keys, timeout), entries in batches.items():
        with suppress(Unavailable), keys.again():
            store.try_set(entries, timeout)


def vouched_for(fills):
    """
    Return those rows of {(region, pk): (read, values)} whose version is in the
    cache, as it was sent or is added now; by then the clock must not have
    moved (rule recheck).
    """
    late = {region for (region, _), (read, _) in fills.items() if read.unsent}
    if not late:
        return fills
    kept = {}
    for (region, pk), (read, values) in fills.items():
        with suppress(Unavailable, Garbage), region.keys.again():
            if not read.unsent or region.store.add(
                region.version(pk), read.version, region.timeout
            ):
                kept[region, pk] = read, values
    clocks = {}
    for region in late:
        with suppress(Unavailable, Garbage), region.keys.again():
            clocks[region] = region.store.get_many([region.clock]).get(region.clock)
    return {
        (region, pk): (read, values)
        for (region, pk), (read, values) in kept.items()
        if not read.unsent or read.clock == clocks.get(region)
    }


# Transactions


class Level:
    """What a transaction has written since it began, or since a savepoint."""

    def __init__(self, savepoint=None):
        self.savepoint = savepoint  # its name as Django quotes it
        self.rows = {}  # (region, pk): (sequence, values frozen or None)
        self.size = 0  # of these values and of the fills, in bytes
        self.held = set()  # (region, pk) of those that are locked in the database
        self.hints = {}  # (region, lookup): pk
        self.queries = {}  # region: sequence of its last write by query
        self.locked = {}  # region: set of pks
        self.locked_all = set()  # regions
        self.published = {}  # region: {pk: version}
        # (region, pk): (read, values frozen), of rows created or read
        self.fills = {}

    def lead(self, region, lookup, pk):
        """Let a lookup lead to a row. One row may have had any number."""
        if lookup is not None:
            if len(self.hints) >= conf.OVERLAY_ROWS:
                self.hints.clear()
            self.hints[region, lookup] = pk

    def take(self, other):
        """Take over what was written since a savepoint that is released."""
        self.rows.update(other.rows)
        self.size += other.size
        self.held |= other.held
        self.hints.update(other.hints)
        self.queries.update(other.queries)
        for region, pks in other.locked.items():
            self.locked.setdefault(region, set()).update(pks)
        self.locked_all |= other.locked_all
        for region, versions in other.published.items():
            self.published.setdefault(region, {}).update(versions)
        self.fills.update(other.fills)

    def doubt(self):
        self.held.clear()
        self.locked.clear()
        self.locked_all.clear()
        self.published.clear()
        self.fills.clear()


class Journal:
    """
    What the open transaction of one connection has written, and what it has
    locked in the cache.

    There is one Level for the transaction, and one for each savepoint of
    Django's that is open. Nothing here depends on how much a transaction has
    written before: a savepoint that is rolled back takes its own Level with
    it, and what was locked is released at the end, whatever became of it.
    """

    def __init__(self):
        self.block = None  # the outermost atomic() of the transaction
        self.clear()

    def clear(self):
        self.levels = [Level()]
        self.owed = {}  # region: {pk: None} of what was locked
        self.owed_all = set()  # regions
        self.in_test = False
        # What has become of the transaction; a COMMIT may fail on its way.
        self.is_committing = self.has_committed = self.has_ended = False
        self.is_aborted = False  # by PostgreSQL, after an error
        self.sequence = 0
        self.doubted = 0  # no values of this sequence, nor of one before it
        self.locking = None  # the block, if it has waited for locks, or has some
        self.forget()

    def forget(self):
        self.observed = {}  # region: (epoch, clock), as they were at some time
        self.streaks = {}  # region: rows created one after the other
        self.unsent = []  # (read, key of a version that it will have)

    def is_in_use(self):
        """Tell whether the transaction has written or read anything."""
        return bool(self.sequence or self.owed or self.owed_all) or any(
            level.fills for level in self.levels
        )

    def begin(self, connection, block):
        """Another transaction has begun than the one that is known."""
        if self.in_test:
            self.settle(connection)
        # Otherwise the last transaction has lost its connection, so that its
        # end was not seen. Its LOCKs end by their timeout.
        self.clear()
        watch_end(connection)
        self.block = block
        self.in_test = any(map(is_around_test, connection.atomic_blocks))

    def forget_transaction(self, connection):
        """
        Its COMMIT or ROLLBACK was left by an exception, such as Ctrl-C. What
        it has locked goes by its timeout.
        """
        if not connection.in_atomic_block:  # otherwise Django has refused it
            self.clear()
            self.block = None

    # Savepoints

    def savepoint(self, name):
        if len(self.levels) < MOST_LEVELS:
            self.levels.append(Level(name))

    def release_savepoint(self, name):
        if (depth := self.depth_of(name)) is not None:
            self.merge(depth)

    def roll_back_to(self, name):
        """Forget what was written since a savepoint, which stays open."""
        depth = self.depth_of(name)
        if depth is None:
            self.doubt()
        else:
            del self.levels[depth:]
            self.levels.append(Level(name))
            self.forget()
        self.is_aborted = False

    def depth_of(self, name):
        for depth in range(len(self.levels) - 1, 0, -1):
            if self.levels[depth].savepoint == name:
                return depth
        return None

    def merge(self, depth):
        """Let the savepoints from this depth on be a part of what is below."""
        for level in self.levels[depth:]:
            self.levels[depth - 1].take(level)
        del self.levels[depth:]

    def doubt(self):
        """
        Trust no values any more, only that they were written.

        Something was rolled back, and the Journal cannot tell what. The locks
        of the rows in the database may be gone as well, and another writer's
        release may have replaced the LOCKs in the cache.
        """
        self.doubted = self.sequence
        for level in self.levels:
            level.doubt()
        self.forget()

    # What was written

    def next(self):
        self.sequence += 1
        return self.sequence

    def note(self, connection, region, pk):
        """This transaction writes, or has inserted, the row."""
        self.note_rows(connection, region, [pk])

    def note_rows(self, connection, region, pks):
        for level in self.levels:
            if level.fills:
                for pk in pks:
                    level.fills.pop((region, pk), None)
        if sum(len(level.rows) for level in self.levels) + len(pks) > conf.OVERLAY_ROWS:
            self.forget_rows()
            if len(pks) > conf.OVERLAY_ROWS:
                self.note_query(region)
                return
        level = self.levels[-1]
        rows = [(region, pk) for pk in pks]
        for row in rows:
            level.rows[row] = self.next(), None
        if region.one_table and not drivers.has_savepoint(connection):
            level.held.update(rows)

    def forget_rows(self):
        """Keep in memory that the models were written, not which rows."""
        for level in self.levels:
            for region in {region for region, _ in level.rows}:
                level.queries[region] = self.next()
            level.rows.clear()
            level.held.clear()
            level.hints.clear()
            level.size = 0

    def note_query(self, region):
        """This transaction writes rows that are not known."""
        self.levels[-1].queries[region] = self.next()

    def is_written(self, region, pk):
        return any(
            region in level.queries or (region, pk) in level.rows
            for level in self.levels
        )

    def is_written_by_query(self, region):
        return any(region in level.queries for level in self.levels)

    def held(self, region, pks):
        """Return those rows that are locked in the database."""
        return {pk for pk in pks if any((region, pk) in w.held for w in self.levels)}

    def note_unmatched(self, region, pks):
        """Nobody knows whether the statement found these rows to lock them."""
        self.levels[-1].held -= {(region, pk) for pk in pks}

    # The locks

    def lock(self, connection, region, pks):
        for level in self.levels:
            if region in level.published:
                for pk in pks:
                    # What was published is no longer what there is.
                    level.published[region].pop(pk, None)
        if self.has_locked_all(region):
            return
        pks = [pk for pk in pks if not self.holds_lock(region, pk)]
        owed = self.owed.setdefault(region, {})
        if len(owed) + len(pks) > MOST_LOCKED:
            self.lock_all(connection, region)
        elif pks:
            owed.update(dict.fromkeys(pks))
            region.lock(connection, pks)
            self.levels[-1].locked.setdefault(region, set()).update(pks)

    def holds_lock(self, region, pk):
        return any(pk in level.locked.get(region, ()) for level in self.levels)

    def lock_all(self, connection, region):
        if not self.has_locked_all(region):
            self.owed_all.add(region)
            region.lock(connection, None)
            self.levels[-1].locked_all.add(region)

    def has_locked_all(self, region):
        return any(region in level.locked_all for level in self.levels)

    def publish(self, region, pk, version):
        """The release of this row is going to set this version."""
        self.levels[-1].published.setdefault(region, {})[pk] = version

    # The overlay

    def keep(self, connection, region, pk, values, lookup, *, selected=False):
        """
        Serve this row, which the transaction wrote, without a query: as it was
        written, or has been selected since.

        Not where the row may not be locked in the database, and others may
        write it.
        """
        if drivers.has_savepoint(connection) or not self.held(region, [pk]):
            return
        # A write by query between the INSERT and now may have changed it.
        sequence = self.next() if selected else self.written(region, pk)
        self.keep_values(region, pk, sequence, memory.pack(values), lookup)

    def written(self, region, pk):
        """Return the sequence of the last write of a row."""
        rows = (level.rows.get((region, pk)) for level in reversed(self.levels))
        return next(sequence for sequence, _ in filter(None, rows))

    def keep_inserted(self, region, inserted):
        """As keep(), for (row, pk, packed values) that were just inserted."""
        level = self.levels[-1]
        for row, pk, values in inserted:
            if (region, pk) in level.held:
                sequence, _ = level.rows[region, pk]
                self.keep_values(region, pk, sequence, values, row.lookup)

    def keep_values(self, region, pk, sequence, values, lookup):
        level = self.levels[-1]
        if not self.has_room(level, values):
            values = None
        level.rows[region, pk] = sequence, values
        level.lead(region, lookup, pk)

    def has_room(self, level, values):
        """Tell whether the transaction may keep so much more, and count it."""
        size = memory.size_of(values)
        if sum(each.size for each in self.levels) + size > OVERLAY_BYTES:
            return False
        level.size += size
        return True

    def find(self, region, lookup):
        """Return the pk that the lookup leads to, in the overlay."""
        for level in reversed(self.levels):
            if (region, lookup) in level.hints:
                return level.hints[region, lookup]
        return None

    def values(self, region, pk):
        """Return the values of a row that this transaction wrote, or None."""
        known = (level.rows.get((region, pk)) for level in reversed(self.levels))
        sequence, values = next(filter(None, known), (0, None))
        if (
            values is None
            or sequence <= self.doubted
            or any(level.queries.get(region, 0) > sequence for level in self.levels)
        ):
            return None
        return memory.unpack(values)

    # Rows to fill after the commit

    def fill_later(self, connection, read, pk, values):
        """
        Fill this row after the commit, unless something rolls back what the
        transaction does now.

        Not before: a trigger, a function or COPY may have written the row in
        this transaction, and nothing tells that it was rolled back.
        """
        level = self.levels[-1]
        if (
            drivers.has_savepoint(connection)
            or sum(len(each.fills) for each in self.levels) >= conf.OVERLAY_ROWS
            or not self.has_room(level, values)
        ):
            return
        region = read.region
        level.fills[region, pk] = read, values
        level.lead(region, read.lookup, pk)
        if region.keys.are_lost_later:
            hints = [] if read.lookup is None else [read.hint]
            region.remember_keys([*region.entries([pk]), *hints])

    def filled(self, region, pk, fingerprint):
        """Return the payload that the commit is going to set, or None."""
        for level in reversed(self.levels):
            if (region, pk) in level.fills:
                read, values = level.fills[region, pk]
                if read.fingerprint == fingerprint and read.version is not None:
                    return read.payload(memory.unpack(values))
        return None

    def observe(self, read):
        """Return the epoch and the clock, as they were in this transaction."""
        region = read.region
        if read.clock is not None:  # it has looked at both, before its SELECT
            self.observed[region] = read.epoch, read.clock
        elif region not in self.observed or read.place:
            names = [region.epoch, region.clock]
            entries = region.store.get_many(names)
            self.observed[region] = region.observe(entries, names, read.place)
        return self.observed[region]

    def send_later(self, read, name):
        """
        Give the row that was read a version, and set it with others.

        Not by add(), for nobody knows a key that the database has just made.
        """
        read.version = token(read.place)
        read.unsent = True
        self.unsent.append((read, name))
        if len(self.unsent) < min(math.isqrt(2 * self.streaks[read.region]), BATCH):
            return
        batches = {}
        for each, key in self.unsent:
            region = each.region
            entries = batches.setdefault((region.store, region.timeout), {})
            entries[key] = each.version
        unsent, self.unsent = self.unsent, []
        for (store, timeout), entries in batches.items():
            store.set(entries, timeout)
        for each, _ in unsent:
            each.unsent = False

    # The end

    def settle(self, connection):
        """Release what the blocks of a TestCase wrote that have ended."""
        if self.owed or self.owed_all or self.levels[0].fills:
            self.merge(1)
            self.release(connection)

    def end(self, connection):
        """The transaction has ended, and the connection is in autocommit."""
        if self.in_test:
            self.clear()  # the outermost block, which is the test's
            return
        has_committed = self.has_committed
        if has_committed:
            self.merge(1)
        else:
            self.doubt()
        self.release(connection, has_committed)

    def release(self, connection, has_committed=True):
        """
        Let everybody fill again what was locked, and fill what was read.

        After a rollback as well, or LOCK would stay for its timeout.
        """
        owed, owed_all, [level, *_] = self.owed, self.owed_all, self.levels
        self.clear()
        try:
            # Before the release of other rows moves the clock.
            fills = vouched_for(level.fills)
            for region, pks in owed.items():
                region.release(
                    connection,
                    list(pks),
                    level.published.get(region, {}),
                    region in owed_all,
                    has_committed,
                )
            for region in owed_all - owed.keys():
                region.release(connection, None, written=has_committed)
            fill_committed(
                (read, pk, values) for (_, pk), (read, values) in fills.items()
            )
        except BaseException:
            # A time limit, or Ctrl-C. Release all of it later.
            for region, pks in owed.items():
                region.store.owe(region, None if region in owed_all else pks)
            for region in owed_all - owed.keys():
                region.store.owe(region, None)
            raise


worlds = weakref.WeakKeyDictionary()  # the atomic() around a TestCase: its prefix


def journal(connection):
    # An attribute of the connection, because each call reads it many times.
    try:
        own = connection.getorcreateplus_journal
    except AttributeError:
        own = connection.getorcreateplus_journal = Journal()
    block = first_block(connection)
    if block is not own.block and block is not None:
        own.begin(connection, block)
    return own


def first_block(connection):
    """Return the outermost atomic() of a transaction, but for a test's."""
    for block in connection.atomic_blocks:
        if not block._from_testcase:
            return block
    return None


def has_locked(connection):
    """
    Tell whether this transaction holds locks in the database, or has waited
    for some.

    It may have waited for the commit of another transaction, whose release is
    still on its way, and whose LOCK the release of a third one has replaced:
    what the cache serves then is older than what this transaction must see. So
    it has no hits until it ends.
    """
    locking = journal(connection).locking
    return locking is not None and locking is first_block(connection)


def is_locking_elsewhere(connection):
    """As has_locked(), of this thread by another alias of the database."""
    if len(connections.settings) == 1:
        return False
    others = aliases_of_database(connection.alias, connection.settings_dict)[1:]
    return bool(others) and any(
        each.alias in others and has_locked(each)
        for each in connections.all(initialized_only=True)
    )


# As Django sends them.
ROLLBACK_TO = "ROLLBACK TO SAVEPOINT"
SAVEPOINT_COMMANDS = {
    "SAVEPOINT": Journal.savepoint,
    "RELEASE SAVEPOINT": Journal.release_savepoint,
    ROLLBACK_TO: Journal.roll_back_to,
}
DJANGO_SAVEPOINT = re.compile(
    rf"""({"|".join(SAVEPOINT_COMMANDS)}) (["`]s\d+_x\d+["`])"""
).fullmatch


class Savepoint(NamedTuple):
    """A statement of Django's."""

    command: str
    name: str  # as it is quoted


def savepoint_of(sql):
    """Return the Savepoint that a statement is about, or None."""
    found = DJANGO_SAVEPOINT(sql) if type(sql) is str else None
    return None if found is None else Savepoint(*found.groups())


# What may be between two words of SQL.
GAP = r"(?:\s|/\*(?:(?!\*/).)*\*/|(?:--|#)[^\r\n]*)"
# What locks rows in a SELECT: FOR UPDATE, LOCK IN SHARE MODE, and functions
# such as pg_advisory_xact_lock() and GET_LOCK(). And what may change the
# isolation: a snapshot is not what the cache serves, nor what it may keep.
LOCKING = re.compile(
    rf"\bFOR{GAP}++(?:UPDATE|NO{GAP}++KEY|KEY{GAP}++SHARE|SHARE)\b"
    rf"|\bLOCK{GAP}++IN\b|lock\w*\"?{GAP}*+\(|isolation",
    re.IGNORECASE | re.DOTALL,
)
LOCKS_NOTHING = (
    *READING,
    *OF_SAVEPOINT,
    "PRAGMA",
    "SET ",
    "SHOW",
)


def note_statement(connection, sql):
    """Note whether a statement inside atomic() takes locks, before it does."""
    own = journal(connection)
    if not in_transaction(connection):
        own.locking = None
        return
    if not has_locked(connection) and takes_locks(connection, sql):
        own.locking = first_block(connection)
    if own.is_in_use() and drivers.has_ended(connection):
        after_rollback(connection)


def takes_locks(connection, sql):
    statement = statement_of(sql, connection)
    if not statement.begins_with(LOCKS_NOTHING) or ";" in statement.text:
        return True
    return LOCKING.search(statement.text) is not None


replacements = []  # (name of a connection's method, what replaces it)


def watch_end(connection):
    """Have the end of each transaction noted, on the connection itself."""
    known = vars(connection)
    count = known.get("getorcreateplus_replaced", 0)
    # unittest.mock deletes a method that it has replaced for a while.
    lost = {name for name, _ in replacements[:count]} - known.keys()
    if lost or count < len(replacements):
        connection.getorcreateplus_replaced = len(replacements)
        for i, (name, replace) in enumerate(replacements):
            if i >= count or name in lost:
                replace(connection)


def replacing(name):
    """
    Have a function run in the place of a method of a connection. It is given
    the connection, and the method as others have left it.
    """

    def decorate(function):
        def replace(connection):
            replaced = vars(connection).get(name)

            @wraps(getattr(connection, name))
            def method(*args, **kwargs):
                plain = replaced or partial(getattr(type(connection), name), connection)
                return function(connection, plain, *args, **kwargs)

            setattr(connection, name, method)

        replacements.append((name, replace))
        return function

    return decorate


@replacing("commit")
def committing(connection, commit):
    own = journal(connection)
    own.locking = None
    if (
        connection.errors_occurred
        or is_aborted(connection)
        or drivers.has_ended(connection)
    ):
        # An error of the driver's own cursor, of copy() or callproc(), is seen
        # by no execute wrapper. PostgreSQL is going to make a rollback of this
        # COMMIT.
        own.doubt()
        drivers.note_rollback(connection)
    own.is_committing = not connection.in_atomic_block
    try:
        commit()
    except Error:
        raise  # Django sends a ROLLBACK, or closes the connection
    except BaseException:
        own.forget_transaction(connection)
        raise
    own.is_committing, own.has_committed = False, True
    drivers.release_kept(connection)


@replacing("rollback")
def rolling_back(connection, rollback):
    own = journal(connection)
    own.locking = None
    drivers.note_rollback(connection)
    try:
        rollback()
    except BaseException:
        own.forget_transaction(connection)
        raise
    # A COMMIT that has failed with its connection may still be on its way.
    own.has_ended = not own.is_committing or not drivers.is_lost(connection)
    drivers.release_kept(connection)


@replacing("close")
def disconnecting(connection, close):
    drivers.note_rollback(connection)
    drivers.close_kept(connection, close)


@replacing("run_and_clear_commit_hooks")
def before_hooks(connection, run_hooks):
    """Release before the hooks of a project and its packages read anything."""
    own = journal(connection)
    try:
        if own.has_committed and not connection.in_atomic_block:
            own.end(connection)
    finally:
        run_hooks()


@replacing("set_autocommit")
def after_autocommit(connection, set_autocommit, autocommit, *args, **kwargs):
    set_autocommit(autocommit, *args, **kwargs)
    # Not in rollback(), for the cache may be a table of this database.
    own = journal(connection)
    if own.has_ended and autocommit and not connection.in_atomic_block:
        own.end(connection)


def is_aborted(connection):
    """Tell whether PostgreSQL refuses whatever this transaction sends."""
    if connection.vendor != "postgresql":
        return False
    info = getattr(connection.connection, "info", None)
    status = getattr(info, "transaction_status", None)
    return status == drivers.IN_ERROR or journal(connection).is_aborted


def is_around_test(block):
    return block._from_testcase


def world(using):
    """Return the prefix of the tokens: one of its own in each TestCase."""
    return world_of(connections[using])


def world_of(connection):
    if not connection.in_atomic_block:
        return ""
    around = [block for block in connection.atomic_blocks if is_around_test(block)]
    if not around:
        return ""
    return worlds.setdefault(around[-1], f"test{secrets.token_hex(4)}.")


def in_transaction(connection):
    """
    Tell whether what is written now may be rolled back, but for a test's.
    """
    # Those of tests are around all others.
    blocks = connection.atomic_blocks
    return (
        bool(blocks)
        and not blocks[-1]._from_testcase
        and (connection.commit_on_exit or not is_by_hand(connection))
    )


def is_by_hand(connection):
    """
    Tell whether these atomic() blocks are inside a transaction that is managed
    by hand: nobody tells its end.
    """
    return (
        connection.in_atomic_block
        and not connection.commit_on_exit
        # A test's can neither be committed nor rolled back by hand.
        and not any(map(is_around_test, connection.atomic_blocks))
    )


def is_autocommit(connection):
    """Tell whether what is written now is committed, without connecting."""
    if connection.in_atomic_block:
        return not in_transaction(connection) and not is_by_hand(connection)
    if connection.connection is None:
        return connection.settings_dict["AUTOCOMMIT"]
    return connection.autocommit and not drivers.is_begun(connection)


def situation(connection):
    """Return whether a read may be a hit, and whether it may be a fill."""
    if is_locking_elsewhere(connection) or is_apart(connection):
        return False, False
    if not connection.in_atomic_block:
        autocommit = is_autocommit(connection)
        if autocommit:
            drivers.release_kept(connection)
        return autocommit, autocommit and not sees_uncommitted(connection)
    if connection.needs_rollback:
        return False, False
    if is_by_hand(connection):
        return False, False
    if not in_transaction(connection):
        settle(connection)
        return True, True
    if has_locked(connection):
        return False, False
    if connection.vendor == "sqlite":
        # With a rollback journal no other connection commits while this one
        # reads. BEGIN IMMEDIATE may have waited for one that did.
        return not (begins_by_lock(connection) or is_wal(connection)), False
    return (is_read_committed(connection),) * 2


def settle(connection):
    """
    In a TestCase, release what its atomic() blocks that ended have written.
    """
    journal(connection).settle(connection)


def sees_uncommitted(connection):
    """Tell whether a SELECT in autocommit may see what is not committed."""
    if connection.vendor != "mysql":
        return False
    # The connection has no isolation_level before it connects.
    level = connection.settings_dict["OPTIONS"].get("isolation_level") or ""
    return level.lower() == "read uncommitted"


def is_read_committed(connection):
    if connection.vendor == "mysql":
        return (
            connection.isolation_level == "read committed"
            and getattr(connection, "getorcreateplus_isolated", connection)
            is not connection.connection
        )
    return (
        connection.vendor == "postgresql"
        # The server or the role may have another default than Django's.
        and ask_once(connection, "SHOW transaction_isolation") == "read committed"
    )


# Django itself sends READ COMMITTED whenever it connects to MySQL.
ISOLATES = re.compile(
    r"(?<!snapshot_)isolation(?! level read committed\b)", re.IGNORECASE
)


# They may change it without a word of it.
RESETS = frozenset(("CALL", "DISCARD", "DO", "EXECUTE", "PRAGMA", "RESET"))


def note_isolation(connection, text, starts):
    """
    Note whether a statement, which begins with these words, may change what is
    known of the isolation.
    """
    # The pattern, which ignores case, takes much longer.
    may_isolate = not text.isascii() or "isolation" in text.lower()
    isolates = may_isolate and ISOLATES.search(text) is not None
    if connection.vendor != "mysql":
        if isolates or not starts.isdisjoint(RESETS):
            connection.getorcreateplus_answer = None, None
    elif isolates:
        # Its driver does not tell for which transactions.
        connection.getorcreateplus_isolated = connection.connection


# Settings of a session that change what a column's value is to it, or which
# rows it sees.
CONVERTS = re.compile(
    r"time_?\s?zone|extra_float_digits|(?:date|interval)style|pad_char_to_full_length"
    r"|versioning|uncommitted",
    re.IGNORECASE,
)


def note_session(connection, text, starts):
    """
    Note whether a statement, which begins with these words, makes this session
    see other values than other sessions.
    """
    if (
        not starts.isdisjoint(("PRAGMA", "SET"))
        or ("SELECT" in starts and "set_config" in text)
    ) and CONVERTS.search(text):
        connection.getorcreateplus_apart = connection.connection


def is_apart(connection):
    """Tell whether its session sees other values; until it connects anew."""
    raw = getattr(connection, "getorcreateplus_apart", None)
    return raw is not None and raw is connection.connection


def begins_by_lock(connection):
    return getattr(connection, "transaction_mode", None) in {"IMMEDIATE", "EXCLUSIVE"}


def is_wal(connection):
    return ask_once(connection, "PRAGMA journal_mode") == "wal"


def ask_once(connection, sql):
    """
    Return what a server answers, asked of its driver once per connection, so
    that it is no query of the user's.
    """
    raw, answer = getattr(connection, "getorcreateplus_answer", (None, None))
    if raw is not connection.connection:
        raw = connection.connection
        with connection.wrap_database_errors, closing(raw.cursor()) as cursor:
            cursor.execute(sql)
            [answer] = cursor.fetchone()
        connection.getorcreateplus_answer = raw, answer
    return answer


# Writing


def before_write(connection, region, pks):
    """
    A statement is going to write these rows: rule lock. None for rows of this
    model that are not known.

    Return those that this transaction does not hold yet, in the database.
    """
    if not in_transaction(connection):
        region.lock(connection, pks, has_release=is_autocommit(connection))
        return ()
    own = journal(connection)
    if pks is None:
        own.lock_all(connection, region)
        own.note_query(region)
        return ()
    new = set(pks) - own.held(region, pks)
    own.lock(connection, region, pks)
    for pk in pks:
        own.note(connection, region, pk)
    return new


def after_unmatched(connection, region, pks):
    """A statement that named these rows did not match all that it named."""
    if in_transaction(connection):
        journal(connection).note_unmatched(region, pks)


def after_insert(connection, region, pk):
    """
    This transaction inserted a row. It needs no lock: there is no older one.
    """
    journal(connection).note(connection, region, pk)


def after_inserts(connection, region, pks=None):
    """
    This transaction inserted rows by one statement, of these primary keys;
    None where they are not known.
    """
    if pks is None:
        journal(connection).note_query(region)
    else:
        journal(connection).note_rows(connection, region, pks)


def after_rollback(connection):
    """A statement may have rolled back a part of this transaction, or all."""
    drivers.note_rollback(connection)
    if in_transaction(connection):
        own = journal(connection)
        own.doubt()
        own.is_aborted = False


def after_savepoint(connection, savepoint):
    """A statement of Django's about a savepoint was executed."""
    command, name = savepoint
    if command == ROLLBACK_TO:
        drivers.note_rollback(connection)
    own = journal(connection)
    if in_transaction(connection):
        SAVEPOINT_COMMANDS[command](own, name)
    elif command == ROLLBACK_TO:
        own.doubt()  # the outermost block in a TestCase


def after_unknown(connection, savepoint):
    """Nobody knows whether a statement about a savepoint was executed."""
    if savepoint.command == ROLLBACK_TO:
        drivers.note_rollback(connection)
        journal(connection).doubt()


def after_error(connection):
    """
    A statement failed, and may have ended this transaction on the server.

    PostgreSQL then makes a rollback of its COMMIT, without a word; InnoDB has
    rolled back already, on a deadlock. Django runs the on_commit() hooks.
    """
    drivers.note_rollback(connection)
    if in_transaction(connection):
        after_rollback(connection)
        journal(connection).is_aborted = connection.vendor == "postgresql"
