"""
One connection: the rival's row arrives between SELECT and INSERT by itself.

What two connections do to each other is in test_races.py.
"""

import uuid
from contextlib import contextmanager, nullcontext

import pytest
from asgiref.sync import async_to_sync
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import FieldError
from django.db import (
    DataError,
    IntegrityError,
    connection,
    transaction,
)
from django.db.models.signals import post_save, pre_save
from django.test.utils import CaptureQueriesContext

from getorcreateplus import NonAtomicQuerySet
from getorcreateplus.writes.guards import ignore_conflict

from ..models import (
    Audit,
    NonAtomicAtomicEntry,
    NonAtomicChild,
    NonAtomicCompositeKey,
    NonAtomicDatabaseValue,
    NonAtomicDeferrable,
    NonAtomicEntry,
    NonAtomicNaturalKey,
    NonAtomicNote,
    NonAtomicParent,
    NonAtomicPassport,
    NonAtomicProxyEntry,
    NonAtomicQueryingEntry,
    NonAtomicSpecialEntry,
    NonAtomicUUIDKey,
    PlainCompositeKey,
    PlainDatabaseValue,
    PlainDeferrable,
    PlainEntry,
    PlainNaturalKey,
    PlainParent,
    PlainPassport,
    PlainProxyEntry,
    PlainSpecialEntry,
    PlainUUIDKey,
    Word,
)
from ..support.rivals import connected, rival, statements

pytestmark = pytest.mark.django_db

ENTRIES = [PlainEntry, NonAtomicEntry]

autocommit = pytest.mark.django_db(transaction=True)


@contextmanager
def signals(log):
    """Append the names of the signals that are sent for entries."""

    def before(sender, instance, **kwargs):
        if sender is not Audit:
            log.append("pre_save")

    def after(sender, instance, created, **kwargs):
        if sender is not Audit:
            log.append(f"post_save({created=})")

    with connected(pre_save, before), connected(post_save, after):
        yield


def outcome(call):
    """Return what the caller of get_or_create() can tell afterwards."""
    log = []
    with signals(log):
        try:
            obj, created = call()
            result = obj.name, created
        except Exception as exc:
            result = type(exc)
    assert Audit.objects.count() >= 0  # The server agrees.
    return result, log, not connection.get_rollback()


# Statements, and the same results as Django's.


def test_hit_is_one_select():
    NonAtomicEntry.objects.create(name="a")
    with statements() as sent:
        entry, created = NonAtomicEntry.objects.get_or_create(name="a")
    assert (entry.name, created) == ("a", False)
    assert sent == ["SELECT"]


def test_create_in_transaction_is_select_and_insert():
    with statements() as sent:
        entry, created = NonAtomicEntry.objects.get_or_create(
            name="a", defaults={"size": lambda: 3}
        )
    assert (created, entry.size) == (True, 3)
    assert NonAtomicEntry.objects.get() == entry
    assert sent == ["SELECT", "INSERT"]


def test_update_or_create_in_transaction_has_no_savepoint():
    with statements() as sent:
        entry, created = NonAtomicEntry.objects.update_or_create(
            name="a", defaults={"size": 1}, create_defaults={"size": 2}
        )
    assert (created, entry.size) == (True, 2)
    assert sent == ["SELECT", "INSERT"]
    with statements() as sent, CaptureQueriesContext(connection) as queries:
        entry, created = NonAtomicEntry.objects.update_or_create(
            name="a", defaults={"size": lambda: 1}
        )
    assert (created, entry.size) == (False, 1)
    assert sent == ["SELECT", "UPDATE"]
    locked = " FOR UPDATE" in queries[0]["sql"]
    assert locked is connection.features.has_select_for_update
    assert NonAtomicEntry.objects.get().size == 1


@autocommit
def test_create_in_autocommit_has_no_transaction():
    with statements() as sent:
        assert NonAtomicEntry.objects.get_or_create(name="a")[1] is True
    assert sent == ["SELECT", "INSERT"]


