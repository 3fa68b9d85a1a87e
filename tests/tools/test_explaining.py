"""explain() predicts the result of the call, and its signals."""

import datetime
import json
from uuid import UUID

import pytest
from django.core.cache import caches
from django.db import connection, models, transaction
from django.db.models import F

from getorcreateplus import CachedQuerySet, bypass
from getorcreateplus.coherence import clients, transactions
from getorcreateplus.coherence import process_memory as memory
from getorcreateplus.explaining import check, explain, from_text, pk_from_text
from getorcreateplus.signals import Reason, Source
from getorcreateplus.test import CaptureCacheCommands
from getorcreateplus.writes.registry import region_of

from ..models import (
    Composite,
    Converted,
    Ordinary,
    Paper,
    PlainPaper,
    Poster,
    Rack,
    Rare,
    Sheet,
    Slot,
    Target,
    Ticket,
    Unique,
    Zone,
)
from ..support.caches import Backend, BrokenCache, every_cache
from ..support.databases import isolation
from ..support.queries import count
from ..support.signals import entries, signals_of, warm_row
from ..support.sql import behind_the_back

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)


class UnreadableCache(Backend):
    def get_many(self, keys, *args, **kwargs):
        if any("@epoch" in key for key in keys):
            raise ValueError("unsupported pickle protocol: 9")
        return super().get_many(keys, *args, **kwargs)


def remembered():
    return dict(memory.hints.entries), dict(memory.rows.entries)


def explained(source, /, **lookup):
    """Return an Explanation, which has changed nothing."""
    before = remembered()
    with CaptureCacheCommands() as commands:
        found, queries = count(lambda: explain(source, **lookup))
    assert queries == 0
    assert {command.method for command in commands} <= {"get_many", "look"}
    assert remembered() == before
    assert explain(source, **lookup) == found
    assert max(map(len, str(found).splitlines())) <= 80
    assert json.loads(json.dumps(found.as_dict()))["call"] == found.call
    return found


def foretold(source, /, **lookup):
    """Return an Explanation, after the call has done the same."""
    found = explained(source, **lookup)
    [(signal, model, arguments), *_] = signals_of(
        lambda: source.get_or_create(**lookup)
    )
    assert signal == ("hit" if found.is_hit else "miss")
    assert model._meta.label == found.model
    if found.is_hit:
        assert arguments == {"lookup": found.lookup, "source": found.source}
    else:
        assert arguments["reason"] == found.reason
        assert arguments["lookup"] == (found.lookup or lookup)
    return found


def held(found):
    return {entry.kind: entry.holds for entry in found.entries}


def set_version(obj, value):
    region, _, version = entries(obj)
    prefix = transactions.token_prefix("default")
    token = prefix + value if value == "LOCK" else region.new_token(prefix, version)
    region.client.announce({version: token}, 60)


