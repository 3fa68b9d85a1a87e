"""Callers of get() in Django and REST framework must not create a row."""

import json

import pytest
from asgiref.sync import async_to_sync
from django import forms
from django.contrib import auth
from django.contrib.admin import AdminSite, ModelAdmin
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.views import PasswordResetConfirmView
from django.contrib.contenttypes.models import ContentType
from django.core import serializers
from django.core.management import CommandError, call_command
from django.db import IntegrityError
from django.http import Http404, HttpRequest
from django.shortcuts import aget_object_or_404, get_object_or_404
from django.urls import path
from django.utils.encoding import force_bytes
from django.utils.http import urlsafe_base64_encode
from django.views.generic import DetailView
from rest_framework import generics
from rest_framework import serializers as rest
from rest_framework.test import APIRequestFactory

from ..models import (
    AlwaysCatalogue,
    AlwaysGenre,
    AlwaysLabel,
    AlwaysLanguage,
    AlwaysMember,
    AlwaysMood,
    AlwaysRuleCatalogue,
    AlwaysShelf,
    AlwaysTranslation,
    AlwaysUser,
    AlwaysVolume,
)

pytestmark = pytest.mark.django_db(databases=["default", "other"])


class RawIdAdmin(ModelAdmin):
    raw_id_fields = ["language"]


site = AdminSite()
site.register(AlwaysLanguage)
site.register(AlwaysVolume)
site.register(AlwaysTranslation, RawIdAdmin)
site.register(auth.get_user_model())

urlpatterns = [path("admin/", site.urls)]


@pytest.fixture(autouse=True)
def no_row_is_created():
    """The rule that every test of this module checks."""
    yield
    for model in (AlwaysLanguage, AlwaysUser):
        assert list(model._base_manager.exclude(pk="en")) == []


@pytest.fixture
def english():
    return AlwaysLanguage.objects.create(iso="en", name="English")


class TestAdmin:
    @pytest.fixture
    def client(self, client, settings):
        settings.ROOT_URLCONF = __name__
        client.force_login(auth.get_user_model().objects.create_superuser("root"))
        return client

    @pytest.mark.parametrize("page", ["change", "delete", "history"])
    @pytest.mark.parametrize("method", ["get", "post"])
    def test_page_of_an_unknown_natural_key(self, client, page, method):
        url = f"/admin/tests/alwayslanguage/xx/{page}/"
        response = getattr(client, method)(url)
        assert (response.status_code, response["Location"]) == (302, "/admin/")
        assert not AlwaysLanguage.objects.exists()

    @pytest.mark.parametrize("page", ["change", "delete", "history"])
    def test_page_of_an_unknown_generated_key(self, client, page):
        response = client.get(f"/admin/tests/alwaysvolume/7/{page}/")
        assert (response.status_code, response["Location"]) == (302, "/admin/")
        assert not AlwaysVolume.objects.exists()

    def test_pages_of_a_known_key(self, client, english):
        for page in ("change", "delete", "history"):
            response = client.get(f"/admin/tests/alwayslanguage/en/{page}/")
            assert response.status_code == 200

    def test_raw_id_widget(self, client, english):
        """It looks the key up again, to show the object beside it."""
        url = "/admin/tests/alwaystranslation/add/"
        response = client.post(url, {"language": "xx", "title": "Emma"})
        assert response.context["errors"] == [
            ["Select a valid choice. That choice is not one of the available choices."]
        ]
        assert not AlwaysTranslation.objects.exists()
        response = client.post(url, {"language": "en", "title": "Emma"})
        assert response.status_code == 302
        assert AlwaysTranslation.objects.get().language == english


class TestShortcuts:
    @pytest.mark.parametrize("lookup", ["pk", "iso", "name", "name__exact"])
    def test_model(self, english, lookup):
        for model in (AlwaysLanguage, AlwaysLanguage.objects.all()):
            with pytest.raises(Http404):
                get_object_or_404(model, **{lookup: "xx"})
            with pytest.raises(Http404):
                async_to_sync(aget_object_or_404)(model, **{lookup: "xx"})
        assert get_object_or_404(AlwaysLanguage, name="English") == english

    def test_managers_that_a_queryset_makes(self):
        with pytest.raises(Http404):
            get_object_or_404(AlwaysMood, name="x")
        for manager in ("as_manager", "hand_made"):
            with pytest.raises(Http404):
                get_object_or_404(getattr(AlwaysVolume, manager).all(), title="x")
        assert not AlwaysVolume.objects.exists()

    def test_generated_key(self):
        for model in (AlwaysVolume, AlwaysVolume.objects, AlwaysVolume.rule):
            with pytest.raises(Http404):
                get_object_or_404(model, pk=7)
        assert not AlwaysVolume.objects.exists()

    def test_manager_is_asked_to_create(self):
        """The caller could have passed the model."""
        volume = get_object_or_404(AlwaysVolume.objects, title="Emma")
        assert AlwaysVolume.plain.get() == volume

    def test_detail_view(self, english):
        request = HttpRequest()
        request.method = "GET"
        view = DetailView.as_view(model=AlwaysLanguage, slug_field="name")
        with pytest.raises(Http404):
            view(request, slug="xx")
        with pytest.raises(Http404):
            view(request, pk="xx")
        assert view(request, slug="English").context_data["object"] == english


