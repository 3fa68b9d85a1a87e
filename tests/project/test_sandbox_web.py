"""
The pages of the sandbox by Django's test client; what they start is a process
as users have it. For Chromium see test_sandbox_browser.py.
"""

import json
import os
import re
import runpy
import subprocess
import sys
import time
from html import unescape
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from django.db import connection
from django.test import Client, override_settings

from sandbox.gazetteer import installing

from ..support.repository import ROOT

SANDBOX = ROOT / "sandbox"
SETTINGS = {
    name: value
    for name, value in runpy.run_path(SANDBOX / "settings.py").items()
    if name.isupper() and name not in ("CACHES", "DATABASES", "SECRET_KEY")
}
# Those whose models the server never imports are left out.
SETTINGS["INSTALLED_APPS"] = ["web", "django.contrib.staticfiles"]
SETTINGS["SILENCED_SYSTEM_CHECKS"] = []

ORDER = {"cities": "1,000", "database": "sqlite", "cache": "locmem"}
LOOKUPS = 400
SECONDS = 120

pytestmark = pytest.mark.slow


@pytest.fixture
def runs(monkeypatch, tmp_path, django_db_blocker):
    """Return the runs of a server whose temporary files are in tmp_path."""
    monkeypatch.syspath_prepend(str(SANDBOX))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("DATABASE_URL", "CACHE_URL"):
        monkeypatch.delenv(name, raising=False)
    with override_settings(**SETTINGS), django_db_blocker.unblock():
        from web.runs import runs

        yield runs
        runs.end()


@pytest.fixture
def client(runs):
    return Client(SERVER_NAME="localhost")


def text(response):
    """Return what people read, without the white space around it."""
    html = re.sub(r"(?s)<script.*?</script>", "", response.content.decode())
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def wait_for_state(client, state):
    for _ in range(SECONDS * 10):
        run = client.get("/progress").json()
        if run["state"] == state:
            return run
        assert run["is_going_on"], run
        time.sleep(0.1)
    raise AssertionError(run)


def start_run(runs, **values):
    """Start an import that is smaller than the page would."""
    order = {
        "cities": 20,
        "database": None,
        "new": False,
        "in_bulk": False,
        "cache": "locmemcache://",
        "lookups": 0,
    }
    runs.start(order | values, "A few cities", ORDER)


def measured(run, key):
    """Return {title: [text of each contender]} of an act."""
    (act,) = [act for act in run["acts"] if act["key"] == key]
    return {
        row["title"]: [cell["text"] for cell in row["cells"]] for row in act["table"]
    }


def test_first_page_offers_what_always_answers(client):
    response = client.get("/")
    assert response.status_code == 200
    assert "SQLite ✓ answers a temporary file" in text(response)
    assert "LocMemCache ✓ answers in the memory of one process" in text(response)


def test_no_page_but_two(client):
    response = client.get("/admin/")
    assert response.status_code == 404
    assert "There is no such page" in text(response)


