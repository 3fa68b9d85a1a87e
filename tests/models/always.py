"""
Twins for AlwaysGetOrCreateMixin and the managers: a library with Plain* models
for Django's manager and Always* models for ours.
"""

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.models.functions import Upper
from model_utils import FieldTracker
from model_utils.managers import (
    InheritanceManager,
    InheritanceManagerMixin,
    InheritanceQuerySet,
    QueryManagerMixin,
    SoftDeletableManagerMixin,
    SoftDeletableQuerySet,
)
from model_utils.models import SoftDeletableModel, StatusModel

from getorcreateplus import (
    AlwaysGetOrCreateMixin,
    AlwaysManager,
    AlwaysQuerySet,
    CachedGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
    PlusManager,
)


class FilteredManager(AlwaysManager):
    def get_queryset(self):
        return super().get_queryset().filter(pages__gt=100)


class HandMadeManager(AlwaysManager):
    def get_queryset(self):
        return AlwaysQuerySet(self.model, using=self._db)


class NaturalKeyManager(AlwaysManager):
    def get_by_natural_key(self, name):
        return self.get(name=name)

    async def aget_by_natural_key(self, name):
        return await self.aget(name=name)


class NaturalKeyQuerySet(AlwaysQuerySet):
    def get_by_natural_key(self, name):
        return self.get(name=name)

    async def aget_by_natural_key(self, name):
        return await self.aget(name=name)


class UserManager(AlwaysManager, BaseUserManager):
    pass


class Label(models.Model):
    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.CharField(max_length=40)
    content_object = GenericForeignKey()
    text = models.CharField(max_length=40)

    class Meta:
        abstract = True


class PlainLabel(Label):
    pass


class AlwaysLabel(Label):
    objects = AlwaysManager()
    rule = models.Manager.from_queryset(AlwaysQuerySet)()


class Shelf(models.Model):
    name = models.CharField(max_length=40, unique=True)
    code = models.CharField(max_length=8, null=True, unique=True)

    class Meta:
        abstract = True


class PlainShelf(Shelf):
    labels = GenericRelation(PlainLabel)


class AlwaysShelf(Shelf):
    labels = GenericRelation(AlwaysLabel)

    objects = AlwaysManager()


class Reader(models.Model):
    name = models.CharField(max_length=40)

    class Meta:
        abstract = True


class PlainReader(Reader):
    pass


class AlwaysReader(Reader):
    objects = AlwaysManager()


class Volume(models.Model):
    title = models.CharField(max_length=40)
    pages = models.IntegerField(null=True)
    # Named like an argument of get_or_create().
    defaults = models.CharField(max_length=8, default="", blank=True)
    extra = models.JSONField(null=True)
    shout = models.GeneratedField(
        expression=Upper("title"),
        output_field=models.CharField(max_length=40),
        db_persist=True,
    )

    class Meta:
        abstract = True


class PlainVolume(Volume):
    shelf = models.ForeignKey(
        PlainShelf, models.CASCADE, null=True, related_name="volumes"
    )
    place = models.ForeignKey(
        PlainShelf, models.CASCADE, to_field="code", null=True, related_name="places"
    )
    readers = models.ManyToManyField(PlainReader, related_name="volumes")

    objects = models.Manager()
    rule = models.Manager()


class AlwaysVolume(Volume):
    shelf = models.ForeignKey(
        AlwaysShelf, models.CASCADE, null=True, related_name="volumes"
    )
    place = models.ForeignKey(
        AlwaysShelf, models.CASCADE, to_field="code", null=True, related_name="places"
    )
    readers = models.ManyToManyField(AlwaysReader, related_name="volumes")

    objects = AlwaysManager()
    # Only the queryset's rule.
    rule = models.Manager.from_queryset(AlwaysQuerySet)()
    as_manager = AlwaysQuerySet.as_manager()
    filtered = FilteredManager()
    hand_made = HandMadeManager()
    plain = models.Manager()


class AlwaysCatalogue(models.Model):
    """One-to-one, with the creating manager as the base manager as well."""

    shelf = models.OneToOneField(
        AlwaysShelf, models.CASCADE, primary_key=True, related_name="catalogue"
    )
    note = models.CharField(max_length=40, default="")

    objects = AlwaysManager()

    class Meta:
        base_manager_name = "objects"


class AlwaysRuleCatalogue(models.Model):
    """Like AlwaysCatalogue, only with the queryset's rule."""

    shelf = models.OneToOneField(
        AlwaysShelf, models.CASCADE, related_name="rule_catalogue"
    )

    objects = models.Manager.from_queryset(AlwaysQuerySet)()

    class Meta:
        base_manager_name = "objects"


class PlainLanguage(models.Model):
    iso = models.CharField(max_length=3, primary_key=True)
    name = models.CharField(max_length=40, unique=True)

    objects = models.Manager()


