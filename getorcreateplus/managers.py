"""
The ready-made managers. Each has the queryset of the same name.

The bases live in ``getorcreateplus.mixins``; import them from here.
"""

from django.db import models

from .mixins.always import BaseAlwaysManager
from .mixins.manager_gets import BaseCachedManager
from .query import (
    AlwaysQuerySet,
    CachedNonAtomicQuerySet,
    CachedQuerySet,
    NonAtomicQuerySet,
    PlusQuerySet,
)

__all__ = [
    "AlwaysManager",
    "BaseAlwaysManager",
    "BaseCachedManager",
    "CachedManager",
    "CachedNonAtomicManager",
    "NonAtomicManager",
    "PlusManager",
]


class CachedManager(BaseCachedManager.from_queryset(CachedQuerySet)):
    use_for_related_fields = True


class AlwaysManager(BaseAlwaysManager.from_queryset(AlwaysQuerySet)):
    use_for_related_fields = True


class NonAtomicManager(models.Manager.from_queryset(NonAtomicQuerySet)):
    use_for_related_fields = True


class CachedNonAtomicManager(BaseCachedManager.from_queryset(CachedNonAtomicQuerySet)):
    use_for_related_fields = True


class PlusManager(BaseCachedManager, BaseAlwaysManager.from_queryset(PlusQuerySet)):
    use_for_related_fields = True
