"""
The cache protocol: what a reader may trust and what a writer must do.

Nothing but a cache's get_many, set_many, add and delete_many is needed. The
entries of one row, and of its model in one database:

=======  ===========================================================  ======
entry    value                                                        cache
=======  ===========================================================  ======
hint     the primary key that a lookup found; checked at every hit,   key
         so it never needs to be invalidated
payload  (stamp, fingerprint of the fields, column values)            object
version  a random token per row, or LOCK                              object
epoch    a random token per model, or LOCK: for writes by query       object
clock    a random token per model, moved by every release             object
=======  ===========================================================  ======

A *stamp* is (epoch, version) as they were observed before the SELECT. Tokens
are random and never used twice; nothing compares times.

A **hit** is a payload whose stamp equals the epoch and the version of now,
neither of them LOCK.

A **reader** that knows the primary key observes version and epoch (it adds
what is absent), runs its SELECT, and sets the payload with what it had
observed. One that does not know it observes the clock and the epoch, runs its
statement, gets or adds the version, and looks at the clock again (rule
*recheck*): moved, and it sets nothing. Nobody fills under a LOCK.

A **writer** sets the version to LOCK before its statement (rule *lock*). After
the commit it moves the clock (rule *clock*), then the version, then deletes
the payload (rule *drop*). Writes by query do so with the epoch in the
version's place. In a transaction all of that follows the commit, in one
on_commit() hook, the first one; after a rollback nothing does, and LOCK goes
by its timeout. A statement that fails may end the transaction on the server
without Django knowing: then the hook only releases.

A writer that holds the row's lock in the database may **publish**: set the
payload before its commit, with the version that its release is going to set.

A **created** row needs no lock, for there is no older one. In autocommit it is
filled in as by a reader that did not know the key. In a transaction its
version is observed after the INSERT, which is before the commit, and so before
anybody else can see the row: that vouches for it, as for a reader that knew
the key, and the commit needs no command per row.

**Inside a transaction** what it wrote is its own business: it is served from
an overlay while the transaction holds the row's lock in the database, so that
nobody else writes it; or else asked of the database, and never put into the
cache before the commit. Rows that it did not write are hits as elsewhere; they
are filled in only where a SELECT sees the latest commits. The transaction
around a TestCase counts as the outside world, with tokens of its own. Of one
that is managed by hand nobody tells the end: nothing in it is a hit or a fill,
and what it writes stays under LOCK.

What saves commands, and why it may:

* A process remembers hints of its own, in front of the key cache: every hit is
  checked. So a hit is one get_many of payload, version and epoch.
* A reader that did not know the key tries to add the version first. Only if
  that loses it gets the version, and then the clock, in this order.
* A release is one set_many of clock, versions, and None for the payloads: in
  this order, or at once, for all who look. Where an alias has several servers,
  or its backend is not Django's, each step is a command of its own.
* Of many rows that one transaction creates, those whose keys the database has
  made get their versions together, by set_many: nobody knows such a key before
  the commit. Those that are left are added after it, and then the clock tells
  whether there was a writer since, as for a reader that did not know the key.
  Nor does such a transaction ask for rows that its process has never seen.
* The epoch and the clock that one reader of a transaction has observed will do
  for the rows that it creates from then on: tokens never come back, so older
  ones are only more careful.
* Under local_timeout, a process serves what it has seen. Each of its locks and
  releases drops the row, and what a thread has asked for before one of them is
  not kept after it.

The rules are named as in the model of this protocol (tests/coherence_model.py)
which explores every interleaving of it.
"""

import logging
import math
import pickle
import re
import secrets
import threading
import time
import weakref
from contextlib import closing, suppress
from functools import cached_property

from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT, memcache_key_warnings
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.cache.backends.redis import RedisCache
from django.db import connections

from . import memory
from .conf import conf
from .keys import digest, text
from .signals import Reason, Source, tell_invalidated

LOCK = "LOCK"

# Of the rows that one transaction creates one after the other, those whose
# versions are added one by one; and how many of the others at most are set at
# once. (Fewer at first, for those that are left at the commit are added.)
SINGLE = 2
BATCH = 16

