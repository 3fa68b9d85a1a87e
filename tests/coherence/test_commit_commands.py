"""The number of commands for the cache at a commit."""

from contextlib import ExitStack

import pytest
from django.core.cache import caches
from django.db import connection, transaction

from getorcreateplus.writes.registry import region_of

from ..models import Paper, Sheet, Ticket
from ..support.caches import commands
from ..support.errors import Rollback
from ..support.queries import pages_of_row
from ..support.threads import elsewhere

committed = pytest.mark.django_db(transaction=True)

pytestmark = pytest.mark.usefixtures("cache_api")


def commands_of_commit(write):
    """Return the cache commands that a commit gives, after these writes."""
    with ExitStack() as stack:
        stack.enter_context(transaction.atomic())
        write()
        return commands(stack.close)


@committed
class TestCommandsAtCommit:
    """They do not grow with the rows."""

    @pytest.mark.parametrize(
        ("rows", "late"), [(2, 0), (4, 0), (5, 1), (20, 4), (40, 3), (201, 0)]
    )
    @pytest.mark.parametrize("model", [Paper, Sheet])
    def test_created(self, model, rows, late):
        def create():
            for i in range(rows):
                model.objects.get_or_create(title=f"{i}")

        made = commands_of_commit(create)
        assert made == ["add"] * late + ["get_many"] * (late > 0) + ["set_many"] * (
            2 if model is Paper else 1
        )
        for i in range(rows):
            assert pages_of_row(model, f"{i}") == (None, 0)

    @pytest.mark.parametrize("rows", [2, 40])
    def test_saved(self, rows):
        papers = [Paper.objects.get_or_create(title=f"{i}")[0] for i in range(rows)]

        def save():
            for paper in papers:
                paper.pages = 1
                paper.save()

        assert commands_of_commit(save) == ["set_many"]


@committed
class TestManyCreatedRows:
    """The rows that one transaction creates are published together."""

    def test_rows_after_the_first_cost_a_fraction_of_a_command(self):
        with transaction.atomic():
            made = commands(
                lambda: [Sheet.objects.get_or_create(title=f"{i}") for i in range(100)]
            )
        # The first two are read from the cache, and each gets a version.
        assert made.count("set_many") == 12
        assert len(made) < 20

    @pytest.mark.database("postgresql")
    def test_first_row_looks_at_the_epoch_and_the_clock_once(self):
        Sheet.objects.get_or_create(title="before")
        with transaction.atomic():
            made = commands(lambda: Sheet.objects.get_or_create(title="0"))
        assert made == ["get_many", "add"]

    def test_row_that_is_there_ends_the_streak(self):
        Sheet.objects.create(title="known", pages=1)
        with transaction.atomic():
            for i in range(7):
                Sheet.objects.get_or_create(title=f"{i}")
            assert commands(lambda: Sheet.objects.get_or_create(title="7")) == []
            assert pages_of_row(Sheet, "known") == (1, 1)
            assert commands(lambda: Sheet.objects.get_or_create(title="8")) != []

    def create_before(self, call):
        """Create rows, with another writer between COMMIT and release."""
        commit = connection.commit

        def commit_slowly():
            commit()
            elsewhere(call)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "commit", commit_slowly)
            with transaction.atomic():
                for i in range(6):
                    Paper.objects.get_or_create(title=f"{i}", defaults={"pages": 1})

    def save_last(self):
        paper = Paper.objects.get(title="5")
        paper.pages = 2
        paper.save()
        return paper

    def test_another_writer_is_quicker(self):
        self.create_before(self.save_last)
        assert pages_of_row(Paper, "5") == (2, 1)
        assert pages_of_row(Paper, "3") == (1, 0)

    def test_another_writer_is_quicker_and_its_version_is_lost(self):
        """The clock has moved, which the rule recheck detects."""

        def save_and_evict():
            paper = self.save_last()
            caches["paper"].delete(
                region_of(Paper.objects.all()).version_key(f"{paper.pk}")
            )

        self.create_before(save_and_evict)
        assert pages_of_row(Paper, "5") == (2, 1)

    def test_writer_of_another_row(self):
        other = Paper.objects.create(title="other")
        self.create_before(other.save)
        assert pages_of_row(Paper, "5") == (1, 1)
        assert pages_of_row(Paper, "5") == (1, 0)

    def test_own_write_of_another_row(self):
        other = Paper.objects.create(title="other")
        with transaction.atomic():
            for i in range(6):
                Paper.objects.get_or_create(title=f"{i}", defaults={"pages": 1})
            other.save()
        assert pages_of_row(Paper, "5") == (1, 0)

    def test_savepoint_that_is_rolled_back(self):
        with transaction.atomic():
            for i in range(6):
                Paper.objects.get_or_create(title=f"{i}")
            with pytest.raises(Rollback), transaction.atomic():
                for i in range(6, 30):
                    Paper.objects.get_or_create(title=f"{i}")
                raise Rollback
            for i in range(20, 50):
                Paper.objects.get_or_create(title=f"{i}", defaults={"pages": 2})
        assert not Paper.objects.filter(title="7").exists()
        for i in (20, 29, 49):
            assert pages_of_row(Paper, f"{i}")[0] == 2

    def test_given_key_is_announced_at_once(self):
        """Another session may use that key before the commit."""

        def create():
            for i in range(5):
                Ticket.objects.get_or_create(code=f"{i}")

        assert commands_of_commit(create) == ["set_many"]


