"""
The steps of the protocol, and the guarantees, through pylibmc, with Django's
cache API. They are collected if it is installed: see the extra "pylibmc".
"""

from getorcreateplus.coherence.transports.django import DjangoTransport

from .test_kinds_of_cache import OnMemcached, memcached_server
from .test_transports import Memcached, on_servers

__all__ = ["memcached_server"]


class TestText(Memcached):
    pytestmark = on_servers
    backend = "django.core.cache.backends.memcached.PyLibMCCache"
    # Without any, pylibmc prints a TypeError for each: Python 3.13 does not
    # hide it.
    options = {"behaviors": {}}


class TestBinary(TestText):
    options = {"behaviors": {}, "binary": True}


class TestGuarantees(OnMemcached):
    transport = DjangoTransport
    backend = TestText.backend
    options = {"behaviors": {"_retry_timeout": 1, "connect_timeout": 1000}}


class TestGuaranteesOfBinary(TestGuarantees):
    options = {**TestGuarantees.options, "binary": True}
