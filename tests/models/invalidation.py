"""Models whose rows change in every possible way: ships and related models."""

import uuid

import django
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

from getorcreateplus import CachedManager, CachedQuerySet


class Rope(models.Model):
    """It is not related to a cached model."""

    name = models.CharField(max_length=20)


class Knot(models.Model):
    rope = models.ForeignKey(Rope, models.CASCADE)


class Named(models.Model):
    name = models.CharField(max_length=20)
    size = models.IntegerField(default=0)

    class Meta:
        abstract = True


class AbstractBoat(Named):
    objects = CachedManager()

    class Meta:
        abstract = True


class Dinghy(AbstractBoat):
    pass


class Fleet(models.Model):
    name = models.CharField(max_length=20)


class Ship(AbstractBoat):
    fleet = models.ForeignKey(Fleet, models.CASCADE, null=True, related_name="ships")


class ProxyShip(Ship):
    class Meta:
        proxy = True


class SameShip(Named):
    """Another model of the same table."""

    objects = CachedManager()

    class Meta:
        managed = False
        db_table = "tests_ship"


class Buoy(Named):
    pass


class CachedBuoy(Buoy):
    """Only the proxy's manager caches."""

    objects = CachedManager()

    class Meta:
        proxy = True


# Primary keys


class Beacon(AbstractBoat):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)


class Harbour(AbstractBoat):
    code = models.CharField(max_length=8, primary_key=True)


class Day(AbstractBoat):
    date = models.DateField(primary_key=True)


class Toll(AbstractBoat):
    price = models.DecimalField(max_digits=6, decimal_places=2, primary_key=True)


class Slip(AbstractBoat):
    pk = models.CompositePrimaryKey("harbour", "number")
    harbour = models.IntegerField()
    number = models.IntegerField()


class Mast(AbstractBoat):
    ship = models.OneToOneField(Ship, models.CASCADE, primary_key=True)


# Managers


class HandMadeManager(models.Manager):
    """The manager's class does not show that its querysets cache."""

    def get_queryset(self):
        return CachedQuerySet(self.model, using=self._db)


class HandMade(Named):
    objects = HandMadeManager()


class ShyManager(models.Manager):
    """Like one that needs a request: its querysets must not be made early."""

    is_shy = True

    def get_queryset(self):
        if self.is_shy:
            raise LookupError("There is no request.")
        return CachedQuerySet(self.model, using=self._db)


class Shy(Named):
    plain = models.Manager()
    objects = ShyManager()


class FlaggedManager(models.Manager.from_queryset(CachedQuerySet)):
    """Like one that caches depending on a setting: not in every process."""

    caches = False

    def get_queryset(self):
        if self.caches:
            return super().get_queryset()
        return models.QuerySet(self.model, using=self._db)


class Flagged(Named):
    objects = FlaggedManager()


class FarQuerySet(CachedQuerySet):
    key_cache_alias = "far"
    object_cache_alias = "far"
    cache_timeout = 60


class BriefQuerySet(FarQuerySet):
    cache_timeout = 30


class Twofold(Named):
    """The default manager does not cache, and two others do, in two caches."""

    plain = models.Manager()
    near = CachedManager()
    far = FarQuerySet.as_manager()
    brief = models.Manager.from_queryset(BriefQuerySet)()


class HiddenManager(CachedManager):
    def get_queryset(self):
        return super().get_queryset().filter(hidden=False)


class Reef(Named):
    """The default manager does not see all rows."""

    hidden = models.BooleanField(default=False)

    objects = HiddenManager()
    all_rows = CachedManager()


# Multi-table inheritance


class Vessel(AbstractBoat):
    objects = CachedManager()


class Ferry(Vessel):
    lanes = models.IntegerField(default=0)


class CarFerry(Ferry):
    cars = models.IntegerField(default=0)


class Trawler(Vessel):
    nets = models.IntegerField(default=0)


class Lightship(Vessel):
    """Its primary key is not its parent's."""

    number = models.AutoField(primary_key=True)
    vessel = models.OneToOneField(Vessel, models.CASCADE, parent_link=True)
    lamps = models.IntegerField(default=0)


class Hull(Named):
    """A parent whose manager does not cache."""


class Engine(models.Model):
    engine_id = models.AutoField(primary_key=True)
    power = models.IntegerField(default=0)


class MotorYacht(Hull, Engine):
    cabins = models.IntegerField(default=0)

    objects = CachedManager()


# Relations


class Basin(models.Model):
    name = models.CharField(max_length=20)


class Quay(models.Model):
    name = models.CharField(max_length=20)
    basin = models.ForeignKey(Basin, models.CASCADE, null=True)


def default_quay():
    return Quay.objects.get_or_create(name="default")[0].pk


def move_to_default(collector, field, sub_objs, using):
    collector.add_field_update(field, default_quay(), list(sub_objs))


class Mooring(AbstractBoat):
    cascade = models.ForeignKey(Quay, models.CASCADE, null=True, related_name="+")
    null = models.ForeignKey(Quay, models.SET_NULL, null=True, related_name="moorings")
    default = models.ForeignKey(
        Quay, models.SET_DEFAULT, null=True, default=None, related_name="+"
    )
    value = models.ForeignKey(Quay, models.SET(None), null=True, related_name="+")
    called = models.ForeignKey(
        Quay, models.SET(default_quay), null=True, related_name="+"
    )
    custom = models.ForeignKey(Quay, move_to_default, null=True, related_name="+")


class Warehouse(models.Model):
    name = models.CharField(max_length=20)


class Crate(AbstractBoat):
    """The database may delete it, because of DO_NOTHING."""

    warehouse = models.ForeignKey(
        Warehouse, models.DO_NOTHING, null=True, db_constraint=False
    )


if django.VERSION >= (6, 1):

    class Depot(models.Model):
        name = models.CharField(max_length=20)

    class Pallet(models.Model):
        depot = models.ForeignKey(Depot, models.DB_CASCADE)

    class Parcel(AbstractBoat):
        pallet = models.ForeignKey(Pallet, models.DB_CASCADE, null=True)
        depot = models.ForeignKey(Depot, models.DB_SET_NULL, null=True)


class Mark(AbstractBoat):
    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.PositiveIntegerField()
    target = GenericForeignKey()


class Chart(models.Model):
    name = models.CharField(max_length=20)
    marks = GenericRelation(Mark)


class Sailor(models.Model):
    name = models.CharField(max_length=20)
    ships = models.ManyToManyField(Ship, through="Berth", related_name="crew")


class Berth(AbstractBoat):
    sailor = models.ForeignKey(Sailor, models.CASCADE)
    ship = models.ForeignKey(Ship, models.CASCADE)


class Annex:
    class Paper(Named):
        """It has the name, and so the cache, of another app's model."""

        objects = CachedManager()

        class Meta:
            app_label = "sessions"
