"""
One cache alias as the protocol uses it: its transport, and the handling of its
failures. A failure costs speed, never an exception.
"""

import logging
import time
from contextlib import suppress
from functools import partial

from django.core.cache import InvalidCacheBackendError

from ..environment.failures import error_in_words
from .faults import UNREADABLE, Unreachable, Unreadable, cause_of
from .outages import Attempts

logger = logging.getLogger("getorcreateplus")


class Writers(Attempts):
    """
    The steps of writers. lock_rows() and release_rows() raise only exceptions
    that interrupt them, because a write must not fail with a cache.
    """

    def lock_rows(self, region, pks, has_release, prefix):
        """
        Set LOCK for these rows; None means all rows of the model. If the cache
        refuses that, delete the tokens and payloads that a reader could trust.
        """
        lock = partial(region.lock_now, pks, prefix)
        drop = partial(region.drop_trusted, pks)
        if not has_release:
            self._lock_without_release(region, pks, lock, drop)
        elif self.down_until is None or self.recover():
            try:
                self.first_of(lock, lock, drop)
            except Unreachable as error:
                self.mark_down(cause_of(error))
        elif self.transport.has_several_servers():
            # Another server than the one that failed may have these rows.
            with suppress(Unreachable):
                self.first_of_while_down(lock, drop)

    def _lock_without_release(self, region, pks, lock, drop):
        # Only a LOCK is enough: if rows are deleted now, they may be filled
        # again before a commit that this process does not see.
        is_down = not self.recover()
        try:
            if is_down:
                # Even if it works, because a release that is owed undoes it.
                self.owe_lock(region, pks)
                self.first_of_while_down(lock, drop)
            else:
                self.first_of(lock, lock)
        except Unreachable as error:
            if not is_down:
                self.owe_lock(region, pks)
                self.mark_down(cause_of(error))
                with suppress(Unreachable):
                    self.first_of_while_down(drop)
        except BaseException:
            self.owe_lock(region, pks)
            raise

    def release_rows(self, region, pks, published, all_rows, prefix):
        """
        Release these rows, as Region.release() does. If the cache refuses
        that, delete their entries, which has the same effect: an absent entry
        is a miss, and a clock that is absent or was added again has moved.

        Steps that fail are owed, even if a KeyboardInterrupt or a time limit
        ends this, which are not failures of the cache.
        """
        owed = None if all_rows else pks
        try:
            try:
                self._release_rows(region, pks, published, all_rows, prefix)
            except Unreachable:
                self.is_behind = True
                self.owe_release(region, owed)
        except BaseException:
            self.is_behind = True
            self.owe_release(region, owed)
            raise

    def _release_rows(self, region, pks, published, all_rows, prefix):
        release = partial(region.release_now, pks, published, all_rows, prefix)
        # With new tokens, because the first release may have been done, and
        # another writer's release after it. A token must not come back.
        again = partial(region.release_now, pks, (), all_rows, prefix)
        drop = partial(region.drop_rows, pks, all_rows)
        if self.down_until is None or self.recover():
            try:
                self.first_of(release, again, drop, insists=True)
            except Unreachable as error:
                self.mark_down(cause_of(error))
                raise
            return
        releases, locks = self.debts.copy()  # the earlier ones
        self.owe_release(region, None if all_rows else pks)
        self.first_of_while_down(release, drop)
        if self.is_behind:
            # The cache answers again, but may not be used for a long time.
            self.debts.pay(releases, locks, self.first_of)
        if not self.transport.has_several_servers():
            with self.debts.lock:
                if self.down_until is not None:
                    soon = time.monotonic() + self.FIRST_PAUSE
                    self.down_until = min(self.down_until, soon)

    def lock(self, locks, timeout):
        """Set LOCKs, once. Raise Unreachable if one LOCK was not set."""
        self.set_all(self.transport.lock, locks, timeout)

    def release(self, steps, timeout):
        """
        Set the entries of a release, once. Raise Unreachable if one was not
        set.
        """
        self.set_all(self.transport.release, steps, timeout)

    def drop(self, *steps):
        """
        Delete the entries with these keys, in the order of the steps, from a
        cache that has just refused to set them.
        """
        self.call(self.transport.drop, steps)
        self.log_refusal(self.failure)


