"""
The tests of a project in real runs: in parallel, one after another, and beside
its server, all with the same cache.

The project is made for each test. Its processes wait for each other at
meetings of two, which this process holds.
"""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import uuid
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.db import connection

from ..support.repository import ROOT, environment_without_tests

pytestmark = [
    pytest.mark.django_db(transaction=True),  # CREATE DATABASE cannot roll back
    pytest.mark.shared_cache,
    pytest.mark.slow,
]

TIMEOUT = 60  # seconds

PROJECT = {
    "manage.py": """
        import os, sys
        from django.core.management import execute_from_command_line

        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        execute_from_command_line(sys.argv)
    """,
    "settings.py": """
        import json, os

        CACHES = {"default": json.loads(os.environ["SHOP_CACHE"])}
        DATABASES = {"default": json.loads(os.environ["SHOP_DATABASE"])}
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        INSTALLED_APPS = ["getorcreateplus", "shop"]
        SECRET_KEY = "shop"
        USE_TZ = True
    """,
    "shop/__init__.py": "",
    "shop/apps.py": """
        import os
        from django.apps import AppConfig
        from django.db.models.signals import post_migrate

        def make(sender, using, **kwargs):
            sender.get_model("Tag").objects.using(using).get_or_create(
                name="made", defaults={"uses": os.environ["SHOP_USES"]}
            )

        class ShopConfig(AppConfig):
            name = "shop"

            def ready(self):
                post_migrate.connect(make, sender=self)
    """,
    "shop/models.py": """
        from django.db import models
        from getorcreateplus import PlusManager

        class Tag(models.Model):
            name = models.CharField(max_length=20, unique=True)
            uses = models.IntegerField()

            objects = PlusManager()
            plain = models.Manager()

        def get(name):
            plain = Tag.plain.get(name=name)
            for _ in range(2):
                tag, created = Tag.objects.get_or_create(name=name)
                assert not created
                assert (tag.pk, tag.uses) == (plain.pk, plain.uses)
            return tag.uses

        def create(name, uses):
            tag, created = Tag.objects.get_or_create(
                name=name, defaults={"uses": uses}
            )
            assert created
            assert get(name) == uses

        def save(name, uses):
            Tag.objects.update_or_create(name=name, defaults={"uses": uses})
            assert get(name) == uses
    """,
    "meetings.py": """
        import functools, os, socket

        def go_to(name):
            address = "127.0.0.1", int(os.environ["SHOP_MEETINGS"])
            with socket.create_connection(address, timeout=30) as meeting:
                meeting.sendall(name.encode() + b"\\n")
                return meeting.recv(4)

        def meet(name):
            assert go_to(name) == b"go", f"{name}: the other one failed"

        def attends(function):
            @functools.wraps(function)
            def call(self=None):
                try:
                    function()
                except BaseException:
                    go_to("failed")
                    raise

            return call
    """,
    "scenarios.py": """
        import os
        from meetings import attends, meet
        from shop.models import Tag, create, get, save

        @attends
        def first():
            assert get("made") == 0
            create("a", 1)
            meet("the first has created")
            meet("the second has created")
            assert get("a") == 1
            save("a", 10)
            Tag.plain.filter(name="made").update(uses=10)
            assert get("made") == 10
            meet("the first has written")
            meet("the second has written")
            assert get("a") == 10
            assert get("made") == 10

        @attends
        def second():
            meet("the first has created")
            create("a", 2)
            meet("the second has created")
            meet("the first has written")
            assert get("a") == 2
            assert get("made") == 0
            save("a", 20)
            Tag.plain.filter(name="made").update(uses=20)
            assert get("made") == 20
            meet("the second has written")

        @attends
        def guest():
            assert get("made") == 0
            create("a", 1)
            save("a", 2)
            meet("the test has written")
            meet("the server has written")
            assert get("a") == 2
            assert get("made") == 0

        @attends
        def reader():
            assert get("made") == int(os.environ["SHOP_MADE"])
            create("a", int(os.environ["SHOP_USES"]))
    """,
    "server.py": """
        import json, sys
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection
        from shop.models import create, get, save

        def migrate():
            call_command("migrate", run_syncdb=True, verbosity=0)

        def use(name):
            connection.close()
            connection.settings_dict["NAME"] = name

        for line in sys.stdin:
            name, *args = json.loads(line)
            print(json.dumps(globals()[name](*args)), flush=True)
    """,
}


