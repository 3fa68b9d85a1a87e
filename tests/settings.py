"""
Settings of the test project: SQLite and LocMemCache, or what the environment
says.

DATABASE_URL and CACHE_URL choose the services, as django-environ reads them:
postgresql://user@127.0.0.1/name, mysql://user@127.0.0.1/name;
redis://127.0.0.1:6379/0, pymemcache://127.0.0.1:11211.
"""

import os
import tempfile
import uuid
from pathlib import Path

import environ

env = environ.Env()

SECRET_KEY = "tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "getorcreateplus",
    "tests",
]
# No migrations: the models of the tests refer to these, and have none.
MIGRATION_MODULES = dict.fromkeys(("admin", "auth", "contenttypes", "sessions"))
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

DATABASES = {"default": env.db_url("DATABASE_URL", default="sqlite://:memory:")}
DATABASES["other"] = DATABASES["default"] | {
    "NAME": DATABASES["default"]["NAME"] + "_other"
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    for alias, database in DATABASES.items():
        # A file, not memory: the tests that race use two connections.
        file = Path(tempfile.gettempdir()) / f"test_{alias}_{os.getpid()}.sqlite3"
        database["TEST"] = {"NAME": str(file)}
        database["OPTIONS"] = {"init_command": "PRAGMA synchronous=OFF"}

# A prefix per run, so parallel and earlier runs share nothing.
KEY_PREFIX = os.environ.setdefault("TEST_CACHE_KEY_PREFIX", uuid.uuid4().hex[:8])


def cache(name):
    config = env.cache_url("CACHE_URL", default="locmemcache://")
    if config["BACKEND"].endswith("LocMemCache"):
        config["LOCATION"] = name
        config.setdefault("OPTIONS", {})["MAX_ENTRIES"] = 100_000
    elif "redis" in config["BACKEND"]:
        # django-environ uses django-redis, if that is installed.
        config["BACKEND"] = "django.core.cache.backends.redis.RedisCache"
    return config | {"KEY_PREFIX": f"{KEY_PREFIX}.{name}"}


# The rows of these models have their own caches; all others share default.
CACHES = {
    name: cache(name)
    for name in ("default", "cachedmutablemodel", "far", "paper", "pluspaper", "slot")
}
