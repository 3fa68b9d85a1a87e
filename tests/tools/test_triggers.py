"""
Programs that write without Django, on PostgreSQL: triggers report the rows,
and a listener invalidates them.
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import date
from io import StringIO
from types import ModuleType

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, connections, migrations, models
from django.db.migrations.state import ProjectState
from django.test import override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps

from getorcreateplus import triggers
from getorcreateplus.signals import cache_invalidated

from ..models import DayDial, Dial, OddDial, Reading, SignalBox
from ..models import triggers as trigger_models
from ..support.repository import ROOT

LABELS = ["SignalBox", "Reading", "OddDial", "DayDial", "TextDial"]
LABELS = [f"tests.{label}" for label in LABELS]  # and Dial, the parent

postgresql = pytest.mark.database("postgresql")
others = pytest.mark.database("sqlite", "mysql")


@pytest.fixture
def shared_caches(tmp_path):
    """Caches that another process shares."""
    config = {
        alias: {
            "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
            "LOCATION": str(tmp_path / alias),
        }
        for alias in settings.CACHES
    }
    if not settings.CACHES["default"]["BACKEND"].endswith("LocMemCache"):
        config = settings.CACHES
    with override_settings(CACHES=config):
        yield config


@pytest.fixture
def tables(transactional_db):
    """Make the triggers, and drop them."""
    with connection.cursor() as cursor:
        cursor.execute(sql_of(*LABELS))
    yield
    with connection.cursor() as cursor:
        cursor.execute(sql_of(*LABELS, "--drop"))


def sql_of(*args):
    call_command("getorcreateplus_triggers", *args, stdout=(out := StringIO()))
    return out.getvalue()


def connect(**kwargs):
    """Return the connection of a program without Django."""
    import psycopg  # only on PostgreSQL

    params = connection.get_connection_params()
    names = ("dbname", "host", "password", "port", "user")
    params = {name: params[name] for name in names if name in params} | kwargs
    return psycopg.connect(**params, autocommit=True)


def execute_beside(*args):
    with connect() as program:
        program.execute(*args)


class Process:
    """getorcreateplus_listen, in its own process."""

    def __init__(self, folder, caches, *args):
        (folder / "settings_to_listen.py").write_text(
            "from tests.settings import *\n"
            f"DATABASES['default']['NAME'] = {connection.settings_dict['NAME']!r}\n"
            f"CACHES = {caches!r}\n"
            "LOGGING = {\n"
            "    'version': 1,\n"
            "    'handlers': {'console': {'class': 'logging.StreamHandler'}},\n"
            "    'loggers': {'getorcreateplus': {\n"
            "        'handlers': ['console'], 'level': 'INFO',\n"
            "    }},\n"
            "}\n"
        )
        self.errors = (folder / "errors").open("w+")
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "django", "getorcreateplus_listen", *args],
            cwd=folder,
            env=os.environ
            | {
                "DJANGO_SETTINGS_MODULE": "settings_to_listen",
                "PGAPPNAME": "listener",
                "PYTHONPATH": f"{folder}:{ROOT}",
            },
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def wait(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            assert selector.select(60), "It does not begin."
        self.begins_with = self.popen.stdout.readline()
        assert self.begins_with, self.logged()

    def logged(self):
        self.errors.seek(0)
        return self.errors.read()

    def end(self, number=signal.SIGTERM):
        self.popen.send_signal(number)
        try:
            return self.popen.wait(timeout=30)
        finally:
            self.popen.kill()
            self.popen.stdout.close()


@pytest.fixture
def listen(tmp_path, shared_caches, tables):
    processes = []

    def begin(*args):
        processes.append(process := Process(tmp_path, shared_caches, *args))
        process.wait()
        return process

    yield begin
    for process in processes:
        if process.popen.returncode is None:
            process.end()
        process.errors.close()


@pytest.fixture
def listener(listen):
    process = listen(*LABELS)
    assert process.begins_with.startswith(
        "Listening to 'default' for tests_signalbox, "
    )
    return process


def get(manager, **lookup):
    """Return the result of get_or_create(), and the number of its queries."""
    with CaptureQueriesContext(connection) as queries:
        obj, created = manager.get_or_create(**lookup)
    assert created is False
    return obj, len(queries)


def warm(manager, **lookup):
    """Put the row into the cache. Return its value."""
    eventually(lambda: get(manager, **lookup)[1] == 0)
    obj, _ = get(manager, **lookup)
    return obj.value


def eventually(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "It was waited for in vain."
        time.sleep(0.005)


def becomes(value, manager, **lookup):
    """Wait until get_or_create() serves the value, and then for a hit."""
    eventually(lambda: get(manager, **lookup)[0].value == value)
    assert warm(manager, **lookup) == value


@postgresql
class TestWrites:
    def test_row_that_is_written(self, listener):
        dial = Dial.objects.create(name="a", value=1)
        Dial.objects.create(name="b", value=1)
        assert warm(Dial.objects, name="a") == 1
        assert warm(Dial.objects, name="b") == 1
        execute_beside("INSERT INTO tests_dial (name, value) VALUES ('c', 1)")
        assert get(Dial.objects, name="c")[0].value == 1
        execute_beside("UPDATE tests_dial SET value = 2 WHERE name = 'a'")
        becomes(2, Dial.objects, name="a")
        assert get(Dial.objects, name="b")[1] == 0  # it was not written
        execute_beside("DELETE FROM tests_dial WHERE name = 'a'")
        eventually(lambda: Dial.objects.get_or_create(name="a")[1])
        assert Dial.objects.get(name="a").pk != dial.pk

    def test_row_that_gets_another_key(self, listener):
        old = Dial.objects.create(name="a", value=1)
        warm(Dial.objects, name="a")
        warm(Dial.objects, pk=old.pk)
        execute_beside("UPDATE tests_dial SET id = -1, value = 2 WHERE name = 'a'")
        becomes(2, Dial.objects, name="a")
        becomes(2, Dial.objects, pk=-1)
        execute_beside(
            "INSERT INTO tests_dial (id, name, value) VALUES (%s, 'b', 3)", [old.pk]
        )
        becomes(3, Dial.objects, pk=old.pk)

    def test_rows_that_change_their_keys(self, listener):
        days = [date(2024, 1, day) for day in (1, 2)]
        for day, value in zip(days, (1, 2), strict=True):
            DayDial.objects.create(day=day, name="a", value=value)
            assert warm(DayDial.objects, day=day) == value
        with connect() as program, program.transaction():
            for change in (
                "- 9 WHERE value = 1",
                "- 1 WHERE value = 2",
                "+ 10 WHERE value = 1",
            ):
                program.execute(f"UPDATE tests_daydial SET day = day {change}")
        becomes(2, DayDial.objects, day=days[0])
        becomes(1, DayDial.objects, day=days[1])

    def test_table_that_is_emptied(self, listener):
        Dial.objects.create(name="a", value=1)
        warm(Dial.objects, name="a")
        execute_beside("TRUNCATE tests_dial CASCADE")
        eventually(lambda: Dial.objects.get_or_create(name="a")[1])

    def test_transaction(self, listener):
        """PostgreSQL sends it with the commit, and not after a rollback."""
        Dial.objects.create(name="a", value=1)
        warm(Dial.objects, name="a")
        with connect() as program:
            program.autocommit = False
            program.execute("UPDATE tests_dial SET value = 2")
            program.rollback()
            program.execute("UPDATE tests_dial SET value = 3")
            assert get(Dial.objects, name="a")[0].value == 1
            program.commit()
        becomes(3, Dial.objects, name="a")

    def test_more_rows_than_are_named(self, listener):
        execute_beside(
            "INSERT INTO tests_dial (name, value) "
            "SELECT 'n' || i, 1 FROM generate_series(1, 3000) i"
        )
        for name in ("n1", "n3000"):
            assert warm(Dial.objects, name=name) == 1
        execute_beside("UPDATE tests_dial SET value = 2")
        becomes(2, Dial.objects, name="n1")
        becomes(2, Dial.objects, name="n3000")

    def test_table_of_a_parent(self, listener):
        box = SignalBox.objects.create(name="a", value=1, lever=1)
        warm(SignalBox.objects, name="a")
        warm(Dial.objects, name="a")
        execute_beside("UPDATE tests_dial SET value = 2")
        becomes(2, SignalBox.objects, name="a")
        becomes(2, Dial.objects, name="a")
        execute_beside("UPDATE tests_signalbox SET lever = 2")
        eventually(lambda: get(SignalBox.objects, pk=box.pk)[0].lever == 2)

    def test_composite_key(self, listener):
        for day in (1, 2):
            Reading.objects.create(dial=7, day=date(2024, 1, day), name="a", value=1)
        first, second = [{"dial": 7, "day": date(2024, 1, day)} for day in (1, 2)]
        warm(Reading.objects, **first)
        warm(Reading.objects, **second)
        with connect() as program:
            program.execute("SET DateStyle = 'SQL, DMY'")
            program.execute("UPDATE tests_reading SET value=2 WHERE day='2024-01-02'")
        becomes(2, Reading.objects, **second)
        assert get(Reading.objects, **first)[1] == 0  # it was not written

    def test_names_that_need_quotes(self, listener):
        OddDial.objects.create(name="a", value=1)
        warm(OddDial.objects, name="a")
        execute_beside('UPDATE "Odd Dials, é" SET value = 2')
        becomes(2, OddDial.objects, name="a")

    def test_key_that_is_too_long_to_send(self, listener):
        long, short = "x" * 9000, 'é "x" \\'
        objects = trigger_models.TextDial.objects
        for text in (long, short):
            objects.create(text=text, name="a", value=1)
            warm(objects, text=text)
        execute_beside("UPDATE tests_textdial SET value = 2 WHERE text = %s", [short])
        becomes(2, objects, text=short)
        assert get(objects, text=long)[1] == 0
        execute_beside("UPDATE tests_textdial SET value = 2 WHERE text = %s", [long])
        becomes(2, objects, text=long)

    def test_key_that_python_has_no_value_for(self, listener):
        """It names an unknown row, so all rows are invalidated."""
        DayDial.objects.create(day=date(2024, 1, 1), name="a", value=1)
        warm(DayDial.objects, name="a")
        with connect() as program:
            program.execute("INSERT INTO tests_daydial VALUES ('b', 1, 'infinity')")
            program.execute("DELETE FROM tests_daydial WHERE day = 'infinity'")
        eventually(lambda: get(DayDial.objects, name="a")[1] == 1)

    def test_notification_of_no_trigger(self, listener):
        Dial.objects.create(name="a", value=1)
        warm(Dial.objects, name="a")
        strange = "", "{", "7", "[]", "[[1]]", "[" * 7000
        for payload in (
            *strange,
            '["tests_nothing", 1]',
            '["tests_dial", Infinity]',
            '["tests_dial", {}]',
        ):
            execute_beside("SELECT pg_notify('getorcreateplus', %s)", [payload])
        execute_beside("UPDATE tests_dial SET value = 2")
        becomes(2, Dial.objects, name="a")
        assert listener.logged().splitlines() == [
            "Ignored a notification that no trigger of getorcreateplus sends: "
            f"{payload!r}"
            for payload in strange
        ]

    def test_write_of_django(self, listener):
        """
        A row that it creates stays a hit, because an INSERT is not reported.
        """
        Dial.objects.get_or_create(name="a", defaults={"value": 1})
        Dial.objects.create(name="z")
        execute_beside("UPDATE tests_dial SET value = 5 WHERE name = 'z'")
        becomes(5, Dial.objects, name="z")
        assert get(Dial.objects, name="a")[1] == 0


@postgresql
class TestListening:
    def test_server_that_ends_the_connection(self, listener):
        Dial.objects.create(name="a", value=1)
        for value in (2, 3):
            warm(Dial.objects, name="a")
            with connect() as program:
                assert end_listening(program) == 1
                program.execute("UPDATE tests_dial SET value = %s", [value])
            becomes(value, Dial.objects, name="a")
        # It listens again, and does not only invalidate all rows.
        execute_beside("UPDATE tests_dial SET value = 7")
        becomes(7, Dial.objects, name="a")
        eventually(lambda: listener.logged().count("default' answers again") == 2)
        first, second, third, fourth = listener.logged().splitlines()
        for line in (first, third):
            assert line.startswith(
                "Database 'default' failed, so notifications of its triggers do not "
                "arrive until it answers again: "
            )
        for line in (second, fourth):
            assert line == "Database 'default' answers again."

    def test_server_that_refuses_connections(self, listener):
        """There is one line in the log for any number of attempts."""
        Dial.objects.create(name="a", value=1)
        warm(Dial.objects, name="a")
        with nobody_gets_in() as program:
            assert end_listening(program) == 1
            program.execute("UPDATE tests_dial SET value = 2")
            eventually(lambda: "do not arrive" in listener.logged())
            time.sleep(1)  # it tries several times
            assert get(Dial.objects, name="a")[0].value == 1
        becomes(2, Dial.objects, name="a")
        eventually(lambda: "default' answers again" in listener.logged())
        assert len(listener.logged().splitlines()) == 2

    def test_rows_written_before_are_invalidated(self, listen):
        Dial.objects.create(name="a", value=1)
        warm(Dial.objects, name="a")
        execute_beside("UPDATE tests_dial SET value = 2")
        assert get(Dial.objects, name="a")[0].value == 1
        process = listen("tests.Dial")
        assert process.begins_with == "Listening to 'default' for tests_dial.\n"
        assert get(Dial.objects, name="a")[0].value == 2

    @pytest.mark.usefixtures("tables")
    def test_what_is_written_while_it_begins(self):
        """It listens before it invalidates all rows, not only afterwards."""
        dial = Dial.objects.create(name="a", value=1)
        listener, received = triggers.Listener({"tests_dial": Dial}, "default"), []

        def write(sender, pks, **kwargs):
            if not received:
                execute_beside("UPDATE tests_dial SET value = 2")
            received.append(pks)

        cache_invalidated.connect(write, sender=Dial)
        try:
            listener.begin()
            start = time.monotonic()
            listener.wait()
            assert time.monotonic() - start < 10
            assert received == [None, (str(dial.pk),)]
        finally:
            cache_invalidated.disconnect(write, sender=Dial)
            connection.close()

    @pytest.mark.usefixtures("tables")
    def test_what_a_query_has_brought(self):
        """
        Like the query for triggers, after which the socket has nothing left.
        """
        Dial.objects.create(name="a", value=1)
        listener = triggers.Listener({"tests_dial": Dial}, "default")
        try:
            listener.begin()
            warm(Dial.objects, name="a")
            execute_beside("UPDATE tests_dial SET value = 2")
            eventually(lambda: list(listener.without_trigger()) or listener.received)
            start = time.monotonic()
            listener.wait()
            assert time.monotonic() - start < 10
            assert get(Dial.objects, name="a")[0].value == 2
        finally:
            connection.close()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_end(self, listener, number):
        assert listener.end(number) == 0
        assert listener.logged() == ""

    def test_end_while_it_waits_for_the_server(self, listener):
        with nobody_gets_in() as program:
            end_listening(program)
            eventually(lambda: "do not arrive" in listener.logged())
            assert listener.end() == 0

    def test_table_without_a_trigger(self, listen):
        with connection.cursor() as cursor:
            cursor.execute(
                'ALTER TABLE tests_reading DISABLE TRIGGER "getorcreateplus"'
            )
            cursor.execute(sql_of("tests.OddDial").replace('"Odd Key"', '"name"'))
        process = listen("tests.Zone", *LABELS)
        assert process.begins_with.startswith("Listening to 'default' for tests_zone, ")
        assert process.logged().splitlines() == [
            f"The table {table!r} {fault}: run the SQL that "
            "`getorcreateplus_triggers` prints."
            for table, fault in [
                ("tests_zone", "has no trigger"),
                ("tests_reading", "has no trigger"),
                ("Odd Dials, é", "has a trigger that is out of date"),
            ]
        ]


def end_listening(program):
    """End the server's processes of the listener. Return their number."""
    return program.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'listener' AND datname = current_database()"
    ).rowcount


