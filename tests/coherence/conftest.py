"""
Servers that the tests of a module share, and the stage of
test_interleavings.py and test_rules.py, on PostgreSQL.
"""

import threading
from importlib.util import find_spec

import pytest
from django.db import connection

from getorcreateplus.coherence.debts import Debts

from ..models import FarGauge, Gauge, History
from ..support.servers import memcached, redis_server
from .interleavings import company
from .stages import Stage

collect_ignore = [] if find_spec("pylibmc") else ["test_pylibmc.py"]


@pytest.fixture(scope="module")
def redis_location():
    with redis_server() as location:
        yield location


@pytest.fixture(scope="module")
def memcached_location():
    with memcached() as location:
        yield location


@pytest.fixture
def cached(settings):
    gated = "tests.coherence.interleavings.GatedCache"
    settings.CACHES = {
        "default": {"BACKEND": gated, "LOCATION": "gated"},
        FarGauge._meta.model_name: {"BACKEND": gated, "LOCATION": "gated far"},
    }


@pytest.fixture
def history(cached):
    """Make the server record every value, in the order of the commits."""
    table = History._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit TO off")
        cursor.execute(
            f"""
            CREATE FUNCTION note_value() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO {table} ("row", value) VALUES (
                    COALESCE(NEW.id, OLD.id),
                    CASE WHEN NEW.name = 'row' THEN NEW.value END
                );
                RETURN NULL;
            END $$
            """
        )
        for model in Gauge, FarGauge:
            cursor.execute(
                f"CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON"
                f" {model._meta.db_table} FOR EACH ROW EXECUTE FUNCTION note_value()"
            )
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION note_value CASCADE")
        cursor.execute("RESET synchronous_commit")


@pytest.fixture
def debts_of_the_living(monkeypatch):
    """The debts of a process end with it. This process plays several."""
    add = Debts._add

    def add_of_the_living(debts, *args):
        if not getattr(threading.current_thread(), "dies", False):
            add(debts, *args)

    monkeypatch.setattr(Debts, "_add", add_of_the_living)


@pytest.fixture
def actors(history, debts_of_the_living):
    with company(4) as actors:
        yield actors


@pytest.fixture
def stage(actors):
    return Stage(Gauge, actors)


@pytest.fixture
def far_stage(actors):
    return Stage(FarGauge, actors)
