"""
Finds settings of a cache that defeat the package: rows are never served,
failures are hidden, or the client waits forever.

Nothing here connects to a server. System checks, explain() and the status
command report the flaws.
"""

import datetime
import inspect
import uuid
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.db import DatabaseCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.memcached import (
    BaseMemcachedCache,
    PyLibMCCache,
    PyMemcacheCache,
)
from django.core.cache.backends.redis import RedisCache
from django.db import models
from django.utils.module_loading import import_string

from ..lookups.rows import mark, revive

CULLING_BACKENDS = (DatabaseCache, FileBasedCache, LocMemCache)  # by MAX_ENTRIES
DEFAULT_MAX_ENTRIES = 300  # of Django's caches
ENTRIES_PER_ROW = 3  # payload, version and hint


@dataclass
class Flaw:
    what: str  # the words after "The cache 'default' "
    remedy: str
    id: str  # of the system check


def options_of(alias):
    return settings.CACHES[alias].get("OPTIONS") or {}


def backend_of(alias):
    """Return the class of a cache, object if it cannot be loaded."""
    try:
        return import_string(settings.CACHES[alias]["BACKEND"])
    except (ImportError, KeyError):
        return object  # getorcreateplus.E001


def is_from(backend, *packages):
    """Return True if a backend, or a base of it, is from these packages."""
    return any(is_from_package(cls, *packages) for cls in backend.__mro__)


def is_from_package(obj, *packages):
    """Return True if a class or a function is from one of these packages."""
    return obj.__module__.partition(".")[0] in packages


def is_cluster(alias):
    """Return True if a cache is a cluster of servers, each with its keys."""
    backend = backend_of(alias)
    return is_from(backend, "django_valkey") and any(
        cls.__name__ == "ClusterValkeyCache" for cls in backend.__mro__
    )


def locations_of(alias):
    found = settings.CACHES[alias].get("LOCATION") or ()
    return [found] if isinstance(found, str) else list(map(str, found))


# A client that waits


def waiting_flaw(alias):
    """Return the Flaw of a client of a server without a timeout, or None."""
    backend, options = backend_of(alias), options_of(alias)
    if is_from(backend, "diskcache") and is_from_package(backend.set, "diskcache"):
        return Flaw(
            "is a DjangoCache of diskcache: if its disk is full, or another process "
            "hangs while it writes, each write waits forever.",
            "Use the subclass in docs/caches.rst, which raises after its "
            "DATABASE_TIMEOUT.",
            id="getorcreateplus.W021",
        )
    missing = []
    if issubclass(backend, RedisCache):
        if waits_without_limit(alias, "redis", options):
            missing = ["socket_timeout"]
    elif is_cluster(alias):  # which SOCKET_TIMEOUT does not reach
        own = options.get("BASE_CLIENT_KWARGS") or {}
        if waits_without_limit(alias, "valkey", own):
            missing = ["socket_timeout in BASE_CLIENT_KWARGS"]
    elif is_from(backend, "django_redis", "django_valkey"):
        library = "redis" if is_from(backend, "django_redis") else "valkey"
        pool = options.get("CONNECTION_POOL_KWARGS") or {}
        timeouts = {"socket_timeout": options.get("SOCKET_TIMEOUT")}
        timeouts = {k: v for k, v in timeouts.items() if v is not None}
        if waits_without_limit(alias, library, pool | timeouts):
            missing = ["SOCKET_TIMEOUT"]
    elif issubclass(backend, PyMemcacheCache):
        names = "timeout", "connect_timeout"
        missing = [name for name in names if options.get(name) is None]
    if not missing:
        return None
    return Flaw(
        f"has no {' and no '.join(missing)}: if its server hangs, each call waits "
        "forever.",
        f"Set {' and '.join(missing)} in its OPTIONS, for example to 1 second.",
        id="getorcreateplus.W021",
    )


def waits_without_limit(alias, library, options):
    """Return True if a client of Redis waits for an answer without a limit."""
    if "socket_timeout" in options:
        return options["socket_timeout"] is None
    try:
        connection = import_module(f"{library}.connection").AbstractConnection
        default = inspect.signature(connection).parameters["socket_timeout"].default
    except (AttributeError, ImportError, KeyError, ValueError):
        return False
    queries = [parse_qs(urlsplit(each).query) for each in locations_of(alias)]
    return default is None and not all("socket_timeout" in each for each in queries)


# Caches that hide their failures


def hiding_flaw(alias):
    """Return the Flaw of a cache that hides its errors, or None."""
    backend, options = backend_of(alias), options_of(alias)
    effect = "a failed invalidation is not repeated, and the outdated row is served."
    if issubclass(backend, DatabaseCache):
        return Flaw(
            f"is a DatabaseCache, which hides the errors of its writes: {effect}",
            "Use Redis or memcached; a hit of a DatabaseCache costs a query anyway.",
            id="getorcreateplus.W023",
        )
    name = "ignore_exc" if issubclass(backend, PyMemcacheCache) else "IGNORE_EXCEPTIONS"
    if issubclass(backend, PyLibMCCache):
        name, options = "_noreply", options.get("behaviors") or {}
    hides, cause = options.get(name), name
    if name not in options:
        for package in ("django_redis", "django_valkey"):
            setting = f"{package.upper()}_IGNORE_EXCEPTIONS"
            if is_from(backend, package) and getattr(settings, setting, False):
                hides, cause = True, setting
    if not hides:
        return None
    return Flaw(
        f"hides its errors, because of {cause}: {effect}",
        "Remove it: the package raises no exception when a cache fails.",
        id="getorcreateplus.W023",
    )


# Caches with room for few rows


