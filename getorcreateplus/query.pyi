# The mixins omit the methods that QuerySet has: in a class of a mixin and
# QuerySet[Tag] these are then QuerySet's, whose types have the model.

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Generic, Self

from django.db import models
from typing_extensions import TypeVar

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

# As in django-stubs.
_Model_co = TypeVar("_Model_co", bound=models.Model, covariant=True)
_Row_co = TypeVar("_Row_co", covariant=True, default=_Model_co)

class GetOrCreateBase:
    compiled_selects: bool
    lookups_as_written: bool

# The methods of the mixins that QuerySet does not have. The class exists in
# the stubs only, because the mixins are not generic in their model.
class _Bulk(Generic[_Model_co]):
    def bulk_get_or_create(
        self,
        objs: Iterable[models.Model | Mapping[str, Any]],
        unique_fields: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[tuple[_Model_co, bool]]: ...
    def ibulk_get_or_create(
        self,
        objs: Iterable[models.Model | Mapping[str, Any]],
        unique_fields: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[tuple[_Model_co, bool]]: ...
    async def abulk_get_or_create(
        self,
        objs: Iterable[models.Model | Mapping[str, Any]],
        unique_fields: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> list[tuple[_Model_co, bool]]: ...
    def aibulk_get_or_create(
        self,
        objs: Iterable[models.Model | Mapping[str, Any]]
        | AsyncIterable[models.Model | Mapping[str, Any]],
        unique_fields: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> AsyncGenerator[tuple[_Model_co, bool]]: ...
    def bulk_update_or_create(
        self,
        objs: Iterable[models.Model | Mapping[str, Any]],
        unique_fields: Sequence[str] | None = None,
        update_fields: Sequence[str] | None = None,
        create_defaults: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        *,
        only_changed: bool = False,
    ) -> list[tuple[_Model_co, bool]]: ...
    def ibulk_update_or_create(
        self,
        objs: Iterable[models.Model | Mapping[str, Any]],
        unique_fields: Sequence[str] | None = None,
        update_fields: Sequence[str] | None = None,
        create_defaults: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        *,
        only_changed: bool = False,
    ) -> Iterator[tuple[_Model_co, bool]]: ...
    async def abulk_update_or_create(
        self,
        objs: Iterable[models.Model | Mapping[str, Any]],
        unique_fields: Sequence[str] | None = None,
        update_fields: Sequence[str] | None = None,
        create_defaults: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        *,
        only_changed: bool = False,
    ) -> list[tuple[_Model_co, bool]]: ...
    def aibulk_update_or_create(
        self,
        objs: Iterable[models.Model | Mapping[str, Any]]
        | AsyncIterable[models.Model | Mapping[str, Any]],
        unique_fields: Sequence[str] | None = None,
        update_fields: Sequence[str] | None = None,
        create_defaults: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
        *,
        only_changed: bool = False,
    ) -> AsyncGenerator[tuple[_Model_co, bool]]: ...

class _Invalidation:
    def invalidate(self, *objs_or_pks: Any) -> None: ...
    async def ainvalidate(self, *objs_or_pks: Any) -> None: ...
    def invalidate_all(self) -> None: ...
    async def ainvalidate_all(self) -> None: ...

class CachedGetOrCreateMixin(_Invalidation, GetOrCreateBase):
    key_cache_alias: str
    object_cache_alias: str | None
    cache_timeout: float | None
    local_timeout: float | None
    caches_get: bool
    caches_unique_only: bool
    def refreshed(self) -> Self: ...

class AlwaysGetOrCreateMixin(GetOrCreateBase): ...
class NonAtomicGetOrCreateMixin(GetOrCreateBase): ...
class CachedQuerySet(
    CachedGetOrCreateMixin, _Bulk[_Model_co], models.QuerySet[_Model_co, _Row_co]
): ...
class AlwaysQuerySet(
    AlwaysGetOrCreateMixin, _Bulk[_Model_co], models.QuerySet[_Model_co, _Row_co]
): ...
class NonAtomicQuerySet(
    NonAtomicGetOrCreateMixin, _Bulk[_Model_co], models.QuerySet[_Model_co, _Row_co]
): ...
class CachedNonAtomicQuerySet(
    CachedGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
    _Bulk[_Model_co],
    models.QuerySet[_Model_co, _Row_co],
): ...
class PlusQuerySet(
    CachedGetOrCreateMixin,
    AlwaysGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
    _Bulk[_Model_co],
    models.QuerySet[_Model_co, _Row_co],
): ...
