"""The names of a model's entries in a cache. This module uses no cache."""

import re
from zlib import crc32

from django.core.cache.backends.base import memcache_key_warnings

from ..lookups.canonical import canonical_text, digest

# memcached accepts 250 bytes: this leaves room for KEY_PREFIX and VERSION.
MAX_KEY_LENGTH = 150
is_hint_key = re.compile(r"\{?goc[0-9a-f]{10}(\.\d+)?\}?#[0-9a-f]{20}").fullmatch
is_short_ascii = re.compile(rf"[\x21-\x7e]{{1,{MAX_KEY_LENGTH}}}").fullmatch


class Entries:
    """
    The cache keys of one model's entries, in one database.

    If the model has its own cache, the key of a payload is only the primary
    key, so ``caches[model_name].delete(pk)`` invalidates a row.
    """

    def __init__(
        self,
        model,
        database,
        *,
        has_own_cache,
        version_per_row,
        has_hash_tag=False,
        buckets=1,
    ):
        """
        ``database`` are the parts that name the database in keys. Without
        ``version_per_row``, all rows share one version. ``buckets`` is the
        number of hash tags for the keys of rows, besides that of the model.
        """
        self.has_own_cache = has_own_cache
        self.version_per_row = version_per_row
        # Short, because Django checks each character of a key, and pymemcache
        # hashes each key. (Two models with one name miss on each other's
        # rows.)
        self.name = f"goc{digest(model._meta.label_lower, *database)[:10]}"
        self.has_hash_tag, self.buckets = has_hash_tag, buckets
        self.tag = self.name
        if has_hash_tag:
            self.name = f"{{{self.tag}}}"
        self.epoch_key = f"{self.name}@epoch"
        self.clock_key = f"{self.name}@clock"
        self.shared_version_key = f"{self.name}@version"

    def keys_of_row(self, pk):
        """Return the keys of a row's payload and version, and of the epoch."""
        # The same as payload_key() and version_key(), which are two more calls
        # for each hit.
        name = self.name if self.buckets == 1 else self.name_of_bucket(pk)
        payload = pk if self.has_own_cache else f"{name}:{pk}"
        version = self.shared_version_key
        if self.version_per_row:
            version = f"{name}!{pk}"
        return (
            payload if is_short_ascii(payload) else self.safe_key(payload, name),
            version if is_short_ascii(version) else self.safe_key(version, name),
            self.epoch_key,
        )

    def payload_key(self, pk):
        name = self.name if self.buckets == 1 else self.name_of_bucket(pk)
        payload = pk if self.has_own_cache else f"{name}:{pk}"
        return payload if is_short_ascii(payload) else self.safe_key(payload, name)

    def version_key(self, pk):
        if not self.version_per_row:
            return self.shared_version_key
        name = self.name if self.buckets == 1 else self.name_of_bucket(pk)
        version = f"{name}!{pk}"
        return version if is_short_ascii(version) else self.safe_key(version, name)

    def hint_key(self, lookup):
        """Return the key for a lookup: a tuple of (attname, value)."""
        columns = [(name, type(v).__name__, canonical_text(v)) for name, v in lookup]
        found = digest(columns)[:20]
        name = self.name if self.buckets == 1 else self.name_of_bucket(found)
        return f"{name}#{found}"

    def name_of_bucket(self, text):
        """Return the name of the bucket of a primary key, or of a hint."""
        # Not hash(), because the name has to be the same in each process of
        # any release.
        number = crc32(text.encode("utf-8", "surrogatepass")) % self.buckets
        return f"{{{self.tag}.{number}}}"

    def safe_key(self, key, name):
        """Return a key that every cache accepts, with this name's hash tag."""
        return safe_key(key, f"{name}:" if self.has_hash_tag else "goc:")

    def version_keys(self, pks, all_rows=False):
        """
        Return the keys of the tokens in the stamps of these rows' payloads.
        ``None`` means all rows of the model, whose token is the epoch.
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


def safe_key(name, start):
    """Return a key that every cache accepts: the name itself if possible."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_KEY_LENGTH or any(memcache_key_warnings(name)):
        return start + digest(name)
    return name
