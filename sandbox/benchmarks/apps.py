from django.apps import AppConfig


class BenchmarksConfig(AppConfig):
    name = "benchmarks"
    # A label of its own, because the benchmark drops the tables.
    label = "benchmark"
