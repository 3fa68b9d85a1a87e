from django.apps import AppConfig


class BulkConfig(AppConfig):
    name = "bulk"
    # Tables that nobody else has: the demo drops them when it starts.
    label = "sandbox_bulk"
