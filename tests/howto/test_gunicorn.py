"""docs/howto/gunicorn.rst: two workers, whose parent has used the cache."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_workers_read_what_the_other_one_writes(howto):
    project = howto("gunicorn.rst")
    with project.running(project.command("gunicorn")):
        assert json.loads(project.get("/tags/django/"))["uses"] == 0
        for uses in range(1, 20, 2):
            writer = json.loads(project.get(f"/tags/django/{uses}/"))["worker"]
            # One of the two waits, so that the other one answers.
            with project.one_worker_busy("/tags/django/") as answers:
                one = json.loads(project.get("/tags/django/"))
                project.get(f"/tags/django/{uses + 1}/")
            other = json.loads(answers[0])
            assert one["worker"] != other["worker"]
            assert writer in {one["worker"], other["worker"]}
            assert (one["uses"], other["uses"]) == (uses, uses + 1)
