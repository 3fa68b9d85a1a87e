"""
Tenants in one process: the keys of a cache change with the current tenant, and
so does the memory of the process.
"""

import hashlib
from urllib.parse import quote

import pytest
from django.conf import settings
from django.core.cache import caches, close_caches
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus.coherence import clients
from getorcreateplus.environment import cache_keys
from getorcreateplus.writes.registry import region_of

from ..models import PlusPaper, Price, SharedPrice, Sheet
from ..support.queries import count_row_statements, pages_of_row
from ..support.sql import execute
from ..support.threads import elsewhere

pytestmark = pytest.mark.slow

committed = pytest.mark.django_db(transaction=True)

MODELS = pytest.mark.parametrize("model", [Sheet, PlusPaper])

current = {"tenant": "one"}


def joined(key, prefix, version):
    return f"{current['tenant']}:{prefix}:{version}:{key}"


def appended(key, prefix, version):
    return f"{prefix}:{version}:{key}@{current['tenant']}"


def hashed(key, prefix, version):
    return hashlib.sha256(joined(key, prefix, version).encode()).hexdigest()


def quoted(key, prefix, version):
    return quote(joined(key, prefix, version), safe="")


class ByFunction:
    def __init__(self, function):
        self.options = {"KEY_FUNCTION": function}

    def switch(self, tenant):
        current["tenant"] = tenant


class ByAttribute:
    """Some projects set an attribute of the cache object for each request."""

    options = {}

    def __init__(self, name, values):
        self.name, self.values = name, values

    def switch(self, tenant):
        for alias in ("default", "pluspaper"):
            value = self.values[tenant]
            if self.name == "key_prefix":
                value += settings.CACHES[alias]["KEY_PREFIX"]
            setattr(caches[alias], self.name, value)


TENANTS = {
    "a function that joins": ByFunction(joined),
    "a function that appends": ByFunction(appended),
    "a function that hashes": ByFunction(hashed),
    "a function that quotes": ByFunction(quoted),
    "the prefix": ByAttribute("key_prefix", {"one": "one", "two": "two"}),
    "the version": ByAttribute("version", {"one": 1, "two": 2}),
}


@pytest.fixture(params=TENANTS.values(), ids=TENANTS)
def switch(request):
    caches_of_test = {
        alias: options | request.param.options
        for alias, options in settings.CACHES.items()
    }
    with override_settings(CACHES=caches_of_test):
        request.param.switch("one")
        yield request.param.switch
        current["tenant"] = "one"
    close_caches()


def write_untold(model, value):
    """
    Write with the driver's cursor, because another tenant's table differs.
    """
    table = connection.ops.quote_name(model._meta.db_table)
    cursor = connection.connection.cursor()
    cursor.execute(f"UPDATE {table} SET pages = {value}")
    cursor.close()


