"""
The structure of the package: the imports between folders, and the limits for
modules, functions and classes. And two rules of the tests themselves.

Each check is a function of a folder, so a made-up package can show that it
works.
"""

import ast
import textwrap
from collections import defaultdict, deque
from functools import cache
from pathlib import Path

import pytest

from ..support.repository import ROOT

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "getorcreateplus"
TESTS = ROOT / "tests"

# The folders and top level modules of each layer, from bottom to top. A module
# may import from its own layer and from those that stand before it here. "" is
# the package's own __init__.py.
LAYERS = {
    "environment": {"environment"},
    "ground": {"bypassing", "conf", "signals", "statistics"},
    "lookups": {"lookups", "payload"},
    "selects": {"selects"},
    "coherence": {"coherence"},
    "writes": {"writes"},
    "bulk": {"bulk"},
    "mixins": {"mixins"},
    "top": {"", "managers", "query"},
    "tools": {
        "admin",
        "checks",
        "diagnosis",
        "explaining",
        "management",
        "panels",
        "test",
        "triggers",
    },
}

MAX_LINES_OF_MODULE = 450
MAX_LINES_OF_FUNCTION = 50
MAX_LINES_OF_CLASS = 200
MAX_LINES_OF_TEST_MODULE = 800

# Accepted findings: {name of the finding: reason}.
EXCEPTIONS = {
    "getorcreateplus -> getorcreateplus.checks": (
        "Django registers the checks when the package is imported."
    ),
}

# papers.py is about one model. Other tests have their own save().
SHARED = sorted(set(TESTS.glob("support/*.py")) - {TESTS / "support" / "papers.py"})


# The source


def modules_of(package):
    """Return {dotted name: path} of the modules of a package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def parse(path):
    return ast.parse(path.read_text(), path)


def imported_names(module, path):
    """
    Yield (dotted name, line) of everything that a module imports, at any
    depth.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *filter(None, [base])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def imports_of(package):
    """Return {module: {imported module of the package: line}}."""
    modules = modules_of(package)
    imports = {}
    for module, path in modules.items():
        imports[module] = targets = {}
        for name, line in imported_names(module, path):
            # The name of a module, or of something in one.
            for target in (name, name.rpartition(".")[0]):
                if target in modules:
                    targets.setdefault(target, line)
                    break
    return imports


def layer_of(module):
    """Return the number of a module's layer, None if it has none."""
    top = module.split(".")[1] if "." in module else ""
    numbers = (n for n, members in enumerate(LAYERS.values()) if top in members)
    return next(numbers, None)


# The checks: each returns {name of the finding: message}.


def find_modules_without_layer(package):
    return {
        module: f"{module} is in no layer: add it to LAYERS, or move it."
        for module in modules_of(package)
        if layer_of(module) is None
    }


def find_upward_imports(package):
    found = {}
    names = list(LAYERS)
    for module, targets in imports_of(package).items():
        for target, line in targets.items():
            here, there = layer_of(module), layer_of(target)
            if here is not None and there is not None and there > here:
                found[f"{module} -> {target}"] = (
                    f"{module} ({names[here]}) imports {target} ({names[there]}) "
                    f"in line {line}: imports only go down."
                )
    return found


def find_cycles(package):
    """Find the shortest cycle through each module that is part of one."""
    imports = imports_of(package)
    found = {}
    for start in imports:
        cycle = shortest_cycle(imports, start)
        if cycle is None:
            continue
        # The same cycle, for a search from any of its modules.
        first = cycle.index(min(cycle))
        cycle = [*cycle[first:], *cycle[:first]]
        steps = [*zip(cycle, [*cycle[1:], cycle[0]], strict=True)]
        name = " -> ".join([*cycle, cycle[0]])
        lines = ", ".join(f"{a} in line {imports[a][b]}" for a, b in steps)
        found[name] = f"{name} is a cycle of imports: {lines}."
    return found


def shortest_cycle(imports, start):
    """Return the modules of the shortest way from a module to itself."""
    ways, queue = {}, deque([(start, [start])])
    while queue:
        module, way = queue.popleft()
        for target in imports[module]:
            if target == start:
                return way
            if target not in ways:
                ways[target] = [*way, target]
                queue.append((target, ways[target]))
    return None


