"""
Which aliases of CACHES and DATABASES this process can use.

One that it cannot use is a misconfiguration, which system checks tell. It must
not make a write of some model raise, nor one on another database.
"""

from django.conf import settings
from django.core.cache import DEFAULT_CACHE_ALIAS, InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections

from .interruptions import reraise

# What no waiting mends, unlike an outage.
MISCONFIGURED = (ImportError, ImproperlyConfigured, InvalidCacheBackendError)


class CacheFaults(dict):
    """What is wrong with a cache alias, in words after it; None: nothing."""

    def __missing__(self, alias):
        return self.setdefault(alias, fault_of(alias))


def fault_of(alias):
    if alias not in settings.CACHES:
        return "is not in CACHES"
    # It does not connect.
    try:
        cache = caches[alias]
    except MISCONFIGURED as error:
        return f"has a BACKEND that cannot be loaded: {error}"
    try:
        # Django's backends import their client, and give it the OPTIONS, when
        # the first command needs it; django-redis does so with "client".
        for name in ("_cache", "client"):
            getattr(cache, name, None)
    except MISCONFIGURED as error:
        return f"has a client that cannot be loaded: {error}"
    except (TypeError, ValueError) as error:
        reraise(error)
        del caches[alias]  # Django's close_caches() would raise it again.
        return f"has OPTIONS that its client does not take: {error}"
    except Exception as error:  # noqa: BLE001 - of one that connects
        reraise(error)
    return None


cache_faults = CacheFaults()


def forget(*, setting, **kwargs):
    if setting == "CACHES":
        cache_faults.clear()


setting_changed.connect(forget)


def object_cache_alias(opts, declared):
    """Return the alias of the cache where the rows of a model live."""
    if declared or opts.model_name in settings.CACHES:
        return declared or opts.model_name
    return DEFAULT_CACHE_ALIAS


def usable_connections():
    """Yield the connections of all databases that this process can use."""
    for alias in connections:
        try:
            connection = connections[alias]
        except Exception:  # noqa: BLE001 - whatever importing a driver raises
            continue
        # An empty DATABASES["default"] is Django's dummy. To an alias that was
        # added without Django's defaults it cannot connect.
        if (
            type(connection).__module__ != "django.db.backends.dummy.base"
            and "AUTOCOMMIT" in connection.settings_dict
        ):
            yield connection
