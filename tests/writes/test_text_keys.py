"""Text columns that the database compares in another way than Python."""

from contextlib import closing

import pytest
from django.core.cache import caches
from django.db import connection, transaction

from getorcreateplus import invalidate
from getorcreateplus.writes import schema_changes, text_columns
from getorcreateplus.writes.registry import cached_models
from getorcreateplus.writes.tables import has_exact_keys, table_index

from ..models import Capital, Country, Parish, Plate, Sticker
from ..support.queries import queries_of
from ..support.sql import execute
from ..support.threads import elsewhere

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

PREPARE = {
    "postgresql": [
        "CREATE EXTENSION IF NOT EXISTS citext",
        "CREATE COLLATION IF NOT EXISTS text_blind (provider = icu, "
        "locale = 'und-u-ks-level2', deterministic = false)",
        "DROP DOMAIN IF EXISTS text_padded, text_outer, text_inner, text_loud",
        "CREATE DOMAIN text_padded AS char(10)",
        "CREATE DOMAIN text_inner AS citext",
        "CREATE DOMAIN text_outer AS text_inner CHECK (VALUE <> '')",
        'CREATE DOMAIN text_loud AS text COLLATE "text_blind"',
        "DROP DOMAIN IF EXISTS text_exact",
        "CREATE DOMAIN text_exact AS varchar(10)",
    ]
}

# A column, and two texts of Python that are equal in it.
ODD = {
    "sqlite": [
        ("varchar(10) COLLATE NOCASE", "NL", "nl"),
        ('varchar(10) collate "nocase"', "NL", "nl"),
        ("varchar(10) COLLATE RTRIM", "nl", "nl "),
        ("integer", "7", "07"),
        ("numeric(10)", "7", "7.0"),
    ],
    "postgresql": [
        ("char(10)", "nl", "nl"),
        ("citext", "NL", "nl"),
        ('varchar(10) COLLATE "text_blind"', "NL", "nl"),
        ("text_padded", "nl", "nl"),
        ("text_outer", "NL", "nl"),
        ("text_loud", "NL", "nl"),
    ],
    "mysql": [("varchar(10)", "NL", "nl"), ("char(10)", "nl", "nl ")],
}[connection.vendor]
EXACT = {
    "sqlite": ["varchar(10)", "text COLLATE BINARY", "character(10)"],
    "postgresql": ["varchar(10)", "text", 'text COLLATE "C"', "text_exact"],
    "mysql": [],
}[connection.vendor]
TABLES = {
    Country: "code {} NOT NULL PRIMARY KEY",
    Capital: "country_id {} NOT NULL PRIMARY KEY",
    Parish: "code {} NOT NULL, number integer NOT NULL, PRIMARY KEY (code, number)",
}


def make(model, column):
    table = model._meta.db_table
    columns, _, key = TABLES[model].format(column).partition(", PRIMARY")
    execute(
        f"DROP TABLE IF EXISTS {table}",
        f"CREATE TABLE {table} ({columns}, name varchar(20) NOT NULL UNIQUE, "
        f"people integer NOT NULL{', PRIMARY' * bool(key)}{key})",
    )


@pytest.fixture(scope="module", autouse=True)
def types(django_db_setup, django_db_blocker):
    # With the driver, because a statement that the package sees invalidates
    # all models.
    with django_db_blocker.unblock():
        connection.ensure_connection()
        with closing(connection.connection.cursor()) as cursor:
            for statement in PREPARE.get(connection.vendor, ()):
                cursor.execute(statement)


@pytest.fixture(autouse=True)
def tables():
    yield
    names = [model._meta.db_table for model in TABLES]
    names += ["text_plate", "text_sticker"]
    if connection.vendor != "sqlite":
        names = [", ".join(names)]
    execute(*(f"DROP TABLE IF EXISTS {name}" for name in names))


def key(model, text):
    """Return the arguments that name a row by its primary key."""
    name = "country_id" if model is Capital else "code"
    return {name: text} | ({"number": 1} if model is Parish else {})


def pk(model, text):
    return (text, 1) if model is Parish else text


def warm(model, name="a"):
    for _ in range(2):
        model.objects.get_or_create(name=name)


def served(model, name="a"):
    """Return the row of a hit or a SELECT, and that of a plain manager."""
    obj, created = model.objects.get_or_create(name=name, defaults=key(model, "x"))
    assert not created
    return obj.people


