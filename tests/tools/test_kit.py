"""getorcreateplus.test, and its fixtures for pytest."""

import asyncio
import unittest
from contextvars import copy_context

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import InvalidCacheBackendError, cache, caches
from django.core.cache.backends.locmem import LocMemCache
from django.test import TestCase, override_settings

from getorcreateplus import bypass
from getorcreateplus.signals import Reason, Source
from getorcreateplus.test import (
    CacheAssertions,
    CaptureCacheCommands,
    CaptureLookups,
    Command,
    Lookup,
    assert_cache_commands,
    assert_cache_hits,
    assert_cache_misses,
    caching_off,
)
from getorcreateplus.writes.registry import region_of

from ..models import CachedItem, Paper, PlusItem, Sheet, Zone
from ..models.bulk import AbstractItem
from ..support.threads import elsewhere

pytestmark = pytest.mark.django_db

CONTEXTS = pytest.mark.parametrize(
    "context", [assert_cache_hits, assert_cache_misses, assert_cache_commands]
)


def get(model=Sheet, title="a", **kwargs):
    return model.objects.get_or_create(title=title, **kwargs)[0]


def message(context, call):
    """Return the message of the assertion for a call."""
    with pytest.raises(AssertionError) as caught, context:
        call()
    return str(caught.value)


class TestLookups:
    def test_hits(self):
        with assert_cache_hits(0):
            get()
        with assert_cache_hits(2) as lookups:
            get()
            get()
        assert lookups == [Lookup(Sheet, "default", {"title": "a"}, Source.CACHE)] * 2
        assert all(lookup.is_hit for lookup in lookups)

    def test_misses(self):
        with assert_cache_misses(2) as lookups:
            get()
            get()
            get(force_select=True)
        assert [lookup.outcome for lookup in lookups] == [
            Reason.NO_HINT,
            Source.CACHE,
            Reason.FORCED,
        ]
        assert [lookup.is_hit for lookup in lookups] == [False, True, False]

    def test_nothing(self):
        with assert_cache_hits(0), assert_cache_misses(0), CaptureLookups() as lookups:
            pass
        assert lookups == []

    @pytest.mark.parametrize("model", [Sheet, "tests.Sheet"])
    def test_one_model(self, model):
        def both():
            get(Paper)
            get(Sheet)

        with assert_cache_misses(2), assert_cache_misses(1, model) as lookups:
            both()
        assert [lookup.model for lookup in lookups] == [Sheet]
        with assert_cache_hits(2), assert_cache_hits(1, model) as lookups:
            both()
        assert [lookup.model for lookup in lookups] == [Sheet]

    def test_rows_of_a_batch(self):
        rows = [{"code": code} for code in "ab"]
        with assert_cache_misses(2, PlusItem):
            PlusItem.objects.bulk_get_or_create(rows)
        with assert_cache_hits(2, PlusItem):
            PlusItem.objects.bulk_get_or_create(rows)

    def test_wrong_number_of_hits(self):
        def lookups():
            get()
            get()
            get()
            Sheet.objects.get_or_create(title__iexact="a", defaults={"title": "a"})
            get(Paper)

        assert message(assert_cache_hits(1), lookups) == (
            "Cache hits: 2 instead of 1. The lookups were:\n"
            "1. tests.Sheet(title='a'): miss, no hint\n"
            "2. tests.Sheet(title='a'): hit, cache\n"
            "3. tests.Sheet(title='a'): hit, cache\n"
            "4. tests.Sheet(title__iexact='a'): miss, not cacheable\n"
            "5. tests.Paper(title='a'): miss, no hint"
        )
        assert message(assert_cache_misses(0, Paper), lambda: get(Paper, "b")) == (
            "Cache misses of tests.Paper: 1 instead of 0. The lookups were:\n"
            "1. tests.Paper(title='b'): miss, no hint"
        )

    def test_no_lookup(self):
        assert message(assert_cache_hits(1, "tests.Sheet"), lambda: get(Paper)) == (
            "Cache hits of tests.Sheet: 0 instead of 1. There was no lookup."
        )

    def test_long_list(self):
        def lookups():
            for number in range(25):
                get(title=f"{number}")

        lines = message(assert_cache_hits(1), lookups).splitlines()
        assert len(lines) == 22
        assert lines[20] == "20. tests.Sheet(title='19'): miss, no hint"
        assert lines[21] == "... and 5 more"

    def test_long_value(self):
        lookup = Lookup(Sheet, "default", {"title": "x" * 100}, Source.MEMORY)
        assert str(lookup) == (
            f"tests.Sheet(title='{'x' * 27}...{'x' * 28}'): hit, memory"
        )

    @pytest.mark.django_db(databases=["default", "other"])
    def test_other_database(self):
        def lookup():
            Sheet.objects.using("other").get_or_create(title="a")

        assert message(assert_cache_hits(1), lookup).endswith(
            "1. tests.Sheet(title='a') on 'other': miss, no hint"
        )

    def test_what_is_no_model(self):
        for context in (assert_cache_hits, assert_cache_misses):
            with pytest.raises(LookupError, match="'Sheet' is not a model's label"):
                context(1, "Sheet")
            with pytest.raises(TypeError, match="<class 'int'> is not a model"):
                context(1, int)
            # Not None, which is all models.
            with pytest.raises(TypeError, match="AbstractItem'> is abstract"):
                context(1, AbstractItem)


