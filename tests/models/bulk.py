"""Twins for bulk_get_or_create(): it must equal single calls of Plain*."""

import uuid

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models
from django.db.models.functions import Now, Upper

from getorcreateplus import (
    AlwaysManager,
    CachedManager,
    CachedQuerySet,
    NonAtomicManager,
    PlusManager,
    PlusQuerySet,
)


class AbstractItem(models.Model):
    code = models.CharField(max_length=20, unique=True)
    size = models.IntegerField(default=0)
    weight = models.FloatField(null=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
        constraints = [
            models.CheckConstraint(
                condition=models.Q(size__lt=100), name="%(class)s_size"
            )
        ]

    def set_title(self, value):
        self.code = value.lower()

    title = property(fset=set_title)


class PlainItem(AbstractItem):
    pass


class AlwaysItem(AbstractItem):
    objects = AlwaysManager()


class CachedItem(AbstractItem):
    objects = CachedManager()


class NonAtomicItem(AbstractItem):
    objects = NonAtomicManager()


class LocalItemQuerySet(CachedQuerySet):
    local_timeout = 60


class PlusItem(AbstractItem):
    objects = PlusManager()
    local = LocalItemQuerySet.as_manager()


class HeavyPlusItem(PlusItem):
    """Its rows have a part in the parent's table."""

    load = models.IntegerField(default=0)

    objects = PlusManager()

    class Meta:  # Not AbstractItem's: the column isn't in this table.
        constraints = []


class ProxyPlusItem(PlusItem):
    class Meta:
        proxy = True


class Shelf(models.Model):
    name = models.CharField(max_length=20, unique=True)
    labels = models.ManyToManyField("Label", related_name="shelves")
    remarks = GenericRelation("Remark")

    objects = PlusManager()


class AbstractBook(models.Model):
    """Two unique constraints: of two columns, and of one that may be NULL."""

    shelf = models.ForeignKey(Shelf, models.CASCADE, related_name="%(class)s_set")
    place = models.IntegerField()
    part = models.CharField(max_length=10, null=True)
    isbn = models.CharField(max_length=20, unique=True, null=True)

    class Meta:
        abstract = True
        constraints = [
            models.UniqueConstraint(
                fields=["shelf", "place"], name="%(class)s_place_unique"
            )
        ]


class PlainBook(AbstractBook):
    pass


class PlusBook(AbstractBook):
    objects = PlusManager()


class Label(models.Model):
    text = models.CharField(max_length=20)

    objects = PlusQuerySet.as_manager()


class Remark(models.Model):
    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.BigIntegerField()
    of = GenericForeignKey()
    text = models.CharField(max_length=20)

    objects = models.Manager.from_queryset(PlusQuerySet)()


class KeyedByUUID(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=20, unique=True)

    objects = PlusManager()


class KeyedByName(models.Model):
    name = models.CharField(max_length=20, primary_key=True)
    size = models.IntegerField(default=0)

    objects = PlusManager()


class AbstractSlot(models.Model):
    """Django gives the primary key: an INSERT returns nothing."""

    key = models.CharField(max_length=20, primary_key=True)
    number = models.IntegerField(default=0)

    class Meta:
        abstract = True


class PlainSlot(AbstractSlot):
    pass


class CachedSlot(AbstractSlot):
    objects = CachedManager()


class NonAtomicSlot(AbstractSlot):
    objects = NonAtomicManager()


class PlusSlot(AbstractSlot):
    objects = PlusManager()


class KeyedByBoth(models.Model):
    pk = models.CompositePrimaryKey("room", "hour")
    room = models.IntegerField()
    hour = models.IntegerField()
    note = models.CharField(max_length=20, default="")

    objects = PlusManager()


class Computed(models.Model):
    """Columns whose values the database sets."""

    name = models.CharField(max_length=20, unique=True)
    kind = models.CharField(max_length=20, db_default="noun")
    born = models.DateTimeField(db_default=Now())
    upper = models.GeneratedField(
        expression=Upper("name"),
        output_field=models.CharField(max_length=20),
        db_persist=True,
    )

    objects = PlusManager()


class Postponed(models.Model):
    name = models.CharField(max_length=20)

    objects = PlusManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["name"],
                name="postponed_name",
                deferrable=models.Deferrable.IMMEDIATE,
            )
        ]
        required_db_features = {"supports_deferrable_unique_constraints"}


class Chapter(models.Model):
    shelf = models.ForeignKey(Shelf, models.CASCADE)
    title = models.CharField(max_length=20, unique=True)

    objects = PlusManager()

    class Meta:
        order_with_respect_to = "shelf"


class CaseBlind(models.Model):
    """A column whose collation ignores the case, as on MariaDB."""

    name = models.CharField(
        max_length=20,
        unique=True,
        db_collation="NOCASE" if connection.vendor == "sqlite" else None,
    )

    objects = PlusManager()


class BlindWord(models.Model):
    """The same with a value, and with a name that need not be unique."""

    unique = models.CharField(
        max_length=20,
        unique=True,
        null=True,
        db_collation="NOCASE" if connection.vendor == "sqlite" else None,
    )
    name = models.CharField(
        max_length=20,
        db_collation="NOCASE" if connection.vendor == "sqlite" else None,
    )
    size = models.IntegerField(default=0)

    objects = PlusManager()


class Sizes(models.Model):
    """Numbers of each type."""

    code = models.CharField(max_length=20, unique=True)
    small = models.SmallIntegerField(default=0)
    number = models.IntegerField(default=0)
    big = models.BigIntegerField(default=0)
    price = models.DecimalField(max_digits=30, decimal_places=10, default=0)

    objects = PlusManager()


class LowerCodeField(models.CharField):
    def get_prep_value(self, value):
        return super().get_prep_value(value).lower()


class LowerCode(models.Model):
    code = LowerCodeField(max_length=20, unique=True)

    objects = PlusManager()


class Mixed(models.Model):
    """A key, and columns of several types that may be NULL."""

    code = models.CharField(max_length=20, unique=True)
    rank = models.IntegerField(unique=True, null=True)
    price = models.DecimalField(max_digits=12, decimal_places=6, null=True)
    data = models.JSONField(null=True)

    objects = PlusManager()


class ShortNames(models.Model):
    """Its table and a column have names that an alias might have."""

    code = models.CharField(max_length=20, unique=True)
    c1 = models.IntegerField(default=0)
    c2 = models.IntegerField(default=0)

    objects = PlusManager()

    class Meta:
        db_table = "v"
