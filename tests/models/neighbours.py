"""Models of other packages, with our managers beside theirs."""

from django.db import models
from model_utils.fields import MonitorField, SplitField
from model_utils.managers import InheritanceManager, InheritanceQuerySet
from model_utils.models import TimeStampedModel, UUIDModel
from mptt.managers import TreeManager
from mptt.models import MPTTModel, TreeForeignKey
from mptt.querysets import TreeQuerySet
from polymorphic.managers import PolymorphicManager
from polymorphic.models import PolymorphicModel
from polymorphic.query import PolymorphicQuerySet
from simple_history.models import HistoricalRecords
from treebeard.mp_tree import MP_Node, MP_NodeManager, MP_NodeQuerySet

from getorcreateplus import (
    AlwaysGetOrCreateMixin,
    CachedGetOrCreateMixin,
    CachedManager,
    NonAtomicGetOrCreateMixin,
    PlusManager,
)


class PlusMixin(
    CachedGetOrCreateMixin, AlwaysGetOrCreateMixin, NonAtomicGetOrCreateMixin
):
    """It adds the features of PlusQuerySet to querysets of other packages."""


# model-utils


class Article(TimeStampedModel, UUIDModel):
    title = models.CharField(max_length=20, unique=True)
    body = SplitField(default="")
    status = models.CharField(max_length=8, default="draft")
    status_changed = MonitorField(monitor="status")

    objects = PlusManager()


class CachedAnimalQuerySet(CachedGetOrCreateMixin, InheritanceQuerySet):
    pass


class CachedAnimal(models.Model):
    name = models.CharField(max_length=20, unique=True)

    objects = InheritanceManager.from_queryset(CachedAnimalQuerySet)()


class CachedCat(CachedAnimal):
    lives = models.IntegerField(default=9)


# polymorphic


class WorkQuerySet(PlusMixin, PolymorphicQuerySet):
    # PolymorphicQuerySet translates names that are not fields of the model's
    # own table.
    lookups_as_written = True


class WorkManager(PlusManager.from_queryset(WorkQuerySet), PolymorphicManager):
    queryset_class = WorkQuerySet


class Work(PolymorphicModel):
    title = models.CharField(max_length=20, unique=True)

    objects = WorkManager()
    theirs = PolymorphicManager.from_queryset(WorkQuerySet)()


class Novel(Work):
    pages = models.IntegerField(default=0)


class Song(Work):
    key = models.CharField(max_length=8, default="C")


# mptt


class PlusTreeQuerySet(PlusMixin, TreeQuerySet):
    pass


class PlusTreeManager(PlusManager.from_queryset(PlusTreeQuerySet), TreeManager):
    pass


class Place(MPTTModel):
    name = models.CharField(max_length=20, unique=True)
    parent = TreeForeignKey(
        "self", models.CASCADE, null=True, blank=True, related_name="children"
    )

    objects = PlusTreeManager()
    theirs = TreeManager.from_queryset(PlusTreeQuerySet)()


# treebeard


class SectionQuerySet(CachedGetOrCreateMixin, MP_NodeQuerySet):
    pass


class SectionManager(MP_NodeManager.from_queryset(SectionQuerySet)):
    def get_queryset(self):
        return SectionQuerySet(self.model, using=self._db).order_by("path")


class Section(MP_Node):
    name = models.CharField(max_length=20, unique=True)

    objects = SectionManager()


# simple-history


class Contract(models.Model):
    number = models.CharField(max_length=8, unique=True)
    state = models.CharField(max_length=8, default="open")

    objects = PlusManager()
    history = HistoricalRecords()


# filter, import-export, REST framework


class Maker(models.Model):
    name = models.CharField(max_length=20, unique=True)

    objects = PlusManager()


class Part(models.Model):
    code = models.CharField(max_length=8, unique=True)
    price = models.IntegerField(default=0)
    maker = models.ForeignKey(Maker, models.CASCADE, null=True, related_name="parts")

    objects = CachedManager()
