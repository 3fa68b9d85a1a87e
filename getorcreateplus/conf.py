"""The settings GETORCREATEPLUS_*."""

from django.conf import settings
from django.core.signals import setting_changed

PREFIX = "GETORCREATEPLUS_"

DEFAULTS = {
    # Seconds that a row stays locked in the cache if no writer releases it,
    # because its transaction was rolled back, or its process died. Longer than
    # any transaction.
    "LOCK_TIMEOUT": 600,
    # Rows that one transaction keeps of its own writes. It reads the others
    # from the database.
    "OVERLAY_ROWS": 10_000,
    # Lookups whose primary key a process remembers.
    "LOCAL_HINTS": 10_000,
    # Rows that a process remembers for querysets with a local_timeout.
    "LOCAL_ROWS": 10_000,
    # The transport of a cache alias, by its name: "django" for Django's cache
    # API alone. By default the class of its backend decides.
    "TRANSPORTS": {},
    # Whether the SQL of a lookup is kept, and not compiled for each call.
    "COMPILED_SELECTS": True,
}


class Settings:
    """
    The settings GETORCREATEPLUS_*, or their defaults.

    Each is looked up once and kept, because a look-up in django.conf takes as
    long as a read of a cache in memory.
    """

    def __getattr__(self, name):
        value = getattr(settings, PREFIX + name, DEFAULTS[name])
        setattr(self, name, value)
        return value

    def reload(self, *, setting, **kwargs):
        """Look up a changed setting again, when it is next used."""
        self.__dict__.pop(setting.removeprefix(PREFIX), None)


conf = Settings()

setting_changed.connect(conf.reload)
