"""Only writes of create() that precede the INSERT need a savepoint."""

from contextlib import nullcontext

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.signals import post_save

from ..models import Audit, NonAtomicEntry
from ..support.rivals import connected, rival, statements
from .entries import (
    ENTRIES,
    HELD,
    LOST,
    is_postgresql,
    outcome,
    shaped,
    write_before,
    write_entry,
)

pytestmark = pytest.mark.django_db

autocommit = pytest.mark.django_db(transaction=True)


# Writes that precede the INSERT.


def write_before_in_atomic(create, kwargs):
    with transaction.atomic():
        Audit.objects.create(text="before")
    return create(**kwargs)


def write_in_same_atomic(create, kwargs):
    with transaction.atomic():
        Audit.objects.create(text="before")
        return create(**kwargs)


def write_in_atomic_without_savepoint(create, kwargs):
    with transaction.atomic(savepoint=False):
        Audit.objects.create(text="before")
        return create(**kwargs)


def create_in_atomic(create, kwargs):
    with transaction.atomic():
        return create(**kwargs)


def write_after(create, kwargs):
    obj = create(**kwargs)
    Audit.objects.create(text="after")
    return obj


def write_many(create, kwargs):
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO tests_audit (text) VALUES (%s)", [("before",), ("too",)]
        )
    return create(**kwargs)


def register_on_commit(create, kwargs):
    transaction.on_commit(lambda: None)
    return create(**kwargs)


def write_and_register_on_commit(create, kwargs):
    transaction.on_commit(lambda: None)
    return write_before(create, kwargs)


def retry(create, kwargs):
    try:
        with transaction.atomic():
            return create(**kwargs)
    except IntegrityError:
        return create(**kwargs | {"name": "retried"})


def retry_in_vain(create, kwargs):
    try:
        with transaction.atomic():
            return create(**kwargs)
    except IntegrityError:
        return create(**kwargs)


def other_error(create, kwargs):
    try:
        return create(**kwargs)
    except IntegrityError as exc:
        raise ValueError from exc


def other_integrity_error(create, kwargs):
    try:
        return create(**kwargs)
    except IntegrityError as exc:
        raise IntegrityError from exc


def swallow_error(create, kwargs):
    try:
        return create(**kwargs)
    except IntegrityError:
        return NonAtomicEntry(name="swallowed")


def swallow_error_after_writing(create, kwargs):
    Audit.objects.create(text="before")
    return swallow_error(create, kwargs)


def query_after_error(create, kwargs):
    try:
        return create(**kwargs)
    except IntegrityError:
        return Audit.objects.get()


SHAPES = [
    *[write_before, write_before_in_atomic, write_in_same_atomic],
    *[write_in_atomic_without_savepoint, create_in_atomic, write_after, write_many],
    *[register_on_commit, write_and_register_on_commit, retry, retry_in_vain],
    *[other_error, other_integrity_error, swallow_error],
    *[swallow_error_after_writing, query_after_error],
]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_create(shape, lost, django_capture_on_commit_callbacks):
    """The same rows, callbacks and errors with savepoints and without."""
    outcomes = []
    for model in ENTRIES:

        def write(model=model):
            model.objects.bulk_create([model(name="a", size=5)])

        with (
            django_capture_on_commit_callbacks() as callbacks,
            rival(write) if lost else nullcontext(),
        ):
            result, log, usable = outcome(
                lambda model=model: shaped(model, shape).get_or_create(name="a")
            )
        rows = list(model.objects.order_by("name").values("name", "size"))
        audits = list(Audit.objects.order_by("text").values_list("text", flat=True))
        Audit.objects.all().delete()
        outcomes.append((result, log, usable, len(callbacks), rows, audits))
    plain, plus = outcomes
    assert plain == plus
    assert plus[2] is True


@pytest.mark.parametrize(
    ("shape", "created", "lost"),
    [
        (
            write_before,
            [*HELD, "RELEASE"],
            [*HELD, "ROLLBACK", "RELEASE", "SELECT"],
        ),
        (
            write_in_atomic_without_savepoint,
            [*HELD, "RELEASE"],
            [*HELD, "ROLLBACK", "RELEASE", "SELECT"],
        ),
        (
            write_in_same_atomic,
            ["SELECT", "SAVEPOINT", "SAVEPOINT", "INSERT", "INSERT"] + ["RELEASE"] * 2,
            ["SELECT", "SAVEPOINT", "SAVEPOINT", "INSERT", "INSERT"]
            + ["ROLLBACK", "RELEASE"] * 2
            + ["SELECT"],
        ),
        (write_after, ["SELECT", "INSERT", "INSERT"], LOST),
        (register_on_commit, ["SELECT", "INSERT"], LOST),
        (other_integrity_error, ["SELECT", "INSERT"], LOST),
    ],
)
def test_savepoint_only_when_something_precedes_the_insert(shape, created, lost):
    entries = shaped(NonAtomicEntry, shape)
    with statements() as sent:
        entries.get_or_create(name="b")
    assert sent == created
    Audit.objects.all().delete()
    with statements() as sent, rival(write_entry):
        assert entries.get_or_create(name="a")[1] is False
    assert sent == lost


