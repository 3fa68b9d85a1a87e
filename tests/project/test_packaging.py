"""The contents of setup.cfg, tox.ini and MANIFEST.in."""

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import metadata
from itertools import product

import pytest
import yaml
from readme_renderer import rst

from ..support.repository import ROOT, read_config, tox_environments


def classified(prefix):
    """Return the versions that the classifiers under prefix name, in order."""
    classifiers = read_config("setup.cfg")["metadata"]["classifiers"]
    return re.findall(rf"^{prefix} :: (\d+\.\d+)$", classifiers, re.MULTILINE)


def english(words):
    *most, last = words
    return f"{', '.join(most)} or {last}"


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


# What PyPI and GitHub show


def anchors_and_links(text):
    """Return the ids of the page as PyPI renders it, and its addresses."""
    html = rst.render(text)
    assert html is not None, "PyPI would not render it."
    ids = set(re.findall(r' id="([^"]+)"', html))
    return ids, re.findall(r' (?:href|src)="([^"]+)"', html)


def test_readme_of_the_package_has_no_dead_link():
    """PyPI shows it without the files beside it."""
    built = metadata("django-getorcreateplus")
    base = read_config("setup.cfg")["metadata"]["url"]
    ids, links = anchors_and_links(built.get_payload())
    files = []
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
            continue
        assert re.match("https?://", link), link
        if link.startswith(base):
            kind, version, file = link.removeprefix(f"{base}/").split("/", 2)
            assert (kind, version) in {
                ("blob", built["Version"]),
                ("raw", built["Version"]),
            }
            assert (ROOT / file).is_file(), link
            files.append(file)
    assert "sandbox/web/screenshots/import.png" in files
    assert "docs/contract.rst" in files


def test_addresses_of_the_package_begin_with_the_one_that_is_set():
    base = read_config("setup.cfg")["metadata"]["url"]
    urls = metadata("django-getorcreateplus").get_all("Project-URL")
    assert [url.split(", ")[0] for url in sorted(urls)] == [
        "Changelog",
        "Documentation",
        "Issues",
        "Source",
    ]
    assert all(url.split(", ")[1].startswith(base) for url in urls)


def test_no_other_file_names_the_address():
    base = read_config("setup.cfg")["metadata"]["url"]
    named = [
        file
        for pattern in ("*", ".github/**/*", "docs/**/*.rst", "docs/conf.py")
        for file in ROOT.glob(pattern)
        if file.is_file() and base in file.read_text(errors="replace")
    ]
    assert named == [ROOT / "setup.cfg"]


def workflow():
    return yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())


def test_workflow_runs_what_is_there(pythons):
    jobs = workflow()["jobs"]
    assert jobs["fast"]["strategy"]["matrix"]["python"] == pythons
    [command] = [step["run"] for step in jobs["fast"]["steps"] if "run" in step]
    assert command in (ROOT / "README.rst").read_text()
    named = {each["tox"] for each in jobs["services"]["strategy"]["matrix"]["include"]}
    linters = jobs["linters"]["steps"][-1]["run"].removeprefix("tox -e ").split(",")
    assert named | {*linters} <= {*tox_environments()}


def test_forms_of_github():
    for file in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")):
        form = yaml.safe_load(file.read_text())
        if file.stem != "config":
            assert {"name", "description", "body"} <= form.keys(), file
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert {each["package-ecosystem"] for each in updates} == {"github-actions", "pip"}
    hosted = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert (ROOT / hosted["sphinx"]["configuration"]).is_file()