@pytest.fixture
def two_keys():
    caches["default"].set_many({"a": 1, "b": 2})


CALLS = [
    ("add", ("a", 1), ["a"], False),
    ("clear", (), [], None),
    ("decr", ("a",), ["a"], 0),
    ("decr_version", ("a",), ["a"], 0),
    ("delete", ("a",), ["a"], True),
    ("delete_many", (["a", "b"],), ["a", "b"], None),
    ("get", ("a",), ["a"], 1),
    ("get_many", (["a", "b"],), ["a", "b"], {"a": 1, "b": 2}),
    ("has_key", ("a",), ["a"], True),
    ("incr", ("a", 2), ["a"], 3),
    ("incr_version", ("a",), ["a"], 2),
    ("set", ("a", 1), ["a"], None),
    ("set_many", ({"a": 1, "b": 2},), ["a", "b"], []),
    ("touch", ("a", 9), ["a"], True),
]


@pytest.mark.usefixtures("two_keys")
class TestCommands:
    @pytest.mark.parametrize(("name", "args", "keys", "result"), CALLS)
    def test_command_is_one(self, name, args, keys, result):
        """Even if the backend turns it into several commands."""
        if name == "clear":  # of a server with other users
            caches["default"].clear = lambda: None
        with assert_cache_commands(1) as commands:
            assert getattr(cache, name)(*args) == result
        assert commands == [("default", name, keys)]

    @pytest.mark.parametrize(("name", "args", "keys", "result"), CALLS)
    def test_async_command_is_one(self, name, args, keys, result):
        async def call():
            with assert_cache_commands(1) as commands:
                assert await getattr(cache, f"a{name}")(*args) == result
            return commands

        if name == "clear":
            caches["default"].clear = lambda: None
        assert async_to_sync(call)() == [("default", f"a{name}", keys)]

    def test_keyword_arguments(self):
        with assert_cache_commands(3) as commands:
            cache.get(key="a")
            cache.get_many(keys=["a", "b"], version=1)
            cache.set_many(data={"a": 1})
        assert [command.keys for command in commands] == [["a"], ["a", "b"], ["a"]]

    def test_keys_that_can_be_read_but_once(self):
        with assert_cache_commands(2) as commands:
            assert cache.get_many(iter("ab")) == {"a": 1, "b": 2}
            assert cache.get_many(keys=(key for key in "ab")) == {"a": 1, "b": 2}
        assert [command.keys for command in commands] == [["a", "b"]] * 2

    def test_wrong_arguments(self):
        with assert_cache_commands(2), pytest.raises(TypeError) as caught:
            try:
                cache.get()
            finally:
                cache.get("a")
        assert "key" in str(caught.value)

    def test_get_or_set_is_what_it_is_made_of(self):
        with CaptureCacheCommands() as commands:
            assert cache.get_or_set("new", lambda: cache.get("a")) == 1
        assert [command.method for command in commands] == ["get", "get", "add", "get"]

    def test_in(self):
        with assert_cache_commands(1) as commands:
            assert "a" in cache
        assert commands == [("default", "has_key", ["a"])]

    def test_failing_command(self, monkeypatch):
        """The command was sent; the error is the test's own."""

        def fail(self, *args, **kwargs):
            raise ConnectionError("gone")

        with CaptureCacheCommands() as commands:
            with monkeypatch.context() as patch:
                patch.setattr(type(caches["default"]), "get", fail)
                with pytest.raises(ConnectionError):
                    cache.get("a")
            assert cache.get("a") == 1
        assert commands == [("default", "get", ["a"])] * 2

    def test_alias(self):
        with assert_cache_commands(2), assert_cache_commands(1, "paper") as commands:
            caches["paper"].get("a")
            caches["default"].get("a")
        assert commands == [Command("paper", "get", ["a"])]

    def test_unknown_alias(self):
        with pytest.raises(InvalidCacheBackendError, match="'nope' doesn't exist"):
            with assert_cache_commands(0, "nope"):
                pass
        assert "get" not in vars(caches["default"])

    def test_get_or_create(self):
        get()
        region = region_of(Sheet.objects.all())
        with assert_cache_commands(1) as commands:
            sheet = get()
        [(alias, method, keys)] = commands
        assert (alias, method in {"get_many", "look"}) == ("default", True)
        assert region.payload_key(sheet.pk) in keys

    def test_wrong_number(self):
        def commands():
            cache.get("a")
            caches["paper"].set("x" * 100, 1)
            cache.get_many(["k1", "k2", "k3", "k4"])

        assert message(assert_cache_commands(1), commands) == (
            "Cache commands: 3 instead of 1. The commands were:\n"
            "1. default: get('a')\n"
            f"2. paper: set('{'x' * 27}...{'x' * 28}')\n"
            "3. default: get_many('k1', 'k2', 'k3', ...)"
        )
        assert message(assert_cache_commands(0, "paper"), commands).startswith(
            "Cache commands of 'paper': 1 instead of 0. The commands were:\n1. paper: "
        )
        assert message(assert_cache_commands(2), lambda: None) == (
            "Cache commands: 0 instead of 2. There was no command."
        )