@committed
class TestManyUpdatedRows:
    """The rows that one transaction updates are published together."""

    def update(self, numbers, pages=2):
        for i in numbers:
            Sheet.objects.update_or_create({"pages": pages}, title=f"{i}")

    @pytest.fixture(autouse=True)
    def rows(self):
        Sheet.objects.bulk_create(Sheet(title=f"{i}", pages=1) for i in range(50))

    def test_payloads_cost_a_fraction_of_a_command(self):
        with transaction.atomic():
            made = commands(lambda: self.update(range(50)))
        # One LOCK for each row, and 10 for all payloads but the last few.
        assert 55 < made.count("set_many") < 65
        for i in range(50):
            assert pages_of_row(Sheet, f"{i}") == (2, 0)

    def test_first_payload_does_not_wait_for_the_commit(self):
        with transaction.atomic():
            made = commands(lambda: self.update([0]))
            assert made.count("set_many") == 2
        assert pages_of_row(Sheet, "0") == (2, 0)

    def test_row_that_is_updated_again_has_its_last_values(self):
        with transaction.atomic():
            self.update([*range(20), 19])
            self.update([18, 19], pages=3)
        assert [pages_of_row(Sheet, f"{i}") for i in (17, 18, 19)] == [
            (2, 0),
            (3, 0),
            (3, 0),
        ]

    def test_row_that_is_saved_later_is_dropped(self):
        with transaction.atomic():
            self.update(range(20))
            for i in range(20):
                Sheet.objects.filter(pk=Sheet.objects.get(title=f"{i}").pk).update(
                    pages=4
                )
        assert {pages_of_row(Sheet, f"{i}") for i in range(20)} == {(4, 1)}

    @pytest.mark.slow
    @pytest.mark.parametrize("count", [1, 2, 7, 20])
    def test_savepoint_of_updates_that_is_rolled_back(self, count):
        with transaction.atomic():
            self.update(range(20))
            with pytest.raises(Rollback), transaction.atomic():
                self.update(range(20 - count, 20 + count), pages=3)
                raise Rollback
            self.update([0], pages=5)
        expected = [5] + [2] * 19 + [1] * count
        assert [
            elsewhere(lambda i=i: pages_of_row(Sheet, f"{i}"))[0]
            for i in range(20 + count)
        ] == expected

    def test_savepoint_of_updates_that_is_released(self):
        with transaction.atomic():
            for i in range(20):
                with transaction.atomic():
                    self.update([i])
        assert {pages_of_row(Sheet, f"{i}") for i in range(20)} == {(2, 0)}

    def test_rollback_publishes_nothing(self):
        with pytest.raises(Rollback), transaction.atomic():
            self.update(range(20))
            raise Rollback
        assert {pages_of_row(Sheet, f"{i}")[0] for i in range(20)} == {1}