def max_entries(alias):
    """Return how many entries a cache keeps; None if it has no such limit."""
    if not issubclass(backend_of(alias), CULLING_BACKENDS):
        return None
    # Read as BaseCache.__init__() does.
    found = options_of(alias).get("MAX_ENTRIES", DEFAULT_MAX_ENTRIES)
    found = settings.CACHES[alias].get("max_entries", found)
    try:
        return int(found)
    except (TypeError, ValueError):
        return DEFAULT_MAX_ENTRIES


def room_flaw(alias):
    """Return the Flaw of a cache with room for few rows, or None."""
    limit = max_entries(alias)
    if limit is None or limit > DEFAULT_MAX_ENTRIES:
        return None
    return Flaw(
        f"keeps no more than {limit} entries, which is about "
        f"{limit // ENTRIES_PER_ROW} rows: if there are more, each new one evicts "
        "another.",
        "Set MAX_ENTRIES in its OPTIONS, for example to 100_000.",
        id="getorcreateplus.W024",
    )


# Caches that never have a hit


def keeping_flaw(model, alias, timeouts):
    """
    Return the Flaw of a cache that does not keep the rows of a model, or that
    changes them. Return None if it serves them.
    """
    default, backend = default_timeout(alias), backend_of(alias)
    for each in timeouts:
        timeout = default if each is DEFAULT_TIMEOUT else each
        if type(timeout) in {int, float} and expires_at_once(timeout, backend):
            return Flaw(
                f"keeps rows for {timeout} seconds.",
                "Set a longer TIMEOUT or cache_timeout.",
                id="getorcreateplus.W022",
            )
    serializer, round_trip = serializer_of(alias)
    if round_trip is None:
        return None
    lost = sorted(lost_columns(model, round_trip))
    if not lost:
        return None
    return Flaw(
        f"has the serializer {serializer}, which does not return the same values for "
        f"{', '.join(lost)}.",
        "Remove the serializer, so that pickle is used. Or cache the rows in another "
        "alias: set object_cache_alias and key_cache_alias.",
        id="getorcreateplus.W022",
    )


def expires_at_once(timeout, backend):
    # These backends cut a timeout to whole seconds.
    is_cut = issubclass(backend, (BaseMemcachedCache, RedisCache))
    return (int(timeout) if is_cut else timeout) <= 0


def default_timeout(alias):
    # Read as BaseCache.__init__() does.
    params = settings.CACHES[alias]
    found = params.get("timeout", params.get("TIMEOUT", 300))
    try:
        return found if found is None else int(found)
    except (TypeError, ValueError):
        return 300


def serializer_of(alias):
    """
    Return the name of the serializer that is set for a cache, and a function
    that dumps and loads a value with it. Return (None, None) without one.
    """
    backend, options = backend_of(alias), options_of(alias)
    try:
        if issubclass(backend, RedisCache) and options.get("serializer"):
            made = found = resolved(options["serializer"])
            if callable(found):
                made = found()
            return name_of(found), lambda value: made.loads(made.dumps(value))
        if is_from(backend, "django_redis", "django_valkey") and (
            options.get("SERIALIZER")
        ):
            found = resolved(options["SERIALIZER"])
            made = found(options)
            return name_of(found), lambda value: made.loads(made.dumps(value))
        if issubclass(backend, PyMemcacheCache) and options.get("serde"):
            serde = options["serde"]

            def round_trip(value):
                data, flags = serde.serialize("key", value)
                return serde.deserialize("key", data, flags)

            return name_of(serde), round_trip
    except Exception:  # noqa: BLE001 - of a class of the project's
        pass  # the first command will show what it does
    return None, None


def resolved(found):
    return import_string(found) if isinstance(found, str) else found


def name_of(found):
    found = found if hasattr(found, "__qualname__") else type(found)
    return f"{found.__module__}.{found.__qualname__}"


def lost_columns(model, round_trip):
    """Yield the columns of a model whose values do not come back."""
    if not (comes_back("token", round_trip) and comes_back(None, round_trip)):
        yield "a text"
        return
    for field in model._meta.concrete_fields:
        sample = sample_of(field)
        if sample is not None and not row_comes_back((sample,), round_trip):
            yield field.attname


def comes_back(value, round_trip):
    try:
        found = round_trip(value)
    except Exception:  # noqa: BLE001 - of any serializer
        return False
    return type(found) is type(value) and found == value


def row_comes_back(values, round_trip):
    payload = ("epoch", "version"), "fingerprint", values, mark(values)
    try:
        return revive(round_trip(payload)) == payload
    except Exception:  # noqa: BLE001 - of any serializer
        return False


SAMPLES = {
    "BinaryField": b"\x80",
    "BooleanField": True,
    "DateField": datetime.date(2000, 1, 31),
    "DateTimeField": datetime.datetime(2000, 1, 31, tzinfo=datetime.UTC),
    "DecimalField": Decimal("1.50"),
    "DurationField": datetime.timedelta(microseconds=1),
    "FloatField": 0.1,
    "JSONField": {"a": [1, 0.5, None]},
    "TimeField": datetime.time(12, 30),
    "UUIDField": uuid.UUID(int=1),
}
NUMBERS = (models.IntegerField, models.AutoField)


def sample_of(field):
    """Return a value that a column may hold, None if that is unknown."""
    while field.is_relation:
        field = field.target_field
    if hasattr(field, "from_db_value") and type(field) is not models.JSONField:
        return None
    if isinstance(field, NUMBERS):
        return 1
    return SAMPLES.get(field.get_internal_type(), "a")


# All flaws of a cache


def flaws_of(alias):
    """Return the Flaws of a cache that concern the rows of all models."""
    found = waiting_flaw(alias), hiding_flaw(alias), room_flaw(alias)
    return [flaw for flaw in found if flaw is not None]