@autocommit
def test_lost_race_in_autocommit():
    with (
        statements() as sent,
        rival(lambda: NonAtomicEntry.objects.create(name="a", size=5)),
    ):
        entry, created = NonAtomicEntry.objects.get_or_create(name="a")
    assert (entry.size, created) == (5, False)
    assert sent == ["SELECT", "INSERT", "SELECT"]


@autocommit
def test_update_or_create_in_autocommit_is_one_transaction():
    with statements() as sent:
        assert NonAtomicEntry.objects.update_or_create(name="a")[1] is True
    assert sent == ["BEGIN", "SELECT", "INSERT", "COMMIT"]
    with statements() as sent:
        NonAtomicEntry.objects.update_or_create(name="a", defaults={"size": 1})
    assert sent == ["BEGIN", "SELECT", "UPDATE", "COMMIT"]


@autocommit
def test_autocommit_switched_off():
    """What a project begins by hand gets Django's method."""
    transaction.set_autocommit(False)
    try:
        with connected(pre_save, write_audit), rival(write_entry), statements() as sent:
            entry, created = NonAtomicEntry.objects.get_or_create(name="a")
        assert (entry.size, created) == (5, False)
        assert sent == [
            *["SELECT", "SAVEPOINT", "INSERT", "INSERT"],
            *["ROLLBACK", "RELEASE", "SELECT"],
        ]
        assert not Audit.objects.exists()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def write_entry():
    # Without its signals: those are for the entry that is being created.
    NonAtomicEntry.objects.bulk_create([NonAtomicEntry(name="a", size=5)])


def write_audit(sender=None, **kwargs):
    if sender is not Audit:
        Audit.objects.create(text="before")


LOST = ["SELECT", "INSERT", "SELECT"]

KINDS = [
    (PlainEntry, NonAtomicEntry, {"name": "a"}, {"size": 3}),
    (PlainProxyEntry, NonAtomicProxyEntry, {"name": "a"}, {"size": 3}),
    (PlainUUIDKey, NonAtomicUUIDKey, {"name": "a"}, {}),
    (PlainUUIDKey, NonAtomicUUIDKey, {"pk": uuid.UUID(int=5)}, {"name": "a"}),
    (PlainNaturalKey, NonAtomicNaturalKey, {"name": "a"}, {}),
    (PlainNaturalKey, NonAtomicNaturalKey, {"pk": "a"}, {}),
    (PlainCompositeKey, NonAtomicCompositeKey, {"pk": ("a", 2)}, {}),
    (PlainCompositeKey, NonAtomicCompositeKey, {"name": "a", "part": 2}, {}),
    (PlainDatabaseValue, NonAtomicDatabaseValue, {"name": "a"}, {}),
    (PlainDatabaseValue, NonAtomicDatabaseValue, {"name": "a"}, {"id": "three"}),
]


def values(obj):
    """Return the values that the object was given, or the database gave it."""
    return {
        name: value
        for name, value in obj.__dict__.items()
        if name not in {"_state", "born", "changed"}
        and not (name == "id" and isinstance(value, uuid.UUID) and value.version)
        and not (name == "id" and isinstance(obj, (PlainEntry, NonAtomicEntry)))
    }


@pytest.mark.parametrize(("plain", "plus", "lookup", "defaults"), KINDS)
def test_every_kind_of_key_is_created_alike(plain, plus, lookup, defaults):
    obj1, created1 = plain.objects.get_or_create(defaults, **lookup)
    with statements() as sent:
        obj2, created2 = plus.objects.get_or_create(defaults, **lookup)
    assert sent == ["SELECT", "INSERT"]
    assert created1 is created2 is True
    assert values(obj1) == values(obj2)
    assert obj2.pk is not None
    assert plus.objects.get() == obj2
    assert not obj2._state.adding


@pytest.mark.parametrize(("plain", "plus", "lookup", "defaults"), KINDS)
def test_every_kind_of_key_loses_alike(plain, plus, lookup, defaults):
    log = []
    with rival(lambda: plain.objects.create(**lookup, **defaults)):
        obj1, created1 = plain.objects.get_or_create(defaults, **lookup)
    with rival(lambda: plus.objects.create(**lookup, **defaults)):
        with statements() as sent, signals(log):
            obj2, created2 = plus.objects.get_or_create(defaults, **lookup)
    assert sent == LOST
    assert created1 is created2 is False
    assert values(obj1) == values(obj2)
    assert plus.objects.get() == obj2
    # The first pair is the rival's.
    assert log == ["pre_save", "post_save(created=True)", "pre_save"]


