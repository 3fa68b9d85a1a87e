"""
The fixtures of getorcreateplus.test, for pytest.

They are outside the package, because pytest imports its plugins at every
start, and the package imports Django.
"""

import pytest


@pytest.fixture
def assert_cache_hits():
    """Assert the number of hits: `with assert_cache_hits(2):`."""
    from getorcreateplus.test import assert_cache_hits

    return assert_cache_hits


@pytest.fixture
def assert_cache_misses():
    """Assert the number of misses: `with assert_cache_misses(0):`."""
    from getorcreateplus.test import assert_cache_misses

    return assert_cache_misses


@pytest.fixture
def assert_cache_commands():
    """Assert the number of commands: `with assert_cache_commands(1):`."""
    from getorcreateplus.test import assert_cache_commands

    return assert_cache_commands


@pytest.fixture
def caching_off():
    """Make get_or_create() query the database in this test, in all threads."""
    from getorcreateplus.test import caching_off

    with caching_off():
        yield
