"""
get() of related managers beside Django's, and the state of an instance besides
its columns.
"""

import pytest
from asgiref.sync import async_to_sync
from django.db import models, transaction
from django.db.models.signals import post_init
from django.test import override_settings

from getorcreateplus import (
    AlwaysQuerySet,
    CachedQuerySet,
    NonAtomicQuerySet,
    PlusQuerySet,
)

from ..models import Composer, Opera, Operetta, Stripped, Style
from .outcomes import check, outcome

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


@pytest.fixture
def composer():
    composer = Composer.plain.create(name="Verdi")
    for title in ("Aida", "Otello"):
        opera = composer.operas(manager="plain").create(title=title)
        opera.styles(manager="plain").create(name=f"style of {title}")
        opera.critiques(manager="plain").create(text="dull")
    first, second = composer.operas(manager="plain").order_by("pk")
    first.sequels.add(second)
    return composer


def check_manager(managers, **kwargs):
    """
    Check three times that get() of the second manager, which is ours, does the
    same as that of Django's.
    """
    plain, ours = managers
    expected = outcome(lambda: plain.get(**kwargs))
    for _ in range(3):
        assert outcome(lambda: ours.get(**kwargs)) == expected


def managers_of(manager):
    return manager(manager="plain"), manager(manager="objects")


RELATED = {
    "foreign key": (lambda o, c: c.operas, {"title": "Aida"}, {"title": "x"}),
    "many-to-many": (lambda o, c: o.styles, {"name": "style of Aida"}, {"name": "x"}),
    "the other way": (
        lambda o, c: o.styles(manager="plain").get().operas,
        {"title": "Aida"},
        {"title": "x"},
    ),
    "to itself": (lambda o, c: o.sequels, {"title": "Otello"}, {"title": "x"}),
    "back to itself": (lambda o, c: o.prequels, {"title": "Aida"}, {"title": "x"}),
    "generic": (lambda o, c: o.critiques, {"text": "dull"}, {"text": "x"}),
}


@pytest.mark.parametrize("relation", RELATED)
def test_related_manager(composer, compiled, relation):
    manager_of, found, missed = RELATED[relation]
    opera = Opera.plain.get(title="Aida")
    check_manager(managers_of(manager_of(opera, composer)), **found)
    if relation != "back to itself":
        assert compiled.count >= 2
    count = compiled.count
    check_manager(managers_of(manager_of(opera, composer)), **missed)
    assert relation == "back to itself" or compiled.count == count + 3


def test_related_object_is_the_instance(composer):
    for _ in range(3):
        opera = composer.operas.get(title="Aida")
        assert opera.composer is composer


@pytest.mark.parametrize("relation", ["foreign key", "many-to-many", "generic"])
def test_get_or_create_of_a_related_manager(composer, compiled, relation):
    manager_of, found, missed = RELATED[relation]
    opera = Opera.plain.get(title="Aida")
    manager = manager_of(opera, composer)(manager="objects")
    for _ in range(3):
        obj, created = manager.get_or_create(**found)
        assert (obj, created) == (manager.get(**found), False)
    assert compiled.count
    obj, created = manager.get_or_create(**missed)
    assert created
    assert manager.get_or_create(**missed) == (obj, False)


def test_each_parent_gets_its_own_rows(composer):
    """Two parents have one shape."""
    other = Composer.plain.create(name="Bizet")
    other.operas(manager="plain").create(title="Aida", pages=5)
    for _ in range(3):
        assert composer.operas.get(title="Aida").pages == 0
        assert other.operas.get(title="Aida").pages == 5


# Conditions that look like equality come after it, when its SQL is kept.
PENDING = [
    lambda q, c: q.filter(composer=c),
    lambda q, c: q.filter(composer_id=c.pk, pages=0),
    lambda q, c: q.filter(composer_id=c.pk, pages=1),
    lambda q, c: q.filter(pages="0", poet=None),
    lambda q, c: q.filter(pages=0),
    lambda q, c: q.exclude(pages=0),
    lambda q, c: q.filter(pages__gt=0),
    lambda q, c: q.filter(title="Aida"),
    lambda q, c: q.filter(models.Q(pages=1), title="Aida"),
    lambda q, c: q.filter(models.Q(pages=1)),
    lambda q, c: q.filter(composer=Composer()),
    lambda q, c: q.filter(composer__name="Verdi"),
    lambda q, c: q.filter(styles__name="style of Aida"),
    lambda q, c: q.filter(),
]