logger = logging.getLogger("getorcreateplus")


class Unavailable(Exception):
    """The cache does not answer, or is left alone because it did not."""


class Garbage(Exception):
    """The cache holds what cannot be unpickled."""


# What unpickling raises for an entry that this release of the code cannot
# read.
UNREADABLE = (
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    pickle.PickleError,
    TypeError,
    ValueError,
)


KEEP_ORDER = (
    BaseMemcachedCache,
    DatabaseCache,
    FileBasedCache,
    LocMemCache,
    RedisCache,
)


class Store:
    """
    One cache alias, which may fail: that costs speed, never an exception.

    A cache that failed is left alone for a second, and for twice as long each
    time that it fails again. Releases that it missed are owed, and paid before
    it is used again.
    """

    FIRST_PAUSE = 1  # seconds
    LONGEST_PAUSE = 60  # seconds
    MOST_OWED = 1000  # rows; more are owed as a write of their whole model

    def __init__(self, alias):
        self.alias = alias
        self.lock = threading.Lock()
        self.down_until = None
        self.pause = 0
        # Region: primary keys, or None for the whole model.
        self.owed, self.owed_locks = {}, {}

    def get_many(self, keys):
        """Raise Garbage where an entry cannot be unpickled."""
        if self.down_until is not None:
            self.wait()
        cache = caches[self.alias]  # an alias that is not there is no outage
        try:
            return cache.get_many(keys)
        except UNREADABLE as error:
            raise Garbage from error
        except Exception as error:
            self.down(error)
            raise Unavailable from error

    def add(self, key, value, timeout):
        self.wait()
        return self.call("add", key, value, timeout)

    def set(self, entries, timeout):
        """
        Set what others must see. Raise Unavailable where one was not set.
        """
        self.wait()
        self.set_now(entries, timeout)

    def set_now(self, entries, timeout):
        # Not set(), which does not tell: of a memcached server that is gone,
        # it returns as if it had done it.
        if failed := self.call("set_many", entries, timeout):
            error = Unavailable(f"set_many() did not store {failed}")
            self.down(error)
            raise error

    def set_in_order(self, *steps, timeout):
        """Set these entries, none before those of an earlier step."""
        if self.keeps_order():
            # In one command.
            self.set_now({k: v for step in steps for k, v in step.items()}, timeout)
        else:
            for step in filter(None, steps):
                self.set_now(step, timeout)

    def get_in_order(self, keys):
        """Return the entries, none as it was before that of an earlier key."""
        if self.keeps_order():
            return self.get_many(keys)
        return {k: v for key in keys for k, v in self.get_many([key]).items()}

    def keeps_order(self):
        """
        Tell whether a command for several entries does them in their order, or
        all at once, for everybody to see.

        As each of Django's backends does with one server: a loop, a pipeline
        on one connection, a transaction.
        """
        return not self.has_several_servers() and isinstance(
            caches[self.alias], KEEP_ORDER
        )

    def try_set(self, entries, timeout):
        """
        Set what is only good for speed, and may be too large for the cache.
        """
        self.wait()
        try:
            caches[self.alias].set_many(entries, timeout)
        except Exception as error:  # noqa: BLE001 - of whatever client
            logger.debug("Cache %r did not take a row: %r", self.alias, error)

    def delete(self, keys):
        self.wait()
        self.delete_now(keys)

    def delete_now(self, keys):
        self.call("delete_many", keys)

    def wait(self):
        if self.down_until is not None:
            self.try_again()

    def wait_to_write(self):
        # Where one of several servers has failed, others are still read.
        if self.down_until is not None and not self.has_several_servers():
            self.wait()

    def has_several_servers(self):
        location = settings.CACHES[self.alias].get("LOCATION", "")
        if isinstance(location, str):
            return ";" in location or "," in location
        return len(location) > 1

    def call(self, method, *args):
        cache = caches[self.alias]
        try:
            return getattr(cache, method)(*args)
        except Exception as error:
            self.down(error)
            raise Unavailable from error

    def down(self, error):
        with self.lock:
            if self.down_until is None:
                logger.warning(
                    "Cache %r failed and is left alone for a while: %r",
                    self.alias,
                    error,
                )
            self.pause = min(2 * self.pause or self.FIRST_PAUSE, self.LONGEST_PAUSE)
            self.down_until = time.monotonic() + self.pause

    def try_again(self):
        """
        Pay what is owed. Raise Unavailable while the cache is left alone.
        """
        with self.lock:
            if self.down_until is None:
                return
            if time.monotonic() < self.down_until:
                raise Unavailable
            # This thread tries; the others go on leaving the cache alone.
            self.down_until = time.monotonic() + self.LONGEST_PAUSE
            owed, self.owed = self.owed, {}
            locks, self.owed_locks = self.owed_locks, {}
        try:
            self.call("get", "getorcreateplus")
            for region, pks in owed.items():
                region.release_now(pks)
            for region, pks in locks.items():  # last: they may be the same rows
                region.lock_now(pks)
        except (Unavailable, Garbage):
            for region, pks in owed.items():
                self.owe(region, pks)
            for region, pks in locks.items():
                self.owe_lock(region, pks)
            raise Unavailable from None
        with self.lock:
            if self.owed or self.owed_locks:  # more, since: at the next command
                self.down_until = time.monotonic()
            else:
                self.down_until = None
                self.pause = 0
                logger.info("Cache %r is back.", self.alias)

    def owe(self, region, pks):
        """Release these rows later; None for all rows of the model."""
        with self.lock:
            self._add(self.owed, region, pks)

    def owe_lock(self, region, pks):
        """Lock these rows later, for there will be no release of them."""
        with self.lock:
            self._add(self.owed_locks, region, pks)

    def _add(self, owed, region, pks):
        known = owed.get(region, set())
        if known is not None and pks is not None:
            known = known | set(pks)
        if pks is None or (known and len(known) > self.MOST_OWED):
            known = None
        owed[region] = known


