"""Calls inside calls, related managers, and rows in several tables."""

from contextlib import nullcontext

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError, connection, transaction
from django.db.models.signals import post_save

from ..models import (
    NonAtomicChild,
    NonAtomicDeferrable,
    NonAtomicEntry,
    NonAtomicNote,
    NonAtomicParent,
    NonAtomicPassport,
    NonAtomicSpecialEntry,
    PlainDeferrable,
    PlainParent,
    PlainPassport,
    PlainSpecialEntry,
)
from ..support.rivals import connected, rival, statements
from .entries import HELD, LOST, shaped, write_entry

pytestmark = pytest.mark.django_db

autocommit = pytest.mark.django_db(transaction=True)


# get_or_create() inside of get_or_create().


@pytest.mark.parametrize("model", [PlainParent, NonAtomicParent])
def test_children_of_created_parent(model):
    parent, created = model.objects.get_or_create(
        foo="Foo", defaults={"children": [{"bar": "Bar"}, {"bar": "Baz"}]}
    )
    assert created is True
    children = parent.children.order_by("bar")
    assert list(children.values_list("bar", flat=True)) == ["Bar", "Baz"]


def test_children_of_created_parent_need_no_savepoint():
    with statements() as sent:
        NonAtomicParent.objects.get_or_create(
            foo="Foo", defaults={"children": [{"bar": "Bar"}, {"bar": "Baz"}]}
        )
    assert sent == ["SELECT", "INSERT"] * 3


def test_child_that_loses_does_not_make_the_parent_lose():
    def write():
        parent = NonAtomicParent.objects.get()
        NonAtomicChild.objects.create(parent=parent, bar="Bar")

    with statements() as sent, rival(write, after=2):
        parent, created = NonAtomicParent.objects.get_or_create(
            foo="Foo", defaults={"children": [{"bar": "Bar"}, {"bar": "Baz"}]}
        )
    assert created is True
    assert parent.children.count() == 2
    assert sent == ["SELECT", "INSERT", *LOST, "SELECT", "INSERT"]


def test_parent_that_loses_has_no_children_of_its_own():
    with rival(lambda: NonAtomicParent.objects.create(foo="Foo")):
        parent, created = NonAtomicParent.objects.get_or_create(
            foo="Foo", defaults={"children": [{"bar": "Bar"}]}
        )
    assert created is False
    assert not parent.children.exists()


@pytest.mark.parametrize("outer_loses", [False, True])
@pytest.mark.parametrize("inner_loses", [False, True])
def test_entry_before_its_entry(inner_loses, outer_loses):
    """
    The INSERT of the inner get_or_create() does not count as the outer's.
    """

    def entry_before(create, kwargs):
        with rival(write_inner) if inner_loses else nullcontext():
            inner, created = NonAtomicEntry.objects.get_or_create(name="inner")
        assert created is not inner_loses
        return create(**kwargs, slug=inner.name)

    def write_inner():
        NonAtomicEntry.objects.bulk_create([NonAtomicEntry(name="inner")])

    with rival(write_entry) if outer_loses else nullcontext():
        entry, created = shaped(NonAtomicEntry, entry_before).get_or_create(name="a")
    assert created is not outer_loses
    assert entry.slug == (None if outer_loses else "inner")
    # The rows of the outer create() are undone, those of the rival are not.
    exists = NonAtomicEntry.objects.filter(name="inner").exists()
    assert exists is (inner_loses or not outer_loses)


def test_callable_that_creates_another_row_of_the_table():
    def slug():
        return NonAtomicEntry.objects.create(name="b").name

    with statements() as sent:
        entry, created = NonAtomicEntry.objects.get_or_create(
            name="a", defaults={"slug": slug}
        )
    assert (entry.slug, created) == ("b", True)
    assert sent == [*HELD, "RELEASE"]
    with rival(write_entry_c):
        entry, created = NonAtomicEntry.objects.get_or_create(
            name="c", defaults={"slug": new_name}
        )
    assert (entry.name, created) == ("c", False)
    assert not NonAtomicEntry.objects.filter(name="d").exists()


def new_name():
    return NonAtomicEntry.objects.create(name="d").name


def write_entry_c():
    NonAtomicEntry.objects.create(name="c")


def test_post_save_inserts_into_the_same_table():
    def create_copy(sender, instance, **kwargs):
        NonAtomicEntry.objects.create(name=f"{instance.name}!")

    NonAtomicEntry.objects.create(name="a!")
    with transaction.atomic():
        with connected(post_save, create_copy), pytest.raises(IntegrityError):
            NonAtomicEntry.objects.get_or_create(name="a")
        assert connection.get_rollback()
    assert not NonAtomicEntry.objects.filter(name="a").exists()


# Relations.


def test_related_managers():
    parent = NonAtomicParent.objects.create(foo="Foo")
    ContentType.objects.get_for_model(NonAtomicParent)
    with statements() as sent:
        child, created = parent.children.get_or_create(bar="Bar")
    assert (created, child.parent) == (True, parent)
    assert sent == ["SELECT", "INSERT"]
    with statements() as sent:
        note, created = parent.notes.get_or_create(text="a")
    assert (created, note.of) == (True, parent)
    assert sent == ["SELECT", "INSERT"]
    with statements() as sent:
        tag, created = parent.tags.get_or_create(name="a")
    assert created is True
    assert "SAVEPOINT" not in sent
    assert list(parent.tags.all()) == [tag]


