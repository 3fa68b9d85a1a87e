"""docs/howto/asgi.rst, with Uvicorn and Daphne."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.slow

# What another process of the project sees and does.
PROGRAM = """
    from getorcreateplus.statistics import Statistics
    from shop.models import Tag

    with Statistics() as statistics:
        tag, created = Tag.objects.get_or_create(name="django")
    assert (created, statistics.total.hits, tag.uses) == (False, 1, 20)
    tag.uses = 21
    tag.save()
"""


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_server_and_other_process_read_what_the_other_writes(howto, server):
    project = howto("asgi.rst")

    def uses_at(path):
        return json.loads(project.get(path))["uses"]

    with (
        project.running(project.command(server)),
        ThreadPoolExecutor(8) as threads,
    ):
        assert uses_at("/tags/django/") == 0
        for uses in range(1, 21):
            assert uses_at(f"/tags/django/{uses}/") == uses
            found = threads.map(uses_at, ["/tags/django/"] * 8)
            assert list(found) == [uses] * 8
        project.check(PROGRAM)
        assert uses_at("/tags/django/") == 21
