"""Values of a created or updated row that are known without a SELECT."""

import datetime
import uuid
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from django.core.files.base import ContentFile
from django.db import DatabaseError, connection, transaction
from django.db.models import F, Value
from django.db.models.functions import Lower, Now
from django.db.models.signals import post_init, post_save
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from getorcreateplus.writes.captured_rows import Recording

from ..models import (
    Colour,
    Composite,
    Converted,
    DatabaseDefault,
    Forgetful,
    Generated,
    Made,
    Monitored,
    Natural,
    Ordinary,
    OtherTarget,
    ProxyOrdinary,
    Rare,
    Shade,
    Size,
    SpecialOrdinary,
    SpecialTarget,
    Spelt,
    Stamped,
    Stripped,
    Target,
    Text,
    TextTarget,
    Unique,
)
from ..support.selected_rows import make_instance, recording_queryset, select

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
BERLIN = ZoneInfo("Europe/Berlin")


@contextmanager
def recorded(model):
    recording = Recording(model, connection)
    with recording:
        yield recording


def create(model, **kwargs):
    """Return the values that a create and a SELECT return."""
    with recorded(model) as recording:
        obj = model.objects.create(**kwargs)
    return recording.inserted(obj), select(model, pk=model.objects.latest("pk").pk)[1]


def update(model, obj, **defaults):
    """Return the values that an update and a SELECT return."""
    with recorded(model) as recording:
        row = recording_queryset(model, recording).get(pk=obj.pk)
        for name, value in defaults.items():
            setattr(row, name, value)
        row.save()
    return recording.updated(row), select(model, pk=obj.pk)[1]


def exactly(values):
    """Return the values in a form in which they have to be equal."""
    return [(type(value), repr(value)) for value in values]


AWARE = datetime.datetime(2024, 7, 1, 12, 30, 15, 123456, tzinfo=datetime.UTC)

KNOWN = [
    ("big", -(2**63)),
    ("big", "7"),
    ("boolean", True),
    ("boolean", "t"),
    ("boolean", 0),
    ("char", "Änderung"),
    ("char", ""),
    ("char", mark_safe("<b>")),
    ("char", Colour.RED),
    ("char", gettext_lazy("Yes")),
    ("char", 5),
    ("char", "x " * 5),
    ("column", 5),
    ("date", datetime.date(2024, 7, 1)),
    ("date", "2024-07-01"),
    ("date", AWARE),
    ("datetime", AWARE),
    ("datetime", AWARE.replace(microsecond=0)),
    ("datetime", AWARE.astimezone(BERLIN)),
    ("datetime", "2024-07-01T12:00:00+02:00"),
    ("decimal", Decimal("1.50")),
    ("decimal", "-123456.78"),
    ("decimal", Decimal("0.00")),
    ("duration", datetime.timedelta(days=-3, microseconds=1)),
    ("email", "a@example.com"),
    ("file", "name.txt"),
    ("file", ""),
    ("integer", 7),
    ("integer", "7"),
    ("integer", 7.9),
    ("integer", True),
    ("integer", Size.BIG),
    ("lower", "ABC"),
    ("positive", 0),
    ("slug", "a-slug"),
    ("small", 32767),
    ("text", "long " * 1000),
    ("text", "emoji 😀"),
    ("time", datetime.time(1, 2, 3, 4)),
    ("time", datetime.time(2, 30, fold=1)),
    ("time", "12:30"),
    ("uuid", uuid.UUID(int=5)),
    ("uuid", "00000000-0000-0000-0000-00000000000a"),
    ("uuid", 7),
]


@pytest.mark.parametrize(("name", "value"), KNOWN)
def test_created_row_is_known(name, value):
    known, selected = create(Ordinary, **{name: value})

    assert exactly(known) == exactly(selected)


@pytest.mark.parametrize(("name", "value"), KNOWN)
def test_updated_row_is_known(name, value):
    known, selected = update(Ordinary, Ordinary.objects.create(), **{name: value})

    assert exactly(known) == exactly(selected)


def test_created_row_with_foreign_keys_is_known():
    target = SpecialTarget.objects.create(code="code")
    text = TextTarget.objects.create(text=Text.objects.create(name="key"))
    known, selected = create(
        Ordinary,
        one=target,
        target_id=str(target.pk),
        by_code=target,
        other=OtherTarget.objects.create(),
        of_text=text,
    )

    assert exactly(known) == exactly(selected)


