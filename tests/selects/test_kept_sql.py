"""
Cases in which SQL is kept, and in which it is compiled again, and the cost.
"""

import datetime
import gc
import threading

import pytest
from django.core.signals import setting_changed
from django.db import connection, connections, models
from django.db.models import QuerySet
from django.db.models.lookups import Exact, IsNull
from django.db.models.sql.compiler import SQLCompiler
from django.test import override_settings
from django.test.utils import isolate_apps

from getorcreateplus import NonAtomicQuerySet
from getorcreateplus.selects import shapes
from getorcreateplus.selects.compiling import other_value
from getorcreateplus.selects.parameters import arguments_of
from getorcreateplus.selects.running import CONVERTERS

from ..models import Opera, Ordinary, PlainPaper, Style
from .outcomes import check, outcome

pytestmark = pytest.mark.django_db


def get(**kwargs):
    return NonAtomicQuerySet(Style).get(**kwargs)


@pytest.fixture
def kept(compiled):
    """The counter, with one kept SQL."""
    Style.plain.create(name="a")
    get(name="a")
    compiled.count = 0
    get(name="a")
    assert compiled.count == 1
    return compiled


def is_compiled_again(kept):
    """Look up twice; return True if Django has compiled the first SELECT."""
    kept.count = 0
    get(name="a")
    first = kept.count
    get(name="a")
    assert kept.count == first + 1
    return not first


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "",
        "b",
        5,
        0,
        True,
        False,
        1.5,
        0.0,
        b"",
        b"a",
        datetime.date(2020, 1, 31),
        datetime.datetime(2020, 2, 29, 1, tzinfo=datetime.UTC),
        datetime.time(1, 2, 59),
        datetime.timedelta(),
        datetime.timedelta(days=1),
    ],
)
def test_other_value_is_another_one_of_the_same_type(value):
    other = other_value(value)
    assert other != value
    assert type(other) is type(value)


def test_other_value_of_an_unknown_type():
    assert other_value(object()) is None


# When it is compiled again


def test_setting(kept):
    with override_settings(USE_TZ=False):
        assert is_compiled_again(kept)
    assert is_compiled_again(kept)
    setting_changed.send(None, setting="ANY", value=None, enter=True)
    assert is_compiled_again(kept)


@isolate_apps("tests")
def test_model(kept):
    class New(models.Model):
        class Meta:
            app_label = "tests"

    assert is_compiled_again(kept)
    assert not is_compiled_again(kept)


def test_field_that_is_added(kept):
    """The column is not in the table, so no SELECT may name it."""
    field = models.IntegerField(null=True)
    opts = Style._meta
    field.set_attributes_from_name("added")
    field.model = Style
    opts.add_field(field)
    try:
        with pytest.raises(Exception, match="added"):
            get(name="a")
    finally:
        opts.local_fields.remove(field)
        opts._expire_cache()
        connection.needs_rollback = False
        if connection.vendor == "postgresql":
            connection.connection.rollback()
    assert outcome(lambda: QuerySet(Style).get(name="x")) == outcome(
        lambda: get(name="x")
    )


@pytest.mark.parametrize("model", [Style, Opera])
def test_table_that_is_renamed(kept, monkeypatch, model):
    check(model, {"pk": 5})
    monkeypatch.setattr(model._meta, "db_table", PlainPaper._meta.db_table)
    sent = outcome(lambda: NonAtomicQuerySet(model).get(pk=5))
    assert sent == outcome(lambda: QuerySet(model).get(pk=5))


@pytest.mark.parametrize(
    "name", ["as_sql", "execute_sql", "results_iter", "get_converters"]
)
def test_compiler_that_is_patched_later(kept, monkeypatch, name):
    calls = []
    original = getattr(SQLCompiler, name)

    def patch(self, *args, **kwargs):
        calls.append(name)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(SQLCompiler, name, patch)
        for _ in range(3):
            calls.clear()
            kept.count = 0
            get(name="a")
            assert (bool(calls), kept.count) == (True, 0)
    kept.count = 0
    shapes.shape_of.cache_clear()
    get(name="a")
    get(name="a")
    assert kept.count == 1


def test_null_lookup_that_is_registered_later(compiled):
    class Never(IsNull):
        def as_sql(self, compiler, connection):
            return "1 = 0", ()

    Ordinary._base_manager.create()
    check(Ordinary, {"char": None})
    assert compiled.count == 2
    field = Ordinary._meta.get_field("char")
    field.register_lookup(Never)
    try:
        _, (error, _), _ = check(Ordinary, {"char": None})
        assert error is Ordinary.DoesNotExist
    finally:
        field._unregister_lookup(Never)


def test_lookup_that_is_registered_later(kept):
    class Prefixed(Exact):
        def get_prep_lookup(self):
            return f"{self.rhs}!"

    Style.plain.create(name="a!", pk=77)
    field = Style._meta.get_field("name")
    field.register_lookup(Prefixed)
    try:
        for _ in range(3):
            assert get(name="a").pk == 77
    finally:
        field._unregister_lookup(Prefixed)
    assert get(name="a").pk != 77


# When it is not kept


def test_value_of_an_unknown_type_is_waited_for(compiled):
    """Its SQL is kept when a second value has the same SQL."""

    class Code:
        def __init__(self, text):
            self.text = text

        def __eq__(self, other):
            return isinstance(other, Code) and self.text == other.text

        __hash__ = None

    class CodeField(models.CharField):
        def get_prep_value(self, value):
            return value

        def get_db_prep_value(self, value, connection, prepared=False):
            return value.text if isinstance(value, Code) else value

    with isolate_apps("tests"):

        class Coded(models.Model):
            name = CodeField(max_length=20)

            class Meta:
                app_label = "tests"
                db_table = Style._meta.db_table

        Style.plain.create(name="a")
        Style.plain.create(name="b")
        for name in "aaaab":
            assert NonAtomicQuerySet(Coded).get(name=Code(name)).name == name
            assert compiled.count == 0
        assert NonAtomicQuerySet(Coded).get(name=Code("a")).name == "a"
        assert compiled.count == 1


