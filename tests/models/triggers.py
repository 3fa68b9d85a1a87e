"""Models whose rows are written without Django."""

from django.db import connection, models

from getorcreateplus import CachedManager, PlusManager


class Valued(models.Model):
    name = models.CharField(max_length=20)
    value = models.IntegerField(default=0)

    class Meta:
        abstract = True


class Dial(Valued):
    objects = PlusManager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name"], name="unique_dial")]


class SignalBox(Dial):
    """Its primary key is that of the parent's table."""

    lever = models.IntegerField(default=0)

    objects = CachedManager()


class Reading(Valued):
    pk = models.CompositePrimaryKey("dial", "day")
    dial = models.IntegerField()
    day = models.DateField()

    objects = CachedManager()


class OddDial(Valued):
    """Its table and its columns have names that need quotes."""

    id = models.BigAutoField(primary_key=True, db_column="Odd Key")

    objects = CachedManager()

    class Meta:
        db_table = "Odd Dials, é"


class DayDial(Valued):
    day = models.DateField(primary_key=True)

    objects = CachedManager()


if connection.vendor == "postgresql":

    class TextDial(Valued):
        text = models.TextField(primary_key=True)

        objects = CachedManager()
