"""What a call on a model ends in, said alike for its twin."""

from django.db import models


def values_of_row(obj):
    """Return all that the row of an object holds."""
    return {f.attname: getattr(obj, f.attname) for f in obj._meta.concrete_fields}


def outcome_of_twin(call):
    """Return what a call ends in, with the same names for twins."""
    try:
        result = call()
    except Exception as error:
        return type(error).__name__, str(error).replace("Always", "Plain")
    return values_of_row(result) if isinstance(result, models.Model) else result
