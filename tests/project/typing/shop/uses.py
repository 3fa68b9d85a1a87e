"""Each reveal_type() with what it is expected to reveal."""

from typing import reveal_type

from .models import Bare, Book, Chapter, Note, Tag

# The manager of a model
reveal_type(Tag.objects.get_or_create(name="x"))  # tuple[Tag, bool]
reveal_type(Tag.objects.get_or_create({"name": "y"}, name="x"))  # tuple[Tag, bool]
reveal_type(Tag.objects.update_or_create(name="x"))  # tuple[Tag, bool]
reveal_type(Tag.objects.get(name="x"))  # Tag
reveal_type(Tag.objects.using("default").get(name="x"))  # Tag
reveal_type(Tag.objects.db_manager("default").get(name="x"))  # Tag
reveal_type(Tag.objects.filter(name="x"))  # QuerySet[Tag, Tag]
reveal_type(Tag.objects.filter(name="x").get_or_create(name="x"))  # tuple[Tag, bool]
reveal_type(Tag.objects.all().update_or_create(name="x"))  # tuple[Tag, bool]
reveal_type(Tag.objects.first())  # Tag | None
reveal_type([tag for tag in Tag.objects.all()])  # list[Tag]  # noqa: C416

# Subclasses
reveal_type(Book.objects.get_or_create(title="x"))  # tuple[Book, bool]
reveal_type(Book.objects.get_by_natural_key("x"))  # Book
reveal_type(Book.subclassed.get_or_create(title="x"))  # tuple[Book, bool]
reveal_type(Book.annotated.get_or_create(title="x"))  # tuple[Book, bool]

# By from_queryset()
reveal_type(Chapter.objects.get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.objects.long())  # ChapterQuerySet
reveal_type(Chapter.objects.long().get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.objects.filter(title="x").long())  # ChapterQuerySet
reveal_type(Chapter.assigned.get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.assigned.long().get(title="x"))  # Chapter
reveal_type(Chapter.inherited.get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.inherited.long().get(title="x"))  # Chapter
reveal_type(Chapter.mixed_queryset.get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.mixed_queryset.long().get(title="x"))  # Chapter

# By as_manager()
reveal_type(Chapter.as_manager.get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.as_manager.update_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.as_manager.long().get(title="x"))  # Chapter
reveal_type(Chapter.as_subclass.get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.as_subclass.long().get(title="x"))  # Chapter
reveal_type(Chapter.mixed.get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(Chapter.mixed.long().get_or_create(title="x"))  # tuple[Chapter, bool]

# Without type arguments
reveal_type(Bare.objects.get_or_create(name="x"))  # tuple[Bare, bool]
reveal_type(Bare.mixed.get_or_create(name="x"))  # tuple[Bare, bool]
reveal_type(Bare.mixed.filter().get(name="x"))  # Bare
reveal_type(Bare.as_manager.get_or_create(name="x"))  # tuple[Bare, bool]
reveal_type(Bare.as_manager.filter().get_or_create(name="x"))  # tuple[Bare, bool]

# Related managers
book, created = Book.objects.get_or_create(title="x")
reveal_type(book.chapters.get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(book.chapters.update_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(book.chapters.get(title="x"))  # Chapter
reveal_type(book.chapters.long().get_or_create(title="x"))  # tuple[Chapter, bool]
reveal_type(book.notes.get_or_create(text="x"))  # tuple[Note, bool]
reveal_type(book.notes.filter(text="x").get_or_create())  # tuple[Note, bool]
reveal_type(book.tags.get_or_create(name="x"))  # tuple[Tag, bool]
reveal_type(book.tags.update_or_create(name="x"))  # tuple[Tag, bool]
reveal_type(Tag.objects.get(name="x").books.get_or_create())  # tuple[Book, bool]
reveal_type(Note.objects.get(text="x").book)  # Book


async def async_twins() -> None:
    reveal_type(await Tag.objects.aget_or_create(name="x"))  # tuple[Tag, bool]
    reveal_type(await Tag.objects.aupdate_or_create(name="x"))  # tuple[Tag, bool]
    reveal_type(await Tag.objects.aget(name="x"))  # Tag
    reveal_type(await Tag.objects.filter(name="x").aget(name="x"))  # Tag
    reveal_type(await book.notes.aget_or_create(text="x"))  # tuple[Note, bool]
    reveal_type(await book.tags.aget_or_create(name="x"))  # tuple[Tag, bool]
    reveal_type(await Chapter.objects.aget_or_create())  # tuple[Chapter, bool]
    reveal_type(await Chapter.as_manager.aget_or_create())  # tuple[Chapter, bool]
    reveal_type(await Bare.as_manager.aget_or_create())  # tuple[Bare, bool]
