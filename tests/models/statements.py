"""Models whose tables have several names, parts, or views."""

from django.conf import settings
from django.db import models

from getorcreateplus import CachedManager, PlusManager


def in_schema(table):
    """Return a db_table with its schema, like a table that projects share."""
    database = settings.DATABASES["default"]
    vendor = database["ENGINE"].rpartition(".")[2]
    if vendor == "mysql":
        name = database.get("TEST", {}).get("NAME") or f"test_{database['NAME']}"
        return f"{name}`.`{table}"
    schema = "public" if vendor == "postgresql" else "main"
    return f'{schema}"."{table}'


class Priced(models.Model):
    name = models.CharField(max_length=20, unique=True)
    uses = models.IntegerField(default=0)

    plain = models.Manager()
    objects = CachedManager()

    class Meta:
        abstract = True


class Price(Priced):
    pass


class SharedPrice(Priced):
    """The table of Price, with another name."""

    class Meta:
        managed = False
        db_table = in_schema("tests_price")


class PriceByName(models.Model):
    """The table of Price, with another primary key."""

    name = models.CharField(max_length=20, primary_key=True)
    uses = models.IntegerField(default=0)

    plain = models.Manager()
    objects = CachedManager()

    class Meta:
        managed = False
        db_table = in_schema("tests_price")


class OddPrice(Priced):
    class Meta:
        db_table = "tests odd-Größe.price"


# The tests make the tables of these.


class Event(Priced):
    name = models.CharField(max_length=20)

    class Meta:
        managed = False
        db_table = "tests_event"


class EventOfMay(Priced):
    """A partition of the events, or a child."""

    name = models.CharField(max_length=20)

    class Meta:
        managed = False
        db_table = "tests_event_may"


class PriceView(Priced):
    class Meta:
        managed = False
        db_table = "tests_price_view"


class PriceTotal(Priced):
    """A view of the view."""

    class Meta:
        managed = False
        db_table = "tests_price_total"


class Begun(models.Model):
    """Rows that are written in transactions which Django has not begun."""

    name = models.CharField(max_length=20, unique=True)
    uses = models.IntegerField(default=0)

    plain = models.Manager()
    objects = PlusManager()
