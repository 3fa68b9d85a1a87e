"""
get() creates a row only if the INSERT can succeed, and keeps the transaction
usable.
"""

import random
import string
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import factory
import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.db import (
    DataError,
    IntegrityError,
    OperationalError,
    connection,
    models,
    transaction,
)
from django.db.models.signals import post_save, pre_save

from getorcreateplus import PlusManager
from getorcreateplus.lookups.origin import is_of_django
from getorcreateplus.mixins import creatable

from ..models import (
    AlwaysMember,
    AlwaysSeat,
    AlwaysUser,
    BundledLine,
    CheckedLine,
    Code,
    CountedLine,
    DescribedLine,
    FilledLine,
    Flag,
    Grant,
    IndexedText,
    MadeLine,
    NarrowLine,
    PartOfLine,
    PlainLine,
    PositiveLine,
    ReadTrack,
    RequiredLine,
    SavingLine,
    SettingLine,
    UnsetLine,
)
from ..support.twins import outcome_of_twin

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


class TestWhatHasNoValue:
    @pytest.mark.parametrize("name", ["objects", "always"])
    def test_get_is_djangos(self, name):
        manager = getattr(RequiredLine, name)
        with pytest.raises(RequiredLine.DoesNotExist):
            manager.get(reference="gone")
        assert RequiredLine.objects.count() == 0
        line = manager.get(reference="gone", product=3)
        assert manager.get(reference="gone") == line

    @pytest.mark.parametrize("name", ["objects", "always"])
    def test_default_of_none(self, name):
        manager = getattr(UnsetLine, name)
        for lookup in ({"reference": "a"}, {"reference": "a", "product": 1}):
            with pytest.raises(UnsetLine.DoesNotExist):
                manager.get(**lookup)
        assert manager.get(reference="a", product=1, name="b").pk

    def test_part_of_a_composite_key(self):
        with pytest.raises(AlwaysSeat.DoesNotExist):
            AlwaysSeat.objects.get(number=1)
        assert not AlwaysSeat.objects.exists()

    def test_queries_are_those_of_djangos_get(self, django_assert_num_queries):
        for model in (PlainLine, RequiredLine):
            with django_assert_num_queries(1), pytest.raises(model.DoesNotExist):
                model.objects.get(reference="gone")

    def test_get_or_create_is_djangos(self):
        with transaction.atomic(), pytest.raises(IntegrityError, match="product"):
            RequiredLine.always.get_or_create(reference="gone")

    def test_columns_of_a_parent_count(self):
        with pytest.raises(BundledLine.DoesNotExist):
            BundledLine.objects.get(reference="gone")
        assert not FilledLine.objects.exists()
        assert BundledLine.objects.get(reference="gone", size=2).amount == 1

    def test_related_manager_gives_its_key(self):
        line = RequiredLine.objects.create(reference="a", product=1)
        with pytest.raises(PartOfLine.DoesNotExist):
            PartOfLine.objects.get(name="wheel")
        part = line.parts.get(name="wheel")
        assert (part.line, part._order) == (line, 0)
        assert PartOfLine.objects.get(name="wheel", line=line) == part

    def test_empty_text_is_no_primary_key(self):
        with pytest.raises(AlwaysUser.DoesNotExist):
            AlwaysUser.objects.get(password="x")


class TestWhatHasAValue:
    def test_from_the_model_and_the_database(self):
        line = FilledLine.objects.get(reference="a")
        line.refresh_from_db()
        assert (line.product, line.amount, line.twice) == (7, 1, 2)

    @pytest.mark.parametrize(
        "model", [SavingLine, MadeLine, CountedLine, DescribedLine, SettingLine]
    )
    def test_from_the_projects_code(self, model):
        line = model.objects.get(reference="a")
        assert line.product == 7
        assert model.objects.get(reference="a") == line

    def test_from_a_receiver(self):
        def fill_in(sender, instance, **kwargs):
            instance.product = 7

        pre_save.connect(fill_in, sender=RequiredLine)
        try:
            assert RequiredLine.objects.get(reference="a").product == 7
        finally:
            pre_save.disconnect(fill_in, sender=RequiredLine)
        with pytest.raises(RequiredLine.DoesNotExist):
            RequiredLine.objects.get(reference="b")

    @pytest.mark.parametrize("model", apps.get_models(), ids=lambda m: m._meta.label)
    def test_django_sends_a_value_for_each_such_field(self, model):
        """has_value() corresponds to the INSERT of an empty instance."""
        instance = model()
        for field in model._meta.concrete_fields:
            if (
                not is_of_django(type(field))
                or creatable.has_own_value(field)
                or creatable.has_own_steps(model)
                or field.generated
                or field in field.model._meta.pk_fields
                or getattr(field.remote_field, "parent_link", False)
                or field.name == "_order"  # save() sets it
            ):
                continue
            value = field.pre_save(instance, add=True)
            if not hasattr(value, "resolve_expression"):  # not by the database
                value = field.get_db_prep_save(value, connection)
            assert creatable.has_value(field) == (field.null or value is not None)


