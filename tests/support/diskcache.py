"""The subclass of diskcache's backend in docs/caches.rst."""

from diskcache import DjangoCache


class DiskCache(DjangoCache):
    """A DjangoCache that gives up a write after its DATABASE_TIMEOUT."""

    def set(self, *args, retry=False, **kwargs):
        if not super().set(*args, retry=retry, **kwargs):
            raise TimeoutError("diskcache did not set an entry.")
        return True

    def add(self, *args, retry=False, **kwargs):
        return super().add(*args, retry=retry, **kwargs)

    def delete(self, key, version=None, retry=False):
        is_deleted = super().delete(key, version, retry)
        if not is_deleted and self.has_key(key, version):
            raise TimeoutError("diskcache did not delete an entry.")
        return is_deleted
