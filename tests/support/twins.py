"""The outcome of a call on a model, in the same words for its twin."""

from django.db import models


def values_of_row(obj):
    """Return all values of an object's row."""
    return {f.attname: getattr(obj, f.attname) for f in obj._meta.concrete_fields}


def outcome_of_twin(call):
    """Return the outcome of a call, with the same names for twins."""
    try:
        result = call()
    except Exception as error:
        return type(error).__name__, str(error).replace("Always", "Plain")
    return values_of_row(result) if isinstance(result, models.Model) else result
