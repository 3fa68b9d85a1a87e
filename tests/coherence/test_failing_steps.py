"""Steps of several commands: a read fails in one, or a token does not stay."""

import uuid

import pytest
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection, models
from django.test import TestCase, override_settings

from getorcreateplus.coherence import clients
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.test import CaptureLookups

from ..models import Paper, PlusItem

TITLES = ["a", "b", "c"]


class StepCache(LocMemCache):
    """Its commands fail on demand, and are counted."""

    failing_look = None  # the exception of the next get_many()
    adds = True
    commands = 0

    def get_many(self, *args, **kwargs):
        StepCache.commands += 1
        failure, StepCache.failing_look = StepCache.failing_look, None
        if failure is not None:
            raise failure
        return super().get_many(*args, **kwargs)

    def add(self, *args, **kwargs):
        StepCache.commands += 1
        return StepCache.adds and super().add(*args, **kwargs)


@pytest.fixture
def step_cache(monkeypatch):
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    monkeypatch.setattr(StepCache, "failing_look", None)
    monkeypatch.setattr(StepCache, "adds", True)
    monkeypatch.setattr(StepCache, "commands", 0)
    backend = {
        "BACKEND": f"{__name__}.StepCache",
        "LOCATION": uuid.uuid4().hex,
    }
    with override_settings(CACHES={"default": backend}):
        yield clients.by_alias["default"]


def create(count):
    models.QuerySet(Paper).bulk_create(
        [Paper(title=f"{number}", pages=1) for number in range(count)]
    )
    return [{"title": f"{number}"} for number in range(count)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("failure", [ConnectionError("once"), TypeError("garbage")])
@pytest.mark.parametrize("in_bulk", [True, False])
def test_look_that_fails_after_the_select_is_no_refusal(step_cache, failure, in_bulk):
    rows = create(3)

    def fail_after(execute, *args):
        result = execute(*args)
        StepCache.failing_look = failure
        return result

    with connection.execute_wrapper(fail_after):
        if in_bulk:
            found = Paper.objects.bulk_get_or_create(rows, ["title"])
        else:
            found = [Paper.objects.get_or_create(title="0")]
    assert not any(created for _, created in found)
    StepCache.failing_look = None
    assert not step_cache.refuses
    assert step_cache.down_until is None


@pytest.mark.django_db(transaction=True)
def test_cache_that_keeps_no_token_is_asked_a_few_times(step_cache):
    rows = create(50)
    StepCache.adds = False
    Paper.objects.bulk_get_or_create(rows, ["title"])
    assert StepCache.commands < 15
    StepCache.commands = 0
    Paper.objects.get_or_create(title="0")
    assert StepCache.commands < 15


class TestLockOfAnEarlierTestCase(TestCase):
    """It does not count as a LOCK, and does not stay for its timeout."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.codes = ["a", "b"]

    def lock(self):
        """Leave the LOCK of a TestCase's transaction that has ended."""
        models.QuerySet(PlusItem).bulk_create([PlusItem(code=c) for c in self.codes])
        PlusItem.objects.bulk_get_or_create([{"code": c} for c in self.codes])
        region = PlusItem.objects.none()._begin_batch().region
        region.client.announce({region.epoch_key: "test1234.LOCK"}, None)
        memory.hints.clear()

    def test_batch(self):
        self.lock()
        rows = [{"code": code} for code in self.codes]
        for expected in (2, 0):
            with CaptureLookups() as lookups:
                PlusItem.objects.bulk_get_or_create(rows)
            assert sum(not each.is_hit for each in lookups) == expected

    def test_single(self):
        self.lock()
        for expected in (1, 0):
            with CaptureLookups() as lookups:
                PlusItem.objects.get_or_create(code="a")
            assert sum(not each.is_hit for each in lookups) == expected
