"""The changes of a bulk_update_or_create() in rows that exist."""

from collections.abc import Mapping

from django.core.exceptions import FieldError
from django.db import models
from django.db.models.base import ModelState
from django.db.models.expressions import DatabaseDefault
from django.db.models.sql import InsertQuery

from .identity import check_names, named_field, value_of
from .pending import COMPARABLE, Plan

# The types of attributes of a new instance that are not expressions.
SENT_TYPES = COMPARABLE | {ModelState}


class Changes:
    """The fields that each row changes, and the values for them."""

    def __init__(self, bulk, identifying, update_fields, create_defaults):
        self.bulk = bulk
        self.identifying = identifying
        self.opts = bulk.model._meta
        # Fields that no row changes.
        self.fixed = {
            *identifying.fields,
            *self.opts.pk_fields,
            *bulk.relation.values,
        }
        self.update_fields = None
        if update_fields is not None:
            check_names(update_fields, "update_fields")
            self.update_fields = [*map(self.updated_field, update_fields)]
        self.create_defaults = dict(create_defaults or {})
        self.check_create_defaults()
        self.of_names = {}  # names in a mapping: the names that change a row
        self.of_instance = [
            field
            for field in self.opts.concrete_fields
            if field not in self.fixed
            and not field.generated
            and not getattr(field, "auto_now_add", False)
        ]
        self.plans = {}  # names: Plan
        # True if a row changes something that is not a column: save() does
        # that.
        self.need_save = False

    def updated_field(self, name):
        """Return the field of a name in update_fields."""
        field = named_field(self.opts, name, "update_fields")
        if field in self.fixed:
            raise ValueError(
                f"update_fields names {name!r}, which identifies a row of "
                f"{self.opts.label} and so cannot change."
            )
        if field.generated:
            raise FieldError(
                f"update_fields names {name!r}, which the database generates."
            )
        return field

    def check_create_defaults(self):
        for name, value in self.create_defaults.items():
            field = self.identifying.field_in_mapping(
                None, {name: value}, name, "create_defaults"
            )
            if field in {*self.identifying.fields, *self.bulk.relation.values}:
                raise ValueError(
                    f"create_defaults names {name!r}, which identifies a row: its "
                    "value is that of the row."
                )

    def of(self, position, row):
        """Return {name: value} of the row's changes."""
        if isinstance(row, Mapping):
            names = self.of_names.get(tuple(row))
            if names is None:
                names = self.of_names[tuple(row)] = self.names_in(position, row)
            return {name: row[name] for name in names}
        fields = self.update_fields
        if fields is None:
            fields = self.of_instance
        found = {}
        for field in fields:
            value = value_of(row, field)
            if not isinstance(value, DatabaseDefault):
                is_instance = isinstance(value, models.Model)
                found[field.name if is_instance else field.attname] = value
        return found

    def names_in(self, position, row):
        """Return the names in a mapping that change a row."""
        names, missing = [], dict.fromkeys(self.update_fields or ())
        for name in row:
            field = self.identifying.field_in_mapping(position, row, name)
            if field is None or not field.concrete or field.many_to_many:
                if self.update_fields is None:
                    names.append(name)
                    self.need_save = True
                continue
            missing.pop(field, None)
            if not (field in self.fixed or field.generated) and (
                self.update_fields is None or field in self.update_fields
            ):
                names.append(name)
        for field in missing:
            raise ValueError(
                f"Row {position} has no value for {field.name!r}, which "
                f"update_fields names: {row!r}."
            )
        return names

    def plan(self, names):
        """Return the Plan of an UPDATE of the fields of these names."""
        plan = self.plans.get(names)
        if plan is None:
            plan = self.plans[names] = Plan(self.bulk.connection, self.opts, names)
        return plan


def check_new_row(position, obj):
    """Raise an error if a new row would get an expression that needs a row."""
    if SENT_TYPES.issuperset(map(type, vars(obj).values())):
        return
    for field in obj._meta.concrete_fields:
        value = obj.__dict__.get(field.attname)
        if (
            hasattr(value, "resolve_expression")
            and not isinstance(value, DatabaseDefault)
            and refers_to_row(obj, value)
        ):
            raise ValueError(
                f"Row {position}, {field.name} = {value}: the row is new, so the "
                "expression has no value. Give one for new rows in create_defaults."
            )


def refers_to_row(obj, expression):
    resolved = expression.resolve_expression(
        InsertQuery(type(obj)), allow_joins=False, for_save=True
    )
    return resolved.contains_column_references
