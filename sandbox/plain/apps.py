from django.apps import AppConfig


class PlainConfig(AppConfig):
    name = "plain"
    # Tables that nobody else has: the demo drops them when it starts.
    label = "sandbox_plain"
