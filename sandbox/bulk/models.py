"""The twins of gazetteer's models that the demo imports in batches."""

from gazetteer import base
from gazetteer.models import WorldQuerySet

from getorcreateplus import PlusManager, PlusQuerySet


class BulkQuerySet(PlusQuerySet):
    # Not the caches named after the models: they have gazetteer's rows.
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
