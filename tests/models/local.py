"""Barrels of piers: a coroutine is served their rows without a thread."""

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

from getorcreateplus import CachedQuerySet, PlusQuerySet


class BarrelQuerySet(CachedQuerySet):
    local_timeout = 60
    caches_get = True


class CreatingBarrelQuerySet(PlusQuerySet):
    local_timeout = 60


class Pier(models.Model):
    name = models.CharField(max_length=20, unique=True)
    listed = models.ManyToManyField("Barrel", related_name="lists")
    labelled = GenericRelation("Barrel")

    objects = BarrelQuerySet.as_manager()


class Barrel(models.Model):
    name = models.CharField(max_length=20, unique=True)
    size = models.IntegerField(default=0)
    pier = models.ForeignKey(Pier, models.CASCADE, null=True, related_name="barrels")
    content_type = models.ForeignKey(ContentType, models.CASCADE, null=True)
    object_id = models.IntegerField(null=True)
    labelled = GenericForeignKey()

    objects = BarrelQuerySet.as_manager()
    creating = CreatingBarrelQuerySet.as_manager()
    plain = models.Manager()
