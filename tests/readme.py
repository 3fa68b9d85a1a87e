"""
Run the Python of README.rst, or of the file named, in a project of its own.

A statement whose comment says "no query" or "2 queries" has to need as many.
"""

import ast
import re
import sys
import textwrap
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from itertools import takewhile
from pathlib import Path

import django
from django.conf import settings

QUERIES = re.compile(r"#.*?\b(no|\d+) quer(?:y|ies)\b")


def blocks(text):
    """Return (number of its first line, source) of each Python block."""
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line == ".. code-block:: python":
            block = takewhile(
                lambda following: not following or following.startswith("    "),
                lines[number + 2 :],
            )
            found.append((number + 2, textwrap.dedent("\n".join(block))))
    return found


def promised(source, statement):
    """Return the number of queries that a statement's comment promises."""
    lines = source.splitlines()[statement.lineno - 1 : statement.end_lineno]
    match = QUERIES.search(lines[-1])
    return match and int(match[1].replace("no", "0"))


def run(name, text):
    """Run the blocks, in order, and return how many promises were kept."""
    from django.db import connection, models
    from django.test.utils import CaptureQueriesContext

    module = sys.modules["readme.models"]
    kept = 0
    made = set()
    for offset, source in blocks(text):
        for statement in ast.parse(source).body:
            code = ast.Module([statement], [])
            with CaptureQueriesContext(connection) as queries:
                exec(compile(code, name, "exec"), vars(module))
            number = promised(source, statement)
            if number is not None:
                assert len(queries) == number, (
                    f"{name}, line {offset + statement.lineno}: "
                    f"{len(queries)} queries instead of {number}: "
                    f"{queries.captured_queries}"
                )
                kept += 1
            for name, value in list(vars(module).items()):
                if (
                    isinstance(value, type)
                    and issubclass(value, models.Model)
                    and name not in made
                    and value is not models.Model
                ):
                    made.add(name)
                    with connection.schema_editor() as editor:
                        editor.create_model(value)
    return kept


def main(file=Path(__file__).parent.parent / "README.rst"):
    text = Path(file).read_text()
    namespace = {}
    for _, source in blocks(text):
        if source.startswith("CACHES"):
            exec(source, namespace)
    for name in ("readme", "readme.models"):
        sys.modules[name] = module_from_spec(ModuleSpec(name, None))
    sys.modules["readme"].__path__ = [str(Path(__file__).parent)]
    settings.configure(
        CACHES=namespace["CACHES"],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["readme"],
    )
    django.setup()
    print(f"{run(Path(file).name, text)} promises kept")


if __name__ == "__main__":
    main(*sys.argv[1:])
