"""
The database and the caches of the demo. django-environ reads their URLs.
"""

import secrets
import warnings
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from django.apps import apps
from django.conf import settings
from django.core.cache import CacheHandler, caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.db import Error, connection, connections
from django.db.utils import ConnectionHandler
from environ import Env

from .installing import pip_install

DATABASE_FORMS = (
    "sqlite:///file.sqlite3, postgresql://user:password@host:5432/name or "
    "mysql://user:password@host:3306/name"
)
DATABASE_EXTRAS = {
    "django.db.backends.sqlite3": None,
    "django.db.backends.postgresql": "postgresql",
    "django.db.backends.mysql": "mysql",
}
CACHE_FORMS = (
    "locmemcache://, redis://host:6379/0, pymemcache://host:11211 or dummycache://"
)
CACHE_EXTRAS = {
    "LocMemCache": None,
    "DummyCache": None,
    "RedisCache": "redis",
    "PyMemcacheCache": "memcached",
    # What django-environ makes of pymemcache:// without pymemcache.
    "PyLibMCCache": "memcached",
}
CACHE_TIMEOUTS = {
    "RedisCache": ["socket_connect_timeout", "socket_timeout"],
    "PyMemcacheCache": ["connect_timeout", "timeout"],
}
# The aliases that this package looks for, and `default` for its lookups.
CACHE_ALIASES = ["default", "continent", "country", "region", "timezone", "city"]
CONNECT_TIMEOUT = 10  # seconds


class Unusable(Exception):
    """Why a database or a cache can't be used, as the end of a sentence."""


class NoDriver(Unusable):
    """Its driver is not installed. `command` installs it."""

    def __init__(self, extra):
        self.command = pip_install(extra)
        super().__init__(f"needs a driver. Run: {self.command}")


def use_database(url):
    """
    Make `url` the default database. Raise CommandError when it isn't the URL
    of a database, or the database doesn't answer.
    """
    try:
        configure_database(answering_database(url))
    except Unusable as error:
        raise CommandError(f"--database {url!r} {error}") from error


def answering_database(url, timeout=CONNECT_TIMEOUT):
    """Return the settings for `url`. Raise Unusable, see use_database()."""
    config = read_url(Env.db_url_config, url)
    if config.get("ENGINE") not in DATABASE_EXTRAS or not config["NAME"]:
        raise Unusable(
            f"is not the URL of a database that the demo knows. Use {DATABASE_FORMS}."
        )
    extra = DATABASE_EXTRAS[config["ENGINE"]]
    if extra:
        config.setdefault("OPTIONS", {}).setdefault("connect_timeout", timeout)
    try:
        # Apart from the connections of this process.
        with closing(ConnectionHandler({"default": config})["default"]) as connection:
            connection.ensure_connection()
    except ImproperlyConfigured as error:
        raise NoDriver(extra) from error
    except (Error, UnicodeError) as error:
        raise Unusable(f"does not answer: {one_line(error)}") from error
    return config


def configure_database(config):
    settings.DATABASES = {"default": config}
    replace_settings(connections, settings.DATABASES)


@contextmanager
def chosen_database(url):
    """Use the database of `url`, or a temporary SQLite file if it is None."""
    with TemporaryDirectory() as directory:
        try:
            if url is not None:
                use_database(url)
            else:
                configure_database(
                    {
                        "ENGINE": "django.db.backends.sqlite3",
                        "NAME": Path(directory, "sandbox.sqlite3"),
                    }
                )
            yield
        finally:
            connections.close_all()


@contextmanager
def new_database(url):
    """Make a database for this run, on the server of the one at `url`."""
    use_database(url)
    config = settings.DATABASES["default"]
    name = f"getorcreateplus_sandbox_{secrets.token_hex(4)}"
    encoding = " CHARACTER SET utf8mb4" if connection.vendor == "mysql" else ""
    execute(f"CREATE DATABASE {name}{encoding}")
    try:
        configure_database(config | {"NAME": name})
        yield
    finally:
        configure_database(config)
        execute(f"DROP DATABASE {name}")


