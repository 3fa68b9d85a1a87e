from django.apps import AppConfig


class PlainConfig(AppConfig):
    name = "plain"
    # The name of its own tables: the demo drops them when it starts.
    label = "sandbox_plain"
