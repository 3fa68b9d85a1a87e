"""Threads with their own connections, which are closed at the end."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from django.core.cache import close_caches
from django.db import connections


@contextmanager
def own_connections():
    """
    Close the connections of this thread, because a client of memcached warns
    otherwise.
    """
    try:
        yield
    finally:
        connections.close_all()
        close_caches()


def elsewhere(call, *args):
    """Return the result of a call in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(own_connections()(call), *args).result(timeout=20)


def start(call, *args):
    """Start a call in another thread."""
    thread = threading.Thread(target=own_connections()(call), args=args)
    thread.start()
    return thread
