"""The memory of a process, and the cache commands that it saves."""

import time
import unittest

import pytest
from django.db import connection, transaction
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.coherence.transports.django import DjangoTransport
from getorcreateplus.writes.registry import region_of

from ..models import Paper, PlusPaper, Sheet, Zone
from ..support.caches import commands
from ..support.errors import Rollback
from ..support.threads import elsewhere

pytestmark = pytest.mark.usefixtures("cache_api")


def cost(call):
    """Return the result of the call, its queries and its cache commands."""
    results = []
    with CaptureQueriesContext(connection) as queries:
        made = commands(lambda: results.append(call()))
    return results[0], len(queries), made


@pytest.fixture
def other_process(monkeypatch):
    """Run a call like a process that remembers other rows."""

    def run(call):
        with monkeypatch.context() as patch:
            patch.setattr(memory, "hints", memory.Memory("LOCAL_HINTS"))
            patch.setattr(memory, "rows", memory.Rows("LOCAL_ROWS"))
            return call()

    return run


def warm(model):
    """Create the entries of the model, and none of the row."""
    model.objects.get_or_create(title="another")
    return model.objects.create(title="a")


@pytest.mark.django_db(transaction=True)
class TestCommands:
    """
    Paper's rows have their own cache, Sheet's rows are in the default cache.
    """

    @pytest.mark.parametrize("model", [Paper, Sheet, PlusPaper])
    def test_hit_is_one_command(self, model):
        obj, _ = model.objects.get_or_create(title="a")
        for lookup in {"title": "a"}, {"pk": obj.pk}, {"title": "a", "pages": None}:
            model.objects.get_or_create(**lookup)
            model.objects.get_or_create(**lookup)
            (hit, created), queries, commands = cost(
                lambda lookup=lookup: model.objects.get_or_create(**lookup)
            )
            assert (hit, created, queries) == (obj, False, 0)
            assert commands == ["get_many"]

    @pytest.mark.parametrize("model", [Paper, Sheet])
    def test_hit_of_a_process_that_is_new(self, model, other_process):
        model.objects.get_or_create(title="a")
        _, queries, commands = cost(
            lambda: other_process(lambda: model.objects.get_or_create(title="a"))
        )
        assert (queries, commands) == (0, ["get_many"] * 2)

    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            (Sheet, ["get_many", "add", "get_many", "set_many"]),
            (
                Paper,
                ["get_many", "get_many", "add", "get_many", "set_many", "set_many"],
            ),
        ],
    )
    def test_miss(self, model, expected):
        warm(model)
        _, queries, commands = cost(lambda: model.objects.get_or_create(title="a"))
        assert (queries, commands) == (1, expected)

    def test_miss_of_a_row_that_has_a_version(self):
        warm(Sheet).save()
        _, queries, commands = cost(lambda: Sheet.objects.get_or_create(title="a"))
        assert queries == 1
        assert commands == ["get_many", "add", "get_many", "set_many"]

    def test_several_servers(self, monkeypatch):
        """
        With a cache that does not guarantee the order of keys in a command.
        """
        monkeypatch.setattr(DjangoTransport, "keeps_order", lambda transport: False)
        warm(Sheet).save()
        _, queries, commands = cost(lambda: Sheet.objects.get_or_create(title="a"))
        assert queries == 1
        assert commands == ["get_many", "add", "get_many", "get_many", "set_many"]
        assert cost(lambda: Sheet.objects.get_or_create(title="a"))[1:] == (
            0,
            ["get_many"],
        )

    @pytest.mark.parametrize("lookup", [{"title": "a"}, {"pk": 7}])
    @pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
    def test_created_row_is_a_hit(self, method, lookup):
        Sheet.objects.get_or_create(title="another")
        obj, created = getattr(Sheet.objects, method)(**lookup)
        assert created
        hit = cost(lambda: Sheet.objects.get_or_create(**lookup))
        assert hit == ((obj, False), 0, ["get_many"])

    @pytest.mark.parametrize(("model", "most"), [(Sheet, 2), (Paper, 2)])
    def test_miss_of_a_row_that_was_written(self, model, most):
        obj, _ = model.objects.get_or_create(title="a")
        obj.save()
        _, queries, commands = cost(lambda: model.objects.get_or_create(title="a"))
        assert queries == 1
        assert commands == ["get_many"] * (most - 1) + ["set_many"]

    def test_hint_that_is_out_of_date(self, other_process):
        """Another process has replaced this row."""

        def replace():
            Sheet.objects.get(title="a").delete()
            return Sheet.objects.get_or_create(title="a", defaults={"pages": 2})[0]

        Sheet.objects.get_or_create(title="a", defaults={"pages": 1})
        new = other_process(replace)
        (obj, _), queries, commands = cost(
            lambda: Sheet.objects.get_or_create(title="a")
        )
        assert (obj, obj.pages, queries) == (new, 2, 1)
        assert commands == ["get_many"]
        # The hint leads to it, and not the memory of the process.
        assert cost(lambda: Sheet.objects.get_or_create(title="a"))[1:] == (
            0,
            ["get_many"] * 2,
        )
        assert cost(lambda: Sheet.objects.get_or_create(title="a"))[1:] == (
            0,
            ["get_many"],
        )

    def test_save(self):
        sheet, _ = Sheet.objects.get_or_create(title="a")
        assert cost(sheet.save)[1:] == (1, ["set_many", "set_many"])

    def test_update(self):
        Sheet.objects.bulk_create(Sheet(title=f"{i}") for i in range(50))
        _, queries, commands = cost(lambda: Sheet.objects.update(pages=1))
        assert (queries, commands) == (1, ["set_many", "set_many"])


