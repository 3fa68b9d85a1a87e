"""get_or_create() and batches with triggers, privileges and collations."""

from contextlib import contextmanager, nullcontext, suppress

import pytest
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.db.models import Value
from django.db.models.functions import Lower
from django.db.models.signals import post_save, pre_save

from getorcreateplus.bulk import batch as bulk
from getorcreateplus.writes import table_facts as tables

from ..models import (
    CachedItem,
    CachedSlot,
    CaseBlind,
    NonAtomicItem,
    NonAtomicSlot,
    PlainSlot,
    PlusBook,
    PlusItem,
    PlusSlot,
    Shelf,
)
from ..support.sql import behind_the_back, execute
from ..support.threads import elsewhere

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)

SLOTS = pytest.mark.parametrize("model", [CachedSlot, NonAtomicSlot, PlusSlot])
ITEMS = pytest.mark.parametrize("model", [CachedItem, NonAtomicItem, PlusItem])
LIMITED = "getorcreateplus_limited"  # a user

FUNCTION = """
CREATE FUNCTION {0}_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN {1} END $$
"""
TRIGGER = """
CREATE TRIGGER {0}_insert BEFORE INSERT ON {0}
FOR EACH ROW EXECUTE FUNCTION {0}_insert()
"""


def make_trigger(model, body):
    table = model._meta.db_table
    # The package reads the trigger. For the function alone it would invalidate
    # the rows of every model, because it may be any statement.
    behind_the_back(FUNCTION.format(table, body))
    execute(TRIGGER.format(table))


def redirect(model):
    """Make the database put the rows elsewhere, or omit them."""
    table = model._meta.db_table
    if connection.vendor == "postgresql":
        execute(f"CREATE TABLE {table}_2026 (PRIMARY KEY (key)) INHERITS ({table})")
        make_trigger(
            model,
            f"""
            IF NEW.key <> 'left out' THEN
                INSERT INTO {table}_2026 VALUES (NEW.*);
            END IF;
            RETURN NULL;
            """,
        )
    else:
        execute(
            f"""
            CREATE TRIGGER {table}_insert BEFORE INSERT ON {table}
            BEGIN SELECT RAISE(IGNORE); END
            """
        )


@contextmanager
def seen():
    """Yield a list of the INSERTs that are sent, and of the signals."""
    found = []

    def record(execute, sql, params, many, context):
        if "INSERT" in sql:
            found.append("INSERT")
        return execute(sql, params, many, context)

    def before(**kwargs):
        found.append("pre_save")

    def after(created, **kwargs):
        found.append(f"post_save {created}")

    pre_save.connect(before)
    post_save.connect(after)
    try:
        with connection.execute_wrapper(record):
            yield found
    finally:
        pre_save.disconnect(before)
        post_save.disconnect(after)


def in_atomic(model):
    with transaction.atomic():
        return model.objects.get_or_create(key="b")


CALLS = {
    "get_or_create": lambda model: model.objects.get_or_create(key="a"),
    "in atomic": in_atomic,
    "update_or_create": lambda model: model.objects.update_or_create(key="c"),
    "left out": lambda model: model.objects.get_or_create(key="left out"),
}


@contextmanager
def failing(model, action):
    """Make SQLite refuse the row "bad", and any update, after writing it."""
    table = model._meta.db_table
    for event, condition in ("INSERT", "NEW.key = 'bad'"), ("UPDATE", "true"):
        execute(
            f"CREATE TRIGGER failing_{event} AFTER {event} ON {table} "
            f"WHEN {condition} BEGIN SELECT RAISE({action}, 'no'); END"
        )
    try:
        yield
    finally:
        execute("DROP TRIGGER failing_INSERT", "DROP TRIGGER failing_UPDATE")


FAILING = {
    "get_or_create": lambda model: model.objects.get_or_create(key="bad"),
    "update_or_create": lambda model: model.objects.update_or_create(
        {"number": 1}, key="before"
    ),
    "batch": lambda model: model.objects.bulk_get_or_create(
        [{"key": "a"}, {"key": "bad"}, {"key": "c"}]
    ),
}


