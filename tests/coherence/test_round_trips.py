"""The cost of a call: its queries and its cache commands."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence.transports import transport_of
from getorcreateplus.coherence.transports.redis import RedisTransport
from getorcreateplus.test import CaptureCacheCommands

from ..models import Sheet


@pytest.fixture
def cost():
    """Return a function that returns queries and round trips of a call."""

    def run(call):
        with (
            CaptureQueriesContext(connection) as queries,
            CaptureCacheCommands() as made,
        ):
            call()
        return len(queries), [command.method for command in made]

    return run


@pytest.mark.shared_cache
@pytest.mark.django_db(transaction=True)
class TestRoundTrips:
    """With one alias for lookups and rows."""

    def read(self):
        return Sheet.objects.get_or_create(title="a")

    @pytest.fixture(autouse=True)
    def is_redis(self):
        Sheet.objects.get_or_create(title="another")
        self.is_redis = type(transport_of("default")) is RedisTransport

    def test_miss(self, cost):
        Sheet._base_manager.create(title="a")
        steps = ["vouch_and_fill"] if self.is_redis else ["vouch", "fill"]
        assert cost(self.read) == (1, ["look", *steps])
        assert cost(self.read) == (0, ["look"])

    def test_miss_by_primary_key(self, cost):
        pk = Sheet._base_manager.create(title="a").pk
        read = lambda: Sheet.objects.get_or_create(pk=pk)  # noqa: E731
        steps = ["vouch_and_fill"] if self.is_redis else ["observe", "fill"]
        assert cost(read) == (1, ["look", *steps])
        assert cost(read) == (0, ["look"])

    def test_miss_after_a_write(self, cost):
        obj, _ = self.read()
        obj.save()
        assert cost(self.read) == (1, ["look", "fill"])
        assert cost(self.read) == (0, ["look"])

    def test_another_lookup_of_a_row_that_is_known(self, cost):
        obj, _ = self.read()
        read = lambda: Sheet.objects.get_or_create(title="a", pages=obj.pages)  # noqa: E731
        steps = ["vouch_and_fill"] if self.is_redis else ["vouch", "fill"]
        assert cost(read) == (1, ["look", *steps])
        assert cost(read) == (0, ["look"])
        assert cost(self.read) == (0, ["look"])

    def test_process_that_is_new(self, cost):
        self.read()
        memory.hints.clear()
        assert cost(self.read) == (0, ["look"] * (2 - self.is_redis))

    def test_write(self, cost):
        obj, _ = self.read()
        assert cost(obj.save) == (1, ["lock", "release"])

    def test_create(self, cost):
        steps = ["vouch_and_fill"] if self.is_redis else ["vouch", "fill"]
        assert cost(self.read)[1] == ["look", *steps]
        assert cost(self.read) == (0, ["look"])
