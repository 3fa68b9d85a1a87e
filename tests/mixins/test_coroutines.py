"""
aget_or_create() and aget(): at most one call in a thread, and none for a hit
in the memory of the process.
"""

import threading

import pytest
from django.conf import settings
from django.core.cache import caches
from django.db import connections, models, router
from django.db.models.signals import post_init
from django.test import override_settings
from django.test.utils import isolate_apps
from django.utils.functional import SimpleLazyObject

from getorcreateplus import CachedManager, CachedQuerySet, bypass
from getorcreateplus.mixins import coroutines
from getorcreateplus.signals import cache_hit
from getorcreateplus.test import CaptureCacheCommands

from ..models import Barrel, CountedLine, Paper, Pier, Rack, Sheet, Zone
from ..support.coroutines import by_asyncio, hops, with_hops
from ..support.threads import elsewhere

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

is_in_process = settings.CACHES["default"]["BACKEND"].endswith("LocMemCache")


@pytest.fixture
def pier():
    pier = Pier.objects.create(name="north")
    barrel = pier.barrels.create(name="a", size=1)
    pier.listed.add(barrel)
    pier.labelled.add(barrel)
    return pier


SOURCES = {
    "manager": lambda pier: Barrel.objects,
    "queryset": lambda pier: Barrel.objects.all(),
    "filter": lambda pier: Barrel.objects.filter(size=1),
    "using": lambda pier: Barrel.objects.using("default"),
    "foreign key": lambda pier: pier.barrels,
    "queryset of a foreign key": lambda pier: pier.barrels.all(),
    "many to many": lambda pier: pier.listed,
    "generic": lambda pier: pier.labelled,
    "creating manager": lambda pier: Barrel.creating,
    "chosen manager": lambda pier: pier.barrels(manager="creating"),
}
# Django's conditions with a join are not cached.
NOT_CACHEABLE = {"many to many"}
SELECTIVE = {"filter", "queryset of a foreign key"}


@pytest.mark.parametrize("name", SOURCES)
class TestHops:
    def test_get_or_create(self, run, pier, name):
        async def call():
            source = SOURCES[name](pier)
            return [await with_hops(source.aget_or_create(name="a")) for _ in "123"]

        results = run(call)
        expected = Barrel.plain.get()
        assert [made for _, made in results] == (
            [1, 1, 1] if name in NOT_CACHEABLE else [1, 0, 0]
        )
        for (obj, created), _ in results:
            assert not created
            assert vars(obj).keys() - {"_state"} >= {"name", "size", "pier_id"}
            assert (obj, obj.size, obj.pier_id) == (expected, 1, pier.pk)

    def test_get(self, run, pier, name):
        async def call():
            source = SOURCES[name](pier)
            results = [await with_hops(source.aget(name="a")) for _ in range(3)]
            return [made for _, made in results], [obj for obj, _ in results]

        made, found = run(call)
        # The querysets of all() and filter() have Django's get().
        is_djangos = "queryset" in name or name == "filter"
        assert made == ([1, 1, 1] if is_djangos or name in NOT_CACHEABLE else [1, 0, 0])
        assert found == [Barrel.plain.get()] * 3

    def test_create(self, run, pier, name):
        async def call():
            source = SOURCES[name](pier)
            # Django creates a row that such a queryset does not select.
            rest = {"size": 1, "pier": pier} if name in SELECTIVE else {}
            first = await with_hops(source.aget_or_create(name="b", **rest))
            return first, await with_hops(source.aget_or_create(name="b", **rest))

        ((obj, created), made), ((again, created_again), _) = run(call)
        assert (created, made, created_again) == (True, 1, False)
        assert obj == again == Barrel.plain.get(name="b")

    def test_update_or_create(self, run, pier, name):
        async def call():
            source = SOURCES[name](pier)
            made = [await hops(source.aget_or_create(name="a")) for _ in range(2)]
            update = source.aupdate_or_create(name="a", defaults={"size": 2})
            made.append(await hops(update))
            if name == "filter":
                return made[2], 2
            obj, _ = await source.aget_or_create(name="a")
            return made[2], obj.size

        assert run(call) == (1, 2)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda pier: Paper.objects.aget_or_create(title="a"), 1 - is_in_process),
        (lambda pier: Sheet.objects.aget_or_create(title="a"), 1 - is_in_process),
        (lambda pier: Barrel.objects.aget_or_create(name__startswith="a"), 1),
        (lambda pier: Barrel.objects.aget_or_create(force_select=True, name="a"), 1),
        (lambda pier: Barrel.objects.refreshed().aget_or_create(name="a"), 1),
        (lambda pier: Barrel.objects.aupdate_or_create(name="a"), 1),
        (lambda pier: Barrel.objects.aget(models.Q(name="a")), 1),
        (lambda pier: Barrel.creating.aget(name__startswith="a"), 1),
        (lambda pier: Barrel.objects.abulk_get_or_create([{"name": "a"}]), 1),
        (lambda pier: Barrel.plain.aget_or_create(name="a"), 1),
        (lambda pier: pier.barrels.aupdate_or_create(name="a"), 1),
        (lambda pier: pier.listed.aupdate_or_create(name="a"), 1),
        (lambda pier: pier.labelled.aupdate_or_create(name="a"), 1),
    ],
)
def test_hops_of_other_calls(run, pier, call, expected):
    """The cache decides for a hit. All other calls take one thread."""
    Paper.objects.create(title="a")
    Sheet.objects.create(title="a")

    async def calls():
        return [await hops(call(pier)) for _ in range(3)][-1]

    assert run(calls) == expected


