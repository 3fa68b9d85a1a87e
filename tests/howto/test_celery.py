"""docs/howto/celery.rst, with a real worker, and Redis as its broker."""

import pytest

pytestmark = pytest.mark.slow

# What a web server does, beside the worker.
PROGRAM = """
    from celery.result import AsyncResult
    from celery.signals import before_task_publish
    from getorcreateplus.statistics import Statistics
    from shop.models import Tag
    from shop.tasks import receive, report
    from shop.views import use

    sent = []

    @before_task_publish.connect
    def note(headers, **kwargs):
        sent.append(headers["id"])

    assert receive.delay(["django", "python"]).get(timeout=60) == 2
    assert receive.delay(["django", "python", "sql"]).get(timeout=60) == 1

    # The worker has put them into the cache.
    with Statistics() as statistics:
        tag, created = Tag.objects.get_or_create(name="django")
        assert (created, statistics.total.hits) == (False, 1)

    # Each child of the worker reads what this process has written last.
    for uses in range(1, 9):
        tag.uses = uses
        tag.save()
        results = [report.delay("django") for _ in range(4)]
        assert [result.get(timeout=60) for result in results] == [uses] * 4

    # The task is sent after the commit.
    for uses in range(11, 19):
        use("django", uses)
        assert AsyncResult(sent[-1]).get(timeout=60) == uses
"""


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_worker_and_web_server_read_what_the_other_writes(howto, pool):
    project = howto("celery.rst")
    command = project.command("celery")
    command[command.index("prefork")] = pool
    with project.running(command, listens=False):
        project.check(PROGRAM)
