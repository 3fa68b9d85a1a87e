"""
A table may have several names, parts and views: writes of each invalidate.
"""

import re
from contextlib import suppress

import pytest
from django.db import (
    OperationalError,
    ProgrammingError,
    connection,
    connections,
    transaction,
)
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from getorcreateplus.writes import relations, written_rows
from getorcreateplus.writes.statements import Names, effect_of, words_of

from ..models import (
    Event,
    EventOfMay,
    OddPrice,
    Price,
    PriceByName,
    PriceTotal,
    PriceView,
    SharedPrice,
)
from ..support.errors import refuse
from ..support.sql import execute

committed = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.database("postgresql")
mysql = pytest.mark.database("mysql")
not_sqlite = pytest.mark.database("mysql", "postgresql")


def warm(model, **lookup):
    for _ in range(2):
        model.objects.get_or_create(**lookup)
    with CaptureQueriesContext(connection) as queries:
        model.objects.get_or_create(**lookup)
    assert len(queries) == 0


def uses(model, **lookup):
    obj, created = model.objects.get_or_create(**lookup)
    return None if created else obj.uses


def stored(model, **lookup):
    return model.plain.filter(**lookup).values_list("uses", flat=True).first()


def check_sees(model, write, **lookup):
    """Check that a hit has the values of the row after a write."""
    warm(model, **lookup)
    before = stored(model, **lookup)
    write()
    after = stored(model, **lookup)
    assert (write, after) != (write, before)
    assert (write, uses(model, **lookup)) == (write, after)


def sql(text):
    return lambda: execute(text)


@pytest.fixture
def made(django_db_blocker):
    """Make tables and views, and drop them afterwards."""
    dropping = []

    def make(*statements, drop):
        dropping.insert(0, drop)
        execute(*statements)

    yield make
    if connection.vendor == "postgresql" and connection.connection is not None:
        connection.close()  # it may be in a failed transaction
    execute(*dropping)


# One table, two names


@committed
class TestSchema:
    def test_model_with_a_schema_writes(self):
        price = Price.plain.create(name="a")
        pk = price.pk
        for number, write in enumerate(
            [
                lambda: SharedPrice.plain.filter(name="a").update(uses=11),
                lambda: SharedPrice.plain.filter(pk=pk).update(uses=12),
                lambda: SharedPrice(pk, "a", 13).save(),
                lambda: PriceByName("a", 14).save(force_update=True),
                lambda: SharedPrice.plain.bulk_update(
                    [SharedPrice(pk, "a", 15)], ["uses"]
                ),
                lambda: SharedPrice.plain.filter(pk=pk).delete(),
            ]
        ):
            warm(Price, name="a")
            write()
            assert (number, stored(Price, name="a")) == (
                number,
                11 + number if number < 5 else None,
            )
            if number < 5:
                assert (number, uses(Price, name="a")) == (number, 11 + number)
        assert uses(Price, name="a") is None

    def test_model_without_a_schema_writes(self):
        pk = Price.plain.create(name="a").pk
        for other in (SharedPrice, PriceByName):
            for number, write in enumerate(
                [
                    lambda: Price.plain.filter(name="a").update(uses=11),
                    lambda: Price(pk, "a", 12).save(),
                    sql("UPDATE tests_price SET uses = 13"),
                ]
            ):
                warm(other, name="a")
                write()
                assert (other, uses(other, name="a")) == (other, 11 + number)

    def test_rows_that_are_named_by_their_primary_key(self):
        """Other rows stay hits if both models have the same primary key."""
        pk = Price.plain.create(name="a").pk
        Price.plain.create(name="b")
        warm(Price, name="b")
        SharedPrice(pk, "a", 1).save()
        with CaptureQueriesContext(connection) as queries:
            uses(Price, name="b")
        assert len(queries) == 0

    @not_sqlite  # if Django cannot insert into such a table
    def test_transaction_of_the_other_model(self):
        pk = Price.plain.create(name="a").pk
        warm(Price, name="a")
        with transaction.atomic():
            SharedPrice(pk, "a", 1).save()
            assert uses(Price, name="a") == 1
            SharedPrice.plain.create(name="c", uses=3)
            assert uses(Price, name="c") == 3
        assert uses(Price, name="a") == 1
        assert uses(Price, name="c") == 3

    @not_sqlite
    def test_invalidate(self):
        warm(SharedPrice, name="a")
        Price.objects.invalidate_all()
        with CaptureQueriesContext(connection) as queries:
            uses(SharedPrice, name="a")
        assert len(queries) == 1

    def test_raw_sql(self):
        warm(Price, name="a")
        spellings = {
            "postgresql": ["public.tests_price", '"public"."tests_price"',
                           "ONLY tests_price", "Tests_Price", 'ONLY "tests_price"',
                           "public . tests_price", "public./* */tests_price"],
            "sqlite": ["main.tests_price", '"Main"."Tests_PRICE"', "[tests_price]"],
            "mysql": ["`tests_price`", f"`{SharedPrice._meta.db_table}`"],
        }[connection.vendor]  # fmt: skip
        for number, name in enumerate(spellings, start=1):
            check_sees(Price, sql(f"UPDATE {name} SET uses = {number}"), name="a")


