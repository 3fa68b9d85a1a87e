"""Models whose get() reads the cache."""

from django.db import models

from getorcreateplus import (
    CachedManager,
    CachedNonAtomicManager,
    CachedNonAtomicQuerySet,
    CachedQuerySet,
    PlusManager,
    PlusQuerySet,
)


class PageQuerySet(CachedQuerySet):
    caches_get = True


class QuickPageQuerySet(CachedNonAtomicQuerySet):
    caches_get = True


class PlusPageQuerySet(PlusQuerySet):
    caches_get = True


class PageManager(CachedManager):
    caches_get = True


class Folder(models.Model):
    name = models.CharField(max_length=20, unique=True)

    objects = CachedNonAtomicManager(caches_get=True)


class Page(models.Model):
    """Each manager's get() reads the cache."""

    slug = models.CharField(max_length=20, unique=True)
    title = models.CharField(max_length=40, default="")
    folder = models.ForeignKey(Folder, models.CASCADE, null=True, related_name="pages")

    objects = CachedNonAtomicManager(caches_get=True)
    plain = models.Manager()
    by_class = PageManager()
    by_queryset = PageQuerySet.as_manager()
    quick = CachedManager.from_queryset(QuickPageQuerySet)()
    plus = PlusManager(caches_get=True)
    plus_queryset = PlusPageQuerySet.as_manager()
    foreign = models.Manager.from_queryset(PageQuerySet)()
    uncached = CachedManager()


class NumberedPage(models.Model):
    """Its get() cannot create a row, because a number is required."""

    slug = models.CharField(max_length=20, unique=True)
    number = models.IntegerField()

    objects = PlusManager(caches_get=True)


class BasketQuerySet(CachedNonAtomicQuerySet):
    caches_get = True
    caches_unique_only = True


class Basket(models.Model):
    number = models.IntegerField(unique=True)
    owner = models.CharField(max_length=20)
    status = models.CharField(max_length=20, default="open")
    code = models.CharField(max_length=20, null=True, unique=True)

    objects = BasketQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["owner", "code"], name="basket_owner_code"),
            models.UniqueConstraint(
                fields=["owner"],
                condition=models.Q(status="frozen"),
                name="basket_frozen",
            ),
        ]


class GiftBasket(Basket):
    text = models.CharField(max_length=20)

    objects = BasketQuerySet.as_manager()
