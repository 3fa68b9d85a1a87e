"""
The ready-made managers, each of the queryset of its name.

BaseAlwaysManager lives in ``getorcreateplus.mixins``; import it from here.
"""

from django.db import models

from .mixins.always import BaseAlwaysManager
from .query import AlwaysQuerySet, CachedQuerySet, NonAtomicQuerySet, PlusQuerySet

__all__ = [
    "AlwaysManager",
    "BaseAlwaysManager",
    "CachedManager",
    "NonAtomicManager",
    "PlusManager",
]


class CachedManager(models.Manager.from_queryset(CachedQuerySet)):
    use_for_related_fields = True


class AlwaysManager(BaseAlwaysManager.from_queryset(AlwaysQuerySet)):
    use_for_related_fields = True


class NonAtomicManager(models.Manager.from_queryset(NonAtomicQuerySet)):
    use_for_related_fields = True


class PlusManager(BaseAlwaysManager.from_queryset(PlusQuerySet)):
    use_for_related_fields = True
