"""
Django's own tests, with the querysets of this package under its models.

Two names turn it into a project that has only this package's managers:
``models.Manager`` and ``models.QuerySet``. They are replaced before any model
is defined, so the managers that Django adds, those that the tests declare, and
the managers and querysets that they and Django's apps derive, are this
package's. Base managers stay Django's, as they would in that project, and
nothing else is changed: neither Django's code nor a test.

A test that fails is either listed in django_suite_exclusions.toml, with the
sentence of docs/contract.rst that it contradicts, or a bug. A listed test has
to fail. Otherwise the list is out of date, and that fails the run, too.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import unittest
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import django
from django.test.runner import DiscoverRunner
from django.test.utils import iter_test_cases

from .support.repository import ROOT

QUERYSETS = [
    "QuerySet",  # Django's own classes, to see which tests fail without this package
    "CachedQuerySet",
    "NonAtomicQuerySet",
    "AlwaysQuerySet",
    "PlusQuerySet",
]
# The part of Django's tests about creating, transactions and locking ...
WRITING = [
    "async",
    "bulk_create",
    "get_or_create",
    "many_to_many",
    "many_to_one",
    "multiple_database",
    "one_to_one",
    "select_for_update",
    "transaction_hooks",
    "transactions",
    "update",
]
# ... and about everything else that uses managers, or writes rows.
MODULES = [
    *WRITING,
    "admin_views",
    "auth_tests",
    "basic",
    "composite_pk",
    "constraints",
    "contenttypes_tests",
    "custom_managers",
    "custom_pk",
    "defer",
    "delete",
    "fixtures",
    "generic_relations",
    "m2m_through",
    "model_forms",
    "model_inheritance",
    "prefetch_related",
    "proxy_models",
    "serializers",
    "sessions_tests",
    "signals",
    "sites_tests",
]
# The minimum number of compiled SELECTs that a module runs, on each database
# and with each class. A run without them would show nothing about them.
MIN_COMPILED = {
    "async": 30,
    "get_or_create": 40,
    "multiple_database": 25,
    "one_to_one": 10,
}


def main(args=None):
    options = parse(args)
    with source(options) as directory:
        tests = directory / "tests"
        command = [sys.executable, "runtests.py", "--noinput"]
        command += ["--settings", "tests.django_suite_settings"]
        command += ["--parallel", str(options.parallel), *options.labels]
        return subprocess.run(
            command,
            cwd=tests,
            env=environment(options),
            stdin=subprocess.DEVNULL,  # no prompt
            check=False,
        ).returncode


def parse(args):
    parser = argparse.ArgumentParser(
        prog="python -m tests.django_suite",
        description="Run the tests of the installed Django on this package's "
        "querysets. Exit with 1 when another test fails than those that are listed, "
        "or one of those does not.",
    )
    add = parser.add_argument
    add("--queryset", choices=QUERYSETS, default="PlusQuerySet", help="(PlusQuerySet)")
    add("--database", metavar="URL", help="instead of DATABASE_URL, or SQLite")
    add("--cache", metavar="URL", help="instead of CACHE_URL, or LocMemCache")
    add("--parallel", metavar="N", type=int, default=1, help="processes (1)")
    add(
        "--source",
        metavar="DIRECTORY",
        type=Path,
        help="an unpacked sdist of the installed Django",
    )
    add(
        "--download",
        metavar="DIRECTORY",
        type=Path,
        help="where to keep Django's sdist (otherwise it is downloaded each time)",
    )
    add(
        "--exclusions",
        metavar="FILE",
        type=Path,
        default=Path(__file__).with_name("django_suite_exclusions.toml"),
        help="the list of tests that have to fail (that beside this module)",
    )
    add(
        "labels",
        nargs="*",
        help="modules of Django's tests, or parts of them; 'writing' is all about "
        f"creating, transactions and locking ({' '.join(MODULES)})",
    )
    options = parser.parse_args(args)
    if options.labels == ["writing"]:
        options.labels = WRITING
    options.labels = options.labels or MODULES
    return options


@contextmanager
def source(options):
    """Unpack the sdist of the installed Django, which has its tests."""
    if options.source:
        yield options.source.resolve()
        return
    version = django.get_version()
    with tempfile.TemporaryDirectory() as temporary:
        archive = f"django-{version}.tar.gz"
        downloads = options.download or Path(temporary)
        if not (downloads / archive).exists():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", ":all:", f"Django=={version}"]
            subprocess.run([*command, "--dest", downloads], check=True)
        with tarfile.open(downloads / archive) as tar:
            tar.extractall(temporary, filter="data")
        yield Path(temporary) / f"django-{version}"


def environment(options):
    # Django's tests do not count for the coverage of a run of pytest.
    env = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    env["PYTHONPATH"] = str(ROOT)
    env["PYTHONUNBUFFERED"] = "1"  # unittest writes to stderr
    env["DJANGO_SUITE_QUERYSET"] = options.queryset
    env["DJANGO_SUITE_EXCLUSIONS"] = str(options.exclusions.resolve())
    urls = {"DATABASE_URL": options.database, "CACHE_URL": options.cache}
    return env | {name: url for name, url in urls.items() if url}


# In the process of Django's runtests.py


def install(name):
    """Make new models get the manager of a queryset class."""
    if name == "QuerySet":
        return
    from django.core.checks.registry import registry
    from django.db import models

    # The settings are being imported here.
    import getorcreateplus
    from getorcreateplus import checks

    manager = getattr(getorcreateplus, name.replace("QuerySet", "Manager"))
    models.QuerySet = getattr(getorcreateplus, name)
    models.Manager = manager
    models.base.Manager = manager  # the manager of a model without a manager
    # Which say, of many a model there, that these managers are not for it.
    for check in (checks.check_caches, checks.check_models):
        registry.registered_checks.discard(check)


def excluded(queryset, vendor, version):
    """
    Return the ids of the tests that may fail, {id: whether they may pass}.
    """
    path = Path(os.environ["DJANGO_SUITE_EXCLUSIONS"])
    return {
        test: exclusion.get("may_pass", False)
        for exclusion in tomllib.loads(path.read_text())["exclusion"]
        if queryset in exclusion["querysets"]
        and vendor in exclusion.get("databases", [vendor])
        and version in exclusion.get("django", [version])
        for test in exclusion["tests"]
    }


def id_of(test):
    return getattr(test, "test_case", test).id()  # of a subtest: its test's


compiled = Counter()  # module of Django's tests: compiled SELECTs


@contextmanager
def count_compiled():
    """
    Run kept SELECTs from the first call on, because Django's tests rarely run
    the same lookup twice. Count them.
    """
    from getorcreateplus.selects import running

    run, rows_by_django = running.run, running.rows_by_django

    def counting(*args):
        compiled[Result.module] += 1
        return run(*args)

    def keeping(queryset, args, kwargs, connection, call=None):
        if call is not None:
            shape, params, *_ = call
            query = running.query_of_get(queryset, args, kwargs, connection)
            running.keep_sql(call, query, connection)
            if select := shape.select:
                rows = running.run(select, connection, tuple(params))
                return connection.alias, select.attnames, rows, select.limit
        return rows_by_django(queryset, args, kwargs, connection)

    with (
        mock.patch.object(running, "run", counting),
        mock.patch.object(running, "rows_by_django", keeping),
    ):
        yield


class Result(unittest.TextTestResult):
    """Separate expected failures."""

    module = None  # of the test that runs

    excluded = {}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.excluded_failures = set()

    def startTest(self, test):  # noqa: N802
        Result.module = test.id().partition(".")[0]
        super().startTest(test)

    def _is_excluded(self, test):
        if id_of(test) not in self.excluded:
            return False
        self.excluded_failures.add(id_of(test))
        return True

    def addError(self, test, err):  # noqa: N802
        if not self._is_excluded(test):
            super().addError(test, err)

    def addFailure(self, test, err):  # noqa: N802
        if not self._is_excluded(test):
            super().addFailure(test, err)

    def addSubTest(self, test, subtest, err):  # noqa: N802
        if err is None or not self._is_excluded(test):
            super().addSubTest(test, subtest, err)


class Runner(DiscoverRunner):
    def get_resultclass(self):
        from django.db import connection

        return type(
            "Result",
            (Result,),
            {
                "excluded": excluded(
                    os.environ["DJANGO_SUITE_QUERYSET"],
                    connection.vendor,
                    ".".join(map(str, django.VERSION[:2])),
                )
            },
        )

    def run_tests(self, test_labels, **kwargs):
        self.labels = test_labels
        return super().run_tests(test_labels, **kwargs)

    def run_suite(self, suite, **kwargs):
        found = {test.id() for test in iter_test_cases(suite)}
        with count_compiled():
            result = super().run_suite(suite, **kwargs)
        wanted = {
            test
            for test, may_pass in result.excluded.items()
            if not (may_pass and test in found)
            and (
                test in found
                # A test that Django no longer has.
                or any(test.startswith(f"{label}.") for label in self.labels)
            )
        }
        self.stale = sorted(wanted - result.excluded_failures)
        return result

    def suite_result(self, suite, result, **kwargs):
        for test in self.stale:
            print(f"STALE EXCLUSION: {test} does not fail.")
        failed = super().suite_result(suite, result, **kwargs)
        print(
            f"{os.environ['DJANGO_SUITE_QUERYSET']}: {result.testsRun} tests, "
            f"{len(result.skipped)} skipped, {len(result.excluded_failures)} failed "
            f"as listed, {failed} failed, {len(self.stale)} stale exclusions."
        )
        return failed + len(self.stale) + (result.testsRun == 0) + self.few_compiled()

    def few_compiled(self):
        """
        Print how many compiled SELECTs each module has run. Return the number
        of modules that have run too few.
        """
        if self.parallel > 1 or os.environ["DJANGO_SUITE_QUERYSET"] == "QuerySet":
            return 0  # The processes count for themselves.
        counts = {label: compiled[label] for label in sorted(compiled)}
        words = ", ".join(f"{label} {count}" for label, count in counts.items())
        print(f"{sum(counts.values())} compiled SELECTs: {words or 'none'}.")
        few = [
            label
            for label in self.labels
            if compiled[label] < MIN_COMPILED.get(label, 0)
        ]
        for label in few:
            print(f"TOO FEW compiled SELECTs in {label}: not {MIN_COMPILED[label]}.")
        return len(few)


if __name__ == "__main__":
    sys.exit(main())
