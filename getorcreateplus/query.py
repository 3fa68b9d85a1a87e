"""
The ready-made querysets, and the mixins for querysets of your own.

The mixins live in ``getorcreateplus.mixins``; import them from here.
"""

from django.db import models

from .mixins.always import AlwaysGetOrCreateMixin
from .mixins.base import GetOrCreateBase
from .mixins.cached import CachedGetOrCreateMixin
from .mixins.nonatomic import NonAtomicGetOrCreateMixin

__all__ = [
    "AlwaysGetOrCreateMixin",
    "AlwaysQuerySet",
    "CachedGetOrCreateMixin",
    "CachedNonAtomicQuerySet",
    "CachedQuerySet",
    "GetOrCreateBase",
    "NonAtomicGetOrCreateMixin",
    "NonAtomicQuerySet",
    "PlusQuerySet",
]


class CachedQuerySet(CachedGetOrCreateMixin, models.QuerySet):
    pass


class AlwaysQuerySet(AlwaysGetOrCreateMixin, models.QuerySet):
    pass


class NonAtomicQuerySet(NonAtomicGetOrCreateMixin, models.QuerySet):
    pass


class CachedNonAtomicQuerySet(
    CachedGetOrCreateMixin, NonAtomicGetOrCreateMixin, models.QuerySet
):
    pass


class PlusQuerySet(
    CachedGetOrCreateMixin,
    AlwaysGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
    models.QuerySet,
):
    pass
