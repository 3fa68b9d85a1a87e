"""README.rst and docs/: their examples run, their commands exist."""

import re
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from textwrap import dedent

import pytest
from django.core.management import get_commands

import getorcreateplus
from getorcreateplus.conf import DEFAULTS, PREFIX
from getorcreateplus.signals import Reason, Source

from ..readme import blocks, pages_of_docs
from ..support.repository import ROOT, read_config, tox_environments

PAGES = {str(page.relative_to(ROOT)): page for page in pages_of_docs()}

# The blocks that are marked not to run: page, and the mark's reason.
NOT_RUN = {("docs/caches.rst", "shop.caches is a module of the project")}


def run(*args):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.readme", *args],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def run_page(tmp_path):
    """Run a page of this text."""

    def run_text(text):
        page = tmp_path / "page.rst"
        page.write_text(dedent(text))
        return run(str(page))

    return run_text


# Examples


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "README.rst" else [pytest.mark.slow])
        for name in PAGES
    ],
)
def test_examples_do_what_their_comments_promise(name):
    result = run(str(PAGES[name]))
    assert (result.returncode, result.stderr) == (0, "")
    # The last line: an example may print.
    assert re.fullmatch(
        rf"{Path(name).name}: \d+ promises kept", result.stdout.splitlines()[-1]
    )


def test_examples_that_are_not_run_are_listed():
    found = {
        (name, block.marks["not run"])
        for name, page in PAGES.items()
        for block in blocks(page.read_text())
        if "not run" in block.marks
    }
    assert found == NOT_RUN


MODEL = """
    .. code-block:: python

        from django.db import models
        from getorcreateplus import PlusManager

        class Tag(models.Model):
            name = models.CharField(max_length=50, unique=True)
            objects = PlusManager()
"""


def example(*lines, mark=""):
    source = "".join(f"\n        {line}" for line in lines)
    return f"{MODEL}\n    {mark}\n\n    .. code-block:: python\n{source}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [
        ["assert settings.GETORCREATEPLUS_LOCAL_ROWS == 5"],
        ["assert settings.INSTALLED_APPS[-2:] == ['getorcreateplus', 'shop']"],
        [
            # They are tried, and restored.
            "from django.core.cache import caches",
            "assert list(caches) == ['default']",
        ],
        ["def test_of_pytest(db):", "    raise NameError"],
    ],
)
def test_settings_and_tests_are_run(lines, run_page):
    page = """
        .. code-block:: python

            GETORCREATEPLUS_LOCAL_ROWS = 5
            INSTALLED_APPS = [..., "getorcreateplus"]

        .. code-block:: python

            from django.conf import settings

        .. code-block:: python

            CACHES = {
                "other": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
                "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
            }
    """
    mark = ".. raises: NameError" if "raise" in lines[-1] else ""
    result = run_page(dedent(page) + dedent(example(*lines, mark=mark)))
    assert (result.returncode, result.stderr) == (0, "")


def test_promises_are_counted(run_page):
    result = run_page(
        example(
            'Tag.objects.get_or_create(name="a")  # 2 queries: SELECT, INSERT',
            "def again():",
            '    Tag.objects.get_or_create(name="a")  # no query',
            "again()",
            "again()",
        )
    )
    assert (result.stdout, result.stderr) == ("page.rst: 3 promises kept\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "message"),
    [
        (
            example('Tag.objects.get_or_create(name="a")  # no query'),
            "page.rst, line 15: 2 queries instead of 0: ",
        ),
        (
            example("with models.transaction.atomic():  # 1 query", "    1 / 0"),
            "AttributeError",
        ),
        (
            example("def never():", "    Tag.objects.count()  # 1 query"),
            "page.rst, line 16: no code calls this, to see the promise kept.",
        ),
        (
            example("Tag.objects.filter(  # 1 query", '    name="a"', ").count()"),
            "page.rst, line 15: the promise is at the end of no statement.",
        ),
        (example("1 / 0"), "ZeroDivisionError"),
        (
            example("Tag.objects.count()", mark=".. raises: FieldError"),
            "page.rst, line 13: no FieldError is raised.",
        ),
        (
            example(
                "from django.test import TestCase",
                "class Test(TestCase):",
                "    def test(self):",
                "        self.assertEqual(Tag.objects.count(), 1)",
            ),
            "AssertionError: 0 != 1",
        ),
        (
            example('GETORCREATEPLUS_LOCK_TIMEOUT = "long"'),
            "must be an integer of at least 1, not 'long'.",
        ),
        (
            example('CACHES = {"default": {"BACKEND": "nobody.Has"}}'),
            "InvalidCacheBackendError",
        ),
        (example("Tag.objects.count()", mark=".. new project"), "NameError"),
    ],
)
def test_what_is_broken_is_noticed(page, message, run_page):
    result = run_page(page)
    assert (result.returncode, result.stdout) == (1, "page.rst: failed\n")
    assert message in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mark", [".. not run: impossible", ".. raises: NameError"])
