"""
A class under the name by which release 1.0 pickles it.

Releases that share a cache read each other's rows. Rows with binary columns
contain this class, so its name must not change.
"""

from .lookups.rows import MemoryViewBytes as View

__all__ = ["View"]
