"""
A row as plain data: column values in the order of ``_meta.concrete_fields``,
as Model.from_db() takes them.
"""

import datetime
import functools
import pickle
from decimal import Decimal

from django.core.signals import setting_changed
from django.db.models.signals import class_prepared

from ..environment.interruptions import reraise
from .equality import PLAIN, NotCanonical, digest, pk_text, plain
from .fingerprints import fingerprint

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
        self.fingerprints = {}  # (vendor, time zone): fingerprint

    def fingerprint(self, connection):
        """
        Return what marks the payloads of a row of this connection's database:
        a payload of another release, with other fields, is a miss.
        """
        # Looked at each time, because tests and tenants change the time zone.
        about = connection.vendor, connection.timezone_name
        try:
            return self.fingerprints[about]
        except KeyError:
            return self.fingerprints.setdefault(
                about, fingerprint(FORMAT, self.opts, connection)
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


# Payloads of a serializer that turns tuples into lists

SURE = frozenset((bool, int, str, type(None)))  # as JSON and msgpack have them
OTHER = "*"  # marks a value of another type
LONGEST_MARK = 40


def mark(values):
    """
    Return what tells of column values that come back from a serializer whether
    they are the ones that it was given, beside their types in JSON.
    """
    if SURE.issuperset(map(type, values)):
        return ""
    found = "".join(map(mark_of, values))
    if OTHER in found:
        return OTHER
    return found if len(found) <= LONGEST_MARK else digest(found)


def mark_of(value):
    kind = type(value)
    if kind in SURE:
        return ""
    if kind is float:
        return f"{value.hex()} "
    if kind is bytes:
        return "b"
    if kind is list:
        return f"[{''.join(map(mark_of, value))}]"
    if kind is dict and {str}.issuperset(map(type, value)):
        return f"{{{''.join(map(mark_of, value.values()))}}}"
    return OTHER


def revive(payload):
    """
    Return a payload that comes back as a list as the tuple that it was, if all
    of its values are the ones that were put there; otherwise as it is.

    A serializer may have made a text of a date, or a shorter float.
    """
    if len(payload) != PARTS:
        return payload
    stamp, fingerprint, values, marked = payload
    if (
        type(stamp) is list
        and type(values) is list
        and marked != OTHER
        and mark(values) == marked
    ):
        return tuple(stamp), fingerprint, tuple(values), marked
    return payload


PARTS = 4  # of a payload: stamp, fingerprint, values and their mark


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
    except Exception as error:  # noqa: BLE001 - whatever a type of the user's raises
        reraise(error)
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
