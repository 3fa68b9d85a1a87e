"""Papers, sheets and tickets: models whose rows are cached."""

from django.core.cache import caches
from django.db import models

from getorcreateplus import CachedManager, CachedQuerySet, PlusManager


class CachedMutableModel(models.Model):
    foo = models.CharField(max_length=8)
    bar = models.IntegerField(null=True)

    objects = CachedManager()

    def save(self, **kwargs):
        caches[self._meta.model_name].delete(self.pk)
        return super().save(**kwargs)


class Rack(models.Model):
    name = models.CharField(max_length=20, unique=True)

    objects = PlusManager()


class Scroll(models.Model):
    name = models.CharField(max_length=20, unique=True)
    text = models.TextField()

    objects = PlusManager()


class AbstractPaper(models.Model):
    title = models.CharField(max_length=40)
    pages = models.IntegerField(null=True)
    hidden = models.BooleanField(default=False)
    rack = models.ForeignKey(
        Rack, models.CASCADE, null=True, related_name="%(class)s_set"
    )

    class Meta:
        abstract = True


class PlainPaper(AbstractPaper):
    pass


class Paper(AbstractPaper):
    """There is a cache with its name, where its rows are stored."""

    objects = CachedManager()


class Sheet(AbstractPaper):
    """
    There is no cache with its name: its rows are stored in the default cache.
    """

    objects = CachedManager()


class PlusPaper(AbstractPaper):
    objects = PlusManager()


class VisibleManager(CachedManager):
    def get_queryset(self):
        return super().get_queryset().filter(hidden=False)


class Poster(AbstractPaper):
    """Cached by a manager that filters, and plain by another."""

    objects = VisibleManager()
    everything = models.Manager()


class Ticket(models.Model):
    """A field has the name of an option, and the primary key is natural."""

    code = models.CharField(max_length=20, primary_key=True)
    force_select = models.BooleanField(default=False)
    seats = models.IntegerField(default=0)

    objects = CachedQuerySet.as_manager()


class Slot(models.Model):
    """Cached under a primary key of two columns."""

    pk = models.CompositePrimaryKey("room", "hour")
    room = models.IntegerField()
    hour = models.IntegerField()
    note = models.CharField(max_length=20, default="")

    objects = CachedManager()


class LongQuerySet(CachedQuerySet):
    local_timeout = 3600


class BriefQuerySet(CachedQuerySet):
    local_timeout = 1e-9


class ForeverQuerySet(CachedQuerySet):
    local_timeout = None


class Zone(models.Model):
    """Its rows stay in process memory for the time that a manager sets."""

    name = models.CharField(max_length=20, unique=True)
    size = models.IntegerField(null=True)
    notes = models.JSONField(default=dict)

    objects = LongQuerySet.as_manager()
    brief = BriefQuerySet.as_manager()
    forever = ForeverQuerySet.as_manager()
    plain = models.Manager()
