"""The UPDATE of update_or_create() that is compiled once, beside Django's."""

from contextlib import suppress
from unittest import mock

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, connection, models, router, transaction
from django.db.models.query import QuerySet
from django.db.models.signals import post_init, post_save, pre_save
from django.db.models.sql.compiler import SQLCompiler, SQLUpdateCompiler
from django.test import override_settings

from getorcreateplus import NonAtomicQuerySet, PlusQuerySet
from getorcreateplus.writes import compiled_updates
from getorcreateplus.writes.compiled_updates import plan_of

from ..models import (
    NonAtomicEntry,
    NonAtomicProxyEntry,
    NonAtomicStep,
    Opera,
    Ordinary,
    PlainPaper,
    Style,
)
from ..support.rivals import connected
from ..support.sent import MODELS, NOW, Sent, arguments, shown

pytestmark = pytest.mark.django_db


class Updated(Sent):
    """The statements of one call, with the signals of its model."""

    def __init__(self, call, model, params):
        ContentType.objects.clear_cache()
        with connected(post_save, self.receive):
            super().__init__(call, model, params)

    def record(self, execute, sql, params, many, context):
        if "SAVEPOINT" not in sql:
            sent = [*map(shown, params)], [*map(type, params)]
            self.statements.append((sql, sent, many))
        return execute(sql, params, many, context)

    def receive(self, signal, instance, **kwargs):
        assert "_do_update" not in vars(instance)
        self.statements.append(kwargs)


@pytest.fixture
def kept_updates(monkeypatch):
    """Count the UPDATEs whose SQL was kept."""
    counter = mock.Mock(count=0)
    execute = compiled_updates.execute

    def count(*args):
        counter.count += 1
        return execute(*args)

    monkeypatch.setattr(compiled_updates, "execute", count)
    return counter


def changes(model, number):
    """Return other values of a row, for the columns that can be updated."""
    params = arguments(model, number)
    for field in model._meta.concrete_fields:
        if field.primary_key or field in model._meta.pk_fields:
            params.pop(field.attname, None)
        elif number > 2 and field.null and field.attname in params:
            params[field.attname] = None
    return params


@pytest.mark.slow
def test_each_model_is_updated_as_by_django(kept_updates):
    """Compare SQL, parameters, signals, instances and errors."""
    compared = 0
    with (
        mock.patch("django.utils.timezone.now", return_value=NOW),
        mock.patch("model_utils.fields.now", return_value=NOW),
        connection.constraint_checks_disabled(),
    ):
        for model in MODELS:
            with suppress(DatabaseError, TypeError, ValueError), transaction.atomic():
                row = QuerySet(model).create(**arguments(model, 0))
                compared += compare(model, row.pk)
                transaction.set_rollback(True)
    assert compared > len(MODELS)
    assert kept_updates.count > len(MODELS)


def compare(model, pk):
    """
    Update a row with Django and with this package. Return the number of
    updates.
    """
    querysets = QuerySet(model), NonAtomicQuerySet(model), PlusQuerySet(model)
    for number in range(1, 6):
        expected, *found = (
            Updated(
                lambda params, queryset=queryset: queryset.update_or_create(
                    params, pk=pk
                )[0],
                model,
                changes(model, number),
            ).seen
            for queryset in querysets
        )
        assert found == [expected] * 2, model
    return number


def update(model=Style, queryset_class=NonAtomicQuerySet, *, names="a", **lookup):
    """Update the row in a transaction, to one of these names after another."""
    with transaction.atomic():
        for letter in names:
            obj, created = queryset_class(model).update_or_create(
                {"name": letter}, **lookup
            )
            assert not created
            assert "_do_update" not in vars(obj)
            row = model._base_manager.get(pk=obj.pk)
            assert (row.name, obj.name) == (letter, letter)
    return obj


@pytest.fixture
def style():
    return Style.plain.create(name="first")


@pytest.mark.parametrize("queryset_class", [NonAtomicQuerySet, PlusQuerySet])
def test_second_update_has_kept_sql(kept_updates, style, queryset_class):
    plan_of(Style).updates.clear()
    obj = update(Style, queryset_class, names="abc", pk=style.pk)
    assert kept_updates.count == 2
    assert not obj._state.adding
    assert obj._state.db == "default"


@pytest.mark.parametrize("signal", [post_init, pre_save, post_save])
def test_receivers_see_an_updated_instance_of_django(style, signal):
    seen = []
    update(pk=style.pk)
    with connected(
        signal, lambda instance, **kwargs: seen.append("_do_update" in vars(instance))
    ):
        NonAtomicQuerySet(Style).update_or_create({"name": "b"}, pk=style.pk)
    assert seen == [False]