@pytest.mark.parametrize("queryset_class", [NonAtomicQuerySet, PlusQuerySet])
def test_filter_that_is_not_applied_yet(composer, queryset_class):
    """Like the filter of a related manager, and others."""

    def found(queryset):
        # Without a composer, no row can be created.
        obj, created = queryset.get_or_create(title="Aida")
        return obj.pk, created

    for pending in PENDING:

        def prepare(queryset, pending=pending):
            queryset._defer_next_filter = True
            return pending(queryset, composer)

        check(Opera, {"title": "Aida"}, prepare=prepare)
        queryset = prepare(models.QuerySet(Opera))
        _, expected, _ = outcome(lambda q=queryset: found(q))
        for _ in range(3):
            queryset = prepare(queryset_class(Opera))
            _, result, _ = outcome(lambda q=queryset: found(q))
            # An error, whose text has the key of the row that was not
            # created, or the row.
            assert result[0] == expected[0]


def test_order_of_filters(composer):
    """Equal values do not show which parameter is which."""
    other = Composer.plain.create(name="Boito")
    composer.operas(manager="plain").update(poet=composer)
    composer.operas(manager="plain").create(title="Aida", poet=other, pages=5)
    other.operas(manager="plain").create(title="Aida", poet=composer, pages=6)
    for first, second in [(composer, composer)] * 2 + [
        (composer, other),
        (other, composer),
        (other, other),
    ]:

        def prepare(queryset, first=first, second=second):
            queryset = queryset.filter(poet=second)
            queryset._defer_next_filter = True
            return queryset.filter(composer=first)

        check(Opera, {"title": "Aida"}, prepare=prepare)
        check(
            Opera,
            {"title": "Aida", "composer": first},
            prepare=lambda q, s=second: q.filter(poet=s),
        )


def test_other_join_is_another_shape(composer):
    """The conditions are the same, and so are the names of the tables."""
    composer.operas(manager="plain").update(poet=Composer.plain.create(name="Boito"))
    for name, found in (("Verdi", "composer"), ("Boito", "poet")):
        for relation in ("composer", "poet"):
            sent, result, _ = check(
                Opera,
                {"title": "Aida"},
                prepare=lambda q, r=relation, n=name: q.filter(**{f"{r}__name": n}),
            )
            assert (result[0] is Opera) == (relation == found)
            assert len(sent) == 1


def test_rows_in_two_tables(composer, compiled):
    Operetta.plain.create(title="Carmen", composer=composer, dances="habanera")
    for kwargs in (
        {"title": "Carmen"},
        {"dances": "habanera"},
        {"title": "Carmen", "dances": "habanera", "composer": composer},
        {"opera_ptr": Opera.plain.get(title="Carmen")},
        {"pk": Opera.plain.get(title="Carmen").pk},
    ):
        check(Operetta, kwargs)
        check(Operetta, kwargs, prepare=lambda q: q.filter(composer=composer))
    assert compiled.count >= 10


# Several rows


@pytest.mark.parametrize("number", [2, 20, 21, 22])
def test_several_rows(composer, number):
    Style.plain.all().delete()
    Opera.plain.bulk_create(Opera(title="x", composer=composer) for _ in range(number))
    made = []

    def receive(instance, **kwargs):
        made.append(instance)

    post_init.connect(receive, sender=Opera)
    try:
        counts = []
        for queryset in [models.QuerySet(Opera), *[NonAtomicQuerySet(Opera)] * 3]:
            made.clear()
            with pytest.raises(Opera.MultipleObjectsReturned):
                queryset.get(title="x")
            counts.append(len(made))
    finally:
        post_init.disconnect(receive, sender=Opera)
    assert counts == [min(number, 21)] * 4
    check(Opera, {"title": "x"})


# Instances