def write_by_driver(model, text, people):
    cursor = connection.connection.cursor()
    cursor.execute(f"UPDATE {model._meta.db_table} SET people = {people}")
    cursor.close()
    if connection.vendor == "mysql":
        connection.connection.commit()
    model.objects.invalidate(pk(model, text))


def made(model, text, people):
    return model(**key(model, text), name="a", people=people)


WRITES = [
    lambda model, text, people: model.plain.filter(pk=pk(model, text)).update(
        people=people
    ),
    lambda model, text, people: model.plain.filter(pk__in=[pk(model, text)]).update(
        people=people
    ),
    lambda model, text, people: made(model, text, people).save(force_update=True),
    lambda model, text, people: model.plain.bulk_update(
        [made(model, text, people)], ["people"]
    ),
    write_by_driver,
]


@pytest.mark.parametrize(("column", "stored", "other"), ODD)
@pytest.mark.parametrize("model", TABLES)
def test_write_by_another_text_invalidates_the_row(model, column, stored, other):
    make(model, column)
    model.plain.create(**key(model, stored), name="a")
    for people, write in enumerate(WRITES, 1):
        warm(model)
        assert queries_of(lambda: warm(model)) == 0
        write(model, other, people)
        assert model.plain.get(name="a").people == people
        assert served(model) == people


@pytest.mark.parametrize(("column", "stored", "other"), ODD)
def test_row_deleted_by_another_text_is_gone(column, stored, other):
    make(Country, column)
    Country.plain.create(code=stored, name="a", people=1)
    warm(Country)
    Country.plain.filter(pk=other).delete()
    obj, created = Country.objects.get_or_create(name="a", defaults={"code": "8"})
    assert (obj.people, created) == (0, True)


@pytest.mark.parametrize(("column", "stored", "other"), ODD)
def test_transaction_sees_its_write_by_another_text(column, stored, other):
    make(Country, column)
    Country.plain.create(code=stored, name="a")
    warm(Country)
    with transaction.atomic():
        Country.plain.filter(pk=other).update(people=5)
        assert served(Country) == 5
        Country.plain.filter(pk=stored).update(people=6)
        assert served(Country) == 6
    assert served(Country) == 6


@pytest.mark.parametrize(("column", "stored", "other"), ODD)
def test_row_made_in_a_transaction_is_as_the_database_has_it(column, stored, other):
    make(Country, column)
    with transaction.atomic():
        Country(code=stored, name="a", people=1).save(force_insert=True)
        assert served(Country) == 1
        Country.plain.filter(pk=other).update(people=2)
        assert served(Country) == 2
    assert served(Country) == 2
    Country.plain.filter(pk=other).update(people=3)
    assert served(Country) == 3


@pytest.mark.parametrize(("column", "stored", "other"), ODD)
def test_local_row_is_dropped_by_another_text(column, stored, other, monkeypatch):
    monkeypatch.setattr(type(Country.objects.all()), "local_timeout", 600)
    make(Country, column)
    Country.plain.create(code=stored, name="a")
    warm(Country)
    Country.plain.filter(pk=other).update(people=5)
    assert served(Country) == 5


@pytest.mark.database("postgresql", "sqlite")
@pytest.mark.parametrize("column", EXACT)
@pytest.mark.parametrize("model", [Country, Capital])
def test_exact_column_has_a_version_per_row(model, column):
    make(model, column)
    for name in "ab":
        model.plain.create(**key(model, name), name=name)
        warm(model, name)
    model.plain.filter(pk=pk(model, "a")).update(people=5)
    model.objects.invalidate(pk(model, "a"))
    assert queries_of(lambda: warm(model, "b")) == 0
    assert served(model) == 5


@pytest.mark.database("postgresql", "sqlite")
def test_columns_are_no_query_of_the_user():
    make(Country, "varchar(10)")
    Country.plain.create(code="a", name="a")
    connection.close()
    Country.plain.count()
    update = Country.plain.filter(pk="a").update
    assert queries_of(lambda: update(people=5)) == 1
    asked = connection.getorcreateplus_catalog
    assert queries_of(lambda: update(people=6)) == 1
    assert connection.getorcreateplus_catalog is asked


# A column that changes

CHANGE = {
    "postgresql": ["ALTER TABLE text_country ALTER code TYPE citext"],
    "sqlite": [
        "ALTER TABLE text_country RENAME TO text_old",
        "CREATE TABLE text_country (code varchar(10) COLLATE NOCASE PRIMARY KEY, "
        "name varchar(20) NOT NULL UNIQUE, people integer NOT NULL)",
        "INSERT INTO text_country SELECT code, name, people FROM text_old",
        "DROP TABLE text_old",
    ],
}.get(connection.vendor, [])


