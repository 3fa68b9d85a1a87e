"""
Code in create(), save() and callables before the INSERT of get_or_create(): it
runs as in the atomic() block that Django has around it.
"""

from contextlib import nullcontext

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.signals import pre_save

from getorcreateplus.writes.recognizing import places_of

from ..models import (
    Audit,
    NonAtomicCompositeKey,
    NonAtomicStep,
    PlainCompositeKey,
    PlainSlot,
    PlainStep,
    PlusStep,
)
from ..support.rivals import connected, rival, statements
from ..support.sql import execute
from ..support.threads import elsewhere

pytestmark = pytest.mark.django_db(transaction=True)

MODELS = [NonAtomicStep, PlusStep]
BLOCKS = [transaction.atomic, nullcontext]


def rows(model):
    return sorted(model.objects.values_list("name", "rank", "counter__name"))


def state():
    return (
        connection.in_atomic_block,
        connection.autocommit,
        len(connection.atomic_blocks),
        len(connection.savepoint_ids),
        connection.needs_rollback,
        len(connection.run_on_commit),
        len(connection.execute_wrappers),
    )


def outcome(model, call, block=nullcontext):
    """
    Return everything that the caller can see, and the rows of the database.
    """
    before = state()
    with block():
        inside = state()
        try:
            obj, created = call(model)
            result = obj.name, obj.rank, created
        except Exception as error:
            result = type(error)
        found = result, rows(model)
        # Some of the hooks that wait for the end of the block are the cache's.
        assert state()[:5] == inside[:5]
    found += (rows(model), list(Audit.objects.values_list("text", flat=True)))
    assert state() == before
    model.objects.all().delete()
    Audit.objects.all().delete()
    return found


# Another row of the same table.


def by_save(self):
    self.counter = type(self)(name=f"not {self.name}")
    self.counter.save()


def by_create(self):
    self.counter = type(self)._base_manager.create(name=f"not {self.name}")


def by_same_values(self):
    type(self)(name=f"not {self.name}", rank=self.rank).save()


def by_get_or_create(self):
    self.counter, _ = type(self).objects.get_or_create(name=f"not {self.name}")


def by_update_or_create(self):
    type(self).objects.update_or_create(name=f"not {self.name}", defaults={"rank": 3})


def by_bulk_create(self):
    type(self).objects.bulk_create([type(self)(name=f"not {self.name}")])


def by_bulk_create_of_two(self):
    objs = [type(self)(name=f"{word} {self.name}") for word in ("not", "nor")]
    type(self).objects.bulk_create(objs)


def by_bulk_get_or_create(self):
    model = PlusStep if type(self) is PlusStep else NonAtomicStep
    if type(self) is PlainStep:
        type(self)(name=f"not {self.name}").save()
    else:
        model.objects.bulk_get_or_create([{"name": f"not {self.name}"}])


def by_sql(self):
    table = self._meta.db_table
    execute(f"INSERT INTO {table} (name, rank) VALUES ('not {self.name}', 0)")


def by_changing_itself(self):
    self.rank += 1


def by_raising(self):
    raise IntegrityError


def by_nothing(self):
    pass


OTHER_ROWS = [
    *[by_save, by_create, by_same_values, by_get_or_create, by_update_or_create],
    *[by_bulk_create, by_bulk_create_of_two, by_bulk_get_or_create, by_sql],
    *[by_changing_itself, by_raising, by_nothing],
]


def once(before):
    """Return a Step.before that works only for the first row."""
    is_done = False

    def before_first(obj):
        nonlocal is_done
        if not is_done:
            is_done = True
            before(obj)

    return before_first


def create(model):
    return model.objects.get_or_create(name="a", defaults={"rank": 5})


def create_by_name(model):
    return model.objects.get_or_create(name__exact="a", defaults={"name": "a"})


def create_or_update(model):
    return model.objects.update_or_create(name="a", defaults={"rank": lambda: 5})


def lose(model):
    with rival(lambda: model._base_manager.bulk_create([model(name="a", rank=7)])):
        return create(model)


def conflict(model):
    """With a row that the lookup does not find."""
    model._base_manager.bulk_create([model(name="a")])
    return model.objects.get_or_create(name="a", rank__gt=50)


CALLS = [create, create_by_name, create_or_update, lose, conflict]