class Delegating:
    """
    A backend with the commands of another one, without Django's base class.
    """

    def __init__(self, location, params):
        self.cache = LocMemCache(location, params)

    def __getattr__(self, name):
        if name == "touch":
            raise AttributeError(name)
        return getattr(self.cache, name)


class Slotted:
    __slots__ = ()

    def __init__(self, location, params):
        pass

    def close(self):
        pass


def backend(name):
    return {"default": {"BACKEND": f"{__name__}.{name}", "LOCATION": name}}


class TestCacheObjects:
    """They are restored, also after an error."""

    @pytest.fixture(autouse=True)
    def restored(self):
        def methods():
            return {
                (alias, name): value
                for alias in caches
                for name, value in vars(caches[alias]).items()
                # Not the objects that the backend or this package makes for
                # itself.
                if name != "_cache" and not name.startswith("getorcreateplus")
            }

        before = methods()
        yield
        assert methods() == before
        assert "create_connection" not in vars(caches)

    def test_nested(self):
        with assert_cache_commands(3):
            cache.get("a")
            with assert_cache_commands(1):
                cache.get("a")
            cache.get("a")

    def test_blocks_that_overlap(self):
        first, second = CaptureCacheCommands(), CaptureCacheCommands()
        commands = first.__enter__()
        cache.get("a")
        others = second.__enter__()
        cache.get("b")
        first.__exit__(None, None, None)
        cache.get("c")
        second.__exit__(None, None, None)
        assert [command.keys for command in commands] == [["a"], ["b"]]
        assert [command.keys for command in others] == [["b"], ["c"]]

    @CONTEXTS
    def test_error_is_not_masked(self, context):
        error = ValueError("of the test")
        with pytest.raises(ValueError, match="of the test") as caught:
            with context(99):
                get()
                raise error
        assert caught.value is error
        assert caught.value.__context__ is None

    @CONTEXTS
    def test_block_is_counted_anew(self, context):
        again = context(0)
        with pytest.raises(AssertionError), again:
            get()
            get()
            get(title="b")
        with again:
            pass

    def test_override_in_a_block(self):
        with CaptureCacheCommands() as commands:
            with override_settings(CACHES={"default": LOCMEM, "new": LOCMEM}):
                cache.get("a")
                caches["new"].get("b")
                assert caches["new"].get_many.__self__ is caches["new"]
            cache.get("c")
        assert commands == [
            ("default", "get", ["a"]),
            ("new", "get", ["b"]),
            ("default", "get", ["c"]),
        ]

    def test_block_in_an_override(self):
        with override_settings(CACHES={"default": LOCMEM, "new": LOCMEM}):
            kept = caches["new"]
            with assert_cache_commands(2, "new"):
                caches["new"].get("b")
                kept.get("b")
            assert "get" not in vars(kept)

    def test_objects_of_an_override_are_restored(self):
        with CaptureCacheCommands() as commands:
            with override_settings(CACHES={"default": LOCMEM}):
                kept = caches["default"]
        kept.get("a")
        assert commands == []
        assert "get" not in vars(kept)

    def test_method_that_was_replaced_before(self):
        cache.get = lambda key: f"{key} of the test"
        own = vars(caches["default"])["get"]
        with assert_cache_commands(1):
            assert cache.get("a") == "a of the test"
        assert vars(caches["default"])["get"] is own
        del cache.get

    def test_method_that_is_replaced_within(self):
        with assert_cache_commands(0):
            cache.get = lambda key: f"{key} of the test"
            assert cache.get("a") == "a of the test"
        assert cache.get("a") == "a of the test"
        del cache.get

    def test_method_that_is_deleted_within(self):
        with assert_cache_commands(0):
            del cache.get

    @override_settings(CACHES=backend("Delegating"))
    def test_backend_that_delegates(self):
        with assert_cache_commands(2) as commands:
            cache.set_many({"a": 1, "b": 2})
            assert cache.get_many("ab") == {"a": 1, "b": 2}
        assert [command.method for command in commands] == ["set_many", "get_many"]
        assert list(vars(caches["default"])) == ["cache"]

    def test_backend_that_cannot_be_spied_on(self):
        """It is not one of Django's backends. Nothing is left behind."""
        with override_settings(CACHES=backend("Slotted")):
            assert caches["default"]
            with pytest.raises(TypeError), CaptureCacheCommands():
                pass
        with assert_cache_commands(1):
            cache.get("a")


LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


class TestContext:
    """It is that of this thread or task."""

    @pytest.fixture(autouse=True)
    def opened(self):
        """Let the tasks use this thread's object, which is closed later."""
        cache.get("a")

    def test_other_thread(self):
        with assert_cache_commands(0):
            elsewhere(cache.get, "a")
        with assert_cache_commands(1):
            elsewhere(copy_context().run, cache.get, "a")

    @pytest.mark.django_db(transaction=True)
    def test_lookups_of_another_thread(self):
        def look():
            with assert_cache_hits(1), assert_cache_misses(1):
                get()
                get()

        with assert_cache_hits(1, Paper), assert_cache_hits(0, Sheet):
            get(Paper)
            get(Paper)
            elsewhere(look)

    def test_block_in_a_thread(self):
        def count():
            with assert_cache_commands(2):
                cache.get("a")
                cache.get("a")

        with assert_cache_commands(1):
            elsewhere(count)
            cache.get("a")

    def test_async(self):
        async def test():
            with assert_cache_misses(1), assert_cache_hits(2):
                await Sheet.objects.aget_or_create(title="a")
                await Sheet.objects.aget_or_create(title="a")
                await sync_to_async(get)()
            with assert_cache_commands(3):
                await Sheet.objects.aget_or_create(title="a")
                await cache.aget("a")
                await sync_to_async(cache.get)("a")

        async_to_sync(test)()

    def test_tasks(self):
        async def task(number):
            with assert_cache_commands(number):
                for _ in range(number):
                    await cache.aget("a")
                    await asyncio.sleep(0)

        async def test():
            with assert_cache_commands(6):
                await asyncio.gather(*map(task, (1, 2, 3)))

        async_to_sync(test)()


class CacheAssertionsTests(CacheAssertions, TestCase):
    def setUp(self):
        get(Paper)

    def test_right(self):
        with self.assertCacheHits(1), self.assertCacheMisses(0):
            get(Paper)
        with self.assertCacheHits(1, model=Paper), self.assertCacheMisses(1, Sheet):
            get(Paper)
            get(Sheet)
        with self.assertCacheCommands(1), self.assertCacheCommands(0, alias="far"):
            get(Paper)

    def test_wrong(self):
        for context in (
            self.assertCacheHits(2),
            self.assertCacheMisses(1),
            self.assertCacheCommands(0),
            self.assertCacheCommands(0, "paper"),
        ):
            with (
                self.subTest(context),
                self.assertRaisesMessage(self.failureException, " instead of "),
            ):
                with context:
                    get(Paper)

    async def test_async(self):
        with self.assertCacheHits(1), self.assertCacheCommands(1):
            await Paper.objects.aget_or_create(title="a")


def outcomes(*calls):
    with CaptureLookups() as lookups:
        for call in calls:
            call()
    return [lookup.outcome for lookup in lookups]


def was_bypassed():
    get()
    return outcomes(get) == [Reason.BYPASS]