class TranslationForm(forms.ModelForm):
    class Meta:
        model = AlwaysTranslation
        fields = ["language", "title"]


class TestForms:
    @pytest.mark.parametrize("to_field_name", [None, "iso", "name"])
    @pytest.mark.parametrize(
        "queryset",
        [
            lambda: AlwaysLanguage.objects,
            AlwaysLanguage.objects.all,
            lambda: AlwaysLanguage.objects.order_by("iso"),
        ],
    )
    def test_choice_field(self, english, queryset, to_field_name):
        for kind in (forms.ModelChoiceField, forms.ModelMultipleChoiceField):
            field = kind(queryset(), to_field_name=to_field_name)
            many = kind is forms.ModelMultipleChoiceField
            with pytest.raises(forms.ValidationError, match="Select a valid choice"):
                field.clean(["xx"] if many else "xx")
        field = forms.ModelChoiceField(queryset(), to_field_name="name")
        assert field.clean("English") == english

    def test_model_form(self, english):
        form = TranslationForm({"language": "xx", "title": "Emma"})
        assert form.errors == {
            "language": [
                "Select a valid choice. That choice is not one of the available"
                " choices."
            ]
        }
        assert TranslationForm({"language": "en", "title": "Emma"}).is_valid()


class TestInstances:
    def test_refresh_from_db(self, english):
        AlwaysLanguage.objects.all().delete()
        with pytest.raises(AlwaysLanguage.DoesNotExist):
            english.refresh_from_db()
        with pytest.raises(AlwaysLanguage.DoesNotExist):
            english.refresh_from_db(fields=["name"])
        with pytest.raises(AlwaysLanguage.DoesNotExist):
            english.refresh_from_db(from_queryset=AlwaysLanguage.objects.using("other"))

    def test_deferred_attribute(self, english):
        deferred = AlwaysLanguage.objects.only("iso").get()
        AlwaysLanguage.objects.all().delete()
        with pytest.raises(AlwaysLanguage.DoesNotExist):
            deferred.name  # noqa: B018

    def test_foreign_key(self):
        translation = AlwaysTranslation(language_id="xx", title="Emma")
        with pytest.raises(AlwaysLanguage.DoesNotExist):
            translation.language  # noqa: B018

    def test_one_to_one_forward(self):
        for model in (AlwaysCatalogue, AlwaysRuleCatalogue):
            with pytest.raises(AlwaysShelf.DoesNotExist):
                model(shelf_id=7).shelf  # noqa: B018
        assert not AlwaysShelf.objects.exists()

    def test_one_to_one_backward(self):
        """Meta.base_manager_name makes it use the creating managers."""
        shelf = AlwaysShelf.objects.create(name="Poetry")
        assert not hasattr(shelf, "catalogue")
        assert not hasattr(shelf, "rule_catalogue")
        assert not AlwaysCatalogue.objects.exists()
        assert not AlwaysRuleCatalogue.objects.exists()
        catalogue = AlwaysCatalogue.objects.create(shelf=shelf)
        assert AlwaysShelf.objects.get(name="Poetry").catalogue == catalogue

    def test_generic_foreign_key(self, english):
        """Meta.base_manager_name makes it use the creating manager."""
        label = english.labels.create(text="old")
        english.delete()
        for stored in (label, AlwaysLabel(content_type=label.content_type)):
            stored.object_id = "xx"
            assert stored.content_object is None
        with pytest.raises(AlwaysLanguage.DoesNotExist):
            label.content_type.get_object_for_this_type(using="other", pk="xx")
        assert not AlwaysLanguage._base_manager.using("other").exists()

    def test_generic_foreign_key_of_a_fetched_label(self):
        content_type = ContentType.objects.get_for_model(AlwaysLanguage)
        AlwaysLabel.objects.create(content_type=content_type, object_id="xx")
        assert AlwaysLabel.objects.get(object_id="xx").content_object is None
        [label] = AlwaysLabel.objects.prefetch_related("content_object")
        assert label.content_object is None

    def test_validation(self, english):
        """full_clean() queries other rows, and the related row."""
        AlwaysLanguage(iso="xx", name="x").full_clean()
        with pytest.raises(forms.ValidationError):
            AlwaysTranslation(language_id="xx", title="Emma").full_clean()


