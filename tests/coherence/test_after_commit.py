"""
Rows that a transaction has read are filled after its commit. Until then such a
row may be one that the same transaction wrote in a way Django does not see.
"""

import pytest
from django.core.cache import caches
from django.db import Error, connection, transaction

from getorcreateplus.writes.registry import region_of

from ..models import PlusPaper, Rack, Sheet
from ..support.errors import Rollback
from ..support.queries import count_row_statements, pages_of_row
from ..support.sql import behind_the_back
from ..support.threads import elsewhere

# A transaction of SQLite may show an older snapshot, and fills nothing.
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.database("postgresql", "mysql"),
]

MODELS = pytest.mark.parametrize("model", [Sheet, PlusPaper])


def roll_back(call):
    try:
        with transaction.atomic():
            call()
            raise Rollback
    except Rollback:
        pass


def table(model):
    return connection.ops.quote_name(model._meta.db_table)


def write_untold(model, value=2):
    behind_the_back(f"UPDATE {table(model)} SET pages = {value}")


def read(model):
    return pages_of_row(model)


def read_many(model):
    """Do the same as pages(), with a batch."""
    [(obj, created)], queries = count_row_statements(
        lambda: model.objects.bulk_get_or_create([{"title": "a"}], ["title"])
    )
    assert not created
    return obj.pages, queries


def read_by_pk(model):
    pk = model.objects.values_list("pk", flat=True).get(title="a")
    (obj, _), queries = count_row_statements(lambda: model.objects.get_or_create(pk=pk))
    return obj.pages, queries


READS = pytest.mark.parametrize("read", [read, read_many, read_by_pk])


@MODELS
@READS
class TestUntoldWrites:
    def test_rolled_back_row_is_not_served(self, model, read):
        model.objects.create(title="a", pages=1)

        def request():
            connection.ensure_connection()
            write_untold(model)
            assert read(model)[0] == 2
            assert read(model)[0] == 2

        roll_back(request)
        assert elsewhere(lambda: read(model))[0] == 1
        assert read(model)[0] == 1

    def test_row_that_a_savepoint_undoes_is_not_served(self, model, read):
        model.objects.create(title="a", pages=1)

        def request():
            write_untold(model)
            assert read(model)[0] == 2

        with transaction.atomic():
            roll_back(request)
        assert elsewhere(lambda: read(model))[0] == 1

    def test_row_that_a_savepoint_by_hand_undoes_is_not_served(self, model, read):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            savepoint = connection.savepoint()
            write_untold(model)
            assert read(model)[0] == 2
            connection.savepoint_rollback(savepoint)
        assert elsewhere(lambda: read(model))[0] == 1

    def test_committed_row_is_filled(self, model, read):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            write_untold(model)
            assert read(model)[0] == 2
            cache = caches[region_of(model.objects.all()).client.alias]
            region = region_of(model.objects.all())
            pk = str(model.objects.values_list("pk", flat=True).get())
            assert cache.get(region.payload_key(pk)) is None
        assert cache.get(region.payload_key(pk)) is not None
        assert elsewhere(lambda: read(model)) == (2, 0)


