"""The rows of a transaction after errors, and after hooks of other code."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    connection,
    transaction,
)

from getorcreateplus.writes.on_conflict import Conflict
from getorcreateplus.writes.watching import StatementWatcher

from ..models import Paper, PlusPaper, Rack, Sheet
from ..support.errors import Rollback
from ..support.queries import pages_of_row
from ..support.threads import elsewhere, own_connections

committed = pytest.mark.django_db(transaction=True)


@committed
class TestErrors:
    """The server has ended the transaction, and Django commits it."""

    def write(self):
        Paper.objects.update_or_create(title="a", defaults={"pages": 2})
        Paper.objects.get_or_create(title="b", defaults={"pages": 2})

    def check_rolled_back(self):
        for reader in (lambda call: call(), elsewhere):
            assert reader(lambda: pages_of_row(Paper))[0] == 1
            assert not Paper.objects.filter(title="b").exists()
        assert elsewhere(lambda: Paper.objects.get_or_create(title="b"))[1]

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize("by", ["cursor", "queryset"])
    def test_error_that_is_caught(self, by):
        """The COMMIT after it is a silent ROLLBACK."""
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            self.write()
            with pytest.raises(DataError):
                if by == "cursor":
                    connection.cursor().execute("SELECT 1 / 0")
                else:
                    Paper.objects.extra(select={"x": "1 / 0"}).first()
            # There are no hits either, while Django refuses all queries.
            with pytest.raises(InternalError):
                Paper.objects.get_or_create(title="a")
        self.check_rolled_back()

    @pytest.mark.database("postgresql")
    def test_savepoint_mends_it(self):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            savepoint = connection.savepoint()
            with pytest.raises(DataError):
                connection.cursor().execute("SELECT 1 / 0")
            connection.savepoint_rollback(savepoint)
            assert pages_of_row(Paper) == (1, 0)

    @pytest.mark.database("postgresql")
    def test_lost_race_is_no_error(self):
        """Rows that were written before it stay hits."""
        PlusPaper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic():
            PlusPaper.objects.get_or_create(title="b", defaults={"pages": 2})
            with pytest.raises(Conflict):
                StatementWatcher()(
                    raise_conflict, "INSERT", (), False, {"connection": connection}
                )
            assert pages_of_row(PlusPaper, "b") == (2, 0)
        assert pages_of_row(PlusPaper, "b") == (2, 0)

    @pytest.mark.database("mysql")
    def test_deadlock_that_is_caught(self):
        """InnoDB has rolled back everything."""
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        first, second = (Rack.objects.create(name=name) for name in "cd")
        waits, locked = threading.Event(), threading.Event()

        def deadlock():
            with transaction.atomic():
                # More rows, so that the other one is the victim.
                Sheet.objects.bulk_create(Sheet(title=f"{i}") for i in range(50))
                Rack.objects.select_for_update().get(pk=second.pk)
                locked.set()
                assert waits.wait(10)
                Rack.objects.select_for_update().get(pk=first.pk)

        with ThreadPoolExecutor(1) as pool, transaction.atomic():
            self.write()
            Rack.objects.select_for_update().get(pk=first.pk)
            other = pool.submit(own_connections()(deadlock))
            assert locked.wait(10)
            waits.set()
            with pytest.raises(OperationalError, match="1213"):
                Rack.objects.select_for_update().get(pk=second.pk)
            other.result(timeout=20)
        self.check_rolled_back()

    @pytest.mark.database("mysql")
    def test_statement_that_commits(self):
        """From then on other connections may write the row."""
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic(), connection.cursor() as cursor:
            self.write()
            cursor.execute("CREATE TABLE tests_other (id integer)")
            try:
                elsewhere(lambda: Paper.objects.update(pages=3))
                assert pages_of_row(Paper)[0] == 3
            finally:
                cursor.execute("DROP TABLE tests_other")

    @pytest.mark.database("postgresql")
    def test_commit_by_sql(self):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with transaction.atomic(), connection.cursor() as cursor:
            self.write()
            cursor.execute("commit")
            elsewhere(lambda: Paper.objects.filter(title="a").update(pages=3))
            assert pages_of_row(Paper)[0] == 3
        assert pages_of_row(Paper)[0] == 3

    @pytest.mark.database("postgresql")
    def test_lost_connection_raises_an_error_of_django(self):
        Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        with pytest.raises(OperationalError), transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                [pid] = cursor.fetchone()
            # The package has not queried the state of this connection yet.
            assert connection.getorcreateplus_answer[0] is not connection.connection
            elsewhere(
                lambda: connection.cursor().execute(
                    "SELECT pg_terminate_backend(%s, 5000)", [pid]
                )
            )
            Paper.objects.get_or_create(title="a")
        connection.close()


def raise_conflict(*args):
    raise Conflict


@committed
class TestHooks:
    def test_hook_of_other_code_raises(self):
        """The rows are released nevertheless."""
        obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
        other = Sheet.objects.create(title="a")

        def fail():
            raise Rollback

        with pytest.raises(Rollback), transaction.atomic():
            transaction.on_commit(fail)
            obj.pages = 2
            obj.save()
            Sheet.objects.update(pages=2)
        assert (pages_of_row(Paper), pages_of_row(Paper)) == ((2, 1), (2, 0))
        assert (pages_of_row(Sheet), pages_of_row(Sheet)) == ((2, 1), (2, 0))
        assert other.pk

    def test_lost_race_drops_the_hooks_of_the_loser_alone(self):
        """Only hooks that the failed create() has added, not those before."""
        ran = []
        PlusPaper.objects.create(pk=1, title="a")
        with transaction.atomic():
            transaction.on_commit(lambda: ran.append("before"))
            with pytest.raises(IntegrityError):
                PlusPaper.objects.get_or_create(title="b", defaults={"pk": 1})
            PlusPaper.objects.get_or_create(title="c")
            transaction.on_commit(lambda: ran.append("after"))
        assert ran == ["before", "after"]

    def test_many_hooks_of_other_code(self):
        ran = []
        with transaction.atomic():
            for i in range(30):
                PlusPaper.objects.get_or_create(title=f"{i}", defaults={"pages": i})
                transaction.on_commit(lambda i=i: ran.append(i))
        assert ran == list(range(30))
        assert pages_of_row(PlusPaper, "29") == (29, 0)
