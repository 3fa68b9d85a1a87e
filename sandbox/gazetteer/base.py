"""
The fields, once for both apps: gazetteer has them with this package's manager,
plain with Django's.

A foreign key to "Continent" leads to the Continent of the app of the model
that inherits it.
"""

from django.db import models
from model_utils.models import TimeStampedModel


class Continent(TimeStampedModel):
    code = models.CharField(max_length=2, unique=True)
    name = models.CharField(max_length=40)

    class Meta:
        abstract = True

    def __str__(self):
        return self.name


class Country(TimeStampedModel):
    continent = models.ForeignKey("Continent", models.CASCADE, related_name="countries")
    code = models.CharField(max_length=2, unique=True)
    name = models.CharField(max_length=80)
    capital = models.CharField(max_length=80)
    area = models.PositiveIntegerField(help_text="square kilometres")
    population = models.PositiveBigIntegerField()

    class Meta:
        abstract = True

    def __str__(self):
        return self.name


class Region(TimeStampedModel):
    country = models.ForeignKey("Country", models.CASCADE, related_name="regions")
    code = models.CharField(max_length=20)

    class Meta:
        abstract = True
        constraints = [
            models.UniqueConstraint(
                fields=["country", "code"], name="%(app_label)s_region_unique"
            )
        ]

    def __str__(self):
        return self.code


class TimeZone(TimeStampedModel):
    name = models.CharField(max_length=40, unique=True)

    class Meta:
        abstract = True

    def __str__(self):
        return self.name


class AlternateName(TimeStampedModel):
    # Not unique: two cities may have the same name, and
    # city.alternate_names.get_or_create(name=…) looks among those of one city.
    name = models.CharField(max_length=400)

    class Meta:
        abstract = True

    def __str__(self):
        return self.name


class City(TimeStampedModel):
    geonameid = models.PositiveIntegerField(unique=True)
    region = models.ForeignKey("Region", models.CASCADE, related_name="cities")
    time_zone = models.ForeignKey("TimeZone", models.CASCADE, related_name="cities")
    name = models.CharField(max_length=200)
    latitude = models.FloatField()
    longitude = models.FloatField()
    population = models.PositiveIntegerField()
    alternate_names = models.ManyToManyField("AlternateName", related_name="cities")

    class Meta:
        abstract = True

    def __str__(self):
        return self.name