class TestUsers:
    """Visitors type the natural primary key."""

    @pytest.fixture(autouse=True)
    def swap(self, settings):
        settings.AUTH_USER_MODEL = "tests.AlwaysUser"

    def test_session_of_a_deleted_user(self, client):
        user = AlwaysUser.objects.create(email="en")
        client.force_login(user, "django.contrib.auth.backends.ModelBackend")
        request = HttpRequest()
        request.session = client.session
        assert auth.get_user(request) == user
        user.delete()
        assert not auth.get_user(request).is_authenticated
        assert not async_to_sync(auth.aget_user)(request).is_authenticated
        assert not AlwaysUser.objects.exists()

    def test_login(self):
        assert auth.authenticate(username="xx", password="x") is None
        aauthenticate = ModelBackend().authenticate
        assert aauthenticate(HttpRequest(), username="xx", password="x") is None
        assert async_to_sync(auth.aauthenticate)(username="xx", password="x") is None
        assert not AlwaysUser.objects.exists()

    def test_password_reset_link(self):
        uid = urlsafe_base64_encode(force_bytes("xx"))
        assert PasswordResetConfirmView().get_user(uid) is None
        assert not AlwaysUser.objects.exists()

    def test_changepassword(self):
        with pytest.raises(CommandError, match="user 'xx' does not exist"):
            call_command("changepassword", "xx")
        assert not AlwaysUser.objects.exists()

    def test_changepassword_where_the_name_is_not_the_primary_key(self, settings):
        settings.AUTH_USER_MODEL = "tests.AlwaysMember"
        with pytest.raises(CommandError, match="user 'xx' does not exist"):
            call_command("changepassword", "xx")
        assert not AlwaysMember.objects.exists()


class TestSerializers:
    @pytest.fixture
    def load(self, tmp_path):
        def load(objects):
            fixture = tmp_path / "fixture.json"
            fixture.write_text(json.dumps(objects))
            call_command("loaddata", fixture, verbosity=0)

        return load

    def test_loaddata_with_an_unknown_natural_foreign_key(self, load, english):
        fields = {"language": ["Klingon"], "title": "Emma"}
        # It continues without it, because the language may come later in the
        # fixture.
        with pytest.raises(IntegrityError):
            load([{"model": "tests.alwaystranslation", "pk": 1, "fields": fields}])
        assert not AlwaysTranslation.objects.exists()
        fields["language"] = ["English"]
        load([{"model": "tests.alwaystranslation", "pk": 1, "fields": fields}])
        assert AlwaysTranslation.objects.get().language == english

    @pytest.mark.parametrize("model", [AlwaysGenre, AlwaysMood])
    def test_loaddata_with_a_natural_key(self, load, model):
        """loaddata creates the row, and finds it the second time."""
        pks = []
        for _ in range(2):
            load([{"model": model._meta.label_lower, "fields": {"name": "Ode"}}])
            [obj] = model._base_manager.all()
            pks.append(obj.pk)
        assert pks[0] == pks[1]

    def test_deserializing_does_not_save(self):
        for model in (AlwaysGenre, AlwaysMood):
            data = serializers.serialize(
                "xml", [model(name="Ode")], use_natural_primary_keys=True
            )
            [deserialized] = serializers.deserialize("xml", data)
            assert deserialized.object.pk is None
            assert not model._base_manager.exists()

    def test_xml_with_an_unknown_natural_foreign_key(self):
        data = serializers.serialize(
            "xml",
            [AlwaysTranslation(language=AlwaysLanguage(iso="xx", name="x"))],
            use_natural_foreign_keys=True,
        )
        assert "<natural>x</natural>" in data
        with pytest.raises(AlwaysLanguage.DoesNotExist):
            list(serializers.deserialize("xml", data))


class LanguageSerializer(rest.ModelSerializer):
    class Meta:
        model = AlwaysLanguage
        fields = ["iso", "name"]


class TranslationSerializer(rest.ModelSerializer):
    class Meta:
        model = AlwaysTranslation
        fields = ["language", "title"]


class TestRestFramework:
    @pytest.mark.parametrize(
        "queryset",
        [
            lambda: AlwaysLanguage.objects,
            AlwaysLanguage.objects.all,
            lambda: AlwaysLanguage.objects.order_by("iso"),
        ],
    )
    @pytest.mark.parametrize(
        "field",
        [
            rest.PrimaryKeyRelatedField,
            lambda queryset: rest.SlugRelatedField("name", queryset=queryset),
        ],
    )
    def test_related_field(self, english, queryset, field):
        field = field(queryset=queryset())
        with pytest.raises(rest.ValidationError, match="does not exist"):
            field.run_validation("xx")
        key = "English" if isinstance(field, rest.SlugRelatedField) else "en"
        assert field.run_validation(key) == english

    def test_serializer(self, english):
        serializer = TranslationSerializer(data={"language": "xx", "title": "Emma"})
        assert not serializer.is_valid()
        assert serializer.errors == {
            "language": ['Invalid pk "xx" - object does not exist.']
        }
        serializer = TranslationSerializer(data={"language": "en", "title": "Emma"})
        assert serializer.is_valid()

    @pytest.mark.parametrize("lookup_field", ["pk", "name"])
    def test_view(self, english, lookup_field):
        view = generics.RetrieveUpdateDestroyAPIView.as_view(
            queryset=AlwaysLanguage.objects.all(),
            serializer_class=LanguageSerializer,
            lookup_field=lookup_field,
        )
        factory = APIRequestFactory()
        for method in (factory.get, factory.put, factory.patch, factory.delete):
            assert view(method("/"), **{lookup_field: "xx"}).status_code == 404
        key = "en" if lookup_field == "pk" else "English"
        response = view(factory.get("/"), **{lookup_field: key})
        assert response.data == {"iso": "en", "name": "English"}
