"""
The import, the same for both apps: `models` is gazetteer.models or
plain.models. Each function returns how many rows it has created.
"""

from django.db import transaction

BATCH = 1_000  # rows of the source per transaction


def import_country(models, row):
    continent, is_new_continent = models.Continent.objects.get_or_create(
        code=row.continent, defaults={"name": row.continent_name}
    )
    _, is_new = models.Country.objects.get_or_create(
        code=row.code,
        defaults={
            "continent": continent,
            "name": row.name,
            "capital": row.capital,
            "area": row.area,
            "population": row.population,
        },
    )
    return is_new_continent + is_new


def import_time_zone(models, name):
    _, is_new = models.TimeZone.objects.get_or_create(name=name)
    return int(is_new)


def import_region(models, row):
    country, _ = models.Country.objects.get_or_create(code=row.country)
    _, is_new = country.regions.get_or_create(code=row.code)
    return int(is_new)


def import_city(models, row):
    country, _ = models.Country.objects.get_or_create(code=row.country)
    region, _ = country.regions.get_or_create(code=row.region)
    time_zone, _ = models.TimeZone.objects.get_or_create(name=row.time_zone)
    city, is_new = region.cities.get_or_create(
        geonameid=row.geonameid,
        defaults={
            "name": row.name,
            "time_zone": time_zone,
            "latitude": row.latitude,
            "longitude": row.longitude,
            "population": row.population,
        },
    )
    created = int(is_new)
    for name in row.alternate_names:
        _, is_new = city.alternate_names.get_or_create(name=name)
        created += 2 * is_new  # and its link to the city
    return created


def batches(geonames, size=BATCH):
    """
    Yield (function, rows), one transaction's work each, in the order of the
    files of GeoNames: what others refer to comes first.
    """
    for function, rows in [
        (import_country, geonames.countries),
        (import_time_zone, geonames.time_zones),
        (import_region, geonames.regions),
        (import_city, geonames.cities),
    ]:
        for start in range(0, len(rows), size):
            yield function, rows[start : start + size]


def import_batch(models, function, rows):
    """Yield (rows imported, rows created) as it goes."""
    with transaction.atomic():
        for row in rows:
            yield 1, function(models, row)