@MODELS
class TestReads:
    def test_second_read_of_a_transaction_has_no_query(self, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            assert pages_of_row(model) == (1, 1)
            assert pages_of_row(model) == (1, 0)

    def test_row_that_another_one_writes_meanwhile(self, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            assert pages_of_row(model) == (1, 1)
            elsewhere(lambda: model.objects.filter(title="a").update(pages=2))
            assert pages_of_row(model) == (2, 1)
        assert elsewhere(lambda: pages_of_row(model))[0] == 2

    def test_row_that_is_written_after_the_read(self, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            assert pages_of_row(model) == (1, 1)
            elsewhere(lambda: model.objects.filter(title="a").update(pages=2))
        assert elsewhere(lambda: pages_of_row(model))[0] == 2

    def test_row_that_the_transaction_writes_after_the_read(self, model):
        obj = model.objects.create(title="a", pages=1)
        with transaction.atomic():
            assert pages_of_row(model) == (1, 1)
            obj.pages = 2
            obj.save()
            assert pages_of_row(model)[0] == 2
        assert elsewhere(lambda: pages_of_row(model))[0] == 2

    def test_no_more_rows_are_kept_than_the_overlay_has_room_for(self, model, settings):
        settings.GETORCREATEPLUS_OVERLAY_ROWS = 2
        for title in "abc":
            model.objects.create(title=title, pages=1)
        with transaction.atomic():
            for title in "abc":
                pages_of_row(model, title)
        assert sum(elsewhere(lambda t=t: pages_of_row(model, t))[1] for t in "abc") == 1


def test_memory_of_the_process_is_filled_after_the_commit(monkeypatch):
    monkeypatch.setattr(Sheet.objects._queryset_class, "local_timeout", 60)
    Sheet.objects.create(title="a", pages=1)

    def request():
        write_untold(Sheet)
        assert pages_of_row(Sheet)[0] == 2

    roll_back(request)
    assert pages_of_row(Sheet)[0] == 1


def test_row_that_a_trigger_writes():
    """Django sees the INSERT, but not the write of its trigger."""
    Sheet.objects.create(title="a", pages=1)
    body = f"UPDATE {table(Sheet)} SET pages = pages + 1"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE FUNCTION count_racks() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN {body}; RETURN NEW; END $$"
            )
            body = "EXECUTE FUNCTION count_racks()"
        cursor.execute(
            f"CREATE TRIGGER count_racks AFTER INSERT ON {table(Rack)} "
            f"FOR EACH ROW {body}"
        )
    try:

        def request():
            Rack.objects.create(name="new")
            assert pages_of_row(Sheet)[0] == 2

        roll_back(request)
        assert elsewhere(lambda: pages_of_row(Sheet))[0] == 1
    finally:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("DROP FUNCTION count_racks() CASCADE")
            else:
                cursor.execute("DROP TRIGGER count_racks")


# Errors without one of Django's statements


def by_copy():
    with connection.cursor() as cursor, cursor.copy("COPY nothing FROM STDIN"):
        pass


def by_callproc():
    with connection.cursor() as cursor:
        cursor.callproc("nothing_of_this_name")


def by_the_driver():
    connection.connection.execute("SELECT 1 / 0")


def by_a_server_side_cursor():
    with connection.chunked_cursor() as cursor:
        cursor.execute("SELECT 1 / (2 - g) FROM generate_series(1, 3) g")
        cursor.fetchall()


@pytest.mark.database("postgresql")
@MODELS
@pytest.mark.parametrize(
    "fail", [by_copy, by_callproc, by_the_driver, by_a_server_side_cursor]
)
def test_commit_that_is_a_rollback(model, fail):
    """
    PostgreSQL turns the COMMIT of an aborted transaction into a rollback.
    """
    model.objects.create(title="kept", pages=1)
    with transaction.atomic():
        model.objects.update_or_create(title="kept", defaults={"pages": 2})
        model.objects.get_or_create(title="new", defaults={"pages": 3})
        with pytest.raises((Error, connection.Database.Error)):
            fail()
    assert not model._base_manager.filter(title="new").exists()
    assert elsewhere(lambda: pages_of_row(model, "kept"))[0] == 1
    assert pages_of_row(model, "kept")[0] == 1
    _, created = model.objects.get_or_create(title="new")
    assert created


@pytest.mark.database("postgresql")
def test_overlay_of_a_transaction_in_error_is_not_served():
    with transaction.atomic():
        PlusPaper.objects.get_or_create(title="a", defaults={"pages": 1})
        with pytest.raises(connection.Database.Error):
            by_the_driver()
        with pytest.raises(Error):
            PlusPaper.objects.get_or_create(title="a")
        transaction.set_rollback(True)


@pytest.mark.database("postgresql")
@MODELS
class TestSavepointOfTheDriver:
    """psycopg's transaction() inside atomic(): Django does not see its end."""

    def undo(self, call):
        with pytest.raises(Rollback), connection.connection.transaction():
            call()
            raise Rollback

    def test_created_row_is_not_served(self, model):
        with transaction.atomic():
            Rack.objects.create(name="other")
            self.undo(lambda: model.objects.get_or_create(title="a"))
            assert model.objects.get_or_create(title="a")[1]
            self.undo(
                lambda: model.objects.bulk_get_or_create([{"title": "b"}], ["title"])
            )
        assert model.objects.get_or_create(title="b")[1]

    def test_updated_row_is_not_served(self, model):
        def publish(value):
            model.objects.update_or_create(title="a", defaults={"pages": value})
            assert pages_of_row(model)[0] == value

        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            self.undo(lambda: publish(2))
            assert pages_of_row(model)[0] == 1
            publish(3)
            self.undo(lambda: publish(4))
            assert pages_of_row(model)[0] == 3
        assert elsewhere(lambda: pages_of_row(model))[0] == 3

    def test_read_row_is_not_filled(self, model):
        def read_untold():
            write_untold(model)
            assert pages_of_row(model)[0] == 2

        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            list(Rack.objects.all())  # psycopg's transaction() is a savepoint now
            self.undo(read_untold)
        assert elsewhere(lambda: pages_of_row(model))[0] == 1

    def test_savepoint_that_is_released(self, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            Rack.objects.create(name="other")
            with connection.connection.transaction():
                model.objects.update_or_create(title="a", defaults={"pages": 2})
            assert pages_of_row(model)[0] == 2
        assert elsewhere(lambda: pages_of_row(model))[0] == 2
