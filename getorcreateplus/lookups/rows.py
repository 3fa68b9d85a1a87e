"""
A row as plain data: column values in the order of ``_meta.concrete_fields``,
as Model.from_db() takes them.
"""

import datetime
import pickle
from decimal import Decimal

from ..environment.cached_functions import cached_until_models_change
from ..environment.interruptions import reraise
from .canonical import PLAIN_TYPES, NotCanonical, canonical, digest, integer_pk, pk_text
from .fingerprints import fingerprint

# The format of a payload's values in this release of the package. Increase it
# with each change of the format. Cache keys and tokens do not change, because
# releases that share a cache have to see each other's writes.
FORMAT = 1
PARTS = 4  # of a payload: stamp, fingerprint, values and their mark


@cached_until_models_change
def layout(model):
    return Layout(model)


class Layout:
    """
    The columns of a model, which its payloads hold, and how to compare them.
    """

    def __init__(self, model):
        self.opts = model._meta
        fields = self.opts.concrete_fields
        self.attnames = tuple(field.attname for field in fields)
        self.index = {field.attname: i for i, field in enumerate(fields)}
        self.pks = [(f.attname, self.index[f.attname]) for f in self.opts.pk_fields]
        self.fingerprints = {}  # (vendor, time zone): fingerprint

    def fingerprint(self, connection):
        """
        Return the fingerprint of payloads of this connection's database. A
        payload of another release, with other fields, is a miss.
        """
        # It is read each time, because tests and tenants change the time zone.
        about = connection.vendor, connection.timezone_name
        try:
            return self.fingerprints[about]
        except KeyError:
            return self.fingerprints.setdefault(
                about, fingerprint(FORMAT, self.opts, connection)
            )

    def pk_text(self, values):
        """Return the text of a row's primary key, None if it has none."""
        if len(self.pks) == 1 and integer_pk(self.opts) is not None:
            value = values[self.pks[0][1]]
            if type(value) is int and abs(value) < 2**63:
                return str(value)  # the same as pk_text(), for the most frequent case
        return pk_text(self.opts, {name: values[place] for name, place in self.pks})

    def matches(self, lookup, values):
        """Return True if a payload's values are those of the lookup's row."""
        if type(values) is not tuple or len(values) != len(self.attnames):
            return False
        index = self.index
        for attname, wanted in lookup.items():  # all() takes twice as long
            value = values[index[attname]]
            # The first clause of is_same(), without its call.
            if type(value) is type(wanted) and type(value) in PLAIN_TYPES:
                if value != wanted:
                    return False
            elif not is_same(value, wanted):
                return False
        return True


def is_same(value, wanted):
    """Return True if a column has this value of a lookup (canonical)."""
    if type(value) is type(wanted) and type(value) in PLAIN_TYPES:
        return value == wanted
    try:
        value = canonical(value)
    except NotCanonical:
        return False
    return type(value) is type(wanted) and value == wanted


def with_memory_views(values):
    """Return column values from the cache as a SELECT gives them."""
    return [memoryview(v) if type(v) is MemoryViewBytes else v for v in values]


# Values that no other code can change

IMMUTABLE_TYPES = PLAIN_TYPES | {
    int,
    float,
    bytes,
    Decimal,
    datetime.datetime,
    datetime.time,
}


class MemoryViewBytes(bytes):
    """The bytes of a memoryview, which cannot be pickled itself."""

    # It is pickled under this name: see payload.py.
    __module__ = "getorcreateplus.payload"
    __qualname__ = "View"


def private_copy(values):
    """
    Return a copy of column values, as a tuple, that no other code can change.

    Return None if one of them cannot be pickled.
    """
    if IMMUTABLE_TYPES.issuperset(map(type, values)):
        return tuple(values)
    try:
        return tuple(
            v if type(v) in IMMUTABLE_TYPES else copy_of_value(v) for v in values
        )
    except Exception as error:  # noqa: BLE001 - by a type of the user's
        reraise(error)
        return None


def copy_of_value(value):
    if type(value) is memoryview:
        return MemoryViewBytes(value)
    return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))


def pack(values):
    """
    Return such a copy in a form that this process can keep and use more than
    once: pickled if one of its values is mutable.
    """
    if IMMUTABLE_TYPES.issuperset(map(type, values)):
        return values
    return pickle.dumps(values, pickle.HIGHEST_PROTOCOL)


def unpack(packed):
    return pickle.loads(packed) if type(packed) is bytes else packed


def size_of(packed):
    """
    Return about how many bytes packed values take. Only long values are
    counted.
    """
    if type(packed) is bytes:
        return len(packed)
    size = MIN_ROW_SIZE
    for value in packed:  # sum() takes twice as long
        kind = type(value)
        if kind is str or kind is bytes:
            size += len(value)
    return size


MIN_ROW_SIZE = 100  # bytes


# Payloads of a serializer that turns tuples into lists

JSON_TYPES = frozenset((bool, int, str, type(None)))  # in JSON and in msgpack
MARKED_TYPES = JSON_TYPES | {float, bytes, list, dict}
OTHER = "*"  # marks a value of another type
MAX_MARK_LENGTH = 40


def mark(values):
    """
    Return a text that shows, together with the values' types in JSON, whether
    a serializer has returned the same column values as it was given.
    """
    kinds = set(map(type, values))
    if JSON_TYPES.issuperset(kinds):
        return ""
    if not MARKED_TYPES.issuperset(kinds):
        return OTHER
    found = "".join(map(mark_of, values))
    if OTHER in found:
        return OTHER
    return found if len(found) <= MAX_MARK_LENGTH else digest(found)


def mark_of(value):
    kind = type(value)
    if kind in JSON_TYPES:
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
    If a payload comes back as a list, return the tuple that it was, if all of
    its values are still the same. Otherwise return it unchanged.

    A serializer may have turned a date into a text, or shortened a float.
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
