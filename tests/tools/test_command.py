"""manage.py getorcreateplus, in this process and in one of its own."""

import json
import os
import subprocess
import sys
from io import StringIO

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus.coherence.transports import transport_of
from getorcreateplus.diagnosis.cache_numbers import numbers_of

from ..models import Paper, Report, Sheet, Slot, Zone
from ..support.caches import BrokenCache, every_cache
from ..support.queries import count
from ..support.repository import ROOT
from ..support.signals import warm_row
from ..support.sql import behind_the_back

pytestmark = [pytest.mark.slow, pytest.mark.django_db]

committed = pytest.mark.django_db(transaction=True)

LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
DUMMY = "django.core.cache.backends.dummy.DummyCache"


def run(*arguments):
    """Return the output of the command, on stdout and on stderr."""
    stdout, stderr = StringIO(), StringIO()
    call_command("getorcreateplus", *arguments, stdout=stdout, stderr=stderr)
    if "--json" not in arguments:
        assert max(map(len, stdout.getvalue().splitlines()), default=0) <= 80
    return stdout.getvalue(), stderr.getvalue()


def in_process(*arguments, **environment):
    """Run the command as users do, with the caches of this test."""
    prefix = settings.CACHES["default"]["KEY_PREFIX"].removesuffix(".default")
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "getorcreateplus", *arguments],
        cwd=ROOT,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONIOENCODING": "utf-8",
            "TEST_CACHE_KEY_PREFIX": prefix,
        }
        | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )


def refused(*arguments):
    with pytest.raises(CommandError) as raised:
        run(*arguments)
    return str(raised.value)


def cache(name, **options):
    return {"BACKEND": name, "LOCATION": "test_command", **options}


def is_warm(model=Paper, **lookup):
    lookup = lookup or {"title": "a"}
    return count(lambda: model.objects.get_or_create(**lookup))[1] == 0


def of_model(output, label):
    """Return the lines of the status for a model."""
    lines = output.splitlines()
    start = lines.index(label) + 1
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith(" "))
    return lines[start:end]


def is_local(alias):
    return settings.CACHES[alias]["BACKEND"] == LOCMEM


