"""Hot rows that every manager reads and writes: see tests/walk.py."""

from django.db import models

from getorcreateplus import (
    CachedManager,
    NonAtomicManager,
    PlusManager,
    PlusQuerySet,
)


class RememberedQuerySet(PlusQuerySet):
    local_timeout = 3600


class Hot(models.Model):
    name = models.CharField(max_length=20, unique=True)
    size = models.IntegerField()

    plain = models.Manager()
    cached = CachedManager()
    nonatomic = NonAtomicManager()
    plus = PlusManager()
    remembered = RememberedQuerySet.as_manager()

    class Meta:
        abstract = True


class Lamp(Hot):
    pass


class Bulb(Hot):
    lamp = models.ForeignKey(Lamp, models.CASCADE, null=True)