class CacheClient(Writers):
    """
    The steps of the protocol for one cache alias. Those of readers raise
    CacheFault.
    """

    def look(self, keys):
        """
        Return {key: value} of the entries that exist. Raise Unreadable if one
        of them cannot be unpickled.
        """
        if self.down_until is not None:
            self.ensure_usable()
        started = time.monotonic()
        try:
            return self.transport.look(keys)
        except InvalidCacheBackendError as error:
            # Tests may remove an alias from CACHES before a transaction ends
            # that has written under it.
            raise Unreachable from error
        except UNREADABLE as error:
            self.raise_limit(error)
            raise Unreadable from error
        except Exception as error:  # noqa: BLE001 - of any client
            self.raise_limit(error)
            return self.look_again(keys, error, time.monotonic() - started)
        except BaseException:
            self.reconnect()
            raise

    def in_loop(self):
        """
        Return the object that reads for a coroutine, None if a call in a
        thread has to read.
        """
        if self.down_until is not None:
            return None
        try:
            found = self.transport.in_loop()
            return found if found is not None and found.is_ready() else None
        except Exception as error:  # noqa: BLE001 - of any client
            self.raise_limit(error)
            return None

    def is_in_process(self):
        """Return True if a read does not wait now."""
        return self.down_until is None and self.transport.is_in_process

    def look_by_hint(self, keys, payload_key, version_key):
        """Do the same as look(), with Transport.look_by_hint()."""
        if self.down_until is None:
            try:
                return self.transport.look_by_hint(keys, payload_key, version_key)
            except Exception as error:  # noqa: BLE001 - of any client
                self.raise_limit(error)
                self.reconnect()
            except BaseException:
                self.reconnect()
                raise
        return self.look(keys)

    def look_again(self, keys, error, seconds):
        self.reconnect()
        if seconds > self.SLOW:
            self.mark_down(error)
            raise Unreachable from error
        try:
            return self.transport.look(keys)
        except UNREADABLE as another:
            self.raise_limit(another)
            raise Unreadable from another
        except Exception as another:
            self.raise_limit(another)
            self.reconnect()
            self.mark_down(another)
            raise Unreachable from another
        except BaseException:
            self.reconnect()
            raise

    def observe(self, fresh, timeouts):
        return self.give(self.transport.observe, fresh, timeouts, commands=len(fresh))

    def replace(self, *args):
        return self.give(self.transport.replace, *args)

    def vouch(self, fresh, *args):
        return self.give(self.transport.vouch, fresh, *args, commands=len(fresh))

    def vouch_and_fill(self, *args):
        return self.give(self.transport.vouch_and_fill, *args)

    def waits_for_less(self):
        return self.down_until is None and self.transport.waits_for_less()

    def set_later(self, entries, timeout, *, adds=False):
        """
        Do the same as Transport.set_later(). Also return None if the cache is
        not in use, or fails.
        """
        if self.down_until is not None:
            return None
        try:
            return self.transport.set_later(entries, timeout, adds=adds)
        except Exception as error:  # noqa: BLE001 - of any client
            self.raise_limit(error)
            self.reconnect()
            return None
        except BaseException:
            self.reconnect()
            raise

    def add(self, *args):
        return self.give(self.transport.add, *args)

    def announce(self, versions, timeout):
        """Raise Unreachable if one of the versions was not set."""
        self.give(self.set_all, self.transport.announce, versions, timeout)

    def delete(self, keys):
        self.give(self.transport.delete, keys)

    def fill(self, entries, timeout, *, waits=True):
        """
        Set entries whose failure costs only speed, and which may be too large
        for the cache. Return the keys that were not stored, as the client
        reports them, if it waits for the answer.
        """
        self.ensure_usable()
        step = self.transport.fill if waits else self.transport.fill_later
        try:
            failed = step(entries, timeout)
        except Exception as error:  # noqa: BLE001 - of any client
            self.raise_limit(error)
            failed = [error_in_words(error, self.alias)]
            self.reconnect()
        except BaseException:
            self.reconnect()
            raise
        if failed:
            logger.debug("Cache %r did not store a row: %r", self.alias, failed)
        return failed

    def takes_small_entries(self):
        with suppress(Unreachable):
            return self.call(self.transport.takes_small_entries)
        return False


class Clients(dict):
    """The CacheClient of each alias."""

    def __missing__(self, alias):
        return self.setdefault(alias, CacheClient(alias))


by_alias = Clients()