class TestOutcome:
    def test_no_hint(self):
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.NO_HINT
        assert found.lookup == {"title": "a"}
        assert held(found) == {
            "hint": "nothing",
            "payload": "unknown without a hint",
            "version": "unknown without a hint",
            "epoch": "nothing",
        }
        assert Paper.objects.count() == 1

    def test_hit(self):
        obj = warm_row()
        found = foretold(Paper.objects, title="a")
        assert found.source is Source.CACHE
        assert found.pk == str(obj.pk)
        assert found.values == {
            "id": obj.pk,
            "title": "a",
            "pages": None,
            "hidden": False,
            "rack_id": None,
        }
        hint, payload, *_ = found.entries
        assert (hint.alias, hint.holds) == ("default", f"primary key {obj.pk}")
        assert caches["default"].get(hint.key) == str(obj.pk)
        assert (payload.alias, payload.key) == ("paper", str(obj.pk))
        assert payload.values == found.values

    def test_hit_by_another_process(self):
        """The other processes do not have what this one remembers."""
        obj = warm_row()
        memory.hints.clear()
        found = foretold(Paper.objects, title="a")
        assert found.is_hit
        assert held(found)["hint"] == f"primary key {obj.pk}"

    def test_hit_by_what_the_process_remembers(self):
        obj = warm_row()
        [hint, *_] = explain(Paper.objects, title="a").entries
        caches["default"].delete(hint.key)
        found = foretold(Paper.objects, title="a")
        assert found.is_hit
        assert held(found)["hint"] == f"nothing; this process remembers {obj.pk}"

    def test_primary_key_needs_no_hint(self):
        obj = warm_row()
        found = foretold(Paper.objects, pk=obj.pk)
        assert found.is_hit
        assert [entry.kind for entry in found.entries] == [
            "payload",
            "version",
            "epoch",
        ]

    def test_rows_in_the_cache_of_the_lookups(self):
        obj = warm_row(Sheet)
        memory.hints.clear()
        found = foretold(Sheet.objects, title="a")
        assert found.is_hit
        assert {entry.alias for entry in found.entries} == {"default"}
        assert found.pk == str(obj.pk)

    def test_composite_key(self):
        Slot.objects.get_or_create(room=1, hour=2)
        found = foretold(Slot.objects, pk=(1, 2))
        assert found.lookup == {"room": 1, "hour": 2}
        assert found.is_hit

    def test_memory(self):
        warm_row(Zone, name="a")
        found = foretold(Zone.objects, name="a")
        assert found.source is Source.MEMORY

    def test_row_that_was_dropped(self):
        caches["paper"].delete(warm_row().pk)
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.NO_ROW
        assert held(found)["payload"] == "nothing"

    def test_lock_of_a_row(self):
        obj = warm_row()
        set_version(obj, "LOCK")
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.LOCKED
        assert held(found)["version"] == "LOCK"
        assert f"`getorcreateplus invalidate tests.Paper {obj.pk}`" in found.remedy
        assert "600 s" in found.remedy

    def test_lock_of_all_rows(self):
        region, *_ = entries(warm_row())
        region.client.announce(
            {region.epoch_key: transactions.token_prefix("default") + "LOCK"}, 60
        )
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.LOCKED
        assert held(found)["epoch"] == "LOCK"
        assert "`getorcreateplus invalidate tests.Paper --all`" in found.remedy

    def test_stamp(self):
        set_version(warm_row(), "another token")
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.STAMP

    def test_fields(self):
        region, payload, _ = entries(warm_row())
        stamp, _, *rest = region.client.look([payload])[payload]
        region.client.announce({payload: (stamp, "another", *rest)}, 60)
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.FIELDS
        assert found.entries[1].values is None

    def test_row_that_is_another(self):
        obj = warm_row()
        obj.title = "b"
        obj.save()
        warm_row(title="b")
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.LOOKUP
        assert found.entries[1].values["title"] == "b"

    def test_what_is_no_payload(self):
        region, payload, _ = entries(warm_row())
        region.client.announce({payload: "something"}, 60)
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.ERROR
        assert held(found)["payload"] == "not a row: 'something'"

    def test_payload_of_another_release(self):
        """Release 1.0 stored no mark."""
        region, payload, _ = entries(warm_row())
        *parts, _ = region.client.look([payload])[payload]
        region.client.announce({payload: tuple(parts)}, 60)
        assert foretold(Paper.objects, title="a").reason is Reason.FIELDS

    def test_token_of_elsewhere(self):
        region, _, version = entries(warm_row())
        region.client.announce({version: "else.where"}, 60)
        found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.NO_ROW
        assert held(found)["version"].startswith("'else.where', not a token of this")

    def test_entry_that_is_unreadable(self):
        obj = Paper.objects.create(title="a")
        with every_cache(UnreadableCache, "paper"):
            found = foretold(Paper.objects, pk=obj.pk)
        assert found.reason is Reason.ERROR
        assert held(found) == {
            "payload": "nothing",
            "version": "nothing",
            "epoch": "unreadable: ValueError('unsupported pickle protocol: 9')",
        }
        assert found.why == "The cache's entry cannot be read."
        assert found.next.endswith("It deletes the unreadable entry.")

    @pytest.mark.parametrize(
        ("aliases", "holds"),
        [
            ((), "no answer"),
            (("default",), "no answer"),
            (("paper",), "nothing"),
        ],
    )
    def test_cache_that_fails(self, aliases, holds, caplog):
        with every_cache(BrokenCache, *aliases):
            found = explained(Paper.objects, title="a")
            assert clients.by_alias["default"].down_until is None
            assert caplog.records == []
            assert foretold(Paper.objects, title="a").reason is Reason.ERROR
        assert found.why == "The cache does not answer. It failed: OSError: refused"
        assert held(found)["hint"] == holds

    def test_cache_that_fails_is_read_twice(self):
        """As a call does: again, on a new connection."""
        memory.hints.put((region_of(Paper.objects.all()), (("title", "a"),)), "1")
        with every_cache(BrokenCache, "paper"):
            before = BrokenCache.asked
            explain(Paper.objects, title="a")
            assert BrokenCache.asked == before + 2

    def test_cache_that_is_not_used(self):
        with every_cache(BrokenCache):
            Sheet.objects.get_or_create(title="a")
            asked = BrokenCache.asked
            found = explained(Sheet.objects, title="a")
            assert BrokenCache.asked == asked
        assert found.reason is Reason.ERROR
        assert "It failed, and is not used for" in found.why

    def test_cache_that_is_tried_again(self, monkeypatch):
        """Without debts, the next command reads it as usual."""
        with every_cache(BrokenCache):
            monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 0)
            explain(Sheet.objects, title="a")
            clients.by_alias["default"].mark_down(OSError())
            asked = BrokenCache.asked
            found = explain(Sheet.objects, title="a")
            assert BrokenCache.asked == asked + 2
        assert found.why == "The cache does not answer. It failed: OSError: refused"

    def test_forced(self):
        warm_row()
        found = foretold(Paper.objects, force_select=True, title="a")
        assert found.reason is Reason.FORCED

    def test_field_of_the_name_of_an_option(self):
        Ticket.objects.create(code="a", force_select=True)
        found = foretold(Ticket.objects, force_select=True, code="a")
        assert found.lookup == {"code": "a", "force_select": True}

    def test_filter_of_the_manager_belongs_to_it(self):
        found = foretold(Poster.objects, title="a")
        assert found.lookup == {"title": "a", "hidden": False}

    def test_related_manager(self):
        rack, _ = Rack.objects.get_or_create(name="a")
        found = foretold(rack.paper_set, title="a")
        assert found.lookup == {"title": "a", "rack_id": rack.pk}
        assert found.call.startswith("RelatedManager of tests.Paper.get_or_create(")

    def test_queryset(self):
        found = foretold(Paper.objects.filter(pages=1), title="a")
        assert found.lookup == {"title": "a", "pages": 1}
        assert found.call.startswith("CachedQuerySet of tests.Paper.get_or_create(")

    def test_anything_else(self):
        with pytest.raises(TypeError, match="takes a queryset or a manager, not 'a'"):
            explain("a", title="a")