@committed
@pytest.mark.parametrize("name", ["tests odd-Größe.price"])
def test_name_that_is_no_word(name):
    quoted = connection.ops.quote_name(name)
    OddPrice.plain.create(name="a")
    check_sees(OddPrice, sql(f"UPDATE\n{quoted} SET uses = 1"), name="a")
    check_sees(OddPrice, lambda: OddPrice.plain.update(uses=2), name="a")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tests_ship", "update TESTS_SHIP set x = 1"),
        ("tests_ship", "UPDATE te\u017fts_\u017fhip SET x = 1"),
        ("maßstab", "UPDATE MASSSTAB SET x = 1"),
        ("İtem", "UPDATE İTEM SET x = 1"),
        ("kelvin", "UPDATE \u212aelvin SET x = 1"),
        ("my-table", 'UPDATE "my-table" SET x = 1'),
        ("my table", "UPDATE `my table` SET x = 1"),
        ('we"ird', 'UPDATE "we""ird" SET x = 1'),
        ("a.b", 'UPDATE "a.b" SET x = 1'),
        ("---", 'UPDATE "---" SET x = 1'),
        ("x" * 63, f"UPDATE {'x' * 70} SET x = 1"),
        ("x" * 70, f"UPDATE {'x' * 70} SET x = 1"),
    ],
)
def test_name_is_found(name, text):
    assert Names([name, "other"]).mentioned(words_of(text)) == {name}


@pytest.mark.parametrize(
    "text",
    ["UPDATE ships SET x = 1", "UPDATE tests_ships SET x = 1", "UPDATE my SET x"],
)
def test_other_name_is_not_found(text):
    assert Names(["tests_ship", "my-table"]).mentioned(words_of(text)) == set()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "letter", ["İ", "\u0131", "\u017f", "\u212a", "ß", "ﬁ", "ŉ", "ǰ"]
)
def test_letters_of_two_cases(letter):
    """A letter with more than two cases raises no error."""
    execute(f"UPDATE tests_rope SET name = '{letter}TESTS_PR{letter}CE{letter}'")


# Effects of a statement


def effects(text, vendor="postgresql"):
    effect = effect_of(text, words_of(text), vendor)
    if effect.everything:
        return "everything"
    return "tables" if effect.tables else "nothing"