@pytest.mark.django_db
class TestHints:
    @pytest.mark.parametrize(("bound", "commands"), [(0, 2), (1, 2), (2, 1)])
    def test_they_are_bounded(self, bound, commands):
        with override_settings(GETORCREATEPLUS_LOCAL_HINTS=bound):
            for _ in range(2):
                for title in "ab":
                    Sheet.objects.get_or_create(title=title)
            assert len(memory.hints.entries) == bound
            _, queries, made = cost(lambda: Sheet.objects.get_or_create(title="a"))
        assert (queries, made) == (0, ["get_many"] * commands)


class TestLocalTimeout:
    pytestmark = pytest.mark.django_db(transaction=True)

    @pytest.fixture(autouse=True)
    def zone(self, db, cache_api):
        Zone.objects.get_or_create(name="a", defaults={"size": 1, "notes": [1]})
        zone, _ = Zone.objects.get_or_create(name="a")
        return zone

    def seen(self, manager=Zone.objects, **lookup):
        (zone, created), queries, commands = cost(
            lambda: manager.get_or_create(**lookup or {"name": "a"})
        )
        assert not created
        return zone.size, queries + len(commands)

    def test_row_is_served_from_memory(self, zone):
        assert self.seen() == (1, 0)
        assert self.seen(pk=zone.pk) == (1, 0)
        assert self.seen(Zone.forever) == (1, 0)

    @pytest.mark.database("postgresql", "mysql")
    @pytest.mark.parametrize("by_batch", [True, False])
    def test_time_is_that_of_the_read(self, zone, by_batch, monkeypatch):
        """A transaction keeps its rows at its commit, perhaps much later."""
        Zone.objects.invalidate_all()
        memory.rows.clear()
        monkeypatch.setattr(time, "monotonic", lambda: now)
        now = 1000
        with transaction.atomic():
            if by_batch:
                Zone.objects.bulk_get_or_create([{"name": "a"}], ["name"])
            else:
                Zone.objects.get_or_create(name="a")
            now += 7
        [(began, _)] = memory.rows.entries.values()
        assert began == 1000

    def test_time_is_the_reader_s(self):
        assert self.seen(Zone.brief) == (1, 1)

    def test_hit_is_a_fresh_instance(self):
        one, _ = Zone.objects.get_or_create(name="a")
        one.size = 5
        one.notes.append(2)
        two, _ = Zone.objects.get_or_create(name="a")
        assert (two.size, two.notes) == (1, [1])
        assert (two._state.adding, two._state.db) == (False, "default")

    @pytest.mark.parametrize(
        "write",
        [
            lambda zone: zone.save(),
            lambda zone: Zone.objects.update(size=2),
            lambda zone: Zone.plain.filter(pk=zone.pk).update(size=2),
            lambda zone: Zone.objects.update_or_create(
                name="a", defaults={"size": zone.size}
            ),
        ],
    )
    @pytest.mark.parametrize("in_transaction", [False, True])
    def test_own_write_is_seen_at_once(self, zone, write, in_transaction):
        zone.size = 2
        if in_transaction:
            with transaction.atomic():
                write(zone)
                assert self.seen()[0] == 2
        else:
            write(zone)
        assert self.seen()[0] == 2
        assert elsewhere(self.seen)[0] == 2
        assert self.seen() == (2, 0)

    def test_own_delete_is_seen_at_once(self, zone):
        zone.delete()
        _, created = Zone.objects.get_or_create(name="a")
        assert created

    def test_write_of_another_process_is_seen_later(self, zone, other_process):
        zone.size = 2
        other_process(zone.save)
        assert self.seen() == (1, 0)
        assert self.seen(Zone.brief)[0] == 2

    def test_rolled_back_row_is_not_kept(self, zone):
        with pytest.raises(Rollback), transaction.atomic():
            zone.size = 2
            zone.save()
            assert self.seen()[0] == 2
            Zone.objects.get_or_create(name="b")
            Zone.objects.get_or_create(name="b")
            raise Rollback
        assert self.seen()[0] == 1
        assert not Zone.plain.filter(name="b").exists()
        assert Zone.objects.get_or_create(name="b")[1]

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_row_is_not_kept_before_its_commit(self, zone, end):
        """It is published by a transaction that has locked it already."""
        try:
            with transaction.atomic():
                zone.size = 2
                zone.save()
                Zone.objects.update_or_create(name="a", defaults={"size": 3})
                assert self.seen()[0] == 3
                assert not memory.rows.entries
                if end == "rollback":
                    raise Rollback
        except Rollback:
            assert self.seen()[0] == 1
        else:
            assert self.seen()[0] == 3

    def test_what_was_read_beside_a_write_is_not_kept(self, zone, monkeypatch):
        """A thread reads the cache, another one writes, the first goes on."""
        memory.rows.clear()
        store = region_of(Zone.objects.all()).client
        look = store.look

        def write_after(keys):
            entries = look(keys)
            monkeypatch.setattr(store, "look", look)
            zone.size = 2
            zone.save()
            return entries

        monkeypatch.setattr(store, "look", write_after)
        # It began before the write, and may be as old.
        assert self.seen()[0] == 1
        assert self.seen()[0] == 2

    def test_rows_are_bounded(self):
        with override_settings(GETORCREATEPLUS_LOCAL_ROWS=1):
            for name in "ab":
                Zone.objects.get_or_create(name=name)
                Zone.objects.get_or_create(name=name)
            assert len(memory.rows.entries) == 1
            assert self.seen() == (1, 1)
        with override_settings(GETORCREATEPLUS_LOCAL_ROWS=0):
            self.seen()
            assert self.seen() == (1, 1)


@pytest.mark.django_db
def test_nothing_of_one_test_is_remembered_in_the_next():
    class Tests(TestCase):
        def test_1(self):
            Zone.objects.get_or_create(name="a", defaults={"size": 1})
            Zone.objects.get_or_create(name="a")
            with CaptureQueriesContext(connection) as queries:
                zone, _ = Zone.objects.get_or_create(name="a")
            assert (zone.size, len(queries)) == (1, 0)

        test_2 = test_1

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Tests).run(result)
    assert result.testsRun == 2
    assert not result.errors + result.failures
