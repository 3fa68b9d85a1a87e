"""Fixtures of the tests of the how-to pages."""

import pytest

from ..support.servers import redis_server
from .projects import HowtoProject


@pytest.fixture
def redis():
    with redis_server() as location:
        yield location


@pytest.fixture
def howto(tmp_path, redis):
    """Return a function that makes the project of a page, with its tables."""

    def make(page, migrate=True):
        project = HowtoProject(page, tmp_path, redis)
        if migrate:
            project.manage("migrate", "--run-syncdb", "--verbosity", "0")
        return project

    return make
