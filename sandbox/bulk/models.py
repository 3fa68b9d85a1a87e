"""The twins of gazetteer's models that demo --bulk imports in batches."""

from gazetteer import base
from gazetteer.models import WorldQuerySet

from getorcreateplus import PlusManager, PlusQuerySet


class BulkQuerySet(PlusQuerySet):
    # The caches named after these models have the rows of gazetteer's.
    object_cache_alias = "default"


class BulkManager(PlusManager.from_queryset(BulkQuerySet)):
    pass


class BulkWorldQuerySet(WorldQuerySet):
    object_cache_alias = "default"


class BulkWorldManager(PlusManager.from_queryset(BulkWorldQuerySet)):
    pass


class Continent(base.Continent):
    objects = BulkWorldManager()


class Country(base.Country):
    objects = BulkWorldManager()


class Region(base.Region):
    objects = BulkWorldManager()


class TimeZone(base.TimeZone):
    objects = BulkWorldManager()


class AlternateName(base.AlternateName):
    objects = BulkManager()


class City(base.City):
    objects = BulkManager()
