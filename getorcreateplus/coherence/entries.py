"""The names of a model's entries in a cache. Pure: no cache is used here."""

import re
from functools import partial

from django.core.cache.backends.base import memcache_key_warnings

from ..lookups.canonical import canonical_text, digest

# memcached takes 250 bytes: this leaves room for KEY_PREFIX and VERSION.
MAX_KEY_LENGTH = 150
is_hint_key = re.compile(r"\{?goc[0-9a-f]{10}\}?#[0-9a-f]{20}").fullmatch
is_short_ascii = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_LENGTH}}}").fullmatch


class Entries:
    """
    The cache keys of one model's entries, in one database.

    If the model has a cache of its own, the key of a payload is the primary
    key alone, so that ``caches[model_name].delete(pk)`` invalidates a row.
    """

    def __init__(
        self, model, database, *, has_own_cache, version_per_row, has_hash_tag=False
    ):
        """
        ``database`` are the parts that name the database in keys. Without
        ``version_per_row``, all rows share one version.
        """
        self.has_own_cache = has_own_cache
        self.version_per_row = version_per_row
        # Short, because Django checks each character of a key, and pymemcache
        # hashes each key. (Two models with one name miss on each other's
        # rows.)
        self.name = f"goc{digest(model._meta.label_lower, *database)[:10]}"
        self.safe_key = safe_key
        if has_hash_tag:
            self.name = f"{{{self.name}}}"
            self.safe_key = partial(safe_key, start=f"{self.name}:")
        self.epoch_key = f"{self.name}@epoch"
        self.clock_key = f"{self.name}@clock"
        self.shared_version_key = f"{self.name}@version"

    def keys_of_row(self, pk):
        """Return the keys of a row's payload and version, and of the epoch."""
        # As payload_key() and version_key(), which are two calls more for each
        # hit.
        payload = pk if self.has_own_cache else f"{self.name}:{pk}"
        version = self.shared_version_key
        if self.version_per_row:
            version = f"{self.name}!{pk}"
        return (
            payload if is_short_ascii(payload) else self.safe_key(payload),
            version if is_short_ascii(version) else self.safe_key(version),
            self.epoch_key,
        )

    def payload_key(self, pk):
        payload = pk if self.has_own_cache else f"{self.name}:{pk}"
        return payload if is_short_ascii(payload) else self.safe_key(payload)

    def version_key(self, pk):
        version = self.shared_version_key
        if self.version_per_row:
            version = f"{self.name}!{pk}"
        return version if is_short_ascii(version) else self.safe_key(version)

    def hint_key(self, lookup):
        """Return the key for a lookup: a tuple of (attname, value)."""
        columns = [(name, type(v).__name__, canonical_text(v)) for name, v in lookup]
        return f"{self.name}#{digest(columns)[:20]}"

    def version_keys(self, pks, all_rows=False):
        """
        Return the keys of the tokens that payloads of these rows are stamped
        with; ``None`` means all rows of the model, whose token is the epoch.
        """
        keys = [] if pks is None else list(dict.fromkeys(map(self.version_key, pks)))
        return [*keys, self.epoch_key] if pks is None or all_rows else keys

    def payload_keys(self, pks):
        return [] if pks is None else list(map(self.payload_key, pks))

    def keys_of_a_write(self, pks):
        """
        Return the keys of all entries that a write of these rows changes.
        """
        return [self.clock_key, *self.version_keys(pks), *self.payload_keys(pks)]


def safe_key(name, start="goc:"):
    """Return a key that every cache takes: the name itself if it will do."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_KEY_LENGTH or any(memcache_key_warnings(name)):
        return start + digest(name)
    return name