@committed
@MODELS
class TestTransactions:
    def test_row_that_one_tenant_wrote_is_not_served_to_another(self, switch, model):
        model.objects.create(title="a", pages=0)
        with transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 1})
            assert pages_of_row(model) == (1, 0)
            write_untold(model, 2)
            switch("two")
            assert pages_of_row(model) == (2, 1)

    def test_row_that_one_tenant_created_is_not_served_to_another(self, switch, model):
        with transaction.atomic():
            model.objects.get_or_create(title="a", defaults={"pages": 1})
            write_untold(model, 2)
            switch("two")
            assert pages_of_row(model) == (2, 1)

    def test_batch_of_one_tenant_is_not_served_to_another(self, switch, model):
        with transaction.atomic():
            model.objects.bulk_get_or_create([{"title": "a", "pages": 1}], ["title"])
            write_untold(model, 2)
            switch("two")
            [(obj, created)] = model.objects.bulk_get_or_create(
                [{"title": "a"}], ["title"]
            )
            assert (obj.pages, created) == (2, False)

    def test_row_that_one_tenant_read_is_not_served_to_another(self, switch, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            assert pages_of_row(model)[0] == 1
            write_untold(model, 2)
            switch("two")
            assert pages_of_row(model) == (2, 1)

    @pytest.mark.parametrize("write", ["save", "update", "publish"])
    def test_commit_releases_the_keys_of_who_wrote(self, switch, model, write):
        """django-tenants leaves the tenant before the outermost block ends."""
        obj = model.objects.create(title="a", pages=1)
        for _ in range(2):
            pages_of_row(model)
        with transaction.atomic():
            if write == "save":
                obj.pages = 2
                obj.save()
            elif write == "update":
                model.objects.update(pages=2)
            else:
                model.objects.update_or_create(title="a", defaults={"pages": 2})
            switch("two")
        switch("one")
        assert pages_of_row(model)[0] == 2
        assert pages_of_row(model) == (2, 0)

    def test_created_row_is_filled_under_the_keys_of_who_created(self, switch, model):
        with transaction.atomic():
            model.objects.get_or_create(title="a", defaults={"pages": 1})
            switch("two")
        assert pages_of_row(model) == (1, 1)
        switch("one")
        assert pages_of_row(model) == (1, 0)

    def test_read_row_is_filled_under_the_keys_of_who_read(self, switch, model):
        model.objects.create(title="a", pages=1)
        with transaction.atomic():
            filled = pages_of_row(model) == (1, 1)
            switch("two")
        switch("one")
        assert filled
        # A transaction of SQLite may show an older snapshot: no fill.
        expected = 1 if connection.vendor == "sqlite" else 0
        assert pages_of_row(model) == (1, expected)


@committed
@MODELS
def test_each_tenant_has_hits_of_its_own(switch, model):
    model.objects.create(title="a", pages=1)
    for _ in range(2):
        pages_of_row(model)
    switch("two")
    assert pages_of_row(model) == (1, 1)
    assert pages_of_row(model) == (1, 0)
    switch("one")
    assert pages_of_row(model) == (1, 0)


@committed
def test_debt_is_paid_under_the_keys_that_it_was_made_with(switch):
    sheet = Sheet.objects.create(title="a", pages=1)
    for _ in range(2):
        pages_of_row(Sheet)
    region = region_of(Sheet.objects.all())
    write_untold(Sheet, 2)
    # Like a write of the first tenant during an outage.
    if region.made_keys.are_lost_later:
        region.made_keys.remember(region.keys_of_a_write([str(sheet.pk)]))
    store = clients.by_alias["default"]
    store.owe_release(region, [str(sheet.pk)])
    store.down_until = 0
    switch("two")
    pages_of_row(Sheet)
    assert not store.debts.releases
    switch("one")
    assert pages_of_row(Sheet) == (2, 1)


@committed
def test_release_of_dropped_keys_is_one_of_all_rows(monkeypatch):
    """
    A function that hashes keys cannot make them again for another tenant.
    """
    monkeypatch.setattr(cache_keys, "MAX_REMEMBERED_KEYS", 2)
    config = settings.CACHES["default"] | {"KEY_FUNCTION": hashed}
    with override_settings(CACHES={**settings.CACHES, "default": config}):
        objs = [Sheet.objects.create(title=title, pages=1) for title in "abc"]
        for title in "aabbcc":
            pages_of_row(Sheet, title)
        with transaction.atomic():
            for obj in objs:
                obj.pages = 2
                obj.save()
            current["tenant"] = "two"
        current["tenant"] = "one"
        assert [pages_of_row(Sheet, title)[0] for title in "abc"] == [2, 2, 2]


@committed
def test_memory_of_the_process_is_separate_by_tenant(switch, monkeypatch):
    monkeypatch.setattr(Sheet.objects._queryset_class, "local_timeout", 60)
    Sheet.objects.create(title="a", pages=1)
    for _ in range(2):
        pages_of_row(Sheet)
    write_untold(Sheet, 2)
    switch("two")
    assert pages_of_row(Sheet) == (2, 1)
    switch("one")
    assert pages_of_row(Sheet) == (1, 0)


@committed
def test_more_tenants_than_are_kept(monkeypatch):
    """
    The least recent regions are made again. The entries in the cache stay.
    """
    monkeypatch.setattr("getorcreateplus.writes.registry.MAX_REGIONS", 2)
    config = settings.CACHES["default"] | {"KEY_FUNCTION": joined}
    with override_settings(CACHES={**settings.CACHES, "default": config}):
        Sheet.objects.create(title="a", pages=1)
        for queries in (1, 0):
            for number in range(5):
                current["tenant"] = f"tenant{number}"
                assert pages_of_row(Sheet) == (1, queries)
        current["tenant"] = "one"


@committed
@pytest.mark.database("postgresql")
@MODELS
def test_tenants_by_search_path(switch, model):
    """Like django-tenants: a schema for each tenant, and one connection."""

    def enter(tenant):
        switch(tenant)
        with connection.cursor() as cursor:
            cursor.execute(f"SET search_path = {tenant}, public")

    table = model._meta.db_table
    with connection.cursor() as cursor:
        for tenant in ("one", "two"):
            cursor.execute(f"CREATE SCHEMA {tenant}")
            cursor.execute(
                f"CREATE TABLE {tenant}.{table} (LIKE {table} INCLUDING ALL)"
            )
    try:
        with transaction.atomic():
            for tenant in ("one", "two"):
                enter(tenant)
                _, created = model.objects.get_or_create(
                    title="a", defaults={"pages": len(tenant + tenant[0])}
                )
                assert created
                model.objects.update_or_create(
                    title="b", defaults={"pages": ord(tenant[0])}
                )
        for tenant in ("one", "two"):
            enter(tenant)
            assert pages_of_row(model, "b") == (ord(tenant[0]), 0)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET search_path = public")
            cursor.execute("DROP SCHEMA one CASCADE")
            cursor.execute("DROP SCHEMA two CASCADE")


@committed
def test_default_keys_are_not_made_for_each_call(monkeypatch):
    """With Django's KEY_FUNCTION, tenants cost nothing."""
    Sheet.objects.create(title="a", pages=1)
    for _ in range(2):
        pages_of_row(Sheet)
    made = []
    original = cache_keys.KeyMaker.__init__
    monkeypatch.setattr(
        cache_keys.KeyMaker,
        "__init__",
        lambda self, alias: made.append(original(self, alias)),
    )
    assert pages_of_row(Sheet) == (1, 0)
    assert (
        count_row_statements(lambda: Sheet.objects.filter(title="a").update(pages=2))[1]
        == 1
    )
    assert elsewhere(lambda: pages_of_row(Sheet))[0] == 2
    assert made == []


def qualified(model):
    schema = {
        "postgresql": "public",
        "mysql": connection.settings_dict["NAME"],
        "sqlite": "main",
    }[connection.vendor]
    table = connection.ops.quote_name(model._meta.db_table)
    return f"{connection.ops.quote_name(schema)}.{table}"


@pytest.mark.slow
@committed
@MODELS
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET pages = 2",
        "ALTER TABLE {} ADD note integer",
        # It does not concern a table.
        "/* a */ {}",
    ],
)
def test_statement_that_may_write_the_tables_of_another_tenant(
    switch, model, statement
):
    """For example ALTER SCHEMA a RENAME TO b, and SQL that names a schema."""
    model.objects.create(title="a", pages=1)
    for tenant in ("two", "one"):
        switch(tenant)
        for _ in range(2):
            assert pages_of_row(model)[0] == 1
    if statement.startswith("/*"):
        write_untold(model, 2)
        names = {"mysql": "ALTER USER CURRENT_USER() ACCOUNT UNLOCK"}
        names["postgresql"] = "ALTER SCHEMA public OWNER TO CURRENT_USER"
        names["sqlite"] = "PRAGMA writable_schema = RESET"
        execute(names[connection.vendor])
    elif statement.startswith("UPDATE"):
        execute(statement.format(qualified(model)))
    else:
        write_untold(model, 2)
        execute(statement.format(qualified(model)))
        execute(f"ALTER TABLE {qualified(model)} DROP COLUMN note")
    for tenant in ("two", "one"):
        switch(tenant)
        assert pages_of_row(model)[0] == 2


