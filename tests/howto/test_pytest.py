"""docs/howto/pytest.rst: tests of a project, on the Redis of its server."""

import re

import pytest

pytestmark = pytest.mark.slow

# The development server has rows of the names that the tests use.
PROGRAM = """
    from shop.models import Tag

    for name in ("django", "python"):
        Tag.objects.update_or_create(name=name, defaults={"uses": 99})
        Tag.objects.get_or_create(name=name)
"""
PROGRAM_AFTERWARDS = """
    from getorcreateplus.statistics import Statistics
    from shop.models import Tag

    with Statistics() as statistics:
        for name in ("django", "python"):
            tag, created = Tag.objects.get_or_create(name=name)
            assert (tag.uses, created) == (99, False)
    assert statistics.total.hits == 2
"""


@pytest.mark.parametrize(
    ("command", "runs"), [("python -m pytest -n", 1), ("python -m pytest --reuse", 2)]
)
def test_tests_and_server_share_a_redis(howto, command, runs):
    project = howto("pytest.rst")
    project.check(PROGRAM)
    for _ in range(runs):
        output = project.run([*project.command(command), "-p", "no:cacheprovider"])
        assert re.search(r"^=+ 8 passed in .*=+$", output, re.MULTILINE), output
    project.check(PROGRAM_AFTERWARDS)
