"""docs/howto/prometheus.rst: two workers of Gunicorn, scraped over HTTP."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.slow

WRITE = """
    from django.db import transaction
    from shop.models import Tag

    Tag.objects.get_or_create(name="a")
    Tag.objects.get_or_create(name="a")
    Tag.objects.get_or_create(name__iexact="a")
    Tag.objects.filter(name="a").update(uses=1)
    with transaction.atomic():
        Tag.objects.get_or_create(name="b")
"""


def samples_of(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("getorcreateplus_")
        and not sample.name.endswith("_created")
    }


def test_counters_of_all_workers_are_added_up(howto):
    project = howto("prometheus.rst")
    folder = project.path / "metrics"
    folder.mkdir()
    command = project.command("PROMETHEUS_MULTIPROC_DIR=")
    assert project.environment["PROMETHEUS_MULTIPROC_DIR"] == "/run/shop-metrics"
    project.environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    with project.running(command):
        for name in ("a", "b"):
            # One of the two waits, so that the other one answers.
            with project.one_worker_busy(f"/tags/{name}/") as answers:
                for _ in range(5):
                    assert project.get(f"/tags/{name}/") == name
            assert answers == [name]
        found = samples_of(project.get("/metrics"))
    seconds = found.pop(("getorcreateplus_cache_seconds_total", "shop.Tag"))
    assert 0 < seconds < 10
    assert found == {
        ("getorcreateplus_hits_total", "shop.Tag", "cache"): 10,
        ("getorcreateplus_misses_total", "shop.Tag", "no hint"): 2,
    }
    assert len({file.name for file in folder.glob("counter_*.db")}) == 2


SCRAPE = """
    from prometheus_client import generate_latest

    print(generate_latest().decode())
"""


def test_each_signal_is_counted(howto):
    project = howto("prometheus.rst")
    found = samples_of(project.check(f"{WRITE}\n{SCRAPE}"))
    found.pop(("getorcreateplus_cache_seconds_total", "shop.Tag"))
    assert found == {
        ("getorcreateplus_hits_total", "shop.Tag", "cache"): 1,
        ("getorcreateplus_misses_total", "shop.Tag", "no hint"): 2,
        ("getorcreateplus_misses_total", "shop.Tag", "not cacheable"): 1,
        ("getorcreateplus_invalidations_total", "shop.Tag"): 1,
        ("getorcreateplus_savepoints_omitted_total", "shop.Tag"): 1,
    }


def test_django_prometheus_exports_the_counters(howto):
    project = howto("prometheus.rst")
    project.add("config/settings.py", 'INSTALLED_APPS += ["django_prometheus"]')
    program = """
        from django.test import RequestFactory
        from django_prometheus.exports import ExportToDjangoView

        view = ExportToDjangoView(RequestFactory().get("/metrics"))
        print(view.content.decode())
    """
    found = samples_of(project.check(f"{WRITE}\n{program}"))
    assert found["getorcreateplus_hits_total", "shop.Tag", "cache"] == 1


def test_cache_backend_of_django_prometheus_is_used_by_djangos_api(howto):
    project = howto("prometheus.rst")
    backend = "django_prometheus.cache.backends.redis.RedisCache"
    project.add("config/settings.py", f'CACHES["default"]["BACKEND"] = "{backend}"')
    assert "its transport is django" in project.manage("getorcreateplus", "status")
