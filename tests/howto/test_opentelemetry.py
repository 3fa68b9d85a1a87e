"""docs/howto/opentelemetry.rst, with the SDK and its exporters in memory."""

import json

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
    import json
    from django.db import transaction
    from django.http import HttpResponse
    from django.test import RequestFactory
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )
    from shop.models import Tag
    from shop.middleware import lookups_of_request

    # After the receivers were connected, as in a worker after a fork.
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    def view(request):
        Tag.objects.get_or_create(name="a")
        Tag.objects.get_or_create(name="a")
        Tag.objects.filter(name="a").update(uses=1)
        with transaction.atomic():
            Tag.objects.get_or_create(name="b")
        return HttpResponse()

    with trace.get_tracer("test").start_as_current_span("request"):
        lookups_of_request(view)(RequestFactory().get("/"))
    [span] = exporter.get_finished_spans()
    points = {
        metric.name: [
            [dict(point.attributes), getattr(point, "value", None) or point.count]
            for point in metric.data.data_points
        ]
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    print(json.dumps({
        "attributes": dict(span.attributes),
        "events": [[event.name, dict(event.attributes)] for event in span.events],
        "points": points,
    }))
"""
MISS = {"model": "shop.Tag", "outcome": "miss", "reason": "no hint"}


def test_metrics_and_span_have_what_the_signals_say(howto):
    project = howto("opentelemetry.rst")
    assert json.loads(project.check(PROGRAM)) == {
        "attributes": {"getorcreateplus.hits": 1, "getorcreateplus.misses": 2},
        "events": [["getorcreateplus.miss", MISS]] * 2,
        "points": {
            "getorcreateplus.lookups": [
                [MISS, 2],
                [{"model": "shop.Tag", "outcome": "hit", "source": "cache"}, 1],
            ],
            "getorcreateplus.cache.duration": [
                [{"model": "shop.Tag", "outcome": "miss"}, 2],
                [{"model": "shop.Tag", "outcome": "hit"}, 1],
            ],
            "getorcreateplus.invalidations": [
                [{"model": "shop.Tag", "scope": "model"}, 1]
            ],
            "getorcreateplus.savepoints_omitted": [[{"model": "shop.Tag"}, 1]],
        },
    }
