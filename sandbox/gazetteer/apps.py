from django.apps import AppConfig


class GazetteerConfig(AppConfig):
    name = "gazetteer"
    # Tables that nobody else has: the demo drops them when it starts.
    label = "sandbox_gazetteer"