class TestStatus:
    def test_models(self):
        output, _ = run("status")
        assert of_model(output, "tests.Paper") == [
            "  manager  objects, CachedQuerySet: caches",
            "  lookups  in default",
            "  rows     in paper, for 300 s",
            "           from the database default, other",
            "           a version per row",
        ]
        assert of_model(output, "tests.Zone")[:3] == [
            "  manager  objects, LongQuerySet: caches, from memory for 3600 s",
            "  manager  brief, BriefQuerySet: caches, from memory for 1e-09 s",
            "  manager  forever, ForeverQuerySet: caches, from memory forever",
        ]
        assert "A lock that is not released expires within 600 s." in output

    def test_manager_of_a_proxy(self):
        output, _ = run("status")
        assert (
            "  manager  tests.ProxyOrdinary.objects, CachedQuerySet: caches"
            in of_model(output, "tests.Ordinary")
        )

    def test_managers_that_do_not_cache(self):
        output, _ = run("status")
        lines = of_model(output, "Not cached")
        assert (
            "  manager  tests.AlwaysLabel.rule, AlwaysQuerySet: get() creates" in lines
        )
        assert not any("CachedQuerySet" in line for line in lines)

    def test_versions_of_text_keys(self):
        lines = of_model(run("status")[0], "tests.Natural")
        per_row = connection.vendor in {"postgresql", "sqlite"}
        assert ("           a version per row" in lines) is per_row
        assert ("           one version for all rows" in lines) is not per_row

    def test_rows_in_two_caches(self):
        """There is one for each of the managers' caches."""
        lines = of_model(run("status")[0], "tests.Twofold")
        assert [line for line in lines if line.startswith("  rows")] == [
            "  rows     in default, for 300 s",
            "  rows     in far, for 30 s",
        ]

    def test_json(self):
        found = json.loads(run("status", "--json")[0])
        [paper] = [m for m in found["models"] if m["model"] == "tests.Paper"]
        assert paper == {
            "model": "tests.Paper",
            "managers": [
                {
                    "name": "tests.Paper.objects",
                    "queryset": "getorcreateplus.query.CachedQuerySet",
                    "does": ["caches"],
                    "local_timeout": 0,
                    "not_django": None,
                }
            ],
            "key_caches": ["default"],
            "rows": [
                {
                    "database": alias,
                    "cache": "paper",
                    "timeout": 300,
                    "version_per_row": True,
                }
                for alias in ("default", "other")
            ],
            "error": None,
        }
        assert found["caches"]["paper"] == {
            "backend": settings.CACHES["paper"]["BACKEND"],
            "transport": transport_of("paper").name,
            "error": None,
            # Other tests use the server, too.
            **{name: found["caches"]["paper"][name] for name in numbers_of("paper")},
            "max_entries": 100_000 if is_local("paper") else None,
            "flaws": found["caches"]["paper"]["flaws"],
        }
        assert found["lock_timeout"] == 600

    def test_lookups_that_are_not_djangos(self):
        output, _ = run("status")
        lines = of_model(output, "tests.Report")
        start = lines.index("  manager  cached_region, CachedRegionQuerySet: caches")
        assert " ".join(" ".join(lines[start + 1 : start + 3]).split()) == (
            "queries the database: tests.models.lookup_path.RegionMixin overrides get()"
        )
        found = json.loads(run("status", "--json")[0])
        [report] = [m for m in found["models"] if m["model"] == Report._meta.label]
        assert {m["name"]: m["not_django"] for m in report["managers"]} == {
            "tests.Report.objects": None,
            "tests.Report.by_name": None,
            "tests.Report.patched": "this queryset has get() of its own",
        } | {
            f"tests.Report.{name}": "tests.models.lookup_path.RegionMixin overrides "
            "get()"
            for name in ("cached_region", "plus_region", "from_queryset")
        }

    def test_rows_that_stay_for_ever(self):
        caches = {"default": cache(LOCMEM, TIMEOUT=None)}
        with override_settings(CACHES=settings.CACHES | caches):
            output, _ = run("status")
        assert "  rows     in default, forever" in of_model(output, "tests.Sheet")

    def test_caches_answer(self):
        output, _ = run("status")
        assert of_model(output, "Caches")[:2] == [
            f"  cachedmutablemodel, {settings.CACHES['default']['BACKEND']}",
            "           answers; its transport is "
            + transport_of("cachedmutablemodel").name,
        ]

    def test_cache_with_room_for_few(self):
        few = {"paper": cache(LOCMEM)}
        with override_settings(CACHES=settings.CACHES | few):
            output, _ = run("status")
            found = json.loads(run("status", "--json")[0])["caches"]["paper"]
        lines = of_model(output, "Caches")
        at = lines.index(f"  paper, {LOCMEM}")
        assert lines[at + 1 : at + 6] == [
            "           answers; its transport is locmem",
            "           0 entries",
            "           up to 300 entries, about 100 rows",
            "           keeps no more than 300 entries, which is about 100 rows: if "
            "there are",
            "           more, each new one evicts another.",
        ]
        assert (found["entries"], found["max_entries"]) == (0, 300)
        assert len(found["flaws"]) == 1

    def test_numbers_of_a_server(self):
        before = numbers_of("default")
        if before["entries"] is None:  # a backend that does not count
            assert not is_local("default")
            return
        caches["default"].set_many(dict.fromkeys("abc", 1))
        assert caches["default"].get("a") == 1
        found = numbers_of("default")
        assert found["entries"] >= 3
        assert is_local("default") or 0 < found["hit_share"] <= 1
        output, _ = run("status")
        lines = "\n".join(of_model(output, "Caches"))
        assert " entries\n" in lines
        assert (
            is_local("default") or "% of all reads from its server were hits" in lines
        )

    def test_password_is_not_shown(self):
        config = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://me:hush@127.0.0.1:1/0",
        }
        with override_settings(CACHES=settings.CACHES | {"paper": config}):
            output = "".join(run("status")) + "".join(run("status", "--json"))
        assert "127.0.0.1:1" in output
        assert "hush" not in output

    def test_cache_that_does_not_answer(self):
        with every_cache(DeafCache, "paper"):
            output, _ = run("status")
        lines = of_model(output, "Caches")
        at = lines.index("  paper, tests.tools.test_command.DeafCache")
        assert lines[at + 1] == "           does not answer: OSError: refused"

    def test_cache_that_is_not_there(self):
        with override_settings(CACHES={"default": cache(LOCMEM)}):
            output, _ = run("status")
        assert (
            "error key_cache_alias = 'far' of a queryset of tests.Twofold is not in "
            "CACHES: see the system check getorcreateplus.E001."
        ) in " ".join(" ".join(of_model(output, "tests.Twofold")).split())

    @pytest.mark.slow
    def test_project_that_caches_nothing(self, tmp_path):
        (tmp_path / "bare.py").write_text(
            'SECRET_KEY = "bare"\nINSTALLED_APPS = ["getorcreateplus"]\n'
        )
        bare = {
            "DJANGO_SETTINGS_MODULE": "bare",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        }
        done = in_process("status", **bare)
        assert (done.returncode, done.stdout, done.stderr) == (
            0,
            "No model is cached: no manager has a caching queryset.\n",
            "",
        )
        done = in_process("invalidate", "--everything", **bare)
        assert (done.returncode, done.stdout, done.stderr) == (
            0,
            "No model is cached: there is nothing to invalidate.\n",
            "",
        )


