"""
What in the settings of a cache takes from the package what it is for: hits
that never come, failures that nobody is told of, a client that waits for ever.

Nothing here asks a server. System checks, explain() and the status command say
it.
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
from django.core.cache.backends.memcached import BaseMemcachedCache, PyMemcacheCache
from django.core.cache.backends.redis import RedisCache
from django.db import models
from django.utils.module_loading import import_string

from ..lookups.rows import mark, revive

CULLING = (DatabaseCache, FileBasedCache, LocMemCache)  # by MAX_ENTRIES
FEW = 300  # entries, of which Django's caches keep no more by default
PER_ROW = 3  # entries: payload, version and hint


@dataclass
class Flaw:
    what: str  # in words after "The cache 'default' "
    remedy: str
    id: str  # of the system check


def options_of(alias):
    return settings.CACHES[alias].get("OPTIONS") or {}


def backend_of(alias):
    """Return the class of a cache, object where it cannot be loaded."""
    try:
        return import_string(settings.CACHES[alias]["BACKEND"])
    except (ImportError, KeyError):
        return object  # getorcreateplus.E001


def is_of(backend, *packages):
    """Tell whether a backend, or a base of it, comes from these packages."""
    return any(c.__module__.partition(".")[0] in packages for c in backend.__mro__)


def locations_of(alias):
    found = settings.CACHES[alias].get("LOCATION") or ()
    return [found] if isinstance(found, str) else list(map(str, found))


# A client that waits


def waiting_flaw(alias):
    """Return the Flaw of a client of a server without a timeout, or None."""
    backend, options = backend_of(alias), options_of(alias)
    missing = []
    if issubclass(backend, RedisCache):
        if waits(alias, "redis", options):
            missing = ["socket_timeout"]
    elif is_of(backend, "django_redis", "django_valkey"):
        library = "redis" if is_of(backend, "django_redis") else "valkey"
        pool = options.get("CONNECTION_POOL_KWARGS") or {}
        timeouts = {"socket_timeout": options.get("SOCKET_TIMEOUT")}
        timeouts = {k: v for k, v in timeouts.items() if v is not None}
        if waits(alias, library, pool | timeouts):
            missing = ["SOCKET_TIMEOUT"]
    elif issubclass(backend, PyMemcacheCache):
        names = "timeout", "connect_timeout"
        missing = [name for name in names if options.get(name) is None]
    if not missing:
        return None
    return Flaw(
        f"has no {' and no '.join(missing)}: where its server hangs, each call waits "
        "without end.",
        f"Set {' and '.join(missing)} in its OPTIONS, to a second, say.",
        id="getorcreateplus.W021",
    )


def waits(alias, library, options):
    """Tell whether a client of Redis waits for an answer without a limit."""
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
    effect = "a release that failed is not tried again, and the older row is served."
    if issubclass(backend, DatabaseCache):
        return Flaw(
            f"is a DatabaseCache, which hides the errors of its writes: {effect}",
            "Take Redis or memcached; a hit costs a query here anyway.",
            id="getorcreateplus.W023",
        )
    name = "ignore_exc" if issubclass(backend, PyMemcacheCache) else "IGNORE_EXCEPTIONS"
    hides, where = options.get(name), f"by {name}"
    if name not in options:
        for package in ("django_redis", "django_valkey"):
            setting = f"{package.upper()}_IGNORE_EXCEPTIONS"
            if is_of(backend, package) and getattr(settings, setting, False):
                hides, where = True, f"by {setting}"
    if not hides:
        return None
    return Flaw(
        f"hides its errors, {where}: {effect}",
        "Leave it out: a cache that fails costs the package no exception.",
        id="getorcreateplus.W023",
    )


# Room for few


def most_entries(alias):
    """Return how many entries a cache keeps, None where it counts none."""
    if not issubclass(backend_of(alias), CULLING):
        return None
    # As BaseCache.__init__() reads it.
    params = settings.CACHES[alias]
    found = params.get("max_entries", options_of(alias).get("MAX_ENTRIES", FEW))
    try:
        return int(found)
    except (TypeError, ValueError):
        return FEW


def room_flaw(alias):
    """Return the Flaw of a cache with room for few rows, or None."""
    most = most_entries(alias)
    if most is None or most > FEW:
        return None
    return Flaw(
        f"keeps no more than {most} entries, which are some {most // PER_ROW} rows: "
        "with more, each drops another.",
        "Set MAX_ENTRIES in its OPTIONS, to 100_000, say.",
        id="getorcreateplus.W024",
    )


# Hits that never come


def keeping_flaw(model, alias, timeouts):
    """
    Return the Flaw of a cache that does not keep the rows of a model, or gives
    them back otherwise than it got them; None where it serves them.
    """
    default, backend = default_timeout(alias), backend_of(alias)
    for each in timeouts:
        timeout = default if each is DEFAULT_TIMEOUT else each
        if type(timeout) in {int, float} and is_no_time(timeout, backend):
            return Flaw(
                f"keeps rows for {timeout} seconds.",
                "Set a TIMEOUT, or a cache_timeout, of more.",
                id="getorcreateplus.W022",
            )
    serializer, round_trip = serializer_of(alias)
    if round_trip is None:
        return None
    lost = sorted(lost_columns(model, round_trip))
    if not lost:
        return None
    return Flaw(
        f"has the serializer {serializer}, which does not give back what it gets: "
        f"{', '.join(lost)}.",
        "Leave the serializer out, for pickle; or cache them in another alias, by "
        "object_cache_alias and key_cache_alias.",
        id="getorcreateplus.W022",
    )


def is_no_time(timeout, backend):
    # These count whole seconds.
    is_cut = issubclass(backend, (BaseMemcachedCache, RedisCache))
    return (int(timeout) if is_cut else timeout) <= 0


def default_timeout(alias):
    # As BaseCache.__init__() reads it.
    params = settings.CACHES[alias]
    found = params.get("timeout", params.get("TIMEOUT", 300))
    try:
        return found if found is None else int(found)
    except (TypeError, ValueError):
        return 300


def serializer_of(alias):
    """
    Return the name of the serializer that is set for a cache, and a function
    that has it dump and load a value; (None, None) where none is set.
    """
    backend, options = backend_of(alias), options_of(alias)
    try:
        if issubclass(backend, RedisCache) and options.get("serializer"):
            made = found = resolved(options["serializer"])
            if callable(found):
                made = found()
            return name_of(found), lambda value: made.loads(made.dumps(value))
        if is_of(backend, "django_redis", "django_valkey") and (
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
    except Exception:  # noqa: BLE001 - of a class of the user's
        pass  # what it does is not known: the first command tells
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
    except Exception:  # noqa: BLE001 - of whatever serializer
        return False
    return type(found) is type(value) and found == value


def row_comes_back(values, round_trip):
    payload = ("epoch", "version"), "fingerprint", values, mark(values)
    try:
        return revive(round_trip(payload)) == payload
    except Exception:  # noqa: BLE001 - of whatever serializer
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
    """Return what may be in a column, None where that is not known."""
    while field.is_relation:
        field = field.target_field
    if hasattr(field, "from_db_value") and type(field) is not models.JSONField:
        return None
    if isinstance(field, NUMBERS):
        return 1
    return SAMPLES.get(field.get_internal_type(), "a")


# All of them


def flaws_of(alias):
    """Return the Flaws of a cache, whatever rows it keeps."""
    found = waiting_flaw(alias), hiding_flaw(alias), room_flaw(alias)
    return [flaw for flaw in found if flaw is not None]
