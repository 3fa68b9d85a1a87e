"""Marks for the parameters of tests."""

import pytest


def mostly_slow(values, quick=1):
    """Return these parameters, and mark all but the first of them as slow."""
    values = list(values)
    slow = [pytest.param(value, marks=pytest.mark.slow) for value in values[quick:]]
    return [*values[:quick], *slow]
