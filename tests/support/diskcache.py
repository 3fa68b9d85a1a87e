"""The subclass of diskcache's backend that docs/caches.rst has."""

from diskcache import DjangoCache


class DiskCache(DjangoCache):
    """It raises what it has not done within its DATABASE_TIMEOUT."""

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
