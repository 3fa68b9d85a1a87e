"""Twins for NonAtomicQuerySet: every kind of key, relation and constraint."""

import uuid

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models, transaction
from django.db.models.functions import Now, Upper

from getorcreateplus import (
    CachedManager,
    NonAtomicManager,
    NonAtomicQuerySet,
    PlusManager,
)


class Audit(models.Model):
    text = models.CharField(max_length=20, unique=True)


class Entry(models.Model):
    name = models.CharField(max_length=20, unique=True)
    slug = models.CharField(max_length=20, unique=True, null=True)
    size = models.IntegerField(default=0)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True
        constraints = [
            models.CheckConstraint(
                condition=models.Q(size__lt=100), name="%(class)s_size"
            )
        ]

    def set_title(self, value):
        self.slug = value.lower()

    title = property(fset=set_title)


class PlainEntry(Entry):
    pass


class NonAtomicEntry(Entry):
    objects = NonAtomicManager()


class NonAtomicAtomicEntry(NonAtomicEntry):
    """save() brings its own savepoint."""

    class Meta:
        proxy = True

    @transaction.atomic
    def save(self, **kwargs):
        super().save(**kwargs)


class NonAtomicQueryingEntry(NonAtomicEntry):
    """save() continues after an error."""

    class Meta:
        proxy = True

    def save(self, **kwargs):
        try:
            super().save(**kwargs)
        finally:
            Audit.objects.count()


class PlainSpecialEntry(PlainEntry):
    rank = models.IntegerField(default=0, unique=True)

    class Meta:  # Not Entry's: the column isn't in this table.
        constraints = []


class NonAtomicSpecialEntry(NonAtomicEntry):
    rank = models.IntegerField(default=0, unique=True)

    objects = NonAtomicManager()

    class Meta:  # Not Entry's: the column isn't in this table.
        constraints = []


class PlainProxyEntry(PlainEntry):
    class Meta:
        proxy = True


class NonAtomicProxyEntry(NonAtomicEntry):
    class Meta:
        proxy = True


class UUIDKey(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=20, unique=True)

    class Meta:
        abstract = True


class PlainUUIDKey(UUIDKey):
    pass


class NonAtomicUUIDKey(UUIDKey):
    objects = NonAtomicManager()


class NaturalKey(models.Model):
    name = models.CharField(max_length=20, primary_key=True)

    class Meta:
        abstract = True


class PlainNaturalKey(NaturalKey):
    pass


class NonAtomicNaturalKey(NaturalKey):
    objects = NonAtomicManager()


class CompositeKey(models.Model):
    pk = models.CompositePrimaryKey("name", "part")
    name = models.CharField(max_length=20)
    part = models.IntegerField(default=1)

    class Meta:
        abstract = True


class PlainCompositeKey(CompositeKey):
    pass


class NonAtomicCompositeKey(CompositeKey):
    objects = NonAtomicManager()


class Word(str):
    __slots__ = ()


class WordField(models.CharField):
    def from_db_value(self, value, expression, connection):
        return value if value is None else Word(value)


class DatabaseValue(models.Model):
    """Columns with values of the database, or of its converter."""

    id = models.CharField(
        max_length=20, primary_key=True, db_default=models.Value("seven")
    )
    name = WordField(max_length=20, unique=True)
    kind = WordField(max_length=20, db_default=models.Value("noun"))
    born = models.DateTimeField(db_default=Now())
    upper = models.GeneratedField(
        expression=Upper("name"),
        output_field=models.CharField(max_length=20),
        db_persist=True,
    )

    class Meta:
        abstract = True


class PlainDatabaseValue(DatabaseValue):
    pass


class NonAtomicDatabaseValue(DatabaseValue):
    objects = NonAtomicManager()


class Deferrable(models.Model):
    name = models.CharField(max_length=20)

    class Meta:
        abstract = True
        constraints = [
            models.UniqueConstraint(
                fields=["name"],
                name="%(class)s_name",
                deferrable=models.Deferrable.IMMEDIATE,
            )
        ]
        required_db_features = {"supports_deferrable_unique_constraints"}


class PlainDeferrable(Deferrable):
    pass


class NonAtomicDeferrable(Deferrable):
    objects = NonAtomicManager()


class PlainRefusing(models.Model):
    """Its table, which refuses ON CONFLICT, is made by tests."""

    name = models.CharField(max_length=20, unique=True)
    place = models.IntegerField(default=0)

    class Meta:
        managed = False
        db_table = "refusing"


class CachedRefusing(PlainRefusing):
    objects = CachedManager()

    class Meta:
        proxy = True


class NonAtomicRefusing(PlainRefusing):
    objects = NonAtomicManager()

    class Meta:
        proxy = True


class PlusRefusing(PlainRefusing):
    objects = PlusManager()

    class Meta:
        proxy = True


class Step(models.Model):
    """A row whose save() does something first: ``before``, which tests set."""

    name = models.CharField(max_length=20, unique=True)
    rank = models.IntegerField(default=0)
    counter = models.ForeignKey("self", models.CASCADE, null=True)
    before = None

    class Meta:
        abstract = True

    def save(self, **kwargs):
        if self.before:
            self.before()
        super().save(**kwargs)


class PlainStep(Step):
    pass


class NonAtomicStep(Step):
    objects = NonAtomicManager()


class PlusStep(Step):
    objects = PlusManager()


class NonAtomicTag(models.Model):
    name = models.CharField(max_length=20, unique=True)

    objects = NonAtomicManager()


class NonAtomicNote(models.Model):
    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.BigIntegerField()
    of = GenericForeignKey()
    text = models.CharField(max_length=20)

    objects = NonAtomicManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["content_type", "object_id", "text"], name="nonatomicnote_text"
            )
        ]


class CreatesChildren:
    def create(self, **kwargs):
        children = kwargs.pop("children", [])
        parent = super().create(**kwargs)
        for child in children:
            parent.children.get_or_create(**child)
        return parent


class PlainParentQuerySet(CreatesChildren, models.QuerySet):
    pass


class NonAtomicParentQuerySet(CreatesChildren, NonAtomicQuerySet):
    pass


class Parent(models.Model):
    foo = models.CharField(max_length=20, unique=True)

    class Meta:
        abstract = True


class PlainParent(Parent):
    objects = PlainParentQuerySet.as_manager()


class NonAtomicParent(Parent):
    tags = models.ManyToManyField(NonAtomicTag)
    notes = GenericRelation(NonAtomicNote)

    objects = NonAtomicParentQuerySet.as_manager()


class PlainChild(models.Model):
    parent = models.ForeignKey(PlainParent, models.CASCADE, related_name="children")
    bar = models.CharField(max_length=20, unique=True)


class NonAtomicChild(models.Model):
    parent = models.ForeignKey(NonAtomicParent, models.CASCADE, related_name="children")
    bar = models.CharField(max_length=20, unique=True)

    objects = NonAtomicManager()


class PlainPassport(models.Model):
    parent = models.OneToOneField(PlainParent, models.CASCADE, related_name="passport")
    number = models.CharField(max_length=20, unique=True, null=True)


class NonAtomicPassport(models.Model):
    parent = models.OneToOneField(
        NonAtomicParent, models.CASCADE, related_name="passport"
    )
    number = models.CharField(max_length=20, unique=True, null=True)

    objects = NonAtomicManager()
