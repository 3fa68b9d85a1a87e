"""Models with every kind of field, and fields with their own conversions."""

import enum
import uuid

from django.db import models
from django.db.models.functions import Now, Upper
from model_utils import FieldTracker
from model_utils.fields import (
    AutoCreatedField,
    AutoLastModifiedField,
    MonitorField,
    SplitField,
    StatusField,
)

from getorcreateplus import CachedManager, PlusManager, PlusQuerySet


class Shade(str, enum.Enum):  # noqa: UP042 - its str() is another
    RED = "red"


class Colour(models.TextChoices):
    RED = "red"
    BLUE = "blue"


class Size(models.IntegerChoices):
    SMALL = 1
    BIG = 2


class Tag(str):
    """The result of ReversedField for its column."""

    __slots__ = ()


class ReversedField(models.CharField):
    """Store the text backwards."""

    def from_db_value(self, value, expression, connection):
        return Tag("none" if value is None else value[::-1])

    def get_prep_value(self, value):
        return None if value is None else str(value)[::-1]


class LowerField(models.CharField):
    """Store the text in lower case, by get_prep_value()."""

    def get_prep_value(self, value):
        value = super().get_prep_value(value)
        return value if value is None else value.lower()


class RoundedField(models.CharField):
    """Store the text in lower case, by get_db_prep_value()."""

    def get_db_prep_value(self, value, connection, prepared=False):
        value = super().get_db_prep_value(value, connection, prepared)
        return value if value is None else value.lower()


class ForgetfulField(models.CharField):
    """Save a value that the instance does not get."""

    def pre_save(self, model_instance, add):
        return "saved"


class SpeltField(models.DateField):
    """Send a text."""

    def get_prep_value(self, value):
        value = super().get_prep_value(value)
        return value if value is None else value.isoformat()


class OddForeignKey(models.ForeignKey):
    def get_db_prep_save(self, value, connection):
        return super().get_db_prep_save(value, connection)


class Target(models.Model):
    code = models.CharField(max_length=8, unique=True, null=True)

    def __str__(self):
        return "a target"


class SpecialTarget(Target):
    rank = models.IntegerField(default=0)


class OtherTarget(models.Model):
    def __str__(self):
        return "a target"


class Text(models.Model):
    name = models.CharField(max_length=8, primary_key=True)


class TextTarget(models.Model):
    text = models.OneToOneField(Text, models.CASCADE, primary_key=True)


class Ordinary(models.Model):
    """
    Fields that a lookup may name, and whose rows a create leaves in the cache.
    """

    big = models.BigIntegerField(null=True)
    boolean = models.BooleanField(null=True)
    char = models.CharField(max_length=10, null=True)
    column = models.IntegerField(null=True, db_column="an Other name")
    date = models.DateField(null=True)
    datetime = models.DateTimeField(null=True)
    decimal = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    duration = models.DurationField(null=True)
    email = models.EmailField(null=True)
    file = models.FileField(upload_to="files", null=True)
    integer = models.IntegerField(null=True)
    number = models.FloatField(null=True)
    one = models.OneToOneField(Target, models.CASCADE, null=True, related_name="one")
    positive = models.PositiveIntegerField(null=True)
    slug = models.SlugField(null=True)
    small = models.SmallIntegerField(null=True)
    target = models.ForeignKey(Target, models.CASCADE, null=True)
    by_code = models.ForeignKey(
        Target, models.CASCADE, null=True, to_field="code", related_name="by_code"
    )
    other = models.ForeignKey(OtherTarget, models.CASCADE, null=True)
    of_text = models.ForeignKey(TextTarget, models.CASCADE, null=True)
    text = models.TextField(null=True)
    time = models.TimeField(null=True)
    uuid = models.UUIDField(null=True)
    tags = models.ManyToManyField(OtherTarget, related_name="+")
    lower = LowerField(max_length=10, null=True)

    objects = PlusManager()


