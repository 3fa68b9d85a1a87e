"""
The caches, which may fail: that costs speed, never an exception.
"""

import logging
import pickle
import threading
import time
from contextlib import suppress
from functools import partial

from django.conf import settings
from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache
from django.core.cache.backends.redis import RedisCache

from ..environment.failures import described, is_misconfigured, named
from ..environment.forks import renew_in_child
from ..environment.identity import cache_of, keep_keys
from ..environment.interruptions import failures_suppressed, limit_of
from ..lookups.rows import PARTS, private_copy, revive

logger = logging.getLogger("getorcreateplus")


class Unavailable(Exception):
    """
    The cache did not do a command, or is left alone because it did not do
    another.
    """

    is_slow = False  # it took a long time to fail


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


PROBE = "getorcreateplus"  # a key whose entry does not matter

KEEP_ORDER = (
    BaseMemcachedCache,
    DatabaseCache,
    FileBasedCache,
    LocMemCache,
    RedisCache,
)

SERIALIZING = (BaseMemcachedCache, DatabaseCache, FileBasedCache, RedisCache)


class Store:
    """
    One cache alias, which may fail: that costs speed, never an exception.

    A command that fails is given once more, on a new connection, because the
    server, or a firewall, may have closed one that was idle. A cache that
    fails again is left alone for a second, and for twice as long each time. A
    cache that answers, but refuses writes (a full one, a replica), is not
    left alone: what it would not lock or release is deleted from it.

    Other processes may still read what this one cannot write, so a release is
    tried in any case, once, on a new connection. It stays owed even if that
    works, because another write of the same row may be owed by then, and is
    paid before this process uses the cache again. Only after a new connection
    kept this process waiting are releases merely owed until the pause is over:
    every write would wait as long.

    A lock is not tried while the cache is left alone, unless no release is
    going to follow: a lock only closes the time until the release, to those
    who would die there, and a cache that is gone costs each command that waits
    for it.
    """

    FIRST_PAUSE = 1  # seconds
    LONGEST_PAUSE = 60  # seconds
    SLOW = 1  # seconds; a cache that took longer to fail would do so again
    MOST_OWED = 1000  # rows; more are owed as a write of their whole model

    def __init__(self, alias):
        self.alias = alias
        self.lock = threading.RLock()
        renew_in_child(self)
        self.down_until = None
        self.pause = 0
        self.hangs = False  # a new connection was slow to fail
        self.failure = None  # why it did not take the last command, as a text
        self.refuses = False  # it answers, but does not take what is set
        self.is_behind = False  # a release that is owed has not reached it
        # Region: primary keys, or None for the whole model.
        self.owed, self.owed_locks = {}, {}
        self.marks = {}  # Region: what is another object after each new debt

    def cache(self):
        """
        Return this thread's backend object.

        Tests may take an alias out of CACHES before a transaction ends that
        has written under it.
        """
        try:
            return cache_of(self.alias)
        except InvalidCacheBackendError as error:
            raise Unavailable from error

    # Reading

    def get_many(self, keys):
        """Raise Garbage where an entry cannot be unpickled."""
        if self.down_until is not None:
            self.wait()
        cache = self.cache()
        started = time.monotonic()
        try:
            return own_entries(cache, keys)
        except UNREADABLE as error:
            self.heed(error)
            raise Garbage from error
        except Exception as error:  # noqa: BLE001 - of whatever client
            self.heed(error)
            return self.get_again(keys, error, time.monotonic() - started)
        except BaseException:
            self.renew()
            raise

    def get_again(self, keys, error, seconds):
        self.renew()
        if seconds > self.SLOW:
            self.down(error)
            raise Unavailable from error
        try:
            return own_entries(self.cache(), keys)
        except UNREADABLE as another:
            self.heed(another)
            raise Garbage from another
        except Exception as another:
            self.heed(another)
            self.renew()
            self.down(another)
            raise Unavailable from another
        except BaseException:
            self.renew()
            raise

    def get_in_order(self, keys):
        """Return the entries, none as it was before that of an earlier key."""
        if self.keeps_order():
            return self.get_many(keys)
        return {k: v for key in keys for k, v in self.get_many([key]).items()}

    # Setting what is good for speed

    def add(self, key, value, timeout):
        """Raise Unavailable where nothing may be known of the entry."""
        return self.give(self.call, "add", key, value, timeout)

    def set(self, entries, timeout):
        """
        Set what others must see. Raise Unavailable where one was not set.
        """
        self.give(self.set_now, entries, timeout)

    def try_set(self, entries, timeout):
        """
        Set what is only good for speed, and may be too large for the cache.
        Return what was not stored, as the client tells it.
        """
        self.wait()
        try:
            failed = self.cache().set_many(entries, timeout)
        except Exception as error:  # noqa: BLE001 - of whatever client
            self.heed(error)
            failed = [described(error, self.alias)]
            self.renew()
        except BaseException:
            self.renew()
            raise
        if failed:
            logger.debug("Cache %r did not take a row: %r", self.alias, failed)
        return failed

    def takes_small_entries(self):
        with suppress(Unavailable):
            return not self.call("set_many", {PROBE: None}, 1)
        return False

    def delete(self, keys):
        self.give(self.call, "delete_many", keys)

    # Writing

    def lock_rows(self, region, pks, has_release, place):
        """
        Set LOCK for these rows; None for all rows of the model. Where the
        cache refuses that, delete what could be believed.
        """
        lock = partial(region.lock_now, pks, place)
        drop = partial(self.drop_believed, region, pks)
        if not has_release:
            self._lock_without_release(region, pks, lock, drop)
        elif self.down_until is None or not self.is_left_alone():
            try:
                self.in_turn(lock, lock, drop)
            except Unavailable as error:
                self.down(cause_of(error))
        elif self.has_several_servers():
            # Another server than the one that failed may have these rows.
            with suppress(Unavailable):
                self.try_alone(lock, drop)

    def _lock_without_release(self, region, pks, lock, drop):
        # LOCK alone will do: rows that are deleted now may be filled again
        # before a commit that is told by nothing.
        is_alone = self.is_left_alone()
        try:
            if is_alone:
                # Also if it works: a release that is owed is going to undo it.
                self.owe_lock(region, pks)
                self.try_alone(lock, drop)
            else:
                self.in_turn(lock, lock)
        except Unavailable as error:
            if not is_alone:
                self.owe_lock(region, pks)
                self.down(cause_of(error))
                with suppress(Unavailable):
                    self.try_alone(drop)
        except BaseException:
            self.owe_lock(region, pks)
            raise

    def release_rows(self, region, pks, published, all_rows, place):
        """
        Release these rows, as Region.release(). Where the cache refuses that,
        delete them, which is as good: what is absent is a miss, and a clock
        that is absent, or is added anew, has moved.

        What cannot be done is owed; also where a KeyboardInterrupt or a time
        limit, which are no failures of the cache, ends this.
        """
        owed = None if all_rows else pks
        try:
            try:
                self._release_rows(region, pks, published, all_rows, place)
            except Unavailable:
                self.is_behind = True
                self.owe(region, owed)
        except BaseException:
            self.is_behind = True
            self.owe(region, owed)
            raise

    def _release_rows(self, region, pks, published, all_rows, place):
        release = partial(region.release_now, pks, published, all_rows, place)
        # With new tokens: the first one may have been done, and another
        # writer's release after it. A token must not come back.
        again = partial(region.release_now, pks, (), all_rows, place)
        drop = partial(self.drop_rows, region, pks, all_rows)
        if self.down_until is None or not self.is_left_alone():
            try:
                self.in_turn(release, again, drop, insists=True)
            except Unavailable as error:
                self.down(cause_of(error))
                raise
            return
        with self.lock:
            earlier = self.owed.copy(), self.owed_locks.copy()
        self.owe(region, None if all_rows else pks)
        self.try_alone(release, drop)
        if self.is_behind:
            # It is back, but may not be used again for a long time.
            self.pay(*earlier)
        if not self.has_several_servers():
            with self.lock:
                if self.down_until is not None:
                    soon = time.monotonic() + self.FIRST_PAUSE
                    self.down_until = min(self.down_until, soon)

    def set_now(self, entries, timeout):
        # Not set(), which does not tell: of a memcached server that is gone,
        # it returns as if it had done it.
        if failed := self.call("set_many", entries, timeout):
            raise Unavailable(f"set_many() did not store {failed}")
        if self.refuses:
            self.refuses = False
            logger.info("Cache %r takes writes again.", self.alias)

    def set_in_order(self, *steps, timeout):
        """Set these entries, none before those of an earlier step."""
        if self.keeps_order():
            # In one command.
            self.set_now({k: v for step in steps for k, v in step.items()}, timeout)
        else:
            for step in filter(None, steps):
                self.set_now(step, timeout)

    def drop_believed(self, region, pks):
        """Delete these rows in place of a LOCK."""
        with region.keys.again():
            self.drop(tokens_of(region, pks), payloads_of(region, pks))

    def drop_rows(self, region, pks, all_rows=False):
        """Release these rows by deletion, in the order of a release."""
        payloads = payloads_of(region, pks)
        tokens = tokens_of(region, pks, all_rows)
        if not region.keys.are_known([*tokens, *payloads]):
            tokens.append(region.epoch)
        with region.keys.again():
            self.drop([region.clock], tokens, payloads)

    def drop(self, *steps):
        """
        Delete these entries, none before those of an earlier step, from a
        cache that has just refused to set them.
        """
        if self.keeps_order():
            self.call("delete_many", [key for step in steps for key in step])
        else:
            for step in filter(None, steps):
                self.call("delete_many", step)
        self.warn_of_refusal(self.failure)

    def keeps_order(self):
        """
        Tell whether a command for several entries does them in their order, or
        all at once, for everybody to see.

        As each of Django's backends does with one server: a loop, a pipeline
        on one connection, a transaction.
        """
        return not self.has_several_servers() and isinstance(self.cache(), KEEP_ORDER)

    def has_several_servers(self):
        location = settings.CACHES.get(self.alias, {}).get("LOCATION", "")
        if isinstance(location, str):
            return ";" in location or "," in location
        return len(location) > 1

    # Commands that fail

    def call(self, method, *args):
        """Give the cache one command."""
        cache = self.cache()
        try:
            return getattr(cache, method)(*args)
        except Exception as error:
            self.heed(error)
            raise Unavailable from error
        except BaseException:
            self.renew()
            raise

    def in_turn(self, *attempts, insists=False):
        """
        Do the first of these that the cache takes, each after the first on a
        new connection. Raise Unavailable where it takes none of them. One that
        is slow to fail is the last one; or the first one on a new connection
        is, if ``insists``.
        """
        for number, attempt in enumerate(attempts, start=1):
            started = time.monotonic()
            try:
                attempt()
            except Unavailable as error:
                self.failure = described(cause_of(error), self.alias)
                self.renew()
                if time.monotonic() - started > self.SLOW:
                    error.is_slow = True
                    self.hangs = number > 1
                    if number > 1 or not insists:
                        raise
                if number == len(attempts):
                    raise
            else:
                return

    def try_alone(self, *attempts):
        """As in_turn(), for a cache that is left alone."""
        if self.hangs and not self.has_several_servers():
            raise Unavailable
        self.in_turn(*attempts, insists=True)

    def give(self, command, *args):
        """
        Give the cache a command that it may refuse.

        Not once more, on a new connection: the first one may have been done,
        and another writer's release after it. A token must not come back.
        """
        self.wait()
        started = time.monotonic()
        try:
            return command(*args)
        except Unavailable as error:
            error.is_slow = time.monotonic() - started > self.SLOW
            self.renew()
            self.judge(error)
            raise

    def judge(self, error):
        """Leave the cache alone, unless it answers: then it only refuses."""
        if not error.is_slow:
            try:
                self.probe()
            except Unavailable as another:
                error = another
            else:
                self.warn_of_refusal(described(cause_of(error), self.alias))
                return
        self.down(cause_of(error))

    def probe(self):
        self.call("get", PROBE)

    def heed(self, error):
        """Raise the exception of a time limit, if that ended a command."""
        limit = limit_of(error)
        if limit is not None:
            self.renew()
            raise limit

    def renew(self):
        """
        Give this thread a new connection.

        A new backend object, with a client of its own: pymemcache's goes on
        leaving a server alone that failed, and does as if it had deleted what
        it is asked to. And after a time limit or Ctrl-C, it would take the
        answer that it did not wait for as the answer to its next question.
        Threads have objects of their own, and those of others may be as old;
        they fail by themselves.
        """
        with failures_suppressed():
            cache = caches[self.alias]
            try:
                with failures_suppressed():
                    cache.close()
            finally:
                del caches[self.alias]
                keep_keys(cache, caches[self.alias])

    def begin_anew(self):
        """
        Share no lock and no connection with the parent of a fork.

        A client such as pymemcache's goes on with the socket of the parent,
        and then each of them may read the answer to the other's question. Nor
        is that one closed: libmemcached says goodbye to the server then.
        """
        self.lock = threading.RLock()
        if self.down_until is not None:
            self.down_until = time.monotonic()  # the thread that tried is gone
        with failures_suppressed():
            cache = caches[self.alias]
            inherited.append(cache)
            del caches[self.alias]
            keep_keys(cache, caches[self.alias])

    def warn_of_refusal(self, failure):
        if not self.refuses:
            self.refuses = True
            logger.warning(
                "Cache %s answers, but refuses writes: %s", named(self.alias), failure
            )

    def down(self, error):
        with self.lock:
            is_news = self.down_until is None
            self.pause = min(2 * self.pause or self.FIRST_PAUSE, self.LONGEST_PAUSE)
            self.down_until = time.monotonic() + self.pause
        if is_news:
            # Without the lock: a handler may keep records by get_or_create().
            self.tell_of(error)

    def tell_of(self, error):
        said = named(self.alias), described(error, self.alias)
        if is_misconfigured(error):
            logger.error(
                "Cache %s cannot be used, which is no outage: %s. Install what its "
                "BACKEND imports, or correct CACHES.",
                *said,
            )
        else:
            logger.warning("Cache %s failed and is left alone for a while: %s", *said)

    def wait(self):
        if self.down_until is not None:
            self.try_again()

    def is_left_alone(self):
        try:
            self.wait()
        except Unavailable:
            return True
        return False

    # Debts

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
            owed, locks = self.owed.copy(), self.owed_locks.copy()
        try:
            self.in_turn(self.probe, self.probe)
            self.pay(owed, locks)
        except Unavailable as error:
            self.down(cause_of(error))
            raise Unavailable from None
        except BaseException:
            with self.lock:
                self.down_until = time.monotonic()  # the next one tries
            raise
        with self.lock:
            is_back = not (self.owed or self.owed_locks)
            if is_back:
                self.down_until = None
                self.pause = 0
                self.hangs = self.is_behind = False
            else:  # more, since: at the next command
                self.down_until = time.monotonic()
        if is_back:
            logger.info("Cache %r is back.", self.alias)

    def pay(self, owed, locks):
        """
        Pay these debts. Each is owed until it is paid: none is lost when this
        is interrupted, and no other thread takes the cache for paid meanwhile.
        """
        for region, pks in owed.items():
            mark = self.marks.get(region)
            release = partial(region.release_now, pks)
            self.in_turn(release, partial(self.drop_rows, region, pks))
            self.forget_debt(self.owed, region, pks, mark)
        for region, pks in locks.items():  # last: they may be the same rows
            mark = self.marks.get(region)
            region.lock_now(pks)
            self.forget_debt(self.owed_locks, region, pks, mark)

    def forget_debt(self, owed, region, pks, mark):
        with self.lock:
            # Unless rows of it are owed since then, perhaps the same ones.
            if owed.get(region, ()) is pks and self.marks.get(region) is mark:
                del owed[region]
                self.marks.pop(region, None)

    def owe(self, region, pks):
        """Release these rows later; None for all rows of the model."""
        with self.lock:
            self._add(self.owed, region, pks)

    def owe_lock(self, region, pks):
        """Lock these rows later, because no release of them follows."""
        with self.lock:
            self._add(self.owed_locks, region, pks)

    def doubt(self, region, pks):
        """
        The write that locked these rows was interrupted: the database may have
        done it, or do it later. LOCK stays, or is owed if the cache may not
        have taken it.
        """
        if self.down_until is not None or self.refuses:
            self.owe_lock(region, pks)

    def _add(self, owed, region, pks):
        known = owed.get(region, set())
        if known is not None and pks is not None:
            known = known | set(pks)
        if pks is None or (known and len(known) > self.MOST_OWED):
            known = None
        owed[region] = known
        self.marks[region] = object()
        if self.down_until is None:
            # Another thread has found, since this one failed, that it is back
            # and is owed nothing. The next command pays.
            self.down_until = time.monotonic()


