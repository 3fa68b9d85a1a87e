"""
Finding out whether a queryset looks up as Django does, and the check for it.
"""

import functools
import gc
import sys
import weakref
from functools import wraps
from types import FunctionType
from unittest import mock

import pytest
from django.db import models
from django.db.models.lookups import Exact
from django.db.models.query import QuerySet
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.where import WhereNode
from django.utils.decorators import method_decorator

from getorcreateplus import (
    AlwaysQuerySet,
    CachedQuerySet,
    NonAtomicQuerySet,
    PlusQuerySet,
)
from getorcreateplus.checks import check_lookups
from getorcreateplus.explaining import check, explain
from getorcreateplus.lookups import django_path as lookup_path
from getorcreateplus.lookups.django_path import (
    batch_follows_django,
    change_of,
    follows_django,
)
from getorcreateplus.signals import cache_miss

from ..models import Report
from .regions import (
    ByFilter,
    ByGet,
    ByQuery,
    RegionIterable,
    RegionQuery,
    here,
    made,
    patched,
)

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


HOLDERS = (FunctionType, property, classmethod, staticmethod, functools.cached_property)


class RegionNode(WhereNode):
    pass


def patch_where(query):
    query.where = RegionNode()


class TestPredicate:
    @pytest.mark.parametrize(
        "queryset_class",
        [AlwaysQuerySet, CachedQuerySet, NonAtomicQuerySet, PlusQuerySet],
    )
    def test_django_and_this_package_are_followed(self, queryset_class):
        for queryset in (
            queryset_class(Report),
            queryset_class(Report).filter(name="tax").order_by("pk"),
            queryset_class(Report).select_related("desk").all(),
        ):
            assert follows_django(queryset)
            assert change_of(queryset) is None

    def test_other_methods_are_no_steps(self):
        class Harmless(PlusQuerySet):
            def create(self, **kwargs):
                return super().create(**kwargs)

            def delete(self):
                return super().delete()

            def published(self):
                return self.filter(note="")

            def get_or_create(self, defaults=None, **kwargs):
                return super().get_or_create(defaults, **kwargs)

        assert follows_django(Harmless(Report).published())
        assert not batch_follows_django(Harmless(Report))

    @pytest.mark.parametrize("step", sorted(lookup_path.STEPS))
    def test_each_step_counts(self, step):
        inherited = getattr(QuerySet, step)

        class Overriding(PlusQuerySet):
            pass

        if isinstance(inherited, property):

            def get(self):
                return inherited.fget(self)

            overridden = property(get)
        elif step == "__new__":

            def overridden(cls, *args, **kwargs):
                return object.__new__(cls)

        else:

            @wraps(inherited)
            def overridden(self, *args, **kwargs):
                return inherited(self, *args, **kwargs)

        setattr(Overriding, step, overridden)
        queryset = Overriding(Report)
        assert not follows_django(queryset)
        assert f"Overriding overrides {step}" in change_of(queryset).what

    @pytest.mark.parametrize("step", ["filter", "get", "_filter_or_exclude"])
    @pytest.mark.parametrize("cls", [QuerySet, PlusQuerySet])
    def test_patched_class(self, monkeypatch, step, cls):
        original = getattr(cls, step)

        @wraps(original)
        def patched(self, *args, **kwargs):
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, step, patched)
        queryset = made(PlusQuerySet)(Report)
        assert not follows_django(queryset)
        assert change_of(queryset).what == (
            f"{__name__} has replaced {cls.__name__}.{step}()"
        )

    @pytest.mark.parametrize("cls", lookup_path.BENEATH)
    def test_patched_class_beneath(self, monkeypatch, cls):
        class Declaring(PlusQuerySet):
            lookups_as_written = True

        steps = [
            (name, value)
            for name, value in vars(cls).items()
            if isinstance(value, HOLDERS) and name not in lookup_path.PATCHABLE
        ]
        # Django's documentation adds the SQL of a vendor in this way.
        steps.append(("as_vendor", Exact.as_sql))
        for name, value in steps:
            with monkeypatch.context() as patch:
                patch.setattr(cls, name, patched(value), raising=False)
                assert not follows_django(made(PlusQuerySet)(Report)), name
                change = change_of(made(PlusQuerySet)(Report))
                assert f"has replaced {cls.__name__}.{name}()" in change.what
                assert follows_django(made(Declaring)(Report))
        assert follows_django(made(PlusQuerySet)(Report))

    @pytest.mark.parametrize(
        "value",
        [functools.partial(print), mock.Mock(), functools.lru_cache(lambda self: None)],
    )
    def test_patch_that_is_no_function(self, monkeypatch, value):
        monkeypatch.setattr(WhereNode, "as_sql", value)
        assert not follows_django(made(PlusQuerySet)(Report))

    @pytest.mark.parametrize("name", ["execute_sql", "__class_getitem__"])
    def test_patch_that_changes_no_lookup(self, monkeypatch, name):
        monkeypatch.setattr(SQLCompiler, name, lambda *args: None, raising=False)
        assert follows_django(made(PlusQuerySet)(Report))

    def test_decorator_of_django_does_not_hide_what_it_decorates(self):
        def by_region(method):
            return lambda self, *args, **kwargs: method(self, *args, here(), **kwargs)

        class Decorated(PlusQuerySet):
            filter = method_decorator(by_region)(QuerySet.filter)

        assert not follows_django(Decorated(Report))

    def test_method_of_django_under_another_name(self):
        class Renamed(PlusQuerySet):
            filter = QuerySet.exclude

        assert isinstance(Renamed.filter, FunctionType)
        assert not follows_django(Renamed(Report))

    @pytest.mark.parametrize(
        ("patch", "what"),
        [
            (
                lambda queryset: setattr(queryset, "filter", queryset.filter),
                "this queryset has filter() of its own",
            ),
            (
                lambda queryset: setattr(queryset, "query", RegionQuery(Report)),
                f"its query is a {RegionQuery.__module__}.RegionQuery",
            ),
            (
                lambda queryset: setattr(
                    queryset.query, "get_compiler", queryset.query.get_compiler
                ),
                "its query has get_compiler() of its own",
            ),
            (
                lambda queryset: setattr(queryset.query, "compiler", "SQLCompiler"),
                "its query has compiler of its own",
            ),
            (
                lambda queryset: patch_where(queryset.query),
                "its WHERE has a node that is not Django's",
            ),
            (
                lambda queryset: queryset.query.where.children.append(RegionNode()),
                "its WHERE has a node that is not Django's",
            ),
            (
                lambda queryset: setattr(queryset, "_iterable_class", RegionIterable),
                f"{RegionIterable.__module__}.RegionIterable makes its rows",
            ),
        ],
    )
    def test_what_a_manager_does_to_a_queryset(
        self, patch, what, django_assert_num_queries
    ):
        Report.plain.create(name="tax")
        for _ in range(3):
            queryset = Report.objects.all()
            patch(queryset)
            with django_assert_num_queries(1):
                queryset.get_or_create(name="tax")
        assert not batch_follows_django(queryset)
        assert change_of(queryset).what == what

    @pytest.mark.parametrize("name", sorted(lookup_path.STATE))
    def test_property_in_place_of_a_querysets_state(self, name):
        queryset_class = made(PlusQuerySet)
        setattr(queryset_class, name, None)  # hidden by an attribute that Django sets
        assert follows_django(queryset_class(Report))

        class Stateful(PlusQuerySet):
            pass

        def get(self):
            return self.__dict__[name]

        def set_(self, value):
            self.__dict__[name] = value

        setattr(Stateful, name, property(get, set_))
        assert not follows_django(Stateful(Report))
        assert change_of(Stateful(Report)).what.endswith(f"Stateful overrides {name}")

    @pytest.mark.parametrize("step", ["get", "filter", "_fetch_all"])
    @pytest.mark.parametrize("cls", [QuerySet, PlusQuerySet])
    def test_class_is_patched_later(self, cls, step, monkeypatch):
        """Like a package that is loaded late, and like a test."""
        original = getattr(cls, step)

        def patched(self, *args, **kwargs):
            return original(self, *args, **kwargs)

        queryset_class = made(PlusQuerySet)
        assert follows_django(queryset_class(Report))
        monkeypatch.setattr(cls, step, patched)
        assert not follows_django(queryset_class(Report))
        monkeypatch.undo()
        assert follows_django(queryset_class(Report))

    def test_class_of_one_call_is_not_kept(self):
        """modeltranslation makes a class for each queryset."""
        queryset_class = made(ByGet, PlusQuerySet)
        assert not follows_django(queryset_class(Report))
        reference = weakref.ref(queryset_class)
        del queryset_class
        gc.collect()
        assert reference() is None

    def test_class_is_looked_at_once(self, monkeypatch):
        queryset_class = made(PlusQuerySet)
        assert follows_django(queryset_class(Report))
        monkeypatch.setattr(lookup_path, "examine_class", None)
        assert follows_django(queryset_class(Report))
        subclass = made(ByGet, queryset_class)
        with pytest.raises(TypeError):
            follows_django(subclass(Report))

    def test_steps_are_all_that_django_calls(self):
        """In each version of Django, if get_or_create() finds a row."""
        Report.plain.create(name="tax")
        called = set()

        def note(frame, event, arg):
            code, module = frame.f_code, frame.f_globals.get("__name__", "")
            if event == "call" and module == "django.db.models.query":
                owner, _, name = code.co_qualname.rpartition(".")
                if owner == "QuerySet":
                    called.add(name)

        queryset = QuerySet(Report)
        sys.setprofile(note)
        try:
            queryset.get_or_create(name="tax")
        finally:
            sys.setprofile(None)
        assert called - lookup_path.STEPS == {"get_or_create"}
        assert {name for name in lookup_path.STEPS if not hasattr(QuerySet, name)} == (
            set()
        )


