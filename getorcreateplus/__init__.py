from . import checks  # noqa: F401 - they are registered
from .bypassing import bypass
from .managers import (
    AlwaysManager,
    CachedManager,
    CachedNonAtomicManager,
    NonAtomicManager,
    PlusManager,
)
from .query import (
    AlwaysGetOrCreateMixin,
    AlwaysQuerySet,
    CachedGetOrCreateMixin,
    CachedNonAtomicQuerySet,
    CachedQuerySet,
    NonAtomicGetOrCreateMixin,
    NonAtomicQuerySet,
    PlusQuerySet,
)
from .writes.invalidate import invalidate

__all__ = [
    "AlwaysGetOrCreateMixin",
    "AlwaysManager",
    "AlwaysQuerySet",
    "CachedGetOrCreateMixin",
    "CachedManager",
    "CachedNonAtomicManager",
    "CachedNonAtomicQuerySet",
    "CachedQuerySet",
    "NonAtomicGetOrCreateMixin",
    "NonAtomicManager",
    "NonAtomicQuerySet",
    "PlusManager",
    "PlusQuerySet",
    "bypass",
    "invalidate",
]

__version__ = "2.0"
