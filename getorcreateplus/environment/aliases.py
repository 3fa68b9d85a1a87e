"""
Which aliases of CACHES and DATABASES this process can use.

An alias that it cannot use is a misconfiguration, which the system checks
report. It must not make a write of another model raise, nor one on another
database.
"""

import logging

from django.conf import settings
from django.core.cache import DEFAULT_CACHE_ALIAS, InvalidCacheBackendError, caches
from django.core.cache.backends.redis import RedisCache
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from .cached_functions import runs_after_change_of
from .interruptions import reraise

logger = logging.getLogger("getorcreateplus")

# Errors that do not go away with time, unlike an outage.
MISCONFIGURED = (ImportError, ImproperlyConfigured, InvalidCacheBackendError)


def object_cache_alias(opts, declared):
    """Return the alias of the cache where the rows of a model are stored."""
    if declared or opts.model_name in settings.CACHES:
        return declared or opts.model_name
    return DEFAULT_CACHE_ALIAS


def usable_connections():
    """Yield the connections of all databases that this process can use."""
    for alias in connections:
        try:
            connection = connections[alias]
        except Exception:  # noqa: BLE001 - by the import of any driver
            continue
        # An empty DATABASES["default"] is Django's dummy. An alias that was
        # added without Django's defaults cannot connect.
        if (
            type(connection).__module__ != "django.db.backends.dummy.base"
            and "AUTOCOMMIT" in connection.settings_dict
        ):
            yield connection


class CacheFaults(dict):
    """
    Words that follow a cache alias and say what is wrong with it, or None.
    """

    def __missing__(self, alias):
        fault = self.setdefault(alias, fault_of(alias))
        if fault is not None:
            logger.warning(
                "The cache %r %s. Its models are not cached in this process, and its "
                "writes do not invalidate what other processes have cached: see the "
                "system check getorcreateplus.E001.",
                alias,
                fault,
            )
        return fault


def fault_of(alias):
    """Return what is wrong with a cache alias, without connecting to it."""
    if alias not in settings.CACHES:
        return "is not in CACHES"
    try:
        cache = caches[alias]
    except MISCONFIGURED as error:
        return f"has a BACKEND that cannot be loaded: {error}"
    try:
        # Django's backends import their client, and pass it the OPTIONS, when
        # the first command needs it; django-redis does so with "client".
        for name in ("_cache", "client"):
            client = getattr(cache, name, None)
            if name == "_cache" and isinstance(cache, RedisCache):
                make_connection(client)
    except MISCONFIGURED as error:
        return f"has a client that cannot be loaded: {error}"
    except (TypeError, ValueError) as error:
        reraise(error)
        del caches[alias]  # Django's close_caches() would raise it again.
        return f"has a LOCATION or OPTIONS that its client does not take: {error}"
    except Exception as error:  # noqa: BLE001 - by a client that connects
        reraise(error)
    return None


def make_connection(client):
    """
    Make a connection of a Redis client, without connecting it. redis-py
    refuses an option that it does not have only then.
    """
    pool = client.get_client(None, write=True).connection_pool
    pool.connection_class(**pool.connection_kwargs)


cache_faults = CacheFaults()
runs_after_change_of("CACHES")(cache_faults.clear)