def test_receiver_of_pre_save_may_change_the_update(style):
    def change(instance, **kwargs):
        instance.name += "!"

    update(pk=style.pk)
    with connected(pre_save, change):
        obj, _ = NonAtomicQuerySet(Style).update_or_create({"name": "b"}, pk=style.pk)
    assert obj.name == Style.plain.get(pk=style.pk).name == "b!"


def test_row_that_is_gone_is_djangos_error(kept_updates, style):
    """Another wrapper deletes the row just before its UPDATE."""
    update(names="ab", pk=style.pk)
    kept = kept_updates.count

    def delete_first(execute, sql, params, many, context):
        if sql.startswith("UPDATE"):
            Style.plain.filter(pk=style.pk).delete()
        return execute(sql, params, many, context)

    errors = []
    for queryset_class in (QuerySet, NonAtomicQuerySet):
        with (
            pytest.raises(DatabaseError) as caught,
            transaction.atomic(),
            connection.execute_wrapper(delete_first),
        ):
            queryset_class(Style).update_or_create({"name": "c"}, pk=style.pk)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
    assert "did not affect any rows" in errors[1][1]
    assert kept_updates.count == kept + 1


def test_refused_update_is_djangos_error(kept_updates, style):
    other = Style.plain.create(name="other")
    update(names="ab", pk=style.pk)
    errors, objs = [], []
    for queryset_class in (QuerySet, NonAtomicQuerySet):
        with (
            connected(post_init, lambda instance, **kwargs: objs.append(instance)),
            pytest.raises(DatabaseError) as caught,
            transaction.atomic(),
        ):
            queryset_class(Style).update_or_create({"name": other.name}, pk=style.pk)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
    assert vars(objs[0]).keys() == vars(objs[1]).keys()
    assert kept_updates.count == 2


def test_unsaved_related_object_is_djangos_error():
    composer = Opera.composer.field.related_model.objects.create(name="a")
    row = Opera._base_manager.create(title="a", composer=composer)
    for _ in range(2):
        NonAtomicQuerySet(Opera).update_or_create({"title": "b"}, pk=row.pk)
    composer = type(composer)()
    with pytest.raises(ValueError, match="unsaved related object"):
        NonAtomicQuerySet(Opera).update_or_create({"composer": composer}, pk=row.pk)


@pytest.mark.parametrize("name", compiled_updates.STEPS_OF_MODEL)
def test_overridden_step_of_save_is_run(monkeypatch, kept_updates, style, name):
    update(names="ab", pk=style.pk)
    kept, calls, step = kept_updates.count, [], getattr(Style, name)

    def override(self, *args, **kwargs):
        calls.append(name)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Style, name, override)
    update(pk=style.pk)
    assert calls or name == "__delattr__"
    assert kept_updates.count == kept


@pytest.mark.parametrize("owner", [SQLUpdateCompiler, SQLCompiler])
@pytest.mark.parametrize("name", compiled_updates.STEPS_OF_COMPILER)
def test_patched_compiler_of_updates_is_run(
    monkeypatch, kept_updates, style, owner, name
):
    update(names="ab", pk=style.pk)
    kept, calls, step = kept_updates.count, [], getattr(owner, name)

    def override(self, *args, **kwargs):
        calls.append(type(self))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, override)
    for letter in "cd":
        update(names=letter, pk=style.pk)
    assert kept_updates.count == kept
    assert calls or (owner, name) == (SQLCompiler, "as_sql")


@pytest.mark.parametrize("name", compiled_updates.STEPS_OF_QUERYSET)
def test_patched_queryset_updates(monkeypatch, kept_updates, style, name):
    update(names="ab", pk=style.pk)
    kept, calls, step = kept_updates.count, [], getattr(QuerySet, name)

    def override(self, *args, **kwargs):
        calls.append(name)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(QuerySet, name, override)
    NonAtomicQuerySet(Style).update_or_create({"name": "c"}, pk=style.pk)
    assert kept_updates.count == kept
    assert calls or name == "using"  # The manager has the earlier one.


def test_base_manager_of_the_project_updates(monkeypatch, kept_updates, style):
    class Narrow(models.Manager):
        def get_queryset(self):
            return super().get_queryset().exclude(name="b")

    update(names="ab", pk=style.pk)
    narrow = Narrow()
    narrow.model = Style
    monkeypatch.setattr(Style._meta, "base_manager", narrow)
    with pytest.raises(DatabaseError, match="did not affect"), transaction.atomic():
        NonAtomicQuerySet(Style).update_or_create({"name": "c"}, pk=style.pk)
    assert kept_updates.count == 1


