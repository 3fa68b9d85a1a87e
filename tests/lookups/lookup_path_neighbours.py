"""
One of the packages whose querysets change the arguments of a lookup, in
ordinary use: the rows of its own manager, and those of ours.

    python -m tests.lookups.lookup_path_neighbours modeltranslation

It runs each package in its own process, because modeltranslation patches the
managers of models, and the bases of a model.
"""

import sys

from django.apps import AppConfig
from django.conf import settings

PACKAGE = sys.argv[1] if __name__ == "__main__" else None


class App(AppConfig):
    name, label = "__main__", "neighbours"
    path = "."
    default_auto_field = "django.db.models.BigAutoField"


def compared(model, twin, story):
    """Raise AssertionError if the rows of the model differ from the twin's."""
    from django.db import connection

    stories = []
    for each in (twin, model):
        with connection.schema_editor() as editor:
            editor.create_model(each)
            # parler's model, which has the translations
            for other in getattr(each, "_parler_meta", ()):
                editor.create_model(other.model)
        stories.append(story(each))
    assert stories[0] == stories[1], stories


def is_explained(manager, what):
    from django.core import checks

    from getorcreateplus.explaining import explain

    found = explain(manager, pk=1)
    assert what in found.why, found.why
    messages = [m for m in checks.run_checks() if m.id == "getorcreateplus.I019"]
    assert any(manager.model is m.obj and what in m.msg for m in messages), messages


def outcome(call):
    try:
        found = call()
    except Exception as error:  # the twin raises it, too
        return type(error).__name__
    obj, created = found if isinstance(found, tuple) else (found, None)
    return obj.pk, created


def modeltranslation():
    from django.db import models
    from django.utils.translation import override
    from modeltranslation.translator import TranslationOptions, translator

    class Titles(TranslationOptions):
        fields = ("title",)

    def made(name, manager):
        fields = {
            "__module__": "__main__",
            "title": models.CharField(max_length=20),
            "note": models.CharField(max_length=20, default=""),
            "objects": manager,
        }
        model = type(name, (models.Model,), fields)
        translator.register(model, Titles)
        return model

    def story(model):
        objects, seen = model.objects, []
        objects.create(title_en="Gift", title_de="Geschenk")
        objects.create(title_en="Poison", title_de="Gift")
        batch = getattr(objects, "bulk_get_or_create", None)
        for language in ("en", "de") * 2:
            with override(language):
                seen += [
                    outcome(lambda: objects.get_or_create(title="Gift")),
                    outcome(lambda: objects.get(title="Gift")),
                    outcome(
                        lambda: objects.update_or_create({"note": "x"}, title="Gift")
                    ),
                    outcome(lambda: objects.get_or_create(title=f"New {language}")),
                    outcome(
                        lambda: (
                            batch([{"title": "Gift"}], ["title"])[0]
                            if batch
                            else objects.get_or_create(title="Gift")
                        )
                    ),
                ]
        with override("de"):
            seen += [obj.title for obj in objects.order_by("pk")]
        return seen

    for manager in managers():
        name = type(manager).__name__
        model = made(f"Words{name}", manager)
        compared(model, made(f"Plain{name}", models.Manager()), story)
        if hasattr(manager, "invalidate"):
            is_explained(model.objects, "MultilingualQuerySet overrides __init__()")


def managers():
    from getorcreateplus import (
        AlwaysManager,
        CachedManager,
        NonAtomicManager,
        PlusManager,
    )

    return CachedManager(), PlusManager(), AlwaysManager(), NonAtomicManager()


def querysets(theirs):
    """Return classes of our mixins and a neighbour's queryset."""
    from getorcreateplus import (
        AlwaysGetOrCreateMixin,
        CachedGetOrCreateMixin,
        NonAtomicGetOrCreateMixin,
    )

    mixins = CachedGetOrCreateMixin, AlwaysGetOrCreateMixin, NonAtomicGetOrCreateMixin
    for bases in (*((mixin,) for mixin in mixins), mixins):
        name = "".join(base.__name__ for base in bases)
        yield type(name, (*bases, theirs), {})


