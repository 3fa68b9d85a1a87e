from django import forms
from gazetteer import geonames

from . import choices

LEAST = 1_000  # cities: fewer are imported before one sees anything
LOOKUPS = 10_000  # by four processes
DEFAULTS = {
    "cities": 2_000,
    "database": "sqlite",
    "cache": "locmem",
    "in_bulk": True,
}


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
            f"{value!r} is not one of the choices. Choose one of: {known}."
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
                f"Enter a whole number of cities from {LEAST:,} to "
                f"{geonames.LARGEST:,}, not {value!r}."
            )
        return number

    def order(self):
        """Return the arguments of Run()."""
        database, cache = self.cleaned_data["database"], self.cleaned_data["cache"]
        cities = self.cleaned_data["cities"]
        order = {
            "cities": cities,
            "database": database.url,
            "new": database.is_new,
            "cache": cache.url,
            "in_bulk": self.cleaned_data["in_bulk"],
            "lookups": LOOKUPS,
        }
        title = f"{cities:,} cities on {database.name} and {cache.name}"
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
                f"The sandbox has no model {value!r}. Choose country, region or city."
            )
        return value

    def clean_name(self):
        value = self.cleaned_data["name"]
        if not value:
            raise forms.ValidationError("Enter a name, such as Paris for a city.")
        return value