@committed
class TestTransactions:
    def test_own_row(self):
        with transaction.atomic():
            obj, _ = Paper.objects.get_or_create(title="a")
            found = foretold(Paper.objects, title="a")
        assert found.source is Source.TRANSACTION
        assert found.pk == str(obj.pk)

    def test_own_row_that_has_to_be_read(self):
        obj = warm_row()
        with transaction.atomic():
            obj.save()
            found = foretold(Paper.objects, title="a")
        assert found.reason is Reason.TRANSACTION

    def test_transaction_that_is_broken(self):
        warm_row()
        with transaction.atomic():
            transaction.set_rollback(True)
            found = explained(Paper.objects, title="a")
            transaction.set_rollback(False)
        assert found.reason is Reason.TRANSACTION
        assert found.next.startswith("It raises TransactionManagementError")

    @pytest.mark.database("postgresql", "mysql")
    def test_snapshot(self):
        warm_row()
        connection.close()
        with isolation("repeatable read"), transaction.atomic():
            found = foretold(Paper.objects, title="a")
        connection.close()
        assert found.reason is Reason.TRANSACTION

    def test_outside_of_one_there_is_no_connection(self):
        warm_row()
        connection.close()
        assert explain(Paper.objects, title="a").is_hit
        assert connection.connection is None


