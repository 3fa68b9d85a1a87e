"""docs/howto/tenants.rst: django-tenants, with a schema for each tenant."""

import uuid

import pytest
from django.db import connection

from .projects import files_of

pytestmark = pytest.mark.slow

BEGINNING = """
    from django.core.cache import caches
    from django.db import transaction
    from django_tenants.utils import schema_context
    from customers.models import Client, Plan
    from getorcreateplus.statistics import Statistics
    from shop.models import Tag

    def get(model, name):
        with Statistics() as statistics:
            obj, created = model.objects.get_or_create(name=name)
        return obj, statistics.total.hits
"""
FIRST = """
    # The tables of a new schema invalidate the rows of all.
    for name in ("one", "two"):
        Client.objects.create(schema_name=name, name=name)
    for number, name in enumerate(["one", "two"], 1):
        with schema_context(name):
            Tag.objects.get_or_create(name="django", defaults={"uses": number})
    Plan.objects.get_or_create(name="free")
"""
# In another process.
SECOND = """
    for number, name in enumerate(["one", "two"], 1):
        with schema_context(name):
            tag, hits = get(Tag, "django")
            assert (tag.pk, tag.uses, hits) == (1, number, 1)

    # A write of one tenant is one of that tenant.
    with schema_context("one"):
        Tag.objects.filter(pk=1).update(uses=10)
        assert get(Tag, "django")[0].uses == 10
    with schema_context("two"):
        tag, hits = get(Tag, "django")
        assert (tag.uses, hits) == (2, 1)

    # The tenant is another one at the commit.
    with transaction.atomic():
        for number, name in enumerate(["one", "two"], 21):
            with schema_context(name):
                Tag.objects.update_or_create(name="django", defaults={"uses": number})
    for number, name in enumerate(["one", "two"], 21):
        with schema_context(name):
            assert get(Tag, "django")[0].uses == number
            assert get(Tag, "django")[1] == 1

    # A shared table.
    for price, (writer, reader) in enumerate([("one", "two"), ("two", "one")], 1):
        with schema_context(writer):
            plan, _ = get(Plan, "free")
            plan.price = price
            plan.save()
        with schema_context(reader):
            assert get(Plan, "free")[0].price == price
            assert get(Plan, "free")[1] == 1

    # The deployment's prefix.
    with schema_context("one"):
        assert caches["default"].make_key("a") == "one:staging.default:1:a"
    assert caches["shared"].make_key("a") == "staging.shared:1:a"
"""


@pytest.fixture
def database():
    """Return the options of an empty database."""
    name = f"{connection.settings_dict['NAME']}_{uuid.uuid4().hex[:8]}"
    keys = "ENGINE", "HOST", "PASSWORD", "PORT", "USER"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        yield {"NAME": name, **{key: connection.settings_dict[key] for key in keys}}
        cursor.execute(f"DROP DATABASE {name}")


@pytest.mark.database("postgresql")
@pytest.mark.django_db(transaction=True)  # CREATE DATABASE cannot roll back
def test_each_tenant_has_rows_of_its_own(howto, database):
    project = howto("tenants.rst", migrate=False)
    settings = project.path / "config/settings.py"
    settings.write_text(
        settings.read_text().replace(
            "\nSHARED_APPS", f"\nDATABASES['default'] = {database}\n\nSHARED_APPS"
        )
    )
    project.add("customers/__init__.py", "")
    assert "W020" not in project.manage("check")
    project.manage("makemigrations", "customers", "shop", "--verbosity", "0")
    project.manage("migrate_schemas", "--shared", "--verbosity", "0")
    project.check(f"{BEGINNING}\n{FIRST}")
    project.check(f"{BEGINNING}\n{SECOND}")


# By a function of the project's own, on any database.
OWN_FUNCTION = """
    from django.conf import settings
    from django.test import override_settings
    from config.tenancy import tenant
    from getorcreateplus.statistics import Statistics
    from shop.models import Tag

    def hits_of(name):
        tenant.set(name)
        with Statistics() as statistics:
            Tag.objects.get_or_create(name="django")
        return statistics.total.hits

    default = settings.CACHES["default"]
    own = {**default, "KEY_FUNCTION": "config.tenancy.make_key"}
    with override_settings(CACHES={"default": own}):
        with Statistics() as statistics:
            Tag.objects.get_or_create(name="django")
        assert statistics.total.hits == 0
        assert [hits_of(name) for name in ("one", "one", "two", "two")] == [0, 1, 0, 1]
"""


def test_own_function_makes_keys_for_each_tenant(howto):
    project = howto("index.rst")
    project.add("config/tenancy.py", files_of("tenants.rst")["config/tenancy.py"])
    project.check(OWN_FUNCTION)