def test_import_shows_both_sides_and_the_verdict(client, runs):
    start_run(runs, cities=1000, lookups=LOOKUPS)
    run = wait_for_state(client, "done")
    # 2 per country, 1 per time zone, 2 per region, 4 per city, 1 per name.
    calls = 2 * 252 + 180 + 2 * 526 + 4 * 1000 + 983
    written = 7 + 252 + 180 + 526 + 1000 + 2 * 983
    # In transactions of 250 rows: the continents that the first one created
    # itself; and what each of the others looks up before its first INSERT.
    hits = (250 - 7) + 1 + 3 + 4 * 3
    numbers = measured(run, "first")
    del numbers["seconds"], numbers["rows/s"]
    assert numbers == {
        "get_or_create() calls": [f"{calls:,}", f"{calls:,}"],
        "answered by the cache": ["0", f"{hits:,}"],
        "rows written": [f"{written:,}", f"{written:,}"],
        "queries": [f"{calls + written:,}", f"{calls + written - hits:,}"],
        "savepoint statements": [f"{2 * (written - 983):,}", "0"],
    }
    # The same again: all but the lookups of names, which are joins.
    numbers = measured(run, "same")
    del numbers["seconds"], numbers["rows read/s"]
    assert numbers == {
        "calls": [f"{calls:,}", f"{calls:,}"],
        "answered by the cache": ["0", f"{calls - 983:,}"],
        "rows read": ["1,958", "1,958"],
        "queries": [f"{calls:,}", "983"],
        "savepoint statements": ["0", "0"],
    }
    # A tenth has changed: all time zones and regions are hits.
    hits_again = 1 + 1 + 180 + 2 * 526 + 4 * 3
    numbers = measured(run, "changed")
    del numbers["seconds"], numbers["rows read/s"]
    assert numbers == {
        "calls": [f"{calls:,}", f"{calls:,}"],
        "answered by the cache": ["0", f"{hits_again:,}"],
        "rows read": ["1,958", "1,958"],
        "rows updated": ["1,252", "1,252"],
        "queries": [f"{calls + 1252:,}", f"{calls + 1252 - hits_again:,}"],
        "savepoint statements": ["2,504", "0"],
    }
    numbers = measured(run, "lookups")
    assert numbers["lookups"] == ["400", "400"]
    assert numbers["answered by the cache"] == ["0.0%", "0.0%"]  # LocMemCache
    assert numbers["wrong rows"] == ["0", "0"]
    assert [*measured(run, "costs")] == [
        "a hit: the row is in the cache",
        "a miss: the row is not in it",
        "save() of a cached row",
    ]
    verdict = run["verdict"]
    assert re.fullmatch(
        r"The first import: row by row \d+\.\d\d x as many rows per second as plain "
        r"Django\.",
        verdict["lead"],
    )
    assert run["status"] == verdict["lead"]
    assert verdict["columns"] == ["row by row"]
    assert all(
        re.fullmatch(r"\d+\.\d+ x", ratio) and is_slower == (ratio < "1")
        for _, ((ratio, is_slower),) in verdict["ratios"]
    )
    assert (
        f"First import: 0 savepoint statements instead of {2 * (written - 983):,}. "
        f"Only {hits:,} of {calls:,} calls were answered by the cache, because a "
        "transaction that has inserted a row has no hits."
    ) in verdict["sentences"]
    for contender in run["contenders"]:
        assert contender["text"] == "1,958 of 1,958 read"
        seconds, rows = zip(*contender["points"], strict=True)
        assert sorted(seconds) == list(seconds)
        assert rows[-1] == written
        assert 2 < len(rows) <= 201
    page = text(client.get("/"))
    assert "Both imports are equal, row by row: 7 continents, 252 countries" in page
    assert "No contender wrote a row, and the tables are still equal." in page
    assert "equal again, row by row: 100 of 1,000 cities have changed." in page
    for title in (
        "Act 1: the first import",
        "Act 2: the same feed again, every row is known",
        "Act 2, once more: a tenth of the cities has changed",
        "Act 3: 400 lookups by four processes while one process writes",
        "What helps and what costs: microseconds of one call",
    ):
        assert title in page
    assert "LocMemCache belongs to one process" in page
    assert "Import again" in page
    assert 'value="1,000"' in client.get("/").content.decode()

    # The only way to see it, because no import differs.
    runs.current.done["differences"] = ["City geonameid=1: only in plain Django"]
    page = text(client.get("/"))
    assert "The imports differ." in page
    assert "City geonameid=1: only in plain Django" in page
    assert "are equal" not in page


