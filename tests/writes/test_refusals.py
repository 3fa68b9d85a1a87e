"""
Tables that refuse INSERT ... ON CONFLICT for reasons that Meta does not show.
"""

from contextlib import nullcontext

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    OperationalError,
    connection,
    connections,
    transaction,
)

from getorcreateplus.writes import refusals

from ..models import CachedRefusing, NonAtomicRefusing, PlainRefusing, PlusRefusing
from ..support.rivals import rival, statements
from ..support.sql import execute
from ..support.threads import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)

MODELS = [CachedRefusing, NonAtomicRefusing, PlusRefusing]
WITHOUT_SAVEPOINT = [NonAtomicRefusing, PlusRefusing]

COLUMNS = "(id bigserial PRIMARY KEY, name varchar(20) UNIQUE, place int DEFAULT 0)"
TABLE = f"CREATE TABLE refusing {COLUMNS}"
ROWS = f"CREATE TABLE refusing_rows {COLUMNS}"
VIEW = "CREATE VIEW refusing AS SELECT * FROM refusing_rows"
FUNCTION = """
CREATE FUNCTION refusing_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO refusing_rows (name, place) VALUES (NEW.name, NEW.place)
    RETURNING id INTO NEW.id;
    RETURN NEW;
END $$
"""
PARTITIONED = (
    "CREATE TABLE refusing (id bigserial, name varchar(20) UNIQUE, place int)"
    " PARTITION BY RANGE (name)"
)

# By reason: the statements that make the table.
POSTGRESQL = {
    "unique": [
        TABLE,
        "ALTER TABLE refusing ADD UNIQUE (place) DEFERRABLE INITIALLY DEFERRED",
    ],
    "primary key": [
        TABLE,
        "ALTER TABLE refusing DROP CONSTRAINT refusing_pkey, "
        "ADD PRIMARY KEY (id) DEFERRABLE",
    ],
    "exclusion": [
        TABLE,
        "ALTER TABLE refusing ADD EXCLUDE USING btree (place WITH =) DEFERRABLE",
    ],
    "rule": [TABLE, "CREATE RULE quiet AS ON UPDATE TO refusing DO ALSO NOTHING"],
    "rule of a view": [
        ROWS,
        VIEW,
        "CREATE RULE redirect AS ON INSERT TO refusing DO INSTEAD "
        "INSERT INTO refusing_rows (name, place) VALUES (NEW.name, NEW.place) "
        "RETURNING *",
    ],
    "trigger of a view": [
        ROWS,
        VIEW,
        FUNCTION,
        "CREATE TRIGGER redirect INSTEAD OF INSERT ON refusing "
        "FOR EACH ROW EXECUTE FUNCTION refusing_insert()",
    ],
    "view": [
        ROWS,
        "ALTER TABLE refusing_rows ADD UNIQUE (place) DEFERRABLE",
        VIEW,
    ],
    "partition": [
        PARTITIONED,
        "CREATE TABLE refusing_a PARTITION OF refusing FOR VALUES FROM ('a') TO ('l')",
        "CREATE TABLE refusing_l PARTITION OF refusing FOR VALUES FROM ('l') TO ('z')",
        "ALTER TABLE refusing_l ADD UNIQUE (place) DEFERRABLE",
    ],
}
SQLITE = {
    "trigger of a view": [
        "CREATE TABLE refusing_rows ("
        "id integer PRIMARY KEY AUTOINCREMENT, name text UNIQUE, place int)",
        VIEW,
        "CREATE TRIGGER redirect INSTEAD OF INSERT ON refusing BEGIN "
        "INSERT INTO refusing_rows (name, place) VALUES (NEW.name, NEW.place); END",
    ],
}
REASONS = {"postgresql": POSTGRESQL, "sqlite": SQLITE}.get(connection.vendor, {})


def drop():
    if connection.vendor == "sqlite":
        execute(
            "DROP VIEW IF EXISTS refusing",
            "DROP TABLE IF EXISTS refusing_rows",
        )
        return
    # Without a DO block, which makes the package invalidate all rows.
    if ("v",) in rows_of("SELECT relkind FROM pg_class WHERE relname = 'refusing'"):
        execute("DROP VIEW refusing")
    execute("DROP TABLE IF EXISTS refusing, refusing_rows CASCADE")
    if rows_of("SELECT 1 FROM pg_proc WHERE proname = 'refusing_insert'"):
        execute("DROP FUNCTION refusing_insert()")