def test_database_values_are_converted():
    obj, _ = NonAtomicDatabaseValue.objects.get_or_create(name="a")
    obj.refresh_from_db()
    assert (obj.pk, obj.kind, obj.upper) == ("seven", "noun", "A")
    assert type(obj.kind) is Word


# What fails, and what is left of the transaction.


def conflict_elsewhere(model):
    model.objects.create(name="b", slug="taken")
    return model.objects.get_or_create(name="a", defaults={"slug": "taken"})


def invalid_name(model):
    return model.objects.get_or_create(name="a", defaults={"colour": "red"})


def failing_default(model):
    return model.objects.get_or_create(name="a", defaults={"size": lambda: 1 / 0})


def failing_pre_save(model):
    with connected(pre_save, lambda sender, **kwargs: 1 / 0):
        return model.objects.get_or_create(name="a")


def writing_default(model):
    def size():
        Audit.objects.create(text="size")
        return 3

    return model.objects.get_or_create(name="a", defaults={"size": size})


def writing_default_loses(model):
    with rival(lambda: model.objects.create(name="a")):
        return writing_default(model)


def property_default(model):
    return model.objects.get_or_create(name="a", defaults={"title": "T"})


def lookup_without_row(model):
    """A lookup that creates a row which it doesn't find."""
    model.objects.create(name="a")
    return model.objects.get_or_create(name="a", size__gt=50)


def rival_leaves(model):
    """The winner's row is gone when the loser looks for it."""
    with rival(lambda: model.objects.create(name="a")):
        with rival(lambda: model.objects.all().delete(), before=2):
            return model.objects.get_or_create(name="a")


def update(model):
    model.objects.create(name="a")
    return model.objects.update_or_create(name="a", defaults={"size": 3})


def update_property(model):
    model.objects.create(name="a")
    return model.objects.update_or_create(name="a", defaults={"title": "T"})


def update_after_losing(model):
    with rival(lambda: model.objects.create(name="a")):
        return model.objects.update_or_create(name="a", defaults={"size": 3})


def update_nothing(model):
    model.objects.create(name="a")
    return model.objects.update_or_create(name="a")


def update_failing_default(model):
    model.objects.create(name="a")
    return model.objects.update_or_create(name="a", defaults={"size": lambda: 1 / 0})


def update_failing_pre_save(model):
    model.objects.create(name="a")
    with connected(pre_save, lambda sender, **kwargs: 1 / 0):
        return model.objects.update_or_create(name="a", defaults={"size": 3})


@pytest.mark.parametrize(
    "scenario",
    [
        *[conflict_elsewhere, invalid_name, failing_default, failing_pre_save],
        *[writing_default, writing_default_loses, property_default],
        *[lookup_without_row, update, update_property, update_after_losing],
        *[update_nothing, update_failing_default, update_failing_pre_save],
    ],
)
def test_outcome_is_djangos(scenario):
    outcomes = []
    for model in ENTRIES:
        result, log, usable = outcome(lambda model=model: scenario(model))
        rows = list(model.objects.order_by("name").values("name", "slug", "size"))
        audits = list(Audit.objects.values_list("text", flat=True))
        Audit.objects.all().delete()
        outcomes.append((result, log, usable, rows, audits))
    plain, plus = outcomes
    if scenario in (conflict_elsewhere, lookup_without_row) and is_postgresql():
        # The error is found out in a second attempt.
        assert plus[1].pop() == "pre_save"
    assert plain == plus
    assert plus[2] is True


def is_postgresql():
    return connection.vendor == "postgresql"


def test_winner_that_is_gone_is_created_again():
    """MySQL and SQLite name the conflict, so as with Django it is raised."""
    if is_postgresql():
        assert rival_leaves(NonAtomicEntry)[1] is True
        assert NonAtomicEntry.objects.count() == 1
    else:
        with pytest.raises(IntegrityError):
            rival_leaves(NonAtomicEntry)
        assert NonAtomicEntry.objects.count() == 0


