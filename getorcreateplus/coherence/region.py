"""The entries of one model in one cache, and the steps that change them."""

import logging
import pickle

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from ..conf import conf
from ..environment.cache_keys import KeyMaker
from ..environment.failures import cache_in_words
from ..signals import send_invalidated
from . import clients, process_memory, rules
from .asking import LARGE, Asking
from .entries import Entries
from .faults import Unreachable
from .tokens import is_token, new_token, new_tokens
from .transactions import token_prefix_of

logger = logging.getLogger("getorcreateplus")


class Region(Entries):
    """The entries of one model, in one database, in one object cache."""

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
        """
        ``database`` are the parts that name the database in keys. ``timeout``
        is that of payloads, versions and hints, in seconds.
        """
        self.client = clients.by_alias[alias]
        super().__init__(
            model,
            database,
            has_own_cache=own_cache,
            version_per_row=version_per_row,
            has_hash_tag=self.client.transport.has_hash_tags,
        )
        self.model = model  # the sender of signals
        self.using = using
        self.made_keys = KeyMaker(alias)
        self.timeout = timeout
        # Whether a lock on a row of its table is one on the whole row.
        self.one_table = one_table
        self.remember_keys([self.epoch_key, self.clock_key, self.shared_version_key])
        self.asking = Asking()
        # For rows in this process's memory: how often this process has written
        # rows of the region, and how often all of them.
        self.write_count = self.generation = 0

    @property
    def seconds(self):
        """The timeout in seconds; the cache's own if none is set."""
        if self.timeout is DEFAULT_TIMEOUT:
            return caches[self.client.alias].default_timeout
        return self.timeout

    def remember_keys(self, keys):
        """
        Remember what the cache makes of these keys, if it may make others when
        they are needed: a tenant may have changed by then.
        """
        if self.made_keys.are_lost_later and self.made_keys.is_current():
            self.made_keys.remember(keys)

    # Reading

    def server_id(self):
        client = self.client
        # A cluster that was never reached does not know its servers.
        return client.call(client.transport.server_id, self.epoch_key)

    def new_token(self, prefix):
        return new_token(prefix, self.server_id())

    def new_versions(self, pks, prefix):
        """Return {version key: new token} of these rows."""
        keys = dict.fromkeys(map(self.version_key, pks))
        tokens = new_tokens(len(keys), prefix, self.server_id())
        return dict(zip(keys, tokens, strict=True))

    def observe(self, entries, keys, prefix):
        """
        Return the tokens under these keys. Add those that are absent.

        ``entries`` is what a look() at these keys has returned.
        """
        absent = [key for key in keys if entries.get(key) is None]
        if absent:
            fresh = {key: self.new_token(prefix) for key in absent}
            timeouts = {key: self.timeout_of(key) for key in absent}
            entries = entries | self.client.observe(fresh, timeouts)
        tokens = [entries.get(key) for key in keys]
        for place, token in enumerate(tokens):
            if not is_token(token, prefix):
                tokens[place] = self._valid_token(token, keys[place], prefix)
        return tokens

    def _valid_token(self, found, key, prefix):
        """Return a token for a key that does not hold a valid one."""
        if found is None:
            raise Unreachable(f"{key!r} does not stay in the cache")
        # A token of another server, or of another test, which has ended.
        token = self.new_token(prefix)
        token = self.client.replace(key, found, token, self.timeout_of(key))
        if not is_token(token, prefix):
            raise Unreachable(f"{key!r} has changed meanwhile")
        return token

    def timeout_of(self, key):
        return None if key in (self.epoch_key, self.clock_key) else self.timeout

    # Writing

    def lock(self, connection, pks, has_release=True, *, waits=True):
        """
        Have no reader trust, or fill, these rows until the release; None means
        all rows of the model. Without ``waits``, this may return an object
        whose wait() has to follow before the commit.
        """
        prefix = token_prefix_of(connection)
        process_memory.rows.drop(self, prefix, pks)
        self.remember_keys([self.epoch_key, *self.keys_of_a_write(pks)])
        sent = None
        if not waits:
            locks = rules.entries_to_lock(self, pks, prefix)
            with self.made_keys.again():
                sent = self.client.set_later(locks, conf.LOCK_TIMEOUT)
        if sent is None:
            self.client.lock_rows(self, pks, has_release, prefix)
        return sent

    def lock_now(self, pks, prefix=""):
        with self.made_keys.again():
            self.client.lock(
                rules.entries_to_lock(self, pks, prefix), conf.LOCK_TIMEOUT
            )

    def release(self, connection, pks, published=(), all_rows=False, written=True):
        """
        Let readers fill these rows again; None means all rows of the model.
        With ``all_rows``, both were locked.

        The published rows, {pk: version}, keep their payloads. ``written`` is
        False for rows that were rolled back: then no signal is sent.
        """
        prefix = token_prefix_of(connection)
        changed = None if all_rows else pks
        self.remember_keys(self.keys_of_a_write(pks))
        try:
            self.client.release_rows(self, pks, published, all_rows, prefix)
        finally:
            # Last, because a row that was read until now may be the old one.
            process_memory.rows.drop(self, prefix, changed)
            self.asking.rests_until = 0.0
        if written:
            send_invalidated(self, changed)

    def release_now(self, pks, published=(), all_rows=False, prefix=""):
        steps = rules.steps_of_release(self, pks, published, all_rows, prefix)
        with self.made_keys.again():
            self.client.release(steps, None if pks is None else self.timeout)

    def drop_trusted(self, pks):
        """Delete what a reader could trust, in place of a LOCK."""
        with self.made_keys.again():
            self.client.drop(self.version_keys(pks), self.payload_keys(pks))

    def drop_rows(self, pks, all_rows=False):
        """Release these rows by deletion, in the order of a release."""
        payloads = self.payload_keys(pks)
        versions = self.version_keys(pks, all_rows)
        if not self.made_keys.are_known([*versions, *payloads]):
            versions.append(self.epoch_key)
        with self.made_keys.again():
            self.client.drop([self.clock_key], versions, payloads)

    # Rows that the cache does not take

    def record_refused(self, pk, values):
        """Remember a row that the cache has refused, if it is too large."""
        size = len(pickle.dumps(values, pickle.HIGHEST_PROTOCOL))
        if size < LARGE or not self.client.takes_small_entries():
            return
        self.asking.record_too_large(pk)
        if not self.asking.has_warned:
            self.asking.has_warned = True
            logger.warning(
                "Cache %s refuses a row of %s as too large (primary key %s, %s bytes). "
                "Each lookup of such a row is a query. Raise the limit of the cache's "
                "server, or keep the large columns in another model.",
                cache_in_words(self.client.alias),
                self.model._meta.label,
                pk,
                f"{size:,}",
            )
