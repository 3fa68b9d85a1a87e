"""
Statements with text around them: execute wrappers add comments, and on
PostgreSQL other statements, like django-pghistory and django-pgtrigger.
"""

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.signals import post_save, pre_save
from django.test.utils import CaptureQueriesContext

from getorcreateplus.coherence import drivers
from getorcreateplus.writes import sessions
from getorcreateplus.writes.statements import statement_of

from ..models import NonAtomicEntry, Paper, PlainEntry, PlainPaper, PlusPaper
from ..support.papers import pages, warm
from ..support.rivals import connected
from ..support.sql import execute
from ..support.threads import elsewhere

pytestmark = pytest.mark.slow

committed = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.database("postgresql")


IS_POSTGRESQL = connection.vendor == "postgresql"


def is_aborted_by_error(cursor):
    return cursor.connection.info.transaction_status == drivers.IN_ERROR


class Around:
    """An execute wrapper that puts text around each statement."""

    def __init__(self, before="", after="", params=(), kind=str, selects=True):
        self.before, self.after, self.params = before, after, params
        self.kind, self.selects = kind, selects

    def __call__(self, execute, sql, params, many, context):
        is_aborted = IS_POSTGRESQL and is_aborted_by_error(context["cursor"])
        if not is_aborted and (self.selects or not sql.startswith("SELECT")):
            sql = self.kind(f"{self.before}{sql}{self.after}")
            params = (*self.params, *(params or ())) or None
        result = execute(sql, params, many, context)
        if IS_POSTGRESQL:
            while context["cursor"].nextset():  # as Django reads the last result
                pass
        return result


def composed(text):
    from psycopg.sql import SQL

    return SQL("{}{}").format(SQL(text[:9]), SQL(text[9:]))


COMMENTS = {
    "comment": Around("/* a=1; INSERT */ "),
    "line": Around("-- a; b\n"),
    "comment behind": Around(after=" /*route='/a;b'*/"),
    "semicolon": Around(after=";"),
}
SETTINGS = {
    "pgtrigger": Around(
        "SELECT set_config('pgtrigger.ignore', %s, true); ", params=["{a:b}"]
    ),
    "pghistory": Around(
        "SELECT set_config('pghistory.context_id', %s, true), "
        "set_config('pghistory.context_metadata', %s, true); ",
        params=["1", "{}"],
        selects=False,
    ),
    "SET LOCAL": Around("SET LOCAL app.name = 'a; b'; ", selects=False),
    "timeout": Around("/* a */ set statement_timeout to 90000; "),
    "bytes": Around("SELECT set_config('a.b', '1', true);", kind=str.encode),
    "Composed": Around("SELECT set_config('a.b', '1', true);", kind=composed),
    "plain bytes": Around(kind=str.encode),
    "plain Composed": Around(kind=composed),
}
OTHERS = {
    "read": Around("SELECT 1; ", selects=False),
    "name that is not known": Around(
        "SELECT set_config(%s, '1', true); ", params=["a.b"], selects=False
    ),
    "function": Around("SELECT set_config('a.b', version(), true); "),
}
PLAIN = COMMENTS | (SETTINGS if IS_POSTGRESQL else {})
ALL = PLAIN | (OTHERS if IS_POSTGRESQL else {})
AROUND = pytest.mark.parametrize("around", PLAIN.values(), ids=list(PLAIN))
ANY_AROUND = pytest.mark.parametrize("around", ALL.values(), ids=list(ALL))
PLACES = pytest.mark.parametrize("place", ["first", "before", "inside"])


class Installed:
    """
    Run a wrapper before all others, like a patch of the cursor; or before
    those of a call; or after them, because create() enters it.
    """

    def __init__(self, around, place, model):
        self.around, self.place, self.model = around, place, model
        self.entered = None

    def __enter__(self):
        connection.ensure_connection()
        if self.place == "inside":
            pre_save.connect(self.enter, sender=self.model)
        else:
            place = 0 if self.place == "first" else len(connection.execute_wrappers)
            connection.execute_wrappers.insert(place, self.around)

    def enter(self, **kwargs):
        if self.around not in connection.execute_wrappers:
            connection.execute_wrappers.append(self.around)

    def __exit__(self, *exc_info):
        pre_save.disconnect(self.enter, sender=self.model)
        if self.around in connection.execute_wrappers:
            connection.execute_wrappers.remove(self.around)


def outcome(call, *args, **kwargs):
    try:
        obj, created = call(*args, **kwargs)
    except Exception as error:
        return type(error)
    return obj.size, created