class Stores(dict):
    def __missing__(self, alias):
        return self.setdefault(alias, Store(alias))


stores = Stores()


class Region:
    """
    The entries of one model, in one database, in one object cache.

    With a cache of its own the payload's key is the primary key alone, so that
    ``caches[model_name].delete(pk)`` invalidates a row by hand.
    """

    def __init__(
        self, model, using, alias, *, own_cache, timeout, version_per_row, one_table
    ):
        self.model = model  # that signals are sent by
        self.using = using
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
        self.name = f"goc{digest(model._meta.label_lower, using)[:10]}"
        self.epoch = f"{self.name}@epoch"
        self.clock = f"{self.name}@clock"
        self.all = f"{self.name}@version"
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
        columns = [(name, type(v).__name__, text(v)) for name, v in lookup]
        return f"{self.name}#{digest(columns)[:20]}"

    def version(self, pk):
        return key(f"{self.name}!{pk}") if self.version_per_row else self.all

    # Writing

    def lock(self, pks, has_release=True):
        """
        Rule lock: nobody fills, nor trusts, these rows until the release; None
        for all rows of the model.
        """
        memory.rows.forget(self, world(self.using), pks)
        try:
            self.store.wait_to_write()
            self.lock_now(pks)
        except Unavailable:
            # The release is owed if the cache is still down by then.
            if not has_release:
                self.store.owe_lock(self, pks)

    def lock_now(self, pks):
        lock = world(self.using) + LOCK
        keys = [self.epoch] if pks is None else map(self.version, pks)
        self.store.set_now(dict.fromkeys(keys, lock), conf.LOCK_TIMEOUT)

    def release(self, pks, published=(), all_rows=False):
        """
        Let readers fill these rows again; None for all rows of the model, or
        both, where both were locked.

        Of the published rows, {pk: version}, the payload stays.
        """
        written = None if all_rows else pks
        try:
            self.store.wait_to_write()
            self.release_now(pks, published, all_rows)
        except Unavailable:
            self.store.owe(self, written)
        # Last: what was read until now may be what there was before.
        memory.rows.forget(self, world(self.using), written)
        tell_invalidated(self, written)

    def release_now(self, pks, published=(), all_rows=False):
        # In this order. A cold reader that saw the old row and sees the new
        # version must find the clock moved. Who read the old payload before
        # must find the version moved; and the payload itself gone, should the
        # version be evicted.
        place = world(self.using)
        clock = {self.clock: token(place)}  # rule clock
        if pks is None:
            self.store.set_in_order(clock, {self.epoch: token(place)}, timeout=None)
            return
        versions = {
            self.version(pk): published[pk] if pk in published else token(place)
            for pk in pks
        }
        if all_rows:
            versions[self.epoch] = token(place)
        # A payload that is no tuple is none. Not delete_many(), which would be
        # a command of its own.
        dropped = {self.payload(pk): None for pk in pks if pk not in published}
        self.store.set_in_order(
            clock,
            versions,
            dropped,  # rule drop
            timeout=self.timeout,
        )

    # Reading

    def observe(self, entries, keys, place):
        """
        Return the tokens under the keys, adding those that are absent.

        ``entries`` is what a get_many() of them returned.
        """
        return [self._observed(entries.get(key), key, place) for key in keys]

    def _observed(self, found, key, place):
        if is_token(found, place):
            return found
        timeout = None if key in (self.epoch, self.clock) else self.timeout
        new = token(place)
        if found is None:
            if self.store.add(key, new, timeout):
                return new
            found = self.store.get_many([key]).get(key)
            if is_token(found, place):
                return found  # another reader's, or a writer's LOCK
        # Of another test's transaction, which nobody shares with this one.
        self.store.set({key: new}, timeout)
        return new


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

    def __init__(
        self, region, key_store, lookup, fingerprint, matches, local_timeout=0
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
        self.connection = connections[region.using]
        self.place = world_of(self.connection)
        self.writes = region.writes

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
                if journal(connection).is_aborted:
                    return None  # PostgreSQL says so
                pk = self._ask_own(pk, may_hit)
                if (
                    self.values is not None
                    or self._is_written(pk)
                    or self._is_probably_new()
                ):
                    return self.values
        self.asked = may_hit = may_hit and in_cache
        if may_hit or may_fill:
            try:
                self._ask(pk, may_hit, may_fill)
            except Unavailable:
                self.fills, self.failed = False, True
            except Garbage:
                self.fills, self.failed = False, True
                self._sweep()
        return self.values

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

    def _ask_own(self, pk, may_hit):
        """Look into the overlay. Return the primary key, where it is known."""
        own = journal(self.connection)
        if pk is None and self.lookup is not None:
            pk = own.find(self.connection, self.region, self.lookup)
        if pk is not None and may_hit:
            values = own.values(self.connection, self.region, pk)
            if values is not None and self.matches(values):
                self.values, self.source = values, Source.TRANSACTION
        return pk

    def _is_written(self, pk):
        own = journal(self.connection)
        return own.is_written(self.connection, self.region, pk)

    def _is_probably_new(self):
        """
        Tell whether the row is probably none yet, as of a transaction that
        does nothing but create: asking the cache would be in vain.
        """
        self.is_new = (
            journal(self.connection).streaks.get(self.region, 0) >= SINGLE
            and self.lookup is not None
            and memory.hints.get((self.region, self.lookup)) is None
        )
        return self.is_new

    def _ask(self, pk, may_hit, may_fill):
        region, entries = self.region, {}
        if self.lookup is not None:
            pk = memory.hints.get((region, self.lookup))
            self.remembered = pk
        if pk is not None and self._get(pk, entries, may_hit):
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
        if may_hit and self._is_hit(*seen):
            self.values = entries[payload][2]
            self._remember(pk, self.values)
            return True
        self.seen = seen
        return False

    def _remember(self, pk, values):
        """Let the process keep what is committed."""
        if self.lookup is not None and self.remembered != pk:
            memory.hints.put((self.region, self.lookup), pk)
        if self.local_timeout != 0:
            memory.rows.keep(self.region, self.place, pk, values, self.writes)

    def _is_hit(self, payload, version, epoch):
        return (
            type(payload) is tuple
            and len(payload) == 3
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
        if type(payload) is not tuple or len(payload) != 3:
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
        if in_transaction(self.connection):
            own = journal(self.connection)
            if own.is_written(self.connection, self.region, pk):
                row = self.region, pk, values, self.lookup
                own.keep(self.connection, *row, selected=True)
                return
        if self.fills:
            with suppress(Unavailable, Garbage):
                if self._is_vouched_for(pk):
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
        if own.is_written_by_query(self.connection, region):
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
                current = own.current(self.connection)
                current.created[region, pk] = self, memory.pack(values)

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
        if own.is_written_by_query(self.connection, region) or not own.holds_lock(
            self.connection, region, pk
        ):
            return
        self.version = token(self.place)
        with suppress(Unavailable, Garbage):
            if self.epoch is None:
                self.epoch, _ = own.observe(self)
            if not is_locked(self.epoch):
                self._fill(pk, values)
                own.publish(self.connection, region, pk, self.version)

    def fill_updated(self):
        """
        Keep a row that was updated in the transaction around a TestCase alone.

        It is released already, and nobody else sees it: its version is still
        that of this update.
        """
        if self.updated is None or not self.fills:
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
        region = self.region
        entries = {region.payload(pk): self.payload(values)}
        if self.lookup is not None and self.pk != pk:
            if self.key_store is region.store:
                entries[self.hint] = pk
            else:
                self.key_store.try_set({self.hint: pk}, region.timeout)
        region.store.try_set(entries, region.timeout)

    def payload(self, values):
        return (self.epoch, self.version), self.fingerprint, values


def fill_created(rows):
    """Set the payloads and hints of (read, pk, values), in a few commands."""
    batches = {}
    for read, pk, values in rows:
        region = read.region
        objects = batches.setdefault((region.store, region.timeout), {})
        objects[region.payload(pk)] = read.payload(values)
        if read.lookup is not None:
            hints = batches.setdefault((read.key_store, region.timeout), {})
            hints[read.hint] = pk
    for (store, timeout), entries in batches.items():
        try:
            store.try_set(entries, timeout)
        except Unavailable:
            pass


def vouched_for(created):
    """
    Return those rows of {(region, pk): (read, values)} whose version is in the
    cache, as it was sent or is added now; by then the clock must not have
    moved (rule recheck).
    """
    late = {region for (region, _), (read, _) in created.items() if read.unsent}
    if not late:
        return created
    kept = {}
    for (region, pk), (read, values) in created.items():
        with suppress(Unavailable, Garbage):
            if not read.unsent or region.store.add(
                region.version(pk), read.version, region.timeout
            ):
                kept[region, pk] = read, values
    clocks = {}
    for region in late:
        with suppress(Unavailable, Garbage):
            clocks[region] = region.store.get_many([region.clock]).get(region.clock)
    return {
        (region, pk): (read, values)
        for (region, pk), (read, values) in kept.items()
        if not read.unsent or read.clock == clocks.get(region)
    }


# Transactions


class Writes:
    """
    What a transaction wrote under one set of savepoints, and owes the cache.

    It is an entry of the connection's on_commit() hooks: Django runs it after
    the commit, and drops it with the savepoint or the transaction that is
    rolled back.
    """

    def __init__(self, connection, savepoints):
        self.connection = connection
        self.savepoints = savepoints
        self.clear()
        self.done = False

    def clear(self):
        self.rows = {}  # (region, pk): (sequence, values frozen or None)
        self.held = set()  # (region, pk) of those that are locked in the database
        self.hints = {}  # (region, lookup): pk
        self.queries = {}  # region: sequence of its last write by query
        self.locked = {}  # region: {pk: version that was published, or None}
        self.locked_all = set()  # regions
        self.created = {}  # (region, pk): (read, values frozen)

    def take(self, other):
        """Take over what was written under savepoints that are released."""
        for row, known in other.rows.items():
            self.rows[row] = max(known, self.rows.get(row, known), key=sequence_of)
        for region, sequence in other.queries.items():
            self.queries[region] = max(sequence, self.queries.get(region, 0))
        for region, pks in other.locked.items():
            mine = self.locked.setdefault(region, {})
            for pk, version in pks.items():
                mine[pk] = version or mine.get(pk)
        self.held |= other.held
        self.hints |= other.hints
        self.locked_all |= other.locked_all
        self.created |= other.created
        other.clear()
        other.done = True

    def doubt(self):
        """
        Trust no values any more, only that they were written.

        Something was rolled back, perhaps to a savepoint by hand, which Django
        does not know to be part of what this hook was registered in. The locks
        of the rows in the database are gone as well.
        """
        for row in self.rows:
            self.rows[row] = 0, None
        self.held.clear()
        for pks in self.locked.values():
            for pk in pks:
                pks[pk] = None
        self.created.clear()

    def __call__(self):
        if self.done:
            return
        own = journal(self.connection)
        self.done = own.has_ended = True
        if not own.is_up_to_date(self):
            self.doubt()
        # Before the release of other rows moves the clock.
        created = vouched_for(self.created)
        for region, pks in self.locked.items():
            published = {pk: version for pk, version in pks.items() if version}
            region.release(list(pks), published, region in self.locked_all)
        for region in self.locked_all - self.locked.keys():
            region.release(None)
        fill_created(
            (read, pk, memory.unpack(values))
            for (_, pk), (read, values) in created.items()
        )


def sequence_of(row):
    return row[0]


class Journal:
    """The Writes of one connection's open transaction, and their overlay."""

    def __init__(self):
        self.hooks = []
        self.is_aborted = False  # by PostgreSQL, after an error
        self.writes = []  # one for each set of savepoints that are open
        self.savepoint_ids = self.savepoints = None
        self.has_ended = False  # one of the writes
        self.sequence = 0
        self.forget()

    def forget(self):
        self.observed = {}  # region: (epoch, clock), as they were at some time
        self.streaks = {}  # region: rows created one after the other
        self.unsent = []  # (read, key of a version that it will have)

    def read(self, connection):
        """Return the Writes that were not rolled back, oldest first."""
        hooks = connection.run_on_commit
        if (
            hooks is self.hooks
            and connection.savepoint_ids == self.savepoint_ids
            and not self.has_ended
        ):
            return self.writes
        if hooks is not self.hooks:
            # Another transaction; or a savepoint was rolled back, and Django
            # keeps the hooks that survive, in a new list.
            self.hooks = hooks
            self.is_aborted = False
            self.forget()
            self.writes = [
                hook for _, hook, _ in hooks if type(hook) is Writes and not hook.done
            ]
            for writes in self.writes:
                writes.doubt()
        self.savepoint_ids = list(connection.savepoint_ids)
        savepoints = frozenset(sid for sid in self.savepoint_ids if sid is not None)
        if savepoints != self.savepoints or self.has_ended:
            self.savepoints = savepoints
            self.writes = self._merged(savepoints)
            self.has_ended = False
        return self.writes

    def is_up_to_date(self, writes):
        """
        Tell whether nothing was rolled back since these Writes were read.
        """
        # A hook that runs after the commit was taken out of the list, unless
        # the list was replaced since.
        return (
            self.hooks is writes.connection.run_on_commit  # not after a commit
            or all(hook is not writes for _, hook, _ in self.hooks)
        )

    def _merged(self, savepoints):
        """Return one Writes for all that would be rolled back together."""
        merged = {}
        for writes in self.writes:
            if not writes.done:
                level = writes.savepoints & savepoints
                if merged.setdefault(level, writes) is not writes:
                    merged[level].take(writes)
        return list(merged.values())

    def current(self, connection):
        """
        Return the Writes that would be rolled back with the next statement.
        """
        for writes in self.read(connection):
            if writes.savepoints >= self.savepoints:
                return writes
        writes = Writes(connection, self.savepoints)
        connection.on_commit(writes, robust=True)
        if not any(map(is_around_test, connection.atomic_blocks)):
            # First, for a hook of other code that raises ends all after it.
            # (Of a test, captureOnCommitCallbacks() wants the last ones.)
            self.hooks.insert(0, self.hooks.pop())
        self.writes.append(writes)
        return writes

    def next(self):
        self.sequence += 1
        return self.sequence

    # What was written

    def note(self, connection, region, pk):
        """This transaction writes, or has inserted, the row."""
        alive = self.read(connection)
        for writes in alive:
            writes.created.pop((region, pk), None)
        if sum(len(writes.rows) for writes in alive) >= conf.OVERLAY_ROWS:
            self.forget_rows(alive)
        writes = self.current(connection)
        writes.rows[region, pk] = self.next(), None
        if region.one_table:
            writes.held.add((region, pk))

    def held(self, connection, region, pks):
        """Return those rows that are locked in the database."""
        alive = self.read(connection)
        return {pk for pk in pks if any((region, pk) in w.held for w in alive)}

    def note_unmatched(self, connection, region, pks):
        """Nobody knows whether the statement found these rows to lock them."""
        self.current(connection).held -= {(region, pk) for pk in pks}

    def note_inserted(self, connection, region, pks):
        """This transaction has inserted these rows, in one statement."""
        alive = self.read(connection)
        for writes in alive:
            for pk in pks:
                writes.created.pop((region, pk), None)
        if sum(len(writes.rows) for writes in alive) + len(pks) > conf.OVERLAY_ROWS:
            self.forget_rows(alive)
            self.note_query(connection, region)
            return
        writes = self.current(connection)
        writes.rows |= {(region, pk): (self.next(), None) for pk in pks}
        if region.one_table:
            writes.held |= {(region, pk) for pk in pks}

    def forget_rows(self, alive):
        """Keep in memory that the models were written, not which rows."""
        for writes in alive:
            for region, _ in writes.rows:
                writes.queries[region] = self.next()
            writes.rows.clear()
            writes.held.clear()
            writes.hints.clear()

    def note_query(self, connection, region):
        """This transaction writes rows that are not known."""
        self.current(connection).queries[region] = self.next()

    def is_written(self, connection, region, pk):
        return any(
            region in writes.queries or (region, pk) in writes.rows
            for writes in self.read(connection)
        )

    def is_written_by_query(self, connection, region):
        return any(region in writes.queries for writes in self.read(connection))

    # Created rows

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

    # The locks

    def lock(self, connection, region, pks):
        alive = self.read(connection)
        for writes in alive:
            for pk in set(pks) & set(writes.locked.get(region, ())):
                # What was published is no longer what there is.
                writes.locked[region][pk] = None
        pks = [pk for pk in pks if not self.holds_lock(connection, region, pk)]
        if pks and not self.has_locked_all(connection, region):
            region.lock(pks)
            locked = self.current(connection).locked.setdefault(region, {})
            locked.update(dict.fromkeys(pks))

    def holds_lock(self, connection, region, pk):
        return any(
            pk in writes.locked.get(region, ()) for writes in self.read(connection)
        )

    def publish(self, connection, region, pk, version):
        """The release of this row is going to set this version."""
        self.current(connection).locked.setdefault(region, {})[pk] = version

    def lock_all(self, connection, region):
        if not self.has_locked_all(connection, region):
            region.lock(None)
            self.current(connection).locked_all.add(region)

    def has_locked_all(self, connection, region):
        return any(region in writes.locked_all for writes in self.read(connection))

    # The overlay

    def doubt(self, connection):
        for writes in self.read(connection):
            writes.doubt()
        self.forget()

    def keep(self, connection, region, pk, values, lookup, *, selected=False):
        """
        Serve this row, which the transaction wrote, without a query: as it was
        written, or has been selected since.

        Not where the row may not be locked in the database, and others may
        write it.
        """
        if not self.held(connection, region, [pk]):
            return
        writes = self.current(connection)
        # A write by query between the INSERT and now may have changed it.
        sequence = self.next() if selected else self.written(connection, region, pk)
        writes.rows[region, pk] = sequence, memory.pack(values)
        if lookup is not None:
            writes.hints[region, lookup] = pk

    def written(self, connection, region, pk):
        """Return the sequence of the last write of a row."""
        alive = self.read(connection)
        return max(w.rows[region, pk][0] for w in alive if (region, pk) in w.rows)

    def keep_inserted(self, connection, region, inserted):
        """As keep(), for (row, pk, packed values) that were just inserted."""
        writes = self.current(connection)
        for row, pk, values in inserted:
            if (region, pk) in writes.held:
                sequence, _ = writes.rows[region, pk]
                writes.rows[region, pk] = sequence, values
                if row.lookup is not None:
                    writes.hints[region, row.lookup] = pk

    def find(self, connection, region, lookup):
        """Return the pk that the lookup leads to, in the overlay."""
        for writes in reversed(self.read(connection)):
            if (region, lookup) in writes.hints:
                return writes.hints[region, lookup]
        return None

    def values(self, connection, region, pk):
        """Return the values of a row that this transaction wrote, or None."""
        alive = self.read(connection)
        known = [w.rows[region, pk] for w in alive if (region, pk) in w.rows]
        if not known:
            return None
        sequence, values = max(known, key=lambda row: row[0])
        since = max((w.queries.get(region, 0) for w in alive), default=0)
        if values is None or sequence < since:
            return None
        return memory.unpack(values)


worlds = weakref.WeakKeyDictionary()  # the atomic() around a TestCase: its prefix


def journal(connection):
    # On the connection itself, for it is asked for many times a call.
    try:
        return connection.getorcreateplus_journal
    except AttributeError:
        connection.getorcreateplus_journal = Journal()
        return connection.getorcreateplus_journal


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
    return connection.autocommit


def situation(connection):
    """Return whether a read may be a hit, and whether it may be a fill."""
    if not connection.in_atomic_block:
        autocommit = is_autocommit(connection)
        return autocommit, autocommit
    if connection.needs_rollback:
        return False, False
    if is_by_hand(connection):
        return False, False
    if not in_transaction(connection):
        settle(connection)
        return True, True
    if connection.vendor == "sqlite":
        # A rollback journal lets nobody commit while this transaction reads.
        return not is_wal(connection), False
    return (is_read_committed(connection),) * 2


def settle(connection):
    """
    In a TestCase, release what its atomic() blocks that ended have written.
    """
    for writes in journal(connection).read(connection):
        writes()


def is_read_committed(connection):
    if connection.vendor == "mysql":
        return connection.isolation_level == "read committed"
    return (
        connection.vendor == "postgresql"
        # The server or the role may have another default than Django's.
        and ask_once(connection, "SHOW transaction_isolation") == "read committed"
    )


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


def before_write(region, pks):
    """
    A statement is going to write these rows: rule lock. None for rows of this
    model that are not known.

    Return those that this transaction does not hold yet, in the database.
    """
    connection = connections[region.using]
    if not in_transaction(connection):
        region.lock(pks, has_release=is_autocommit(connection))
        return ()
    own = journal(connection)
    if pks is None:
        own.lock_all(connection, region)
        own.note_query(connection, region)
        return ()
    new = set(pks) - own.held(connection, region, pks)
    own.lock(connection, region, pks)
    for pk in pks:
        own.note(connection, region, pk)
    return new


def after_unmatched(region, pks):
    """A statement that named these rows did not match all that it named."""
    connection = connections[region.using]
    if in_transaction(connection):
        journal(connection).note_unmatched(connection, region, pks)


def after_insert(region, pk):
    """
    This transaction inserted a row. It needs no lock: there is no older one.
    """
    connection = connections[region.using]
    journal(connection).note(connection, region, pk)


def after_inserts(region, pks=None):
    """
    This transaction inserted rows by one statement, of these primary keys;
    None where they are not known.
    """
    connection = connections[region.using]
    if pks is None:
        journal(connection).note_query(connection, region)
    else:
        journal(connection).note_inserted(connection, region, pks)


def after_rollback(connection):
    """A statement may have rolled back a part of this transaction, or all."""
    if in_transaction(connection):
        own = journal(connection)
        own.doubt(connection)
        own.is_aborted = False


def after_error(connection):
    """
    A statement failed, and may have ended this transaction on the server.

    PostgreSQL then makes a rollback of its COMMIT, without a word; InnoDB has
    rolled back already, on a deadlock. Django runs the on_commit() hooks.
    """
    if in_transaction(connection):
        after_rollback(connection)
        journal(connection).is_aborted = connection.vendor == "postgresql"
