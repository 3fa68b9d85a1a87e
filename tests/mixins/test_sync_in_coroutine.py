"""
A synchronous call in a coroutine: Django refuses calls that query. A hit is
refused, too. Otherwise code would work until its first miss.
"""

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections

from getorcreateplus import invalidate
from getorcreateplus.explaining import check, explain

from ..models import Barrel, Paper, Pier, PlainPaper, PlusItem, PlusPaper, Zone
from ..support.coroutines import by_asyncio

MESSAGE = "You cannot call this from an async context - use a thread or sync_to_async."

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def rows():
    pier = Pier.objects.create(pk=1, name="north")
    barrel = Barrel.objects.create(name="a", pier=pier)
    pier.listed.add(barrel)
    pier.labelled.add(barrel)
    for model in PlainPaper, Paper, PlusPaper:
        model.objects.create(title="a")
        for _ in range(2):
            model.objects.get_or_create(title="a")
    for _ in range(2):
        pier.barrels.get_or_create(name="a")
        Zone.objects.get_or_create(name="a")
        PlusItem.objects.get_or_create(code="a")
        Barrel.objects.get(name="a")


CALLS = {
    "Django's": lambda new: PlainPaper.objects.get_or_create(title=new),
    "cached": lambda new: Paper.objects.get_or_create(title=new),
    "plus": lambda new: PlusPaper.objects.get_or_create(title=new),
    "in memory": lambda new: Zone.objects.get_or_create(name=new),
    "queryset": lambda new: Paper.objects.filter(hidden=False).get_or_create(title=new),
    "refreshed": lambda new: Paper.objects.refreshed().get_or_create(title=new),
    "update": lambda new: Paper.objects.update_or_create(title=new),
    "creating get": lambda new: PlusPaper.objects.get(title=new),
    "cached get": lambda new: Barrel.objects.get(name=new),
    "batch": lambda new: PlusItem.objects.bulk_get_or_create([{"code": new}]),
    "iterator": lambda new: list(PlusItem.objects.ibulk_get_or_create([{"code": new}])),
    "foreign key": lambda new: pier().barrels.get_or_create(name=new),
    "get of a foreign key": lambda new: pier().barrels.get(name=new),
    "batch of a foreign key": lambda new: pier().barrels.bulk_get_or_create(
        [{"name": new}]
    ),
    "many to many": lambda new: pier().listed.get_or_create(name=new),
    "generic": lambda new: pier().labelled.get_or_create(name=new),
    "invalidate a row": lambda new: Paper.objects.invalidate(1),
    "invalidate all rows": lambda new: Paper.objects.invalidate_all(),
    "invalidate a model": lambda new: invalidate(Paper),
    "explain": lambda new: explain(Paper.objects, title=new),
    "check": lambda new: check(Paper.objects, title=new),
}


def pier():
    return Pier.from_db("default", ["id", "name"], [1, "north"])  # without a query


@pytest.mark.parametrize("new", ["a", "new"])  # a hit and a miss
@pytest.mark.parametrize("name", CALLS)
def test_call(name, new):
    async def call():
        with pytest.raises(SynchronousOnlyOperation) as caught:
            CALLS[name](new)
        return str(caught.value)

    assert by_asyncio(call) == MESSAGE


@pytest.mark.slow
@pytest.mark.parametrize("new", ["a", "new"])
@pytest.mark.parametrize("name", CALLS)
def test_call_in_a_thread(name, new):
    async def call():
        await sync_to_async(CALLS[name])(new)

    if new == "new" and name in {"cached get", "get of a foreign key"}:
        with pytest.raises(Barrel.DoesNotExist):
            by_asyncio(call)
    else:
        by_asyncio(call)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_allowed_by_the_environment(name, monkeypatch):
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")

    async def call():
        try:
            CALLS[name]("a")
        finally:
            connections.close_all()  # those of the coroutine

    by_asyncio(call)


def test_what_makes_querysets_queries_nothing():
    async def call():
        queryset = Paper.objects.refreshed().filter(title="a")
        assert PlusItem.objects.bulk_get_or_create([]) == []
        return (await queryset.aget_or_create(title="a"))[1]

    assert by_asyncio(call) is False