@pytest.mark.slow
@pytest.mark.parametrize("before", OTHER_ROWS)
def test_other_row_of_the_table(before, monkeypatch):
    found = {}
    for model in (PlainStep, *MODELS):
        found[model] = []
        for call in CALLS:
            for block in BLOCKS:
                monkeypatch.setattr(model, "before", once(before))
                found[model].append((call.__name__, outcome(model, call, block)))
    expected = found.pop(PlainStep)
    assert found == dict.fromkeys(MODELS, expected)


@pytest.mark.parametrize("before", [by_save, by_get_or_create, by_sql])
def test_other_row_by_a_signal_or_a_default(before):
    def in_defaults(model):
        def rank():
            before(model(name="a"))
            return 5

        with rival(lambda: model._base_manager.bulk_create([model(name="a", rank=7)])):
            return model.objects.get_or_create(name="a", defaults={"rank": rank})

    def by_signal(model):
        act = once(before)
        with connected(pre_save, lambda sender, instance, **kwargs: act(instance)):
            return lose(model)

    for call in (in_defaults, by_signal):
        for block in BLOCKS:
            expected = outcome(PlainStep, call, block)
            assert expected[0] == ("a", 7, False)
            for model in MODELS:
                assert outcome(model, call, block) == expected


def test_other_row_has_one_savepoint(monkeypatch):
    monkeypatch.setattr(NonAtomicStep, "before", once(by_save))
    with transaction.atomic(), statements() as sent:
        create(NonAtomicStep)
    assert sent == ["SELECT", "SAVEPOINT", "INSERT", "INSERT", "RELEASE"]
    monkeypatch.setattr(NonAtomicStep, "before", once(by_save))
    with statements() as sent:
        NonAtomicStep.objects.get_or_create(name="b")
    assert sent == ["SELECT", "BEGIN", "INSERT", "INSERT", "COMMIT"]


def change_name(self):
    self.name = self.name.lower()


def test_values_that_save_changes_have_a_savepoint(monkeypatch):
    monkeypatch.setattr(NonAtomicStep, "before", change_name)
    with transaction.atomic(), statements() as sent:
        NonAtomicStep.objects.get_or_create(name="A")
    assert sent == ["SELECT", "SAVEPOINT", "INSERT", "RELEASE"]
    with transaction.atomic(), statements() as sent:
        NonAtomicStep.objects.get_or_create(name="b")
    assert sent == ["SELECT", "INSERT"]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("model", MODELS)
def test_argument_that_is_no_value_of_its_field(model, block):
    """The project's own create() can handle it."""

    def create_by_slot(model):
        class Own(type(model.objects.all())):
            def create(self, counter=None, **kwargs):
                return super().create(rank=len(counter.key), **kwargs)

        slot = PlainSlot(key="s")  # which has no id
        return Own(model).get_or_create(name="a", defaults={"counter": slot})

    expected = outcome(PlainStep, create_by_slot, block)
    assert outcome(model, create_by_slot, block) == expected


