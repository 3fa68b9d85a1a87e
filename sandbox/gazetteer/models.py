from getorcreateplus import PlusManager, PlusQuerySet

from . import base


class WorldQuerySet(PlusQuerySet):
    """For rows that hardly ever change and are looked up often."""

    local_timeout = 60  # seconds


class WorldManager(PlusManager.from_queryset(WorldQuerySet)):
    pass


class Continent(base.Continent):
    objects = WorldManager()


class Country(base.Country):
    objects = WorldManager()


class Region(base.Region):
    objects = WorldManager()


class TimeZone(base.TimeZone):
    objects = WorldManager()


class AlternateName(base.AlternateName):
    objects = PlusManager()


class City(base.City):
    objects = PlusManager()
