"""
Which keyword arguments and filters are the same lookup.

A lookup is a set of columns of the model's own tables, each with one value:
``1``, ``"1"``, an enum, ``pk=``, ``id=``, ``fk=obj`` and ``fk_id=`` of the
same value are one lookup. Any other condition than equality on such a column,
or equality with a value without a canonical form, is not a lookup: Django
answers it.
"""

from django.db.models import Model
from django.db.models.constants import LOOKUP_SEP
from django.db.models.expressions import Col
from django.db.models.fields.related_lookups import RelatedExact, RelatedIsNull
from django.db.models.lookups import Exact, IntegerFieldExact, IsNull

from ..environment.cached_functions import cached_until_models_change
from .canonical import (
    COMPARABLE_FIELDS,
    INCOMPARABLE_FIELDS,
    PLAIN_TYPES,
    NotCanonical,
    canonical,
    digest,
    prepare,
    prepared_type,
    refuse_other_text,
    stored_as,
)

# Django's "exact" lookups that compare one column with one value. The lookup
# of JSON, which treats None as equal to a JSON null, and lookups that a
# project has registered are not among them.
EXACT_LOOKUPS = {Exact, IntegerFieldExact, RelatedExact}
ISNULL_LOOKUPS = {IsNull, RelatedIsNull}

MAX_TEXT_LENGTH = 100  # characters, or bytes, in a lookup_tuple()
TEXT_TYPES = frozenset((bytes, str))


def from_kwargs(opts, kwargs, vendor):
    """
    Return the columns and values that keyword arguments name, by attname, in a
    database of this vendor.

    Raise NotCanonical if one of them is not equality on a column of the model.
    """
    fields = lookup_columns(opts, vendor)
    values = {}
    for argument, value in kwargs.items():
        if argument not in fields:
            if argument in {"pk", "pk__exact"} and len(opts.pk_fields) > 1:
                add_composite_pk(values, opts, value, vendor)
                continue
            raise NotCanonical(argument)
        field, kind = fields[argument]
        if field.get_lookup("exact") not in EXACT_LOOKUPS:
            raise NotCanonical(argument)
        if type(value) is kind:
            # Most lookups take this path, so it has no further call.
            prepared = value if kind in PLAIN_TYPES else canonical(value)
        elif value is None and field.get_lookup("isnull") not in ISNULL_LOOKUPS:
            raise NotCanonical(argument)
        else:
            prepared = prepare(field, value, vendor)
        if values.setdefault(field.attname, prepared) != prepared:
            raise NotCanonical(argument)
    return values


def from_query(query, vendor):
    """
    Return the columns and values in a queryset's own filters, in a database of
    this vendor.

    Raise NotCanonical if one of the filters is something else.
    """
    values = {}
    collect_conditions(query.where, query, vendor, values)
    return values


def add_condition(values, attname, value):
    """
    Add one column's value. Raise NotCanonical if it has a different one.
    """
    if values.setdefault(attname, value) != value:
        raise NotCanonical(attname)


def lookup_tuple(values):
    """
    Return canonical values by attname as a tuple, which a process remembers.

    It contains the digest of a long text. That is enough, because each hit is
    compared with the values themselves.
    """
    for value in values.values():  # any() takes longer
        if type(value) in TEXT_TYPES and len(value) > MAX_TEXT_LENGTH:
            values = {
                name: digest(value) if type(value) in TEXT_TYPES else value
                for name, value in values.items()
            }
            break
    return tuple(sorted(values.items()))


@cached_until_models_change
def lookup_columns(opts, vendor):
    """
    Return the fields that a lookup in a database of this vendor may name, by
    each of their names, with the type of the values that need no preparation.
    """
    excluded = INCOMPARABLE_FIELDS.get(vendor, set())
    fields = {}
    for field in opts.concrete_fields:
        stored = stored_as(field)
        if stored and stored.get_internal_type() in COMPARABLE_FIELDS - excluded:
            column = field, prepared_type(field, stored)
            names = [field.name, field.attname, *(["pk"] if field is opts.pk else [])]
            for name in names:
                fields[name] = fields[f"{name}{LOOKUP_SEP}exact"] = column
    return fields


def add_composite_pk(values, opts, pk, vendor):
    if not isinstance(pk, (tuple, list)) or len(pk) != len(opts.pk_fields):
        raise NotCanonical(pk)
    for field, value in zip(opts.pk_fields, pk, strict=True):
        if (
            value is None  # in a tuple it is equal to nothing
            or isinstance(value, Model)
            or field.name not in lookup_columns(opts, vendor)
            or field.get_lookup("exact") not in EXACT_LOOKUPS
        ):
            raise NotCanonical(pk)
        add_condition(values, field.attname, prepare(field, value, vendor))


def collect_conditions(node, query, vendor, values):
    if node.negated or (node.connector != "AND" and len(node.children) > 1):
        raise NotCanonical(node)
    for child in node.children:
        if hasattr(child, "children"):
            collect_conditions(child, query, vendor, values)
        else:
            add_condition(values, *condition_of(child, query, vendor))


def condition_of(lookup, query, vendor):
    """Return the attname and the value of one condition of a WHERE."""
    lhs = getattr(lookup, "lhs", None)
    if (
        type(lhs) is Col
        and lhs.alias == query.base_table  # not a join
        and lookup_columns(query.get_meta(), vendor).get(lhs.target.name, ())[:1]
        == (lhs.target,)
        and not lookup.bilateral_transforms
    ):
        if type(lookup) in EXACT_LOOKUPS:
            if vendor == "mysql":
                refuse_other_text(lookup.rhs)
            return lhs.target.attname, canonical(lookup.rhs)  # it is prepared
        if type(lookup) in ISNULL_LOOKUPS and lookup.rhs is True:
            return lhs.target.attname, None
    raise NotCanonical(lookup)