def test_uploaded_file_is_known_by_the_name_it_got(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path
    for _ in range(2):  # the second one gets another name
        known, selected = create(Ordinary, file=ContentFile("content", name="a.txt"))

        assert exactly(known) == exactly(selected)


def test_values_that_pre_save_sets_are_known():
    known, selected = create(Stamped)

    assert exactly(known) == exactly(selected)
    known, selected = update(Stamped, Stamped.objects.get(), status="published")
    assert exactly(known) == exactly(selected)


def test_values_of_model_utils_are_known():
    known, selected = create(Monitored, name="a", body="one\n\ntwo\n\nthree")

    assert exactly(known) == exactly(selected)
    known, selected = update(Monitored, Monitored.objects.get(), name="b")
    assert exactly(known) == exactly(selected)


def test_row_with_a_primary_key_of_its_own_is_known():
    for model, kwargs in ((Natural, {"code": "a"}), (Unique, {"name": "a"})):
        known, selected = create(model, **kwargs)
        assert exactly(known) == exactly(selected)

    known, selected = create(Ordinary, id="77")
    assert exactly(known) == exactly(selected)


def test_row_of_a_composite_key_is_known_when_it_is_created():
    target = Target.objects.create()
    with recorded(Composite) as recording:
        obj = Composite.objects.create(target=target, number="5")

    assert recording.inserted(obj) == (target.pk, 5, "")
    known, _ = update(Composite, obj, name="a")
    assert known is None


def test_row_of_a_proxy_is_known():
    known, selected = create(ProxyOrdinary, char="a")

    assert exactly(known) == exactly(selected)


# Values that only the database can compute

UNKNOWN = [
    ("char", Lower(Value("ABC"))),
    ("datetime", Now()),
    ("decimal", Decimal("1.5")),
    ("decimal", 1),
    ("decimal", Decimal("-0.00")),
    ("integer", Value(1) + 1),
]


@pytest.mark.parametrize(("name", "value"), UNKNOWN)
def test_created_row_is_not_known(name, value):
    known, selected = create(Ordinary, **{name: value})

    assert known is None
    assert selected is not None


@pytest.mark.parametrize(("name", "value"), UNKNOWN)
def test_updated_row_is_not_known(name, value):
    known, _ = update(Ordinary, Ordinary.objects.create(), **{name: value})

    assert known is None


def test_enum_is_known_at_most_as_it_is_read():
    """mysqlclient sent its str() before 2.3.2, others send its value."""
    known, selected = create(Ordinary, char=Shade.RED)

    assert known is None or exactly(known) == exactly(selected)
    assert (known is None) == (connection.vendor == "mysql")


def test_enum_that_became_its_value_is_known_at_most_as_it_is_read():
    def set_value(obj):
        obj.char = "red"

    with after_save(Ordinary, set_value):
        known, selected = create(Ordinary, char=Shade.RED)

    assert known is None or exactly(known) == exactly(selected)
    assert (known is None) == (connection.vendor == "mysql")


def test_value_that_was_wrapped_is_known_at_most_as_it_is_read():
    """Since 6.0, save() reads back the values of expressions."""
    known, selected = create(Ordinary, integer=Value(5))
    assert known is None or exactly(known) == exactly(selected)

    obj = Ordinary.objects.create()
    known, selected = update(Ordinary, obj, integer=Value(5))
    assert known is None or exactly(known) == exactly(selected)


def test_row_that_is_computed_from_itself_is_not_known():
    obj = Ordinary.objects.create(integer=1)

    assert update(Ordinary, obj, integer=F("integer") + 1)[0] is None


@pytest.mark.filterwarnings("ignore:DateTimeField .* received a naive datetime")
def test_naive_datetime_is_not_known():
    naive = datetime.datetime(2024, 7, 1)  # noqa: DTZ001

    assert create(Ordinary, datetime=naive)[0] is None


def test_naive_datetime_without_time_zones_is_known(settings):
    settings.USE_TZ = False
    naive = datetime.datetime(2024, 7, 1, 2, 30, fold=1)  # noqa: DTZ001
    known, selected = create(Ordinary, datetime=naive)

    assert exactly(known) == exactly(selected)


def test_naive_datetime_that_no_clock_shows(settings):
    """PostgreSQL stores the instant, which has another local time."""
    settings.USE_TZ = False
    settings.TIME_ZONE = "Europe/Berlin"
    left_out = datetime.datetime(2024, 3, 31, 2, 30)  # noqa: DTZ001
    known, selected = create(Ordinary, datetime=left_out)

    if connection.vendor == "postgresql":
        assert known is None
    else:
        assert exactly(known) == exactly(selected)


def test_datetime_of_a_connection_in_another_zone_is_not_known():
    connection.timezone = BERLIN
    try:
        with recorded(Ordinary) as recording:
            obj = Ordinary.objects.create(datetime=AWARE)
        assert recording.inserted(obj) is None
    finally:
        del connection.timezone


@pytest.mark.database("postgresql")
def test_what_postgresql_changes_is_not_known():
    aware = datetime.time(1, tzinfo=datetime.UTC)

    for kwargs in ({"char": "x" * 10 + "  "}, {"time": aware}):
        known, selected = create(Ordinary, **kwargs)
        assert known is None
        assert selected is not None


@pytest.mark.database("sqlite")
def test_what_sqlite_does_not_check_is_not_known():
    assert create(Ordinary, char="x" * 11)[0] is None


@pytest.fixture
def lenient():
    """Leave MySQL's strict mode."""

    def set_mode(mode):
        with connection.cursor() as cursor:
            cursor.execute("SELECT @@sql_mode")
            [before] = cursor.fetchone()
            cursor.execute("SET sql_mode = %s", [mode])
        del connection.sql_mode, connection.mysql_server_data
        return before

    assert connection.sql_mode
    before = set_mode("")
    yield
    assert not connection.sql_mode
    set_mode(before)


@pytest.mark.database("mysql")
@pytest.mark.usefixtures("lenient")
@pytest.mark.filterwarnings("ignore")
def test_what_mysql_may_have_cut_is_not_known():
    known, selected = create(Ordinary, char="x" * 11)

    assert known is None
    assert "x" * 10 in selected
    assert create(Ordinary, char="x")[0] is None


@pytest.mark.parametrize(
    "value", [0.1 + 0.2, -0.1, "1.5", 5e-324, 1.7976931348623157e308, 3, 2.0**-1074]
)
def test_float_is_known_where_it_is_read_as_it_was_sent(value):
    known, selected = create(Ordinary, number=value)
    if connection.vendor == "mysql":
        assert known is None
    else:
        assert exactly(known) == exactly(selected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("binary", b"\x00\xff"),
        ("float", 0.0),
        ("ip", "::FFFF:1.2.3.4"),
        ("json", {"a": [1]}),
    ],
)
def test_row_of_rare_fields_is_not_known_until_it_is_read(name, value):
    assert create(Rare, **{name: value})[0] is None
    known, selected = update(Rare, Rare.objects.get(), **{name: value})
    assert known is None
    assert selected is not None