class TestDeclaration:
    def test_covers_the_class_and_its_bases(self, django_assert_num_queries):
        class Declaring(ByGet, PlusQuerySet):
            lookups_as_written = True

            def filter(self, *args, **kwargs):
                return super().filter(*args, **kwargs)

        class Child(Declaring):
            def published(self):
                return self.filter(note="")

        Report.plain.create(name="tax")
        for queryset_class in (Declaring, Child):
            assert batch_follows_django(queryset_class(Report))
            for _ in range(2):
                queryset_class(Report).get_or_create(name="tax")
            with django_assert_num_queries(0):
                queryset_class(Report).get_or_create(name="tax")

    def test_does_not_speak_for_subclasses(self):
        class Declaring(PlusQuerySet):
            lookups_as_written = True

        class Below(ByFilter, Declaring):
            pass

        class Own(Declaring):
            def filter(self, *args, **kwargs):
                return super().filter(*args, **kwargs)

        class Beside(Declaring, made(ByFilter, QuerySet)):
            pass

        assert follows_django(Declaring(Report))
        for queryset_class in (Below, Own, Beside):
            assert not follows_django(queryset_class(Report))

    def test_of_a_query_class(self, django_assert_num_queries):
        class LabelledQuery(Query):
            lookups_as_written = True
            label = ""

        class RewritingQuery(LabelledQuery):
            pass

        Report.plain.create(name="tax")
        for _ in range(2):
            CachedQuerySet(Report, LabelledQuery(Report)).get_or_create(name="tax")
        with django_assert_num_queries(0):
            CachedQuerySet(Report, LabelledQuery(Report)).get_or_create(name="tax")
        assert not follows_django(CachedQuerySet(Report, RewritingQuery(Report)))

    def test_of_a_queryset_class_is_not_of_its_query(self):
        class Declaring(made(ByQuery, CachedQuerySet)):
            lookups_as_written = True

        assert not follows_django(Declaring(Report))


