"""Transactions by hand, with isolation levels, of requests and TestCases."""

import unittest

import pytest
from django.db import connection, models, transaction
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus.writes.registry import region_of

from ..models import Ordinary, Paper, Sheet
from ..support.errors import Rollback
from ..support.queries import count_row_statements, pages_of_row
from ..support.sql import execute
from ..support.threads import elsewhere

committed = pytest.mark.django_db(transaction=True)


@committed
class TestByHand:
    """A transaction whose beginning and end Django does not report."""

    def test_blocks_in_a_transaction_by_hand(self):
        obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        transaction.set_autocommit(False)
        try:
            with transaction.atomic():
                obj.pages = 2
                obj.save()
                Paper.objects.get_or_create(title="b")
                assert pages_of_row(Paper) == (2, 1)
                assert pages_of_row(Paper) == (2, 1)
            transaction.commit()
            elsewhere(lambda: Paper.objects.filter(title="a").update(pages=3))
            with transaction.atomic():
                assert pages_of_row(Paper) == (3, 1)
                obj.pages = 4
                obj.save()
            transaction.commit()
            # Another transaction, which sees it; the hooks have not run.
            assert elsewhere(lambda: pages_of_row(Paper))[0] == 4
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert pages_of_row(Paper)[0] == 4
        assert not Paper.objects.get_or_create(title="b")[1]

    def test_autocommit_off(self):
        obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        transaction.set_autocommit(False)
        try:
            obj.pages = 2
            obj.save()
            assert pages_of_row(Paper) == (2, 1)
            transaction.rollback()
            assert pages_of_row(Paper) == (1, 1)
            with transaction.atomic():
                obj.pages = 3
                obj.save()
                assert pages_of_row(Paper)[0] == 3
            transaction.rollback()
            # Not on SQLite, which commits with the last savepoint.
            assert pages_of_row(Paper)[0] == models.QuerySet(Paper).get().pages
            Paper.objects.update(pages=4)
            transaction.commit()
            assert pages_of_row(Paper)[0] == 4
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        assert pages_of_row(Paper)[0] == 4
        assert elsewhere(lambda: pages_of_row(Paper))[0] == 4

    def test_broken_transaction_answers_nothing(self):
        Paper.objects.get_or_create(title="a")
        with transaction.atomic():
            Paper.objects.get_or_create(title="b")
            transaction.set_rollback(True)
            for title in "ab":
                with pytest.raises(transaction.TransactionManagementError):
                    Paper.objects.get_or_create(title=title)


@committed
class TestIsolation:
    @pytest.mark.database("sqlite")
    def test_sqlite_with_a_write_ahead_log(self, tmp_path):
        """
        Other connections commit while this transaction sees the older rows.
        """
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode = wal")
        connection.close()
        try:
            with transaction.atomic():
                assert Paper.objects.get(title="a").pages == 1
                elsewhere(lambda: Paper.objects.update(pages=2))
                elsewhere(lambda: [pages_of_row(Paper) for _ in range(2)])
                assert pages_of_row(Paper) == (1, 1)
            assert pages_of_row(Paper) == (2, 0)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA journal_mode = delete")
            connection.close()

    def test_sqlite_fills_only_what_it_created(self):
        Paper.objects.create(title="a", pages=1)
        in_sqlite = connection.vendor == "sqlite"
        with transaction.atomic():
            assert pages_of_row(Paper) == (1, 1)
            assert pages_of_row(Paper) == (1, 1 if in_sqlite else 0)
        pages_of_row(Paper)
        with transaction.atomic():
            assert pages_of_row(Paper) == (1, 0)

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    def test_postgresql_above_read_committed(self, level):
        """The level is a setting of the server, which Django does not see."""
        with connection.cursor() as cursor:
            cursor.execute(f"SET default_transaction_isolation = '{level.lower()}'")
        try:
            self.check_above_read_committed()
        finally:
            connection.close()

    @pytest.mark.database("mysql")
    @pytest.mark.parametrize("level", ["repeatable read", "serializable", None])
    def test_mysql_above_read_committed(self, level):
        connection.close()
        options = connection.settings_dict["OPTIONS"]
        connection.settings_dict["OPTIONS"] = options | {"isolation_level": level}
        try:
            self.check_above_read_committed()
        finally:
            connection.close()
            connection.settings_dict["OPTIONS"] = options

    def check_above_read_committed(self):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            assert list(Paper.objects.values_list("pages")) == [(1,)]
            if connection.isolation_level != "serializable":
                # Another transaction's commit, which this one must not see.
                elsewhere(
                    lambda: Paper.objects.update_or_create(
                        title="a", defaults={"pages": 2}
                    )
                )
                assert pages_of_row(Paper) == (1, 1)
            assert pages_of_row(Paper)[1] == 1
            Paper.objects.get_or_create(title="b", defaults={"pages": 1})
            assert pages_of_row(Paper, "b") == (1, 0)
        assert pages_of_row(Paper) == (Paper.objects.get(title="a").pages, 0)
        assert pages_of_row(Paper, "b") == (1, 0)


