"""
Handles steps of the protocol that fail in a cache.

A step that fails is repeated once, on a new connection, because the server or
a firewall may have closed an idle one. A cache that fails again is not used
for a second, and then for twice as long each time. A cache that answers, but
refuses writes (because it is full, or a replica), is still used: entries that
it refuses to lock or release are deleted from it.

Other processes may still read entries that this process cannot write. So a
release is always tried once, on a new connection. It stays owed even if that
works, because another write of the same row may be owed by then, and it is
paid before this process uses the cache again. But if a new connection kept
this process waiting, releases are only owed until the pause is over, because
every write would wait as long.

A lock is not tried while the cache is not used, unless no release will follow.
A lock only covers the time until the release, for a writer that dies in
between, and each command to an unreachable cache has to wait.
"""

import logging
import sys
import time
from functools import partial

from django.core.cache import caches

from ..environment.cache_keys import copy_key_settings
from ..environment.failures import cache_in_words, error_in_words, is_misconfigured
from ..environment.forks import renew_in_child
from ..environment.interruptions import failures_suppressed, limit_of
from .debts import Debts
from .faults import (
    UNREADABLE,
    CacheFault,
    LookFailed,
    Unreachable,
    Unreadable,
    cause_of,
)
from .transports import transport_of

logger = logging.getLogger("getorcreateplus")


class Outage:
    """The state of one cache: whether it is used now, and its last failure."""

    FIRST_PAUSE = 1  # seconds
    MAX_PAUSE = 60  # seconds
    SLOW = 1  # seconds; a cache that took longer to fail would do so again

    def __init__(self, alias):
        self.alias = alias
        self.debts = Debts()
        self.down_until = None  # as time.monotonic() counts
        self.pause = 0
        self.hangs = False  # a new connection was slow to fail
        self.failure = None  # of the last step, in words
        self.refuses = False  # it answers, but refuses writes
        self.is_behind = False  # a release that is owed has not reached it

    def mark_down(self, error):
        """Stop using the cache for a while, because of this error."""
        with self.debts.lock:
            is_news = self.down_until is None
            self.pause = min(2 * self.pause or self.FIRST_PAUSE, self.MAX_PAUSE)
            self.down_until = time.monotonic() + self.pause
        if is_news:
            # Without the lock, because a handler may store records with
            # get_or_create().
            self.log_failure(error)

    def log_failure(self, error):
        said = cache_in_words(self.alias), error_in_words(error, self.alias)
        if is_misconfigured(error):
            logger.error(
                "Cache %s is misconfigured and cannot be used: %s. Install what its "
                "BACKEND imports, or correct CACHES.",
                *said,
            )
        else:
            logger.warning("Cache %s failed and is not used for a while: %s", *said)

    def log_refusal(self, failure):
        if not self.refuses:
            self.refuses = True
            logger.warning(
                "Cache %s answers, but refuses writes: %s",
                cache_in_words(self.alias),
                failure,
            )

    def log_late_refusal(self, error):
        self.log_refusal(error_in_words(error, self.alias))

    def log_acceptance(self):
        if self.refuses:
            self.refuses = False
            logger.info("Cache %r accepts writes again.", self.alias)

    def owe_release(self, region, pks):
        """Release these rows later; None means all rows of the model."""
        with self.debts.lock:
            self.pay_soon()
            self.debts.owe_release(region, pks)

    def owe_lock(self, region, pks):
        """Lock these rows later, because no release of them follows."""
        with self.debts.lock:
            self.pay_soon()
            self.debts.owe_lock(region, pks)

    def pay_soon(self):
        if self.down_until is None:
            # After this thread failed, another thread has found that the cache
            # answers again and that nothing is owed. The next step pays.
            self.down_until = time.monotonic()

    def keep_locked(self, region, pks):
        """
        Keep the LOCK of these rows, because the write was interrupted: the
        database may have carried it out, or may do so later. The LOCK is owed
        if the cache may not have stored it.
        """
        if self.down_until is not None or self.refuses:
            self.owe_lock(region, pks)