class TestTransaction:
    """After an IntegrityError of get(), its caller's transaction is usable."""

    @pytest.mark.parametrize(
        ("model", "lookup"),
        [
            (CheckedLine, {"reference": "a", "amount": 200}),
            (PositiveLine, {"reference": "a", "amount": -1}),
        ],
    )
    def test_check(self, model, lookup):
        with transaction.atomic():
            kept = model.objects.get(reference="kept")
            # MySQL has another error for a number out of range.
            with pytest.raises((IntegrityError, DataError)):
                model.objects.get(**lookup)
            assert model.objects.get(reference="kept") == kept
            assert model.objects.get(reference="b").amount == 1
        assert model.objects.count() == 2

    def test_unique_column_that_the_lookup_lacks(self):
        SavingLine.objects.create(reference="", product=1)
        with transaction.atomic():
            with pytest.raises(IntegrityError):
                SavingLine.objects.get(product=2)
            assert SavingLine.objects.get(product=1).reference == ""

    @pytest.mark.parametrize(
        "signal", [pre_save, post_save], ids=["pre_save", "post_save"]
    )
    def test_error_of_a_receiver(self, signal):
        def fail(sender, instance, **kwargs):
            PlainLine.objects.create(reference="side effect", product=1)
            PlainLine.objects.create(reference=None, product=1)

        signal.connect(fail, sender=CheckedLine)
        try:
            with transaction.atomic():
                with pytest.raises(IntegrityError):
                    CheckedLine.objects.get(reference="a")
                assert not PlainLine.objects.exists()
        finally:
            signal.disconnect(fail, sender=CheckedLine)
        assert not CheckedLine.objects.exists()

    def test_error_of_the_projects_code(self, monkeypatch):
        def save(self, **kwargs):
            PlainLine.objects.create(reference="side effect", product=1)
            models.Model.save(self, **kwargs)

        monkeypatch.setattr(SavingLine, "save", save)
        creatable.fields_without_value.cache_clear()
        with transaction.atomic():
            with pytest.raises(IntegrityError):
                SavingLine.objects.get(reference="a")
            assert not PlainLine.objects.exists()

    @pytest.mark.parametrize(
        "lookup",
        [
            {"reference": "x" * 21},
            {"reference": "a", "amount": 2**40},
            {"reference": "a", "rate": Decimal(1000)},
            {"reference": UUID(int=1)},
            {"reference": datetime(2026, 11, 30, tzinfo=UTC)},
        ],
        ids=lambda lookup: str([*lookup.values()][-1])[:30],
    )
    def test_value_that_the_column_does_not_hold(self, lookup):
        expects = nullcontext()
        if connection.vendor != "sqlite":  # It can store any value.
            expects = pytest.raises(DataError)
        with transaction.atomic():
            kept = NarrowLine.objects.get(reference="kept")
            with expects:
                NarrowLine.objects.get(**lookup)
            assert NarrowLine.objects.get(reference="kept") == kept
        assert NarrowLine.objects.filter(reference="kept").exists()

    def test_text_that_its_index_does_not_hold(self):
        expects = nullcontext()
        if connection.vendor == "postgresql":
            expects = pytest.raises(OperationalError)
        text = "".join(random.Random(0).choices(string.printable, k=12_000))
        with transaction.atomic():
            with expects:
                IndexedText.objects.get(text=text)
            assert IndexedText.objects.get(text="short").pk

    def test_no_savepoint_where_the_values_fit(self, django_assert_num_queries):
        with transaction.atomic(), django_assert_num_queries(2):
            NarrowLine.objects.get(reference="x" * 20, amount=2**30)

    def test_no_savepoint_where_nothing_but_a_duplicate_can_fail(
        self, django_assert_num_queries
    ):
        with transaction.atomic(), django_assert_num_queries(2):
            FilledLine.objects.get(reference="a")

    @pytest.mark.parametrize(
        ("model", "expected"),
        [(CheckedLine, True), (CountedLine, True), (FilledLine, False)],
    )
    def test_checks(self, model, expected):
        assert creatable.has_checks(model, "default") == expected


