"""
Run the Python of README.rst, docs/ and the other pages, each page in its own
project.

    python -m tests.readme [FILE ...]

A project has one app, shop, whose models.py is made of the page's blocks, one
after the other. If a statement's comment promises "no query" or "2 queries",
its queries are counted, anywhere in a block.

There are three reStructuredText comments, which readers of the page do not
see:

``.. new project``
    What follows has nothing to do with what was before.
``.. raises: IntegrityError``
    The block that follows has to raise it.
``.. not run: REASON``
    The block that follows cannot run here: see tests/project/test_readme.py.

A block of only settings, before any other of its project, belongs to the
project's settings. A later one is tried, by making its caches and running the
system checks of this package, and then restored.
"""

import ast
import multiprocessing
import re
import sys
import tempfile
import textwrap
import unittest
from collections import Counter
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import SimpleNamespace

import django
from django.conf import settings

from .support.repository import ROOT

DIRECTIVE = re.compile(r"( *)\.\. code-block:: (\w+)\Z")
MARK = re.compile(r"\.\. (new project|not run|raises)(?:: (.+))?\Z")
PROMISE = re.compile(r"#.*?\b(no|\d+) (?:quer(?:y|ies)|statements?)\b")

APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
]


def pages_of_docs():
    others = [ROOT / "CONTRIBUTING.rst", ROOT / "sandbox/README.rst"]
    return [ROOT / "README.rst", *others, *sorted(ROOT.glob("docs/*.rst"))]


# Reading a page


def blocks(text, language="python"):
    """
    Yield the code blocks of a page: number of its first line, source, and
    marks, {mark: text}.
    """
    lines = text.splitlines()
    marks = {}
    for number, line in enumerate(lines):
        if match := MARK.match(line.strip()):
            marks[match[1]] = match[2]
        elif match := DIRECTIVE.match(line):
            start = number + 1
            # Its options, and the blank line.
            while start < len(lines) and lines[start].strip():
                start += 1
            block = []
            for following in lines[start:]:
                indent = len(following) - len(following.lstrip())
                if following.strip() and indent <= len(match[1]):
                    break
                block.append(following)
            if match[2] == language:
                source = textwrap.dedent("\n".join(block)).rstrip() + "\n"
                yield SimpleNamespace(line=start, source=source, marks=marks)
                marks = {}


def projects(text):
    """Return the blocks of a page in lists, one for each project."""
    found = [[]]
    for block in blocks(text):
        if "new project" in block.marks:
            found.append([])
        found[-1].append(block)
    return [project for project in found if project]


def is_settings(block):
    """
    Return True if a block is a part of settings.py: NAME = …, NAME += …, and
    imports.
    """
    body = ast.parse(block.source).body
    assigned = [s for s in body if isinstance(s, ast.Assign | ast.AugAssign)]
    names = [
        getattr(target, "id", "")
        for statement in assigned
        for target in getattr(statement, "targets", None) or [statement.target]
    ]
    imports = [s for s in body if isinstance(s, ast.Import | ast.ImportFrom)]
    return (
        bool(names)
        and all(map(str.isupper, names))
        and len(assigned) + len(imports) == len(body)
    )


def settings_of(block):
    namespace = {name: [] for name in ("INSTALLED_APPS", "MIDDLEWARE")}
    exec(compile(block.source, "settings", "exec"), namespace)
    return {
        # [..., "another"] stands for ["another"].
        name: [v for v in value if v is not ...] if type(value) is list else value
        for name, value in namespace.items()
        if name.isupper() and value != []
    }


class Promises(ast.NodeTransformer):
    """
    Wrap each statement whose comment promises something, to count its queries.
    """

    def __init__(self, page, block):
        self.page = page
        self.lines = block.source.splitlines()
        self.first = block.line
        self.found = set()

    def statements(self):
        """Return the statements of the block."""
        tree = self.visit(ast.parse("\n".join(self.lines)))
        promises = {
            number for number, line in enumerate(self.lines, 1) if PROMISE.search(line)
        }
        for number in promises - self.found:
            raise AssertionError(
                f"{self.page}, line {self.first + number}: the promise is at the end "
                "of no statement."
            )
        return tree.body

    def generic_visit(self, node):
        super().generic_visit(node)
        if not isinstance(node, ast.stmt):
            return node
        # The comment of a compound statement is at its header.
        inner = getattr(node, "body", None)
        last = inner[0].lineno - 1 if inner else node.end_lineno
        header = self.lines[node.lineno - 1 : last]
        match = header and PROMISE.search(header[-1])
        if not match or isinstance(node, ast.ClassDef | ast.FunctionDef):
            return node
        line = node.lineno + len(header) - 1
        self.found.add(line)
        number = int(match[1].replace("no", "0"))
        place = self.first + line
        [watch] = ast.parse(f"with promised({number}, {place}): pass").body
        watch.body = [node]
        return ast.copy_location(watch, node)


# Running it


