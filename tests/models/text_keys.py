"""
Models with texts as primary keys. The tests make their tables, with columns of
other types than Django would give them.
"""

from django.db import models

from getorcreateplus import CachedManager, NonAtomicManager, PlusManager


class Counted(models.Model):
    name = models.CharField(max_length=20, unique=True)
    people = models.IntegerField(default=0)

    plain = models.Manager()
    objects = CachedManager()

    class Meta:
        abstract = True


class Country(Counted):
    code = models.CharField(max_length=10, primary_key=True)

    class Meta:
        managed = False
        db_table = "text_country"


class Capital(Counted):
    """
    Its own column may have another type than the column to which it refers.
    """

    country = models.OneToOneField(
        Country, models.DO_NOTHING, primary_key=True, db_constraint=False
    )

    class Meta:
        managed = False
        db_table = "text_capital"


class Parish(Counted):
    pk = models.CompositePrimaryKey("code", "number")
    code = models.CharField(max_length=10)
    number = models.IntegerField(default=1)

    class Meta:
        managed = False
        db_table = "text_parish"


class Plate(models.Model):
    """It is looked up by a text, and not by the primary key."""

    code = models.CharField(max_length=10, unique=True)
    people = models.IntegerField(default=0)

    plain = models.Manager()
    objects = CachedManager()

    class Meta:
        managed = False
        db_table = "text_plate"


class Sticker(models.Model):
    """It is looked up by a text, which several rows may have."""

    code = models.CharField(max_length=10)
    people = models.IntegerField(default=0)

    plain = models.Manager()
    cached = CachedManager()
    non_atomic = NonAtomicManager()
    objects = PlusManager()

    class Meta:
        managed = False
        db_table = "text_sticker"
