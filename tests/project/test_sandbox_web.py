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


def start_run(runs, cities=20, database=None, new=False, in_bulk=False):
    """Start an import that is smaller than the page would."""
    order = {"cities": cities, "database": database, "new": new, "in_bulk": in_bulk}
    runs.start(order | {"cache": "locmemcache://"}, "A few cities", ORDER)


def measured(run):
    return {
        row["title"]: [cell["text"] for cell in row["cells"]] for row in run["table"]
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
    assert client.post("/", ORDER).status_code == 302
    run = wait_for_state(client, "done")
    # 2 per country, 1 per time zone, 2 per region, 4 per city, 1 per name.
    calls = 2 * 252 + 180 + 2 * 526 + 4 * 1000 + 983
    written = 7 + 252 + 180 + 526 + 1000 + 2 * 983
    # In transactions of 250 rows: the continents that the first one created
    # itself; and what each of the others looks up before its first INSERT.
    hits = (250 - 7) + 1 + 3 + 4 * 3
    numbers = measured(run)
    del numbers["seconds"], numbers["rows/s"]
    assert numbers == {
        "get_or_create() calls": [f"{calls:,}", f"{calls:,}"],
        "answered by the cache": ["0", f"{hits:,}"],
        "rows written": [f"{written:,}", f"{written:,}"],
        "queries": [f"{calls + written:,}", f"{calls + written - hits:,}"],
        "savepoint statements": [f"{2 * (written - 983):,}", "0"],
    }
    ratio, *verdict = run["verdict"]
    assert re.fullmatch(
        r"getorcreateplus: \d+\.\d\d x as many rows per second as plain Django\.", ratio
    )
    assert verdict == [
        f"{hits:,} of {calls:,} calls were answered by the cache, without a query.",
        f"0 savepoint statements instead of {2 * (written - 983):,}.",
    ]
    for contender in run["contenders"]:
        assert contender["text"] == "1,958 of 1,958 read"
        seconds, rows = zip(*contender["points"], strict=True)
        assert sorted(seconds) == list(seconds)
        assert rows[-1] == written
        assert 2 < len(rows) <= 201
    page = text(client.get("/"))
    assert "Both imports are equal, row by row: 7 continents, 252 countries" in page
    assert "Import again" in page
    assert 'value="1000"' in client.get("/").content.decode()

    # The only way to see it: no import differs.
    runs.current.done["differences"] = ["City geonameid=1: only in plain Django"]
    page = text(client.get("/"))
    assert "The imports differ." in page
    assert "City geonameid=1: only in plain Django" in page
    assert "are equal" not in page


def test_import_in_bulk_is_a_third_column(client, runs):
    start_run(runs, in_bulk=True)
    run = wait_for_state(client, "done")
    numbers = measured(run)
    assert numbers["rows written"] == ["350"] * 3
    assert numbers["get_or_create() calls"] == ["654", "654", "-"]
    assert run["verdict"][1].startswith("in bulk: ")
    assert run["equality"].startswith("All imports are equal")


def test_lookup_is_a_miss_and_then_a_hit(client, runs):
    start_run(runs, cities=300)
    wait_for_state(client, "done")

    def look_up(kind, name):
        response = client.get("/lookup", {"model": kind, "name": name})
        assert response.status_code == 200
        return text(response)

    once = (
        "time a miss is one only once; plain Django: median of 25 (?:[0-9,]+ µs ?){2}"
    )
    median = "time median of 25 calls (?:[0-9,]+ µs ?){2}"
    first, second = look_up("city", "Paris"), look_up("city", "Paris")
    assert "A miss City.objects.get_or_create(name='Paris')" in first
    assert re.search(rf"queries 1 1 cache commands 0 [1-9] {once}", first)
    assert "outcome miss (no hint) why " in first
    assert "A hit City.objects.get_or_create(name='Paris')" in second
    assert "outcome hit (cache) why " in second
    assert re.search(rf"queries 1 0 cache commands 0 1 {median}", second)
    assert "cache get_many: 3 entries in 'city'" in second
    assert "population 2,138,551" in second
    # By what the import has looked it up, within its local_timeout.
    assert re.search("queries 1 0 cache commands 0 [01] ", look_up("country", "fr"))
    region = look_up("region", "FR-11")
    assert "A hit fr.regions.get_or_create(code='11')" in region
    assert "country France imported cities" in region
    assert "name The Netherlands code NL" in look_up("country", "The Netherlands")
    assert "name Paris region FR-11" in look_up("city", "2988507")

    several = look_up("region", "23")
    assert "5 rows have this name" in several
    assert "23, China" in several
    for _ in range(2):  # a typo has created nothing
        assert "No such row No city called Pariss was imported" in look_up(
            "city", "Pariss"
        )
    assert "Similar ones: Paris, FR-11, France" in look_up("city", "Pari")
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
        "An import is going on already: 34,006 cities on SQLite and LocMemCache. One "
        "at a time: wait until it is done, or stop it." in text(response)
    )
    assert runs.current is first
    response = client.get("/lookup", {"model": "city", "name": "Paris"})
    assert response.status_code == 409
    assert "The rows are still being imported" in text(response)


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
    order["cache"] = "locmemcache://"
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
                f"{value!r} is not a number of cities that there are. Enter one from "
                "1,000 to 234,908.",
            )
            for value in ("", "999", "234909", "many")
        ),
        (
            "database",
            "oracle",
            "'oracle' is none of those to choose from: sqlite, postgresql, mysql.",
        ),
        (
            "cache",
            "",
            "'' is none of those to choose from: locmem, redis, memcached.",
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
        ("model=shop&name=x", "'shop' is no model of the sandbox. Choose country"),
        ("model=city&name=", "'' is no name. Enter one, such as Paris for a city."),
        ("model=city&name=%00", "Null characters are not allowed."),
        ("name=Paris", "'' is no model of the sandbox."),
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
    start_run(runs, database=url)
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

    before = databases()
    start_run(runs, database=url, new=True)
    wait_for_state(client, "done")
    assert len(databases() - before) == 1
    assert sandbox_tables() == set()
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
