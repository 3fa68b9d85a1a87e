"""After a write, get_or_create() returns the same row as a SELECT."""

import datetime
import itertools
from decimal import Decimal

import pytest
from asgiref.sync import async_to_sync
from django.contrib.admin import ModelAdmin, site
from django.db import connection, models

from getorcreateplus.test import CaptureCacheCommands
from getorcreateplus.writes import registry

from ..models.invalidation import (
    Beacon,
    Day,
    Fleet,
    Harbour,
    Mast,
    ProxyShip,
    SameShip,
    Ship,
    Slip,
    Toll,
)
from .ships import (
    autocommit,
    check,
    commit,
    commit_after_savepoint,
    contexts,
    execute_sql,
    load,
    roll_back,
    roll_back_savepoint,
    save,
    schema,
    try_each,
    warm,
)

committed = pytest.mark.django_db(transaction=True)


def execute_many(sql, params):
    with connection.cursor() as cursor:
        cursor.executemany(sql, params)


def upsert(*objs):
    unique = {}
    if connection.features.supports_update_conflicts_with_target:
        unique = {"unique_fields": ["id"]}
    plain = models.QuerySet(Ship)
    plain.bulk_create(objs, update_conflicts=True, update_fields=["size"], **unique)


plain = models.QuerySet(Ship)