def test_batches_are_a_third_column_and_first_in_the_verdict(client, runs):
    start_run(runs, in_bulk=True)
    run = wait_for_state(client, "done")
    numbers = measured(run, "first")
    assert numbers["rows written"] == ["350"] * 3
    assert numbers["get_or_create() calls"] == ["654", "654", "-"]
    assert run["verdict"]["columns"] == ["in batches", "row by row"]
    assert run["verdict"]["lead"].startswith("The first import: in batches ")
    assert measured(run, "changed")["rows updated"] == ["272", "272", "2"]
    first, same, changed = (act["equality"] for act in run["acts"][:3])
    assert first.startswith("All imports are equal, row by row: ")
    assert same == "No contender wrote a row, and the tables are still equal."
    assert changed.startswith("All imports are equal again, row by row: 2 of 20 ")


def test_batches_are_on_by_default(client):
    assert re.search(
        'name="in_bulk" value="on" checked', client.get("/").content.decode()
    )


def test_form_starts_the_run_that_was_chosen(client, runs, monkeypatch):
    monkeypatch.setenv("CACHE_URL", "dummycache://")
    started = []
    monkeypatch.setattr(runs, "start", lambda *order: started.append(order))
    order = ORDER | {"cities": "2000", "cache": "given", "in_bulk": "on"}
    response = client.post("/", order)
    # The browser moves the focus to the title of the run.
    assert (response.status_code, response.url) == (302, "/#run-title")
    ((order, title, chosen),) = started
    assert order == {
        "cities": 2000,
        "database": None,
        "new": False,
        "cache": "dummycache://",
        "in_bulk": True,
        "lookups": 10_000,
    }
    assert title == "2,000 cities on SQLite and DummyCache"
    assert chosen["cache"] == "given"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://127.0.0.1:6379/1", "Redis"),
        ("rediss://cache.example:6379/1", "Redis"),
        ("pymemcache://127.0.0.1:11211", "memcached"),
        ("postgresql://user@127.0.0.1/name", "PostgreSQL"),
        ("mysql://user@127.0.0.1/name", "MariaDB or MySQL"),
        ("sqlite:///file.sqlite3", "SQLite"),
        ("nonsense", "CACHE_URL"),
    ],
)
def test_given_service_has_the_name_of_its_kind_in_the_title(runs, url, name):
    from web import choices

    assert choices.given("CACHE_URL", url).name == name


def test_missing_driver_is_a_hint_with_the_right_command(client, monkeypatch):
    from gazetteer import services
    from web import choices

    def answering(url, timeout):
        if url == choices.POSTGRESQL:
            raise services.NoDriver("postgresql")
        raise services.Unusable("does not answer: connection refused")

    monkeypatch.setattr(services, "answering_database", answering)
    response = client.get("/")
    command = installing.pip_install("postgresql")
    assert (
        "PostgreSQL driver not installed a new database at postgres@127.0.0.1:5432 "
        f"To use it, run this and start the server again: {command}"
    ) in text(response)
    assert "MariaDB or MySQL not found here a new database" in text(response)
    # Red is for services that were asked for.
    assert 'class="badge bad"' not in response.content.decode()
    response = client.post("/", ORDER | {"database": "postgresql"})
    assert f"PostgreSQL needs a driver. Run: {command}. Choose another." in text(
        response
    )


