"""The settings GETORCREATEPLUS_*."""

from django.conf import settings
from django.core.signals import setting_changed

PREFIX = "GETORCREATEPLUS_"

DEFAULTS = {
    # Seconds that a row stays locked in the cache if no writer releases it,
    # for example because its process died. Longer than any transaction.
    "LOCK_TIMEOUT": 600,
    # Rows that a transaction has written and keeps in memory. It reads other
    # rows that it has written from the database.
    "OVERLAY_ROWS": 10_000,
    # Lookups whose primary key a process remembers.
    "LOCAL_HINTS": 10_000,
    # Rows that a process remembers for querysets with a local_timeout.
    "LOCAL_ROWS": 10_000,
    # The transport of a cache alias, by its name: "django" uses only Django's
    # cache API. By default the class of its backend decides.
    "TRANSPORTS": {},
    # The number of buckets for a model's rows in a cluster, by the model's
    # label. Each bucket is on one server; by default there is one.
    "BUCKETS": {},
    # True if the SQL of a lookup is kept, and not compiled for each call.
    "COMPILED_SELECTS": True,
}


class Settings:
    """
    The settings GETORCREATEPLUS_*, or their defaults.

    Each is read once and kept, because django.conf takes as long for it as a
    cache in memory takes for a read.
    """

    def __getattr__(self, name):
        value = getattr(settings, PREFIX + name, DEFAULTS[name])
        setattr(self, name, value)
        return value

    def reload(self, *, setting, **kwargs):
        """Read a changed setting again when it is used next."""
        self.__dict__.pop(setting.removeprefix(PREFIX), None)


conf = Settings()

setting_changed.connect(conf.reload)