@contextmanager
def nobody_gets_in():
    """Let the database refuse new connections. Yield an existing one."""
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connect() as program, connect(dbname="postgres") as owner:
        owner.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            yield program
        finally:
            owner.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


DIAL = """\
CREATE OR REPLACE FUNCTION "getorcreateplus_tests_dial"() RETURNS trigger
    LANGUAGE plpgsql AS $body$
DECLARE
    payload text := json_build_array('tests_dial')::text;
    of_row text;
BEGIN
    IF TG_OP <> 'TRUNCATE' THEN
        BEGIN
            of_row := json_build_array('tests_dial', OLD."id")::text;
        EXCEPTION WHEN undefined_column THEN
            of_row := payload; -- it has another primary key by now
        END;
        IF octet_length(of_row) <= 7999 THEN
            payload := of_row;
        END IF;
    END IF;
    PERFORM pg_notify('getorcreateplus', payload);
    RETURN NULL;
END
$body$;
CREATE OR REPLACE TRIGGER "getorcreateplus" AFTER UPDATE OR DELETE ON "tests_dial"
    FOR EACH ROW EXECUTE FUNCTION "getorcreateplus_tests_dial"();
CREATE OR REPLACE TRIGGER "getorcreateplus_truncate" AFTER TRUNCATE ON "tests_dial"
    FOR EACH STATEMENT EXECUTE FUNCTION "getorcreateplus_tests_dial"();
"""
DROP = """\
DROP TRIGGER IF EXISTS "getorcreateplus" ON "tests_dial";
DROP TRIGGER IF EXISTS "getorcreateplus_truncate" ON "tests_dial";
DROP FUNCTION IF EXISTS "getorcreateplus_tests_dial"();
"""


