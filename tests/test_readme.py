import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*args):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.readme", *args],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_examples_do_what_their_comments_promise():
    result = run()
    assert result.stderr == ""
    assert result.stdout == "9 promises kept\n"


def test_broken_promise_is_noticed(tmp_path):
    copy = tmp_path / "copy.rst"
    text = (ROOT / "README.rst").read_text()
    copy.write_text(text.replace("# no query: the cache", "# 1 query"))
    result = run(str(copy))
    assert result.returncode == 1
    assert "0 queries instead of 1" in result.stderr


def test_broken_example_is_noticed(tmp_path):
    copy = tmp_path / "copy.rst"
    copy.write_text((ROOT / "README.rst").read_text().replace("obj1.save()", "1 / 0"))
    result = run(str(copy))
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