# Writes of the rows a and b of a model. There is no row c.
WRITES = {
    "save": lambda a, b: save(a, size=9),
    "save_of_another_name": lambda a, b: save(a, name="c"),
    "save_update_fields": lambda a, b: save(a, size=9, update_fields=["size"]),
    "save_nothing": lambda a, b: save(a, update_fields=[]),
    "save_typed_in_pk": lambda a, b: Ship(pk=a.pk, name="a", size=9).save(),
    "save_text_pk": lambda a, b: Ship(pk=f"{a.pk}", name="a", size=9).save(),
    "save_new_typed_in_pk": lambda a, b: Ship(pk=b.pk + 1, name="c").save(),
    "save_other_pk": lambda a, b: save(a, pk=b.pk, name="b"),
    "save_force_update": lambda a, b: Ship(pk=a.pk, name="a").save(force_update=True),
    "save_base": lambda a, b: Ship(pk=a.pk, name="a").save_base(raw=True),
    "create": lambda a, b: Ship.objects.create(name="c"),
    "delete": lambda a, b: a.delete(),
    "delete_not_selected": lambda a, b: Ship(pk=a.pk).delete(),
    "delete_and_create": lambda a, b: (a.delete(), Ship(pk=b.pk - 1, name="a").save()),
    "queryset_delete": lambda a, b: Ship.objects.filter(name="a").delete(),
    "queryset_delete_pks": lambda a, b: Ship.objects.filter(pk__in=[a.pk]).delete(),
    "delete_all": lambda a, b: Ship.objects.all().delete(),
    "update": lambda a, b: Ship.objects.update(size=9),
    "update_pk": lambda a, b: Ship.objects.filter(pk=a.pk).update(size=9),
    "update_pks": lambda a, b: Ship.objects.filter(pk__in=[a.pk, b.pk]).update(size=9),
    "update_many_pks": lambda a, b: Ship.objects.filter(
        pk__in=range(a.pk, a.pk + 30)
    ).update(size=9),
    "update_no_row": lambda a, b: Ship.objects.filter(name="c").update(size=9),
    "update_of_the_pk": lambda a, b: Ship.objects.filter(pk=a.pk).update(id=b.pk + 1),
    "update_subquery": lambda a, b: Ship.objects.filter(
        fleet__in=Fleet.objects.filter(pk=1)
    ).update(size=9),
    "update_expression": lambda a, b: Ship.objects.filter(pk=a.pk).update(
        size=models.F("size") + 1
    ),
    "update_to_subquery": lambda a, b: Ship.objects.filter(name="a").update(
        size=models.Subquery(Fleet.objects.filter(name="first").values("id"))
    ),
    "aupdate": lambda a, b: async_to_sync(update_later)(),
    "bulk_update": lambda a, b: Ship.objects.bulk_update(
        [Ship(pk=a.pk, size=8), Ship(pk=b.pk, size=9)], ["size"]
    ),
    "bulk_create": lambda a, b: Ship.objects.bulk_create([Ship(name="c")]),
    "bulk_create_rows": lambda a, b: Ship.objects.bulk_create(
        [Ship(name="c"), Ship(name="d")]
    ),
    "upsert": lambda a, b: upsert(Ship(pk=a.pk, size=8), Ship(pk=b.pk + 1, name="c")),
    "ignore_conflicts": lambda a, b: plain.bulk_create(
        [Ship(pk=a.pk, name="c"), Ship(pk=b.pk + 1, name="c")], ignore_conflicts=True
    ),
    "plain_update": lambda a, b: plain.filter(name="a").update(size=9),
    "plain_bulk_create": lambda a, b: plain.bulk_create([Ship(name="c")]),
    "plain_bulk_create_and_save": lambda a, b: (
        plain.bulk_create([Ship(name="c")]),
        Ship(name="d").save(),
    ),
    "plain_delete": lambda a, b: plain.filter(name="a").delete(),
    "raw_delete": lambda a, b: plain.filter(name="a")._raw_delete("default"),
    "base_manager": lambda a, b: Ship._base_manager.filter(name="a").update(size=9),
    "proxy_save": lambda a, b: ProxyShip(pk=a.pk, name="a", size=9).save(),
    "proxy_update": lambda a, b: ProxyShip.objects.filter(name="a").update(size=9),
    "proxy_delete": lambda a, b: ProxyShip.objects.get(pk=a.pk).delete(),
    "same_table_save": lambda a, b: SameShip(pk=a.pk, name="a", size=9).save(),
    "same_table_create": lambda a, b: SameShip.objects.create(name="c"),
    "same_table_delete": lambda a, b: SameShip.objects.filter(name="a").delete(),
    "raw_sql": lambda a, b: execute_sql("update tests_ship set size = 9"),
    "raw_sql_select": lambda a, b: execute_sql(
        "SELECT 1; UPDATE tests_ship SET size = 9" if can_send_two() else "SELECT 1"
    ),
    "raw_sql_after_django": lambda a, b: execute_sql(
        in_form_of_django()
        + ("; UPDATE tests_ship SET size = 9" if can_send_two() else "")
    ),
    "raw_sql_schema": lambda a, b: execute_sql(
        f"UPDATE {spelt('tests_ship', schema())} SET size = 9"
    ),
    "raw_sql_upsert": lambda a, b: raw_upsert(
        a.pk, "on conflict (id) do\nupdate set size = 9"
    ),
    "prepared": lambda a, b: execute_later("prepared", a.pk),
    "procedure": lambda a, b: execute_later("procedure", a.pk),
    "raw_sql_multiple": lambda a, b: execute_many(
        "UPDATE tests_ship SET size = %s WHERE id = %s", [(8, a.pk), (9, b.pk)]
    ),
    "raw_sql_comment": lambda a, b: execute_sql(
        "/* a comment */ UPDATE tests_ship SET size = 9 WHERE id = %s", [a.pk]
    ),
    "raw_sql_insert": lambda a, b: execute_sql(
        "INSERT INTO tests_ship (name, size) VALUES ('c', 1)"
    ),
    "loaddata": lambda a, b: load(Ship(pk=a.pk, name="a", size=9)),
    "loaddata_new": lambda a, b: load(Ship(pk=b.pk + 1, name="c")),
    "admin_action": lambda a, b: ModelAdmin(Ship, site).delete_queryset(
        None, Ship.objects.filter(name="a")
    ),
    "add": lambda a, b: fleet().ships.add(a),
    "add_one_by_one": lambda a, b: fleet().ships.add(a, bulk=False),
    "remove": lambda a, b: a.fleet.ships.remove(a),
    "remove_one_by_one": lambda a, b: a.fleet.ships.remove(a, bulk=False),
    "clear": lambda a, b: a.fleet.ships.clear(),
    "set": lambda a, b: a.fleet.ships.set([b]),
    "set_one_by_one": lambda a, b: a.fleet.ships.set([b], bulk=False),
    "related_update": lambda a, b: a.fleet.ships.update(size=9),
    "related_delete": lambda a, b: a.fleet.ships.filter(name="a").delete(),
    "related_create": lambda a, b: a.fleet.ships.create(name="c"),
    "cascade": lambda a, b: a.fleet.delete(),
    "cascade_by_query": lambda a, b: Fleet.objects.filter(name="first").delete(),
    "two_writes": lambda a, b: (save(a, size=8), save(a, size=9)),
    "write_and_query": lambda a, b: (save(a, size=8), Ship.objects.update(size=9)),
}


def spelt(table, *schema):
    """Return a quoted table in another spelling than Django's."""
    quote = '"{}"' if connection.vendor != "mysql" else "`{}`"
    return ".".join(quote.format(name) for name in (*schema, table))


def raw_upsert(pk, words):
    """Insert an existing row: it gets this size."""
    if connection.vendor == "mysql":
        words = "on duplicate\nkey update size = 9"
    execute_sql(
        f"INSERT INTO {spelt('tests_ship')} (id, name, size) VALUES (%s, 'x', 1) "
        + words,
        [pk],
    )


def execute_later(kind, pk):
    """Write with a statement whose text does not name the table."""
    if connection.vendor == "sqlite":
        return
    with connection.cursor() as cursor:
        if kind == "prepared":
            update = f"UPDATE tests_ship SET size = 9 WHERE id = {pk}"
            cursor.execute(
                f"PREPARE s AS {update}"
                if connection.vendor == "postgresql"
                else f"PREPARE s FROM '{update}'"
            )
            cursor.execute("EXECUTE s")
            cursor.execute("DEALLOCATE PREPARE s")
        elif connection.vendor == "postgresql":
            cursor.execute(
                "CREATE OR REPLACE PROCEDURE pg_temp.p() LANGUAGE SQL AS "
                f"'UPDATE tests_ship SET size = 9 WHERE id = {pk}'"
            )
            cursor.execute("CALL pg_temp.p()")