def definitions_of(tree, prefix):
    """Yield (qualified name, node) of functions and classes, at any depth."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{node.name}"
            yield name, node
        yield from definitions_of(node, name)


def find_long_code(package):
    found = {}

    def measure(name, kind, lines, limit):
        if lines > limit:
            found[name] = f"The {kind} {name} has {lines} lines, and not {limit}."

    for module, path in modules_of(package).items():
        lines = len(path.read_text().splitlines())
        measure(module, "module", lines, MAX_LINES_OF_MODULE)
        for name, node in definitions_of(parse(path), module):
            lines = node.end_lineno - node.lineno + 1
            if isinstance(node, ast.ClassDef):
                measure(name, "class", lines, MAX_LINES_OF_CLASS)
            else:
                measure(name, "function", lines, MAX_LINES_OF_FUNCTION)
    return found


CHECKS = [find_modules_without_layer, find_upward_imports, find_cycles, find_long_code]


def unexcused(found, exceptions=EXCEPTIONS):
    """Return the messages of findings that are not accepted, one per line."""
    return "\n".join(found[name] for name in sorted(found.keys() - exceptions.keys()))


def stale(package, exceptions):
    """Return the accepted findings that no check finds."""
    found = {name for check in CHECKS for name in check(package)}
    return sorted(exceptions.keys() - found)


# The checks of tests


def find_long_tests(paths, limit=MAX_LINES_OF_TEST_MODULE):
    sizes = {path: len(path.read_text().splitlines()) for path in paths}
    return {
        f"{path}": f"{path} has {lines} lines, and not {limit}."
        for path, lines in sizes.items()
        if lines > limit
    }


def helpers_of(path):
    """Yield (name, code without docstrings) of a module's definitions."""
    for node in parse(path).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for inner in ast.walk(node):
            is_definition = isinstance(inner, ast.FunctionDef | ast.ClassDef)
            if is_definition and ast.get_docstring(inner) is not None:
                inner.body = inner.body[1:] or [ast.Pass()]
        yield node.name, ast.unparse(node)


def find_repeated_helpers(paths, shared=()):
    """
    Find helpers that are defined twice: with the name of a shared helper, or
    with the same name and the same code.
    """
    places, copies = defaultdict(set), defaultdict(set)
    for path in paths:
        for name, code in helpers_of(path):
            places[name].add(path)
            copies[name, code].add(path)
    shared_names = {name for path in shared for name, _ in helpers_of(path)}
    found = {
        name: where
        for name, where in places.items()
        if name in shared_names and len(where) > 1
    }
    for (name, _), where in copies.items():
        if len(where) > 1:
            found.setdefault(name, where)
    return {
        name: f"{name} is defined in {', '.join(sorted(map(str, where)))}: once, in "
        "tests/support/, is enough; what differs needs another name."
        for name, where in found.items()
    }


def test_modules():
    """
    Return the Python files of tests/, except those of the project for mypy.
    """
    typing = TESTS / "project" / "typing"
    return [path for path in TESTS.rglob("*.py") if typing not in path.parents]


test_modules.__test__ = False


# This package


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_package(check):
    messages = unexcused(check(PACKAGE))
    assert not messages, f"\n{messages}"


def test_no_exception_is_stale():
    assert stale(PACKAGE, EXCEPTIONS) == []
    assert all(EXCEPTIONS.values())


def test_tests_are_short():
    messages = unexcused(find_long_tests(test_modules()), {})
    assert not messages, f"\n{messages}"


def test_helpers_are_defined_once():
    messages = unexcused(find_repeated_helpers(test_modules(), SHARED), {})
    assert not messages, f"\n{messages}"


# Made-up packages, which show that each check finds something


@pytest.fixture
def write(tmp_path):
    """Return a function that makes a package of {path: source}."""

    def write(files):
        package = tmp_path / "shop"
        for name, source in {"__init__.py": "", **files}.items():
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        return package

    return write


def test_module_without_layer_is_found(write):
    package = write({"query.py": "", "other.py": "", "other/deep.py": ""})
    assert find_modules_without_layer(package) == {
        name: f"{name} is in no layer: add it to LAYERS, or move it."
        for name in ("shop.other", "shop.other.deep")
    }


@pytest.mark.parametrize(
    "statement",
    [
        "from ..writes import guards",
        "from ..writes.guards import Conflict",
        "from .. import writes",
        "import shop.writes.guards",
        "import shop.writes.guards as g",
        "from shop.writes import guards",
        "def late():\n    from ..writes.guards import Conflict",
        "try:\n    pass\nfinally:\n    from ..writes import guards",
    ],
)
def test_upward_import_is_found(write, statement):
    package = write(
        {
            "coherence/__init__.py": "",
            "coherence/protocol.py": f"\n{statement}\n",
            "writes/__init__.py": "",
            "writes/guards.py": "",
        }
    )
    [message] = find_upward_imports(package).values()
    assert message.startswith("shop.coherence.protocol (coherence) imports shop.writes")
    line = 2 + statement.partition("..writes")[0].count("\n")
    assert message.endswith(f"(writes) in line {line}: imports only go down.")


