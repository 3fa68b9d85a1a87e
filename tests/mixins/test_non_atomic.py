"""
One connection: the rival's row appears between SELECT and INSERT.

test_races.py has the races of two connections.
"""

import uuid
from contextlib import nullcontext

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import FieldError
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models.signals import post_save, pre_save
from django.test.utils import CaptureQueriesContext

from getorcreateplus import NonAtomicQuerySet
from getorcreateplus.writes.on_conflict import ignore_conflict

from ..models import (
    Audit,
    NonAtomicAtomicEntry,
    NonAtomicCompositeKey,
    NonAtomicDatabaseValue,
    NonAtomicEntry,
    NonAtomicNaturalKey,
    NonAtomicProxyEntry,
    NonAtomicQueryingEntry,
    NonAtomicUUIDKey,
    PlainCompositeKey,
    PlainDatabaseValue,
    PlainEntry,
    PlainNaturalKey,
    PlainProxyEntry,
    PlainUUIDKey,
    Word,
)
from ..support.errors import refuse
from ..support.rivals import connected, rival, statements
from .entries import (
    ENTRIES,
    LOST,
    is_postgresql,
    outcome,
    signals,
    write_audit,
    write_entry,
)

pytestmark = pytest.mark.django_db


autocommit = pytest.mark.django_db(transaction=True)


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
    """In a transaction that a project begins by hand, Django's method runs."""
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
    """Return the values of the object, including those of the database."""
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
    # The first pair belongs to the rival.
    assert log == ["pre_save", "post_save(created=True)", "pre_save"]


def test_database_values_are_converted():
    obj, _ = NonAtomicDatabaseValue.objects.get_or_create(name="a")
    obj.refresh_from_db()
    assert (obj.pk, obj.kind, obj.upper) == ("seven", "noun", "A")
    assert type(obj.kind) is Word


# Errors, and the state of the transaction after them.


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
        # A second attempt finds the error.
        assert plus[1].pop() == "pre_save"
    assert plain == plus
    assert plus[2] is True


def test_winner_that_is_gone_is_created_again():
    """MySQL and SQLite name the conflict, so it is raised as in Django."""
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
    """Only a savepoint could undo the row."""
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
    """Django refuses the query: only the UPDATE has failed."""
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
    """Another wrapper may rely on seeing the statements of a call."""
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
            # The lookup alone does not need a query.
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
