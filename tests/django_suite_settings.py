"""
Settings for Django's runtests.py: its own, with the database and the cache
that DATABASE_URL and CACHE_URL name, as in tests.settings.
"""

import os
import uuid

import environ

# In the directory of Django's tests.
from test_sqlite import *  # noqa: F403

from .django_suite import install

env = environ.Env()

DATABASES = {
    "default": env.db_url("DATABASE_URL", default="sqlite://:memory:"),
    "other": env.db_url("DATABASE_URL", default="sqlite://:memory:"),
}
if not DATABASES["other"]["ENGINE"].endswith("sqlite3"):
    DATABASES["other"]["NAME"] += "_other"

RUN = uuid.uuid4().hex[:8]


def key_of_process(key, key_prefix, version):
    # The processes of a run have their own databases, with similar rows.
    return f"{key_prefix}:{version}:{RUN}.{os.getpid()}:{key}"


CACHES = {
    "default": env.cache_url("CACHE_URL", default="locmemcache://")
    | {"KEY_FUNCTION": key_of_process}
}
if "redis" in CACHES["default"]["BACKEND"]:
    # django-environ uses django-redis, if that is installed.
    CACHES["default"]["BACKEND"] = "django.core.cache.backends.redis.RedisCache"
if CACHES["default"]["BACKEND"].endswith("LocMemCache"):
    CACHES["default"]["OPTIONS"] = {"MAX_ENTRIES": 100_000}

TEST_RUNNER = "tests.django_suite.Runner"

install(os.environ["DJANGO_SUITE_QUERYSET"])
