# Generic in the model: only the plugin of django-stubs sees a class that
# from_queryset() has made as generic.

from django.db import models

# The base of what as_manager() makes: the plugin searches for its classes
# among those that are built on Manager. All methods are Manager's.
from django.db.models import Manager as BaseAlwaysManager
from typing_extensions import TypeVar

from .query import _Bulk, _Invalidation

__all__ = [
    "AlwaysManager",
    "BaseAlwaysManager",
    "CachedManager",
    "NonAtomicManager",
    "PlusManager",
]

_Model_co = TypeVar("_Model_co", bound=models.Model, covariant=True)

class CachedManager(_Invalidation, _Bulk[_Model_co], models.Manager[_Model_co]):
    use_for_related_fields: bool

class AlwaysManager(_Bulk[_Model_co], models.Manager[_Model_co]):
    use_for_related_fields: bool

class NonAtomicManager(_Bulk[_Model_co], models.Manager[_Model_co]):
    use_for_related_fields: bool

class PlusManager(_Invalidation, _Bulk[_Model_co], models.Manager[_Model_co]):
    use_for_related_fields: bool
