"""The INSERT of create() that is compiled once, beside Django's."""

from unittest import mock

import pytest
from django.db import DatabaseError, connection, models, transaction
from django.db.models.query import QuerySet
from django.db.models.signals import post_init, post_save, pre_save
from django.db.models.sql.compiler import SQLInsertCompiler
from django.test import override_settings

from getorcreateplus import CachedQuerySet, NonAtomicQuerySet, PlusQuerySet
from getorcreateplus.writes import compiled_inserts
from getorcreateplus.writes.compiled_inserts import create_row, plan_of

from ..models import (
    NonAtomicEntry,
    NonAtomicStep,
    Opera,
    Ordinary,
    PlainPaper,
    Style,
)
from ..support.rivals import connected
from ..support.sent import MODELS, NOW, Sent, arguments

pytestmark = pytest.mark.django_db


@pytest.fixture
def kept(monkeypatch):
    """Count the INSERTs whose SQL was kept."""
    counter = mock.Mock(count=0)
    is_current = compiled_inserts.CompiledInsert.is_current

    def count(self, *args):
        found = is_current(self, *args)
        counter.count += found
        return found

    monkeypatch.setattr(compiled_inserts.CompiledInsert, "is_current", count)
    return counter


@pytest.mark.slow
def test_each_model_sends_what_django_sends(kept):
    """
    Compare SQL, parameters, instances and errors. Some values are refused.
    """
    with mock.patch("django.utils.timezone.now", return_value=NOW):
        for model in MODELS:
            for queryset_class in (NonAtomicQuerySet, CachedQuerySet):
                for number in range(3):
                    params = arguments(model, number)
                    plain, ours = QuerySet(model), queryset_class(model)
                    expected = Sent(lambda p, q=plain: q.create(**p), model, params)
                    found = Sent(lambda p, q=ours: create_row(q, p), model, params)
                    assert found.seen == expected.seen, model
    assert kept.count > len(MODELS)


def create(model=Style, queryset_class=NonAtomicQuerySet, **params):
    return create_row(queryset_class(model), params)


@pytest.mark.parametrize(
    "queryset_class", [CachedQuerySet, NonAtomicQuerySet, PlusQuerySet]
)
def test_second_row_has_kept_sql(kept, queryset_class):
    for name in "abc":
        row, created = queryset_class(Style).get_or_create(name=name)
        assert created
        assert Style.plain.get(pk=row.pk).name == name
        assert "_do_insert" not in vars(row)
    assert kept.count == 2


def test_given_primary_key_has_sql_of_its_own(kept):
    for number in range(4):
        create(name=f"a{number}")
        create(name=f"b{number}", pk=-number - 1)
    assert kept.count == 6
    assert Style.plain.get(name="b3").pk == -4


@pytest.mark.parametrize("signal", [post_init, pre_save, post_save])
def test_receivers_see_an_instance_of_django(signal):
    seen = []

    def receiver(instance, **kwargs):
        seen.append("_do_insert" in vars(instance))

    create(name="a")
    with connected(signal, receiver):
        create(name="b")
    assert seen == [False]


def test_receiver_of_pre_save_runs_on_djangos_way(kept):
    create(name="a")
    with connected(pre_save, lambda instance, **kwargs: None):
        create(name="b")
    assert kept.count == 0


def test_failed_instance_is_as_djangos():
    create(name="a")
    objs = []
    with (
        connected(post_init, lambda instance, **kwargs: objs.append(instance)),
        pytest.raises(DatabaseError),
        transaction.atomic(),
    ):
        create(name="a")
    with (
        connected(post_init, lambda instance, **kwargs: objs.append(instance)),
        pytest.raises(ValueError, match="unsaved related object"),
    ):
        create(Opera, title="b", composer=Opera.composer.field.related_model())
    assert objs
    assert not any("_do_insert" in vars(obj) for obj in objs)
    assert objs[0]._state.adding
    assert objs[0].pk is None


@pytest.mark.parametrize("name", compiled_inserts.STEPS_OF_MODEL)
def test_overridden_step_of_the_model_is_run(monkeypatch, kept, name):
    create(name="a")
    calls = []
    step = getattr(Style, name)

    def override(self, *args, **kwargs):
        calls.append(name)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Style, name, override)
    create(name="b")
    assert calls or name == "__delattr__"
    assert not kept.count


@pytest.mark.parametrize("name", compiled_inserts.STEPS_OF_COMPILER)
def test_patched_compiler_is_run(monkeypatch, kept, name):
    create(name="a")
    create(name="b")
    assert kept.count == 1
    calls = []
    step = getattr(SQLInsertCompiler, name)

    def override(self, *args):
        calls.append(name)
        return step(self, *args)

    monkeypatch.setattr(SQLInsertCompiler, name, override)
    for text in "cd":
        calls.clear()
        create(name=text)
        assert calls
    assert kept.count == 1


def test_renamed_table_is_compiled_again(monkeypatch):
    create(name="a")
    create(name="b")
    monkeypatch.setattr(Style._meta, "db_table", "no_such_table")
    with pytest.raises(DatabaseError, match="no_such_table"), transaction.atomic():
        create(name="c")


def test_changed_feature_is_compiled_again(monkeypatch, kept):
    create(name="a")
    create(name="b")
    features = connection.features
    monkeypatch.setattr(features, "has_bulk_insert", not features.has_bulk_insert)
    create(name="c")
    assert kept.count == 1


def test_overridden_create_is_run(kept):
    class Shouting(NonAtomicQuerySet):
        def create(self, **kwargs):
            return super().create(**{k: v.upper() for k, v in kwargs.items()})

    for name in "ab":
        assert create(Style, Shouting, name=name).name == name.upper()
    assert not kept.count


def test_base_manager_of_the_project_is_run(monkeypatch, kept):
    class Own(models.Manager):
        inserted = 0

        def _insert(self, *args, **kwargs):
            self.inserted += 1
            return super()._insert(*args, **kwargs)

    create(name="a")
    own = Own()
    own.model = Style
    monkeypatch.setattr(Style._meta, "base_manager", own)
    create(name="b")
    assert own.inserted == 1
    assert not kept.count


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (QuerySet, "create"),
        (QuerySet, "_insert"),
        (models.Manager, "get_queryset"),
    ],
)
def test_patched_queryset_is_run(monkeypatch, kept, owner, name):
    create(name="a")
    calls = []
    method = getattr(owner, name)

    def override(self, *args, **kwargs):
        calls.append(name)
        return method(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, override)
    create(name="b")
    assert calls
    assert not kept.count


@pytest.mark.parametrize("model", [NonAtomicStep, PlainPaper])
def test_plan_refuses_what_overrides_save(model):
    overrides = model.save is not models.Model.save
    assert (plan_of(model) is None) is overrides


def test_setting_and_attribute_turn_it_off(kept):
    class Without(NonAtomicQuerySet):
        compiled_selects = False

    create(name="a")
    create(Style, Without, name="b")
    with override_settings(GETORCREATEPLUS_COMPILED_SELECTS=False):
        create(name="c")
    assert not kept.count


def test_auto_now_is_the_one_that_is_stored(kept):
    for name in "abc":
        row = create(NonAtomicEntry, name=name)
        assert NonAtomicEntry._base_manager.get(pk=row.pk).changed == row.changed
    assert kept.count == 2


def test_expression_is_compiled_by_django(kept):
    create(Ordinary, char="a")
    create(Ordinary, char="b")
    row = create(Ordinary, char=models.functions.Upper(models.Value("c")))
    assert Ordinary._base_manager.get(pk=row.pk).char == "C"