def test_conflict_elsewhere_names_its_constraint():
    NonAtomicEntry.objects.create(name="b", slug="taken")
    with statements() as sent, pytest.raises(IntegrityError, match="slug"):
        NonAtomicEntry.objects.get_or_create(name="a", defaults={"slug": "taken"})
    assert (
        sent
        == {
            "postgresql": [
                *LOST,
                *["SELECT", "SAVEPOINT", "INSERT", "ROLLBACK", "RELEASE", "SELECT"],
            ],
            "mysql": [*LOST, "SELECT"],  # It may be hidden by REPEATABLE READ.
            "sqlite": LOST,
        }[connection.vendor]
    )
    assert not connection.get_rollback()
    assert NonAtomicEntry.objects.count() == 1


def test_error_after_insert_dooms_the_transaction():
    """Only a savepoint could take the row back."""
    with (
        transaction.atomic(),
        connected(post_save, lambda sender, **kwargs: 1 / 0),
        statements() as sent,
    ):
        with pytest.raises(ZeroDivisionError):
            NonAtomicEntry.objects.get_or_create(name="a")
        assert connection.get_rollback()
    assert sent == ["SELECT", "INSERT"]
    assert not NonAtomicEntry.objects.exists()


def test_integrity_error_after_insert_does_not_get_the_own_row():
    def conflict(sender, **kwargs):
        raise IntegrityError

    with transaction.atomic(), connected(post_save, conflict):
        with pytest.raises(IntegrityError):
            NonAtomicEntry.objects.get_or_create(name="a")
        assert connection.get_rollback()
    assert not NonAtomicEntry.objects.exists()


@autocommit
def test_error_after_insert_leaves_the_row_in_autocommit():
    def conflict(sender, **kwargs):
        raise IntegrityError

    with connected(post_save, conflict), pytest.raises(IntegrityError):
        NonAtomicEntry.objects.get_or_create(name="a")
    assert NonAtomicEntry.objects.count() == 1


@pytest.mark.parametrize(
    ("defaults", "error"),
    [({"size": None}, IntegrityError), ({"size": 100}, IntegrityError)],
)
@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
def test_invalid_row(method, defaults, error):
    """PostgreSQL aborts the transaction of any statement that fails."""
    with transaction.atomic():
        with pytest.raises(error), statements() as sent:
            getattr(NonAtomicEntry.objects, method)(defaults, name="a")
        assert connection.get_rollback() is is_postgresql()
    assert sent[:2] == ["SELECT", "INSERT"]
    assert set(sent[2:]) <= {"SELECT"}


@pytest.mark.database("postgresql", "mysql")  # SQLite has no limits.
def test_value_too_long():
    with transaction.atomic():
        with pytest.raises(DataError):
            NonAtomicEntry.objects.get_or_create(name="a" * 50)
        assert connection.get_rollback() is is_postgresql()


@autocommit
def test_invalid_row_in_autocommit():
    with statements() as sent, pytest.raises(IntegrityError):
        NonAtomicEntry.objects.get_or_create(name="a", defaults={"size": 100})
    assert sent == LOST


@pytest.mark.parametrize("defaults", [{"slug": "taken"}, {"size": 100}])
def test_invalid_update(defaults):
    NonAtomicEntry.objects.create(name="b", slug="taken")
    NonAtomicEntry.objects.create(name="a")
    with transaction.atomic():
        with statements() as sent, pytest.raises(IntegrityError):
            NonAtomicEntry.objects.update_or_create(defaults, name="a")
        assert connection.get_rollback() is is_postgresql()
    assert sent == ["SELECT", "UPDATE"]


