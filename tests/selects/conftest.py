"""Fixtures of the tests of compiled SELECTs."""

from .outcomes import compiled

__all__ = ["compiled"]