def test_imports_of_the_own_layer_and_of_those_below_are_none(write):
    package = write(
        {
            "admin.py": "from . import checks, query\nimport django.db",
            "checks.py": "from .diagnosis import suitability",
            "conf.py": "",
            "diagnosis/__init__.py": "from ..query import QuerySet",
            "diagnosis/suitability.py": "from . import QuerySet",
            "query.py": "from .writes import guards, Conflict",
            "writes/__init__.py": "from .guards import Conflict",
            "writes/guards.py": "from ..conf import setting\nfrom . import sub",
            "writes/sub/__init__.py": "from ...conf import setting",
        }
    )
    assert find_upward_imports(package) == {}
    assert find_cycles(package) == {}
    assert find_modules_without_layer(package) == {}


def test_cycle_is_found(write):
    package = write(
        {
            "writes/__init__.py": "",
            "writes/a.py": "from . import b",
            "writes/b.py": "def late():\n    from .c import C",
            "writes/c.py": "from ..writes.a import A",
            "writes/d.py": "from . import a",
            "conf.py": "from . import conf",
        }
    )
    assert find_cycles(package) == {
        "shop.writes.a -> shop.writes.b -> shop.writes.c -> shop.writes.a": (
            "shop.writes.a -> shop.writes.b -> shop.writes.c -> shop.writes.a is a "
            "cycle of imports: shop.writes.a in line 1, shop.writes.b in line 2, "
            "shop.writes.c in line 1."
        ),
        "shop.conf -> shop.conf": (
            "shop.conf -> shop.conf is a cycle of imports: shop.conf in line 1."
        ),
    }


def body(lines, indent=4):
    return f"{' ' * indent}pass\n" * lines


def test_long_module_is_found(write):
    package = write({"conf.py": "a = 1\n" * 450, "query.py": "a = 1\n" * 451})
    assert find_long_code(package) == {
        "shop.query": "The module shop.query has 451 lines, and not 450."
    }


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_long_function_is_found(write, keyword):
    package = write(
        {
            "conf.py": f"@decorated\n{keyword} short():\n{body(49)}"
            f"class Conf:\n    {keyword} long(self):\n{body(50, 8)}",
        }
    )
    assert find_long_code(package) == {
        "shop.conf.Conf.long": (
            "The function shop.conf.Conf.long has 51 lines, and not 50."
        )
    }


def test_long_function_in_a_function_is_found(write):
    package = write({"conf.py": f"def outer():\n    def inner():\n{body(50, 8)}"})
    assert sorted(find_long_code(package)) == [
        "shop.conf.outer",
        "shop.conf.outer.inner",
    ]


def test_long_class_is_found(write):
    package = write(
        {"conf.py": f"class Short:\n{body(199)}class Long(Short):\n{body(200)}"}
    )
    assert find_long_code(package) == {
        "shop.conf.Long": "The class shop.conf.Long has 201 lines, and not 200."
    }


def test_exceptions(write):
    package = write({"conf.py": "a = 1\n" * 451, "signals.py": "a = 1\n" * 452})
    exceptions = {"shop.conf": "It is a list.", "shop.query": "It was long."}
    assert unexcused(find_long_code(package), exceptions) == (
        "The module shop.signals has 452 lines, and not 450."
    )
    assert stale(package, exceptions) == ["shop.query"]


def test_long_test_module_is_found(write):
    package = write({"test_a.py": "a = 1\n" * 800, "test_b.py": "a = 1\n" * 801})
    [message] = find_long_tests(package.glob("test_*.py")).values()
    assert message == f"{package / 'test_b.py'} has 801 lines, and not 800."


def test_helper_that_is_defined_twice_is_found(write):
    package = write(
        {
            "support.py": "class Rollback(Exception):\n    pass",
            "test_a.py": """
                class Rollback(Exception):
                    '''It is another.'''
                    code = 1

                def count(call):
                    return call()

                def warm():
                    return 1
                """,
            "test_b.py": """
                def count(call):
                    '''Count.'''
                    return call()

                def warm():
                    return 2
                """,
        }
    )
    found = find_repeated_helpers(package.glob("*.py"), [package / "support.py"])
    assert sorted(found) == ["Rollback", "count"]
    assert found["count"].startswith(f"count is defined in {package / 'test_a.py'}, ")


def test_this_repository_is_the_one_that_is_checked():
    assert Path(__file__) in test_modules()
    assert len(modules_of(PACKAGE)) > 40
    assert len(SHARED) > 8