@pytest.mark.parametrize(
    ("model", "kwargs"),
    [
        (Converted, {"name": "abc"}),
        (Converted, {"rounded": "ABC"}),
        (Converted, {}),  # from_db_value() changes NULL
        (DatabaseDefault, {"name": "a"}),
        (Forgetful, {"name": "a"}),
        (Generated, {"name": "a"}),
        (Spelt, {"date": datetime.date(2024, 7, 1)}),
    ],
)
def test_row_that_the_database_or_a_field_completes_is_not_known(model, kwargs):
    known, selected = create(model, **kwargs)

    assert known is None
    assert selected is not None


def test_generated_column_is_not_known_after_an_update():
    obj = Generated.objects.create(name="a")
    known, selected = update(Generated, obj, name="b")

    assert known is None
    assert selected == (obj.pk, "b", "B")


def test_update_that_leaves_a_database_default_to_a_trigger_is_not_known():
    obj = DatabaseDefault.objects.create(name="a")
    with recorded(DatabaseDefault) as recording:
        row = recording_queryset(DatabaseDefault, recording).get(pk=obj.pk)
        row.name = "b"
        row.save(update_fields=["name"])

    assert recording.updated(row) is None


def test_row_in_two_tables_is_not_known_when_both_are_written():
    with recorded(SpecialOrdinary) as recording:
        obj = SpecialOrdinary.objects.create(char="a", rank=1)
    assert recording.inserted(obj) is None

    known, selected = update(SpecialOrdinary, obj, char="b", rank=2)
    assert known is None
    assert "b" in selected


