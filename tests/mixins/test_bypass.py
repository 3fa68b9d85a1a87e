"""bypass(): turns the cache off for a block, in this thread or task only."""

import asyncio
import contextvars
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from getorcreateplus import bypass

from ..models import Paper, PlusItem, ProxyPlusItem, Sheet
from ..models.bulk import AbstractItem
from ..support.queries import count
from ..support.sql import behind_the_back

pytestmark = pytest.mark.django_db


def queries(model=Paper):
    (_, created), number = count(lambda: model.objects.get_or_create(title="a"))
    assert not created
    return number


@pytest.fixture(autouse=True)
def warm():
    for model in (Paper, Sheet):
        model.objects.create(title="a")
        assert [queries(model), queries(model)] == [1, 0]


def test_database_is_asked():
    with bypass() as nothing:
        assert nothing is None
        assert [queries(), queries(), queries(Sheet)] == [1, 1, 1]
    assert queries() == 0


def test_nothing_is_filled():
    with bypass():
        Paper.objects.get_or_create(title="b")
        Paper.objects.get_or_create(title="b")
        Paper.objects.update_or_create(title="c")
    for title in "bc":
        _, number = count(lambda title=title: Paper.objects.get_or_create(title=title))
        assert number == 1


def test_writes_invalidate():
    with bypass():
        Paper.objects.filter(title="a").update(pages=3)
    obj, _ = Paper.objects.get_or_create(title="a")
    assert obj.pages == 3


def test_what_the_cache_does_not_know_is_seen():
    behind_the_back("UPDATE tests_paper SET pages = 5")
    with bypass(Paper):
        assert Paper.objects.get_or_create(title="a")[0].pages == 5
    assert Paper.objects.get_or_create(title="a")[0].pages is None


@pytest.mark.parametrize("given", [(Paper,), ("tests.Paper",), (PlusItem, Paper)])
def test_models(given):
    with bypass(*given):
        assert (queries(), queries(Sheet)) == (1, 0)


def test_proxy_is_its_model():
    PlusItem.objects.get_or_create(code="a")
    with bypass(ProxyPlusItem):
        call = lambda: PlusItem.objects.get_or_create(code="a")  # noqa: E731
        assert count(call)[1] == 1


def test_batches():
    rows = [{"code": "a"}, {"code": "b"}]
    PlusItem.objects.bulk_get_or_create(rows)
    call = lambda: PlusItem.objects.bulk_get_or_create(rows)  # noqa: E731
    with bypass(PlusItem):
        assert count(call)[1] == 1
    assert count(call)[1] == 0


def test_blocks_inside_of_others():
    block = bypass(Paper)
    with block:
        with bypass(Sheet), block:
            assert (queries(), queries(Sheet)) == (1, 1)
        assert (queries(), queries(Sheet)) == (1, 0)
    assert (queries(), queries(Sheet)) == (0, 0)


def test_error_ends_the_block():
    with pytest.raises(ZeroDivisionError), bypass():
        raise ZeroDivisionError
    assert queries() == 0


class TestDecorator:
    def test_function(self):
        @bypass(Paper)
        def look_up(number):
            """Look it up."""
            return number, queries(), queries(Sheet)

        assert look_up(7) == (7, 1, 0)
        assert look_up(number=8) == (8, 1, 0)
        assert queries() == 0
        assert look_up.__doc__ == "Look it up."

    def test_coroutine_function(self):
        @bypass()
        async def look_up():
            await asyncio.sleep(0)
            return await sync_to_async(queries)()

        assert async_to_sync(look_up)() == 1
        assert queries() == 0

    @pytest.mark.parametrize("kind", ["def", "async def"])
    def test_generator_is_refused(self, kind):
        scope = {}
        exec(f"{kind} rows():\n    yield 1", scope)
        with pytest.raises(TypeError, match=r"rows at .* is a generator, so code of"):
            bypass()(scope["rows"])


class TestContexts:
    def test_other_thread_is_not_concerned(self):
        seen = []
        with bypass():
            for run in (lambda call: call(), contextvars.copy_context().run):
                thread = threading.Thread(target=run, args=[lambda: note(seen)])
                thread.start()
                thread.join()
        assert seen == [False, True]

    def test_tasks(self):
        async def look_up(event, other):
            event.set()
            await other.wait()
            return await sync_to_async(queries)()

        async def both():
            one, two = asyncio.Event(), asyncio.Event()
            return await asyncio.gather(
                bypass()(look_up)(one, two),
                look_up(two, one),
            )

        assert async_to_sync(both)() == [1, 0]


def note(seen):
    from getorcreateplus.bypassing import is_bypassed

    seen.append(is_bypassed(Paper))


class TestBadInput:
    @pytest.mark.parametrize("value", [7, None, str, Paper.objects, lambda: None])
    def test_what_is_no_model(self, value):
        with pytest.raises(
            TypeError, match="is not a model: pass a model or its label"
        ):
            bypass(value)

    def test_abstract_model(self):
        with pytest.raises(TypeError, match="AbstractItem'> is abstract and has no"):
            bypass(AbstractItem)

    def test_class(self):
        """Its name would be that of a function."""
        with pytest.raises(TypeError, match="Tests'> is a class: decorate its"):

            @bypass()
            class Tests:
                pass

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            ("Paper", "'Paper' is not a model's label, such as 'app.Model'."),
            ("tests.Papper", "App 'tests' doesn't have a 'Papper' model."),
            ("test.Paper", "No installed app with label 'test'."),
        ],
    )
    def test_unknown_label(self, label, message):
        with pytest.raises(LookupError) as error, bypass(label):
            raise AssertionError
        assert error.value.args[0] == message
        assert queries() == 0
