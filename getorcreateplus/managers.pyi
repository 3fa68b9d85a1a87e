# Generic in the model: only the plugin of django-stubs sees a class that
# from_queryset() has made as generic.

from typing import Generic

from django.db import models

# The base of what as_manager() makes: the plugin searches for its classes
# among those that are built on Manager. All methods are Manager's.
from django.db.models import Manager as BaseAlwaysManager
from django.db.models import Manager as BaseCachedManager
from typing_extensions import TypeVar

from .query import _Bulk, _Invalidation

__all__ = [
    "AlwaysManager",
    "BaseAlwaysManager",
    "BaseCachedManager",
    "CachedManager",
    "CachedNonAtomicManager",
    "NonAtomicManager",
    "PlusManager",
]

_Model_co = TypeVar("_Model_co", bound=models.Model, covariant=True)

class _Caching(Generic[_Model_co]):
    caches_get: bool | None
    def __init__(self, *, caches_get: bool | None = None) -> None: ...
    def refreshed(self) -> models.QuerySet[_Model_co]: ...

class CachedManager(
    _Caching[_Model_co], _Invalidation, _Bulk[_Model_co], models.Manager[_Model_co]
):
    use_for_related_fields: bool

class AlwaysManager(_Bulk[_Model_co], models.Manager[_Model_co]):
    use_for_related_fields: bool

class NonAtomicManager(_Bulk[_Model_co], models.Manager[_Model_co]):
    use_for_related_fields: bool

class CachedNonAtomicManager(
    _Caching[_Model_co], _Invalidation, _Bulk[_Model_co], models.Manager[_Model_co]
):
    use_for_related_fields: bool

class PlusManager(
    _Caching[_Model_co], _Invalidation, _Bulk[_Model_co], models.Manager[_Model_co]
):
    use_for_related_fields: bool
