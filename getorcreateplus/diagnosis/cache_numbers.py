"""Numbers that the server of a cache counts: its entries and hits."""

from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import BaseMemcachedCache

from ..coherence.transports import transport_of
from ..coherence.transports.redis import RedisTransport


def numbers_of(alias):
    """
    Return {"entries": number of entries, "hit_share": hits among all reads, 0
    to 1} of a cache that answers. A number that it does not count is None.

    A server counts the entries and the reads of all its users.
    """
    cache = caches[alias]
    transport = transport_of(alias)
    if isinstance(transport, RedisTransport):
        counts = counts_of_redis(transport)
    elif isinstance(cache, LocMemCache):
        counts = {"entries": len(cache._cache)}  # type: ignore[attr-defined]
    elif isinstance(cache, BaseMemcachedCache):
        counts = counts_of_memcached(cache._cache)  # type: ignore[attr-defined]
    else:
        counts = {}
    hits, misses = counts.get("hits"), counts.get("misses")
    return {
        "entries": counts.get("entries"),
        "hit_share": hits / (hits + misses) if hits or misses else None,
    }


def counts_of_redis(transport):
    server = transport.server()
    if server is None or transport.has_several_servers():
        return {}
    size, stats = server.commands.send(("DBSIZE",), ("INFO", "stats"))
    lines = dict(
        line.split(":", 1) for line in stats.decode().splitlines() if ":" in line
    )
    return {
        "entries": size,
        "hits": int(lines["keyspace_hits"]),
        "misses": int(lines["keyspace_misses"]),
    }


def counts_of_memcached(client):
    """Return the sums of all servers."""
    names = {"entries": "curr_items", "hits": "get_hits", "misses": "get_misses"}
    if hasattr(client, "clients"):  # of pymemcache
        found = [each.stats() for each in client.clients.values()]
    else:
        found = [stats for _, stats in client.get_stats()]  # of pylibmc
    texts = [{as_text(k): as_text(v) for k, v in each.items()} for each in found]
    return {
        name: sum(int(each[counter]) for each in texts)
        for name, counter in names.items()
    }


def as_text(value):
    return value.decode() if isinstance(value, bytes) else str(value)
