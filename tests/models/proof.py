"""Rows that concurrent writers and readers share: see coherence/."""

from django.db import models

from getorcreateplus import CachedManager


class AbstractGauge(models.Model):
    """One row is enough: its value shows which write a reader has seen."""

    name = models.CharField(max_length=20, unique=True)
    colour = models.CharField(max_length=8, default="red")
    value = models.BigIntegerField()

    objects = CachedManager()

    class Meta:
        abstract = True


class Gauge(AbstractGauge):
    """Its rows and their hints are in the default cache."""


class FarGauge(AbstractGauge):
    """Its rows have their own cache, if the tests configure one."""


class History(models.Model):
    """The values that rows had, in the order of the commits; None: deleted."""

    row = models.BigIntegerField()
    value = models.BigIntegerField(null=True)
