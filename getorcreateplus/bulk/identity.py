"""
The fields that identify a row, and the values of a row for them.

The *identity* of a row is the tuple of the canonical values of these fields.
Rows with the same identity are the same row.
"""

from collections.abc import Mapping

from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import models
from django.db.models.expressions import DatabaseDefault

from ..environment.interruptions import reraise
from ..lookups.canonical import (
    PLAIN_TYPES,
    NotCanonical,
    canonical,
    canonical_integer,
    converts_as_django,
    prepare,
    related_value,
)
from ..lookups.conditions import EXACT_LOOKUPS, lookup_columns


class IdentifyingFields:
    """The fields that identify a row, and the values of a row for them."""

    names_pk = False  # True if the primary key is one of them
    # True if their values are canonical, as far as the fields show.
    are_canonical = False
    # True if the queryset and the database allow batches, too.
    allow_batches = False

    plain_types = None  # types of the values, if the values are already canonical

    def __init__(self, model, given, unique_fields, vendor, *, follows_django):
        """``given`` are the values of a related manager, by field."""
        self.model = model
        self.vendor = vendor
        self.opts = model._meta
        self.given = given
        self.unique_fields = unique_fields
        self.follows_django = follows_django
        self.names = {}  # the names in a mapping: the names of the identity

    def choose(self, position, row):
        """Choose the fields that the call names, or those of the first row."""
        if self.unique_fields is None:
            self.fields = self.covered(position, row)
        else:
            check_names(self.unique_fields, "unique_fields")
            self.fields = [named_field(self.opts, name) for name in self.unique_fields]
            if not self.fields:
                raise ValueError("unique_fields must name at least one field.")
        self.attnames = [field.attname for field in self.fields]
        self.width = len(self.fields)
        self.are_unique = {field.name for field in self.fields} in [
            set(names) for names in unique_constraints(self.opts)
        ]
        self.names_pk = self.opts.pk in self.fields
        known = lookup_columns(self.opts, self.vendor)
        self.are_canonical = all(
            field.name in known
            and field.get_lookup("exact") in EXACT_LOOKUPS
            and prepares_as_django(field)
            for field in self.fields
        )
        if self.are_canonical:
            self.types = [known[field.name][1] for field in self.fields]
            if PLAIN_TYPES.issuperset(self.types):
                self.plain_types = self.types

    def identity_of(self, position, row):
        """
        Return the identity of a row, None if it is unknown which rows it may
        be equal to. Raise an error if it cannot be equal to any row.
        """
        values = self.values_of(position, row)
        if self.allow_batches:
            if self.plain_types == list(map(type, values)):
                return tuple(values)  # the same as below, for the most frequent case
            try:
                return tuple(
                    canonical_value(*each, self.vendor)
                    for each in zip(self.fields, self.types, values, strict=True)
                )
            except NotCanonical:
                pass
        for field, value in zip(self.fields, values, strict=True):
            check_value(position, field, value)
        return None

    def values_of(self, position, row):
        """Return the values of a row for the fields."""
        if type(row) is dict or isinstance(row, Mapping):
            names = self.names.get(tuple(row)) or self.find_names(position, row)
            return [
                self.given[name] if isinstance(name, models.Field) else row[name]
                for name in names
            ]
        self.check_instance(position, row)
        values = [
            self.given[field] if field in self.given else value_of(row, field)
            for field in self.fields
        ]
        for field, value in zip(self.fields, values, strict=True):
            if isinstance(value, DatabaseDefault):
                refuse_missing(position, row, field)
        return values

    def find_names(self, position, row):
        """
        Return the names in a mapping that have the values, and remember them
        for mappings with the same names.
        """
        found = {field: field for field in self.given}
        for name in row:
            field = self.field_in_mapping(position, row, name)
            if field is not None:
                found.setdefault(field, name)
        for field in self.fields:
            if field not in found:
                refuse_missing(position, row, field)
        names = self.names[tuple(row)] = [found[field] for field in self.fields]
        return names

    def covered(self, position, row):
        """
        Return the fields of the one unique constraint that the row's fields
        cover.
        """
        given = {field.name for field in self.given} | self.names_in(position, row)
        candidates = unique_constraints(self.opts)
        found = [names for names in candidates if given.issuperset(names)]
        if len(found) != 1:
            listed = "; ".join(", ".join(names) for names in found or candidates)
            raise ValueError(
                f"Which fields identify a row of {self.opts.label}? Row {position} "
                f"({', '.join(sorted(given))}) "
                + (
                    "has all fields of several unique constraints"
                    if found
                    else "lacks a field of each unique constraint"
                )
                + f": pass unique_fields. Candidates: {listed or 'none'}."
            )
        return [self.opts.get_field(name) for name in found[0]]

    def names_in(self, position, row):
        """Return the names of the fields for which the row has a value."""
        if isinstance(row, Mapping):
            names = set()
            for name in row:
                field = self.field_in_mapping(position, row, name)
                if field is not None:
                    names.add(field.name)
            return names
        self.check_instance(position, row)
        return {
            field.name
            for field in self.opts.concrete_fields
            if not (field in self.opts.pk_fields and field.has_default())
            and not isinstance(value := value_of(row, field), DatabaseDefault)
            and value is not None
        }

    def field_in_mapping(self, position, row, name, argument=None):
        """
        Return the field that a mapping names, None for a property. The mapping
        is that row, or the value of the argument.
        """
        try:
            return self.opts.pk if name == "pk" else self.opts.get_field(name)
        except FieldDoesNotExist:
            # As in create(), a property with a setter is accepted. An
            # overridden get_or_create() decides what else it accepts.
            if self.follows_django and not (
                name in self.opts._property_names and getattr(self.model, name).fset
            ):
                raise FieldError(
                    f"{argument or f'Row {position}'}: {self.opts.label} has no field "
                    f"{name!r} (its value is {row[name]!r})."
                ) from None
            return None

    def check_instance(self, position, row):
        if not isinstance(row, self.opts.concrete_model):
            raise TypeError(
                f"Row {position} is neither a mapping nor an instance of "
                f"{self.opts.label}: {row!r}."
            )
        if not row._state.adding:
            raise ValueError(
                f"Row {position} is saved already: {row!r} (primary key {row.pk!r})."
            )
        if row._is_pk_set() and is_generated(self.opts) and not self.names_pk:
            raise ValueError(
                f"Row {position} has a primary key: {row.pk!r}. Leave it to the "
                "database, or name it in unique_fields."
            )


