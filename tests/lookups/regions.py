"""Querysets that see one region, each with another overridden method."""

from functools import wraps

from django.db.models import Q
from django.db.models.query import ModelIterable
from django.db.models.sql import Query

from ..models import Report, current


def patched(value):
    """Return an attribute of a class in the form that a patch gives it."""
    if isinstance(value, classmethod | staticmethod):
        return type(value)(patched(value.__func__))
    if isinstance(value, property):
        return property(patched(value.fget))

    @wraps(value)
    def patch(*args, **kwargs):
        return value(*args, **kwargs)

    return patch


def here():
    return Q(region=current["region"])


class ByGet:
    def get(self, *args, **kwargs):
        return super().get(*args, here(), **kwargs)


class ByGetArgument:
    def get(self, *args, **kwargs):
        return super().get(*args, region=current["region"], **kwargs)


class ByFilter:
    def filter(self, *args, **kwargs):
        return super().filter(*args, here(), **kwargs)


class ByFilterOrExclude:
    def _filter_or_exclude(self, negate, args, kwargs):
        return super()._filter_or_exclude(negate, (*args, here()), kwargs)


class ByFilterInPlace:
    def _filter_or_exclude_inplace(self, negate, args, kwargs):
        super()._filter_or_exclude_inplace(negate, (*args, here()), kwargs)


class ByName:
    """Replaces a name with another one, as a translation does."""

    def _filter_or_exclude(self, negate, args, kwargs):
        if "name" in kwargs and current["region"] == "us":
            kwargs = kwargs | {"name": "duty"}
        return super()._filter_or_exclude(negate, args, kwargs)


class ByChain:
    def _chain(self):
        chained = super()._chain()
        chained._query.add_q(here())
        return chained


class ByClone:
    def _clone(self):
        clone = super()._clone()
        clone._query.add_q(here())
        return clone


class ByInit:
    def __init__(self, model=None, query=None, using=None, hints=None):
        super().__init__(model, query, using, hints)
        if query is not None:
            self._query.add_q(here())


class ByOrderBy:
    def order_by(self, *field_names):
        ordered = super().order_by(*field_names)
        ordered._query.add_q(here())
        return ordered


class ByFetchAll:
    def _fetch_all(self):
        super()._fetch_all()
        rows = self._result_cache
        if rows and isinstance(rows[0], Report):
            rows[:] = [row for row in rows if row.region == current["region"]]


class ByLen:
    def __len__(self):
        self._fetch_all()
        rows = self._result_cache
        rows[:] = [row for row in rows if row.region == current["region"]]
        return len(rows)


class RegionQuery(Query):
    def get_compiler(self, *args, **kwargs):
        if not self.is_sliced:
            self.add_q(here())
        return super().get_compiler(*args, **kwargs)

    def set_limits(self, low=None, high=None):
        self.add_q(here())
        super().set_limits(low, high)


class ByQuery:
    def __init__(self, model=None, query=None, using=None, hints=None):
        super().__init__(model, query or RegionQuery(model), using, hints)


class RegionIterable(ModelIterable):
    def __iter__(self):
        return (row for row in super().__iter__() if row.region == current["region"])


class ByIterable:
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._iterable_class = RegionIterable


class ByIterableOfClass:
    """Its methods are not overridden: the class has an attribute."""

    @property
    def _iterable_class(self):
        return RegionIterable

    @_iterable_class.setter
    def _iterable_class(self, value):
        pass


class ByGetOrCreate:
    def get_or_create(self, defaults=None, **kwargs):
        kwargs.setdefault("region", current["region"])
        return super().get_or_create(defaults, **kwargs)


def made(*bases):
    return type("".join(base.__name__ for base in bases), bases, {})
