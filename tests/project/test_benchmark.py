"""
The benchmark runs as users run it, in its own process, from a directory
outside the checkout.
"""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from django.db import connection

from sandbox.benchmarks.worker import measure

from ..support.repository import ROOT

BENCHMARK = ROOT / "sandbox" / "benchmark.py"
SVG = "{http://www.w3.org/2000/svg}"

pytestmark = pytest.mark.slow


@pytest.fixture
def benchmark(tmp_path):
    """Run it without the packages that it compares."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("cacheops", "cachalot", "peewee", "sqlalchemy"):
        (hidden / f"{name}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{name}'\")"
        )
    path = os.pathsep.join([str(hidden), str(ROOT)])

    def run(*arguments, options=("-W", "error")):
        return subprocess.run(
            [sys.executable, *options, str(BENCHMARK), *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )

    return run


def sections(output):
    """Return {title: {contender: cells}} of the printed table."""
    _, _, body, _ = re.split(r"^=[= ]+$", output, flags=re.MULTILINE)
    title, found = "", {}
    for line in body.strip().splitlines():
        label, *cells = re.split(r"  +", line)
        if cells:
            found[title][label] = cells
        elif set(line) != {"-"}:
            title = label
            found[title] = {}
    return found


def number(text):
    """Return the number that a cell begins with."""
    return float(text.split(" ")[0].replace(",", ""))


def test_quick_run_shows_each_case_with_its_counts(benchmark, tmp_path):
    result = benchmark(
        *("--quick", "--rounds", "1", "--seed", "7", "--svg", "picture.svg", "--only"),
        *("plain", "by-hand", "nonatomic", "plus", "plus-get", "local"),
        *("floor", "floor-locmem", "cacheops", "cachalot", "peewee", "sqlalchemy"),
    )
    assert result.stderr == ""
    assert result.returncode == 0
    *left_out, table = result.stdout.split("\n", 4)
    install = "Run: python -m pip install -e '.[benchmark]'"
    assert left_out == [
        f"cachalot is left out: No module named 'cachalot'. {install}",
        f"cacheops is left out: No module named 'cacheops'. {install}",
        f"peewee is left out: No module named 'peewee'. {install}",
        f"sqlalchemy is left out: No module named 'sqlalchemy'. {install}",
    ]
    found = sections(table)
    hits = found["get_or_create() of a cached row"]
    assert {label: cells[2:4] for label, cells in hits.items()} == {
        "plain Django": ["1", "0"],
        "NonAtomicManager": ["1", "0"],
        "PlusManager": ["0", "1"],
        "PlusManager, get()": ["0", "1"],
        "local_timeout = 60": ["0", "0"],
        "one-step floor": ["0", "1"],
        "floor on LocMemCache": ["0", "1"],
    }
    # With one round, the ratio is that of the medians.
    plus, plain, floor = (
        number(hits[label][0])
        for label in ("PlusManager", "plain Django", "one-step floor")
    )
    *_, to_plain, to_floor = hits["PlusManager"]
    # Within the precision of the printed digits.
    assert number(to_plain) == pytest.approx(plus / plain, abs=0.02, rel=0.02)
    assert number(to_floor) == pytest.approx(plus / floor, abs=0.02, rel=0.02)
    assert to_floor.endswith(" one-step floor")
    queries = {
        title: {label: number(cells[2]) for label, cells in section.items()}
        for title, section in found.items()
        if section is not hits
    }
    assert queries == {
        "get_or_create() of a row that is not cached": {
            "plain Django": 1,
            "NonAtomicManager": 1,
            "PlusManager": 1,
        },
        "get_or_create() of a row in the database, no cache": {
            "plain Django": 1,
            "NonAtomicManager": 1,
        },
        "get() of a row in the database, no cache": {
            "plain Django": 1,
            "NonAtomicManager": 1,
        },
        "get_or_create() creates, 50 rows in a transaction": {
            "plain Django": 4,
            "get(), create() by hand": 2,
            "NonAtomicManager": 2,
            "PlusManager": 2,
        },
        "get_or_create() creates, in autocommit": {
            "plain Django": 2,
            "get(), create() by hand": 2,
            "NonAtomicManager": 2,
            "PlusManager": 2,
        },
        "update_or_create() of a row that exists": {
            "plain Django": 2,
            "NonAtomicManager": 2,
            "PlusManager": 2,
        },
        "update_or_create() of a row that exists, 50 rows in a transaction": {
            "plain Django": 4,
            "NonAtomicManager": 2,
            "PlusManager": 2,
        },
        "save() of a cached row": {
            "plain Django": 1,
            "NonAtomicManager": 1,
            "PlusManager": 1,
        },
        "save() of a cached row, 50 rows in a transaction": {
            "plain Django": 1,
            "NonAtomicManager": 1,
            "PlusManager": 1,
        },
        "update() of 10,000 rows": {
            "plain Django": 1,
            "NonAtomicManager": 1,
            "PlusManager": 1,
        },
    }
    assert re.search(
        r"Python \S+, Django \S+, getorcreateplus \S+; SQLite \S+, LocMemCache; "
        r"\d+ CPUs; rounds: 1, seed: 7\n\Z",
        table,
    )
    picture = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert picture.tag == f"{SVG}svg"
    texts = [each.text for each in picture.iter(f"{SVG}text")]
    rows = sum(map(len, found.values()))
    assert len(picture.findall(f"{SVG}rect")) == rows
    for title, section in found.items():
        assert title in texts
        assert set(section) <= set(texts)


def test_async_calls(benchmark):
    result = benchmark(
        *("--rounds", "1", "--only", "async-hit", "plain", "plus", "local")
    )
    assert result.stderr == ""
    found = sections(
        result.stdout.partition("==")[1] + result.stdout.partition("==")[2]
    )
    hits = found["aget_or_create() of a cached row"]
    assert hits["plain Django"][2:4] == ["1", "0"]
    assert hits["PlusManager"][2:4] == ["0", "1"]
    assert hits["local_timeout = 60"][2:4] == ["0", "0"]


def test_batches(benchmark):
    result = benchmark(
        *("--rounds", "1", "--only", "bulk", "bulk-hit"),
        *("bulk-by-hand", "nonatomic", "plus", "local"),
    )
    assert result.stderr == ""
    found = sections(
        result.stdout.partition("==")[1] + result.stdout.partition("==")[2]
    )
    batches = found["10,000 rows in a transaction, half of them there"]
    by_hand, nonatomic, plus = (
        [number(cell) for cell in batches[label][2:4]]
        for label in (
            "bulk_create(ignore_conflicts=True)",
            "NonAtomicManager",
            "PlusManager",
        )
    )
    assert nonatomic == [plus[0], 0]
    assert nonatomic[0] < by_hand[0]
    assert plus[1] <= 25
    hits = found["10,000 cached rows, plain: in_bulk()"]
    assert hits["PlusManager"][2:4] == ["0", "10"]
    assert hits["local_timeout = 60"][2:4] == ["0", "0"]


def test_batches_that_update(benchmark):
    result = benchmark(
        *("--rounds", "1", "--only", "bulk-update", "bulk-changed"),
        *("updates-by-hand", "nonatomic", "cached-nonatomic"),
    )
    assert result.stderr == ""
    found = sections(
        result.stdout.partition("==")[1] + result.stdout.partition("==")[2]
    )
    updates = found["update or create 10,000 rows in a transaction, half of them there"]
    by_hand, nonatomic, cached = (
        [number(cell) for cell in updates[label][2:4]]
        for label in (
            "bulk_create(), bulk_update()",
            "NonAtomicManager",
            "CachedNonAtomicManager",
        )
    )
    assert nonatomic[0] < by_hand[0]
    assert nonatomic[1] == 0
    assert cached[0] == nonatomic[0]
    assert cached[1] <= 30
    again = found["the same 10,000 rows again, with a tenth of them changed"]
    assert number(again["CachedNonAtomicManager"][2]) < 10


def test_package_that_fails_is_left_out(benchmark, tmp_path):
    """One needs another cache, and one always answers with the last row."""
    (tmp_path / "hidden" / "cacheops.py").write_text("")
    (tmp_path / "hidden" / "cachalot.py").write_text(
        "from django.db.models import QuerySet\n"
        "QuerySet.get_or_create = lambda self, **kwargs: (self.last(), False)\n"
    )
    result = benchmark("--only", "hit", "cacheops", "cachalot")
    first, second = result.stdout.splitlines()
    assert first == "cacheops is left out: It needs --cache redis://host:6379/0."
    assert re.match(
        r"cachalot is left out of hit: WrongAnswer: \{'pk': 1000, 'name': 'row-999', .*"
        r"\}, False instead of \{'pk': \d+, 'name': 'row-\d+', ",
        second,
    )
    assert (result.returncode, result.stderr) == (
        1,
        "benchmark.py: error: There is nothing left to measure.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "argument --rounds: '0' is not a number from 1"),
        (["--rounds", "many"], "argument --rounds: 'many' is not a number from 1"),
        (["--latency", "0"], "argument --latency: '0' is not a number above 0"),
        (["--cache-latency", "inf"], "argument --cache-latency: 'inf' is not a number"),
        (["--database-latency", "x"], "argument --database-latency: 'x' is not a numb"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--only", "hits"], "argument --only: invalid choice: 'hits'"),
        (["--svg", "no/such/file.svg"], "argument --svg: [Errno 2] No such file"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_option(benchmark, arguments, message):
    result = benchmark(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"benchmark.py: error: {message}" in result.stderr


@pytest.mark.parametrize(
    ("option", "url", "message"),
    [
        ("--database", "oracle://host/name", "is not the URL of a database that the "),
        ("--database", "sqlite:///no/such/file", "does not answer: unable to open"),
        ("--cache", "nonsense", "is not the URL of a cache that the benchmark knows."),
        ("--cache", "dummycache://", "keeps nothing that could be a hit."),
    ],
)
def test_bad_url(benchmark, option, url, message):
    result = benchmark(f"{option}={url}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(
        f"benchmark.py: error: {option} {url!r} {message}"
    ), result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--latency", "1"],
            "--latency 1 cannot delay SQLite, which is a file. Use --database "
            "postgresql://user:password@host:5432/name, or --cache-latency alone.",
        ),
        (
            ["--database-latency", "0.5", "--cache-latency", "2"],
            "--database-latency 0.5 cannot delay SQLite, which is a file. Use "
            "--database postgresql://user:password@host:5432/name, or --cache-latency "
            "alone.",
        ),
        (
            ["--cache-latency", "2.0"],
            "--cache-latency 2 cannot delay LocMemCache, which is in the memory of a "
            "process. Use --cache redis://host:6379/0, or --database-latency alone.",
        ),
    ],
)
def test_what_is_no_server_cannot_be_delayed(benchmark, arguments, message):
    result = benchmark(*arguments)
    assert (result.returncode, result.stdout, result.stderr) == (
        *(1, ""),
        f"benchmark.py: error: {message}\n",
    )


@pytest.mark.database("postgresql", "mysql")
@pytest.mark.shared_cache
@pytest.mark.parametrize(
    ("arguments", "delayed"),
    [
        (["--latency", "1", "--cache-latency", "2"], {"database": 1, "cache": 2}),
        (["--database-latency", "2"], {"database": 2}),
    ],
)
def test_servers_that_are_further_away(benchmark, services, arguments, delayed):
    """Plain Django waits for the database, and a hit only for the cache."""
    names = ["hit", "miss", "plain", "plus"]
    result = benchmark("--rounds", "1", *services, *arguments, "--only", *names)
    assert (result.returncode, result.stderr) == (0, "")
    header, _, table = result.stdout.partition("\n=")
    lines = header.splitlines()
    assert len(lines) == len(delayed)
    for line, (name, milliseconds) in zip(lines, delayed.items(), strict=True):
        beginning = f"The {name} is {milliseconds} ms away in each direction: a round"
        longer = re.fullmatch(rf"{beginning} trip takes (\S+) ms longer\.", line)[1]
        assert 1.9 * milliseconds < float(longer) < 20 * milliseconds
        assert f", {name} {milliseconds} ms away" in table
    hits = sections(f"={table}")["get_or_create() of a cached row"]
    for label, name in [("plain Django", "database"), ("PlusManager", "cache")]:
        milliseconds = number(hits[label][0]) / 1000
        assert milliseconds >= 2 * delayed.get(name, 0)
    verdict = r"the cache (never pays|pays above \d+ % of hits)"
    assert re.search(
        rf"^PlusManager: hit \S+, miss \S+; {verdict}$", table, re.MULTILINE
    )


@pytest.mark.database("postgresql", "mysql")
@pytest.mark.shared_cache
def test_mixes_of_several_processes(benchmark, services):
    names = ["mix-50", "mix-100", "plain", "plus"]
    result = benchmark("--rounds", "2", *services, "--only", *names)
    assert (result.returncode, result.stderr) == (0, "")
    half, reads = sections(result.stdout).values()
    assert {*half} == {*reads} == {"plain Django", "PlusManager"}
    assert reads["plain Django"][2:4] == ["1", "0"]
    assert number(reads["PlusManager"][2]) < 0.1
    # A get() and an UPDATE instead of a SELECT.
    assert number(half["plain Django"][2]) == pytest.approx(1.5, abs=0.2)
    assert all(number(cells[0]) > 0 for cells in (*half.values(), *reads.values()))


def test_other_orms_find_the_same_rows(benchmark, services, tmp_path):
    for name in ("peewee", "sqlalchemy"):
        (tmp_path / "hidden" / f"{name}.py").unlink()
    if connection.vendor == "sqlite":
        services = []
    names = ["existing", "get", "sqlalchemy", "sqlalchemy-core", "peewee", "select"]
    result = benchmark("--rounds", "1", *services, "--only", *names, options=())
    assert (result.returncode, result.stderr) == (0, "")
    labels = {"SQLAlchemy, ORM", "SQLAlchemy, Core", "peewee", "one SELECT, from_db()"}
    for section in sections(result.stdout).values():
        assert {*section} == labels


def test_mixes_need_services_that_processes_share(benchmark):
    result = benchmark("--rounds", "1", "--only", "mix-50", "hit", "plain")
    assert (result.returncode, result.stderr) == (0, "")
    first, _, table = result.stdout.partition("\n")
    assert first == (
        "mix-50, mix-80, mix-95, mix-100 are left out: several processes need "
        "--database and --cache of a server."
    )
    assert [*sections(table)] == ["get_or_create() of a cached row"]


def test_missing_requirements_are_named(benchmark):
    """Without site-packages there is only this package."""
    result = benchmark("--quick", options=["-S"])
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        "The benchmark needs django, environ, not installed here. "
        "Run: python -m pip install -e '.[benchmark]'\n",
    )


def test_process_of_others_is_not_measured_with_this_package():
    with pytest.raises(
        AssertionError, match=r"^The process of plain has imported getorcreateplus\.$"
    ):
        measure("plain", {}, "hit", "plain", seed=1, counts=False)