NAIVE = datetime.datetime(2020, 1, 1)  # noqa: DTZ001 - it is about that


class TestObstacles:
    """Why a lookup does not use the cache."""

    @pytest.mark.parametrize(
        ("source", "lookup", "why"),
        [
            (Paper.objects, {}, "The call has no arguments."),
            (Paper.objects, {"title__iexact": "a"}, "title__iexact is not an equality"),
            (Paper.objects, {"rack__name": "a"}, "rack__name queries another table."),
            (
                Paper.objects,
                {"pages": F("id")},
                "pages: F(id) is an expression, which the database evaluates.",
            ),
            (
                Paper.objects,
                {"pages": "many"},
                "pages: 'many' is not valid for IntegerField: Field 'pages' expected "
                "a number but got 'many'.",
            ),
            (Paper.objects, {"rack": Rack()}, "is not saved, or is an instance of"),
            (
                Paper.objects,
                {"title": ["a"]},
                "title: a list may hold expressions, or change.",
            ),
            (
                Paper.objects.filter(pages=1),
                {"pages": 2},
                "Two conditions require different values of the same column.",
            ),
            (
                Paper.objects.filter(pages__gt=1),
                {"title": "a"},
                "A filter of the queryset is not an equality on the model's own",
            ),
            (
                Paper.objects.only("title"),
                {"title": "a"},
                "The queryset is more than a filter on the model's own columns.",
            ),
            (PlainPaper.objects, {"title": "a"}, "QuerySet does not cache."),
            (Zone.plain, {"name": "a"}, "QuerySet does not cache."),
            (
                CachedQuerySet(PlainPaper),
                {"title": "a"},
                "No manager of tests.PlainPaper makes a CachedQuerySet",
            ),
            (
                Rare.objects,
                {"json": {}},
                "json: JSONField has conversions or comparisons of its own.",
            ),
            (
                Converted.objects,
                {"name": "a"},
                "name: ReversedField has conversions or comparisons of its own.",
            ),
            (
                Converted.objects,
                {"target": 1},
                "target: OddForeignKey has conversions or comparisons of its own.",
            ),
            (
                Ordinary.objects,
                {"datetime": NAIVE},
                f"datetime: {NAIVE!r} has no time zone.",
            ),
            (
                Ordinary.objects,
                {"number": float("nan")},
                "number: nan has no form that all equal values share.",
            ),
            (
                Ordinary.objects,
                {"tags": 1},
                "tags is not a column of the model's own table.",
            ),
            (Slot.objects, {"pk": 1}, "pk: 1 is not a key of (room, hour)."),
        ],
    )
    def test_why(self, source, lookup, why):
        on_sqlite = connection.vendor == "sqlite"
        if on_sqlite and "datetime" in lookup:
            why = "datetime: sqlite compares a DateTimeField in another way."
        found = explained(source, **lookup)
        assert found.reason is Reason.NOT_CACHEABLE
        assert why in found.why
        assert found.lookup is None
        assert found.remedy

    def test_signals_say_so(self):
        Paper.objects.create(title="a")
        assert foretold(Paper.objects, title__iexact="a").entries == []

    def test_unknown_field(self):
        found = explained(Paper.objects, colour="a")
        assert found.why == "colour: tests.Paper has no field 'colour'."
        assert found.next == "Django raises FieldError."
        assert found.remedy == "It has hidden, id, pages, pk, rack, title."

    @pytest.mark.parametrize(
        ("source", "lookup"),
        [
            (Paper.objects, {"colour": "a"}),
            (Paper.objects, {"title__colour": "a"}),
            (Paper.objects, {"rack__colour": "a"}),
            (Paper.objects, {"pages": "many"}),
            (Paper.objects, {"pages": [1]}),
            (Paper.objects, {"rack": Rack()}),
            (Paper.objects.all()[:1], {"title": "a"}),
            (Ordinary.objects, {"datetime": "today"}),
            (PlainPaper.objects, {"colour": "a"}),
        ],
    )
    def test_error_that_django_raises(self, source, lookup):
        with pytest.raises(Exception) as error:  # noqa: PT011 - of any class
            source.get_or_create(**lookup)
        found = explained(source, **lookup)
        assert found.next == f"Django raises {error.type.__name__}."

    @pytest.mark.parametrize(
        ("source", "lookup"),
        [
            (Paper.objects.annotate(colour=models.F("title")), {"colour": "a"}),
            (Paper.objects, {"pages": models.F("id")}),
            (Paper.objects, {"title__iexact": "a"}),
            (Paper.objects.all()[:1], {}),
        ],
    )
    def test_no_error(self, source, lookup):
        Paper.objects.create(title="a", pages=1, pk=1)
        source.get_or_create(**lookup)
        assert explained(source, **lookup).next.startswith("It queries the database")

    def test_lookup_of_a_project(self):
        class Odd(models.lookups.Exact):
            pass

        field = Paper._meta.get_field("title")
        field.register_lookup(Odd)
        try:
            found = explained(Paper.objects, title="a")
        finally:
            field._unregister_lookup(Odd)
        assert found.why == "title: its exact lookup is not one of Django's."

    def test_managers_that_cache_are_named(self):
        assert explain(Zone.plain, name="a").remedy == (
            "Use a manager that does: tests.Zone.brief, tests.Zone.forever, "
            "tests.Zone.objects."
        )

    def test_bypass(self):
        warm_row()
        with bypass():
            assert foretold(Paper.objects, title="a").reason is Reason.BYPASS