@committed
@ANY_AROUND
@PLACES
class TestNonAtomic:
    """As with Django's manager, which has a savepoint."""

    def compare(self, run, around, place):
        found = []
        for model in (PlainEntry, NonAtomicEntry):
            with Installed(around, place, model):
                found.append(run(model))
        assert found[0] == found[1]
        return found[0]

    def test_new_row(self, around, place):
        def run(model):
            with transaction.atomic():
                obj, created = model.objects.get_or_create(name="a")
            assert model.objects.get(pk=obj.pk).name == "a"
            return created, model.objects.get_or_create(name="a")[1]

        assert self.compare(run, around, place) == (True, False)

    @pytest.mark.database("postgresql", "mysql")
    def test_lost_race(self, around, place):
        def run(model):
            def size():
                elsewhere(lambda: model.objects.create(name="a", size=7))
                return 1

            with transaction.atomic():
                found = outcome(
                    model.objects.get_or_create, name="a", defaults={"size": size}
                )
                return found, model.objects.filter(name="a").count()

        assert self.compare(run, around, place) == ((7, False), 1)

    @pytest.mark.slow
    @pytest.mark.parametrize("error", [ValueError, IntegrityError])
    @pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
    def test_error_after_the_write(self, around, place, method, error):
        def refuse(instance, **kwargs):
            if instance.size == 13:
                raise error("unlucky")

        def run(model):
            model.objects.create(name="there", size=1)
            name = "there" if method == "update_or_create" else "new"
            call = getattr(model.objects, method)
            try:
                with transaction.atomic(), connected(post_save, refuse):
                    found = outcome(call, name=name, defaults={"size": 13})
            except transaction.TransactionManagementError:
                pass
            return found, model.objects.filter(size=13).count()

        assert self.compare(run, around, place) == (error, 0)


@committed
@AROUND
@PLACES
class TestAsWithoutIt:
    """The text around a statement does not change how it is recognized."""

    def test_insert_has_no_savepoint(self, around, place):
        with (
            transaction.atomic(),
            CaptureQueriesContext(connection) as queries,
            Installed(around, place, NonAtomicEntry),
        ):
            assert NonAtomicEntry.objects.get_or_create(name="a")[1]
        assert "INSERT" in str(queries.captured_queries)
        assert "SAVEPOINT" not in str(queries.captured_queries)

    def test_error_after_a_savepoint_leaves_the_transaction_usable(self, around, place):
        """The writes of update_or_create() are undone."""

        def fails(sender, **kwargs):
            with transaction.atomic():
                PlainEntry.objects.count()
            raise ValueError("fails")

        NonAtomicEntry.objects.create(name="a")
        with transaction.atomic(), Installed(around, place, NonAtomicEntry):
            with (
                connected(pre_save, fails),
                pytest.raises(ValueError, match="fails"),
            ):
                NonAtomicEntry.objects.update_or_create(name="a", defaults={"size": 1})
            assert not connection.needs_rollback

    def test_created_row_is_kept(self, around, place):
        with transaction.atomic():
            with Installed(around, place, PlusPaper):
                obj, created = PlusPaper.objects.get_or_create(
                    title="a", defaults={"pages": 7}
                )
            assert created
            assert pages(PlusPaper) == (7, 0)
        assert pages(PlusPaper) == (7, 0)
        assert PlainPaper.objects.count() == 0
        assert PlusPaper.objects.all().get(title="a").pk == obj.pk

    def test_rolled_back_savepoint_is_seen(self, around, place):
        warm(Paper)
        with transaction.atomic(), Installed(around, place, Paper):
            with pytest.raises(ValueError, match="back"), transaction.atomic():
                Paper.objects.update_or_create(title="a", defaults={"pages": 5})
                assert pages()[0] == 5
                raise ValueError("back")
            assert pages()[0] == 1
        assert pages()[0] == 1


@committed
@ANY_AROUND
def test_write_invalidates_the_cache(around):
    """Even if another wrapper comes before those of the package."""
    for place in ("first", "before"):
        for write in (
            lambda: Paper.objects.filter(title="a").update(pages=5),
            lambda: Paper(pk=obj.pk, title="a", pages=5).save(),
            lambda: execute("UPDATE tests_paper SET pages = 5 WHERE title = 'a'"),
        ):
            Paper.objects.all().delete()
            obj = warm()
            with Installed(around, place, Paper):
                write()
            assert pages()[0] == 5


@committed
@pytest.mark.database("postgresql", "mysql")
@AROUND
@pytest.mark.parametrize("place", ["first", "before"])
def test_row_that_a_statement_did_not_match(around, place):
    """The transaction does not hold its lock, so another one may write it."""
    with transaction.atomic():
        with Installed(around, place, Paper):
            assert Paper.objects.filter(pk=1).update(pages=1) == 0
        elsewhere(lambda: Paper.objects.create(pk=1, title="a", pages=2))
        assert pages() == (2, 1)
        elsewhere(lambda: Paper.objects.update(pages=3))
        assert pages() == (3, 1)
    assert pages()[0] == 3