def quoted_table(model, comment=""):
    name = connection.ops.quote_name(model._meta.db_table)
    return name.replace(".", f"{comment}.")


def save_it():
    price = SharedPrice.plain.get()
    price.uses = 2
    price.save()


def upsert():
    options = {"update_conflicts": True, "update_fields": ["uses"]}
    if connection.features.supports_update_conflicts_with_target:
        options["unique_fields"] = ["name"]
    SharedPrice.plain.bulk_create([SharedPrice(name="a", uses=2)], **options)


@committed
@pytest.mark.database("postgresql", "mysql")
@pytest.mark.parametrize(
    "write",
    [
        save_it,
        upsert,
        lambda: SharedPrice.plain.filter(name="a").update(uses=2),
        lambda: SharedPrice.plain.filter(name="a").delete(),
        lambda: execute(f"UPDATE {quoted_table(SharedPrice)} SET uses = 2"),
        lambda: execute(f"UPDATE {quoted_table(SharedPrice, '/**/')} SET uses = 2"),
    ],
    ids=["save", "upsert", "update", "delete", "SQL", "SQL with a comment"],
)
def test_write_by_a_model_that_names_a_schema(switch, write):
    """
    It may be the table of another tenant, for example for a report on all
    tenants.
    """
    Price.plain.create(name="a", uses=1)
    for tenant in ("two", "one"):
        switch(tenant)
        for _ in range(2):
            assert Price.objects.get_or_create(name="a")[0].uses == 1
    write()
    there = list(Price.plain.values_list("uses", flat=True))
    for tenant in ("two", "one"):
        switch(tenant)
        found, created = Price.objects.get_or_create(name="a")
        assert [found.uses] * (not created) == there
        there = there or [0]


