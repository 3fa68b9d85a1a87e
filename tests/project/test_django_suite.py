"""
The program that runs Django's tests, with a small suite instead.

CI runs Django's own tests.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

from .. import django_suite

TESTS = Path(__file__).resolve().parent.parent
EXCLUSIONS = TESTS / "django_suite_exclusions.toml"

SUITE = {
    "test_sqlite.py": """
        SECRET_KEY = "small"
        USE_TZ = False
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        """,
    "runtests.py": """
        import argparse
        import os
        import sys

        import django
        from django.conf import settings
        from django.test.utils import get_runner

        parser = argparse.ArgumentParser()
        parser.add_argument("--noinput", action="store_true")
        parser.add_argument("--parallel", type=int)
        parser.add_argument("--settings")
        parser.add_argument("labels", nargs="+")
        options = parser.parse_args()
        os.environ["DJANGO_SETTINGS_MODULE"] = options.settings
        settings.INSTALLED_APPS = ["small"]
        django.setup()
        runner = get_runner(settings)(interactive=False, parallel=options.parallel)
        sys.exit(bool(runner.run_tests(options.labels)))
        """,
    "small/__init__.py": "",
    "small/models.py": """
        from django.db import models

        class Own(models.QuerySet):
            pass

        class OwnManager(models.Manager):
            pass

        class Tag(models.Model):
            name = models.CharField(max_length=10, unique=True)

        class TagOfQuerySet(Tag):
            objects = Own.as_manager()

        class TagOfBoth(Tag):
            objects = OwnManager.from_queryset(Own)()
        """,
    "small/tests.py": """
        from django.db import models
        from django.test import TestCase

        from .models import Tag, TagOfBoth, TagOfQuerySet

        class SmallTests(TestCase):
            def test_manager(self):
                for model in (Tag, TagOfQuerySet, TagOfBoth):
                    with self.subTest(model.__name__):
                        names = {c.__name__ for c in type(model.objects.all()).mro()}
                        self.assertNotIn("CachedQuerySet", names)

            def test_query(self):
                Tag.objects.get_or_create(name="a")
                with self.assertNumQueries(1):
                    Tag.objects.get_or_create(name="a")

            def test_base_manager(self):
                self.assertIs(
                    type(Tag._base_manager.all()), models.query.QuerySet
                )

            def test_skipped(self):
                self.skipTest("To be counted.")
        """,
}
pytestmark = [
    pytest.mark.database("sqlite"),  # its own database, not that of pytest
    pytest.mark.slow,
]

FAIL = ["small.tests.SmallTests.test_manager", "small.tests.SmallTests.test_query"]


@pytest.fixture
def suite(tmp_path):
    """Run the small suite, with a list of tests that have to fail."""
    for name, text in SUITE.items():
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))

    def run(*args, **exclusion):
        exclusions = tmp_path / "exclusions.toml"
        # JSON's lists and true are TOML's.
        lines = [f"{key} = {json.dumps(value)}" for key, value in exclusion.items()]
        exclusions.write_text("\n".join(["[[exclusion]]", *lines]))
        options = ["--source", tmp_path, "--exclusions", exclusions]
        env = {k: v for k, v in os.environ.items() if not k.endswith("_URL")}
        result = subprocess.run(
            [sys.executable, "-m", "tests.django_suite", *options, *args],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=TESTS.parent,
            env=env,
        )
        return result.returncode, result.stdout, result.stderr

    return run


def small(queryset, **exclusion):
    return {"querysets": [queryset], "tests": FAIL} | exclusion


def test_listed_tests_have_to_fail(suite):
    code, output, errors = suite(
        "--queryset", "CachedQuerySet", "small", **small("CachedQuerySet")
    )
    assert (
        "CachedQuerySet: 4 tests, 1 skipped, 2 failed as listed, 0 failed, 0 stale "
        "exclusions.\n"
    ) in output
    assert code == 0, errors


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"querysets": ["QuerySet", "PlusQuerySet"]},
        {"databases": ["postgresql", "mysql"]},
        {"django": ["1.11"]},
    ],
)
def test_other_tests_must_not_fail(suite, elsewhere):
    code, output, errors = suite(
        "--queryset", "CachedQuerySet", "small", **small("CachedQuerySet", **elsewhere)
    )
    assert (
        # Each of the three models has failed.
        "CachedQuerySet: 4 tests, 1 skipped, 0 failed as listed, 4 failed, 0 stale "
        "exclusions.\n"
    ) in output
    assert "0 != 1 : 0 queries executed, 1 expected" in errors
    assert code == 1


def test_listed_test_that_passes_is_stale(suite):
    code, output, _ = suite("--queryset", "QuerySet", "small", **small("QuerySet"))
    assert output.count("STALE EXCLUSION: ") == 2
    for test in FAIL:
        assert f"STALE EXCLUSION: {test} does not fail.\n" in output
    assert (
        "QuerySet: 4 tests, 1 skipped, 0 failed as listed, 0 failed, 2 stale "
        "exclusions.\n"
    ) in output
    assert code == 1


def test_listed_test_that_may_pass_is_not_stale(suite):
    code, output, errors = suite(
        "--queryset", "QuerySet", "small", **small("QuerySet", may_pass=True)
    )
    assert "0 failed as listed, 0 failed, 0 stale exclusions.\n" in output
    assert code == 0, errors


def test_listed_test_that_is_not_there_is_stale(suite):
    gone = "small.tests.SmallTests.test_gone"
    exclusion = small("CachedQuerySet", tests=[*FAIL, gone, "other.tests.T.test_t"])
    code, output, _ = suite("--queryset", "CachedQuerySet", "small", **exclusion)
    assert f"STALE EXCLUSION: {gone} does not fail.\n" in output
    assert output.count("STALE EXCLUSION: ") == 1
    assert code == 1


def test_no_test_is_a_failure(suite):
    code, output, _ = suite("--queryset", "QuerySet", "small.models", **small("Q"))
    assert "QuerySet: 0 tests, " in output
    assert code == 1


def test_exclusions_name_a_sentence_of_the_contract():
    page = " ".join((TESTS.parent / "docs" / "contract.rst").read_text().split())
    contract = page.partition("What is not guaranteed ---")[2]
    assert contract
    exclusions = tomllib.loads(EXCLUSIONS.read_text())["exclusion"]
    assert exclusions
    for exclusion in exclusions:
        ours = "QuerySet" not in exclusion["querysets"]
        assert (exclusion["because"] in contract) is ours, exclusion


@pytest.mark.parametrize(("count", "few"), [(0, 1), (39, 1), (40, 0)])
def test_module_with_few_compiled_selects_fails(monkeypatch, capsys, count, few):
    monkeypatch.setenv("DJANGO_SUITE_QUERYSET", "PlusQuerySet")
    monkeypatch.setattr(django_suite, "compiled", Counter(get_or_create=count))
    runner = django_suite.Runner(parallel=1)
    runner.labels = ["get_or_create"]
    assert runner.few_compiled() == few
    assert f"{count} compiled SELECTs" in capsys.readouterr().out
