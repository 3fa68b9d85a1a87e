from . import checks  # noqa: F401 - they are registered
from .managers import AlwaysManager, CachedManager, NonAtomicManager, PlusManager
from .query import (
    AlwaysGetOrCreateMixin,
    AlwaysQuerySet,
    CachedGetOrCreateMixin,
    CachedQuerySet,
    NonAtomicGetOrCreateMixin,
    NonAtomicQuerySet,
    PlusQuerySet,
)

__all__ = [
    "AlwaysGetOrCreateMixin",
    "AlwaysManager",
    "AlwaysQuerySet",
    "CachedGetOrCreateMixin",
    "CachedManager",
    "CachedQuerySet",
    "NonAtomicGetOrCreateMixin",
    "NonAtomicManager",
    "NonAtomicQuerySet",
    "PlusManager",
    "PlusQuerySet",
]

__version__ = "0.1.0"
