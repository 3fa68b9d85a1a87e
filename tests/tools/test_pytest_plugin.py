"""The fixtures for pytest, in processes of their own."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

from ..support.repository import ROOT

# The fixtures


@pytest.fixture
def run(tmp_path):
    """
    Run Python in a directory with the installed package, including the entry
    points of setup.cfg.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DJANGO_SETTINGS_MODULE", "PYTEST_ADDOPTS", "COLUMNS")
    }
    installed = tmp_path / "installed"
    info = installed / "django_getorcreateplus-0.dist-info"
    info.mkdir(parents=True)
    text = (ROOT / "setup.cfg").read_text()
    [section] = re.findall(
        r"^\[options\.entry_points\]\n(\S.*\n(?:    .*\n)+)", text, re.MULTILINE
    )
    group, *points = section.splitlines()
    info.joinpath("entry_points.txt").write_text(
        "\n".join([f"[{group.removesuffix(' =')}]", *map(str.strip, points)])
    )
    info.joinpath("METADATA").write_text("Name: django-getorcreateplus\nVersion: 0\n")
    project = tmp_path / "project"
    project.mkdir()

    def run(*args, **files):
        for name, source in files.items():
            (project / f"{name}.py").write_text(textwrap.dedent(source))
        done = subprocess.run(
            [sys.executable, "-W", "error", *args],
            check=False,
            cwd=project,
            env=environment | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stderr == ""
        return done.stdout

    return run


PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "--color=no")
# The imports of pytest-django and other plugins do not matter here.
ALONE = ("-p", "no:django", "-p", "no:hypothesispytest")


def test_plugin_imports_nothing(run):
    loaded = run(
        "-c",
        "import sys, pytest, getorcreateplus_pytest\n"
        "print(*(n for n in sys.modules if n.split('.')[0] in "
        "('django', 'asgiref', 'getorcreateplus')))",
    )
    assert loaded.split() == []


@pytest.mark.slow
def test_pytest_starts_without_django(run):
    """A project may have no settings, and not use the fixtures."""
    output = run(
        *PYTEST,
        *ALONE,
        test_it="""
            import sys

            def test_nothing_is_imported(pytestconfig):
                assert pytestconfig.pluginmanager.has_plugin("getorcreateplus")
                assert "getorcreateplus" not in sys.modules
                assert "django" not in sys.modules
        """,
    )
    assert "1 passed" in output


def test_fixtures_are_listed(run):
    output = run(*PYTEST, *ALONE, "--fixtures", test_it="")
    for name, text in {
        "assert_cache_hits": "Assert the number of hits: `with assert_cache_hits(2):`.",
        "assert_cache_misses": (
            "Assert the number of misses: `with assert_cache_misses(0):`."
        ),
        "assert_cache_commands": (
            "Assert the number of commands: `with assert_cache_commands(1):`."
        ),
        "caching_off": (
            "Make get_or_create() query the database in this test, in all threads."
        ),
    }.items():
        described = rf"^{name}\b.*\n    {re.escape(text)}$"
        assert re.search(described, output, re.MULTILINE), output


SETTINGS = """
    DATABASES = {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    }
    INSTALLED_APPS = ["shop"]
    DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
MODELS = """
    from django.db import models
    from getorcreateplus import PlusManager

    class Tag(models.Model):
        name = models.CharField(max_length=50, unique=True)
        objects = PlusManager()
"""


@pytest.fixture
def shop(run, tmp_path):
    """Return the directory of an app, with a model."""
    shop = tmp_path / "project" / "shop"
    shop.mkdir()
    (shop / "models.py").write_text(textwrap.dedent(MODELS))
    return shop


@pytest.mark.slow
def test_examples_of_the_documentation(run, shop):
    text = (ROOT / "docs" / "testing.rst").read_text()
    blocks = re.findall(
        r"^\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", text, re.MULTILINE
    )
    models, *tests = map(textwrap.dedent, blocks)
    (shop / "models.py").write_text(models)
    output = run(*PYTEST, "--ds=settings", settings=SETTINGS, test_it="\n".join(tests))
    assert " 8 passed in " in output


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
def test_fixtures(run):
    output = run(
        *PYTEST,
        "--ds=settings",
        settings=SETTINGS,
        test_it="""
            import pytest
            from shop.models import Tag

            pytestmark = pytest.mark.django_db

            def get():
                Tag.objects.get_or_create(name="a")

            def test_hits(assert_cache_hits, assert_cache_misses):
                with assert_cache_hits(1), assert_cache_misses(1, Tag):
                    get()
                    get()

            def test_wrong_hits(assert_cache_hits):
                with assert_cache_hits(2):
                    Tag.objects.get_or_create(name="b")
                    Tag.objects.get_or_create(name="b")

            def test_commands(assert_cache_commands):
                get()
                with assert_cache_commands(1):
                    get()

            def test_caching_off(caching_off, assert_cache_commands):
                with assert_cache_commands(0):
                    get()
                    get()

            @pytest.mark.usefixtures("caching_off")
            class TestMarked:
                def test_it(self, assert_cache_hits):
                    with assert_cache_hits(0):
                        get()
                        get()

            def test_caching_is_on_again(assert_cache_hits):
                get()
                with assert_cache_hits(1):
                    get()
        """,
    )
    assert "1 failed, 5 passed" in output
    failure = re.sub(r"^E +", "", output, flags=re.MULTILINE)
    assert (
        "AssertionError: Cache hits: 1 instead of 2. The lookups were:\n"
        "1. shop.Tag(name='b'): miss, no hint\n"
        "2. shop.Tag(name='b'): hit, cache"
    ) in failure