class Meetings(threading.Thread):
    """A meeting where two processes wait for each other, by name."""

    def __init__(self):
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.start()

    def run(self):
        waiting = {}
        has_failed = False
        while True:
            guest, _ = self.server.accept()
            name = guest.makefile().readline().strip()
            if name == "over":
                break
            has_failed |= name == "failed"
            waiting.setdefault(name, []).append(guest)
            if has_failed:
                self.end(waiting.values(), b"stop")
            elif len(waiting[name]) == 2:
                self.end([waiting.pop(name)], b"go")
        guest.close()
        self.end(waiting.values(), b"stop")
        self.server.close()

    def end(self, meetings, answer):
        for guests in meetings:
            while guests:
                with guests.pop() as guest:
                    guest.sendall(answer)

    def meet(self, name):
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as guest:
            guest.sendall(name.encode() + b"\n")
            return guest.recv(4) == b"go"

    def close(self):
        self.meet("over")
        self.join(TIMEOUT)


class Project:
    def __init__(self, path, database, port):
        self.path = path
        self.database = database
        self.environment = environment_without_tests() | {
            "PYTHONPATH": f"{path}{os.pathsep}{ROOT}",
            "DJANGO_SETTINGS_MODULE": "settings",
            "SHOP_CACHE": json.dumps(settings.CACHES["default"]),
            "SHOP_DATABASE": json.dumps(database),
            "SHOP_MEETINGS": str(port),
            "SHOP_USES": "0",
        }
        for name, source in PROJECT.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(textwrap.dedent(source))

    def start(self, *args, **environment):
        return subprocess.Popen(
            [sys.executable, "-W", "error", *args],
            cwd=self.path,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextmanager
    def server(self):
        process = self.start("server.py")

        def call(*command):
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            try:
                return json.loads(answer)
            except ValueError:
                raise AssertionError(answer + process.communicate()[0]) from None

        try:
            yield call
        finally:
            process.communicate(timeout=TIMEOUT)

    def tests(self, runner, scenarios, *options, **environment):
        """Start the scenarios, {name: whether it commits}, as tests."""
        if runner == "pytest":
            lines = ["import pytest, scenarios"]
            for name, commits in scenarios.items():
                lines.append(f"@pytest.mark.django_db(transaction={commits})")
                lines.append(f"def test_{name}(): scenarios.{name}()")
            args = ["-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
        else:
            lines = ["import scenarios, django.test"]
            for name, commits in scenarios.items():
                base = "TransactionTestCase" if commits else "TestCase"
                lines.append(f"class Test_{name}(django.test.{base}):")
                lines.append(f"    test_{name} = scenarios.{name}")
            args = ["manage.py", "test", "--no-input", "--no-color"]
        (self.path / "test_shop.py").write_text("\n".join(lines))
        return self.start(*args, *options, **environment)


def check(process):
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output


@pytest.fixture
def meetings():
    meetings = Meetings()
    yield meetings
    meetings.close()


@pytest.fixture
def project(request, tmp_path, meetings):
    """Return a project. On SQLite, its test database is a file."""
    name = f"shop_{uuid.uuid4().hex[:8]}"
    options = ("ENGINE", "HOST", "PORT", "USER", "PASSWORD")
    database = {key: connection.settings_dict[key] for key in options}
    if connection.vendor == "sqlite":
        database["NAME"] = str(tmp_path / "shop.sqlite3")
        if getattr(request, "param", "file") == "file":
            database["TEST"] = {"NAME": str(tmp_path / "test.sqlite3")}
        yield Project(tmp_path, database, meetings.port)
        return
    with connection.cursor() as cursor:
        # A database to switch to, and those that a failed run has left.
        kept = [name, f"{name}_other"]
        left = [f"test_{name}{end}" for end in ("", "_gw0", "_gw1", "_1", "_2")]
        for each in kept:
            cursor.execute(f"CREATE DATABASE {each}")
        yield Project(tmp_path, database | {"NAME": name}, meetings.port)
        for each in kept + left:
            cursor.execute(f"DROP DATABASE IF EXISTS {each}")


RUNNERS = pytest.mark.parametrize("runner", ["pytest", "manage.py"])
# On SQLite, a test database is in memory unless it has a name.
KINDS = pytest.mark.parametrize(
    "project",
    ["memory", "file"] if connection.vendor == "sqlite" else ["server"],
    indirect=True,
)
PARALLEL = {"pytest": ["-n", "2"], "manage.py": ["--parallel", "2"]}


@KINDS
@RUNNERS
@pytest.mark.parametrize("commits", [(True, True), (True, False)])
def test_tests_in_parallel(project, runner, commits):
    """Each process has its own database, with rows of the same names."""
    scenarios = dict(zip(["first", "second"], commits, strict=True))
    check(project.tests(runner, scenarios, *PARALLEL[runner]))


@KINDS
@RUNNERS
def test_run_beside_a_server(project, meetings, runner):
    with project.server() as server:
        server("migrate")
        server("create", "a", 7)
        server("save", "made", 8)
        run = project.tests(runner, {"guest": True})
        assert meetings.meet("the test has written"), run.communicate()[0]
        assert server("get", "a") == 7
        assert server("get", "made") == 8
        server("save", "a", 9)
        server("save", "made", 10)
        meetings.meet("the server has written")
        check(run)
        # The run has emptied its database at the end.
        assert server("get", "a") == 9
        assert server("get", "made") == 10


KEPT = {"pytest": ["--reuse-db"], "manage.py": ["--keepdb"]}
ANEW = {"pytest": ["--reuse-db", "--create-db"], "manage.py": []}


@RUNNERS
@pytest.mark.parametrize("commits", [True, False])
def test_runs_one_after_another(project, runner, commits):
    """
    Each uses the database of the last one, or makes it anew, with other rows.

    A test that commits has the database emptied, and the row made again.
    """
    for uses, made, options in (1, 1, KEPT), (2, 1, KEPT), (3, 3, ANEW):
        check(
            project.tests(
                runner,
                {"reader": commits},
                *options[runner],
                SHOP_USES=f"{uses}",
                SHOP_MADE=f"{made}",
            )
        )


@pytest.mark.database("postgresql", "mysql")
def test_connection_that_is_given_another_database(project):
    """Like code that switches tenants, or reads a copy."""
    name = project.database["NAME"]
    with project.server() as server, project.server() as other:
        for each, database in (server, name), (other, f"{name}_other"):
            each("use", database)
            each("migrate")
        for each, uses in (server, 1), (other, 2):
            each("create", "a", uses)
        assert server("get", "a") == 1
        server("use", f"{name}_other")
        assert server("get", "a") == 2
        server("save", "a", 3)
        assert other("get", "a") == 3
        server("use", name)
        assert server("get", "a") == 1


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("name", [":memory:", "file:shop?mode=memory&cache=shared"])
def test_databases_in_the_memory_of_processes(project, name):
    """They have the same name, and there is one for each process."""
    project.environment["SHOP_DATABASE"] = json.dumps(project.database | {"NAME": name})
    with project.server() as server, project.server() as other:
        for each in server, other:
            each("migrate")
        for each, uses in (server, 1), (other, 2):
            each("create", "a", uses)
        assert server("get", "a") == 1
        server("save", "made", 3)
        assert other("get", "made") == 0
        other("save", "a", 4)
        assert server("get", "a") == 1