class AlwaysLanguage(models.Model):
    """A natural primary key, and a natural key."""

    iso = models.CharField(max_length=3, primary_key=True)
    name = models.CharField(max_length=40, unique=True)
    labels = GenericRelation(AlwaysLabel)

    objects = NaturalKeyManager()

    class Meta:
        base_manager_name = "objects"

    def __str__(self):
        return self.name

    def natural_key(self):
        return (self.name,)


class AlwaysGenre(models.Model):
    """A natural key beside a generated primary key."""

    name = models.CharField(max_length=40, unique=True)
    note = models.CharField(max_length=40, default="")

    objects = NaturalKeyManager()

    def natural_key(self):
        return (self.name,)


class AlwaysMood(models.Model):
    """Like AlwaysGenre, with everything in the queryset."""

    name = models.CharField(max_length=40, unique=True)

    objects = NaturalKeyQuerySet.as_manager()
    rule = models.Manager.from_queryset(NaturalKeyQuerySet)()

    def natural_key(self):
        return (self.name,)


class AlwaysTranslation(models.Model):
    language = models.ForeignKey(
        AlwaysLanguage, models.CASCADE, related_name="translations"
    )
    title = models.CharField(max_length=40)

    objects = AlwaysManager()


class AlwaysToken(models.Model):
    """A primary key that a default generates."""

    key = models.CharField(max_length=8, primary_key=True, default="generated")

    objects = AlwaysManager()


class AlwaysNumber(models.Model):
    """A primary key that the database's default generates."""

    number = models.IntegerField(primary_key=True, db_default=7)

    objects = AlwaysManager()


class AlwaysSeat(models.Model):
    pk = models.CompositePrimaryKey("row", "number")
    row = models.CharField(max_length=8)
    number = models.IntegerField()
    note = models.CharField(max_length=8, default="")

    objects = AlwaysManager()


class AlwaysBooking(models.Model):
    """A relation of two columns, as in Django before composite keys."""

    row = models.CharField(max_length=8)
    number = models.IntegerField()
    seat = models.ForeignObject(
        AlwaysSeat,
        models.CASCADE,
        from_fields=["row", "number"],
        to_fields=["row", "number"],
        related_name="bookings",
    )
    name = models.CharField(max_length=8)

    objects = AlwaysManager()


class AlwaysAtlas(AlwaysShelf):
    """Multi-table inheritance."""

    scale = models.IntegerField(default=1)

    objects = AlwaysManager()


class AlwaysDialect(AlwaysLanguage):
    """Multi-table inheritance of a natural primary key."""

    region = models.CharField(max_length=40, default="")

    objects = AlwaysManager()


class AlwaysUser(AbstractBaseUser):
    """Swapped in by some tests. The natural primary key is what users type."""

    email = models.CharField(max_length=40, primary_key=True)

    objects = UserManager()

    USERNAME_FIELD = "email"


class AlwaysMember(AbstractBaseUser):
    """Swapped in by some tests. The user name is not the primary key."""

    name = models.CharField(max_length=40, unique=True)

    objects = UserManager()

    USERNAME_FIELD = "name"


class AnimalQuerySet(
    AlwaysGetOrCreateMixin, NonAtomicGetOrCreateMixin, InheritanceQuerySet
):
    pass


class AnimalManager(
    AlwaysManager.from_queryset(AnimalQuerySet), InheritanceManagerMixin
):
    pass


class AlwaysAnimal(models.Model):
    name = models.CharField(max_length=40, unique=True)

    objects = AnimalManager()
    rule = InheritanceManager.from_queryset(AnimalQuerySet)()


class AlwaysDog(AlwaysAnimal):
    breed = models.CharField(max_length=40, default="")

    objects = AnimalManager()


class AlwaysKennel(models.Model):
    dog = models.ForeignKey(AlwaysDog, models.CASCADE)

    objects = AlwaysManager()


class NoteQuerySet(
    CachedGetOrCreateMixin,
    AlwaysGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
    SoftDeletableQuerySet,
):
    pass


class NoteManager(SoftDeletableManagerMixin, PlusManager):
    _queryset_class = NoteQuerySet


class AlwaysNote(SoftDeletableModel):
    text = models.CharField(max_length=40)

    objects = NoteManager()
    all_objects = PlusManager.from_queryset(NoteQuerySet)()


class IssueManager(QueryManagerMixin, PlusManager):
    pass


class AlwaysIssue(StatusModel):
    STATUS = [("open", "open"), ("shut", "shut")]

    title = models.CharField(max_length=40, unique=True)

    objects = PlusManager()
    urgent = IssueManager(title__startswith="urgent").order_by("title")
    everything = IssueManager()
    tracker = FieldTracker()