def test_lookup_shows_warm_and_cold_calls_side_by_side(client, runs):
    start_run(runs, cities=300)
    wait_for_state(client, "done")

    def look_up(kind, name):
        response = client.get("/lookup", {"model": kind, "name": name})
        assert response.status_code == 200
        return text(response)

    times = r"median of 100 calls ([0-9,]+) µs ([0-9,]+) µs"
    first, second = look_up("city", "Paris"), look_up("city", "Paris")
    for page in (first, second):
        assert "City.objects.get_or_create(name='Paris')" in page
        assert re.search(
            r"Warm, getorcreateplus takes \d\.\d\d of plain Django's time\. Cold, it "
            r"takes \d\.\d\d of it\.",
            page,
        )
        # Warm first, and the median of as many calls as cold.
        assert re.search(
            f"warm: the row is in the cache {times} cold: invalidate\\(\\) before each "
            f"call, not timed {times} queries, warm and cold 1, 1 0, 1 cache commands, "
            "warm and cold 0, 0 1, [1-9]",
            page,
        )
        assert "What a warm call sends, in order cache get_many: 3 entries" in page
        assert re.search("What a cold call sends, in order .*query SELECT", page)
        assert "population 2,138,551" in page
    assert "outcome miss (no hint) why " in first
    assert "outcome hit (cache) why " in second
    # Within its local_timeout.
    assert "Nothing: this process has the row in its memory" in look_up("country", "fr")
    region = look_up("region", "FR-11")
    assert "fr.regions.get_or_create(code='11')" in region
    assert "country France imported cities" in region
    assert "name The Netherlands code NL" in look_up("country", "The Netherlands")
    assert "name Paris region FR-11" in look_up("city", "2988507")

    several = look_up("region", "23")
    assert "5 rows have this name" in several
    assert "23, China" in several
    for _ in range(2):  # a typo has created nothing
        assert "No such row No city named Pariss was imported" in look_up(
            "city", "Pariss"
        )
    assert "Similar names: Paris, FR-11, France" in look_up("city", "Pari")
    for kind, name in [("region", "FR-"), ("region", "-"), ("city", "9" * 30)]:
        assert "No such row" in look_up(kind, name)


def test_stopped_import_leaves_nothing_behind(client, runs, tmp_path):
    client.post("/", ORDER | {"cities": "34006"})
    wait_for_state(client, "importing")
    assert list(tmp_path.glob("*/sandbox.sqlite3"))
    assert client.post("/stop").status_code == 302
    run = wait_for_state(client, "stopped")
    assert run["status"] == "Stopped. Nothing is left of this import."
    runs.current.ended.join(SECONDS)
    assert runs.current.process.returncode == 0
    assert list(tmp_path.iterdir()) == []
    assert client.get("/lookup?model=city&name=Paris").status_code == 409