@pytest.mark.database("postgresql")
@pytest.mark.parametrize("inner", BLOCKS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("model", MODELS)
def test_cause_of_a_conflict(model, block, inner):
    """create() may read the reason from the driver's error."""

    def create_or_tell(model):
        class Own(type(model.objects.all())):
            def create(self, **kwargs):
                try:
                    with inner():
                        return super().create(**kwargs)
                except IntegrityError as error:
                    cause = error.__cause__
                    names.append(cause.diag.constraint_name)
                    code = getattr(cause, "sqlstate", None) or cause.pgcode
                    raise ValueError(type(cause), code) from None

        model._base_manager.create(name="a")
        with pytest.raises(ValueError, match="UniqueViolation") as info:
            Own(model).get_or_create(name="a", rank=7)
        raise info.value

    names = []
    expected = outcome(PlainStep, create_or_tell, transaction.atomic)
    found = outcome(model, create_or_tell, block)
    assert (found[0], expected[0]) == (ValueError, ValueError)
    if inner is transaction.atomic:
        assert "name" in names[0]
        assert "name" in names[1]


def test_composite_key_that_is_none():
    found = []
    for model in PlainCompositeKey, NonAtomicCompositeKey:
        obj, created = model.objects.get_or_create(name="a", defaults={"pk": None})
        found.append((obj.pk, created))
    assert found[1] == found[0]


def test_statement_of_another_wrapper_in_the_middle_of_the_insert():
    def audit(execute_, sql, params, many, context):
        if sql.startswith("INSERT") and "audit" not in sql:
            Audit.objects.create(text="about to insert")
        return execute_(sql, params, many, context)

    found = []
    for model in (PlainStep, NonAtomicStep):
        with connection.execute_wrapper(audit):
            found.append([outcome(model, call, transaction.atomic) for call in CALLS])
    plain, plus = found
    assert [each[:2] for each in plus] == [each[:2] for each in plain]


@pytest.mark.parametrize(
    ("sql", "places"),
    [
        ('INSERT INTO "t" ("a", "b") VALUES (%s, %s)', {'"a"': 0, '"b"': 1}),
        ("INSERT INTO `t` (`a`) VALUES (%s) RETURNING `t`.`id`", {"`a`": 0}),
        (
            '/* c */ INSERT INTO "s"."t" ("a", "b", "c") '
            "VALUES (ST_Geom(%s, 'x,)%s'), %s, DEFAULT) RETURNING \"id\"",
            {'"a"': None, '"b"': 1, '"c"': None},
        ),
        (
            'INSERT INTO "t" ("a", "b") VALUES (%s::text[], ((%s)))',
            {'"a"': None, '"b"': None},
        ),
        ('INSERT INTO "t" ("a", "b") VALUES (%%s, %s)', {'"a"': None, '"b"': 0}),
        ('INSERT INTO "t" ("a") VALUES (%s), (%s)', None),
        ('INSERT INTO "t" ("a") SELECT * FROM UNNEST((%s)::text[])', None),
        ('INSERT INTO "t" ("a", "b") VALUES (%s)', None),
        ('INSERT INTO "t" ("a") VALUES (%s', None),
        ("INSERT INTO t (a) VALUES (%s)", None),
        ('INSERT INTO "t" DEFAULT VALUES', None),
        ('UPDATE "t" SET "a" = %s', None),
    ],
)
def test_places_of(sql, places):
    assert places_of(sql) == places


# The transaction, in autocommit.


class Actions:
    """Actions of a save() before its INSERT, which log what they see."""

    def __init__(self, model):
        self.model, self.log = model, []

    def on_commit(self, obj):
        transaction.on_commit(lambda: self.log.append((obj.pk is None, rows_seen())))

    def on_commit_in_atomic(self, obj):
        with transaction.atomic():
            self.on_commit(obj)
        self.log.append("after the block")

    def on_commit_and_error(self, obj):
        self.on_commit(obj)
        raise ValueError

    def on_commit_and_write(self, obj):
        self.on_commit(obj)
        Audit.objects.create(text="before")

    def error(self, obj):
        raise ValueError

    def write_in_atomic(self, obj):
        with transaction.atomic():
            Audit.objects.create(text="before")

    def write_in_atomic_without_savepoint(self, obj):
        with transaction.atomic(savepoint=False):
            Audit.objects.create(text="before")

    def write_in_durable_atomic(self, obj):
        with transaction.atomic(durable=True):
            Audit.objects.create(text="before")

    def enter_atomic_without_savepoint(self, obj):
        with transaction.atomic(savepoint=False):
            self.log.append(len(connection.savepoint_ids))

    def fail_in_atomic_without_savepoint(self, obj):
        try:
            with transaction.atomic(savepoint=False):
                raise ValueError
        except ValueError:
            self.log.append(transaction.get_rollback())

    def lock_rows(self, obj):
        rows = self.model._base_manager.select_for_update().filter(name="z")
        self.log.append(len(rows))

    def read(self, obj):
        self.log.append(self.model._base_manager.count())

    def look(self, obj):
        self.log += [connection.in_atomic_block, transaction.get_autocommit()]
        self.log.append(transaction.get_rollback())

    def set_rollback(self, obj):
        transaction.set_rollback(True)

    def set_rollback_and_back(self, obj):
        transaction.set_rollback(True)
        transaction.set_rollback(False)

    def set_autocommit(self, obj):
        transaction.set_autocommit(False)

    def commit(self, obj):
        transaction.commit()

    def savepoint(self, obj):
        savepoint = connection.savepoint()
        Audit.objects.create(text="before")
        transaction.savepoint_rollback(savepoint)
        transaction.savepoint_commit(savepoint)

    def look_up(self, obj):
        self.model.objects.get_or_create(name="z")

    def close_old_connections(self, obj):
        connection.close_if_unusable_or_obsolete()


def rows_seen():
    """Return what another connection sees, if one can read in the meantime."""
    if connection.vendor == "sqlite":
        return Audit.objects.count()
    return elsewhere(Audit.objects.count)


ACTIONS = [name for name in vars(Actions) if not name.startswith("_")]


def acting(model, call, name, in_save, monkeypatch):
    """Return the outcome of a call, and the log of the action."""
    actions = Actions(model)
    act = once(getattr(actions, name))

    def rank():
        act(model(name="a"))
        return 5

    model._base_manager.bulk_create([model(name="z")])
    with monkeypatch.context() as patch:
        if in_save:
            patch.setattr(model, "before", act)
        found = outcome(model, lambda model: call(model, 5 if in_save else rank))
    return found, actions.log


def created(model, rank):
    return model.objects.get_or_create(name="a", defaults={"rank": rank})


def lost(model, rank):
    with rival(lambda: model._base_manager.bulk_create([model(name="a", rank=7)])):
        return created(model, rank)


def failed(model, rank):
    model._base_manager.bulk_create([model(name="a")])
    return model.objects.get_or_create(name="a", rank__gt=50, defaults={"rank": rank})


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIONS)
def test_transaction_is_djangos(name, monkeypatch):
    for call in (created, lost, failed):
        for in_save in (True, False):
            expected = acting(PlainStep, call, name, in_save, monkeypatch)
            for model in MODELS:
                found = acting(model, call, name, in_save, monkeypatch)
                assert (call, in_save, model, found) == (call, in_save, model, expected)


