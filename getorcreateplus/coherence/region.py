"""The entries of one model in one cache, and the steps that change them."""

import logging
import pickle

from django.core.cache import caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured

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
        is for payloads, versions and hints, in seconds.
        """
        self.client = clients.by_alias[alias]
        transport = self.client.transport
        super().__init__(
            model,
            database,
            has_own_cache=own_cache,
            version_per_row=version_per_row,
            has_hash_tag=transport.has_hash_tags,
            buckets=buckets_of(model) if transport.has_hash_tags else 1,
        )
        # A row may be on another server than the epoch and the clock.
        self.is_apart = transport.has_hash_tags and (own_cache or self.buckets > 1)
        self.vouches_by_pk = transport.vouches_by_pk and not self.is_apart
        self.model = model  # the sender of signals
        self.using = using
        self.made_keys = KeyMaker(alias)
        self.timeout = timeout
        # True if a lock on a row of its table locks the whole row.
        self.one_table = one_table
        self.remember_keys([self.epoch_key, self.clock_key, self.shared_version_key])
        self.asking = Asking()
        # For rows in this process's memory: how often this process has written
        # rows of the region, and how often all of its rows.
        self.write_count = self.generation = 0

    @property
    def seconds(self):
        """The timeout in seconds; that of the cache if it is not set."""
        if self.timeout is DEFAULT_TIMEOUT:
            return caches[self.client.alias].default_timeout
        return self.timeout

    @property
    def is_one_step(self):
        """Return True if vouch_and_fill() is one step in this region."""
        return self.client.transport.is_one_step and not self.is_apart

    def remember_keys(self, keys):
        """
        Remember the cache's own keys for these keys, if the cache may make
        other keys later, because another tenant may be current then.
        """
        if self.made_keys.are_lost_later and self.made_keys.is_current():
            self.made_keys.remember(keys)

    # Reading

    def server_id(self, key):
        client = self.client
        # The servers of a cluster are unknown before the first connection.
        return client.call(client.transport.server_id, key)

    def new_token(self, prefix, key):
        """Return a new token for this key."""
        return new_token(prefix, self.server_id(key))

    def new_versions(self, pks, prefix):
        """Return {version key: new token} of these rows."""
        keys = dict.fromkeys(map(self.version_key, pks))
        if self.buckets > 1:
            return {key: self.new_token(prefix, key) for key in keys}
        tokens = new_tokens(len(keys), prefix, self.server_id(self.epoch_key))
        return dict(zip(keys, tokens, strict=True))

    def observe(self, entries, keys, prefix):
        """
        Return the tokens under these keys. Add absent tokens.

        ``entries`` is the result of a look() at these keys.
        """
        absent = [key for key in keys if entries.get(key) is None]
        if absent:
            fresh = {key: self.new_token(prefix, key) for key in absent}
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
        # This is a token of another server, or of a test that has ended.
        token = self.new_token(prefix, key)
        token = self.client.replace(key, found, token, self.timeout_of(key))
        if not is_token(token, prefix):
            raise Unreachable(f"{key!r} has changed meanwhile")
        return token

    def timeout_of(self, key):
        return None if key in (self.epoch_key, self.clock_key) else self.timeout

    # Writing

    def lock(self, connection, pks, has_release=True, *, waits=True):
        """
        Prevent readers from trusting or filling these rows until the release.
        None means all rows of the model. Without ``waits``, this may return an
        object whose wait() has to be called before the commit.
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
        Let readers fill these rows again. None means all rows of the model.
        With ``all_rows``, both these rows and all rows were locked.

        The published rows, {pk: version}, keep their payloads. ``written`` is
        False for rows that were rolled back: then no signal is sent.
        """
        prefix = token_prefix_of(connection)
        changed = None if all_rows else pks
        self.remember_keys(self.keys_of_a_write(pks))
        try:
            self.client.release_rows(self, pks, published, all_rows, prefix)
        finally:
            # Last, because a row that was read until now may be outdated.
            process_memory.rows.drop(self, prefix, changed)
            self.asking.rests_until = 0.0
        if written:
            send_invalidated(self, changed)

    def release_now(self, pks, published=(), all_rows=False, prefix=""):
        steps = rules.steps_of_release(self, pks, published, all_rows, prefix)
        with self.made_keys.again():
            self.client.release(steps, None if pks is None else self.timeout)

    def drop_trusted(self, pks):
        """Delete the entries that a reader could trust, instead of a LOCK."""
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

    # Rows that the cache refuses

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


def buckets_of(model):
    """Return how many buckets the setting has for a model in a cluster."""
    for label, number in conf.BUCKETS.items():
        if label.lower() == model._meta.label.lower():
            if type(number) is not int or number < 1:
                raise ImproperlyConfigured(
                    f"GETORCREATEPLUS_BUCKETS[{label!r}] is {number!r}. Use an integer "
                    "of at least 1, or leave the model out."
                )
            return number
    return 1