class Attempts(Outage):
    """
    Tries steps of one cache that may fail: how often, on which connection, and
    when the cache is used again.
    """

    def __init__(self, alias):
        super().__init__(alias)
        self.transport = transport_of(alias)
        self.transport.on_refusal = self.log_late_refusal
        renew_in_child(self)

    def call(self, step, *args):
        """Do one step, once."""
        try:
            return step(*args)
        except CacheFault:
            raise
        except LookFailed as failed:
            error = failed.__cause__
            self.raise_limit(error)
            if isinstance(error, UNREADABLE):
                raise Unreadable from error
            fault = Unreachable()
            fault.is_of_look = True
            raise fault from error
        except Exception as error:
            self.raise_limit(error)
            raise Unreachable from error
        except BaseException:
            self.reconnect()
            raise

    def set_all(self, step, *args):
        """Do a step that sets entries, which must all be stored."""
        if failed := self.call(step, *args):
            raise Unreachable(f"set_many() did not store {failed}")
        self.log_acceptance()

    def give(self, step, *args, commands=1):
        """
        Do a step that the cache may refuse. Raise Unreachable then.
        ``commands`` is how many commands the step may take.

        It is not repeated on a new connection, because the first attempt may
        have been done, and another writer's release after it. A token must not
        come back.
        """
        self.ensure_usable()
        started = time.monotonic()
        try:
            return self.call(step, *args)
        except Unreachable as error:
            error.is_slow = time.monotonic() - started > self.SLOW * commands
            self.reconnect()
            if error.is_slow or not error.is_of_look:
                self.judge(error)
            raise

    def judge(self, error):
        """Stop using the cache, unless it answers: then it only refuses."""
        if not error.is_slow:
            try:
                self.call(self.transport.probe)
            except Unreachable as another:
                error = another
            else:
                self.log_refusal(error_in_words(cause_of(error), self.alias))
                return
        self.mark_down(cause_of(error))

    def first_of(self, *attempts, insists=False):
        """
        Try these until the cache accepts one, each after the first on a new
        connection. Raise Unreachable if it accepts none of them. An attempt
        that is slow to fail is the last one; with ``insists``, the first
        attempt on a new connection is the last one.
        """
        for number, attempt in enumerate(attempts, start=1):
            started = time.monotonic()
            try:
                attempt()
            except Unreachable as error:
                self.failure = error_in_words(cause_of(error), self.alias)
                self.reconnect()
                if time.monotonic() - started > self.SLOW:
                    error.is_slow = True
                    self.hangs = number > 1
                    if number > 1 or not insists:
                        raise
                if number == len(attempts):
                    raise
            else:
                return

    def first_of_while_down(self, *attempts):
        """Do the same as first_of(), for a cache that is not used now."""
        if self.hangs and not self.transport.has_several_servers():
            raise Unreachable
        self.first_of(*attempts, insists=True)

    def raise_limit(self, error):
        """Raise the exception of a time limit, if that ended a step."""
        limit = limit_of(error)
        if limit is not None:
            self.reconnect()
            raise limit

    # Connections

    def reconnect(self):
        """
        Give this thread a new connection: a new backend object, with a client
        of its own.

        pymemcache's client continues to ignore a failed server, and returns as
        if it had deleted the keys. And after a time limit or Ctrl-C, a client
        would read the answer for which it did not wait as the answer to its
        next command. Other threads have their own objects, which may be as
        old; these fail on their own.
        """
        with failures_suppressed():
            cache = caches[self.alias]
            try:
                with failures_suppressed():
                    cache.close()
            finally:
                if not connects_anew(cache):
                    del caches[self.alias]
                    copy_key_settings(cache, caches[self.alias])

    def begin_anew(self):
        """
        Share no lock and no connection with the parent of a fork.

        A client such as pymemcache's continues with the socket of the parent,
        and then each process may read the other's answers. The socket is not
        closed either, because libmemcached sends a command to the server then.
        """
        self.debts.begin_anew()
        if self.down_until is not None:
            # The thread that tried does not exist here.
            self.down_until = time.monotonic()
        with failures_suppressed():
            cache = caches[self.alias]
            if connects_anew(cache):
                return
            inherited.append(cache)
            del caches[self.alias]
            copy_key_settings(cache, caches[self.alias])

    # Back again

    def ensure_usable(self):
        """Pay what is owed. Raise Unreachable while the cache is not used."""
        if self.down_until is not None:
            self.try_again()

    def recover(self):
        """
        Do the same as ensure_usable(), but return False while it is not used.
        """
        try:
            self.ensure_usable()
        except Unreachable:
            return False
        return True

    def try_again(self):
        lock = self.debts.lock
        with lock:
            if self.down_until is None:
                return
            if time.monotonic() < self.down_until:
                raise Unreachable
            # This thread tries. The other threads still do not use the cache.
            self.down_until = time.monotonic() + self.MAX_PAUSE
            releases, locks = self.debts.copy()
        try:
            probe = partial(self.call, self.transport.probe)
            self.first_of(probe, probe)
            self.debts.pay(releases, locks, self.first_of)
        except Unreachable as error:
            self.mark_down(cause_of(error))
            raise Unreachable from None
        except BaseException:
            with lock:
                self.down_until = time.monotonic()  # the next thread tries
            raise
        with lock:
            is_back = not self.debts
            if is_back:
                self.down_until = None
                self.pause = 0
                self.hangs = self.is_behind = False
            else:  # more is owed in the meantime: the next step pays
                self.down_until = time.monotonic()
        if is_back:
            logger.info("Cache %r answers again.", self.alias)


inherited = []  # cache objects of the parent of a fork: never closed here


def connects_anew(cache):
    """
    Return True if a cache object reconnects on its own, after close() and in
    the child of a fork. The DjangoCache of diskcache does.

    Creating another object of it writes to its files, and so waits for a
    minute, or raises, if they cannot be written. And in a child, the object
    closes the connections of the parent first. Otherwise SQLite, which counts
    the open files of a process in its memory, would take no lock for the
    child. When the parent then closes the file, it deletes the log to which
    the child still writes, and the writes of the child are lost.
    """
    backend = getattr(sys.modules.get("diskcache"), "DjangoCache", None)
    return backend is not None and isinstance(cache, backend)