def refuse():
    raise LookupError


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("method", ["get_or_create", "update_or_create"])
@pytest.mark.parametrize("name", ["new", "old"])
@pytest.mark.parametrize(
    ("defaults", "error"),
    [
        ({"size": "many"}, ValueError),  # Django's save() marks the transaction
        ({"size": refuse}, LookupError),
        ({"size": lambda: transaction.set_rollback(True) or refuse()}, LookupError),
        ({"colour": "red"}, FieldError),
    ],
)
def test_error_before_the_write_leaves_the_transaction(method, name, defaults, error):
    for model in (PlainEntry, NonAtomicEntry):
        model._base_manager.create(name="old", size=1)
        raised = nullcontext()
        # Django gives an instance any attribute.
        updates = method == "update_or_create" and "colour" not in defaults
        if updates or name == "new":
            raised = pytest.raises(error)
        with transaction.atomic():
            model._base_manager.create(name="outer", size=1)
            with raised:
                getattr(model.objects, method)(name=name, defaults=defaults)
            assert not connection.needs_rollback
            model._base_manager.filter(name="outer").update(size=2)
        assert sorted(model._base_manager.values_list("name", "size")) == [
            ("old", 1),
            ("outer", 2),
        ]


def test_query_after_invalid_update():
    """Django refuses the query: the UPDATE was still all that failed."""
    NonAtomicEntry.objects.create(name="a")
    with transaction.atomic():
        with pytest.raises(transaction.TransactionManagementError):
            NonAtomicQueryingEntry.objects.update_or_create(
                name="a", defaults={"size": 100}
            )
        assert connection.get_rollback() is is_postgresql()


def test_error_after_update_dooms_the_transaction():
    NonAtomicEntry.objects.create(name="a")
    with transaction.atomic():
        with connected(post_save, lambda sender, **kwargs: 1 / 0):
            with pytest.raises(ZeroDivisionError):
                NonAtomicEntry.objects.update_or_create(name="a", defaults={"size": 3})
        assert connection.get_rollback()
    assert NonAtomicEntry.objects.get().size == 0


def test_rejected_update_in_atomic_save_is_undone_by_it():
    """save() may bring its own savepoint: then its errors are harmless."""
    NonAtomicEntry.objects.create(name="b", slug="taken")
    NonAtomicEntry.objects.create(name="a")
    with pytest.raises(IntegrityError):
        NonAtomicAtomicEntry.objects.update_or_create(
            name="a", defaults={"slug": "taken"}
        )
    assert not connection.get_rollback()
    assert NonAtomicEntry.objects.get(name="a").slug is None


# Writes that precede the INSERT.


def write_before(create, kwargs):
    Audit.objects.create(text="before")
    return create(**kwargs)


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


def shaped(model, shape):
    """Return a queryset whose create() has the shape."""

    class ShapedQuerySet(model.objects.all().__class__):
        def create(self, **kwargs):
            return shape(super().create, kwargs)

    return ShapedQuerySet(model)


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


HELD = ["SELECT", "SAVEPOINT", "INSERT", "INSERT"]


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
    """Where there is a savepoint, errors are as harmless as Django's."""
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
    """A savepoint tells, because it is not known which row conflicts."""
    entries = shaped(NonAtomicEntry, bulk_create_two)
    with statements() as sent, rival(write_entry):
        assert entries.get_or_create(name="a")[1] is False
    assert sent == [*HELD[:3], "ROLLBACK", "RELEASE", "SELECT"]
    assert not NonAtomicEntry.objects.filter(name="second").exists()
    assert entries.get_or_create(name="b")[1] is True
    assert NonAtomicEntry.objects.filter(name="second").exists()


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
    """The INSERT of the inner get_or_create() is not taken for the outer's."""

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
    # What the outer's create() wrote is undone, what the rival wrote is not.
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
    """Django's keeps the unsaved loser for the other side (#36489)."""
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


# What gets a savepoint, or stock Django.


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


# Other wrappers of the statements.


@pytest.mark.parametrize(
    "comment",
    [
        "/* RETURNING */ {}",
        "/* a */\n/* b */ {}",
        "{} /* a */",
        "{}/* RETURNING \"a\" */ /*b='c'*/",
        "{} -- a",
    ],
)
def test_commented_statements(comment):
    def add_comment(execute, sql, params, many, context):
        return execute(comment.format(sql), params, many, context)

    with rival(write_entry), connection.execute_wrapper(add_comment):
        entry, created = NonAtomicEntry.objects.get_or_create(name="a")
    assert (entry.size, created) == (5, False)
    with connection.execute_wrapper(add_comment):
        assert NonAtomicEntry.objects.get_or_create(name="b")[1] is True
        assert NonAtomicNaturalKey.objects.get_or_create(name="b")[1] is True