def test_block_that_is_marked_does_not_fail(mark, run_page):
    assert run_page(example("nobody", mark=mark)).returncode == 0


# Commands


def words_of(source):
    """Yield the commands of a console block, each as its words."""
    lines = source.splitlines()
    if any(line.startswith("$ ") for line in lines):  # the others are output
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        for command in " ".join(shlex.split(line, comments=True)).split(" && "):
            words = [w for w in command.split() if not re.match(r"[A-Z_]+=", w)]
            if words:
                yield words


COMMANDS = sorted(
    {
        (name, " ".join(words))
        for name, page in PAGES.items()
        for block in blocks(page.read_text(), "console")
        for words in words_of(block.source)
    }
)


def environments():
    """Return the environments of tox, including those outside of env_list."""
    yield from tox_environments()
    for section in read_config("tox.ini").sections():
        parts = re.split(r"[{}]", section.removeprefix("testenv:"))
        yield from map("".join, product(*(part.split(",") for part in parts)))


def extras():
    return read_config("setup.cfg")["options.extras_require"].keys()


def commands_of(directory):
    return {path.stem for path in ROOT.glob(f"{directory}/management/commands/*.py")}


def is_there(program, *rest):
    """
    Return True if the things that a command of the documentation names exist.
    """
    program = program.removeprefix(".venv/bin/")
    match program, rest:
        case "python", ("-m", "venv", _):
            return True
        case "python", ("-m", "pip", *rest):
            return is_there("pip", *rest)
        case "python", ("-m", module, *_):
            return (ROOT / f"{module.replace('.', '/')}.py").is_file()
        case "python", ("manage.py", command, *_):
            # A command of the reader's project.
            return command in get_commands() or command in commands_of(
                "getorcreateplus"
            )
        case "python", ("sandbox/manage.py", command, *_):
            return command in get_commands() or command in commands_of(
                "sandbox/gazetteer"
            )
        case "python" | "bash", (file, *_):
            return (ROOT / file).is_file()
        case "pip", ("install", *names):
            found = re.findall(r"(?:\.|django-getorcreateplus)\[(.*?)\]", str(names))
            return all(set(each.split(",")) <= {*extras()} for each in found)
        case "tox", ("-e", names, *_):
            return set(names.split(",")) <= {*environments()}
        case "pre-commit" | "pytest" | "tox" | "psql", _:
            return True
        case "django-admin", (command, *_):
            return command in get_commands()
    return False


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_command_names_what_there_is(name, command):
    assert is_there(*command.split())


@pytest.mark.parametrize(
    "command",
    [
        "python -m tests.nothing",
        "python manage.py nothing",
        "python sandbox/manage.py nothing",
        "python sandbox/nothing.py",
        "bash nothing",
        "pip install -e .[nothing]",
        "tox -e py27",
        "django-admin nothing",
        "nothing",
    ],
)
def test_command_that_names_nothing_is_noticed(command):
    assert not is_there(*command.split())


# What the pages list


def words(name):
    return " ".join((ROOT / name).read_text().split())


@pytest.mark.parametrize("page", ["README.rst", "CONTRIBUTING.rst"])
def test_links_lead_to_files(page):
    links = re.findall(r"<((?!https?:)[^>\s]+)>`_", (ROOT / page).read_text())
    assert links
    for link in links:
        assert (ROOT / link.partition("#")[0]).is_file(), link


def test_readme_is_short():
    assert len((ROOT / "README.rst").read_text().splitlines()) <= 220


def test_reference_has_all_public_names():
    reference = (ROOT / "docs/reference.rst").read_text()
    described = re.findall(
        r"^\.\. (?:auto)?(?:class|function):: (\w+)", reference, re.MULTILINE
    )
    assert set(described) >= set(getorcreateplus.__all__)


def test_each_setting_is_described():
    found = re.findall(
        rf"^``({PREFIX}\w+)``\s+([\d,]+|True|{{}})\s",
        (ROOT / "docs/settings.rst").read_text(),
        re.MULTILINE,
    )
    defaults = {
        PREFIX + name: f"{value:,}" if type(value) is int else f"{value}"
        for name, value in DEFAULTS.items()
    }
    assert dict(found) == defaults


def test_each_reason_is_described():
    found = re.findall(
        r"^ {4}``([a-z ]+)`` ", (ROOT / "docs/signals.rst").read_text(), re.MULTILINE
    )
    assert found == [*Source, *Reason]
