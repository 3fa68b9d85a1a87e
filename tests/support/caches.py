"""Backends that fail, and the commands that a backend gets."""

from contextlib import contextmanager

from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache
from django.test import override_settings
from django.utils.module_loading import import_string

from getorcreateplus.test import CaptureCacheCommands


def commands(call):
    """Return the names of the commands that a call sends to the caches."""
    with CaptureCacheCommands() as made:
        call()
    return [command.method for command in made]


class Unreadable:
    """It cannot be unpickled."""

    def __reduce__(self):
        return int, ("of another release",)


Backend = import_string(settings.CACHES["default"]["BACKEND"])


class BrokenCache(Backend):
    asked = 0

    def get_many(self, keys, *args, **kwargs):
        type(self).asked += 1
        raise OSError("refused")


@contextmanager
def every_cache(cls, *aliases):
    config = {
        alias: options | {"BACKEND": f"{cls.__module__}.{cls.__qualname__}"}
        if alias in aliases or not aliases
        else options
        for alias, options in settings.CACHES.items()
    }
    with override_settings(CACHES=config):
        yield


class Switch:
    """A switch that makes the commands of each SwitchedCache fail."""

    failure = None  # of all commands
    commands = 0


class SwitchedCache(LocMemCache):
    """It fails while the switch is on."""

    def check(self):
        Switch.commands += 1
        if Switch.failure is not None:
            raise Switch.failure

    def get(self, *args, **kwargs):
        self.check()
        return super().get(*args, **kwargs)

    def add(self, *args, **kwargs):
        self.check()
        return super().add(*args, **kwargs)
