"""
The results of type checkers for a user's project, with plain Django's managers
and with each of ours: tox -e types.
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
KINDS = ["Cached", "Always", "NonAtomic", "CachedNonAtomic", "Plus"]
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
        # A class that binds the model may be shown with the model.
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
updates = Tag.objects.bulk_update_or_create([{"name": "x"}], only_changed=True)
reveal_type(updates)  # list[tuple[Tag, bool]]

async def bulk() -> None:
    reveal_type(await Tag.objects.abulk_get_or_create([]))  # list[tuple[Tag, bool]]
    results = Tag.objects.aibulk_get_or_create([{"name": "x"}])
    reveal_type(await anext(results))  # tuple[Tag, bool]
    rows = ({"name": obj.name} async for obj, _ in results)
    reveal_type(await anext(Tag.objects.aibulk_get_or_create(rows)))  # tuple[Tag, bool]
    await results.aclose()
"""
INVALIDATION_USES = """
reveal_type(Tag.objects.refreshed().get_or_create(name="x"))  # tuple[Tag, bool]
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
    """Plain Django does not have it."""
    project = project_of(kind, tmp_path)
    with (project / "shop/uses.py").open("a") as file:
        file.write(BULK_USES)
    check(project, cache)


@pytest.mark.parametrize("kind", ["Cached", "CachedNonAtomic", "Plus"])
def test_invalidation(kind, tmp_path, cache):
    project = project_of(kind, tmp_path)
    with (project / "shop/uses.py").open("a") as file:
        file.write(INVALIDATION_USES)
    check(project, cache)


STRICT_USES = """
from django.core.management.base import CommandParser
from django.db import connection

from getorcreateplus import bypass, invalidate
from getorcreateplus.explaining import check, explain
from getorcreateplus.statistics import Statistics
from getorcreateplus.test import assert_cache_hits, caching_off
from getorcreateplus.triggers import Listener, add_arguments, create_sql, drop_sql

from .models import Tag


@bypass(Tag, "shop.Book")
def name_of(pk: int) -> str:
    return Tag.objects.get(pk=pk).name


@caching_off("shop.Tag")
def count() -> int:
    return Tag.objects.count()


def use(parser: CommandParser) -> float | None:
    invalidate(Tag)
    invalidate("shop.Tag")
    invalidate(Tag(pk=1))
    invalidate(Tag.objects.filter(pk=1), using="default")
    invalidate(Tag.objects)
    with bypass(), Statistics(own_context=True) as statistics, assert_cache_hits(0):
        reveal_type(name_of(1))  # str
        reveal_type(statistics.models["shop.Tag"].hits)  # int
        reveal_type(statistics.as_dict())  # dict[str, dict[str, Any]]
    statistics.reset()
    if explain(Tag.objects, name="x").is_hit:
        reveal_type(check(Tag.objects.all(), name="x").is_right)  # bool | None
    add_arguments(parser)
    create_sql(Tag, connection) + drop_sql(Tag, connection)
    Listener({"shop_tag": Tag}, "default").begin()
    return statistics.total.hit_ratio
"""


def test_strict(tmp_path, cache):
    """A user's code that is checked by mypy --strict may call everything."""
    project = project_of("Plus", tmp_path)
    (project / "shop/strict.py").write_text(STRICT_USES)
    args = "--strict", "--cache-dir", f"{cache}-strict", "shop/strict.py"
    *lines, verdict = run("mypy", *args, cwd=project).splitlines()
    revealed = [line.split('"')[1].replace("builtins.", "") for line in lines]
    assert revealed == re.findall(r"reveal_type\(.*  # (.+)", STRICT_USES), lines
    assert verdict.startswith("Success: no issues found")


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