@postgresql
class TestSQL:
    pytestmark = pytest.mark.django_db

    def triggers(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
            return sorted(name for (name,) in cursor.fetchall())

    def test_sql(self):
        assert sql_of("tests.Dial") == DIAL
        assert sql_of("tests.Dial", "--drop") == DROP

    def test_migration(self):
        """
        Like RunSQL(), in both directions; twice has the same effect as once.
        """
        operation = migrations.RunSQL(
            sql_of("tests.Dial"), sql_of("tests.Dial", "--drop")
        )
        state = ProjectState()
        for method, names in [
            ("database_forwards", ["getorcreateplus", "getorcreateplus_truncate"]),
            ("database_backwards", []),
        ]:
            for _ in range(2):
                with connection.schema_editor(atomic=False) as editor:
                    getattr(operation, method)("tests", editor, state, state)
                assert self.triggers() == names

    def test_parents_and_children(self):
        made = sql_of("tests.SignalBox", "tests.Dial", "tests.SignalBox")
        assert made.count("CREATE OR REPLACE FUNCTION") == 2
        assert 'ON "tests_signalbox"' in made
        assert 'OLD."dial_ptr_id"' in made

    def test_all_models(self):
        made = sql_of()
        for table in ("tests_dial", "tests_zone", "tests_hull", "Odd Dials, é"):
            assert made.count(f'AFTER TRUNCATE ON "{table}"') == 1
        assert '"tests_plainpaper"' not in made

    def test_primary_key_that_is_renamed(self):
        """Without new triggers writes go on, and invalidate all rows."""
        sql, received = sql_of("tests.Dial").replace("tests_dial", "renamed"), []
        with connect() as program:
            program.add_notify_handler(lambda notify: received.append(notify.payload))
            program.execute("LISTEN getorcreateplus")
            program.execute("CREATE TABLE renamed (id int)")
            try:
                program.execute(sql)
                program.execute("INSERT INTO renamed VALUES (1), (2)")
                program.execute("UPDATE renamed SET id = 3 WHERE id = 2")
                program.execute("ALTER TABLE renamed RENAME id TO number")
                program.execute("UPDATE renamed SET number = 4")
                program.execute("SELECT 1")
            finally:
                program.execute("DROP TABLE renamed")
                program.execute("DROP FUNCTION getorcreateplus_renamed")
        assert received == ['["renamed", 2]', '["renamed"]']

    @pytest.mark.parametrize("table", ["it's", 'far"."away', "é" * 24])
    def test_names_of_tables(self, table):
        with isolate_apps("tests"):

            class Far(models.Model):
                class Meta:
                    app_label = "tests"
                    db_table = table

        names = triggers.names(Far, connection)
        assert names["table"] == f'"{table}"'
        assert len(names["function"].encode()) - 2 <= triggers.MAX_NAME_LENGTH
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA far")
            cursor.execute(f"CREATE TABLE {names['table']} (id int)")
            cursor.execute(triggers.create_sql(Far, connection))
            cursor.execute(f"INSERT INTO {names['table']} VALUES (1)")
            cursor.execute(f"UPDATE {names['table']} SET id = 2")
            cursor.execute(triggers.drop_sql(Far, connection))
        assert self.triggers() == []


COMMANDS = ["getorcreateplus_listen", "getorcreateplus_triggers"]


@pytest.mark.parametrize("command", COMMANDS)
class TestErrors:
    def fails(self, command, *args):
        with pytest.raises(CommandError) as raised:
            call_command(command, *args)
        assert raised.value.returncode == 1
        return str(raised.value)

    @others
    def test_other_database(self, command):
        assert self.fails(command) == (
            f"The database 'default' is {connection.vendor}: triggers need postgresql."
        )

    def test_unknown_database(self, command):
        assert self.fails(command, "--database", "none") == (
            "'none' is not in DATABASES, which has 'default', 'other'."
        )

    @postgresql
    @pytest.mark.parametrize(
        ("label", "error"),
        [
            ("Dial", "'Dial' is not a model's label, such as 'app.Model'."),
            ("none.Dial", "No installed app with label 'none'."),
            ("tests.None", "App 'tests' doesn't have a 'None' model."),
            (
                "tests.PlainPaper",
                "tests.PlainPaper is not cached: give it a CachedManager or a "
                "PlusManager.",
            ),
        ],
    )
    def test_label(self, command, label, error):
        assert self.fails(command, "tests.Dial", label) == error

    @postgresql
    def test_database_without_models(self, command, settings):
        settings.DATABASE_ROUTERS = [f"{__name__}.NoModels"]
        assert self.fails(command) == "The database 'default' has no cached model."


class NoModels:
    def allow_migrate(self, *args, **hints):
        return False


@postgresql
def test_database_that_is_not_there(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "django", "getorcreateplus_listen", "tests.Dial"],
        cwd=ROOT,
        env=os.environ
        | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
        | {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "CommandError: Database 'default' failed: " in result.stderr


@postgresql
def test_older_driver(monkeypatch):
    monkeypatch.setattr(connections["default"], "Database", ModuleType("psycopg2"))
    with pytest.raises(CommandError, match=r"is psycopg2\. Install psycopg 3\."):
        call_command("getorcreateplus_listen")