class Stamped(models.Model):
    status = StatusField()
    created = AutoCreatedField()
    modified = AutoLastModifiedField()
    saved = models.DateTimeField(auto_now=True)
    day = models.DateField(auto_now_add=True)
    at = models.TimeField(auto_now=True)

    objects = PlusManager()

    STATUS = (("draft", "draft"), ("published", "published"))


class Monitored(models.Model):
    name = models.CharField(max_length=10)
    changed = MonitorField(monitor="name")
    body = SplitField(default="")

    tracker = FieldTracker(fields=["name"])
    objects = CachedManager()


class Rare(models.Model):
    """Fields whose values only a SELECT returns, after a create."""

    binary = models.BinaryField(null=True)
    float = models.FloatField(null=True)
    ip = models.GenericIPAddressField(null=True)
    json = models.JSONField(null=True)

    objects = CachedManager()


class Converted(models.Model):
    name = ReversedField(max_length=10, null=True)
    rounded = RoundedField(max_length=10, null=True)
    target = OddForeignKey(Target, models.CASCADE, null=True)

    objects = CachedManager()


class Spelt(models.Model):
    date = SpeltField(null=True)

    objects = CachedManager()


class Forgetful(models.Model):
    name = ForgetfulField(max_length=10)

    objects = CachedManager()


class DatabaseDefault(models.Model):
    name = models.CharField(max_length=10)
    size = models.IntegerField(db_default=5)
    at = models.DateTimeField(db_default=Now())

    objects = CachedManager()


class Generated(models.Model):
    name = models.CharField(max_length=10)
    upper = models.GeneratedField(
        expression=Upper("name"),
        output_field=models.CharField(max_length=10),
        db_persist=True,
    )

    objects = CachedManager()


class Natural(models.Model):
    code = models.CharField(max_length=10, primary_key=True)
    size = models.IntegerField(default=0)

    objects = CachedManager()


class Unique(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=10)

    objects = CachedManager()


class Composite(models.Model):
    pk = models.CompositePrimaryKey("target_id", "number")
    target = models.ForeignKey(Target, models.CASCADE)
    number = models.IntegerField()
    name = models.CharField(max_length=10, default="")

    objects = CachedManager()


class SpecialOrdinary(Ordinary):
    rank = models.IntegerField(default=0)

    objects = CachedManager()


class ProxyOrdinary(Ordinary):
    objects = CachedManager()

    class Meta:
        proxy = True


class Stripped(models.Model):
    """A from_db() that changes its values."""

    name = models.CharField(max_length=10)

    objects = CachedManager()

    @classmethod
    def from_db(cls, db, field_names, values, **kwargs):
        *values, name = values
        instance = super().from_db(db, field_names, [*values, name[1:]], **kwargs)
        instance.loaded = name
        return instance


class MadeQuerySet(PlusQuerySet):
    def create(self, **kwargs):
        obj = super().create(**kwargs)
        if obj.name == "another":
            return self.model(id=obj.id + 1, name=obj.name, size=obj.size)
        return obj


class Made(models.Model):
    """Its save() does what its name says."""

    name = models.CharField(max_length=10)
    size = models.IntegerField(default=0)

    objects = MadeQuerySet.as_manager()

    def save(self, **kwargs):
        if self.name == "before":
            self.size = 7
        if self.name == "nested":
            Made.objects.get_or_create(name="inner")
        super().save(**kwargs)
        if self.name == "after":
            self.size = 8
        if self.name == "key":
            self.id += 1
        if self.name == "type":
            self.id = str(self.id)
        if self.name == "update":
            Made._base_manager.filter(pk=self.pk).update(size=9)
        if self.name == "gone":
            del self.size


class Survivor(models.Model):
    """A column of each kind, of which a serializer may lose some."""

    name = models.CharField(max_length=8, unique=True)
    flag = models.BooleanField(null=True)
    number = models.BigIntegerField(null=True)
    ratio = models.FloatField(null=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    moment = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    hour = models.TimeField(null=True)
    span = models.DurationField(null=True)
    code = models.UUIDField(null=True)
    data = models.JSONField(null=True)
    blob = models.BinaryField(null=True)
    objects = PlusManager()
