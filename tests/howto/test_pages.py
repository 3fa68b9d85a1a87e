"""Each page of docs/howto/ has a test, which runs all of its code."""

import re
from pathlib import Path

import pytest

from ..readme import blocks
from .projects import PAGES, file_of

NAMES = sorted(path.name for path in PAGES.glob("*.rst"))


@pytest.mark.parametrize("name", NAMES)
def test_each_block_names_its_file(name):
    """Those of other languages are commands, or not for Python."""
    text = (PAGES / name).read_text()
    found = [*blocks(text), *blocks(text, "ini")]
    assert found
    for block in found:
        assert file_of(block), block.source
    languages = set(re.findall(r"^ *\.\. code-block:: (\w+)$", text, re.MULTILINE))
    assert languages <= {"console", "ini", "python", "text"}


def test_each_page_has_a_test_and_is_listed():
    names = {name.removesuffix(".rst") for name in NAMES} - {"index"}
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    assert {f"test_{name}" for name in names} == tests - {
        "test_pages",
        "test_questions",
    }
    index = (PAGES / "index.rst").read_text()
    assert set(re.findall(r"<(\w+)\.rst>`__", index)) == names
    assert set(re.findall(r"^    (\w+)$", index, re.MULTILINE)) == names
