"""What setup.cfg, tox.ini and MANIFEST.in say, and what they leave out."""

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from itertools import product

import pytest

from ..support.repository import ROOT, read_config, tox_environments


def classified(prefix):
    """Return the versions that the classifiers under prefix name, in order."""
    classifiers = read_config("setup.cfg")["metadata"]["classifiers"]
    return re.findall(rf"^{prefix} :: (\d+\.\d+)$", classifiers, re.MULTILINE)


def english(words):
    *most, last = words
    return f"{', '.join(most)} and {last}"


@pytest.fixture(scope="module")
def pythons():
    return classified("Programming Language :: Python")


@pytest.fixture(scope="module")
def djangos():
    return classified("Framework :: Django")


def test_tox_runs_each_classified_version_on_each_service(pythons, djangos):
    runs = [name for name in tox_environments() if name.startswith("py")]
    assert sorted(runs) == sorted(
        f"py{python}-dj{django}-{database}-{cache}".replace(".", "")
        for python, django, database, cache in product(
            pythons,
            djangos,
            ["sqlite", "postgresql", "mariadb"],
            ["locmem", "redis", "memcached"],
        )
        # Django 6.0 and later need Python 3.12.
        if django == "5.2" or python != "3.11"
    )


def test_readme_names_the_classified_versions(pythons, djangos):
    text = " ".join((ROOT / "README.rst").read_text().split())
    assert f"Python {pythons[0]} to {pythons[-1]}" in text
    assert f"Django {english(djangos)}" in text


def test_oldest_classified_versions_are_required(pythons, djangos):
    options = read_config("setup.cfg")["options"]
    assert options["python_requires"] == f">={pythons[0]}"
    assert options["install_requires"].split()[0] == f"Django>={djangos[0]}"


def test_sdist_has_the_documentation():
    manifest = (ROOT / "MANIFEST.in").read_text()
    patterns = re.search(r"^recursive-include docs (.+)$", manifest, re.MULTILINE)[1]
    files = [
        path
        for path in (ROOT / "docs").rglob("*")
        if path.is_file() and not {"_build", "__pycache__"} & set(path.parts)
    ]
    assert files
    for path in files:
        assert any(fnmatch(path.name, pattern) for pattern in patterns.split()), path


def test_package_is_imported_without_settings():
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "DJANGO_SETTINGS_MODULE"
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import getorcreateplus"],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
