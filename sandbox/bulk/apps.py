from django.apps import AppConfig


class BulkConfig(AppConfig):
    name = "bulk"
    # The name of its own tables: the demo drops them when it starts.
    label = "sandbox_bulk"