class Project:
    def __init__(self, page, project, directory):
        self.page = page
        self.made_promises = set()  # lines
        self.kept = Counter()
        self.made = set()
        own = {}
        while project and is_settings(project[0]):
            own |= settings_of(project.pop(0))
        self.blocks = project
        self.directory = directory
        self.models = self.make_app()
        settings.configure(
            **{
                "CACHES": {
                    "default": {
                        "BACKEND": "django.core.cache.backends.locmem.LocMemCache"
                    }
                },
                "DATABASES": {
                    "default": {
                        "ENGINE": "django.db.backends.sqlite3",
                        # A file, because async code has threads.
                        "NAME": f"{directory}/db.sqlite3",
                        "OPTIONS": {"init_command": "PRAGMA synchronous=OFF"},
                    }
                },
                "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
                "ROOT_URLCONF": "shop.urls",
                "SECRET_KEY": "readme",
                "STATIC_URL": "static/",
                "TEMPLATES": [
                    {
                        "BACKEND": "django.template.backends.django.DjangoTemplates",
                        "APP_DIRS": True,
                    }
                ],
                "USE_TZ": True,
                **own,
                "INSTALLED_APPS": [
                    *APPS,
                    *(app for app in own.get("INSTALLED_APPS", ()) if app not in APPS),
                    *(["shop"] if "shop" not in own.get("INSTALLED_APPS", ()) else []),
                ],
            }
        )
        django.setup()

    def make_app(self):
        for name in ("shop", "shop.models", "shop.urls"):
            sys.modules[name] = module_from_spec(ModuleSpec(name, None))
        sys.modules["shop"].__path__ = [self.directory]
        sys.modules["shop.urls"].urlpatterns = []
        models = sys.modules["shop.models"]
        models.promised = self.promised
        return models

    def run(self):
        from django.db import connections

        try:
            self.make_tables()
            for block in self.blocks:
                if "not run" not in block.marks:
                    self.run_block(block)
            if self.made_promises - self.kept.keys():
                line = min(self.made_promises - self.kept.keys())
                raise AssertionError(
                    f"{self.page}, line {line}: no code calls this, to see the promise "
                    "kept."
                )
            return sum(self.kept.values())
        finally:
            connections.close_all()

    def run_block(self, block):
        if is_settings(block):
            self.try_settings(settings_of(block))
            return
        error = block.marks.get("raises")
        try:
            # Line by line, because a model's table has to exist for the next
            # one.
            promises = Promises(self.page, block)
            for statement in promises.statements():
                code = ast.fix_missing_locations(ast.Module([statement], []))
                ast.increment_lineno(code, block.line)
                exec(compile(code, self.page, "exec"), vars(self.models))
                self.make_tables()
                self.run_tests(statement)
        except Exception as raised:
            if type(raised).__name__ != error:
                raise
        else:
            self.made_promises |= {block.line + line for line in promises.found}
            if error:
                raise AssertionError(
                    f"{self.page}, line {block.line}: no {error} is raised."
                )

    def promised(self, number, line):
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        project = self

        class Promised(CaptureQueriesContext):
            def __exit__(self, exc_type, *exc_info):
                super().__exit__(exc_type, *exc_info)
                if exc_type is None:
                    assert len(self) == number, (
                        f"{project.page}, line {line}: {len(self)} queries instead of "
                        f"{number}: {self.captured_queries}"
                    )
                    project.kept[line] += 1

        return Promised(connection)

    def make_tables(self):
        from django.apps import apps
        from django.db import connection

        models = [
            model
            for model in apps.get_models()
            if model not in self.made and model._meta.managed and not model._meta.proxy
        ]
        self.made.update(models)
        if models:
            with connection.schema_editor() as editor:
                for model in models:
                    editor.create_model(model)

    def run_tests(self, statement):
        """Run a TestCase of the page, or a test of pytest without fixtures."""
        if not isinstance(statement, ast.ClassDef | ast.FunctionDef):
            return
        case = vars(self.models)[statement.name]
        if isinstance(statement, ast.FunctionDef):
            if statement.name.startswith("test_") and not any(
                argument.arg != "db" for argument in statement.args.args
            ):
                case(*[None] * len(statement.args.args))
        elif issubclass(case, unittest.TestCase):
            suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
            result = unittest.TestResult()
            suite.run(result)
            for _, error in [*result.errors, *result.failures]:
                raise AssertionError(error)
            assert result.testsRun

    def try_settings(self, names):
        from django.core.cache import caches
        from django.db.utils import ConnectionHandler
        from django.test import override_settings

        from getorcreateplus.checks import check_caches

        if "DATABASES" in names:
            assert ConnectionHandler(names.pop("DATABASES")).settings
        names.pop("INSTALLED_APPS", None)
        with override_settings(**names):
            for alias in settings.CACHES:
                assert caches[alias]
            errors = check_caches()
        assert not errors, errors


def run_project(file, index, answer):
    file = Path(file)
    project = projects(file.read_text())[index]
    try:
        with tempfile.TemporaryDirectory() as directory:
            answer.put(Project(file.name, project, directory).run())
    except BaseException:
        answer.put(None)
        raise


def run(file):
    """
    Run the projects of a page, each in its own process. Return the number of
    kept promises, None if something failed.
    """
    context = multiprocessing.get_context("spawn")
    kept = 0
    for index, _ in enumerate(projects(Path(file).read_text())):
        answer = context.SimpleQueue()
        process = context.Process(target=run_project, args=(file, index, answer))
        process.start()
        kept_here = answer.get()
        process.join()
        if kept_here is None or process.exitcode:
            return None
        kept += kept_here
    return kept


def main(*files):
    failed = False
    for file in map(Path, files or pages_of_docs()):
        kept = run(file)
        failed |= kept is None
        print(f"{file.name}: {'failed' if kept is None else f'{kept} promises kept'}")
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
