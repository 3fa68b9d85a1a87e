"""A row that exists, and its changes to be written."""

import datetime
import uuid
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address

from django.db.models import Field, JSONField
from django.db.models.query_utils import DeferredAttribute

from ..lookups.canonical import DJANGO_FIELD_MODULES, PLAIN_TYPES
from ..lookups.rows import layout
from .insert import sent_unchanged
from .update import shape_of

# Types of parameters that are equal only if the database stores the same
# value.
COMPARABLE = frozenset(
    {
        *(type(None), bool, bytes, float, int, str, Decimal, uuid.UUID),
        *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta),
        *(IPv4Address, IPv6Address, memoryview),
    }
)


class PendingRow:
    """
    The changes by all rows of a batch that are the same row of the table, as
    far as one UPDATE can make them.
    """

    def __init__(self, bulk, obj, before):
        self.bulk = bulk
        self.obj = obj
        self.before = before  # its column values, None if they are unknown
        self.indexes = []  # indexes of the rows of the batch
        self.changes = {}

    def takes(self, changes):
        """
        Return True if these changes may be added. They may not if one of them
        is an expression, which would refer to the earlier changes.
        """
        return not self.changes or not any(map(is_expression, changes.values()))

    def add(self, index, changes):
        self.indexes.append(index)
        self.changes |= changes

    def prepare(self):
        """
        Set the values on the instance. Set ``fields`` and ``shapes``, from
        which an Update is made, and ``row``, its argument.
        """
        obj, changes, bulk = self.obj, self.changes, self.bulk
        connection = bulk.connection
        for name, value in changes.items():
            if type(value) in PLAIN_TYPES or not is_expression(value):
                setattr(obj, name, value)
        plan = bulk.changes.plan(tuple(changes))
        self.fields = plan.fields
        if plan.relations:
            obj._prepare_related_fields_for_save(bulk.method, plan.relations)
        values, numbers, shapes = [], [], {}
        for field, unchanged in plan.keys:
            value = getattr(obj, field.attname)
            if type(value) not in unchanged:
                value = field.get_db_prep_value(value, connection)
            values.append(value)
        for step in plan.steps:
            value = changes[step.name] if step.name else None
            if type(value) not in step.sent_unchanged:
                value = step.prepare(obj, value, connection)
                if is_expression(value) or hasattr(value, "as_sql"):
                    shapes[step.field], own = shape_of(value)
                    numbers += own
                    continue
            values.append(value)
        self.shapes = plan.no_shapes
        if shapes:
            self.shapes = tuple(map(shapes.get, plan.fields))
        self.row = values + numbers

    def is_unchanged(self):
        """Return True if the row already has these values, after prepare()."""
        if self.before is None or any(shape is not None for shape in self.shapes):
            return False
        columns, connection = layout(self.bulk.model), self.bulk.connection
        steps = self.bulk.changes.plan(tuple(self.changes)).steps
        sent = self.row[len(self.obj._meta.pk_fields) :]
        for step, value in zip(steps, sent, strict=True):
            if step.name:
                before = self.before[columns.index[step.field.attname]]
                if before is None and isinstance(step.field, JSONField):
                    return False  # it may be NULL or the null of JSON
                before = step.field.get_db_prep_save(before, connection)
                if not is_same(before, value):
                    return False
        return True


def is_unchanged(batch, obj, values, indexes):
    """Return True if these rows of the batch do not change an existing row."""
    pending = PendingRow(batch.bulk, obj, values)
    for index in indexes:
        if not pending.takes(batch.changes_of(index)):
            return False
        pending.add(index, batch.changes_of(index))
    prepare(batch, pending)
    return pending.is_unchanged()


def prepare(batch, pending):
    """Call prepare() of a row, and name the row in an error."""
    try:
        pending.prepare()
    except (TypeError, ValueError) as error:
        where = f"Row {batch.start + pending.indexes[0]}"
        if type(error) not in (TypeError, ValueError):
            error.add_note(where)
            raise
        raise type(error)(f"{where}: {error}") from error


class Plan:
    """The Steps of an UPDATE of the fields with these names."""

    def __init__(self, connection, opts, names):
        named = {opts.get_field(name): name for name in names}
        self.steps = [
            Step(connection, field, named.get(field))
            for field in opts.concrete_fields
            if field in named or (named and sets_itself(field))
        ]
        self.keys = [(f, sent_unchanged(connection, f)) for f in opts.pk_fields]
        self.fields = tuple(step.field for step in self.steps)
        self.no_shapes = (None,) * len(self.fields)
        self.relations = [field for field in self.fields if field.is_relation]


class Step:
    """A field that an UPDATE sets."""

    def __init__(self, connection, field, name):
        self.field = field
        self.name = name  # its name in the changes, None if the field sets itself
        self.has_pre_save = type(field).pre_save is not Field.pre_save
        # Types of values that are sent unchanged.
        self.sent_unchanged = frozenset()
        if (
            name == field.attname
            and not self.has_pre_save
            and field.descriptor_class is DeferredAttribute
        ):
            self.sent_unchanged = sent_unchanged(connection, field)

    def prepare(self, obj, value, connection):
        """Return the parameter or the expression for the field."""
        if is_expression(value):
            return value
        if self.has_pre_save:
            value = self.field.pre_save(obj, False)
        else:
            value = getattr(obj, self.field.attname)
        if is_expression(value):
            return value
        return self.field.get_db_prep_save(value, connection)


def sets_itself(field):
    """
    Return True if the field sets its own value, for example with auto_now.
    """
    if field.primary_key or field.generated:
        return False
    if type(field).pre_save.__module__ in DJANGO_FIELD_MODULES:
        return getattr(field, "auto_now", False)
    return True


def is_expression(value):
    return hasattr(value, "resolve_expression")


def is_same(before, after):
    """Return True if two parameters certainly store the same value."""
    if type(before) is not type(after):
        return False
    # psycopg has its own types for integers.
    if type(after) not in COMPARABLE and not isinstance(after, int):
        if type(after) is list:
            return len(before) == len(after) and all(map(is_same, before, after))
        return is_same_wrapped(before, after)
    # 0.0 and -0.0 are equal, but not the same.
    return before == after and (type(after) is not float or str(before) == str(after))


def is_same_wrapped(before, after):
    """Do the same for psycopg's parameters of a JSONField or BinaryField."""
    if isinstance(getattr(after, "obj", None), (bytes, memoryview)):
        return before.obj == after.obj
    if not (hasattr(after, "obj") and hasattr(after, "dumps") and after.dumps):
        return False
    return before.dumps(before.obj) == after.dumps(after.obj)