def execute(sql):
    """Send a statement that must not be in a transaction, and disconnect."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
    finally:
        connections.close_all()


def use_cache(url):
    """
    Make `url` the cache of every alias. Raise CommandError when it isn't the
    URL of a cache, or the cache doesn't answer.

    The keys have a prefix of this run, because what an earlier run has left in
    the cache is about rows of other tables.
    """
    try:
        configure_caches(answering_cache(url))
    except Unusable as error:
        raise CommandError(f"--cache {url!r} {error}") from error


def configure_caches(configs):
    settings.CACHES = configs
    replace_settings(caches, settings.CACHES)


def answering_cache(url, timeout=None):
    """
    Return the settings of all aliases for `url`. Raise Unusable, see
    use_cache(). `timeout` is in seconds, None for the client's own.
    """
    config = read_url(Env.cache_url_config, url)
    # django-environ writes the options of Django's RedisCache in lower case,
    # TIMEOUT and KEY_PREFIX too, where Django looks for upper case.
    config = {name.upper(): value for name, value in config.items()}
    if "redis" in config.get("BACKEND", ""):
        # django-environ takes django-redis, if that is installed.
        config["BACKEND"] = "django.core.cache.backends.redis.RedisCache"
    backend = config.get("BACKEND", "").rpartition(".")[2]
    unknown = Unusable(
        f"is not the URL of a cache that the demo knows. Use {CACHE_FORMS}."
    )
    if backend not in CACHE_EXTRAS or (
        CACHE_EXTRAS[backend] and config["LOCATION"] in ("", "unix://", "unix:")
    ):
        raise unknown
    if timeout:
        limits = dict.fromkeys(CACHE_TIMEOUTS.get(backend, ()), timeout)
        config["OPTIONS"] = limits | config.get("OPTIONS", {})
    prefix = f"{config.get('KEY_PREFIX', 'sandbox')}:{secrets.token_hex(4)}"
    configs = {
        alias: cache_config(config, backend, alias, prefix) for alias in CACHE_ALIASES
    }
    if not CACHE_EXTRAS[backend]:
        return configs
    try:
        cache = CacheHandler(configs)["default"]
        cache.set("answers", "yes")
        answers = cache.get("answers")
        cache.delete("answers")
        cache.close()
    except ImportError as error:
        raise NoDriver(CACHE_EXTRAS[backend]) from error
    except ValueError as error:  # its text may have a part of a password
        raise unknown from error
    except Exception as error:  # Each client has exceptions of its own.
        raise Unusable(f"does not answer: {one_line(error)}") from error
    if not answers:
        raise Unusable("does not keep its entries.")
    return configs


def cache_config(config, backend, alias, prefix):
    config = {"TIMEOUT": 3600} | config | {"KEY_PREFIX": f"{prefix}:{alias}"}
    if backend == "LocMemCache":
        config["LOCATION"] = f"{prefix}:{alias}"
        config["OPTIONS"] = {"MAX_ENTRIES": 1_000_000} | config.get("OPTIONS", {})
    return config


def read_url(read, url):
    """Return the settings in `url`, or {} when django-environ finds none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read(url)
        # A port that isn't a number; an unknown scheme; parts that
        # django-environ warns it would ignore.
        except (ValueError, ImproperlyConfigured, UserWarning):
            return {}


def replace_settings(handler, configs):
    """Start `handler` afresh, as if `configs` had been in the settings."""
    handler.close_all()
    for alias in [*handler.settings, *configs]:
        with suppress(AttributeError):  # not used yet
            del handler[alias]
    handler.settings = handler.configure_settings(configs)


def one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


def tables(label):
    """Return the models of an app, each after those that it refers to."""
    models = [*apps.get_app_config(label).get_models(include_auto_created=True)]
    return sorted(models, key=lambda model: bool(model._meta.auto_created))


def create_tables(connection, models):
    """Create the tables of `models`, dropping those of an earlier run."""
    drop_tables(connection, models)
    with connection.schema_editor() as editor:
        for model in models:
            if not model._meta.auto_created:  # comes with its model
                editor.create_model(model)


def drop_tables(connection, models):
    existing = connection.introspection.table_names()
    with connection.schema_editor() as editor:
        for model in reversed(models):
            if model._meta.db_table in existing:
                editor.execute(
                    editor.sql_delete_table
                    % {"table": editor.quote_name(model._meta.db_table)}
                )


@contextmanager
def emptied_cache():
    """
    Remove the keys of this run from Redis at the end. memcached cannot list
    its keys: they expire. Those of LocMemCache end with the process.
    """
    config = settings.CACHES["default"]
    try:
        yield
    finally:
        if config["BACKEND"].endswith("RedisCache"):
            import redis  # an extra

            location = config["LOCATION"]
            prefix, _, _ = config["KEY_PREFIX"].rpartition(":")
            location = location[0] if isinstance(location, list) else location
            with suppress(redis.RedisError), redis.Redis.from_url(location) as client:
                keys = list(client.scan_iter(f"{prefix}:*", count=1000))
                for start in range(0, len(keys), 1000):
                    client.unlink(*keys[start : start + 1000])
