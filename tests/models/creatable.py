"""
Models whose get() may create a row, or may not: with columns that need a value
and get one, or get none, in each possible way.
"""

from django.conf import settings
from django.db import connection, models
from django.db.models.query_utils import DeferredAttribute
from django.utils import timezone

from getorcreateplus import (
    AlwaysManager,
    CachedNonAtomicManager,
    PlusManager,
    PlusQuerySet,
)


class CountedField(models.IntegerField):
    """A field of another package, which gives a value to a new row."""

    def pre_save(self, model_instance, add):
        value = getattr(model_instance, self.attname)
        if value is None:
            value = 7
            setattr(model_instance, self.attname, value)
        return value


class Line(models.Model):
    """Like django-oscar's basket lines: a lookup that lacks a column."""

    reference = models.CharField(max_length=20, unique=True)
    product = models.IntegerField()

    class Meta:
        abstract = True


class PlainLine(Line):
    pass


class RequiredLine(Line):
    objects = PlusManager()
    always = AlwaysManager()
    quick = CachedNonAtomicManager()


class UnsetLine(models.Model):
    """``default=None`` is no value for a column that is NOT NULL."""

    reference = models.CharField(max_length=20, unique=True)
    product = models.IntegerField(default=None)
    name = models.CharField(max_length=20, default=None)

    objects = PlusManager()
    always = AlwaysManager()


class SavingLine(Line):
    """Its save() gives the value."""

    objects = PlusManager()

    def save(self, *args, **kwargs):
        if self.product is None:
            self.product = 7
        super().save(*args, **kwargs)


class MakingQuerySet(PlusQuerySet):
    def create(self, **kwargs):
        return super().create(**{"product": 7, **kwargs})


class MadeLine(Line):
    """Its queryset's create() gives the value."""

    objects = MakingQuerySet.as_manager()


class CountedLine(models.Model):
    """The field gives the value."""

    reference = models.CharField(max_length=20, unique=True)
    product = CountedField()

    objects = PlusManager()


class SevenByDefault(DeferredAttribute):
    def __set__(self, instance, value):
        instance.__dict__[self.field.attname] = 7 if value is None else value


class DescribedField(models.IntegerField):
    descriptor_class = SevenByDefault


class DescribedLine(models.Model):
    """The attribute of the field gives the value."""

    reference = models.CharField(max_length=20, unique=True)
    product = DescribedField()

    objects = PlusManager()


class SettingLine(Line):
    """Its __setattr__() gives the value."""

    objects = PlusManager()

    def __setattr__(self, name, value):
        super().__setattr__(name, 7 if name == "product" and not value else value)


class FilledLine(models.Model):
    """All columns except those of the lookup have their own value."""

    reference = models.CharField(max_length=20, unique=True)
    product = models.IntegerField(db_default=7)
    amount = models.IntegerField(default=1)
    price = models.FloatField(null=True)
    note = models.TextField()
    picture = models.FileField()
    created = models.DateTimeField(auto_now_add=True)
    changed = models.DateField(auto_now=True)
    due = models.DateTimeField(default=timezone.now)
    twice = models.GeneratedField(
        expression=models.F("amount") * 2,
        output_field=models.IntegerField(),
        db_persist=True,
    )

    objects = PlusManager()


class BundledLine(FilledLine):
    """Its parent's columns count, too."""

    size = models.IntegerField()

    objects = PlusManager()


class PartOfLine(models.Model):
    """Only a related manager gives the foreign key."""

    line = models.ForeignKey(RequiredLine, models.CASCADE, related_name="parts")
    name = models.CharField(max_length=20)

    objects = PlusManager()

    class Meta:
        order_with_respect_to = "line"


class CheckedLine(models.Model):
    """The database refuses some rows."""

    reference = models.CharField(max_length=20, unique=True)
    amount = models.IntegerField(default=1)

    objects = PlusManager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(amount__lt=100), name="checked_line_amount"
            )
        ]


class PositiveLine(models.Model):
    """The column's type refuses some rows."""

    reference = models.CharField(max_length=20, unique=True)
    amount = models.PositiveIntegerField(default=1)

    objects = PlusManager()


class NarrowLine(models.Model):
    """A lookup may have values that its columns do not hold."""

    reference = models.CharField(max_length=20, unique=True)
    amount = models.IntegerField(default=1)
    rate = models.DecimalField(max_digits=4, decimal_places=2, default=1)

    objects = PlusManager()


class IndexedText(models.Model):
    """Like a unique TextField, which MySQL does not have."""

    text = models.TextField(db_index=connection.vendor != "mysql")

    objects = PlusManager()


# What real projects do


class Code(models.Model):
    """Like that of social-auth: only a code that was sent is valid."""

    email = models.EmailField()
    code = models.CharField(max_length=32, db_index=True)
    verified = models.BooleanField(default=False)

    objects = CachedNonAtomicManager()
    creating = PlusManager()

    class Meta:
        unique_together = ("email", "code")

    @classmethod
    def get_code(cls, code):
        try:
            return cls.objects.get(code=code)
        except cls.DoesNotExist:
            return None


class Grant(models.Model):
    """Like guardian's permissions, by codename."""

    content_type = models.ForeignKey("contenttypes.ContentType", models.CASCADE)
    codename = models.CharField(max_length=100)
    name = models.CharField(max_length=255)

    objects = CachedNonAtomicManager()
    creating = PlusManager()

    class Meta:
        unique_together = ("content_type", "codename")


class Flag(models.Model):
    """
    Like waffle's flags: get() with the cache of that package, or create().
    """

    name = models.CharField(max_length=100, unique=True)
    everyone = models.BooleanField(null=True)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)

    objects = PlusManager()


class ReadTrack(models.Model):
    """Like machina's: get(), except DoesNotExist, get_or_create()."""

    topic = models.IntegerField(unique=True)
    mark_time = models.DateTimeField(auto_now=True)

    objects = CachedNonAtomicManager()
    creating = PlusManager()