@pytest.mark.parametrize(
    "text",
    [
        "CALL f()",
        "call f()",
        "/* a */ CALL f()",
        "-- a\nCALL f()",
        "-- a\r\n-- b\n/* c */\n CALL f()",
        "-- a\rCALL f()",
        "# a\nCALL f()",
        "/* /* a */ b */ CALL f()",
        "(CALL f())",
        "SELECT 1; CALL f()",
        "SELECT 1; -- it's\nCALL f(); -- it's",
        "-- a\nDO $$ BEGIN END $$",
        "EXECUTE p",
        "EXPLAIN ANALYZE EXECUTE p",
        "EXECUTE IMMEDIATE 'UPDATE x'",
        "BEGIN NOT ATOMIC CALL f(); END",
        "SET STATEMENT max_statement_time=1 FOR UPDATE x SET a = 1",
        "COMMIT PREPARED 'a'",
        "XA COMMIT 'a'",
        "TRUNCATE x CASCADE",
        "-- a\nTRUNCATE x CASCADE",
        "ALTER SCHEMA a RENAME TO b",
        "DROP SCHEMA a CASCADE",
        "ALTER TYPE a RENAME VALUE 'b' TO 'c'",
        "DROP TYPE a CASCADE",
        "ALTER DOMAIN a DROP DEFAULT",
        "DROP OWNED BY a",
        "REASSIGN OWNED BY a TO b",
        "DROP EXTENSION a CASCADE",
        "CREATE DATABASE a",
        "DROP DATABASE a",
        "ALTER DATABASE a SET search_path = b",
        "ALTER ROLE a SET search_path = b",
        "USE a",
        "CREATE POLICY a ON b",
        "CREATE OR REPLACE FUNCTION f() RETURNS int",
        "CREATE RULE a AS ON UPDATE TO b DO ALSO DELETE FROM c",
        "IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c",
        "ATTACH DATABASE 'a' AS b",
        "UPDATE pg_enum SET enumlabel = 'a'",
        "UPDATE sqlite_master SET sql = 'a'",
        'UPDATE U&"t\\0065sts_ship" SET size = 1',
        "UPDATE %s SET size = %s",
        "INSERT INTO %(table)s VALUES (1)",
        'DELETE FROM public."%s"',
        "ALTER /* INDEX */ TABLE x RENAME TO y",
        "ALTER -- sequence of\nTABLE x RENAME TO y",
        "PRAGMA writable_schema = RESET",
        "FROBNICATE a",
        "\ufeffUPDATE x",
        "!",
    ],
)  # fmt: skip
def test_statement_may_write_everything(text):
    assert effects(text) == "everything"


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE x SET a = 'b; c'",
        "UPDATE x SET a = 1",
        "/* /* a */ SELECT 1 */ UPDATE x SET a = 1",
        "-- SELECT\nDELETE FROM x",
        "(SELECT 1); INSERT INTO x VALUES (1)",
        "WITH a AS (INSERT INTO x VALUES (1) RETURNING *) SELECT * FROM a",
        "(WITH a AS (DELETE FROM x RETURNING *) SELECT * FROM a)",
        "EXPLAIN ANALYZE UPDATE x SET a = 1",
        "EXPLAIN (ANALYZE) CREATE TABLE x AS SELECT 1",
        "ANALYZE FORMAT=JSON UPDATE x SET a = 1",
        "SELECT * INTO x FROM y",
        "INSERT INTO x VALUES (1) ON CONFLICT (a)\nDO UPDATE SET a = 2",
        "MERGE INTO x USING y ON true WHEN MATCHED THEN DELETE",
        "REPLACE INTO x VALUES (1)",
        "COPY x FROM '/a'",
        "LOAD DATA INFILE 'a' INTO TABLE x",
        "TRUNCATE x;",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY x",
        "CREATE TABLE IF NOT EXISTS x (a int)",
        "CREATE UNLOGGED TABLE x (a int)",
        "CREATE OR REPLACE TEMP VIEW x AS SELECT 1",
        "ALTER TABLE x ATTACH PARTITION y DEFAULT",
        "ALTER TABLE x EXCHANGE PARTITION p WITH TABLE y",
        "DROP TABLE IF EXISTS x CASCADE",
        "RENAME TABLE x TO y",
    ],
)
def test_statement_writes_tables_that_it_names(text):
    assert effects(text) == "tables"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-- update",
        "select * from x for update",
        "/* a */ SELECT * FROM x FOR UPDATE",
        "/* /* UPDATE */ */ SELECT 1",
        "/* /* UPDATE */",
        "TABLE x",
        "VALUES (1)",
        "(SELECT 1) UNION (SELECT 2)",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "EXPLAIN SELECT 1",
        "SAVEPOINT update",
        'SAVEPOINT "s1_x1"',
        "BEGIN ISOLATION LEVEL SERIALIZABLE, NOT DEFERRABLE",
        "SET x = 'update'",
        "GRANT UPDATE ON x TO y",
        "REVOKE DELETE ON x FROM y",
        "LOCK TABLE x IN SHARE UPDATE EXCLUSIVE MODE",
        "VACUUM FULL x",
        "CLUSTER x",
        "REINDEX TABLE x",
        "OPTIMIZE TABLE x",
        "HANDLER x OPEN",
        "COMMENT ON TABLE x IS 'update'",
        "CREATE UNIQUE INDEX CONCURRENTLY a ON x (b)",
        "DROP INDEX a",
        "ALTER SEQUENCE a RESTART",
        "PREPARE p AS UPDATE x SET a = 1",
        "PRAGMA foreign_keys = ON",
        "DECLARE c CURSOR FOR SELECT 1",
    ],
)
def test_statement_writes_nothing(text):
    assert effects(text) == "nothing"