def test_receivers_and_from_db_see_what_django_gives(monkeypatch, composer):
    seen = []
    original = Opera.from_db.__func__

    def from_db(cls, db, field_names, values, **kwargs):
        seen.append((db, type(field_names), field_names, tuple(values), kwargs))
        return original(cls, db, field_names, values, **kwargs)

    monkeypatch.setattr(Opera, "from_db", classmethod(from_db))
    models.QuerySet(Opera).get(title="Aida")
    for _ in range(3):
        NonAtomicQuerySet(Opera).get(title="Aida")
    assert seen == [seen[0]] * 4


def test_from_db_that_changes_its_values():
    Stripped._base_manager.create(name="abc")
    check(Stripped, {"name": "abc"})
    for _ in range(3):
        assert CachedQuerySet(Stripped).get(name="abc").name == "bc"


if hasattr(models, "FETCH_ONE"):  # Django 6.1

    @pytest.mark.parametrize("mode", ["FETCH_ONE", "FETCH_PEERS", "FETCH_RAISE"])
    def test_fetch_mode(composer, mode):
        mode = getattr(models, mode)
        check(Opera, {"title": "Aida"}, prepare=lambda q: q.fetch_mode(mode))


class Counting:
    """A router that counts its calls."""

    calls = []

    def db_for_read(self, model, **hints):
        self.calls.append(("read", model, *hints))

    def db_for_write(self, model, **hints):
        self.calls.append(("write", model, *hints))


def test_router_is_asked_for_the_database_to_read_from(composer):
    with override_settings(DATABASE_ROUTERS=[Counting()]):
        for queryset_class in [models.QuerySet, *[NonAtomicQuerySet] * 3]:
            Counting.calls.clear()
            queryset_class(Opera).get(title="Aida")
            assert Counting.calls == [("read", Opera)]
            Counting.calls.clear()
            queryset_class(Opera).get_or_create(title="Aida", composer=composer)
            assert Counting.calls[0] == ("write", Opera)


# Every manager, and every way to call it


@pytest.mark.parametrize(
    "queryset_class", [CachedQuerySet, NonAtomicQuerySet, AlwaysQuerySet, PlusQuerySet]
)
def test_each_class_has_compiled_selects(composer, compiled, queryset_class):
    for way in (
        lambda: queryset_class(Style).get(name="style of Aida"),
        lambda: queryset_class(Style).all().get(name="style of Aida"),
        lambda: async_to_sync(queryset_class(Style).aget)(name="style of Aida"),
        lambda: queryset_class(Style).update_or_create(name="style of Aida"),
        lambda: async_to_sync(queryset_class(Style).aget_or_create)(
            name="style of Aida"
        ),
        lambda: async_to_sync(queryset_class(Style).aupdate_or_create)(
            name="style of Aida"
        ),
    ):
        way()
        way()
        count = compiled.count
        way()
        assert compiled.count == count + 1


# Locks


LOCKS = [
    {},
    {"nowait": True},
    {"skip_locked": True},
    {"no_key": True},
    {"of": ("self",)},
]


@pytest.mark.parametrize("options", LOCKS, ids=str)
def test_lock(composer, options):
    check(Opera, {"title": "Aida"}, prepare=lambda q: q.select_for_update(**options))
    check(Opera, {"title": "x"}, prepare=lambda q: q.select_for_update(**options))


@pytest.mark.django_db(transaction=True)
def test_lock_outside_of_a_transaction(composer):
    def errors(queryset):
        try:
            return queryset.select_for_update().get(title="Aida")
        except transaction.TransactionManagementError as error:
            return str(error)

    with transaction.atomic():
        for _ in range(3):
            NonAtomicQuerySet(Opera).select_for_update().get(title="Aida")
    expected = errors(models.QuerySet(Opera))
    assert errors(NonAtomicQuerySet(Opera)) == expected


def test_broken_transaction(composer):
    for _ in range(3):
        NonAtomicQuerySet(Opera).get(title="Aida")
    with transaction.atomic():
        transaction.set_rollback(True)
        errors = []
        for queryset in (models.QuerySet(Opera), NonAtomicQuerySet(Opera)):
            with pytest.raises(transaction.TransactionManagementError) as caught:
                queryset.get(title="Aida")
            errors.append(str(caught.value))
        transaction.set_rollback(False)
    assert errors[0] == errors[1]