def test_renamed_table_is_updated_by_django(monkeypatch, kept_updates, style):
    update(names="ab", pk=style.pk)
    plan = plan_of(Style)
    [(key, kept)] = plan.updates.items()
    monkeypatch.setattr(kept, "table", "another_name")
    update(names="cde", pk=style.pk)
    assert kept_updates.count == 2
    assert plan.updates[key].table == Style._meta.db_table


def test_expression_is_updated_by_django(kept_updates):
    row = Ordinary._base_manager.create(char="a", integer=1)
    for value in (2, models.F("integer") + 1):
        for _ in range(2):
            obj, _ = NonAtomicQuerySet(Ordinary).update_or_create(
                {"integer": value}, pk=row.pk
            )
            obj.refresh_from_db()
    assert obj.integer == 4
    assert kept_updates.count == 1


def test_auto_now_of_an_update_is_stored(kept_updates):
    row = NonAtomicEntry._base_manager.create(name="a")
    for size in range(3):
        obj, _ = NonAtomicQuerySet(NonAtomicEntry).update_or_create(
            {"size": lambda size=size: size}, {"size": 50}, name="a"
        )
        changed, row.changed = row.changed, obj.changed
        assert obj.changed > changed
        found = NonAtomicEntry._base_manager.get(pk=row.pk)
        assert (found.size, found.changed) == (size, obj.changed)
    assert kept_updates.count == 2


def test_deferred_fields_stay_deferred(kept_updates, style):
    plain, _ = QuerySet(Style).only("pk").update_or_create({"name": "a"}, pk=style.pk)
    for name in "ba":
        ours, _ = (
            NonAtomicQuerySet(Style)
            .only("pk")
            .update_or_create({"name": name}, pk=style.pk)
        )
    assert vars(plain).keys() == vars(ours).keys()
    assert kept_updates.count == 1


def test_proxy_is_updated(kept_updates):
    row = NonAtomicEntry._base_manager.create(name="a")
    for number in range(3):
        NonAtomicQuerySet(NonAtomicProxyEntry).update_or_create(
            {"size": number}, pk=row.pk
        )
        row.refresh_from_db()
        assert row.size == number
    assert kept_updates.count == 2


@pytest.mark.parametrize("model", [NonAtomicStep, PlainPaper])
def test_plan_of_updates_refuses_what_overrides_save(model):
    assert (plan_of(model) is None) is (model.save is not models.Model.save)


def test_setting_and_attribute_turn_updates_off(kept_updates, style):
    class Without(NonAtomicQuerySet):
        compiled_selects = False

    update(names="a", pk=style.pk)
    update(Style, Without, names="b", pk=style.pk)
    with override_settings(GETORCREATEPLUS_COMPILED_SELECTS=False):
        update(names="c", pk=style.pk)
    assert not kept_updates.count


def test_properties_in_defaults_save_all_fields(kept_updates):
    """save() without update_fields inserts a row that is gone: Django's."""
    NonAtomicEntry._base_manager.create(name="a")
    for _ in range(2):
        obj, _ = NonAtomicQuerySet(NonAtomicEntry).update_or_create(
            {"title": "T"}, name="a"
        )
    assert NonAtomicEntry._base_manager.get(pk=obj.pk).slug == "t"
    assert not kept_updates.count


@pytest.mark.parametrize("number", [10**30, -(10**30)])
def test_key_out_of_range_is_djangos(kept_updates, style, number):
    update(names="ab", pk=style.pk)

    def move(instance, **kwargs):
        instance.pk = number

    with (
        connected(post_init, move),
        pytest.raises(DatabaseError, match="did not affect"),
        transaction.atomic(),
    ):
        NonAtomicQuerySet(Style).update_or_create({"name": "c"}, name="b")
    assert kept_updates.count == 1


@pytest.mark.django_db(databases=["default", "other"])
def test_update_goes_where_the_router_says(monkeypatch, kept_updates):
    class Router:
        def db_for_write(self, model, **hints):
            return "other"

    monkeypatch.setattr(router, "routers", [Router()])
    row = Style.plain.create(name="a")
    assert row._state.db == "other"
    obj = None
    for name in "bcd":
        obj, _ = NonAtomicQuerySet(Style).update_or_create({"name": name}, pk=row.pk)
    assert Style.plain.using("other").get(pk=obj.pk).name == "d"
    assert not Style.plain.using("default").exists()
    assert kept_updates.count >= 2