@committed
class TestRequests:
    @override_settings(ROOT_URLCONF="tests.coherence.test_transaction_kinds")
    def test_atomic_requests(self, client):
        connection.settings_dict["ATOMIC_REQUESTS"] = True
        try:
            with pytest.raises(Rollback):
                client.get("/fail/")
            client.get("/")
        finally:
            connection.settings_dict["ATOMIC_REQUESTS"] = False
        assert pages_of_row(Paper) == (1, 0)


def create_paper(request):
    from django.http import HttpResponse

    obj, created = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    return HttpResponse(f"{obj.pk} {created}")


def fail(request):
    create_paper(request)
    raise Rollback


def urlpatterns():
    from django.urls import path

    return [path("", create_paper), path("fail/", fail)]


urlpatterns = urlpatterns()


@committed
@pytest.mark.database("postgresql", "mysql")
class TestSessions:
    """
    Other sessions do not get rows that a session has read with its own
    settings.
    """

    SETTINGS = {
        "postgresql": "SET LOCAL extra_float_digits = -5",
        "mysql": "SET sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'",
    }

    @pytest.fixture(autouse=True)
    def row(self):
        self.pk = Ordinary.objects.create(char="a", number=1 / 3).pk
        yield
        connection.close()

    def number(self):
        return Ordinary.objects.get_or_create(char="a")[0].number

    def change(self):
        execute(self.SETTINGS[connection.vendor])

    def test_read(self):
        with transaction.atomic():
            self.change()
            self.number()
        assert elsewhere(self.number) == 1 / 3

    def test_hit(self):
        self.number()
        with transaction.atomic():
            self.change()
            with CaptureQueriesContext(connection) as queries:
                self.number()
        assert len(queries) == 1

    def test_writes(self):
        with transaction.atomic():
            self.change()
            Ordinary.objects.update_or_create(char="a", defaults={"slug": "x"})
            Ordinary.objects.get_or_create(char="new", defaults={"number": 2 / 3})
            Ordinary.objects.bulk_get_or_create(
                [{"char": "of a batch", "number": 2 / 3}], unique_fields=["char"]
            )
        region = region_of(Ordinary.objects.all())
        pks = map(str, Ordinary.objects.values_list("pk", flat=True))
        entries = elsewhere(region.client.look, list(map(region.payload_key, pks)))
        assert not any(entries.values())

    @pytest.mark.database("postgresql")
    def test_function_that_sets(self):
        with transaction.atomic():
            execute("SELECT set_config('extra_float_digits', '-5', true)")
            self.number()
        assert elsewhere(self.number) == 1 / 3

    @pytest.mark.database("mysql")
    @pytest.mark.parametrize("by_sql", [True, False])
    def test_what_is_not_committed(self, by_sql, monkeypatch):
        options = connection.settings_dict["OPTIONS"]

        def read():
            if by_sql:
                execute("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
            return Ordinary.objects.get_or_create(char="dirty")[1]

        with pytest.raises(Rollback), transaction.atomic():
            Ordinary.objects.create(char="dirty")
            if not by_sql:
                monkeypatch.setitem(options, "isolation_level", "read uncommitted")
            assert not elsewhere(read)
            raise Rollback
        monkeypatch.undo()
        assert Ordinary.objects.get_or_create(char="dirty")[1]

    def test_next_connection(self):
        self.change()
        connection.close()
        for _ in range(2):
            self.number()
        with CaptureQueriesContext(connection) as queries:
            self.number()
        assert len(queries) == 0


class TestBlocksOfATestCase(TestCase):
    """Each counts as a separate transaction."""

    def test_epoch_of_another_block(self):
        for title in "ab":
            with transaction.atomic():
                Sheet.objects.get_or_create(title=title)
            assert pages_of_row(Sheet, title) == (None, 0)
            Sheet.objects.update(pages=None)

    def test_streak_of_another_block(self):
        Sheet.objects.create(title="known")
        with transaction.atomic():
            for i in range(9):
                Sheet.objects.get_or_create(title=f"{i}")
        Sheet.objects.create(title="known as well")
        with transaction.atomic():
            assert pages_of_row(Sheet, "known as well") == (None, 1)
        expected = (None, 0) if connection.vendor != "sqlite" else (None, 1)
        assert pages_of_row(Sheet, "known as well") == expected


class TestOfUsers(unittest.TestCase):
    """
    Caching works in a TestCase as in production, and leaves no entries behind.
    """

    def run_tests(self, case):
        result = unittest.TestResult()
        unittest.TestLoader().loadTestsFromTestCase(case).run(result)
        assert result.errors + result.failures == []
        assert result.testsRun == 2

    @pytest.fixture(autouse=True)
    def database(self, django_db_setup, django_db_blocker):
        with django_db_blocker.unblock():
            yield

    def test_nothing_of_one_test_is_a_hit_or_a_lock_in_the_next(self):
        class Tests(TestCase):
            def check(self):
                obj, created = Paper.objects.get_or_create(
                    pk=1, defaults={"title": "new", "pages": 1}
                )
                assert created
                assert (
                    count_row_statements(lambda: Paper.objects.get_or_create(pk=1))[1]
                    == 0
                )
                obj.title = "changed"
                obj.save()
                (hit, _), queries = count_row_statements(
                    lambda: Paper.objects.get_or_create(pk=1)
                )
                assert (hit.title, queries) == ("changed", 1)
                assert (
                    count_row_statements(lambda: Paper.objects.get_or_create(pk=1))[1]
                    == 0
                )
                with pytest.raises(Rollback), transaction.atomic():
                    obj.title = "never"
                    obj.save()
                    Paper.objects.update(title="nor this")
                    raise Rollback
                hit, _ = Paper.objects.get_or_create(pk=1)
                assert hit.title == "changed"

            def test_one(self):
                self.check()

            def test_two(self):
                self.check()

        self.run_tests(Tests)

    def test_block_that_ended_counts_as_committed(self):
        class Tests(TestCase):
            @classmethod
            def setUpTestData(cls):
                cls.paper, _ = Paper.objects.get_or_create(title="a")

            def check(self):
                with transaction.atomic():
                    self.paper.pages = 2
                    self.paper.save()
                    Paper.objects.get_or_create(title="b", defaults={"pages": 3})
                assert pages_of_row(Paper) == (2, 1)
                assert pages_of_row(Paper) == (2, 0)
                assert pages_of_row(Paper, "b") == (3, 0)
                Paper.objects.update_or_create(title="a", defaults={"pages": 4})
                assert pages_of_row(Paper) == (4, 0)

            def test_one(self):
                self.check()

            def test_two(self):
                with self.captureOnCommitCallbacks(execute=True):
                    self.check()
                assert pages_of_row(Paper) == (4, 0)

        self.run_tests(Tests)
