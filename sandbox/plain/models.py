"""The twins of gazetteer's models, with Django's own manager."""

from gazetteer import base


class Continent(base.Continent):
    pass


class Country(base.Country):
    pass


class Region(base.Region):
    pass


class TimeZone(base.TimeZone):
    pass


class AlternateName(base.AlternateName):
    pass


class City(base.City):
    pass
