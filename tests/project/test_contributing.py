"""CONTRIBUTING.rst, the sandbox's README and the pre-commit hooks."""

import re
from itertools import chain

from ..readme import blocks
from ..support.repository import ROOT, read_config

HOOKS = (ROOT / ".pre-commit-config.yaml").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.rst").read_text()
SANDBOX = (ROOT / "sandbox/README.rst").read_text()


def commands_of(text):
    """Return the lines of the console blocks of a page, block by block."""
    return [block.source.strip().splitlines() for block in blocks(text, "console")]


# The hooks


def test_hooks_have_the_version_of_ruff_that_ci_has():
    [version] = re.findall(
        r"^ruff==\S+$", read_config("tox.ini")["testenv:ruff"]["deps"], re.MULTILINE
    )
    found = re.findall(r"\bruff==[^\]\s]+", HOOKS)
    assert found
    assert set(found) == {version}


def test_hooks_run_what_ci_runs():
    """Each command of tox -e ruff, and the types of the package."""
    entries = re.findall(r"^ +entry: (.+)$", HOOKS, re.MULTILINE)
    commands = read_config("tox.ini")["testenv:ruff"]["commands"].split("\n")
    subcommands = [re.match(r"ruff \w+", command)[0] for command in commands if command]
    assert subcommands
    for subcommand in subcommands:
        assert any(entry.startswith(subcommand) for entry in entries), subcommand
    assert "tox run -e mypy" in entries


# CONTRIBUTING.rst


def test_set_up_takes_two_commands():
    """.ci/run runs them, in a clone."""
    assert len(commands_of(CONTRIBUTING)[0]) == 2


def test_fast_tests_linters_and_ci_are_named():
    commands = {*chain(*commands_of(CONTRIBUTING))}
    assert {
        ".venv/bin/pytest -n auto",
        ".venv/bin/pre-commit run --all-files",
        "bash .ci/run",
    } <= commands


def test_limits_are_those_of_the_test():
    from . import test_architecture as architecture

    text = " ".join(CONTRIBUTING.split())
    assert (
        f"no module has more than {architecture.MAX_LINES_OF_MODULE} lines, no class "
        f"more than {architecture.MAX_LINES_OF_CLASS} and no function more than "
        f"{architecture.MAX_LINES_OF_FUNCTION}."
    ) in text


# sandbox/README.rst


def test_all_of_the_sandbox_is_described():
    names = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "sandbox").iterdir()
        if path.suffix in ("", ".py") and path.name != "__pycache__"
    }
    table = SANDBOX.partition("\nWhat is where\n")[2]
    assert set(re.findall(r"^``([\w./]+)``", table, re.MULTILINE)) == names


def test_options_of_the_sandbox_are_described():
    """The options of a program, in its section."""
    for title, program in [
        ("The demo", "gazetteer/management/commands/demo.py"),
        ("The web page", "web/management/commands/runserver.py"),
        ("The benchmark", "benchmark.py"),
    ]:
        source = (ROOT / "sandbox" / program).read_text()
        options = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', source)) - {
            "--worker"
        }
        section = SANDBOX.partition(f"\n{title}\n---")[2].partition("\n---")[0]
        described = set(re.findall(r"^``(--[\w-]+)``", section, re.MULTILINE))
        assert described == options, title