def test_bypass(run, pier):
    async def call():
        await Barrel.objects.aget_or_create(name="a")
        with bypass():
            made = await hops(Barrel.objects.aget_or_create(name="a"))
        return made, await hops(Barrel.objects.aget_or_create(name="a"))

    assert run(call) == (1, 0)


def test_own_write_is_seen(run, pier):
    async def call():
        found = []
        for size in range(5):
            await Barrel.objects.aget_or_create(name="a")
            await Barrel.plain.filter(name="a").aupdate(size=size)
            obj, _ = await Barrel.objects.aget_or_create(name="a")
            obj.size += 10
            await obj.asave()
            again = [await Barrel.objects.aget_or_create(name="a") for _ in "12"]
            found += [obj.size for obj, _ in again]
        return found

    assert run(call) == [10, 10, 11, 11, 12, 12, 13, 13, 14, 14]


class TestCodeOfTheProject:
    """It runs in the thread, as with the synchronous call."""

    async def threads(self, manager, ran, **lookup):
        """Return the hops, and whether code ran in the loop's thread."""
        for _ in range(2):
            await manager.aget_or_create(**lookup)
        del ran[:]
        made = await hops(manager.aget_or_create(**lookup))
        return made, threading.get_ident() in ran

    def test_receiver_of_post_init(self, pier):
        ran = []

        def receiver(**kwargs):
            ran.append(threading.get_ident())

        post_init.connect(receiver, sender=Barrel)
        try:
            found = by_asyncio(self.call, ran)
        finally:
            post_init.disconnect(receiver, sender=Barrel)
        assert (*found, len(ran)) == (1, False, 1)
        assert by_asyncio(self.call, ran)[0] == 0

    async def call(self, ran):
        return await self.threads(Barrel.objects, ran, name="a")

    def test_receiver_of_a_hit(self, pier):
        ran = []

        async def receiver(source, **kwargs):
            ran.append((await Barrel.plain.aget(name="a")).pier_id)

        cache_hit.connect(receiver)
        try:
            found = by_asyncio(self.call, ran)
        finally:
            cache_hit.disconnect(receiver)
        # Its own call is in the thread, too.
        assert found == (2, False)
        assert ran == [pier.pk]

    def test_from_db(self, pier, monkeypatch):
        ran = []

        def from_db(cls, db, field_names, values, **kwargs):
            ran.append(threading.get_ident())
            return models.Model.from_db.__func__(cls, db, field_names, values, **kwargs)

        monkeypatch.setattr(Barrel, "from_db", classmethod(from_db))
        assert (*by_asyncio(self.call, ran), len(ran)) == (1, False, 1)

    def test_field_of_the_project(self):
        CountedLine.objects.create(reference="a", product=1)

        async def call():
            return await self.threads(CountedLine.objects, [], reference="a")

        assert by_asyncio(call) == (1, False)

    @isolate_apps("tests")
    def test_code_that_may_rely_on_its_thread(self):
        class OwnField(models.CharField):
            pass

        class Plain(models.Model):
            name = models.CharField(max_length=9)

        class Own(models.Model):
            name = OwnField(max_length=9, primary_key=True)

        class Related(models.Model):
            own = models.ForeignKey(Own, models.CASCADE)

        class Made(models.Model):
            def __new__(cls, *args, **kwargs):
                return object.__new__(cls)

        class Described(models.Model):
            name = models.CharField(max_length=9)

        Described.name = property()
        found = [*map(coroutines.makes_plain_instances, (Plain, Own, Related))]
        found += map(coroutines.makes_plain_instances, (Made, Described))
        assert found == [True, False, False, False, False]

    @pytest.mark.parametrize("name", ["__init__", "__setattr__"])
    def test_method_of_an_instance(self, pier, monkeypatch, name):
        ran, inherited = [], getattr(models.Model, name)

        def method(self, *args, **kwargs):
            ran.append(threading.get_ident())
            inherited(self, *args, **kwargs)

        monkeypatch.setattr(Barrel, name, method)
        assert by_asyncio(self.call, ran) == (1, False)
        assert ran

    def test_router(self, pier):
        ran = []

        class Router:
            def db_for_write(self, model, **hints):
                ran.append(threading.get_ident())
                return "default"

            db_for_read = db_for_write

        with override_settings(DATABASE_ROUTERS=[Router()]):
            assert by_asyncio(self.call, ran) == (1, False)
            assert ran
        assert not router.routers

    @pytest.mark.parametrize("alias", ["default", "paper"])
    def test_key_function(self, alias):
        """A failure of the cache for lookups, or of that for rows."""
        Paper.objects.create(title="a")
        ran = []

        def make_key(key, prefix, version):
            ran.append(threading.get_ident())
            return f"{prefix}-{version}-{key}"

        async def call():
            return await self.threads(Paper.objects, ran, title="a")

        options = settings.CACHES[alias] | {"KEY_FUNCTION": make_key}
        with override_settings(CACHES={**settings.CACHES, alias: options}):
            assert by_asyncio(call) == (1, False)

    def test_lazy_value(self, pier):
        Barrel.plain.filter(name="a").update(pier=None)
        other = Pier.objects.create(name="south")
        Barrel.plain.create(name="b", pier=other)

        async def call():
            await Barrel.objects.aget_or_create(name="b", pier=other)
            await Barrel.objects.aget_or_create(name="b", pier=other)
            ran = []

            def get():
                ran.append(threading.get_ident())
                return Pier.objects.get(name="south")

            lazy = SimpleLazyObject(get)
            made = await with_hops(Barrel.objects.aget_or_create(name="b", pier=lazy))
            return made, threading.get_ident() in ran

        ((obj, created), made), is_here = by_asyncio(call)
        assert (obj.name, created, made, is_here) == ("b", False, 1, False)

    @pytest.mark.parametrize("is_class", [True, False])
    def test_get_or_create(self, pier, is_class):
        ran = []

        class Own(CachedQuerySet):
            local_timeout = 60

            def get_or_create(self, *args, **kwargs):
                ran.append(threading.get_ident())
                return super().get_or_create(*args, **kwargs)

        class Common(CachedQuerySet):
            local_timeout = 60

        def queryset():
            if is_class:
                return Own(Barrel)
            queryset = Common(Barrel)
            get_or_create = queryset.get_or_create

            def own(*args, **kwargs):
                ran.append(threading.get_ident())
                return get_or_create(*args, **kwargs)

            queryset.get_or_create = own
            return queryset

        async def call():
            await queryset().aget_or_create(name="a")
            await queryset().aget_or_create(name="a")
            del ran[:]
            made = await hops(queryset().aget_or_create(name="a"))
            return made, threading.get_ident() in ran, len(ran)

        assert by_asyncio(call) == (1, False, 1)

    @pytest.mark.parametrize("name", ["get_or_create", "get_queryset", "db_manager"])
    def test_method_of_a_related_manager(self, pier, name, monkeypatch):
        """Django runs it in the thread."""
        ran = []

        class Queries(CachedQuerySet):
            local_timeout = 60

        base = CachedManager.from_queryset(Queries)

        def method(self, *args, **kwargs):
            ran.append(threading.get_ident())
            return getattr(super(own, self), name)(*args, **kwargs)

        own = type("Own", (base,), {name: method})
        manager = own()
        manager.contribute_to_class(Barrel, "own")
        try:
            related = pier.barrels(manager="own")
            assert by_asyncio(self.call_of, related, ran) == (1, False)
            assert ran
        finally:
            Barrel._meta.local_managers.remove(manager)
            Barrel._meta._expire_cache()
            del Barrel.own

    async def call_of(self, related, ran):
        return await self.threads(related, ran, name="a")


