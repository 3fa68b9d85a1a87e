import threading
from contextlib import contextmanager

from django.core.cache.backends.locmem import LocMemCache


class CountingCache:
    """Let counted() note the commands that a backend is given: a mixin."""

    recorders = []
    inside = threading.local()

    def _note(self, name, keys, *args, **kwargs):
        method = getattr(super(), name)
        if getattr(self.inside, "a_command", False):
            return method(keys, *args, **kwargs)  # one that is done by others
        for commands in self.recorders:
            commands.append((name, [keys] if isinstance(keys, str) else list(keys)))
        self.inside.a_command = True
        try:
            return method(keys, *args, **kwargs)
        finally:
            self.inside.a_command = False

    def get(self, key, *args, **kwargs):
        return self._note("get", key, *args, **kwargs)

    def set(self, key, *args, **kwargs):
        return self._note("set", key, *args, **kwargs)

    def add(self, key, *args, **kwargs):
        return self._note("add", key, *args, **kwargs)

    def delete(self, key, *args, **kwargs):
        return self._note("delete", key, *args, **kwargs)

    def get_many(self, keys, *args, **kwargs):
        return self._note("get_many", keys, *args, **kwargs)

    def set_many(self, data, *args, **kwargs):
        return self._note("set_many", data, *args, **kwargs)

    def delete_many(self, keys, *args, **kwargs):
        return self._note("delete_many", keys, *args, **kwargs)


class CountingLocMemCache(CountingCache, LocMemCache):
    pass


@contextmanager
def counted():
    """Yield a list of the (method, keys) that these caches are given."""
    commands = []
    CountingCache.recorders.append(commands)
    try:
        yield commands
    finally:
        CountingCache.recorders.remove(commands)
