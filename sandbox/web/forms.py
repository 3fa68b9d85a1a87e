from django import forms
from gazetteer import geonames

from . import choices

LEAST = 1_000  # cities: fewer are over before one sees anything
DEFAULT = 5_000


class ServiceField(forms.CharField):
    """One of the `services`, a list of Choice, that answers."""

    def __init__(self, services):
        self.services = services
        super().__init__(required=False, max_length=20)

    def clean(self, value):
        value = super().clean(value)
        for choice in self.services:
            if choice.value == value:
                if choice.problem:
                    raise forms.ValidationError(
                        f"{choice.label} {choice.problem.removesuffix('.')}. Choose "
                        "another."
                    )
                return choice
        known = ", ".join(choice.value for choice in self.services)
        raise forms.ValidationError(
            f"{value!r} is none of those to choose from: {known}."
        )


class RunForm(forms.Form):
    cities = forms.CharField(required=False, max_length=20)
    in_bulk = forms.BooleanField(required=False)

    def __init__(self, data=None):
        super().__init__(data)
        self.fields["database"] = ServiceField(choices.databases())
        self.fields["cache"] = ServiceField(choices.caches())

    def clean_cities(self):
        value = self.cleaned_data["cities"]
        try:
            number = int(value.replace(",", ""))
        except ValueError:
            number = 0
        if not LEAST <= number <= geonames.LARGEST:
            raise forms.ValidationError(
                f"{value!r} is not a number of cities that there are. Enter one from "
                f"{LEAST:,} to {geonames.LARGEST:,}."
            )
        return number

    def order(self):
        """Return what Run() wants."""
        database, cache = self.cleaned_data["database"], self.cleaned_data["cache"]
        cities = self.cleaned_data["cities"]
        order = {
            "cities": cities,
            "database": database.url,
            "new": database.is_new,
            "cache": cache.url,
            "in_bulk": self.cleaned_data["in_bulk"],
        }
        title = f"{cities:,} cities on {database.label} and {cache.label}"
        chosen = {
            "cities": cities,
            "database": database.value,
            "cache": cache.value,
            "in_bulk": order["in_bulk"],
        }
        return order, title, chosen


class LookupForm(forms.Form):
    KINDS = ["country", "region", "city"]

    model = forms.CharField(required=False, max_length=20)
    name = forms.CharField(required=False, max_length=200)

    def clean_model(self):
        value = self.cleaned_data["model"]
        if value not in self.KINDS:
            raise forms.ValidationError(
                f"{value!r} is no model of the sandbox. Choose country, region or city."
            )
        return value

    def clean_name(self):
        value = self.cleaned_data["name"]
        if not value:
            raise forms.ValidationError(
                "'' is no name. Enter one, such as Paris for a city."
            )
        return value