class TestExplained:
    what = (
        "its lookups may differ from Django's: tests.models.lookup_path.RegionMixin "
        "overrides get()."
    )
    remedy = (
        "Set lookups_as_written = True on RegionMixin or on a subclass, if it finds "
        "the same rows as Django's, as they are in the table."
    )

    def test_explain(self):
        Report.plain.create(name="tax")
        found = explain(Report.cached_region, name="tax")
        assert (found.why, found.remedy) == (f"I{self.what[1:]}", self.remedy)
        assert found.outcome == "miss (not cacheable)"
        assert check(Report.cached_region, name="tax").is_right is None

    def test_explain_of_a_patched_queryset(self):
        found = explain(Report.patched, name="tax")
        assert found.why == (
            "Its lookups may differ from Django's: this queryset has get() of its own."
        )

    def test_check(self):
        messages = {m.msg.partition(" ")[0]: m for m in check_lookups(Report)}
        label = "tests.Report"
        assert sorted(messages) == [
            f"{label}.{name}"
            for name in ("cached_region", "from_queryset", "patched", "plus_region")
        ]
        message = messages[f"{label}.cached_region"]
        assert message.msg == (
            f"{label}.cached_region makes a CachedRegionQuerySet, whose lookups may "
            "differ from Django's: tests.models.lookup_path.RegionMixin overrides "
            "get(). So Django's own get_or_create() runs: the cache is not used, and "
            "its batches get or create the rows one by one."
        )
        assert (message.hint, message.obj, message.id, message.level) == (
            self.remedy,
            Report,
            "getorcreateplus.I019",
            20,
        )

    def test_check_of_a_manager_that_cannot_make_a_queryset(self):
        class Shy(models.Manager.from_queryset(made(ByGet, AlwaysQuerySet))):
            def get_queryset(self):
                raise RuntimeError

        manager = Shy()
        manager.model, manager.name = Report, "shy"

        class Model:
            class _meta:  # noqa: N801
                managers = [manager]

        [message] = check_lookups(Model)
        assert "overrides get()" in message.msg
        assert message.msg.endswith(": its batches get or create the rows one by one.")

    def test_signal(self):
        reasons = []

        def note(reason, **kwargs):
            reasons.append(reason)

        Report.plain.create(name="tax")
        cache_miss.connect(note)
        try:
            Report.cached_region.get_or_create(name="tax")
        finally:
            cache_miss.disconnect(note)
        assert [str(reason) for reason in reasons] == ["not cacheable"]
