from django.conf import settings
from django.core.signals import setting_changed

PREFIX = "GETORCREATEPLUS_"

DEFAULTS = {
    # Seconds that a row stays locked in the cache when nobody releases it: a
    # rolled-back transaction, a process that died. Longer than any
    # transaction.
    "LOCK_TIMEOUT": 600,
    # Rows that one transaction keeps of its own writes; the rest it asks of
    # the database.
    "OVERLAY_ROWS": 10_000,
    # Lookups of which a process remembers the primary key.
    "LOCAL_HINTS": 10_000,
    # Rows that a process remembers for querysets with a local_timeout.
    "LOCAL_ROWS": 10_000,
}


class Settings:
    """
    The settings GETORCREATEPLUS_*, or their defaults.

    Each is looked up once and kept, for a look-up in django.conf costs as much
    as a read of a cache in memory.
    """

    def __getattr__(self, name):
        value = getattr(settings, PREFIX + name, DEFAULTS[name])
        setattr(self, name, value)
        return value

    def forget(self, *, setting, **kwargs):
        self.__dict__.pop(setting.removeprefix(PREFIX), None)


conf = Settings()

setting_changed.connect(conf.forget)
