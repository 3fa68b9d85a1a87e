"""
The imports row by row, the same for both apps: `models` is gazetteer.models or
plain.models. Each function returns how many rows it has created. The functions
of FIRST get or create rows. Those of AGAIN update countries and cities, too.
"""

from django.db import transaction

BATCH = 1_000  # rows of the source per transaction


def import_country(models, row):
    continent, is_new_continent = import_continent(models, row)
    _, is_new = models.Country.objects.get_or_create(
        code=row.code, defaults=country_values(row, continent)
    )
    return is_new_continent + is_new


def update_country(models, row):
    continent, is_new_continent = import_continent(models, row)
    _, is_new = models.Country.objects.update_or_create(
        code=row.code, defaults=country_values(row, continent)
    )
    return is_new_continent + is_new


def import_continent(models, row):
    return models.Continent.objects.get_or_create(
        code=row.continent, defaults={"name": row.continent_name}
    )


def country_values(row, continent):
    return {
        "continent": continent,
        "name": row.name,
        "capital": row.capital,
        "area": row.area,
        "population": row.population,
    }


def import_time_zone(models, name):
    _, is_new = models.TimeZone.objects.get_or_create(name=name)
    return int(is_new)


def import_region(models, row):
    country, _ = models.Country.objects.get_or_create(code=row.country)
    _, is_new = country.regions.get_or_create(code=row.code)
    return int(is_new)


def import_city(models, row):
    region, time_zone = place(models, row)
    city, is_new = region.cities.get_or_create(
        geonameid=row.geonameid, defaults=city_values(row, time_zone)
    )
    return is_new + name_city(city, row)


def update_city(models, row):
    region, time_zone = place(models, row)
    city, is_new = region.cities.update_or_create(
        geonameid=row.geonameid, defaults=city_values(row, time_zone)
    )
    return is_new + name_city(city, row)


def place(models, row):
    """Return (region, time zone) of a city."""
    country, _ = models.Country.objects.get_or_create(code=row.country)
    region, _ = country.regions.get_or_create(code=row.region)
    time_zone, _ = models.TimeZone.objects.get_or_create(name=row.time_zone)
    return region, time_zone


def city_values(row, time_zone):
    return {
        "name": row.name,
        "time_zone": time_zone,
        "latitude": row.latitude,
        "longitude": row.longitude,
        "population": row.population,
    }


def name_city(city, row):
    created = 0
    for name in row.alternate_names:
        _, is_new = city.alternate_names.get_or_create(name=name)
        created += 2 * is_new  # and its link to the city
    return created


FIRST = [import_country, import_time_zone, import_region, import_city]
AGAIN = [update_country, import_time_zone, import_region, update_city]


def batches(geonames, functions, size=BATCH):
    """
    Yield (function, rows), one transaction's work each, in the order of the
    files of GeoNames: what others refer to comes first. `functions` is FIRST
    or AGAIN.
    """
    for function, rows in zip(functions, geonames, strict=True):
        for start in range(0, len(rows), size):
            yield function, rows[start : start + size]


def import_batch(models, function, rows):
    """Yield (rows imported, rows created) as it goes."""
    with transaction.atomic():
        for row in rows:
            yield 1, function(models, row)