def test_related_managers_lose():
    parent = NonAtomicParent.objects.create(foo="Foo")
    ContentType.objects.get_for_model(NonAtomicParent)
    with statements() as sent:
        with rival(lambda: NonAtomicChild.objects.create(parent=parent, bar="Bar")):
            child, child_created = parent.children.get_or_create(bar="Bar")
        with rival(lambda: NonAtomicNote.objects.create(of=parent, text="a")):
            note, note_created = parent.notes.get_or_create(text="a")
    assert sent == LOST * 2
    assert (child_created, child.parent) == (False, parent)
    assert (note_created, note.of) == (False, parent)


def test_child_of_another_parent_is_a_conflict():
    """As with Django (#18896): the lookup includes the parent."""
    other = NonAtomicParent.objects.create(foo="Other")
    other.children.create(bar="Bar")
    parent = NonAtomicParent.objects.create(foo="Foo")
    with pytest.raises(IntegrityError, match="bar"):
        parent.children.get_or_create(bar="Bar")
    assert not connection.get_rollback()


def test_lost_one_to_one_is_not_cached():
    """Django's method keeps the unsaved loser as the other side (#36489)."""
    parent = PlainParent.objects.create(foo="Foo")
    with rival(lambda: PlainPassport.objects.create(parent_id=parent.pk)):
        PlainPassport.objects.get_or_create(parent=parent)
    assert parent.passport.pk is None

    parent = NonAtomicParent.objects.create(foo="Foo")
    with rival(lambda: NonAtomicPassport.objects.create(parent_id=parent.pk)):
        passport, created = NonAtomicPassport.objects.get_or_create(parent=parent)
    assert created is False
    with statements() as sent:
        assert parent.passport is passport
    assert sent == []


def test_lost_one_to_one_of_another_parent_is_not_cached():
    parent = NonAtomicParent.objects.create(foo="Foo")
    other = NonAtomicParent.objects.create(foo="Bar")
    with rival(lambda: NonAtomicPassport.objects.create(parent=other, number="1")):
        passport, created = NonAtomicPassport.objects.get_or_create(
            number="1", defaults={"parent": parent}
        )
    assert (passport.parent, created) == (other, False)
    with pytest.raises(NonAtomicParent.passport.RelatedObjectDoesNotExist):
        _ = parent.passport


def test_lost_one_to_one_by_its_values():
    parent = NonAtomicParent.objects.create(foo="Foo")
    with rival(lambda: NonAtomicPassport.objects.create(parent_id=parent.pk)):
        row, created = NonAtomicPassport.objects.values("number").get_or_create(
            parent=parent
        )
    assert (row, created) == ({"number": None}, False)
    assert parent.passport.pk is not None


def test_lost_one_to_one_by_its_key():
    parent = NonAtomicParent.objects.create(foo="Foo")
    with rival(lambda: NonAtomicPassport.objects.create(parent_id=parent.pk)):
        passport, _ = NonAtomicPassport.objects.get_or_create(parent_id=parent.pk)
    assert parent.passport == passport


# Cases with a savepoint, or with Django's own method.


@pytest.mark.parametrize("model", [PlainSpecialEntry, NonAtomicSpecialEntry])
def test_multi_table_inheritance(model):
    with statements() as sent:
        assert model.objects.get_or_create(name="a")[1] is True
    assert sent == ["SELECT", "SAVEPOINT", "INSERT", "INSERT", "RELEASE"]
    with pytest.raises(IntegrityError, match="rank"):
        model.objects.get_or_create(name="b")
    assert not connection.get_rollback()
    assert model.objects.count() == 1
    with rival(lambda: model.objects.create(name="c", rank=3)):
        entry, created = model.objects.get_or_create(name="c", defaults={"rank": 2})
    assert (entry.rank, created) == (3, False)


def test_multi_table_inheritance_updates_without_a_savepoint():
    NonAtomicSpecialEntry.objects.create(name="a")
    with statements() as sent:
        NonAtomicSpecialEntry.objects.update_or_create(
            name="a", defaults={"size": 3, "rank": 3}
        )
    assert sent == ["SELECT", "UPDATE", "UPDATE"]
    assert NonAtomicSpecialEntry.objects.get(size=3).rank == 3


@pytest.mark.database("postgresql")
@pytest.mark.parametrize("model", [PlainDeferrable, NonAtomicDeferrable])
def test_deferrable_constraint(model):
    with statements() as sent:
        assert model.objects.get_or_create(name="b")[1] is True
    assert sent == ["SELECT", "SAVEPOINT", "INSERT", "RELEASE"]
    with statements() as sent, rival(lambda: model.objects.create(name="a")):
        assert model.objects.get_or_create(name="a")[1] is False
    assert sent == ["SELECT", "SAVEPOINT", "INSERT", "ROLLBACK", "RELEASE", "SELECT"]
    with pytest.raises(IntegrityError, match="_name"):
        model.objects.get_or_create(name="a", id__lt=0)
    assert not connection.get_rollback()


@pytest.mark.database("postgresql")
@autocommit
def test_deferrable_constraint_in_autocommit():
    with statements() as sent:
        with rival(lambda: NonAtomicDeferrable.objects.create(name="a")):
            assert NonAtomicDeferrable.objects.get_or_create(name="a")[1] is False
    assert sent == LOST


def test_unknown_database_gets_django(monkeypatch):
    monkeypatch.setattr(connection, "vendor", "unknown")
    with statements() as sent:
        assert NonAtomicEntry.objects.get_or_create(name="a")[1] is True
    assert sent == ["SELECT", "SAVEPOINT", "INSERT", "RELEASE"]
    with statements() as sent:
        NonAtomicEntry.objects.update_or_create(name="a", defaults={"size": 3})
    assert sent == ["SAVEPOINT", "SELECT", "UPDATE", "RELEASE"]