class DeafCache(BrokenCache):
    def get(self, *args, **kwargs):
        raise OSError("refused")


class TestWarnings:
    """A command is a process of its own."""

    LOCMEM_LINES = (
        "The cache 'default' is a LocMemCache, which belongs to this process: the\n"
        "caches of other processes are neither read nor changed.\n"
    )

    @pytest.mark.parametrize(
        "arguments",
        [
            ("status",),
            ("explain", "tests.Sheet", "title=a"),
            ("invalidate", "tests.Sheet", "1"),
        ],
    )
    def test_locmem(self, arguments):
        caches = {"default": cache(LOCMEM)}
        with override_settings(CACHES=settings.CACHES | caches):
            assert self.LOCMEM_LINES in run(*arguments)[1]

    def test_dummy(self):
        caches = {"default": cache(DUMMY)}
        with override_settings(CACHES=settings.CACHES | caches):
            _, errors = run("explain", "tests.Sheet", "title=a")
        assert errors == "The cache 'default' is a DummyCache, which stores nothing.\n"

    @pytest.mark.shared_cache
    def test_shared_cache(self):
        assert run("status")[1] == ""
        assert run("explain", "tests.Paper", "title=a")[1] == ""
        assert run("invalidate", "tests.Paper", "1")[1] == ""


class TestExplain:
    def test_miss(self):
        output, _ = run("explain", "tests.Paper", "title=a", "pages=null", "rack=7")
        assert output.startswith(
            "tests.Paper.objects.get_or_create(title='a', pages=None, rack=7)\n"
        )
        assert "\nOutcome: miss (no hint)\n" in output
        assert Paper.objects.count() == 0

    def test_hit(self):
        warm_row()
        output, queries = count(lambda: run("explain", "tests.paper", "title=a")[0])
        assert "\nOutcome: hit (cache)\n" in output
        assert queries == 0

    def test_outcome_is_coloured(self):
        output = StringIO()
        call_command(
            "getorcreateplus",
            "explain",
            "tests.Paper",
            "title=a",
            force_color=True,
            stdout=output,
            stderr=StringIO(),
        )
        assert "\x1b[33;1mOutcome: miss (no hint)\x1b[0m" in output.getvalue()

    def test_composite_key(self):
        Slot.objects.get_or_create(room=1, hour=2)
        output, _ = run("explain", "tests.Slot", "pk=1,2")
        assert "Outcome: hit (cache)" in output

    def test_manager(self):
        output, _ = run("explain", "tests.Zone", "name=a", "--manager", "plain")
        assert output.startswith("tests.Zone.plain.get_or_create(name='a')\n")
        assert "QuerySet does not cache." in output
        warm_row(Zone, name="a")
        output, _ = run("explain", "tests.Zone", "name=a", "--manager", "forever")
        assert "Outcome: hit (memory)" in output

    def test_database(self):
        warm_row()
        output, _ = run("explain", "tests.Paper", "title=a", "--database", "other")
        assert "Database other\n" in output
        assert "Outcome: miss (no hint)" in output

    def test_json(self):
        obj = warm_row()
        found = json.loads(run("explain", "tests.Paper", "title=a", "--json")[0])
        assert found["outcome"] == "hit"
        assert found["values"]["id"] == obj.pk

    @committed
    def test_check(self):
        obj = warm_row()
        output, _ = run("explain", "tests.Paper", "title=a", "--check")
        assert output.endswith("Checked  The database has the same row.\n")
        behind_the_back("UPDATE tests_paper SET pages = 9")
        error = refused("explain", "tests.Paper", "title=a", "--check")
        assert error == "The cached row is wrong."
        run("invalidate", "tests.Paper", str(obj.pk))
        run("explain", "tests.Paper", "title=a", "--check")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ("tests.Papr", "title=a"),
                "There is no model 'tests.Papr'. Write its label, such as 'app.Model'. "
                "Did you mean tests.Paper",
            ),
            (
                ("sheet", "title=a"),
                "There is no model 'sheet'. Write its label, such as 'app.Model'. Did "
                "you mean tests.Sheet?",
            ),
            (
                ("x.y.z", "title=a"),
                "There is no model 'x.y.z'. Write its label, such as 'app.Model'. "
                "Cached models: ",
            ),
            (("tests.Paper", "title"), "'title' does not have the form field=value."),
            (("tests.Paper", "=a"), "'=a' does not have the form field=value."),
            (("tests.Paper", "title=a", "title=b"), "title is given twice."),
            (
                ("tests.Paper", "titel=a"),
                "tests.Paper has no field 'titel'. It has hid",
            ),
            (
                ("tests.Paper", "pages=many"),
                "pages='many' is not valid for tests.Paper.pages (IntegerField): ",
            ),
            (
                ("tests.Paper", "title=a", "--manager", "x"),
                "--manager x: tests.Paper has no manager 'x'. It has objects",
            ),
            (
                ("tests.Paper", "title=a", "--database", "x"),
                "--database x: 'x' is not in DATABASES, which has default, other.",
            ),
        ],
    )
    def test_bad_argument(self, arguments, message):
        assert refused("explain", *arguments).startswith(message)

    def test_cache_that_is_not_there(self):
        with override_settings(CACHES={"default": cache(LOCMEM)}):
            output, _ = run("explain", "tests.Twofold", "name=a", "--manager", "far")
        assert "The cache 'far' of FarQuerySet is not in CACHES." in output