def test_row_in_two_tables_is_known_when_its_own_is_written():
    obj = SpecialOrdinary.objects.create(char="a", rank=1)
    with recorded(SpecialOrdinary) as recording:
        row = recording_queryset(SpecialOrdinary, recording).get()
        row.rank = 2
        row.save(update_fields=["rank"])

    known = recording.updated(row)
    assert exactly(known) == exactly(select(SpecialOrdinary, pk=obj.pk)[1])


# Code of a project in between


@pytest.mark.parametrize("name", ["before", "plain"])
def test_what_save_sets_before_it_saves_is_known(name):
    known, selected = create(Made, name=name)

    assert exactly(known) == exactly(selected)


@pytest.mark.parametrize(
    "name", ["after", "another", "gone", "key", "nested", "type", "update"]
)
def test_row_that_save_or_create_leaves_different_is_not_known(name):
    with recorded(Made) as recording:
        obj = Made.objects.create(name=name)

    assert recording.inserted(obj) is None


@contextmanager
def after_save(model, receive):
    def receiver(instance, **kwargs):
        receive(instance)

    post_save.connect(receiver, sender=model)
    try:
        yield
    finally:
        post_save.disconnect(receiver, sender=model)


def set_char(obj):
    obj.char = "another"


def set_target(obj):
    obj.__dict__["char"] = Target()


def update_row(obj):
    type(obj)._base_manager.filter(pk=obj.pk).update(char="another")


def update_by_sql(obj):
    with connection.cursor() as cursor:
        cursor.execute(
            f"update {connection.ops.quote_name(obj._meta.db_table)} set slug = 'x'"
        )


def update_many(obj):
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {obj._meta.db_table} SET slug = %s WHERE id = %s",
            [("x", obj.pk)],
        )


def delete_row(obj):
    type(obj)._base_manager.filter(pk=obj.pk)._raw_delete("default")


@pytest.mark.parametrize(
    "receive",
    [set_char, set_target, update_row, update_by_sql, update_many, delete_row],
)
def test_row_that_a_receiver_leaves_different_is_not_known(receive):
    with recorded(Ordinary) as recording:
        with after_save(Ordinary, receive):
            obj = Ordinary.objects.create(char="a")

    assert recording.inserted(obj) is None


def test_statements_on_other_tables_do_not_matter():
    def write(obj):
        Target.objects.create(code="x")
        obj.tags.add(OtherTarget.objects.create())

    with after_save(Ordinary, write):
        known, selected = create(Ordinary, char="a")

    assert exactly(known) == exactly(selected)


def test_several_rows_of_one_statement_are_not_known():
    objs = [Ordinary(char="a"), Ordinary(char="a")]
    with recorded(Ordinary) as recording:
        Ordinary.objects.bulk_create(objs)

    assert recording.inserted(objs[0]) is None


def test_row_that_was_not_inserted_is_not_known():
    obj = Ordinary.objects.create(char="a")
    with recorded(Ordinary) as recording:
        Ordinary._base_manager.update(char="b")

    assert recording.inserted(obj) is None
    assert recording.selected(obj) is None
    assert recording.updated(obj) is None


def test_failed_statement_is_none():
    with recorded(Natural) as recording:
        Natural.objects.create(code="a")
        with pytest.raises(DatabaseError):
            with transaction.atomic():
                Natural.objects.create(code="a")

    assert len(recording.statements) == 1


@pytest.mark.database("postgresql")
def test_insert_that_returns_no_key_is_not_known():
    with recorded(Ordinary) as recording:
        with connection.cursor() as cursor:
            cursor.execute('INSERT INTO "tests_ordinary" ("char") VALUES (%s)', ["a"])
    obj = Ordinary.objects.get()

    assert recording.inserted(obj) is None


@pytest.mark.database("postgresql")
def test_insert_of_no_row_is_not_known():
    insert = (
        'INSERT INTO "tests_natural" ("code", "size") SELECT \'a\', 1 WHERE false'
        ' RETURNING "code"'
    )
    obj = Natural.objects.create(code="a")
    with recorded(Natural) as recording:
        with connection.cursor() as cursor:
            cursor.execute(insert)
            assert cursor.fetchone() is None

    assert recording.inserted(obj) is None


@pytest.mark.database("postgresql")
@pytest.mark.parametrize(
    ("text", "writes"),
    [("SELECT 1", False), ("UPDATE tests_ordinary SET slug = 'x'", True)],
)
@pytest.mark.parametrize("kind", ["Composed", "bytes"])
def test_composed_statement_may_write_the_row(text, writes, kind):
    from psycopg import sql

    with recorded(Ordinary) as recording:
        obj = Ordinary.objects.create(char="a")
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL(text) if kind == "Composed" else text.encode())

    assert (recording.inserted(obj) is None) == writes