class TestCachingOff:
    def test_block(self):
        with caching_off():
            assert was_bypassed()
            with caching_off():
                assert was_bypassed()
            assert was_bypassed()
        assert not was_bypassed()

    def test_nothing_is_put_into_the_cache(self):
        with caching_off(), CaptureCacheCommands() as commands:
            get()
            get()
        assert commands == []
        assert outcomes(get, get) == [Reason.NO_HINT, Source.CACHE]

    def test_write_invalidates(self):
        sheet = get()
        with caching_off():
            sheet.pages = 7
            sheet.save()
        assert get().pages == 7
        assert outcomes(get) == [Source.CACHE]

    def test_memory_of_the_process(self):
        zone, _ = Zone.objects.get_or_create(name="a")
        Zone.objects.get_or_create(name="a")
        Zone.plain.filter(pk=zone.pk).update(size=1)
        with caching_off():
            assert outcomes(lambda: Zone.objects.get_or_create(name="a")) == [
                Reason.BYPASS
            ]

    def test_batch(self):
        rows = [{"code": code} for code in "ab"]
        CachedItem.objects.bulk_get_or_create(rows)
        with caching_off(), CaptureCacheCommands() as commands:
            CachedItem.objects.bulk_get_or_create(rows)
        assert commands == []

    @pytest.mark.parametrize("model", [Sheet, "tests.Sheet"])
    def test_models(self, model):
        get(Paper)
        with caching_off(model):
            assert was_bypassed()
            assert outcomes(lambda: get(Paper)) == [Source.CACHE]
            with caching_off(Paper):
                assert outcomes(lambda: get(Paper)) == [Reason.BYPASS]
                assert was_bypassed()

    @pytest.mark.django_db(transaction=True)
    def test_all_threads(self):
        with caching_off():
            assert elsewhere(was_bypassed)
        assert not elsewhere(was_bypassed)

    def test_function(self):
        @caching_off()
        def bypassed(argument):
            return argument, was_bypassed()

        assert bypassed("given") == ("given", True)
        assert bypassed.__name__ == "bypassed"
        assert not was_bypassed()

    def test_coroutine_function(self):
        @caching_off()
        async def bypassed():
            await asyncio.sleep(0)
            return await sync_to_async(was_bypassed)()

        assert async_to_sync(bypassed)()
        assert not was_bypassed()

    def test_generator_is_refused(self):
        def generator():
            yield

        async def async_generator():
            yield

        for function in (generator, async_generator):
            with pytest.raises(TypeError) as caught:
                caching_off()(function)
            assert str(caught.value) == (
                f"{function!r} is a generator, so code of its caller would run in the "
                "block: use `with caching_off():` inside it, around code that does "
                "not yield."
            )

    def test_error_ends_it(self):
        with pytest.raises(ValueError, match="of the test"), caching_off():
            raise ValueError("of the test")
        assert not was_bypassed()

    def test_beside_bypass(self):
        """Each ends with its own block, in any order of the ends."""
        off, around = caching_off(), bypass(Paper)
        off.__enter__()
        around.__enter__()
        assert was_bypassed()
        off.__exit__(None, None, None)
        assert not was_bypassed()
        with caching_off(Sheet):
            assert was_bypassed()
        around.__exit__(None, None, None)
        assert outcomes(lambda: get(Paper), lambda: get(Paper)) == [
            Reason.NO_HINT,
            Source.CACHE,
        ]
        # This context listens to caching_off() again.
        with caching_off():
            assert was_bypassed()

    def test_what_is_no_model(self):
        with pytest.raises(LookupError, match="'Sheet' is not a model's label"):
            caching_off("Sheet")
        with pytest.raises(TypeError, match="is not a model"):
            caching_off(was_bypassed)  # without parentheses

    def test_class_that_is_no_test_case(self):
        with pytest.raises(TypeError, match=r"subclasses of unittest\.TestCase"):
            caching_off()(type("Test", (), {}))


@caching_off()
class CachingOffTests(TestCase):
    def setUp(self):
        self.bypassed = was_bypassed()

    def test_set_up_and_test(self):
        assert self.bypassed
        assert was_bypassed()

    async def test_async(self):
        assert await sync_to_async(was_bypassed)()


class CachingOffTestsOver(TestCase):
    def test_it_ends_with_the_test(self):
        result = unittest.TestResult()
        CachingOffTests("test_set_up_and_test").run(result)
        assert result.wasSuccessful()
        assert not was_bypassed()