class TestTriggers:
    @pytest.mark.slow
    @pytest.mark.database("postgresql", "sqlite")
    @SLOTS
    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    def test_row_that_is_put_elsewhere(self, model, call):
        """It is created, not found, as with Django's manager."""
        results = []
        for each in PlainSlot, model:
            redirect(each)
            with seen() as found:
                obj, created = call(each)
            results.append((obj.key, created, found))
        assert results[1] == results[0]
        assert results[0][1:] == (True, ["pre_save", "INSERT", "post_save True"])

    @pytest.mark.database("postgresql", "sqlite")
    @SLOTS
    def test_batch_of_rows_that_are_put_elsewhere(self, model):
        redirect(model)
        with seen() as found:
            results = model.objects.bulk_get_or_create(
                [{"key": "x", "number": 5}, {"key": "left out"}, {"key": "x"}]
            )
        assert found == ["INSERT"]
        assert [(obj.key, obj.number, created) for obj, created in results] == [
            *(("x", 5, True), ("left out", 0, True), ("x", 5, False))
        ]
        assert not results[0][0]._state.adding
        if connection.vendor == "postgresql":
            assert model._base_manager.get().number == 5

    @pytest.mark.database("postgresql")
    @SLOTS
    def test_trigger_that_updates_a_row_in_its_place(self, model):
        table = model._meta.db_table
        model._base_manager.create(key="a", number=1)
        make_trigger(
            model,
            f"""
            UPDATE {table} SET number = number + 1 WHERE key = NEW.key;
            IF FOUND THEN RETURN NULL; END IF;
            RETURN NEW;
            """,
        )
        rows = [{"key": "a"}, {"key": "b"}]
        found = model.objects.bulk_get_or_create(rows)
        assert [(obj.number, created) for obj, created in found] == [
            *((1, False), (0, True))
        ]
        assert model.objects.get_or_create(key="c")[1]
        assert model.objects.get_or_create(key="b") == (found[1][0], False)

    @pytest.mark.slow
    @pytest.mark.database("sqlite")
    @pytest.mark.django_db(transaction=True)
    @SLOTS
    @pytest.mark.parametrize("block", [transaction.atomic, nullcontext])
    def test_trigger_that_fails_and_keeps_the_row(self, model, block):
        """
        RAISE(FAIL) keeps the writes of a statement, but Django undoes them.
        """
        for each in PlainSlot, model:
            with failing(each, "FAIL"), block():
                each._base_manager.create(key="before")
                with pytest.raises(IntegrityError):
                    each.objects.get_or_create(key="bad")
                assert each.objects.get_or_create(key="after")[1]
            keys = each._base_manager.values_list("key", flat=True)
            assert sorted(keys) == ["after", "before"]

    @pytest.mark.slow
    @pytest.mark.database("sqlite")
    @pytest.mark.django_db(transaction=True)
    @SLOTS
    @pytest.mark.parametrize("action", ["FAIL", "ROLLBACK"])
    @pytest.mark.parametrize("call", FAILING.values(), ids=FAILING)
    def test_transaction_after_such_a_trigger(self, model, action, call):
        """Later writes are not committed without the earlier ones."""
        with failing(model, action), transaction.atomic():
            model._base_manager.create(key="before")
            with pytest.raises(DatabaseError):
                call(model)
            with suppress(DatabaseError):
                model._base_manager.create(key="after")
        rows = {*model._base_manager.values_list("key", "number")}
        assert rows in ({("before", 0), ("after", 0)}, set())

    @pytest.mark.database("postgresql")
    @SLOTS
    def test_conflict_inside_of_a_trigger(self, model):
        """The transaction goes on, as after Django's savepoint."""
        table = model._meta.db_table
        redirect(model)
        execute(f"INSERT INTO {table}_2026 VALUES ('a', 7)")
        lookups = []

        def hide(execute, sql, params, many, context):
            if sql.startswith("SELECT") and table in sql and not lookups:
                lookups.append(sql)
                # A batch sends a list of keys.
                none = "nobody" if type(params[0]) is str else ["nobody"]
                params = none, *params[1:]
            return execute(sql, params, many, context)

        with transaction.atomic(), connection.execute_wrapper(hide):
            obj, created = model.objects.get_or_create(key="a")
            assert (obj.number, created) == (7, False)
        lookups.clear()
        with transaction.atomic(), connection.execute_wrapper(hide):
            found = model.objects.bulk_get_or_create([{"key": "a"}])
            assert [(obj.number, new) for obj, new in found] == [(7, False)]

    @pytest.mark.database("postgresql")
    @pytest.mark.parametrize(
        ("body", "is_plain"),
        [
            ("NEW.number := 3; RETURN NEW;", True),
            ("IF NEW.number = 0 THEN RETURN NEW; END IF; return  new ;", True),
            ("RETURN/**/NULL;", False),
            ("NEW := NULL; RETURN NEW;", False),
            ("NEW = NULL; RETURN NEW;", False),
            ("SELECT * INTO NEW FROM {table} WHERE false; RETURN NEW;", False),
            ("RETURN OLD;", False),
        ],
    )
    def test_which_triggers_leave_no_row_out(self, body, is_plain):
        table = PlusSlot._meta.db_table
        make_trigger(PlusSlot, body.replace("{table}", table))
        assert tables.facts_of(connection, PlusSlot).takes_each_row is is_plain

    @pytest.mark.database("postgresql")
    def test_trigger_of_a_partition(self):
        execute(
            "ALTER TABLE tests_plusslot RENAME TO tests_elsewhere",
            "CREATE TABLE tests_plusslot (key varchar(20) PRIMARY KEY, number int) "
            "PARTITION BY LIST (key)",
            "CREATE TABLE tests_plusslot_rest PARTITION OF tests_plusslot DEFAULT",
        )
        assert tables.facts_of(connection, PlusSlot).takes_each_row
        execute(
            FUNCTION.format("tests_plusslot_rest", "RETURN NULL;"),
            TRIGGER.format("tests_plusslot_rest"),
        )
        assert not tables.facts_of(connection, PlusSlot).takes_each_row
        assert PlusSlot.objects.get_or_create(key="a")[1]

    @pytest.mark.slow
    @pytest.mark.database("postgresql", "sqlite")
    @SLOTS
    def test_view_whose_trigger_writes_a_table(self, model):
        table = model._meta.db_table
        execute(
            f"ALTER TABLE {table} RENAME TO {table}_behind",
            f"CREATE VIEW {table} AS SELECT * FROM {table}_behind",
        )
        if connection.vendor == "postgresql":
            execute(
                FUNCTION.format(
                    table,
                    f"INSERT INTO {table}_behind VALUES (NEW.*); RETURN NULL;",
                ),
                TRIGGER.format(table).replace("BEFORE", "INSTEAD OF"),
            )
        else:
            execute(
                f"CREATE TRIGGER {table}_insert INSTEAD OF INSERT ON {table} "
                f"BEGIN INSERT INTO {table}_behind VALUES (NEW.key, NEW.number); END"
            )
        with seen() as found:
            results = model.objects.bulk_get_or_create([{"key": "a"}, {"key": "b"}])
        assert [(obj.key, created) for obj, created in results] == [
            *(("a", True), ("b", True))
        ]
        assert found == ["INSERT"]
        assert model.objects.get_or_create(key="c")[1]
        assert not model.objects.get_or_create(key="b")[1]

    @pytest.mark.database("postgresql")
    def test_trigger_that_returns_the_row_needs_no_savepoint(self):
        make_trigger(PlusItem, "NEW.size := 3; RETURN NEW;")
        tables.facts_of(connection, PlusItem)
        sent = []

        def record(execute, sql, params, many, context):
            sent.append(sql.split()[0])
            return execute(sql, params, many, context)

        with transaction.atomic(), connection.execute_wrapper(record):
            PlusItem.objects.get_or_create(code="a")
            PlusItem.objects.bulk_get_or_create([{"code": "b"}])
        assert sent == ["SELECT", "INSERT", "SELECT", "INSERT"]
        assert PlusItem._base_manager.get(code="b").size == 3

    @pytest.mark.database("postgresql")
    @committed
    def test_trigger_that_another_process_has_made(self):
        """The first row that it omits makes this process query again."""
        PlusSlot.objects.get_or_create(key="a")

        def make():
            with connection.connection.cursor() as cursor:
                cursor.execute(FUNCTION.format("tests_plusslot", "RETURN NULL;"))
                cursor.execute(TRIGGER.format("tests_plusslot"))

        def make_elsewhere():
            connection.ensure_connection()
            make()

        elsewhere(make_elsewhere)
        try:
            PlusSlot.objects.get_or_create(key="b")
            with seen() as found:
                assert PlusSlot.objects.get_or_create(key="c")[1]
            assert found == ["pre_save", "INSERT", "post_save True"]
        finally:
            execute("DROP FUNCTION tests_plusslot_insert CASCADE")

    @pytest.mark.database("mysql")
    @committed
    @ITEMS
    def test_triggers_of_an_update_do_not_run(self, model):
        table = model._meta.db_table
        execute(
            f"CREATE TRIGGER {table}_update BEFORE UPDATE ON {table} "
            "FOR EACH ROW SET NEW.size = 99"
        )
        written = []

        def write(execute, sql, params, many, context):
            if sql.startswith("INSERT") and not written:
                written.append(1)
                elsewhere(lambda: model.objects.create(code="b", size=7))
            return execute(sql, params, many, context)

        try:
            with connection.execute_wrapper(write):
                found = model.objects.bulk_get_or_create([{"code": c} for c in "abc"])
            assert [(obj.size, created) for obj, created in found] == [
                *((0, True), (7, False), (0, True))
            ]
            assert model._base_manager.get(code="b").size == 7
        finally:
            execute(f"DROP TRIGGER {table}_update")