@mysql
@committed
@pytest.mark.parametrize("comment", ["# a\n", "-- a\n", "/* a */", "/*!50000 */"])
def test_comment_before_a_statement_of_mysql(comment):
    Price.plain.create(name="a")
    execute("PREPARE s FROM 'UPDATE tests_price SET uses = uses + 1'")
    check_sees(Price, sql(f"{comment} EXECUTE s"), name="a")
    check_sees(Price, sql(f"{comment} UPDATE tests_price SET uses = 9"), name="a")
    check_sees(Price, sql("/*!50000 UPDATE tests_price SET uses = 8 */"), name="a")


@postgresql
@committed
def test_comment_before_a_statement_of_postgresql(made):
    made(
        "CREATE PROCEDURE tests_touch() LANGUAGE sql AS "
        "'UPDATE tests_price SET uses = uses + 1'",
        drop="DROP PROCEDURE tests_touch()",
    )
    Price.plain.create(name="a")
    for comment in ("-- a\n", "/* a */", "/* /* a */ b */", "-- a\r"):
        check_sees(Price, sql(f"{comment} CALL tests_touch()"), name="a")
        check_sees(
            Price, sql(f"{comment} DO 'BEGIN CALL tests_touch(); END'"), name="a"
        )
        check_sees(
            Price,
            sql(f"{comment} UPDATE tests_price SET uses = uses + 1"),
            name="a",
        )


@committed
def test_table_is_made_anew():
    """Rows of an earlier table in an old cache are not served."""
    warm(Price, name="a")
    with connection.constraint_checks_disabled(), connection.schema_editor() as editor:
        # As if another process dropped the database: no DROP TABLE is seen.
        with (
            connection.connection.cursor()
            if connection.vendor != "sqlite"
            else (connection.cursor()) as cursor
        ):
            wrappers, connection.execute_wrappers = connection.execute_wrappers, []
            try:
                cursor.execute(f"DROP TABLE {connection.ops.quote_name('tests_price')}")
            finally:
                connection.execute_wrappers = wrappers
        editor.create_model(Price)
    assert uses(Price, name="a") is None


