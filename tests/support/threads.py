"""Threads with connections of their own, of which none is left open."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from django.core.cache import close_caches
from django.db import connections


@contextmanager
def own_connections():
    """Close what this thread opens: a client of memcached warns otherwise."""
    try:
        yield
    finally:
        connections.close_all()
        close_caches()


def elsewhere(call, *args):
    """Return what a call returns in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(own_connections()(call), *args).result(timeout=20)


def start(call, *args):
    """Start a call in another thread."""
    thread = threading.Thread(target=own_connections()(call), args=args)
    thread.start()
    return thread