@contextmanager
def limited_user():
    """Be a user who may SELECT and INSERT, and no more."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "mysql":
        made = [
            f"CREATE USER {LIMITED}@'%%'",
            f"GRANT SELECT, INSERT ON `{name}`.* TO {LIMITED}@'%%'",
        ]
        dropped = [f"DROP USER {LIMITED}@'%%'"]
    else:
        made = [
            f"CREATE ROLE {LIMITED} LOGIN",
            f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {LIMITED}",
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {LIMITED}",
        ]
        dropped = [f"DROP OWNED BY {LIMITED}", f"DROP ROLE {LIMITED}"]
    user = connection.settings_dict["USER"]
    with connection.cursor() as cursor:
        for sql in made:
            cursor.execute(sql, [])
    connection.close()
    connection.settings_dict["USER"] = LIMITED
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["USER"] = user
        with connection.cursor() as cursor:
            for sql in dropped:
                cursor.execute(sql, [])


@pytest.mark.database("mysql", "postgresql")
@committed
@ITEMS
def test_user_without_the_right_to_update(model):
    rows = [{"code": code} for code in "abc"]

    def write(execute, sql, params, many, context):
        if sql.startswith("INSERT") and not written:
            written.append(1)
            elsewhere(lambda: model.objects.create(code="b", size=7))
        return execute(sql, params, many, context)

    written = []
    with limited_user():
        assert model.objects.get_or_create(code="z")[1]
        found = model.objects.bulk_get_or_create([{"code": c} for c in "xyz"])
        assert [created for _, created in found] == [True, True, False]
        with connection.execute_wrapper(write):
            found = model.objects.bulk_get_or_create(rows)
        assert written
        assert [(obj.size, created) for obj, created in found] == [
            *((0, True), (7, False), (0, True))
        ]


# Rows that the database treats as equal


def ignore_case():
    """Make CaseBlind's column ignore the case on PostgreSQL, too."""
    if connection.vendor != "postgresql":
        return
    table = CaseBlind._meta.db_table
    with connection.cursor() as cursor:
        constraints = connection.introspection.get_constraints(cursor, table)
        for name, each in constraints.items():
            if name.endswith("_like"):
                cursor.execute(f'DROP INDEX "{name}"')
                assert not each["unique"]
    execute(
        "CREATE COLLATION ignoring_case "
        "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        f"ALTER TABLE {table} ALTER name TYPE varchar(20) COLLATE ignoring_case",
    )