@committed
class TestCheck:
    def test_hit_that_is_right(self):
        warm_row()
        found, queries = count(lambda: check(Paper.objects, title="a"))
        assert queries == 1
        assert found.is_right
        assert found.checked == "The database has the same row."

    def test_hit_that_is_wrong(self):
        obj = warm_row()
        behind_the_back("UPDATE tests_paper SET pages = 9")
        found = check(Paper.objects, title="a")
        assert found.is_right is False
        assert found.checked == (
            "The hit is wrong: pages is None, but 9 in the database. The row was "
            "written without Django. Run `getorcreateplus invalidate tests.Paper "
            f"{obj.pk}`."
        )

    def test_hit_of_a_row_that_is_gone(self):
        warm_row()
        behind_the_back("DELETE FROM tests_paper")
        found = check(Paper.objects, title="a")
        assert found.is_right is False
        assert "the database has no such row" in found.checked

    def test_miss(self):
        found = check(Paper.objects, title="a")
        assert found.is_right
        assert "The database has no such row" in found.checked
        assert Paper.objects.count() == 0
        warm_row().save()
        assert "The database has this row" in check(Paper.objects, title="a").checked

    def test_forced(self):
        warm_row()
        found = check(Paper.objects, title="a", force_select=True)
        assert found.reason is Reason.FORCED
        assert found.is_right

    def test_lookup_that_is_not_unique(self):
        warm_row()
        Paper.objects.bulk_create([Paper(title="a")])
        found = check(Paper.objects, title="a")
        assert found.is_right is None
        assert "several such rows" in found.checked

    def test_lookup_that_cannot_be_cached(self):
        found, queries = count(lambda: check(Paper.objects, title__iexact="a"))
        assert (found.checked, queries) == ("There is nothing to compare.", 0)

    def test_row_that_is_being_written(self):
        obj = warm_row()

        class WritingQuerySet(CachedQuerySet):
            object_cache_alias = None
            lookups_as_written = True

            def filter(self, *args, **kwargs):
                Paper.objects.get(pk=obj.pk).save()
                return super().filter(*args, **kwargs)

        found = check(WritingQuerySet(Paper), title="a")
        assert found.is_right is None
        assert found.checked == "The row is being written: run the check again."


