"""
The name by which release 1.0 pickles a class.

Releases that share a cache read each other's rows. Those with binary columns
have this class in them, so its name must not change.
"""

from .lookups.rows import MemoryViewBytes as View

__all__ = ["View"]
