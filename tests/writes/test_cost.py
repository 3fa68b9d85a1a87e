"""The numbers of commands and statements of a write."""

import pytest
from django.apps import apps
from django.db import IntegrityError, OperationalError, connection, models, transaction
from django.db.models.signals import post_delete, pre_delete
from django.test.utils import CaptureQueriesContext

from getorcreateplus.coherence.transports.django import DjangoTransport
from getorcreateplus.test import CaptureCacheCommands
from getorcreateplus.writes import registry, written_rows

from ..models.invalidation import (
    Beacon,
    Dinghy,
    Ferry,
    Fleet,
    Harbour,
    Knot,
    Lightship,
    Mast,
    Rope,
    Ship,
)
from ..support.caches import commands
from .ships import execute_sql, served, warm

committed = pytest.mark.django_db(transaction=True)

pytestmark = pytest.mark.usefixtures("cache_api")


# Costs


LOCKED = ["set_many"]
RELEASED = ["set_many"]
ALL_RELEASED = ["set_many"]


@committed
class TestCost:
    def test_in_a_transaction(self):
        def write_rows_and_query(a):
            a.save()
            Dinghy.objects.update(size=9)

        nothing = ([], [])
        of_row = (LOCKED, RELEASED)
        of_all = (LOCKED, ALL_RELEASED)
        for number, (write, (inside, at_commit)) in enumerate(
            [
                (lambda a: Dinghy.objects.create(name="c"), nothing),
                (lambda a: Dinghy(name="c").save(), nothing),
                (lambda a: Ferry.objects.create(name="c"), nothing),
                (lambda a: Beacon.objects.create(name="c"), nothing),
                (lambda a: Lightship.objects.create(name="c"), nothing),
                (lambda a: Dinghy.objects.bulk_create([Dinghy(), Dinghy()]), nothing),
                (lambda a: a.save(), of_row),
                (lambda a: a.save(update_fields=["name"]), of_row),
                (lambda a: a.save(update_fields=[]), nothing),
                (lambda a: a.save() or a.save(), of_row),
                (lambda a: Dinghy.objects.filter(pk=a.pk).update(size=1), of_row),
                (lambda a: Dinghy.objects.filter(pk=a.pk).delete(), of_row),
                (lambda a: a.delete(), of_row),
                (lambda a: Dinghy.objects.update(size=9), of_all),
                (lambda a: Dinghy.objects.all().delete(), of_all),
                (write_rows_and_query, (LOCKED + LOCKED, ALL_RELEASED)),
                (lambda a: Knot.objects.create(rope=Rope.objects.create()), nothing),
                (lambda a: Rope.objects.update(name="b"), nothing),
                (lambda a: Rope.objects.get().delete(), nothing),
                (lambda a: Fleet.objects.update(name="b"), nothing),
                (
                    lambda a: execute_sql("DELETE FROM tests_rope WHERE id = 1"),
                    nothing,
                ),
                (
                    lambda a: list(Dinghy.objects.raw("select * from tests_dinghy")),
                    nothing,
                ),
                (
                    lambda a: execute_sql(
                        "WITH x AS (SELECT 1) SELECT * FROM tests_dinghy"
                    ),
                    nothing,
                ),
                (lambda a: execute_sql("SELECT * FROM tests_dinghy; "), nothing),
            ]
        ):
            dinghy = Dinghy.objects.create(name="a")
            Rope.objects.create(name="a")
            with CaptureCacheCommands() as made, transaction.atomic():
                write(dinghy)
                assert (number, [command.method for command in made]) == (
                    number,
                    inside,
                )
                made.clear()
            assert (number, [command.method for command in made]) == (number, at_commit)
            Rope.objects.all().delete()

    def test_autocommit(self):
        dinghy = Dinghy.objects.create(name="a")
        for write, made in (
            (lambda: Dinghy.objects.create(name="b"), []),
            (dinghy.save, LOCKED + RELEASED),
            (lambda: Dinghy.objects.update(size=9), LOCKED + ALL_RELEASED),
            (
                lambda: Dinghy.objects.filter(pk=dinghy.pk).update(size=9),
                LOCKED + RELEASED,
            ),
            (lambda: Dinghy.objects.filter(name="b").delete(), LOCKED + ALL_RELEASED),
            (dinghy.delete, LOCKED + RELEASED),
        ):
            assert commands(write) == made

    def test_keys(self):
        dinghy = Dinghy.objects.create(name="a")
        pk, name = dinghy.pk, registry.region_of(Dinghy.objects.all()).name
        with CaptureCacheCommands() as made:
            dinghy.save()
        assert made == [
            ("default", "set_many", [f"{name}!{pk}"]),
            ("default", "set_many", [f"{name}@clock", f"{name}!{pk}", f"{name}:{pk}"]),
        ]
        with CaptureCacheCommands() as made:
            Dinghy.objects.update(size=9)
        assert made == [
            ("default", "set_many", [f"{name}@epoch"]),
            ("default", "set_many", [f"{name}@clock", f"{name}@epoch"]),
        ]

    def test_several_servers_are_invalidated_in_order(self, monkeypatch):
        """
        Each server has its own keys, and a command for several keys is one for
        each.
        """
        dinghy = Dinghy.objects.create(name="a")
        pk, name = dinghy.pk, registry.region_of(Dinghy.objects.all()).name
        monkeypatch.setattr(
            DjangoTransport, "has_several_servers", lambda transport: True
        )
        with CaptureCacheCommands() as made:
            dinghy.save()
        assert made == [
            ("default", "set_many", [f"{name}!{pk}"]),
            ("default", "set_many", [f"{name}@clock"]),
            ("default", "set_many", [f"{name}!{pk}"]),
            ("default", "set_many", [f"{name}:{pk}"]),
        ]

    @pytest.mark.parametrize("rows", [1, 20, 21])
    def test_rows_that_a_statement_names(self, rows):
        pks = [Dinghy.objects.create(name="a").pk for _ in range(rows)]
        with CaptureCacheCommands() as made:
            Dinghy.objects.filter(pk__in=pks).update(size=9)
        name = registry.region_of(Dinghy.objects.all()).name
        locked = [f"{name}@epoch"]
        if rows <= written_rows.MAX_NAMED_ROWS:
            locked = [f"{name}!{pk}" for pk in pks]
        first, second = (command.keys for command in made)
        assert sorted(first) == sorted(locked)
        assert second[0] == f"{name}@clock"

    def test_error_releases_what_was_not_written(self):
        for name in "ab":
            Harbour.objects.create(code=name, name=name)
        warm(Harbour.objects, name="a")
        with pytest.raises(IntegrityError):
            Harbour.objects.filter(name="a").update(code="b")
        assert served(Harbour.objects, name="a") is not None
        warm(Harbour.objects, name="a")

    def test_lock_stays_if_it_is_unknown_what_was_written(self):
        Dinghy.objects.create(name="a")
        warm(Dinghy.objects, name="a")

        def lose(execute, sql, params, many, context):
            execute(sql, params, many, context)
            raise OperationalError("The connection was lost.")

        with connection.execute_wrapper(lose), pytest.raises(OperationalError):
            Dinghy.objects.update(size=9)
        for _ in range(3):
            with CaptureQueriesContext(connection) as queries:
                assert served(Dinghy.objects, name="a")["size"] == 9
            assert len(queries) == 1

    def test_fast_delete_stays_fast(self):
        """
        Django does not collect rows to send signals, with or without the
        cache.
        """
        for model in (Knot, Dinghy, Mast):
            with CaptureQueriesContext(connection) as queries:
                models.QuerySet(model).filter(pk__gt=0).delete()
            sent = [q["sql"].split()[0] for q in queries]
            # The DELETE alone, in the transaction that Collector makes.
            assert [word for word in sent if word not in ("BEGIN", "COMMIT")] == [
                "DELETE"
            ]
        for model in apps.get_models():
            # django-simple-history has receivers only for its own models.
            if not hasattr(model, "history"):
                assert not pre_delete.has_listeners(model)
                assert not post_delete.has_listeners(model)

    def test_created_rows_are_warm_after_the_commit(self):
        """A row that post_save reports does not make its model cold."""
        with transaction.atomic():
            Ship.objects.create(name="a")
            Ferry.objects.create(name="b")
            Ship.objects.get_or_create(name="c")
            Ferry.objects.get_or_create(name="d")
        with CaptureQueriesContext(connection) as queries:
            Ship.objects.get_or_create(name="c")
        assert len(queries) == 0

    def test_rows_of_others_are_misses_beside_a_created_one(self):
        """
        The INSERT may have waited for a writer that has not released yet.
        """
        Dinghy.objects.create(name="a")
        warm(Dinghy.objects, name="a")
        with transaction.atomic():
            warm(Dinghy.objects, name="a")
            Dinghy.objects.create(name="b")
            for _ in range(2):
                with CaptureQueriesContext(connection) as queries:
                    Dinghy.objects.get_or_create(name="a")
                assert len(queries) == 1
        warm(Dinghy.objects, name="a")
