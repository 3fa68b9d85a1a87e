# The mixins leave out what QuerySet has: in a class of theirs and
# QuerySet[Tag] these methods are then QuerySet's, whose types know the model.

from django.db import models
from typing_extensions import TypeVar

# As in django-stubs.
_Model_co = TypeVar("_Model_co", bound=models.Model, covariant=True)
_Row_co = TypeVar("_Row_co", covariant=True, default=_Model_co)

class GetOrCreateBase: ...

class CachedGetOrCreateMixin(GetOrCreateBase):
    key_cache_alias: str
    object_cache_alias: str | None
    cache_timeout: float | None
    local_timeout: float | None

class AlwaysGetOrCreateMixin(GetOrCreateBase): ...
class NonAtomicGetOrCreateMixin(GetOrCreateBase): ...
class CachedQuerySet(CachedGetOrCreateMixin, models.QuerySet[_Model_co, _Row_co]): ...
class AlwaysQuerySet(AlwaysGetOrCreateMixin, models.QuerySet[_Model_co, _Row_co]): ...
class NonAtomicQuerySet(
    NonAtomicGetOrCreateMixin, models.QuerySet[_Model_co, _Row_co]
): ...
class PlusQuerySet(
    CachedGetOrCreateMixin,
    AlwaysGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
    models.QuerySet[_Model_co, _Row_co],
): ...
