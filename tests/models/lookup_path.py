"""Models whose querysets or managers change Django's lookups."""

from django.db import models

from getorcreateplus import (
    AlwaysManager,
    CachedManager,
    CachedQuerySet,
    PlusManager,
    PlusQuerySet,
)

# What the querysets depend on, like a language or a tenant.
current = {"region": "eu"}


class RegionMixin:
    """A queryset whose get() finds the rows of one region."""

    def get(self, *args, **kwargs):
        return super().get(*args, region=current["region"], **kwargs)


class CachedRegionQuerySet(RegionMixin, CachedQuerySet):
    pass


class PlusRegionQuerySet(RegionMixin, PlusQuerySet):
    pass


class PlainRegionQuerySet(RegionMixin, models.QuerySet):
    pass


class PatchingMixin:
    """A manager whose querysets have their own get()."""

    def get_queryset(self):
        queryset = super().get_queryset()
        get = queryset.get
        queryset.get = lambda **kwargs: get(region=current["region"], **kwargs)
        return queryset


class PlainPatchingManager(PatchingMixin, models.Manager):
    pass


class PlusPatchingManager(PatchingMixin, PlusManager):
    pass


class NameManager(PlusManager):
    """Django's get_or_create() does not call its own get() and filter()."""

    def get(self, *args, **kwargs):
        return super().get(*args, region=current["region"], **kwargs)

    def filter(self, *args, **kwargs):
        return super().filter(*args, region=current["region"], **kwargs)


class Desk(models.Model):
    title = models.CharField(max_length=20)


class Report(models.Model):
    """Without a unique constraint, as each region has its own."""

    name = models.CharField(max_length=20)
    region = models.CharField(max_length=2, default="eu")
    note = models.CharField(max_length=20, default="")
    desk = models.ForeignKey(Desk, models.CASCADE, null=True, related_name="reports")

    objects = CachedManager()
    plain = models.Manager()
    plain_region = PlainRegionQuerySet.as_manager()
    cached_region = CachedRegionQuerySet.as_manager()
    plus_region = PlusRegionQuerySet.as_manager()
    from_queryset = AlwaysManager.from_queryset(PlusRegionQuerySet)()
    plain_patched = PlainPatchingManager()
    patched = PlusPatchingManager()
    by_name = NameManager()
