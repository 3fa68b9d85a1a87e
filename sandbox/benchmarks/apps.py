from django.apps import AppConfig


class BenchmarksConfig(AppConfig):
    name = "benchmarks"
    # Tables that nobody else has: the benchmark drops them.
    label = "benchmark"