def test_stopped_before_it_began(client, runs, tmp_path):
    client.post("/", ORDER)
    client.post("/stop")
    wait_for_state(client, "stopped")
    runs.current.ended.join(SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_second_import_has_to_wait(client, runs):
    client.post("/", ORDER | {"cities": "34006"})
    first = runs.current
    response = client.post("/", ORDER)
    assert response.status_code == 409
    assert (
        "Another import is going on: 34,006 cities on SQLite and LocMemCache. Wait "
        "until it is done, or stop it." in text(response)
    )
    assert runs.current is first
    response = client.get("/lookup", {"model": "city", "name": "Paris"})
    assert response.status_code == 409
    assert "The import is still going on" in text(response)


def test_next_import_removes_what_the_last_one_left(client, runs, tmp_path):
    start_run(runs)
    wait_for_state(client, "done")
    first = runs.current
    (directory,) = tmp_path.iterdir()
    client.post("/", ORDER | {"cities": "34006"})
    assert first.process.returncode == 0
    assert not directory.exists()


def test_import_that_dies_is_told(client, runs):
    client.post("/", ORDER | {"cities": "34006"})
    wait_for_state(client, "importing")
    runs.current.process.kill()
    run = wait_for_state(client, "failed")
    assert run["status"] == "The process of the import has ended: no reason given"
    assert "The import failed. The process" in text(client.get("/"))


def test_stopped_lookups_leave_nothing_behind(client, runs, tmp_path):
    start_run(runs, lookups=100_000_000)
    wait_for_state(client, "lookups")
    runs.stop()
    wait_for_state(client, "stopped")
    runs.current.ended.join(SECONDS)
    assert runs.current.process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_processes_of_the_lookups_end_with_a_worker_that_dies(client, runs):
    """They have its output, too, and the server reads that to its end."""
    start_run(runs, lookups=100_000_000)
    for _ in range(SECONDS * 10):
        run = wait_for_state(client, "lookups")
        if measured(run, "lookups"):  # they are at work
            break
        time.sleep(0.1)
    runs.current.process.kill()
    wait_for_state(client, "failed")
    runs.current.ended.join(SECONDS)
    assert not runs.current.ended.is_alive()


@pytest.mark.parametrize("rest", ["", '{"model": "ci'])
def test_worker_ends_with_its_server(runs, tmp_path, rest):
    """The end of the server ends the input of the worker."""
    worker = subprocess.Popen(
        [sys.executable, "-W", "error", SANDBOX / "manage.py", "worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    order = {"cities": 34006, "database": None, "new": False, "in_bulk": False}
    order |= {"cache": "locmemcache://", "lookups": 0}
    worker.stdin.write(json.dumps(order) + "\n")
    worker.stdin.flush()
    assert json.loads(worker.stdout.readline())["event"] == "start"
    output, errors = worker.communicate(rest, timeout=SECONDS)
    assert errors == ""
    assert json.loads(output.splitlines()[-1]) == {"event": "stopped"}
    assert worker.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(
            (
                "cities",
                value,
                f"Enter a whole number of cities from 1,000 to 234,908, not {value!r}.",
            )
            for value in ("", "999", "234909", "many", "1e3")
        ),
        (
            "database",
            "oracle",
            "'oracle' is not one of the choices. Choose one of: sqlite, postgresql, "
            "mysql.",
        ),
        (
            "cache",
            "",
            "'' is not one of the choices. Choose one of: locmem, redis, memcached.",
        ),
    ],
)
def test_bad_input_is_named_with_its_remedy(client, runs, name, value, message):
    response = client.post("/", ORDER | {name: value})
    assert response.status_code == 400
    assert f"The import was not started. {message}" in text(response)
    assert f'<a href="#{name}">' in response.content.decode()
    assert runs.current is None


def test_service_that_does_not_answer_says_why(client, monkeypatch):
    url = "sqlite:///no/such/directory/file.sqlite3"
    monkeypatch.setenv("DATABASE_URL", url)
    problem = "DATABASE_URL does not answer: unable to open database file"
    page = client.get("/")
    assert f"DATABASE_URL ✗ not usable {url} {problem}" in text(page)
    response = client.post("/", ORDER | {"database": "given"})
    assert response.status_code == 400
    assert f"{problem}. Choose another." in text(response)


def test_url_of_no_known_service_says_what_is_one(client, monkeypatch):
    monkeypatch.setenv("CACHE_URL", "dbcache://table")
    response = client.post("/", ORDER | {"cache": "given"})
    assert response.status_code == 400
    assert (
        "CACHE_URL is not the URL of a cache that the demo knows. Use locmemcache://, "
        "redis://host:6379/0, pymemcache://host:11211 or dummycache://. Choose another."
    ) in text(response)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:secret@127.0.0.1:1/0?password=secret", "redis://me@127.0.0.1:1/0"),
        ("redis://127.0.0.1:1/0?password=secret", "redis://127.0.0.1:1/0"),
        # Not quoted, as they should be.
        ("redis://me:secret/@127.0.0.1:1/0", "redis://me@127.0.0.1:1/0"),
        ("redis://me:secret?@127.0.0.1:1/0", "redis://me"),
    ],
)
def test_password_of_a_service_is_not_shown(client, monkeypatch, url, shown):
    monkeypatch.setenv("CACHE_URL", url)
    page = client.get("/").content.decode()
    assert f"<small>{shown}</small>" in page
    assert "secret" not in page


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("model=shop&name=x", "The sandbox has no model 'shop'. Choose country"),
        ("model=city&name=", "Enter a name, such as Paris for a city."),
        ("model=city&name=%00", "Null characters are not allowed."),
        ("name=Paris", "The sandbox has no model ''."),
    ],
)
def test_bad_lookup_is_named_with_its_remedy(client, query, message):
    response = client.get(f"/lookup?{query}")
    assert response.status_code == 400
    assert message in text(response)