@pytest.mark.database("postgresql")
@pytest.mark.parametrize("model", [PlainStep, *MODELS])
def test_advisory_lock_is_held_until_the_row_is_there(model, monkeypatch):
    held = []

    def is_free():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(77)")
            return cursor.fetchone()[0]

    def lock(obj):
        execute("SELECT pg_advisory_xact_lock(77)")
        held.append(not elsewhere(is_free))

    monkeypatch.setattr(model, "before", lock)
    assert created(model, 5)[1] is True
    assert held == [True]
    assert elsewhere(is_free)


# SQLite has one writer at a time, and InnoDB locks the gaps of deleted rows.
@pytest.mark.database("postgresql")
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("before", [by_save, by_get_or_create, by_sql])
def test_race_is_lost_after_another_row(before, block, monkeypatch):
    """The rival commits between the two INSERTs."""

    def act(obj):
        before(obj)
        elsewhere(model._base_manager.bulk_create, [model(name="a", rank=7)])

    found = []
    for model in (PlainStep, *MODELS):
        monkeypatch.setattr(model, "before", once(act))
        found.append(outcome(model, create, block))
    assert found[0] == (("a", 7, False), [("a", 7, None)], [("a", 7, None)], [])
    assert found[1:] == found[:1] * 2


@pytest.mark.database("postgresql", "mysql")  # In memory nothing is left.
def test_connection_that_is_closed_before_the_insert(monkeypatch):
    results = []
    for model in (PlainStep, *MODELS):
        with monkeypatch.context() as patch:
            patch.setattr(model, "before", lambda self: connection.close())
            with pytest.raises(Exception) as caught:  # noqa: PT011 - it is compared
                create(model)
        results.append((caught.type, model.objects.count(), state()))
    assert results == results[:1] * 3


@pytest.mark.parametrize("model", [PlainStep, *MODELS])
def test_transaction_by_hand(model, monkeypatch):
    log = []
    monkeypatch.setattr(
        model, "before", lambda self: transaction.on_commit(lambda: log.append(self.pk))
    )
    transaction.set_autocommit(False)
    try:
        with statements() as sent:
            assert create(model)[1] is True
        assert sent[-3:] == ["SAVEPOINT", "INSERT", "RELEASE"]
        assert log == []
    finally:
        transaction.commit()
        transaction.set_autocommit(True)
    assert log == [model.objects.get().pk]