@committed
@postgresql
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER SCHEMA tests_far RENAME TO tests_near",
        "DROP SCHEMA tests_far CASCADE",
        "ALTER TYPE tests_kind RENAME VALUE 'a' TO 'b'",
        "ALTER DOMAIN tests_domain SET DEFAULT 2",
        "ALTER ROLE CURRENT_USER RESET search_path",
    ],
)
def test_statement_that_names_no_table(made, statement):
    made(
        "CREATE SCHEMA tests_far",
        "CREATE TYPE tests_kind AS ENUM ('a')",
        "CREATE DOMAIN tests_domain AS int",
        drop="DROP SCHEMA IF EXISTS tests_far, tests_near CASCADE;"
        "DROP TYPE tests_kind; DROP DOMAIN tests_domain",
    )
    warm(Price, name="a")
    execute(statement)
    with CaptureQueriesContext(connection) as queries:
        uses(Price, name="a")
    assert len(queries) == 1


@not_sqlite
@committed
def test_database_is_made_without_an_alias():
    """Django sends CREATE DATABASE through a connection without a database."""
    warm(Price, name="a")
    name = connection.settings_dict["NAME"]
    exists = "" if connection.vendor == "postgresql" else "IF NOT EXISTS "
    quoted = connection.ops.quote_name(name)
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"SELECT 1 -- {quoted}")
        with CaptureQueriesContext(connection) as queries:
            uses(Price, name="a")
        assert len(queries) == 0
        # It exists, so PostgreSQL raises an error.
        with suppress(ProgrammingError):
            cursor.execute(f"CREATE DATABASE {exists}{quoted}")
        with CaptureQueriesContext(connection) as queries:
            uses(Price, name="a")
        assert len(queries) == 1
    rows = written_rows.aliases_of(connections["other"], f"DROP DATABASE {quoted}")
    assert rows == {"other", "default"}


# Partitions and children


PARTITIONED = (
    "CREATE TABLE tests_event (id bigserial, name varchar(20), uses int DEFAULT 0, "
    "PRIMARY KEY (id, name)) PARTITION BY LIST (name)",
    "CREATE TABLE tests_event_may PARTITION OF tests_event FOR VALUES IN ('may', 'a') "
    "PARTITION BY LIST (name)",
    "CREATE TABLE tests_event_leaf PARTITION OF tests_event_may DEFAULT",
)
INHERITED = (
    "CREATE TABLE tests_event (id bigserial PRIMARY KEY, name varchar(20), "
    "uses int DEFAULT 0)",
    "CREATE TABLE tests_event_may () INHERITS (tests_event)",
    "CREATE TABLE tests_event_leaf () INHERITS (tests_event_may)",
)