@pytest.fixture
def country():
    make(Country, "varchar(10)")
    Country.plain.create(code="NL", name="a")
    Country.plain.filter(pk="NL").update(people=1)  # caches the kind of the column
    warm(Country)


def assert_other_text_is_told(people):
    warm(Country)
    Country.plain.filter(pk="nl").update(people=people)
    assert Country.plain.get(name="a").people == people
    assert served(Country) == people


@pytest.mark.database("postgresql", "sqlite")
def test_column_that_a_migration_has_changed(country):
    execute(*CHANGE)
    assert_other_text_is_told(5)


@pytest.mark.database("postgresql", "sqlite")
def test_column_that_was_changed_in_a_transaction(country):
    with transaction.atomic():
        execute(*CHANGE)
        Country.plain.filter(pk="nl").update(people=5)
        assert served(Country) == 5
    assert served(Country) == 5
    assert_other_text_is_told(6)


@pytest.mark.database("postgresql", "sqlite")
def test_change_that_is_rolled_back(country):
    """
    The facts about the column that were read inside the transaction are not
    kept.
    """
    execute(*CHANGE)
    back = (
        ["ALTER TABLE text_country ALTER code TYPE varchar(10)"]
        if connection.vendor == "postgresql"
        else [sql.replace(" COLLATE NOCASE", "") for sql in CHANGE]
    )
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        execute(*back)
        Country.plain.filter(pk="NL").update(people=4)
        raise ZeroDivisionError
    caches["default"].clear()  # No release removes the lock.
    assert_other_text_is_told(5)


@pytest.mark.database("postgresql")
def test_change_in_a_transaction_that_is_managed_by_sql(country):
    execute(*CHANGE)
    execute("BEGIN", "ALTER TABLE text_country ALTER code TYPE varchar(10)")
    Country.plain.filter(pk="NL").update(people=4)
    execute("ROLLBACK")
    caches["default"].clear()
    assert_other_text_is_told(5)


@pytest.mark.database("postgresql", "sqlite")
def test_other_connections_of_the_process_ask_again(country):
    elsewhere(transaction.atomic(execute), *CHANGE)
    assert_other_text_is_told(5)


@pytest.mark.database("postgresql")
def test_column_of_another_schema():
    """The search_path may change unseen, so one odd column counts for all."""
    make(Country, "varchar(10)")
    execute("CREATE SCHEMA text_other")
    try:
        execute("CREATE TABLE text_other.text_country (code citext)")
        connection.ensure_connection()
        assert not has_exact_keys(cached_models[Country], connection)
    finally:
        execute("DROP SCHEMA text_other CASCADE")
    assert has_exact_keys(cached_models[Country], connection)


# If the catalog cannot be read


@pytest.mark.database("postgresql", "sqlite")
def test_table_that_is_not_there_is_looked_at_again():
    connection.ensure_connection()
    assert not has_exact_keys(cached_models[Country], connection)
    cursor = connection.connection.cursor()  # Unseen, like a change by another process.
    cursor.execute("CREATE TABLE text_country (code varchar(10) PRIMARY KEY)")
    cursor.close()
    assert has_exact_keys(cached_models[Country], connection)


@pytest.mark.database("postgresql")
def test_aborted_transaction_is_asked_again(country):
    del connection.getorcreateplus_catalog
    with transaction.atomic():
        with pytest.raises(Exception, match="zero"):
            connection.connection.execute("SELECT 1 / 0")
        assert not has_exact_keys(cached_models[Country], connection)
        transaction.set_rollback(True)
    assert has_exact_keys(cached_models[Country], connection)


@pytest.mark.database("postgresql")
def test_catalog_that_cannot_be_read_does_not_abort_the_transaction(
    country, monkeypatch
):
    monkeypatch.setattr(text_columns, "POSTGRESQL", "SELECT no_such_column, %s")
    schema_changes.discard_answers()
    with transaction.atomic():
        Country.plain.filter(pk="NL").update(people=5)
        assert not has_exact_keys(cached_models[Country], connection)
    assert served(Country) == 5


def test_connection_that_is_not_open_is_not_opened(country):
    connection.close()
    assert not has_exact_keys(cached_models[Country], connection)
    assert connection.connection is None
    invalidate(Country(pk="other"))
    assert queries_of(lambda: warm(Country)) > 0


