"""
The steps of the protocol through pylibmc, by Django's cache API. They are
collected where it is installed: see the extra "pylibmc".
"""

from .test_transports import Memcached, memcached_location, on_servers

__all__ = ["memcached_location"]


class TestText(Memcached):
    pytestmark = on_servers
    backend = "django.core.cache.backends.memcached.PyLibMCCache"
    # Without any, pylibmc prints a TypeError for each: Python 3.13 does not
    # hide it.
    options = {"behaviors": {}}


class TestBinary(TestText):
    options = {"behaviors": {}, "binary": True}
