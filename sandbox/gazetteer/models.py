from getorcreateplus import PlusManager

from . import base


class Continent(base.Continent):
    objects = PlusManager()


class Country(base.Country):
    objects = PlusManager()


class Region(base.Region):
    objects = PlusManager()


class TimeZone(base.TimeZone):
    objects = PlusManager()


class AlternateName(base.AlternateName):
    objects = PlusManager()


class City(base.City):
    objects = PlusManager()