@autocommit
@pytest.mark.parametrize(
    ("shape", "created", "lost"),
    [
        (
            write_before,
            ["SELECT", "BEGIN", "INSERT", "INSERT", "COMMIT"],
            ["SELECT", "BEGIN", "INSERT", "INSERT", "ROLLBACK", "SELECT"],
        ),
        (
            create_in_atomic,
            ["SELECT", "BEGIN", "SAVEPOINT", "INSERT", "RELEASE", "COMMIT"],
            [
                *["SELECT", "BEGIN", "SAVEPOINT", "INSERT"],
                *["ROLLBACK", "RELEASE", "ROLLBACK", "SELECT"],
            ],
        ),
        (
            write_in_same_atomic,
            ["SELECT", "BEGIN", "SAVEPOINT", "INSERT", "INSERT", "RELEASE", "COMMIT"],
            [
                *["SELECT", "BEGIN", "SAVEPOINT", "INSERT", "INSERT"],
                *["ROLLBACK", "RELEASE", "ROLLBACK", "SELECT"],
            ],
        ),
        (write_after, ["SELECT", "INSERT", "INSERT"], LOST),
    ],
)
def test_transaction_only_when_something_precedes_the_insert(shape, created, lost):
    entries = shaped(NonAtomicEntry, shape)
    with statements() as sent:
        entries.get_or_create(name="b")
    assert sent == created
    Audit.objects.all().delete()
    with statements() as sent, rival(write_entry):
        assert entries.get_or_create(name="a")[1] is False
    assert sent == lost
    assert not Audit.objects.exists()


def test_error_after_savepoint_is_undone_by_it():
    """With a savepoint, errors are as harmless as in Django."""
    with connected(post_save, lambda sender, **kwargs: sender is Audit or 1 / 0):
        with pytest.raises(ZeroDivisionError):
            shaped(NonAtomicEntry, write_before).get_or_create(name="a")
    assert not connection.get_rollback()
    assert not NonAtomicEntry.objects.exists()
    assert not Audit.objects.exists()


@autocommit
def test_savepoint_that_is_gone():
    """As after InnoDB's deadlock: the server has ended the transaction."""

    def end_transaction(create, kwargs):
        Audit.objects.create(text="before")
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
        raise IntegrityError

    with transaction.atomic():
        with pytest.raises(IntegrityError):
            shaped(NonAtomicEntry, end_transaction).get_or_create(name="a")
        assert connection.get_rollback()


@pytest.mark.database("postgresql")
def test_composed_statement_counts_as_a_write():
    from psycopg import sql

    def write_composed(create, kwargs):
        with connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("INSERT INTO {} (text) VALUES ('x')").format(
                    sql.Identifier("tests_audit")
                )
            )
        return create(**kwargs)

    with statements() as sent, rival(write_entry):
        entry, created = shaped(NonAtomicEntry, write_composed).get_or_create(name="a")
    assert (entry.size, created) == (5, False)
    held = ["SELECT", "SAVEPOINT", "COMPOSED", "INSERT"]
    assert sent == [*held, "ROLLBACK", "RELEASE", "SELECT"]
    assert not Audit.objects.exists()


def bulk_create_one(create, kwargs):
    return NonAtomicEntry.objects.bulk_create([NonAtomicEntry(**kwargs)])[0]


def bulk_create_two(create, kwargs):
    entries = [NonAtomicEntry(**kwargs), NonAtomicEntry(name="second")]
    return NonAtomicEntry.objects.bulk_create(entries)[0]


def test_bulk_create_of_one_in_create():
    entries = shaped(NonAtomicEntry, bulk_create_one)
    with statements() as sent, rival(write_entry):
        assert entries.get_or_create(name="a")[1] is False
    assert sent == LOST
    assert entries.get_or_create(name="b")[1] is True
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            entries.get_or_create(name="c", defaults={"size": 100})
        assert connection.get_rollback() is is_postgresql()


def test_bulk_create_of_two_in_create():
    """There is a savepoint, because any of the rows may conflict."""
    entries = shaped(NonAtomicEntry, bulk_create_two)
    with statements() as sent, rival(write_entry):
        assert entries.get_or_create(name="a")[1] is False
    assert sent == [*HELD[:3], "ROLLBACK", "RELEASE", "SELECT"]
    assert not NonAtomicEntry.objects.filter(name="second").exists()
    assert entries.get_or_create(name="b")[1] is True
    assert NonAtomicEntry.objects.filter(name="second").exists()
