"""The base class of all transports."""

from abc import ABC, abstractmethod


class Transport(ABC):
    """
    The steps of the protocol, for one cache alias.

    Keys are those of the cache's own get(). ``timeout`` is in seconds, None
    forever. A step that cannot be done raises the backend's exception;
    observe() and vouch() raise LookFailed from it, if a read has failed. A
    method that sets entries returns the keys of entries that were not stored,
    as the backend reports them.
    """

    name: str  # as in GETORCREATEPLUS_TRANSPORTS and the command "status"

    def __init__(self, alias):
        self.alias = alias
        # It is called with an error that the server returns for a step without
        # waiting. The CacheClient sets it.
        self.on_refusal = id

    # True if each step is done in the memory of this process, without waiting.
    is_in_process = False

    # Steps of a reader

    @abstractmethod
    def look(self, keys):
        """Return {key: value} of the entries that exist."""

    def look_by_hint(self, keys, payload_key, version_key):
        """
        Do the same as look(). If the first key has a hint, also return the
        entries of its row, if the cache can do this with one command. The two
        functions return the keys of that row for a primary key.
        """
        return self.look(keys)

    def in_loop(self):
        """
        Return the object that reads for the coroutines of the running event
        loop, None if they need a thread.
        """
        return None  # noqa: RET501 - it is a value

    @abstractmethod
    def look_in_order(self, keys):
        """
        Do the same as look(), and read the entries in the order of their keys.
        """

    @abstractmethod
    def observe(self, fresh, timeouts):
        """
        Return the current {key: token} for each key of ``fresh``, {key: new
        token}. Absent tokens are added. This step must not overwrite a LOCK.
        Keys that do not stay are left out.
        """

    @abstractmethod
    def replace(self, key, found, token, timeout):
        """
        Replace an entry that is not a valid token, if it still has the value
        that was found. Return the value that the entry has then.
        """

    has_hash_tags = False  # a model's keys have the same tag, so one server has them

    def server_id(self, key):
        """
        Return the part of new tokens that names the server of a key; "" if
        tokens do not name it.
        """
        return ""

    @abstractmethod
    def vouch(self, fresh, timeout, clock_key, max_added):
        """
        Do the same as observe(), for the versions of rows whose primary keys
        come from the SELECT. Also return the clock, read after that.

        At most ``max_added`` versions are added. If more are absent, none of
        them is added, and they are left out.
        """

    @property
    def is_one_step(self):
        """Return True if vouch_and_fill() is a step of its own."""
        return False

    # True if a reader that knows the primary key leaves an absent version to
    # that step, because observe() would be another round trip.
    vouches_by_pk = False

    def vouch_and_fill(self, key, token, timeout, clock_key, clock, entries):
        """
        Do the same as vouch() for one row, and as fill() if the clock is the
        given one and the version is not a LOCK. ``entries`` have the new
        token, which is replaced with an existing version. Return the version,
        the clock, and whether the entries are set; None if it does not wait
        for these.
        """
        versions, now = self.vouch({key: token}, timeout, clock_key, 1)
        return versions.get(key), now, False

    @abstractmethod
    def fill(self, entries, timeout):
        """Set payloads and hints. A failure costs speed only."""

    def fill_later(self, entries, timeout):
        """
        Do the same as fill(). It need not wait for the answer, because the
        caller does not use it.
        """
        return self.fill(entries, timeout)

    @abstractmethod
    def delete(self, keys):
        """Delete entries that cannot be read."""

    # Steps of a writer

    @abstractmethod
    def add(self, key, token, timeout):
        """Add a token. Return False if there is a token or a LOCK already."""

    @abstractmethod
    def announce(self, versions, timeout):
        """
        Set the versions of new rows, before other processes can know them.
        """

    @abstractmethod
    def lock(self, locks, timeout):
        """Set LOCKs."""

    @abstractmethod
    def set_later(self, entries, timeout, *, adds=False):
        """
        Set or add LOCKs, versions or payloads, and do not wait. Return an
        object whose wait() waits, and raises the error. Do nothing and return
        None if each answer has to be waited for.
        """

    @abstractmethod
    def release(self, steps, timeout):
        """
        Set the entries of all steps. A reader that sees an entry of one step
        must also see those of the steps before it.
        """

    @abstractmethod
    def drop(self, steps):
        """Do the same as release(), but delete the entries with these keys."""

    # The state of the cache

    def waits_for_less(self):
        """Return True if set_later() may do something."""
        return False

    @abstractmethod
    def probe(self):
        """Send a command that changes nothing."""

    @abstractmethod
    def takes_small_entries(self):
        """Return True if the cache stores an entry that is small."""

    @abstractmethod
    def has_several_servers(self):
        """Return True if one server may fail while others answer."""