def row_by_row(rows):
    """Return the results of a loop of Django's get_or_create()."""
    with transaction.atomic():
        queryset = models.QuerySet(CaseBlind)
        found = [queryset.get_or_create(**row) for row in rows]
        found = [(obj.name, created) for obj, created in found]
        transaction.set_rollback(True)
    return found


SPELLINGS = {
    "sorted otherwise": lambda: ["django", "Django", "orm", "ORM", "SQL", "sql"],
    "with others between": lambda: ["b", "a", "c", "A", "B", "C", "d"],
    "expression first": lambda: [Lower(Value("ORM")), "ORM", "a", "A"],
    "expression between": lambda: ["A", "b", Lower(Value("B")), "a", "B", "c"],
    "expression last": lambda: ["B", "a", Lower(Value("A")), Lower(Value("C"))],
    "expressions only": lambda: [Lower(Value("B")), Lower(Value("b"))],
    "other letters": lambda: ["É", "é", "Z", "z"],
}


class TestEqualRows:
    """The first of them is created, as in a loop of get_or_create()."""

    @pytest.mark.parametrize("names", SPELLINGS.values(), ids=SPELLINGS)
    @pytest.mark.parametrize("at_once", [500, 2])
    def test_first_is_created(self, names, at_once, monkeypatch):
        monkeypatch.setattr(bulk, "MAX_UNITED_SELECTS", at_once)
        ignore_case()
        expected = row_by_row([{"name": name} for name in names()])
        found = CaseBlind.objects.bulk_get_or_create(
            [{"name": name} for name in names()], unique_fields=["name"]
        )
        assert [(obj.name, created) for obj, created in found] == expected

    def test_many(self):
        ignore_case()
        names = [f"É{number}" for number in range(300)]
        names += [name.lower() for name in names]
        found = CaseBlind.objects.bulk_get_or_create([{"name": n} for n in names])
        # SQLite ignores only the case of ASCII.
        twice = connection.vendor == "sqlite"
        assert [created for _, created in found] == [True] * 300 + [twice] * 300
        if not twice:
            assert [obj.name for obj, _ in found] == names[:300] * 2

    @pytest.mark.parametrize("batch_size", [1, 2, 3])
    def test_batch_size(self, batch_size):
        ignore_case()
        names = ["b", "a", "c", "A", "B", "C", "d"]
        rows = [{"name": name} for name in names]
        expected = row_by_row(rows)
        found = CaseBlind.objects.bulk_get_or_create(rows, batch_size=batch_size)
        assert [(obj.name, created) for obj, created in found] == expected

    @pytest.mark.database("mysql")
    @pytest.mark.parametrize("at_once", [500, 2])
    def test_key_that_is_not_unique(self, at_once, monkeypatch):
        """No constraint prevents the second spelling."""
        monkeypatch.setattr(bulk, "MAX_UNITED_SELECTS", at_once)
        shelf = Shelf.objects.create(name="a")
        parts = ["x", "y", "X", Lower(Value("Z")), "Y", "z"]
        rows = [{"shelf": shelf, "place": n, "part": p} for n, p in enumerate(parts)]
        found = PlusBook.objects.bulk_get_or_create(rows, unique_fields=["part"])
        assert [created for _, created in found] == [True, True, False, True] + [
            False
        ] * 2
        assert PlusBook.objects.count() == 3

    def test_key_that_is_not_unique_after_an_expression(self):
        shelf = Shelf.objects.create(name="a")
        parts = [Lower(Value("X")), "x", "y"]
        rows = [{"shelf": shelf, "place": n, "part": p} for n, p in enumerate(parts)]
        found = PlusBook.objects.bulk_get_or_create(rows, unique_fields=["part"])
        assert [created for _, created in found] == [True, False, True]

    @pytest.mark.database("mysql", "sqlite")
    def test_question_is_asked_where_texts_may_be_equal(self):
        sent = []

        def record(execute, sql, params, many, context):
            sent.append(sql)
            return execute(sql, params, many, context)

        def questions(names):
            sent.clear()
            with connection.execute_wrapper(record):
                CaseBlind.objects.bulk_get_or_create([{"name": n} for n in names])
            return sum("PARTITION" in sql for sql in sent)

        assert questions("aA") == 1
        # MariaDB's collations are known; those of SQLite are not.
        assert questions("bcd") == (connection.vendor == "sqlite")
        assert questions("f") == 0