def test_lookup_without_an_import(client):
    response = client.get("/lookup")
    assert response.status_code == 200
    assert "There are no rows to look up. Import some first." in text(response)
    assert client.get("/lookup?model=city&name=Paris").status_code == 409
    assert client.get("/progress").json() == {"state": "none"}


def test_form_of_another_site_is_not_accepted(runs):
    client = Client(enforce_csrf_checks=True, SERVER_NAME="localhost")
    for path in ("/", "/stop"):
        response = client.post(path, ORDER)
        assert response.status_code == 403
        assert "The form was not accepted" in text(response)
    assert runs.current is None


@pytest.mark.parametrize("path", ["/", "/progress", "/lookup"])
def test_other_hosts_are_refused(client, path):
    assert client.get(path, headers={"host": "elsewhere.example"}).status_code == 400


def test_stop_is_no_link(client):
    assert client.get("/stop").status_code == 405


@pytest.fixture
def url(db):
    """Return the URL of the database of this test run."""
    config = connection.settings_dict
    user = f"{config['USER']}:{config['PASSWORD']}".rstrip(":")
    host = f"{config['HOST']}:{config['PORT']}".rstrip(":")
    return f"{connection.vendor}://{user}@{host}/{config['NAME']}"


def sandbox_tables():
    names = connection.introspection.table_names()
    return {name for name in names if name.startswith("sandbox_")}


@pytest.mark.database("postgresql", "mysql")
def test_tables_in_a_given_database_go_with_the_run(client, runs, url):
    # The demo of another test may have left tables, batches and all.
    start_run(runs, database=url, in_bulk=True)
    run = wait_for_state(client, "done")
    assert run["start"]["database"] == connection.display_name
    assert "sandbox_plain_city" in sandbox_tables()
    runs.end()
    assert sandbox_tables() == set()


@pytest.mark.database("postgresql", "mysql")
def test_database_made_for_a_run_goes_with_it(client, runs, url):
    sql = {
        "postgresql": "SELECT datname FROM pg_database",
        "mysql": "SHOW DATABASES",
    }[connection.vendor]

    def databases():
        with connection.cursor() as cursor:
            cursor.execute(sql)
            names = {name for (name,) in cursor.fetchall()}
        return {name for name in names if name.startswith("getorcreateplus_sandbox_")}

    before, tables = databases(), sandbox_tables()
    start_run(runs, database=url, new=True)
    wait_for_state(client, "done")
    assert len(databases() - before) == 1
    assert sandbox_tables() == tables
    runs.end()
    assert databases() - before == set()


def test_runserver_serves_all_of_it(tmp_path):
    environment = {name: v for name, v in os.environ.items() if name != "DATABASE_URL"}
    database = SANDBOX / "sandbox.sqlite3"
    had_database = database.exists()
    with subprocess.Popen(
        [
            *(sys.executable, "-W", "error", SANDBOX / "manage.py", "runserver"),
            *("127.0.0.1:0", "--noreload", "--database", "oracle://host/name"),
        ],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = []
            while not lines or "server at http" not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr.read()
            address = re.search(r"http://\S+", lines[-1])[0]

            def get(path):
                with urlopen(address + path, timeout=SECONDS) as response:
                    return response.read().decode()

            page = unescape(get(""))
            assert "DATABASE_URL is not the URL of a database" in page
            for name in re.findall(r'(?:src|href)="/(static/[^"]+)"', page):
                assert get(name)
            assert json.loads(get("progress")) == {"state": "none"}
            with pytest.raises(HTTPError, match="404"):
                get("nothing")
        finally:
            process.terminate()
        log = process.stderr.read()
    assert '"GET / HTTP/1.1" 200' in log
    assert "/progress" not in log  # all the time, while it shows a run
    assert database.exists() == had_database