@postgresql
@committed
@pytest.mark.parametrize(
    "statements", [PARTITIONED, INHERITED], ids=["list", "inherits"]
)
class TestPartitions:
    @pytest.fixture(autouse=True)
    def tables(self, made, statements):
        made(*statements, drop="DROP TABLE tests_event CASCADE")
        execute("INSERT INTO tests_event_leaf (id, name) VALUES (1, 'may')")

    def test_write_of_a_part_is_seen(self):
        for write in (
            lambda: EventOfMay.plain.update(uses=1),
            lambda: EventOfMay.plain.filter(pk=1).update(uses=2),
            sql("UPDATE tests_event_may SET uses = 3"),
            sql("UPDATE ONLY tests_event_leaf SET uses = 4"),
            sql("UPDATE public.tests_event_leaf SET uses = 5"),
            sql('WITH x AS (UPDATE "tests_event_leaf" SET uses = 6) SELECT 1'),
            lambda: EventOfMay.plain.filter(pk=1).delete(),
        ):
            check_sees(Event, write, name="may")

    @pytest.mark.parametrize(
        "statement",
        [
            "TRUNCATE tests_event_leaf",
            "DELETE FROM tests_event_leaf",
            "DROP TABLE tests_event_leaf",
            "TRUNCATE tests_event_may",
        ],
    )
    def test_part_is_emptied(self, statement):
        warm(Event, name="may")
        execute(statement)
        assert not Event.objects.filter(name="may").exists()
        with pytest.raises(LookupError):
            Event.objects.get_or_create(name="may", defaults={"uses": refuse})

    def test_write_of_the_whole_is_seen(self):
        for write in (
            lambda: Event.plain.update(uses=1),
            lambda: Event.plain.filter(pk=1).update(uses=2),
            sql("UPDATE tests_event SET uses = 3"),
        ):
            check_sees(EventOfMay, write, name="may")

    def test_part_that_another_process_has_made(self, statements):
        """This process is not notified of it."""
        warm(Event, name="may")
        raw = connection.connection.cursor()
        if statements is PARTITIONED:
            raw.execute(
                "CREATE TABLE tests_event_june PARTITION OF tests_event "
                "FOR VALUES IN ('june')"
            )
        else:
            raw.execute("CREATE TABLE tests_event_june () INHERITS (tests_event)")
        raw.execute("INSERT INTO tests_event_june (id, name) VALUES (9, 'june')")
        check_sees(Event, sql("UPDATE tests_event_june SET uses = 1"), name="june")

    def test_schema_that_is_rolled_back(self):
        """Its facts about tables are discarded with the transaction."""
        relations.relations_by_alias.clear()
        with pytest.raises(LookupError), transaction.atomic():
            execute("ALTER TABLE tests_event_leaf RENAME TO tests_event_other")
            EventOfMay.plain.update(uses=1)
            refuse()
        Event.objects.invalidate_all()  # rows that are rolled back stay locked
        check_sees(Event, sql("UPDATE tests_event_leaf SET uses = 2"), name="may")

    def test_catalog_is_read_once(self):
        warm(Event, name="may")
        EventOfMay.plain.update(uses=1)
        [(_, found)] = relations.relations_by_alias.values()
        execute("UPDATE tests_event_leaf SET uses = 2")
        Price.plain.create(name="x")
        assert relations.relations_by_alias["default"][1] is found
        execute("UPDATE tests_rope SET name = 'a'", "UPDATE tests_rope SET name = 'b'")
        assert relations.relations_by_alias["default"][1] is found

    def test_aborted_transaction_is_not_asked(self):
        warm(Event, name="may")
        connection.set_autocommit(False)
        try:
            for statement in (
                "SELECT 1 / 0",
                "UPDATE tests_event SET uses = 1",
                "/* a */ UPDATE tests_event SET uses = 1",
            ):
                relations.relations_by_alias.clear()
                with pytest.raises(Exception, match=r"division|aborted"):
                    execute(statement)
            with pytest.raises(Exception, match="aborted"):
                Event.plain.update(uses=1)
        finally:
            connection.rollback()
            connection.set_autocommit(True)


