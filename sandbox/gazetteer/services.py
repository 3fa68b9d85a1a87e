"""
The database and the caches of the demo, from URLs as django-environ reads
them.
"""

import contextlib
import secrets
import warnings

from django.apps import apps
from django.conf import settings
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError
from django.db import Error, connections
from environ import Env

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
# The aliases that this package looks for, and `default` for its lookups.
CACHE_ALIASES = ["default", "continent", "country", "region", "timezone", "city"]
CONNECT_TIMEOUT = 10  # seconds


def use_database(url):
    """
    Make `url` the default database. Raise CommandError when it isn't the URL
    of a database, or the database doesn't answer.
    """
    config = read_url(Env.db_url_config, url)
    if config.get("ENGINE") not in DATABASE_EXTRAS or not config["NAME"]:
        raise CommandError(
            f"--database {url!r} is not the URL of a database that the demo knows. "
            f"Use {DATABASE_FORMS}."
        )
    extra = DATABASE_EXTRAS[config["ENGINE"]]
    if extra:
        config.setdefault("OPTIONS", {}).setdefault("connect_timeout", CONNECT_TIMEOUT)
    configure_database(config)
    try:
        connections["default"].ensure_connection()
    except ImproperlyConfigured as error:
        raise CommandError(
            f"--database {url!r} needs a driver. "
            f"Run: python -m pip install -e '.[sandbox,{extra}]'"
        ) from error
    except (Error, UnicodeError) as error:
        raise CommandError(
            f"--database {url!r} does not answer: {one_line(error)}"
        ) from error


def configure_database(config):
    settings.DATABASES = {"default": config}
    replace_settings(connections, settings.DATABASES)


def use_cache(url):
    """
    Make `url` the cache of every alias. Raise CommandError when it isn't the
    URL of a cache, or the cache doesn't answer.

    The keys are this run's own: the tables are new, what an earlier run has
    left in the cache is about other rows.
    """
    config = read_url(Env.cache_url_config, url)
    # django-environ writes the options of Django's RedisCache in lower case,
    # TIMEOUT and KEY_PREFIX too, where Django looks for upper case.
    config = {name.upper(): value for name, value in config.items()}
    backend = config.get("BACKEND", "").rpartition(".")[2]
    if backend not in CACHE_EXTRAS or (
        CACHE_EXTRAS[backend] and config["LOCATION"] in ("", "unix://", "unix:")
    ):
        raise CommandError(
            f"--cache {url!r} is not the URL of a cache that the demo knows. "
            f"Use {CACHE_FORMS}."
        )
    prefix = f"{config.get('KEY_PREFIX', 'sandbox')}:{secrets.token_hex(4)}"
    settings.CACHES = {
        alias: cache_config(config, backend, alias, prefix) for alias in CACHE_ALIASES
    }
    replace_settings(caches, settings.CACHES)
    try:
        caches["default"].set("answers", "yes")
        answers = caches["default"].get("answers")
    except ImportError as error:
        raise CommandError(
            f"--cache {url!r} needs a driver. "
            f"Run: python -m pip install -e '.[sandbox,{CACHE_EXTRAS[backend]}]'"
        ) from error
    except Exception as error:  # Each client has exceptions of its own.
        raise CommandError(
            f"--cache {url!r} does not answer: {one_line(error)}"
        ) from error
    if not answers and backend != "DummyCache":
        raise CommandError(f"--cache {url!r} does not keep what it is given.")


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
        with contextlib.suppress(AttributeError):  # not used yet
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
    existing = connection.introspection.table_names()
    with connection.schema_editor() as editor:
        for model in reversed(models):
            if model._meta.db_table in existing:
                editor.execute(
                    editor.sql_delete_table
                    % {"table": editor.quote_name(model._meta.db_table)}
                )
    with connection.schema_editor() as editor:
        for model in models:
            if not model._meta.auto_created:  # comes with its model
                editor.create_model(model)