def safedelete():
    from django.db import models
    from safedelete.config import SOFT_DELETE
    from safedelete.managers import SafeDeleteManager
    from safedelete.models import SafeDeleteModel
    from safedelete.queryset import SafeDeleteQueryset

    def made(name, manager):
        fields = {
            "__module__": "__main__",
            "_safedelete_policy": SOFT_DELETE,
            "name": models.CharField(max_length=20),
            "note": models.CharField(max_length=20, default=""),
            "objects": manager,
        }
        return type(name, (SafeDeleteModel,), fields)

    def story(model):
        objects, seen = model.objects, []
        batch = getattr(objects, "bulk_get_or_create", None)
        for _ in range(2):
            obj, created = objects.get_or_create(name="x")
            seen += [
                (obj.pk, created),
                outcome(lambda: objects.get_or_create(name="x")),
                outcome(lambda pk=obj.pk: objects.get(pk=pk)),
                outcome(
                    lambda: (
                        batch([{"name": "x"}], ["name"])[0]
                        if batch
                        else objects.get_or_create(name="x")
                    )
                ),
                outcome(lambda: objects.update_or_create({"note": "n"}, name="x")),
            ]
            obj.delete()
            seen.append(outcome(lambda: objects.filter(name="x").get()))
            seen.append(objects.filter(name="x").count())
        return seen

    for queryset_class in querysets(SafeDeleteQueryset):
        name = queryset_class.__name__
        model = made(f"Words{name}", SafeDeleteManager(queryset_class))
        compared(model, made(f"Plain{name}", SafeDeleteManager()), story)
        if hasattr(queryset_class, "invalidate"):
            is_explained(model.objects, "safedelete.queryset.SafeDeleteQueryset")


def parler():
    from django.db import models
    from django.utils.translation import override
    from parler.managers import TranslatableManager, TranslatableQuerySet
    from parler.models import TranslatableModel, TranslatedFields

    def made(name, manager):
        fields = {
            "__module__": "__main__",
            "code": models.CharField(max_length=20),
            "objects": manager,
            "translations": TranslatedFields(title=models.CharField(max_length=20)),
        }
        return type(name, (TranslatableModel,), fields)

    def story(model):
        objects, seen = model.objects, []
        batch = getattr(objects, "bulk_get_or_create", None)
        for language in ("en", "de") * 2:
            with override(language):
                obj, created = objects.language(language).get_or_create(
                    code="a", defaults={"title": "A"}
                )
                seen.append((obj.pk, created, obj.get_current_language()))
                defaults = {"title": "B"}
                if batch:
                    row = {"code": "b"} | defaults
                    [(obj, created)] = objects.bulk_get_or_create([row], ["code"])
                else:
                    obj, created = objects.get_or_create(defaults, code="b")
                seen.append((obj.pk, created, obj.get_current_language()))
                obj, created = objects.language("de").update_or_create(code="a")
                seen.append((obj.pk, created, obj.get_current_language()))
        return seen

    for queryset_class in querysets(TranslatableQuerySet):
        name = queryset_class.__name__
        manager = TranslatableManager.from_queryset(queryset_class)
        model = made(f"Words{name}", manager())
        compared(model, made(f"Plain{name}", TranslatableManager()), story)
        if hasattr(queryset_class, "invalidate"):
            is_explained(model.objects, "parler.managers.TranslatableQuerySet")


if __name__ == "__main__":
    settings.configure(
        INSTALLED_APPS=[
            *(["modeltranslation"] if PACKAGE == "modeltranslation" else []),
            *(["safedelete", "parler"] if PACKAGE != "modeltranslation" else []),
            "__main__.App",
        ],
        LANGUAGE_CODE="en",
        LANGUAGES=[("en", "English"), ("de", "German")],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        },
        CACHES={
            "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
        },
    )
    import django

    django.setup()
    globals()[PACKAGE]()
    sys.stdout.write("ok\n")
