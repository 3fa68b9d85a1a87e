"""Rows that get() finds by relations, with one manager of each kind."""

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

from getorcreateplus import NonAtomicManager


class AbstractWork(models.Model):
    """The two managers of each model here."""

    objects = NonAtomicManager()
    plain = models.Manager()

    class Meta:
        abstract = True


class Composer(AbstractWork):
    name = models.CharField(max_length=20, unique=True)


class Style(AbstractWork):
    name = models.CharField(max_length=20, unique=True)


class Opera(AbstractWork):
    title = models.CharField(max_length=20)
    pages = models.IntegerField(default=0)
    composer = models.ForeignKey(Composer, models.CASCADE, related_name="operas")
    poet = models.ForeignKey(
        Composer, models.CASCADE, null=True, related_name="librettos"
    )
    styles = models.ManyToManyField(Style, related_name="operas")
    sequels = models.ManyToManyField("self", symmetrical=False, related_name="prequels")
    critiques = GenericRelation("Critique")

    class Meta:
        ordering = ["title"]


class Operetta(Opera):
    """Its rows have a part in the table of Opera."""

    dances = models.CharField(max_length=20)

    objects = NonAtomicManager()
    plain = models.Manager()


class Critique(AbstractWork):
    text = models.CharField(max_length=20)
    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.PositiveBigIntegerField()
    of = GenericForeignKey()


class Programme(AbstractWork):
    """The field classes that Ordinary and similar models do not have."""

    number = models.SmallAutoField(primary_key=True)
    big = models.PositiveBigIntegerField(null=True)
    small = models.PositiveSmallIntegerField(null=True)
    url = models.URLField(null=True)
    path = models.FilePathField(path=".", null=True)


class Seat(AbstractWork):
    number = models.AutoField(primary_key=True)


class Stall(AbstractWork):
    number = models.BigAutoField(primary_key=True)