class TestUsers:
    @pytest.mark.parametrize("name", ["pk", "email", "password"])
    def test_no_lookup_creates(self, name, settings):
        settings.AUTH_USER_MODEL = "tests.AlwaysUser"
        with pytest.raises(AlwaysUser.DoesNotExist):
            AlwaysUser.objects.get(**{name: "ada@example.org"})
        assert not AlwaysUser.objects.exists()

    def test_whatever_the_field(self, settings):
        settings.AUTH_USER_MODEL = "tests.AlwaysMember"
        for lookup in ({"name": "ada"}, {"password": "x"}, {"name": "a", "id": 1}):
            with pytest.raises(AlwaysMember.DoesNotExist):
                AlwaysMember.objects.get(**lookup)
        assert not AlwaysMember.objects.exists()

    def test_proxies_and_children(self, settings):
        class ProxyOfMember(AlwaysMember):
            objects = PlusManager()

            class Meta:
                app_label = "tests"
                proxy = True

        class Employee(AlwaysMember):
            objects = PlusManager()

            class Meta:
                app_label = "tests"
                managed = False

        try:
            settings.AUTH_USER_MODEL = "tests.AlwaysMember"
            assert creatable.is_user(ProxyOfMember)
            assert creatable.is_user(Employee)
            with pytest.raises(ProxyOfMember.DoesNotExist):
                ProxyOfMember.objects.get(name="ada")
        finally:
            for name in ("proxyofmember", "employee"):
                del apps.all_models["tests"][name]
            apps.clear_cache()


class PlainLineFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = PlainLine
        django_get_or_create = ("reference",)

    reference = "a"
    product = 1


class LineFactory(PlainLineFactory):
    class Meta:
        model = RequiredLine


class CodeFactory(factory.django.DjangoModelFactory):
    class Meta:
        model = Code
        django_get_or_create = ("email", "code")

    email = factory.Sequence("{}@example.org".format)
    code = "secret"


class TestRealProjects:
    def test_factory_boy(self):
        line = LineFactory()
        assert LineFactory() == line
        assert LineFactory(reference="b", product=2) != line
        assert (CodeFactory().code, CodeFactory().code) == ("secret", "secret")
        assert RequiredLine.objects.count() == Code.objects.count() == 2

    def test_factory_boy_reports_a_conflict(self):
        def conflict(line_factory):
            line = line_factory()
            return outcome_of_twin(lambda: line_factory(id=line.pk, reference="b"))

        kind, *_ = conflict(PlainLineFactory)
        assert kind == conflict(LineFactory)[0] == "IntegrityError"
        assert RequiredLine.objects.get().reference == "a"

    def test_code_that_was_not_sent(self):
        assert Code.get_code("guessed") is None
        assert not Code.objects.exists()

    def test_permission_by_a_misspelt_codename(self):
        content_type = ContentType.objects.get_for_model(Code)
        lookup = {"content_type": content_type, "codename": "typo"}
        with pytest.raises(Grant.DoesNotExist):
            Grant.objects.get(**lookup)
        assert Grant.creating.get(**lookup).name == ""

    def test_flag_that_needs_an_author(self, django_user_model):
        with pytest.raises(Flag.DoesNotExist):
            Flag.objects.get(name="beta")
        author = django_user_model.objects.create(username="ada")
        flag, created = Flag.objects.get_or_create(
            name="beta", defaults={"author": author}
        )
        assert created
        assert Flag.objects.get(name="beta") == flag

    def test_get_except_does_not_exist_get_or_create(self):
        def mark(manager, topic):
            try:
                manager.get(topic=topic)
            except ReadTrack.DoesNotExist:
                return manager.get_or_create(topic=topic)[1]
            return False

        assert [mark(ReadTrack.objects, 1) for _ in range(2)] == [True, False]
        # Its get() has created the row: such code needs the other manager.
        assert mark(ReadTrack.creating, 2) is False
