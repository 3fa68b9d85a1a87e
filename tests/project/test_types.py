"""
What type checkers make of a user's project, with plain Django's managers and
with each of ours: tox -e types.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.types

PROJECT = Path(__file__).parent / "typing"
KINDS = ["Cached", "Always", "NonAtomic", "Plus"]
REVEALED = re.compile(r'shop/uses\.py:(\d+): note: Revealed type is "(.*)"')


def project_of(kind, path):
    """
    Copy the project, which is written for PlusManager, with another manager,
    or with plain Django's.
    """
    project = shutil.copytree(PROJECT, path / kind)
    for file in project.glob("shop/*.py"):
        text = file.read_text()
        if kind == "Plain":
            text = re.sub(r"plus\.Plus(?=Manager|QuerySet)", "models.", text)
            text = re.sub(r"plus\.\w+Mixin,\s*", "", text)
            text = text.replace("import getorcreateplus as plus\n", "")
        else:
            text = re.sub(r"plus\.Plus", f"plus.{kind}", text)
        file.write_text(text)
    return project


def run(module, *args, cwd):
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "PYTHONPATH": ".",
    }
    done = subprocess.run(
        [sys.executable, "-m", module, *args],
        check=False,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Keep the cache of mypy for the next run."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", ["Plain", *KINDS])
def test_mypy_reveals_types(kind, tmp_path, cache):
    project = project_of(kind, tmp_path)
    check(project, cache)


def check(project, cache):
    """Compare what mypy reveals with what shop/uses.py expects."""
    output = run("mypy", "--cache-dir", cache, "shop", cwd=project).splitlines()
    revealed = {}
    for line in output[:-1]:
        match = REVEALED.fullmatch(line)
        assert match, line
        name = re.sub(r"\b(shop|django)\.(\w+\.)*", "", match[2])
        # A class that binds the model may be shown with it.
        revealed[int(match[1])] = re.sub(r"(\w+QuerySet)\[.*\]", r"\1", name)
    lines = (project / "shop/uses.py").read_text().splitlines()
    expected = {
        number: line.split("  # ")[1]
        for number, line in enumerate(lines, 1)
        if line.lstrip().startswith("reveal_type(")
    }
    assert revealed == expected
    assert output[-1].startswith("Success: no issues found")


READY_MADE_MODEL = """

class ReadyMade(models.Model):
    name = models.CharField(max_length=50)
    cached = plus.CachedQuerySet.as_manager()
    always = plus.AlwaysQuerySet.as_manager()
    non_atomic = plus.NonAtomicQuerySet.as_manager()
    all_three = plus.PlusQuerySet.as_manager()
"""
READY_MADE_USES = """
from .models import ReadyMade

reveal_type(ReadyMade.cached.get_or_create())  # tuple[ReadyMade, bool]
reveal_type(ReadyMade.always.get_or_create())  # tuple[ReadyMade, bool]
reveal_type(ReadyMade.non_atomic.get_or_create())  # tuple[ReadyMade, bool]
reveal_type(ReadyMade.all_three.get_or_create())  # tuple[ReadyMade, bool]
reveal_type(ReadyMade.all_three.filter().get_or_create())  # tuple[ReadyMade, bool]
"""
BULK_USES = """
reveal_type(Tag.objects.bulk_get_or_create([{"name": "x"}]))  # list[tuple[Tag, bool]]
reveal_type(Tag.objects.ibulk_get_or_create([]))  # typing.Iterator[tuple[Tag, bool]]

async def bulk() -> None:
    reveal_type(await Tag.objects.abulk_get_or_create([]))  # list[tuple[Tag, bool]]
"""
INVALIDATION_USES = """
Tag.objects.invalidate(1, Tag(pk=2))
Tag.objects.invalidate_all()

async def invalidate() -> None:
    await Tag.objects.ainvalidate(1)
    await Tag.objects.ainvalidate_all()
"""


def test_ready_made_querysets_as_managers(tmp_path):
    """
    Without a cache: from it mypy takes the package without the managers that
    the plugin made of its querysets, as for those of any package.
    """
    project = project_of("Plus", tmp_path)
    for name, text in (("models", READY_MADE_MODEL), ("uses", READY_MADE_USES)):
        file = project / f"shop/{name}.py"
        file.write_text(file.read_text() + text)
    check(project, os.devnull)


@pytest.mark.parametrize("kind", KINDS)
def test_batches(kind, tmp_path, cache):
    """Which plain Django has not."""
    project = project_of(kind, tmp_path)
    with (project / "shop/uses.py").open("a") as file:
        file.write(BULK_USES)
    check(project, cache)


@pytest.mark.parametrize("kind", ["Cached", "Plus"])
def test_invalidation(kind, tmp_path, cache):
    project = project_of(kind, tmp_path)
    with (project / "shop/uses.py").open("a") as file:
        file.write(INVALIDATION_USES)
    check(project, cache)


def pyright_errors(project):
    output = run("pyright", "--outputjson", "--pythonpath", sys.executable, cwd=project)
    return Counter(
        (Path(found["file"]).name, found["rule"])
        for found in json.loads(output)["generalDiagnostics"]
        if found["severity"] == "error"
    )


def test_pyright_sees_no_more_errors_than_with_plain_managers(tmp_path):
    plain = pyright_errors(project_of("Plain", tmp_path))
    # It does not follow from_queryset(), nor the names of related managers.
    assert plain["uses.py", "reportAttributeAccessIssue"]
    for kind in KINDS:
        assert pyright_errors(project_of(kind, tmp_path)) - plain == {}, kind


def test_stubs_are_what_the_modules_are():
    output = run(
        "mypy.stubtest",
        "--concise",
        "--allowlist",
        PROJECT / "stubtest.txt",
        "getorcreateplus.managers",
        "getorcreateplus.query",
        cwd=PROJECT,
    )
    assert output == ""