@pytest.mark.parametrize(
    ("collation", "is_known"),
    [
        ("utf8mb4_general_ci", True),
        ("utf8mb4_unicode_520_nopad_ci", True),
        ("utf8mb4_0900_ai_ci", True),
        ("utf8mb4_uca1400_nopad_as_cs", True),
        ("utf8mb4_bin", True),
        ("latin1_swedish_ci", True),
        ("utf8mb4_roman_ci", False),  # "i" is "j"
        ("utf8mb4_lithuanian_ci", False),  # "i" is "y"
        ("utf8mb4_swedish_ci", False),
    ],
)
def test_collations_whose_ascii_is_known(collation, is_known):
    assert bool(tables.KNOWN_COLLATIONS.fullmatch(collation)) is is_known


def test_texts_that_are_distinct():
    table = tables.TableFacts(
        exact=frozenset({"exact"}), with_known_collation=frozenset({"known"})
    )
    for column, texts, are_distinct in [
        ("exact", {"a", "A"}, True),
        ("known", {"a", "b"}, True),
        ("known", {"a", "A"}, False),
        ("known", {"a", "a "}, False),
        ("known", {"a", "\xe4"}, False),
        ("known", {"a", "a\0"}, False),
        ("other", {"a", "b"}, False),
    ]:
        assert tables.are_distinct(table, column, texts) is are_distinct