class TestInvalidate:
    def test_row(self):
        obj, other = warm_row(), warm_row(title="b")
        output, _ = run("invalidate", "tests.Paper", str(obj.pk))
        assert output == f"tests.Paper {obj.pk}: invalidated in default, other\n"
        assert not is_warm()
        assert is_warm(title="b")
        assert other.title == "b"

    def test_rows(self):
        pks = [str(warm_row(title=title).pk) for title in "ab"]
        output, _ = run("invalidate", "tests.Paper", *pks, "--database", "default")
        assert output == "".join(
            f"tests.Paper {pk}: invalidated in default\n" for pk in pks
        )
        assert not is_warm()
        assert not is_warm(title="b")

    def test_other_database(self):
        obj = warm_row(Sheet)
        run("invalidate", "tests.Sheet", str(obj.pk), "--database", "other")
        assert is_warm(Sheet)

    def test_all_rows(self):
        warm_row(), warm_row(title="b"), warm_row(Sheet)
        output, _ = run("invalidate", "tests.Paper", "--all")
        assert output == "tests.Paper, all rows: invalidated in default, other\n"
        assert not is_warm()
        assert not is_warm(title="b")
        assert is_warm(Sheet)

    def test_everything(self):
        warm_row(), warm_row(Sheet)
        output, _ = run("invalidate", "--everything")
        assert "tests.Paper, all rows: invalidated in default, other\n" in output
        assert len(output.splitlines()) == len(set(output.splitlines()))
        assert not is_warm()
        assert not is_warm(Sheet)

    def test_composite_key(self):
        Slot.objects.get_or_create(room=1, hour=2)
        output, _ = run("invalidate", "tests.Slot", "1,2", "[1, 3]")
        assert output == (
            "tests.Slot 1,2: invalidated in default, other\n"
            "tests.Slot [1, 3]: invalidated in default, other\n"
        )
        assert not is_warm(Slot, room=1, hour=2)

    def test_negative_key(self):
        output, _ = run("invalidate", "tests.Paper", "-1", "--database", "other")
        assert output == "tests.Paper -1: invalidated in other\n"

    def test_parent_of_what_is_cached(self):
        output, _ = run("invalidate", "tests.Ordinary", "1", "--database", "default")
        assert output == (
            "tests.Ordinary 1: invalidated in default\n"
            "tests.SpecialOrdinary 1: invalidated in default\n"
        )

    @committed
    def test_transaction(self):
        obj = warm_row()
        with transaction.atomic():
            output, _ = run("invalidate", "tests.Paper", str(obj.pk))
            assert output == (
                f"tests.Paper {obj.pk}: invalidated in default, other, for others at "
                "the commit\n"
            )
        assert not is_warm()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "Nothing to invalidate: give a model with primary keys or --all, or"),
            (("--all",), "Nothing to invalidate: give a model with primary keys or"),
            (
                ("tests.Paper",),
                "Which rows of tests.Paper? Give primary keys, or --all.",
            ),
            (
                ("tests.Paper", "1", "--all"),
                "--all is all rows of the model: leave out",
            ),
            (
                ("tests.Paper", "--everything"),
                "--everything is all rows of all models:",
            ),
            (
                ("--all", "--everything"),
                "--everything is all rows of all models: leave",
            ),
            (
                ("tests.PlainPaper", "1"),
                "tests.PlainPaper is not cached: none of its managers has a",
            ),
            (("tests.Papr", "1"), "There is no model 'tests.Papr'"),
            (
                ("tests.Paper", "1", "x"),
                "pk='x' is not valid for tests.Paper.id (BigAuto",
            ),
            (("tests.Slot", "1"), "pk='1': the primary key of tests.Slot is room,hour"),
            (("tests.Paper", "null"), "None is not a primary key of tests.Paper"),
        ],
    )
    def test_bad_argument(self, arguments, message):
        assert refused("invalidate", *arguments).startswith(message)

    def test_cache_that_does_not_answer(self):
        """The list of debts ends with this process."""
        stderr = StringIO()
        with (
            every_cache(FullCache, "paper"),
            pytest.raises(CommandError, match="A cache does not answer"),
        ):
            call_command(
                "getorcreateplus", "invalidate", "tests.Paper", "7", stderr=stderr
            )
        assert (
            "tests.Paper 7: not invalidated in default, because the cache 'paper' "
            "does not answer\n"
        ) in stderr.getvalue()


