"""
What happens when a step of the protocol fails in a cache.

A step that fails is tried once more, on a new connection, because the server,
or a firewall, may have closed one that was idle. A cache that fails again is
left alone for a second, and for twice as long each time. A cache that answers,
but refuses writes (a full one, a replica), is not left alone: what it would
not lock or release is deleted from it.

Other processes may still read what this one cannot write. So a release is
tried in any case, once, on a new connection. It stays owed even if that works,
because another write of the same row may be owed by then, and is paid before
this process uses the cache again. Only after a new connection kept this
process waiting are releases merely owed until the pause is over, because every
write would wait as long.

A lock is not tried while the cache is left alone, unless no release is going
to follow. A lock only covers the time until the release, for a writer that
dies in between; and a cache that is gone costs each command that waits for it.
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
    """
    Whether one cache is left alone now, and what is known of its failure.
    """

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
        self.refuses = False  # it answers, but does not take what is set
        self.is_behind = False  # a release that is owed has not reached it

    def mark_down(self, error):
        """Leave the cache alone for a while, because of this error."""
        with self.debts.lock:
            is_news = self.down_until is None
            self.pause = min(2 * self.pause or self.FIRST_PAUSE, self.MAX_PAUSE)
            self.down_until = time.monotonic() + self.pause
        if is_news:
            # Without the lock: a handler may keep records by get_or_create().
            self.log_failure(error)

    def log_failure(self, error):
        said = cache_in_words(self.alias), error_in_words(error, self.alias)
        if is_misconfigured(error):
            logger.error(
                "Cache %s cannot be used, which is no outage: %s. Install what its "
                "BACKEND imports, or correct CACHES.",
                *said,
            )
        else:
            logger.warning("Cache %s failed and is left alone for a while: %s", *said)

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
            logger.info("Cache %r takes writes again.", self.alias)

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
            # Another thread has found, since this one failed, that the cache
            # is back and that nothing is owed. The next step pays.
            self.down_until = time.monotonic()

    def keep_locked(self, region, pks):
        """
        Keep the LOCK of these rows, because the write was interrupted: the
        database may have done it, or do it later. The LOCK is owed if the
        cache may not have taken it.
        """
        if self.down_until is not None or self.refuses:
            self.owe_lock(region, pks)


class Attempts(Outage):
    """
    Steps of one cache that may fail: how often each is tried, on which
    connection, and when the cache is used again.
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
        """Do a step that sets entries, all of which must be stored."""
        if failed := self.call(step, *args):
            raise Unreachable(f"set_many() did not store {failed}")
        self.log_acceptance()

    def give(self, step, *args, commands=1):
        """
        Do a step that the cache may refuse. Raise Unreachable then.
        ``commands`` is how many commands the step may take.

        Not once more, on a new connection: the first one may have been done,
        and another writer's release after it. A token must not come back.
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
        """Leave the cache alone, unless it answers: then it only refuses."""
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
        Do the first of these that the cache takes, each after the first on a
        new connection. Raise Unreachable if it takes none of them. One that is
        slow to fail is the last one; or with ``insists``, the first one on a
        new connection is.
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
        """As first_of(), for a cache that is left alone."""
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

        pymemcache's client goes on leaving a server alone that has failed, and
        returns as if it had deleted what it was asked to. And after a time
        limit or Ctrl-C, a client would take the answer that it did not wait
        for as the answer to its next command. Other threads have objects of
        their own, which may be as old; these fail by themselves.
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

        A client such as pymemcache's goes on with the socket of the parent,
        and then each of them may read the other's answers. The socket is not
        closed either: libmemcached says goodbye to the server then.
        """
        self.debts.begin_anew()
        if self.down_until is not None:
            self.down_until = time.monotonic()  # the thread that tried is gone
        with failures_suppressed():
            cache = caches[self.alias]
            if connects_anew(cache):
                return
            inherited.append(cache)
            del caches[self.alias]
            copy_key_settings(cache, caches[self.alias])

    # Back again

    def ensure_usable(self):
        """
        Pay what is owed. Raise Unreachable while the cache is left alone.
        """
        if self.down_until is not None:
            self.try_again()

    def recover(self):
        """As ensure_usable(), but return False while it is left alone."""
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
            # This thread tries; the others go on leaving the cache alone.
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
            else:  # more is owed since: the next step pays
                self.down_until = time.monotonic()
        if is_back:
            logger.info("Cache %r is back.", self.alias)


inherited = []  # cache objects of the parent of a fork: never closed here


def connects_anew(cache):
    """
    Return True if a cache object connects anew by itself, after close() and in
    the child of a fork. The DjangoCache of diskcache does.

    Another object of it would write to its files as it is made, and so wait
    for a minute, or raise, where they cannot be written. And in a child the
    object closes the connections of the parent first. Otherwise SQLite, which
    counts in the memory of a process who has a file open, would take no lock
    for the child; when the parent closes the file, the log that the child goes
    on writing to is deleted, and nobody reads what it writes.
    """
    backend = getattr(sys.modules.get("diskcache"), "DjangoCache", None)
    return backend is not None and isinstance(cache, backend)