def test_allow_async_unsafe(pier, monkeypatch):
    """Django would query with the coroutine's connection."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def call():
        await Barrel.objects.aget_or_create(name="a")
        return await hops(Barrel.objects.aget_or_create(name="a"))

    assert by_asyncio(call) == 1


@pytest.mark.parametrize("kwargs", [{"nam": "a"}, {"size": "x"}, {"size": []}])
@pytest.mark.parametrize("name", ["manager", "foreign key", "unsaved", "many to many"])
def test_errors_are_those_of_the_synchronous_call(run, pier, name, kwargs):
    pier = Pier(name="new") if name == "unsaved" else pier
    source = SOURCES["foreign key" if name == "unsaved" else name](pier)
    with pytest.raises(Exception) as expected:  # noqa: PT011 - any error
        source.get_or_create(**kwargs)

    async def call():
        await source.aget_or_create(**kwargs)

    with pytest.raises(expected.type) as caught:
        run(call)
    assert str(caught.value) == str(expected.value)


def test_rows_that_cannot_be_shared_are_copies(run):
    """Two hits do not share a mutable value."""
    Zone.objects.create(name="a", notes={"of": ["a"]})
    Zone.objects.get_or_create(name="a")

    async def call():
        found = []
        for _ in range(4):
            zone, _ = await Zone.objects.aget_or_create(name="a")
            found.append(zone.notes)
            zone.notes["of"].append("b")
        return (
            found[0] is not found[1],
            await hops(Zone.objects.aget_or_create(name="a")),
            (await Zone.objects.aget_or_create(name="a"))[0].notes,
        )

    assert run(call) == (True, 0, {"of": ["a"]})


def test_thread_of_the_coroutine_opens_no_connection(pier):
    async def call():
        await Barrel.objects.aget_or_create(name="a")
        await Barrel.objects.aget_or_create(name="a")
        await Barrel.objects.aget(name="a")
        # It may use the object, to read the settings of a model's region.
        return [each.connection for each in connections.all(initialized_only=True)]

    assert {*elsewhere(by_asyncio, call)} <= {None}


def test_cache_commands_are_those_of_the_synchronous_call(run, cache_api):
    Rack.objects.create(name="a")
    for _ in range(2):
        Rack.objects.get_or_create(name="a")
    with CaptureCacheCommands() as expected:
        Rack.objects.get_or_create(name="a")

    async def call():
        with CaptureCacheCommands() as made:
            await Rack.objects.aget_or_create(name="a")
        return [(each.alias, each.method) for each in made]

    assert caches["default"] is not None
    assert run(call) == [(each.alias, each.method) for each in expected]