def rows_of(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


@pytest.fixture
def make():
    """Return the statements that make the table."""
    yield execute
    drop()
    refusals.memory.clear()


@pytest.fixture(params=REASONS)
def reason(request, make):
    make(*REASONS[request.param])
    return request.param


def outcome(call, *args, **kwargs):
    """Return True if the row was created, or the class of the error."""
    try:
        result = call(*args, **kwargs)
    except DatabaseError as error:
        return type(error)
    return [created for _, created in (result if type(result) is list else [result])]


def rows():
    return sorted(PlainRefusing.objects.values_list("name", "place"))


def conflict(model):
    """The lookup does not find the conflicting row."""
    return model.objects.get_or_create(name="m", place__lt=0)


def lose(model):
    with rival(lambda: PlainRefusing.objects.create(name="n", place=3)):
        return model.objects.get_or_create(name="n", defaults={"place": 4})


CALLS = [
    lambda model: model.objects.get_or_create(name="b", defaults={"place": 1}),
    lambda model: model.objects.get_or_create(name="m", defaults={"place": 2}),
    lambda model: model.objects.update_or_create(name="o", defaults={"place": 5}),
    lambda model: model.objects.update_or_create(name="o", defaults={"place": 6}),
    lose,
    conflict,
    lambda model: model.objects.get_or_create(name="p", defaults={"place": 7}),
]


def outcomes(model):
    """
    Return the results of the calls in one transaction, and in autocommit.
    """
    found = []
    for block in (transaction.atomic, nullcontext):
        refusals.memory.clear()
        with block():
            found += [outcome(call, model) for call in CALLS]
            found.append(rows())
        found.append(rows())
        PlainRefusing.objects.all().delete()
    return found


@pytest.mark.database("postgresql")
class TestGetOrCreate:
    def test_outcome_is_djangos(self, reason):
        expected = outcomes(PlainRefusing)
        assert {model: outcomes(model) for model in MODELS} == dict.fromkeys(
            MODELS, expected
        )

    @pytest.mark.parametrize("model", WITHOUT_SAVEPOINT)
    def test_is_refused_once(self, make, model):
        make(*POSTGRESQL["rule"])
        with transaction.atomic(), statements() as sent:
            model.objects.get_or_create(name="a")
        # The driver's own cursor undoes the refused statement.
        assert sent == ["SELECT", "INSERT", "SAVEPOINT", "INSERT", "RELEASE"]
        for alone in (False, True):
            with transaction.atomic(), statements() as sent:
                model.objects.get_or_create(name=f"b{alone}")
            assert sent == ["SELECT", "SAVEPOINT", "INSERT", "RELEASE"]
        assert elsewhere(refusals.refuses, connection, model)

    @pytest.mark.parametrize("model", WITHOUT_SAVEPOINT)
    def test_autocommit_has_no_savepoint(self, make, model):
        make(*POSTGRESQL["rule"])
        with statements() as sent:
            model.objects.get_or_create(name="a")
        assert sent == ["SELECT", "INSERT", "INSERT"]
        with statements() as sent:
            model.objects.get_or_create(name="b")
        assert sent == ["SELECT", "INSERT"]

    def test_refused_statement_does_not_count_as_an_error_of_the_connection(self, make):
        make(*POSTGRESQL["unique"])
        with transaction.atomic():
            PlusRefusing.objects.get_or_create(name="a")
            assert not connection.errors_occurred
        with statements() as sent:
            assert PlusRefusing.objects.get_or_create(name="a")[1] is False
        assert sent == []  # a hit

    def test_change_of_this_process_is_seen(self, make):
        make(TABLE)
        NonAtomicRefusing.objects.get_or_create(name="a")
        execute("ALTER TABLE refusing ADD UNIQUE (place) DEFERRABLE")
        with transaction.atomic():
            NonAtomicRefusing.objects.get_or_create(name="b", defaults={"place": 2})
            assert len(rows()) == 2
        execute("ALTER TABLE refusing DROP CONSTRAINT refusing_place_key")
        with transaction.atomic(), statements() as sent:
            NonAtomicRefusing.objects.get_or_create(name="c")
        assert sent == ["SELECT", "INSERT"]

    def test_change_that_is_rolled_back(self, make):
        make(TABLE)
        with transaction.atomic():
            execute("ALTER TABLE refusing ADD UNIQUE (place) DEFERRABLE")
            NonAtomicRefusing.objects.get_or_create(name="a")
            transaction.set_rollback(True)
        with transaction.atomic(), statements() as sent:
            NonAtomicRefusing.objects.get_or_create(name="a")
        assert sent == ["SELECT", "INSERT"]

    def test_change_of_another_process_costs_one_transaction(self, make):
        make(TABLE)
        NonAtomicRefusing.objects.get_or_create(name="a")
        with connections["default"].connection.cursor() as cursor:
            cursor.execute("ALTER TABLE refusing ADD UNIQUE (place) DEFERRABLE")
        with pytest.raises(OperationalError), transaction.atomic():
            NonAtomicRefusing.objects.get_or_create(name="b", defaults={"place": 2})
        with transaction.atomic():
            NonAtomicRefusing.objects.get_or_create(name="b", defaults={"place": 2})
            assert len(rows()) == 2

    def test_tenant_whose_table_refuses(self, make, monkeypatch):
        """The name that django-tenants gives to the current schema."""
        make(TABLE, f"CREATE SCHEMA later; CREATE TABLE later.refusing {COLUMNS}")
        try:
            execute("ALTER TABLE later.refusing ADD UNIQUE (place) DEFERRABLE")
            NonAtomicRefusing.objects.get_or_create(name="a")
            with transaction.atomic():
                execute("SET LOCAL search_path = later")
                monkeypatch.setattr(connection, "schema_name", "later", raising=False)
                assert NonAtomicRefusing.objects.get_or_create(name="a")[1] is True
                assert rows() == [("a", 0)]
        finally:
            execute("DROP SCHEMA later CASCADE")

    def test_row_that_is_lost_says_nothing_of_the_table(self, make):
        """PostgreSQL checks one constraint after the other."""
        make(TABLE, "ALTER TABLE refusing ADD UNIQUE (place) DEFERRABLE")
        with transaction.atomic():
            assert lose(NonAtomicRefusing)[1] is False
        with transaction.atomic():
            NonAtomicRefusing.objects.get_or_create(name="b", defaults={"place": 9})
            assert len(rows()) == 2

    def test_error_of_a_trigger_is_no_refusal(self, make):
        make(
            TABLE,
            "CREATE FUNCTION refusing_insert() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF NEW.place > 5 THEN RAISE 'too many'; END IF; "
            "RETURN NEW; END $$",
            "CREATE TRIGGER few BEFORE INSERT ON refusing "
            "FOR EACH ROW EXECUTE FUNCTION refusing_insert()",
        )
        with pytest.raises(DatabaseError, match="too many"), transaction.atomic():
            NonAtomicRefusing.objects.get_or_create(name="a", defaults={"place": 6})
        with transaction.atomic(), statements() as sent:
            NonAtomicRefusing.objects.get_or_create(name="a")
        assert sent == ["SELECT", "INSERT"]

    def test_other_server(self, make, monkeypatch):
        """It has PostgreSQL's protocol, but not its catalog."""
        monkeypatch.setattr(refusals, "ACCEPTS_EACH_ROW", "SELECT missing(%s, %s)")
        make(TABLE)
        with transaction.atomic():
            NonAtomicRefusing.objects.get_or_create(name="a")
            assert len(rows()) == 1
        assert list(refusals.memory.answers.values()) == [True]


BATCH = [{"name": name, "place": place} for place, name in enumerate("bnm")]


class TestBatches:
    @pytest.mark.database("postgresql", "sqlite")
    @pytest.mark.parametrize("block", [transaction.atomic, nullcontext])
    def test_all_are_created(self, reason, block):
        for model in MODELS:
            refusals.memory.clear()
            PlainRefusing.objects.create(name="b", place=5)
            for expected in ([False, True, True], [False] * 3):
                with block():
                    created = outcome(
                        model.objects.bulk_get_or_create, BATCH, unique_fields=["name"]
                    )
                    assert rows() == [("b", 5), ("m", 2), ("n", 1)]
                assert (model, created) == (model, expected)
            assert rows() == [("b", 5), ("m", 2), ("n", 1)]
            with connection.cursor() as cursor:
                # SQLite cannot delete from a view.
                is_local = connection.vendor == "sqlite"
                table = "refusing_rows" if is_local else "refusing"
                cursor.execute(f"DELETE FROM {table}")

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize("model", MODELS)
    def test_is_refused_once(self, make, model):
        make(*REASONS["rule"])
        for attempts in (1, 0):
            names = [f"{attempts}{name}" for name in "ab"]
            with transaction.atomic(), statements() as sent:
                model.objects.bulk_get_or_create(
                    [{"name": name} for name in names], unique_fields=["name"]
                )
            assert sent.count("INSERT") == attempts + 2

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize("model", MODELS)
    def test_error_is_raised(self, make, model):
        make(TABLE, "ALTER TABLE refusing ADD UNIQUE (place) DEFERRABLE")
        with pytest.raises(IntegrityError), transaction.atomic():
            model.objects.bulk_get_or_create(
                [{"name": "a"}, {"name": "b"}], unique_fields=["name"]
            )
        assert rows() == []