@pytest.mark.database("sqlite")
def test_transaction_of_sqlite_does_not_read_before_it_writes(country):
    """
    It would fail at once if another connection has written in the meantime.
    """
    connection.close()
    with transaction.atomic():
        assert connection.getorcreateplus_catalog.exact  # since its BEGIN
        schema_changes.discard_answers()
        assert not has_exact_keys(cached_models[Country], connection)


@pytest.mark.database("sqlite")
def test_view_shows_nothing():
    connection.ensure_connection()
    execute(
        "CREATE TABLE text_base (code varchar(10) COLLATE NOCASE)",
        "CREATE VIEW text_country AS SELECT code FROM text_base",
    )
    try:
        assert not has_exact_keys(cached_models[Country], connection)
    finally:
        execute("DROP VIEW text_country", "DROP TABLE text_base")


@pytest.mark.parametrize(
    ("table", "name"),
    [("tag", "tag"), ('shop"."tag', "tag"), ('"shop"."tag"', "tag")],
)
def test_name_of_a_table(table, name):
    assert text_columns.name_of(table) == name


def test_keys_that_are_looked_at():
    assert table_index(connection).text_keys >= {
        ("text_country", "code"),
        ("text_capital", "country_id"),
        ("text_parish", "code"),
    }
    assert ("text_plate", "id") not in table_index(connection).text_keys


# Lookups


def make_numbered(model, column):
    number = {
        "postgresql": "bigserial",
        "sqlite": "integer",
        "mysql": "bigint AUTO_INCREMENT",
    }[connection.vendor]
    execute(
        f"CREATE TABLE {model._meta.db_table} (id {number} PRIMARY KEY, "
        f"code {column} NOT NULL, people integer NOT NULL)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["cached", "non_atomic", "objects"])
@pytest.mark.parametrize("is_warm", [False, True])
@pytest.mark.parametrize(("column", "stored", "other"), ODD)
def test_batch_by_another_text_of_a_column_that_is_not_unique(
    column, stored, other, is_warm, manager
):
    """A copy of a row that the batch does not find conflicts with nothing."""
    make_numbered(Sticker, column)
    for number, code in enumerate((stored, "4", "5"), start=1):
        Sticker.plain.create(code=code, people=number)
    rows = getattr(Sticker, manager)
    if is_warm:
        for code in (stored, "4", "5"):
            rows.get_or_create(code=code)
            rows.get_or_create(code=code)
    for batch in (["4", other], [other, "5", "4"]):
        found = rows.bulk_get_or_create([{"code": code} for code in batch], ["code"])
        assert [(row.people, created) for row, created in found] == [
            ({other: 1, "4": 2, "5": 3}[code], False) for code in batch
        ]
    found = rows.bulk_get_or_create([{"code": other}, {"code": "6"}], ["code"])
    assert [created for _, created in found] == [False, True]
    assert Sticker.plain.count() == 4
    Sticker.plain.create(code=other)
    with pytest.raises(Sticker.MultipleObjectsReturned):
        rows.bulk_get_or_create([{"code": "6"}, {"code": other}], ["code"])


@pytest.mark.parametrize(("column", "stored", "other"), ODD)
def test_lookup_by_another_text_is_as_without_a_cache(column, stored, other):
    make_numbered(Plate, f"{column} UNIQUE")
    obj, created = Plate.objects.get_or_create(code=stored)
    assert created
    for _ in range(2):
        for text in (stored, other):
            again, created = Plate.objects.get_or_create(code=text)
            assert (again.pk, again.people, created) == (obj.pk, 0, False)
    with transaction.atomic():
        Plate.plain.filter(code=other).update(people=1)
        for text in (stored, other):
            assert Plate.objects.get_or_create(code=text)[0].people == 1
    for text in (stored, other):
        assert Plate.objects.get_or_create(code=text)[0].people == 1
    rows = Plate.objects.bulk_get_or_create(
        [{"code": other}, {"code": stored}, {"code": "9"}], ["code"]
    )
    pks, created = zip(*((row.pk, created) for row, created in rows), strict=True)
    assert pks[:2] == (obj.pk, obj.pk)
    assert created == (False, False, True)
    assert Plate.plain.count() == 2
    with transaction.atomic():
        Plate.plain.all().delete()
        rows = Plate.objects.bulk_get_or_create(
            [{"code": other}, {"code": stored}], ["code"]
        )
        assert sorted(created for _, created in rows) == [False, True]
        assert rows[0][0].pk == rows[1][0].pk
    Plate.plain.update(people=7)
    assert Plate.objects.get_or_create(code=other)[0].people == 7