class FullCache(BrokenCache):
    def set_many(self, *args, **kwargs):
        raise OSError("full")

    delete_many = set_many


@pytest.mark.slow
class TestExitStatus:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "the following arguments are required: {status,explain,invalidate}"),
            (("clear",), "invalid choice: 'clear'"),
            (("explain",), "the following arguments are required: model, field=value"),
            (("status", "--xml"), "unrecognized arguments: --xml"),
            (("explain", "tests.Papr", "title=a"), "There is no model 'tests.Papr'"),
            (("invalidate", "tests.Paper"), "Which rows of tests.Paper?"),
        ],
    )
    def test_bad_argument(self, arguments, message):
        done = in_process(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("CommandError: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""

    def test_traceback(self):
        done = in_process("clear", "--traceback")
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback ")

    def test_help(self):
        done = in_process("explain", "--help")
        assert done.returncode == 0
        assert "--check" in done.stdout

    @committed
    @pytest.mark.shared_cache
    def test_another_process(self):
        obj = warm_row()
        # The keys contain the NAME of the test's database.
        server = os.environ.get("DATABASE_URL", "sqlite:///").rpartition("/")[0]
        tests = {"DATABASE_URL": f"{server}/{connection.settings_dict['NAME']}"}
        done = in_process("explain", "tests.Paper", "title=a", "--json", **tests)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["outcome"] == "hit"
        done = in_process("invalidate", "tests.Paper", str(obj.pk), **tests)
        assert (done.returncode, done.stderr) == (0, "")
        assert not is_warm()
        assert is_warm()
        assert in_process("invalidate", "--everything", **tests).returncode == 0
        assert not is_warm()

    def test_status(self):
        done = in_process("status")
        assert done.returncode == 0
        assert "tests.Paper\n" in done.stdout
        is_shared = settings.CACHES["default"]["BACKEND"] != LOCMEM
        assert bool(done.stderr) is not is_shared


@pytest.mark.slow
class TestOptionsOfDjango:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["status", "--settings", "tests.settings", "-v", "2", "--traceback"],
            ["-v", "2", "--traceback", "status"],
            ["status", "--no-color", "--json"],
            ["explain", "tests.Paper", "title=a", "--verbosity", "0"],
            ["invalidate", "tests.Paper", "--all", "--pythonpath", "."],
        ],
    )
    def test_before_and_after_the_action(self, arguments):
        done = in_process(*arguments)
        assert done.returncode == 0, done.stderr

    def test_traceback_after_the_action(self):
        assert "Traceback" not in in_process("explain", "Paper", "title=a").stderr
        assert (
            "Traceback" in in_process("explain", "Paper", "a=a", "--traceback").stderr
        )

    def test_unknown_argument(self):
        done = in_process("status", "--colour")
        assert done.returncode == 1
        assert done.stderr == "CommandError: unrecognized arguments: --colour\n"

    @pytest.mark.parametrize("action", ["status", "explain", "invalidate"])
    def test_help_has_examples(self, action):
        done = in_process(action, "--help")
        assert f"Examples:\n  manage.py getorcreateplus {action}" in done.stdout
