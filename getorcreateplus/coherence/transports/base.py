"""What every transport does."""

from abc import ABC, abstractmethod


class Transport(ABC):
    """
    The steps of the protocol, for one cache alias.

    Keys are those that the cache's own get() takes. ``timeout`` is in seconds,
    None for ever. A step that cannot be done raises what the backend raises;
    observe() and vouch() raise LookFailed from it, if it was a look. A
    method that sets entries returns the keys of those that were not stored, as
    the backend reports them.
    """

    name: str  # as GETORCREATEPLUS_TRANSPORTS and the command "status" have it

    def __init__(self, alias):
        self.alias = alias
        # What is called with an error that the server answers to a step that
        # was not waited for. The CacheClient sets it.
        self.on_refusal = id

    # What a reader does

    @abstractmethod
    def look(self, keys):
        """Return {key: value} of the entries that are there."""

    def look_by_hint(self, keys, payload_key, version_key):
        """
        As look(); and if the first of the keys has a hint, of the row as well
        that it leads to, if the cache can do that by one command. The two
        functions return the keys of that row for a primary key.
        """
        return self.look(keys)

    @abstractmethod
    def look_in_order(self, keys):
        """As look(), no entry read before one with an earlier key."""

    @abstractmethod
    def observe(self, fresh, timeouts):
        """
        Return {key: token} as the cache holds them now, for each key of
        ``fresh``, {key: new token}: what is absent is added. A step that adds
        must leave a LOCK alone. Keys that do not stay are left out.
        """

    @abstractmethod
    def replace(self, key, found, token, timeout):
        """
        Replace an entry that is no valid token, if it still has the value that
        was found. Return the value that the entry has then.
        """

    has_hash_tags = False  # a model's keys name one, for one server to have them

    def server_id(self, key):
        """
        Return what new tokens name the server by that has a key; "" if they do
        not.
        """
        return ""

    @abstractmethod
    def vouch(self, fresh, timeout, clock_key, max_added):
        """
        As observe() for the versions of rows whose primary keys only the
        SELECT has returned; and return the clock as it was after that.

        At most ``max_added`` versions are added; if more are absent, none of
        these is added, and they are left out.
        """

    is_one_step = False  # whether vouch_and_fill() saves a command

    def vouch_and_fill(self, key, token, timeout, clock_key, clock, entries):
        """
        As vouch() for one row, and as fill() if the clock is the one that is
        given and the version is no LOCK: ``entries`` have the new token, in
        place of which they get the version that is there. Return the version,
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
        As fill(), and need not wait for the answer, because its caller does
        not need it.
        """
        return self.fill(entries, timeout)

    @abstractmethod
    def delete(self, keys):
        """Delete entries that cannot be read."""

    # What a writer does

    @abstractmethod
    def add(self, key, token, timeout):
        """Add a token. Return False if there is one, or a LOCK."""

    @abstractmethod
    def announce(self, versions, timeout):
        """Set the versions of new rows, before anyone can know them."""

    @abstractmethod
    def lock(self, locks, timeout):
        """Set LOCKs."""

    @abstractmethod
    def set_later(self, entries, timeout, *, adds=False):
        """
        Set LOCKs, versions or payloads, and do not wait; or add them. Return
        an object whose wait() does, and raises the error; None if nothing is
        done, because each answer has to be waited for.
        """

    @abstractmethod
    def release(self, steps, timeout):
        """
        Set the entries of all steps. No reader may see an entry of one step
        and not yet those of the steps before it.
        """

    @abstractmethod
    def drop(self, steps):
        """As release(), but delete the entries with these keys."""

    # Whether the cache answers

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
