"""The models of a user's project."""

from typing import ClassVar

from django.db import models

import getorcreateplus as plus


class Tag(models.Model):
    name = models.CharField(max_length=50, unique=True)
    objects = plus.PlusManager()


class OwnManager(plus.PlusManager["Book"]):
    def get_queryset(self) -> models.QuerySet["Book"]:
        return super().get_queryset().filter(hidden=False)

    def get_by_natural_key(self, title: str) -> "Book":
        return self.get(title=title)


class OwnerManager(OwnManager):
    pass


class Book(models.Model):
    title = models.CharField(max_length=50)
    hidden = models.BooleanField(default=False)
    tags = models.ManyToManyField(Tag, related_name="books")
    objects = OwnManager()
    subclassed = OwnerManager()
    annotated: ClassVar[plus.PlusManager["Book"]] = plus.PlusManager()


class ChapterQuerySet(plus.PlusQuerySet["Chapter"]):
    cache_timeout = 60

    def long(self) -> "ChapterQuerySet":
        return self.filter(pages__gt=20)


class LongChapterQuerySet(ChapterQuerySet):
    pass


class MixedQuerySet(
    plus.CachedGetOrCreateMixin,
    plus.AlwaysGetOrCreateMixin,
    plus.NonAtomicGetOrCreateMixin,
    models.QuerySet["Chapter"],
):
    local_timeout = 60
    object_cache_alias = "default"

    def long(self) -> "MixedQuerySet":
        return self.filter(pages__gt=20)


ChapterManager = plus.PlusManager.from_queryset(ChapterQuerySet)


BaseLongChapterManager = plus.PlusManager.from_queryset(LongChapterQuerySet)


class LongChapterManager(BaseLongChapterManager["Chapter"]):
    pass


class Chapter(models.Model):
    book = models.ForeignKey(Book, models.CASCADE, related_name="chapters")
    title = models.CharField(max_length=50)
    pages = models.IntegerField(default=0)
    objects = plus.PlusManager.from_queryset(ChapterQuerySet)()
    assigned = ChapterManager()
    inherited = LongChapterManager()
    as_manager = ChapterQuerySet.as_manager()
    as_subclass = LongChapterQuerySet.as_manager()
    mixed = MixedQuerySet.as_manager()
    mixed_queryset = plus.PlusManager.from_queryset(MixedQuerySet)()


class NoteQuerySet(plus.PlusQuerySet["Note"]):
    pass


class Note(models.Model):
    book = models.ForeignKey(Book, models.CASCADE, related_name="notes")
    text = models.CharField(max_length=50)
    objects = NoteQuerySet.as_manager()


# Without type arguments


class BareQuerySet(plus.PlusQuerySet):
    def active(self) -> "BareQuerySet":
        return self.filter(active=True)


class BareManager(plus.PlusManager):
    def add(self, name: str) -> None:
        self.get_or_create(name=name)


class Bare(models.Model):
    name = models.CharField(max_length=50)
    active = models.BooleanField(default=True)
    objects = BareManager()
    mixed = BareManager.from_queryset(BareQuerySet)()
    as_manager = BareQuerySet.as_manager()