def test_sql_that_depends_on_the_value(kept, monkeypatch):
    original = SQLCompiler.compile

    def compile_by_length(self, node):
        sql, params = original(self, node)
        if type(node) is Exact and node.lhs.target.name == "name":
            sql = f"{sql} AND 5 > {len(node.rhs)}"
        return sql, params

    Style.plain.create(name="long name")
    shapes.shape_of.cache_clear()
    monkeypatch.setattr(SQLCompiler, "compile", compile_by_length)
    kept.count = 0
    for _ in range(2):
        for name in ("a", "long name"):
            sent = outcome(lambda n=name: get(name=n))
            assert sent == outcome(lambda n=name: QuerySet(Style).get(name=n))
    assert kept.count == 0


def test_values_that_cannot_be_compared(compiled, monkeypatch):
    class Odd(str):
        __slots__ = ()
        __hash__ = None

        def __eq__(self, other):
            raise TypeError("no truth value")

    Style.plain.create(name="a")
    monkeypatch.setattr(shapes, "parameters_of", lambda *args: ([Odd("a")], ()))
    for _ in range(3):
        assert get(name="a").name == "a"
    assert compiled.count == 0


def test_field_that_refuses_other_values(compiled):
    """Another call's value then shows that the SQL is the same."""

    class StrictField(models.CharField):
        def get_db_prep_value(self, value, connection, prepared=False):
            if value not in {"a", "b"}:
                raise ValueError(value)
            return value

    with isolate_apps("tests"):

        class Strict(models.Model):
            name = StrictField(max_length=20)

            class Meta:
                app_label = "tests"
                db_table = Style._meta.db_table

    Style.plain.create(name="a")
    Style.plain.create(name="b")
    for name in "aaab":
        assert NonAtomicQuerySet(Strict).get(name=name).name == name
        assert compiled.count == 0
    assert NonAtomicQuerySet(Strict).get(name="a").name == "a"
    assert compiled.count == 1


def test_parameters_that_django_does_not_send(compiled, monkeypatch):
    """As in a version of Django that prepares values in another way."""
    Style.plain.create(name="a")
    monkeypatch.setattr(shapes, "parameters_of", lambda *args: (["b"], ()))
    for _ in range(3):
        assert get(name="a").name == "a"
    assert compiled.count == 0


def test_lookup_of_the_project():
    class Loud(Exact):
        pass

    class LoudField(models.CharField):
        def get_lookup(self, name):
            return Loud if name == "exact" else super().get_lookup(name)

    with isolate_apps("tests"):

        class Spoken(models.Model):
            name = LoudField(max_length=20)

            class Meta:
                app_label = "tests"

    assert arguments_of(Spoken, ("id",))
    assert arguments_of(Spoken, ("name",)) is None


def test_column_that_is_selected_by_sql_of_the_project(compiled):
    language = ["en"]

    class TranslatedField(models.CharField):
        def select_format(self, compiler, sql, params):
            return f"UPPER({sql})" if language[0] == "de" else sql, params

    with isolate_apps("tests"):

        class Translated(models.Model):
            name = TranslatedField(max_length=20)

            class Meta:
                app_label = "tests"
                db_table = Style._meta.db_table

        row = Style.plain.create(name="a")
        for _ in range(3):
            assert NonAtomicQuerySet(Translated).get(pk=row.pk).name == "a"
        language[0] = "de"
        assert NonAtomicQuerySet(Translated).get(pk=row.pk).name == "A"
    assert compiled.count == 0


# The cost


@pytest.mark.slow
def test_memory_is_bounded(monkeypatch):
    """A project may pass the data of a user: get(**request.GET)."""
    names = [field.attname for field in Ordinary._meta.concrete_fields]
    for first in names:
        for second in names:
            for third in names[:3]:
                kwargs = dict.fromkeys([first, second, third])
                with pytest.raises(Ordinary.DoesNotExist):
                    NonAtomicQuerySet(Ordinary).get(**kwargs)
    assert shapes.shape_of.cache_info().currsize <= shapes.MAX_SHAPES
    for number in range(2000):
        with pytest.raises(Exception, match="Cannot resolve"):
            NonAtomicQuerySet(Ordinary).get(**{f"name{number}": 5})
    info = arguments_of.cache_info()
    assert info.currsize <= info.maxsize


@pytest.mark.slow
def test_converters_go_with_their_select(kept):
    selects = vars(connections["default"])[CONVERTERS]
    assert selects
    shapes.shape_of.cache_clear()
    gc.collect()
    assert not selects


@pytest.mark.database("mysql", "postgresql")  # not one in the memory of a thread
@pytest.mark.django_db(transaction=True)
def test_threads_share_what_is_kept():
    """Each has its own connection, with its own converters."""
    moment = datetime.datetime(2020, 5, 4, tzinfo=datetime.UTC)
    for number in range(5):
        Ordinary._base_manager.create(
            integer=number, datetime=moment, decimal=number, boolean=True
        )
    errors, start = [], threading.Barrier(4)

    def run():
        try:
            start.wait(10)
            for number in range(100):
                obj = NonAtomicQuerySet(Ordinary).get(integer=number % 5)
                assert (obj.decimal, obj.datetime) == (number % 5, moment)
        except Exception as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