PARTS = ["INTO", "From", "shop", "x.y", "up", "--", "(", ",", '"a b"', " ", "\n"]
PARTS += ["\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "\N{LATIN SMALL LETTER LONG S}"]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*sorted(relations.BEFORE_TARGETS), *PARTS])))
def test_targets_are_those_that_the_pattern_finds(parts):
    text = "".join(parts)
    assert {*relations.TARGET.findall(text)} <= {*relations.targets_of(text)}


# Views


@committed
class TestViews:
    @pytest.fixture(autouse=True)
    def views(self, made):
        made(
            "CREATE VIEW tests_price_view AS SELECT id, name, uses FROM tests_price",
            drop="DROP VIEW tests_price_view",
        )
        made(
            "CREATE VIEW tests_price_total AS "
            "SELECT id, name, uses + 100 AS uses FROM tests_price_view",
            drop="DROP VIEW tests_price_total",
        )
        self.pk = Price.plain.create(name="a").pk

    @pytest.mark.parametrize("view", [PriceView, PriceTotal])
    def test_write_of_the_table_is_seen(self, view):
        for write in (
            lambda: Price.plain.update(uses=1),
            lambda: Price(self.pk, "a", 2).save(),
            lambda: SharedPrice.plain.update(uses=3),
            sql("UPDATE tests_price SET uses = 4"),
        ):
            check_sees(view, write, name="a")

    def test_row_is_inserted(self):
        """It may change the counts in a view."""
        warm(PriceTotal, name="a")
        Price.plain.create(name="b")
        with CaptureQueriesContext(connection) as queries:
            uses(PriceTotal, name="a")
        assert len(queries) == 1

    @not_sqlite
    def test_write_through_the_view_is_seen(self):
        for number, write in enumerate(
            [
                sql("UPDATE tests_price_view SET uses = 1"),
                lambda: PriceView.plain.update(uses=2),
                lambda: PriceView(self.pk, "a", 3).save(),
            ],
            start=1,
        ):
            check_sees(Price, write, name="a")
            assert (number, uses(PriceTotal, name="a")) == (number, 100 + number)

    def test_view_that_is_made_anew(self):
        warm(PriceTotal, name="a")
        execute(
            "DROP VIEW tests_price_total",
            "CREATE VIEW tests_price_total AS "
            "SELECT id, name, uses + 200 AS uses FROM tests_price",
        )
        assert uses(PriceTotal, name="a") == 200
        check_sees(PriceTotal, lambda: Price.plain.update(uses=1), name="a")


@committed
def test_view_of_a_table_without_a_model(made):
    made(
        "CREATE TABLE tests_price_rows (id integer, name varchar(20), uses integer)",
        "INSERT INTO tests_price_rows VALUES (1, 'a', 0)",
        drop="DROP TABLE tests_price_rows",
    )
    made(
        "CREATE VIEW tests_price_view AS SELECT * FROM tests_price_rows",
        drop="DROP VIEW tests_price_view",
    )
    check_sees(PriceView, sql("UPDATE tests_price_rows SET uses = 1"), name="a")
    warm(PriceView, name="a")
    execute("DELETE FROM tests_price_rows")
    # SQLite 3.41 and later refuse an INSERT into a view.
    with CaptureQueriesContext(connection) as queries, suppress(OperationalError):
        assert uses(PriceView, name="a") is None
    assert len(queries) > 0


@postgresql
@committed
def test_materialized_view_is_refreshed(made):
    Price.plain.create(name="a")
    made(
        "CREATE MATERIALIZED VIEW tests_price_view AS SELECT * FROM tests_price",
        "CREATE UNIQUE INDEX tests_price_unique ON tests_price_view (id)",
        drop="DROP MATERIALIZED VIEW tests_price_view",
    )
    for number, concurrently in enumerate(
        ["", "CONCURRENTLY", "concurrently public."], 1
    ):
        warm(PriceView, name="a")
        Price.plain.update(uses=number)
        with CaptureQueriesContext(connection) as queries:
            assert uses(PriceView, name="a") == number - 1
        assert len(queries) == 0
        name = re.sub(r"(?<=\w)$", " ", concurrently) + "tests_price_view"
        execute(f"REFRESH MATERIALIZED VIEW {name}")
        assert uses(PriceView, name="a") == number


@committed
def test_plain_statements_ask_the_catalog_nothing(monkeypatch):
    Price.plain.create(name="a")
    Price.plain.update(uses=1)
    monkeypatch.setattr(relations, "read_relations", None)
    Price.plain.update(uses=2)
    Price.plain.create(name="b")
    execute("SELECT 1")


def test_targets_that_were_looked_for_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(relations, "MAX_UNRELATED", 2)
    found, none = relations.Relations(()), Names(())
    for number in range(5):
        text = f"UPDATE t{number} SET a = 1"
        assert not found.covers(text, none)
        found.record_unrelated(text)
        assert found.covers(text, none)
    assert len(found.unrelated) < 5
