"""
docs/internals.rst: the names in it exist, and no module is missing. The
glossary is short.
"""

import ast
import re

import pytest

from ..support.repository import ROOT

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "getorcreateplus"
PAGE = (ROOT / "docs/internals.rst").read_text()
GLOSSARY = (ROOT / "docs/glossary.rst").read_text()
LITERALS = set(re.findall(r"``([^`]+)``", PAGE))
MAX_TERMS = 25

# Django's, and those of the project in an example.
METHODS_OF_DJANGO = {
    "atomic",
    "create",
    "get",
    "get_many",
    "get_or_create",
    "on_commit",
    "save",
}


def modules():
    return {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}


def paths():
    """Return the files and folders that the page names."""
    return {name for name in LITERALS if re.fullmatch(r"[\w./]+(/|\.[a-z]+)", name)} - {
        "."
    }


def functions():
    """Return the functions and methods that the page names, without ()."""
    return {name[:-2] for name in LITERALS if re.fullmatch(r"[\w.]+\(\)", name)}


def definitions(package):
    """Return the names of functions, classes, and methods as Class.method."""
    found, bases = set(), {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.ClassDef):
                found.add(node.name)
                bases[node.name] = [
                    base.id for base in node.bases if isinstance(base, ast.Name)
                ]
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                        found.add(f"{node.name}.{inner.name}")
    # Inherited names of a class count, too.
    for name in bases:
        inherited, waiting = set(), [name]
        while waiting:
            base = waiting.pop()
            if base not in inherited:
                inherited.add(base)
                waiting += bases.get(base, ())
        for method in list(found):
            owner, dot, method_name = method.partition(".")
            if dot and owner in inherited:
                found.add(f"{name}.{method_name}")
    return found


def terms():
    return re.findall(r"^ {4}(\w.*)\n {8}\S.*$", GLOSSARY, re.MULTILINE)


def test_page_has_what_is_checked_here():
    assert len(paths()) > 60
    assert len(functions()) > 40
    assert len(terms()) > 20


@pytest.mark.parametrize("name", sorted(paths()))
def test_path_is_there(name):
    assert (PACKAGE / name).exists() or (ROOT / name).exists()


@pytest.mark.parametrize("name", sorted(modules()))
def test_each_module_is_on_the_map(name):
    """Once, in the first column of a table."""
    assert len(re.findall(rf"^``{re.escape(name)}`` ", PAGE, re.MULTILINE)) == 1


def test_functions_are_there():
    missing = functions() - definitions(PACKAGE) - METHODS_OF_DJANGO
    assert missing == set()


def test_classes_are_there():
    names = {name for name in LITERALS if re.fullmatch(r"([A-Z][a-z]+)+", name)}
    assert names
    assert names - definitions(PACKAGE) == {"ModelAdmin"}


def test_glossary_is_short_and_sorted():
    found = terms()
    assert len(found) <= MAX_TERMS
    assert found == sorted(found, key=str.lower)
    # Each definition is one line.
    assert len(found) == GLOSSARY.count("\n        ")