class TestText:
    @pytest.mark.parametrize(
        ("model", "argument", "text", "value"),
        [
            (Paper, "title", "a=b", "a=b"),
            (Paper, "title", "null", "null"),
            (Paper, "title__exact", "a", "a"),
            (Paper, "title__iexact", "1", "1"),
            (Paper, "pages", "7", 7),
            (Paper, "pages", "null", None),
            (Paper, "pages", "None", None),
            (Paper, "pk", "7", 7),
            (Paper, "rack", "7", 7),
            (Paper, "rack_id", "7", 7),
            (Paper, "rack__name", "7", "7"),
            (Paper, "hidden", "true", True),
            (Paper, "hidden", "False", False),
            (Target, "code", "null", "null"),
            (Ordinary, "by_code", "a", "a"),
            (Ordinary, "date", "2020-01-31", datetime.date(2020, 1, 31)),
            (Ordinary, "tags", "1", "1"),
            (Rack, "paper_set", "1", "1"),
            (Slot, "pk", "1,2", (1, 2)),
            (Slot, "pk", "[1, 2]", (1, 2)),
            (Composite, "pk", "1,2", (1, 2)),
        ],
    )
    def test_value(self, model, argument, text, value):
        found = from_text(model, argument, text)
        assert (found, type(found)) == (value, type(value))

    def test_time_is_one_of_the_current_zone(self):
        found = from_text(Ordinary, "datetime", "2020-01-31 12:00")
        assert found.isoformat() == "2020-01-31T12:00:00-06:00"

    @pytest.mark.parametrize(
        ("model", "argument", "text", "message"),
        [
            (
                Paper,
                "pages",
                "many",
                "pages='many' is not valid for tests.Paper.pages (IntegerField): "
                "“many” value must be an integer.",
            ),
            (
                Paper,
                "colour",
                "red",
                "tests.Paper has no field 'colour'. It has hidden, id, pages, pk, "
                "rack, title.",
            ),
            (
                Slot,
                "pk",
                "1",
                "pk='1': the primary key of tests.Slot is room,hour. Write its "
                "values with commas between them, or as a JSON list.",
            ),
            (
                Slot,
                "pk",
                "[1",
                "pk='[1': the primary key of tests.Slot is room,hour. Write its "
                "values with commas between them, or as a JSON list.",
            ),
        ],
    )
    def test_what_is_no_value(self, model, argument, text, message):
        with pytest.raises(ValueError, match="tests") as raised:
            from_text(model, argument, text)
        assert str(raised.value) == message

    def test_primary_key(self):
        assert pk_from_text(Paper, "7") == 7
        text = "0d8a4e4e-7c5f-4f0d-8c52-3b3a6a0d9a11"
        assert str(pk_from_text(Unique, text)) == text


@committed
def test_text():
    title = "a" * 24
    region, _, version = entries(warm_row(title=title))
    found = explain(Paper.objects, title=title)
    tokens = region.client.look([version, region.epoch_key])
    assert (
        str(found)
        == f"""\
tests.Paper.objects.get_or_create(title='{title}')
Database default

Lookup
  title  '{title}'

Hint     primary key {found.pk}
         default: {found.entries[0].key}
Payload  a row, stamped {tokens[version]} in {tokens[region.epoch_key]}
         paper: {found.pk}
           id       {found.pk}
           title    '{title}'
           pages    None
           hidden   False
           rack_id  None
Version  token {tokens[version]}
         paper: {version}
Epoch    token {tokens[region.epoch_key]}
         paper: {region.epoch_key}

Outcome: hit (cache)
Why      The cached row has the current stamp, and matches the lookup.
Next     It returns this row with created=False, without a query."""
    )


def test_long_value_is_cut():
    text = str(explained(Rack.objects, name="a" * 100))
    assert f"  name  '{'a' * 68}..." in text.splitlines()


def test_values_without_json_are_text():
    pk = "0d8a4e4e-7c5f-4f0d-8c52-3b3a6a0d9a11"
    found = explained(Unique.objects, pk=UUID(pk))
    assert found.as_dict()["lookup"] == {"id": pk}


def test_values_of_any_type_are_json():
    Rare.objects.create(binary=b"\x01\xff", json={"a": [1, None]}, float=0.5)
    pk = Rare.objects.get().pk
    Rare.objects.get_or_create(pk=pk)
    found = explain(Rare.objects, pk=pk)
    assert found.is_hit
    assert found.as_dict()["values"] == {
        "id": pk,
        "binary": "01ff",
        "float": 0.5,
        "ip": None,
        "json": {"a": [1, None]},
    }