def own_entries(cache, keys):
    """Return entries that no other thread has, with the tuples as set."""
    entries = with_tuples(cache.get_many(keys))
    if type(cache) is LocMemCache or isinstance(cache, SERIALIZING):
        return entries
    # It may give the very objects that it keeps, and a project changes a dict.
    return {k: copied(v) if type(v) is tuple else v for k, v in entries.items()}


def copied(payload):
    if len(payload) != PARTS or type(payload[2]) is not tuple:
        return payload
    return (*payload[:2], private_copy(payload[2]), *payload[3:])


def with_tuples(entries):
    """Return entries of a serializer that made lists of the tuples."""
    if list in map(type, entries.values()):
        return {k: revive(v) if type(v) is list else v for k, v in entries.items()}
    return entries


def tokens_of(region, pks, all_rows=False):
    """Return the keys of what vouches for these rows; None for all rows."""
    versions = [] if pks is None else dict.fromkeys(map(region.version, pks))
    return [*versions, region.epoch] if pks is None or all_rows else [*versions]


def payloads_of(region, pks):
    return [] if pks is None else list(map(region.payload, pks))


def cause_of(error):
    return error.__cause__ or error


class Stores(dict):
    def __missing__(self, alias):
        return self.setdefault(alias, Store(alias))


stores = Stores()
inherited = []  # cache objects of the parent of a fork: never closed here