def in_form_of_django():
    """Return an UPDATE of another table, in Django's spelling."""
    table, name = map(connection.ops.quote_name, ("tests_fleet", "name"))
    return f"UPDATE {table} SET {name} = 'x' WHERE 1 = 0"


async def update_later():
    await Ship.objects.aupdate(size=9)


def can_send_two():
    """Return True if one execute() may have two statements."""
    return connection.vendor == "postgresql"


def fleet():
    return Fleet.objects.get(name="second")


# A row that was written and rolled back stays locked, so each row is used only
# once.
unused = itertools.count(1_000_000, 10)


def prepare_ships():
    pk = next(unused)
    first = Fleet.objects.create(name="first")
    Fleet.objects.create(name="second")
    a = Ship.objects.create(pk=pk, name="a", size=1, fleet=first)
    b = Ship.objects.create(pk=pk + 1, name="b", size=2)
    lookups = [(Ship.objects, {"name": name}) for name in "abc"]
    lookups += [(Ship.objects, {"pk": pk}) for pk in (a.pk, b.pk + 1)]
    lookups += [(SameShip.objects, {"name": "a"})]
    warm(Ship.objects, pk=a.pk)
    return (a, b), lookups


@pytest.mark.slow
@committed
@contexts
def test_write_is_seen(context):
    try_each(WRITES, context, prepare_ships, Ship, Fleet)


@committed
@pytest.mark.parametrize("context", [roll_back, commit_after_savepoint])
def test_write_is_seen_in_other_transactions(context):
    names = ("save", "delete", "create", "update", "ignore_conflicts", "raw_sql", "set")
    writes = {name: WRITES[name] for name in names}
    try_each(writes, context, prepare_ships, Ship, Fleet)


@contexts
@pytest.mark.parametrize("write", ["save", "update", "delete", "bulk_create", "set"])
def test_write_in_a_test_case_is_seen(write, context, db):
    """atomic() blocks that have ended count as committed."""
    objects, lookups = prepare_ships()
    context(lambda: WRITES[write](*objects), lambda: check(*lookups))


class TestPrimaryKeys:
    """Rows that a statement names, with any kind of primary key."""

    @committed
    @contexts
    @pytest.mark.parametrize(
        "make",
        [
            lambda: Beacon(name="a"),
            lambda: Day(name="a", date=datetime.date(2024, 2, 29)),
            lambda: Harbour(name="a", code="NO OSL"),
            lambda: Slip(name="a", harbour=1, number=2),
            lambda: Toll(name="a", price=Decimal("1.50")),
        ],
        ids=["uuid", "date", "text", "composite", "decimal"],
    )
    def test_write(self, make, context):
        def prepare():
            obj = make()
            obj.save(force_insert=True)
            manager = type(obj).objects
            return (obj,), [(manager, {"name": "a"}), (manager, {"pk": obj.pk})]

        writes = {
            "save": lambda obj: save(obj, size=9),
            "force_update": lambda obj: type(obj)(pk=obj.pk, name="a").save(
                force_update=True
            ),
            "update": lambda obj: type(obj).objects.filter(pk=obj.pk).update(size=9),
            "queryset_delete": lambda obj: (
                type(obj).objects.filter(pk__in=[obj.pk]).delete()
            ),
            "delete": lambda obj: obj.delete(),
        }
        try_each(writes, context, prepare, type(make()))

    @committed
    @contexts
    def test_foreign_key(self, context):
        mast = Mast.objects.create(ship=Ship.objects.create(name="a"), name="a")
        lookups = [(Mast.objects, {"name": "a"}), (Mast.objects, {"ship": mast.pk})]
        check(*lookups)
        context(lambda: save(mast, size=9), lambda: check(*lookups))

    @committed
    @pytest.mark.database("mysql")
    def test_other_spelling(self):
        """The collation treats them as equal, but Python does not."""
        Harbour.objects.create(code="no osl", name="a")
        warm(Harbour.objects, name="a")
        for context in (commit, autocommit, roll_back, roll_back_savepoint):
            context(
                lambda: Harbour(code="NO OSL", name="a", size=9).save(),
                lambda: check((Harbour.objects, {"name": "a"})),
            )

    def test_row_is_invalidated_if_equal_keys_are_spelled_alike(self, db):
        harbour = Harbour.objects.create(code="a", name="a")
        with CaptureCacheCommands() as made:
            harbour.save()
        locked = "@epoch" if connection.vendor == "mysql" else "!a"
        name = registry.region_of(Harbour.objects.all()).name
        assert made[0].keys == [f"{name}{locked}"]
