"""
Chooses the transport of an alias: by the class of its backend, or a setting.
"""

import sys

from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import PyMemcacheCache
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from django.core.exceptions import ImproperlyConfigured

from ...conf import conf
from .django import DjangoTransport
from .locmem import LocMemTransport
from .memcached import PyMemcacheTransport
from .redis import RedisTransport
from .redis_cluster import RedisClusterTransport

TRANSPORTS = {
    transport.name: transport
    for transport in (
        DjangoTransport,
        LocMemTransport,
        PyMemcacheTransport,
        RedisTransport,
        RedisClusterTransport,
    )
}


def transport_of(alias):
    """Return the transport for a cache alias."""
    name = conf.TRANSPORTS.get(alias)
    if name is None:
        return transport_by_class(alias)(alias)
    if name not in TRANSPORTS:
        raise ImproperlyConfigured(
            f"GETORCREATEPLUS_TRANSPORTS[{alias!r}] is {name!r}. Use one of "
            f"{', '.join(map(repr, TRANSPORTS))}, or leave the alias out."
        )
    return TRANSPORTS[name](alias)


def transport_by_class(alias):
    """
    Return the class of the transport for the alias's backend. The backend may
    be a subclass, if it does not override methods of the known class.
    """
    try:
        cache = caches[alias]
    except InvalidCacheBackendError:
        return DjangoTransport  # its steps raise this, too
    if has_methods(cache, LocMemCache):
        return LocMemTransport
    if has_methods(cache, PyMemcacheCache):
        return PyMemcacheTransport
    if has_methods(cache, RedisCache):
        is_known = cache._class is RedisCacheClient
        return RedisTransport if is_known else DjangoTransport
    cluster = getattr(sys.modules.get(CLUSTER[0]), CLUSTER[1], None)
    if cluster is not None and isinstance(cache, cluster):
        # Even if it overrides methods, because its set_many() has no timeout.
        return RedisClusterTransport
    for module, name in CLIENT_BACKENDS:
        backend = getattr(sys.modules.get(module), name, None)
        if backend is not None and has_methods(cache, backend):
            is_known = type(cache.client).__module__ in CLIENT_MODULES
            return RedisTransport if is_known else DjangoTransport
    return DjangoTransport


# Backends whose client objects have a connected client, and those of their
# clients that use one server.
CLIENT_BACKENDS = (
    ("django_redis.cache", "RedisCache"),
    ("django_valkey.cache", "ValkeyCache"),
)
CLUSTER = "django_valkey.cluster_cache.cache", "ClusterValkeyCache"
CLIENT_MODULES = {
    f"{package}.client.{name}"
    for package in ("django_redis", "django_valkey")
    for name in ("default", "herd", "sentinel")
}


def has_methods(cache, base):
    """
    Return True if a cache object has this class, or a subclass that does not
    override its methods. Tools replace methods, too.
    """
    if not isinstance(cache, base):
        return False
    packages = {cls.__module__.partition(".")[0] for cls in base.__mro__}
    for name in dir(base):
        method = getattr(base, name)
        if callable(method) and not name.startswith("__"):
            package = getattr(method, "__module__", None) or ""
            if (
                getattr(type(cache), name) is not method
                or package.partition(".")[0] not in packages
            ):
                return False
    return True