def check_names(names, argument):
    """Raise ValueError if a text is given, which is a sequence of letters."""
    if isinstance(names, str):
        raise ValueError(f"{argument} must be a list of names: [{names!r}].")


def named_field(opts, name, argument="unique_fields"):
    """Return the concrete field of a name in an argument."""
    try:
        field = opts.pk if name == "pk" else opts.get_field(name)
    except FieldDoesNotExist:
        field = None
    if field is opts.pk and len(opts.pk_fields) > 1:
        raise FieldError(
            f"{argument} names {name!r}, a composite primary key: name its "
            f"fields {', '.join(each.name for each in opts.pk_fields)} instead."
        )
    if field is None or not field.concrete or field.many_to_many:
        names = ", ".join(sorted(field.name for field in opts.concrete_fields))
        raise FieldError(
            f"{argument} names {name!r}, which is not a column of "
            f"{opts.label}. Choices are: {names}"
        )
    return field


def unique_constraints(opts):
    """Return lists of the names of fields that are unique together."""
    found = [
        [field.name]
        for field in opts.concrete_fields
        if field.unique and not (field.primary_key and is_generated(opts))
    ]
    if len(opts.pk_fields) > 1:
        found.append([field.name for field in opts.pk_fields])
    found += map(list, opts.unique_together)
    found += (list(constraint.fields) for constraint in opts.total_unique_constraints)
    return [names for i, names in enumerate(found) if names not in found[:i]]


def is_generated(opts):
    """Return True if the database generates the primary key."""
    return isinstance(opts.pk, models.AutoField)


def prepares_as_django(field):
    """Return True if a prepared value may be prepared again."""
    while True:
        if not converts_as_django(type(field), "get_prep_value", "to_python"):
            return False
        if not field.is_relation:
            return True
        field = field.target_field


def canonical_value(field, kind, value, vendor):
    if type(value) is kind and kind in PLAIN_TYPES:
        return value
    if type(value) is int and kind is int:
        return canonical_integer(value)
    if callable(value):
        raise NotCanonical(value)
    return prepare(field, value, vendor)


def identity_from_row(values):
    """
    Return the identity of column values of the database, or None.
    """
    try:
        return tuple(
            value if type(value) in PLAIN_TYPES else canonical(value)
            for value in values
        )
    except NotCanonical:
        return None


def value_of(instance, field):
    value = instance.__dict__.get(field.attname)
    if value is None and field.is_relation and field.is_cached(instance):
        # It may have been saved in the meantime.
        return field.get_cached_value(instance)
    return value


def check_value(position, field, value):
    """Raise an error if no row can have the value."""
    where = f"Row {position}, {field.name} = {value!r}"
    if hasattr(value, "resolve_expression") or value is None:
        return
    if isinstance(value, models.Model):
        try:
            related_value(field, value)
        except (AttributeError, NotCanonical):
            raise ValueError(
                f"{where}: not a saved instance that the field may refer to."
            ) from None
        return
    if callable(value):
        raise TypeError(f"{where}: what identifies a row must not be a callable.")
    try:
        hash(value)
    except TypeError:
        raise TypeError(f"{where}: what identifies a row must be hashable.") from None
    try:
        field.get_prep_value(value)
    except Exception as error:
        reraise(error)
        raise ValueError(f"{where}: {error}") from error


def refuse_missing(position, row, field):
    raise ValueError(
        f"Row {position} has no value for {field.name!r}, which identifies it: {row!r}."
    )
