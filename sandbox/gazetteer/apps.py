from django.apps import AppConfig


class GazetteerConfig(AppConfig):
    name = "gazetteer"
    # The name of its own tables: the demo drops them when it starts.
    label = "sandbox_gazetteer"
