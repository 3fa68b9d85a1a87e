"""
A row as plain data: column values in the order of ``_meta.concrete_fields``,
as Model.from_db() takes them.
"""

import datetime
import functools
import pickle
from decimal import Decimal

import django
from django.conf import settings
from django.core.signals import setting_changed
from django.db import connections
from django.db.models.signals import class_prepared

from .keys import PLAIN, NotCanonical, digest, pk_text, plain

# Of a payload's values, in this release of the package: to be raised with any
# change of it. Keys and tokens stay what they are, for releases that share a
# cache have to hear of each other's writes.
FORMAT = 1


class Layout:
    """The columns of a model: what its payloads hold, how to compare them."""

    def __init__(self, model):
        self.opts = model._meta
        fields = self.opts.concrete_fields
        self.attnames = tuple(field.attname for field in fields)
        self.index = {field.attname: i for i, field in enumerate(fields)}
        self.pks = [(f.attname, self.index[f.attname]) for f in self.opts.pk_fields]
        # A payload of another release, with other fields, is a miss.
        self.fingerprint = digest(
            FORMAT,
            self.opts.concrete_model._meta.label_lower,
            django.VERSION[:2],
            settings.USE_TZ,
            sorted((a, connections.settings[a]["TIME_ZONE"]) for a in connections),
            [
                (
                    f.attname,
                    f.column,
                    type(f).__module__,
                    type(f).__qualname__,
                    getattr(f, "decimal_places", None),
                )
                for f in fields
            ],
        )

    def pk_text(self, values):
        """Return the text of a row's primary key, None where it has none."""
        return pk_text(self.opts, {name: values[place] for name, place in self.pks})

    def matches(self, lookup, values):
        """Tell whether a payload's values are those of a row looked for."""
        if type(values) is not tuple or len(values) != len(self.attnames):
            return False
        index = self.index
        for attname, wanted in lookup.items():  # all() takes twice as long
            if not is_same(values[index[attname]], wanted):
                return False
        return True


def is_same(value, wanted):
    """Tell whether a column's value is the one of a lookup, which is plain."""
    if type(value) is type(wanted) and type(value) in PLAIN:
        return value == wanted
    try:
        value = plain(value)
    except NotCanonical:
        return False
    return type(value) is type(wanted) and value == wanted


@functools.cache
def layout(model):
    return Layout(model)


def forget(**kwargs):
    layout.cache_clear()


class_prepared.connect(forget)
setting_changed.connect(forget)


class View(bytes):
    """A memoryview's bytes, for a memoryview cannot be pickled."""


IMMUTABLE = PLAIN | {int, float, bytes, Decimal, datetime.datetime, datetime.time}


def freeze(values):
    """
    Return column values that nobody else can change, as a tuple.

    None where one of them cannot be pickled.
    """
    try:
        return tuple(v if type(v) in IMMUTABLE else copy(v) for v in values)
    except Exception:  # noqa: BLE001 - whatever a type of the user's raises
        return None


def copy(value):
    if type(value) is memoryview:
        return View(value)
    return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


def load(model, using, values):
    """Return a fresh instance, as a SELECT gives it."""
    if View in map(type, values):
        values = [memoryview(v) if type(v) is View else v for v in values]
    return model.from_db(using, list(layout(model).attnames), values)