@pytest.mark.django_db
def test_cache_object_that_threads_share_keeps_its_keys(switch):
    """asgiref gives the tasks of an ASGI server an existing one."""
    region = region_of(Sheet.objects.all())
    keys = cache_keys.KeyMaker("default")
    switch("two")
    cache = caches["default"]
    before = cache.make_key("a")
    with keys.again():
        assert cache.make_key("a") == before
        assert caches["default"] is cache
        assert (
            cache_keys.cache_of(region.client.alias).make_key("a")
            == keys.make("a")
            != before
        )
    assert cache_keys.cache_of(region.client.alias) is cache


@committed
@MODELS
def test_function_that_raises_without_a_tenant(model, caplog):
    """A command or a task may have no tenant: it works as without a cache."""

    def without_tenant(key, prefix, version):
        raise LookupError("no tenant")

    found = {
        alias: options | {"KEY_FUNCTION": without_tenant}
        for alias, options in settings.CACHES.items()
    }
    model.objects.create(title="a", pages=1)
    with override_settings(CACHES=found):
        for _ in range(2):
            assert pages_of_row(model) == (1, 1)
        model.objects.filter(title="a").update(pages=2)
        with transaction.atomic():
            model.objects.update_or_create(title="a", defaults={"pages": 3})
            assert pages_of_row(model)[0] == 3
        [(obj, created)] = model.objects.bulk_get_or_create([{"title": "a"}], ["title"])
        assert (obj.pages, created) == (3, False)
        model.objects.invalidate_all()
        obj.delete()
    messages = [each.getMessage() for each in caplog.records]
    assert len({text for text in messages if model._meta.label in text}) == 1
    assert "'no tenant'" in messages[0]
