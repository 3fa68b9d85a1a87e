"""
The imports of gazetteer.importer, by bulk_get_or_create() and
bulk_update_or_create(). Each function returns how many rows it has created.
"""

from django.db import transaction

from . import models


def all_of(model, rows, *names):
    """Get or create the rows, and return {values of the names: object}."""
    return by_names(model.objects.bulk_get_or_create(rows, unique_fields=names), names)


def by_names(found, names):
    if len(names) == 1:
        return {getattr(obj, names[0]): obj for obj, _ in found}
    return {tuple(getattr(obj, name) for name in names): obj for obj, _ in found}


def number_created(found):
    return sum(created for _, created in found)


def import_countries(rows):
    found = import_continents(rows)
    countries = models.Country.objects.bulk_get_or_create(country_values(rows, found))
    return number_created(found) + number_created(countries)


def update_countries(rows):
    found = import_continents(rows)
    countries = models.Country.objects.bulk_update_or_create(
        country_values(rows, found), only_changed=True
    )
    return number_created(found) + number_created(countries)


def import_continents(rows):
    return models.Continent.objects.bulk_get_or_create(
        [{"code": row.continent, "name": row.continent_name} for row in rows],
        unique_fields=["code"],
    )


def country_values(rows, found):
    continents = by_names(found, ["code"])
    for row in rows:
        yield {
            "code": row.code,
            "continent": continents[row.continent],
            "name": row.name,
            "capital": row.capital,
            "area": row.area,
            "population": row.population,
        }


def import_time_zones(names):
    return number_created(
        models.TimeZone.objects.bulk_get_or_create({"name": name} for name in names)
    )


def import_regions(rows):
    countries = all_of(models.Country, [{"code": row.country} for row in rows], "code")
    return number_created(
        models.Region.objects.bulk_get_or_create(
            {"country": countries[row.country], "code": row.code} for row in rows
        )
    )


def import_cities(rows):
    cities = models.City.objects.bulk_get_or_create(city_values(rows))
    return number_created(cities) + name_cities(cities, rows)


def update_cities(rows):
    cities = models.City.objects.bulk_update_or_create(
        city_values(rows), only_changed=True
    )
    return number_created(cities) + name_cities(cities, rows)


def city_values(rows):
    countries = all_of(models.Country, [{"code": row.country} for row in rows], "code")
    regions = all_of(
        models.Region,
        [{"country": countries[row.country], "code": row.region} for row in rows],
        *("country_id", "code"),
    )
    zones = all_of(models.TimeZone, [{"name": row.time_zone} for row in rows], "name")
    for row in rows:
        yield {
            "geonameid": row.geonameid,
            "name": row.name,
            "region": regions[countries[row.country].pk, row.region],
            "time_zone": zones[row.time_zone],
            "latitude": row.latitude,
            "longitude": row.longitude,
            "population": row.population,
        }


def name_cities(cities, rows):
    """Give the cities those of their own names that they do not have yet."""
    link = models.City.alternate_names.through
    known = set(
        link.objects.filter(
            city__in=[city for city, created in cities if not created]
        ).values_list("city", "alternatename__name")
    )
    pairs = [
        (city, models.AlternateName(name=name))
        for (city, _), row in zip(cities, rows, strict=True)
        for name in row.alternate_names
        if (city.pk, name) not in known
    ]
    models.AlternateName.objects.bulk_create([name for _, name in pairs])
    link.objects.bulk_create(
        [link(city=city, alternatename=name) for city, name in pairs]
    )
    return 2 * len(pairs)  # a name and its link to the city


IMPORTERS = {
    "import_country": import_countries,
    "import_time_zone": import_time_zones,
    "import_region": import_regions,
    "import_city": import_cities,
    "update_country": update_countries,
    "update_city": update_cities,
}


def import_batch(function, rows):
    """Import in one batch, as gazetteer.importer.import_batch() row by row."""
    with transaction.atomic():
        created = IMPORTERS[function.__name__](rows)
    yield len(rows), created