def test_lost_race_of_commented_natural_key():
    def add_comment(execute, sql, params, many, context):
        return execute(f"{sql} -- comment", params, many, context)

    with rival(lambda: NonAtomicNaturalKey.objects.create(name="a")):
        with connection.execute_wrapper(add_comment):
            created = NonAtomicNaturalKey.objects.get_or_create(name="a")[1]
    assert created is False


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            'INSERT INTO "a" ("b") VALUES (%s)',
            'INSERT INTO "a" ("b") VALUES (%s) ON CONFLICT DO NOTHING',
        ),
        (
            'INSERT INTO "a" ("b") VALUES (%s) RETURNING "a"."id"',
            'INSERT INTO "a" ("b") VALUES (%s) ON CONFLICT DO NOTHING'
            ' RETURNING "a"."id"',
        ),
        (
            'INSERT INTO "s"."a" ("b") VALUES (%s) RETURNING "s"."a"."id", "c" /* */;',
            'INSERT INTO "s"."a" ("b") VALUES (%s) ON CONFLICT DO NOTHING'
            ' RETURNING "s"."a"."id", "c" /* */;',
        ),
        ('INSERT INTO "a" ("b") VALUES (%s) RETURNING upper("b")', None),
        ('INSERT INTO "a" ("b") VALUES (%s), (%s)', None),
        ('INSERT INTO "a" ("b") SELECT * FROM UNNEST((%s)::text[])', None),
        ('INSERT INTO "a" ("b") VALUES (%s) ON CONFLICT DO NOTHING', None),
        ('INSERT INTO "a" ("b") VALUES (%s) -- c', None),
    ],
)
def test_ignore_conflict(before, after):
    assert ignore_conflict(before) == after


def test_wrapper_around_the_call_sees_the_statements_that_fail():
    """Another wrapper may count on seeing what a call wrote, or didn't."""
    seen = []

    def watch(execute, sql, params, many, context):
        try:
            return execute(sql, params, many, context)
        except IntegrityError:
            seen.append(sql.split()[0])
            raise

    wrappers = connection.execute_wrappers[:]
    with rival(write_entry), connection.execute_wrapper(watch):
        assert NonAtomicEntry.objects.get_or_create(name="a")[1] is False
    assert seen == ["INSERT"]
    assert connection.execute_wrappers == wrappers


# The method itself.


def test_doomed_transaction_is_refused():
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(transaction.TransactionManagementError):
            NonAtomicEntry.objects.get_or_create(name="a")
        with pytest.raises(transaction.TransactionManagementError):
            # The lookup alone asks nothing of the database.
            NonAtomicEntry.objects.none().get_or_create(name="a")
        assert connection.get_rollback()


def test_invalid_field_name():
    with statements() as sent, pytest.raises(FieldError, match="colour"):
        NonAtomicEntry.objects.get_or_create(name="a", defaults={"colour": "red"})
    assert sent == ["SELECT"]


def test_locked_queryset():
    entries = NonAtomicEntry.objects.select_for_update()
    with statements() as sent:
        assert entries.get_or_create(name="a")[1] is True
    assert sent == ["SELECT", "INSERT"]
    with statements() as sent, rival(lambda: NonAtomicEntry.objects.create(name="b")):
        assert entries.get_or_create(name="b")[1] is False
    assert sent == LOST


def test_alters_data():
    for name in ("get_or_create", "update_or_create", "aget_or_create"):
        assert getattr(NonAtomicQuerySet, name).alters_data is True


def test_async_twins():
    async def twins():
        entry, created = await NonAtomicEntry.objects.aget_or_create(name="a")
        assert created is True
        updated, created = await NonAtomicEntry.objects.aupdate_or_create(
            name="a", defaults={"size": 3}
        )
        assert (updated, created) == (entry, False)
        return updated

    with statements() as sent:
        entry = async_to_sync(twins)()
    assert entry.size == 3
    assert sent == ["SELECT", "INSERT", "SELECT", "UPDATE"]
