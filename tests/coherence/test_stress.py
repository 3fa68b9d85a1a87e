"""A few seconds of tests.stress: CI runs it for longer."""

import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.database("postgresql", "mysql"), pytest.mark.slow]


def stress(*args):
    return subprocess.run(
        [sys.executable, "-m", "tests.stress", *args],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_nothing_is_wrong_under_load():
    result = stress("--seconds", "6", "--rows", "3", "--seed", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    found = re.search(
        r"seed 1: (\d+) reads, (\d+) hits .*, (\d+) writes, (\d+) kills, (\d+)"
        r" flushes, (\d+) restarts, \d+ losses of scripts, 0 moves, 0 wrong answers",
        result.stdout,
    )
    assert all(int(number) > 0 for number in found.groups())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--database", "sqlite://"], "PostgreSQL or MariaDB is needed."),
        (["--cache", "redis", "--servers", "3"], "several are for memcached."),
        (["--cache", "redis", "--buckets", "3"], "several are for a cluster."),
    ],
)
def test_arguments_that_make_no_sense(args, message):
    result = stress(*args)
    assert result.returncode == 2
    assert message in result.stderr