@committed
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT set_config('pgtrigger.ignore', NULL, false);",
        "SELECT set_config('a.b', '1', true); SELECT 1",
        "SET LOCAL a.b = 1;",
        "/* ; */ SELECT 1 /* ; */;",
        b"SELECT 1",
    ],
)
@postgresql
def test_statement_that_takes_no_lock(sql):
    """pgtrigger.ignore() ends with one, and hits continue."""
    warm()
    with transaction.atomic():
        execute(sql)
        assert pages() == (1, 0)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "SELECT set_config('a.b', '1', true); SELECT 1 FOR UPDATE",
        "SELECT set_config('a.b', pg_advisory_lock(1)::text, true); SELECT 1",
        b"UPDATE tests_paper SET pages = 5",
    ],
)
@postgresql
def test_statement_that_may_take_a_lock(sql):
    assert sessions.takes_locks(connection, sql)


@postgresql
class TestStatement:
    @pytest.mark.parametrize(
        "before",
        [
            "",
            "/* a; b */ -- c; d\n",
            "SELECT set_config('a.b', %s, true); ",
            "select pg_catalog.set_config('a.b', %(a)s::text, false);\n",
            "SELECT set_config('a.b', 'x''; DROP', true) , set_config('c.d', '', '');",
            "SET a.b = 'it''s'; SET LOCAL lock_timeout TO '3s';",
        ],
    )
    @pytest.mark.parametrize("after", ["", ";", " /* a */", " ; /* b */ ;\n"])
    def test_what_is_around_it(self, before, after):
        for text in ("INSERT INTO a", "SELECT 1", 'SAVEPOINT "s1_x1"'):
            found = statement_of(before + text + after, connection)
            assert found == (before, text, after)

    @pytest.mark.parametrize(
        "text",
        [
            "SELECT set_config('search_path', 'a', true); INSERT INTO a",
            "SELECT set_config(%s, 'a', true); INSERT INTO a",
            "SELECT set_config('a.b', f(), true); INSERT INTO a",
            "SELECT set_config('a.b', E'\\'; DELETE FROM a; --', true); INSERT INTO a",
            "SELECT set_config('a.b', $$'$$, true); INSERT INTO a; SELECT '$$', true)",
            "SELECT set_config('a.b', 'a', true) FROM a; INSERT INTO a",
            "SET search_path = a; INSERT INTO a",
            "SET ROLE a; INSERT INTO a",
            "SET LOCAL timezone = 'UTC'; INSERT INTO a",
            "SET a.b = 1 -- ; \n; INSERT INTO a",
            "SELECT 1; INSERT INTO a",
            "DELETE FROM b; INSERT INTO a",
            "/* /* */ */ INSERT INTO a",
        ],
    )
    def test_what_may_change_it_is_a_part_of_it(self, text):
        found = statement_of(text, connection)
        assert found == ("", text, "")
        assert not found.is_read()

    def test_parameters_are_its_own(self):
        before = "SELECT set_config('a.b', %s, true), set_config('a.c', %s, true); "
        found = statement_of(f"{before}UPDATE a SET b = %s", connection)
        assert found.own_params([1, 2, 3]) == [3]
        assert found.own_params((1, 2, 3)) == (3,)

    @pytest.mark.parametrize(
        "text", ["SET LOCAL a.b = 1", "SELECT set_config('a.b', '1', true)"]
    )
    def test_alone(self, text):
        assert statement_of(f"{text};", connection) == ("", text, ";")


@pytest.mark.database("mysql")
def test_comment_that_is_executed_is_a_part_of_it():
    for text in (
        "/*! INSERT INTO a */",
        "/*M!1 DELETE */ SELECT",
        "SELECT /*!1 a */",
    ):
        assert statement_of(text, connection).text == text


@postgresql
@committed
@pytest.mark.parametrize("place", ["before", "inside"])
def test_conflict_is_seen_if_the_last_result_is_not_read(place):
    """The first result says that a row was found."""

    def naive(execute, sql, params, many, context):
        if sql.startswith("INSERT"):
            sql = f"SELECT set_config('a.b', '1', true); {sql}"
        return execute(sql, params, many, context)

    def size():
        elsewhere(lambda: NonAtomicEntry.objects.create(name="a", size=7))
        return 1

    with transaction.atomic(), Installed(naive, place, NonAtomicEntry):
        found = outcome(
            NonAtomicEntry.objects.get_or_create, name="a", defaults={"size": size}
        )
    assert found == (7, False)
