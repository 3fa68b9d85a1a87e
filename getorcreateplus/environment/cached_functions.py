"""
Results that are kept until models or settings change.

Tests define models and override settings, and so do a few projects. Results
that were computed from them are then computed again.
"""

import functools

from django.core.signals import setting_changed
from django.db.models.signals import class_prepared


def cached_until_models_change(function=None, *, maxsize=None):
    """
    Cache the results of a function of models or fields until a model class is
    prepared, or a setting changes, which a field may depend on.

    ``maxsize`` is the number of results that are kept. None keeps all of them,
    because the arguments are models and fields, of which a project has few.
    """
    if function is None:
        return functools.partial(cached_until_models_change, maxsize=maxsize)
    cached = functools.lru_cache(maxsize)(function)

    def clear(**kwargs):
        cached.cache_clear()

    # No weak references: nothing else refers to clear().
    class_prepared.connect(clear, weak=False)
    setting_changed.connect(clear, weak=False)
    return cached


def runs_after_change_of(changed):
    """Call a function, without arguments, each time this setting changes."""

    def decorator(function):
        def run(*, setting, **kwargs):
            if setting == changed:
                function()

        setting_changed.connect(run, weak=False)
        return function

    return decorator