@pytest.mark.database("postgresql")
def test_statement_behind_a_select_may_write_the_row():
    with recorded(Ordinary) as recording:
        obj = Ordinary.objects.create(char="a")
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1; UPDATE tests_ordinary SET slug = 'x'")

    assert recording.inserted(obj) is None


def test_select_does_not_matter():
    with recorded(Ordinary) as recording:
        obj = Ordinary.objects.create(char="a")
        obj.refresh_from_db()

    assert exactly(recording.inserted(obj)) == exactly(select(Ordinary, pk=obj.pk)[1])


# Updates


def test_update_of_another_row_is_not_known():
    Made.objects.create(name="a")
    other = Made.objects.create(name="b", size=5)
    with recorded(Made) as recording:
        obj = recording_queryset(Made, recording).get(name="a")
        obj.pk = other.pk
        obj.save()

    assert recording.updated(obj) is None


def test_update_without_a_select_is_not_known():
    obj = Made.objects.create(name="a")
    with recorded(Made) as recording:
        obj.save()

    assert recording.updated(obj) is None


def test_insert_after_a_select_is_no_update():
    Made.objects.create(name="a")
    with recorded(Made) as recording:
        obj = recording_queryset(Made, recording).get()
        Made.objects.create(name="b")

    assert recording.updated(obj) is None


def test_update_of_deferred_fields_is_not_known():
    Made.objects.create(name="a")
    with recorded(Made) as recording:
        obj = recording_queryset(Made, recording).only("name").get()
        obj.save()

    assert recording.selected(obj) is None
    assert recording.updated(obj) is None


def test_change_that_was_not_saved_is_not_known():
    """
    Attributes of an instance besides its saved fields are not in the row.
    """
    rare = Rare.objects.create(json={"n": 1})
    with recorded(Rare) as recording:
        obj = recording_queryset(Rare, recording).get()
        obj.json["n"] = 2
        obj.save(update_fields=[])
        obj.float = 0.5
        Rare.objects.filter(pk=rare.pk)
    assert recording.selected(obj)[-1] == {"n": 1}

    made = Made.objects.create(name="a")
    with recorded(Made) as recording:
        obj = recording_queryset(Made, recording).get()
        obj.size = 7
        obj.name = "b"
        obj.save(update_fields=["name"])
    assert recording.updated(obj) == (made.pk, "b", 0)


def test_second_write_makes_the_row_unknown():
    Made.objects.create(name="a")
    with recorded(Made) as recording:
        obj = recording_queryset(Made, recording).get()
        obj.save()
        assert recording.updated(obj) is not None
        obj.save()

    assert recording.updated(obj) is None
    assert recording.selected(obj) is None


def test_on_update_is_called_after_the_statement():
    Made.objects.create(name="a")
    known = []
    with recorded(Made) as recording:
        obj = recording_queryset(Made, recording).get()
        recording.on_update = lambda: known.append(recording.updated(obj))
        obj.size = 3
        obj.save()

    assert known == [(obj.pk, "a", 3)]


# Reads


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.django_db(transaction=True)
def test_row_that_a_receiver_writes_while_it_is_made(is_written, in_transaction):
    """The values of the SELECT are then those of an older row."""
    made = Made._base_manager.create(name="a")

    def receive(instance, **kwargs):
        post_init.disconnect(receive, sender=Made)
        Made._base_manager.filter(pk=made.pk).update(size=F("size") + 1)

    with transaction.atomic() if in_transaction else nullcontext():
        if is_written:
            Made._base_manager.filter(pk=made.pk).update(size=5)
        post_init.connect(receive, sender=Made)
        try:
            Made.objects.get_or_create(name="a")
        finally:
            post_init.disconnect(receive, sender=Made)
        for _ in range(2):
            obj, _ = Made.objects.get_or_create(name="a")
            assert obj.size == (6 if is_written else 1)


def test_values_are_those_before_from_db():
    Stripped.objects.create(name="abc")
    obj, values = select(Stripped, pk=Stripped.objects.get().pk)

    assert (obj.name, obj.loaded) == ("bc", "abc")
    assert values == (obj.pk, "abc")
    again = make_instance(Stripped, values)
    assert (again.name, again.loaded) == ("bc", "abc")
