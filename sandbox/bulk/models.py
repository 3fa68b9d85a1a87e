"""The twins of gazetteer's models that demo --bulk imports in batches."""

from gazetteer import base
from gazetteer.models import WorldManager

from getorcreateplus import PlusManager


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
