"""The tables that hold a model's rows, according to its fields."""

from django.db import models


def tables_of(model):
    """Return the models whose tables hold a row: the model and its parents."""
    opts = model._meta.concrete_model._meta
    parents = (parent._meta.concrete_model for parent in opts.all_parents)
    return list(dict.fromkeys((opts.concrete_model, *parents)))


def has_pk_of(model, parent):
    """Return True if the primary key of a child is the link to the parent."""
    while model is not parent:
        link = model._meta.pk.remote_field
        if link is None or not link.parent_link:
            return False
        model = link.model._meta.concrete_model
    return True


def end_of_relation(field):
    while field.is_relation:
        field = field.target_field
    return field


def column_of(field):
    return field.column, end_of_relation(field).get_internal_type()


# Django carries these out with its own statements, or refuses the delete. A
# SET() has a deconstruct().
BY_DJANGO = (
    models.CASCADE,
    models.PROTECT,
    models.RESTRICT,
    models.SET_DEFAULT,
    models.SET_NULL,
)


def deleted_by_database(model, found):
    """
    Add to ``found`` the models whose deletes may change this model's rows
    without a statement for these rows: DO_NOTHING, DB_CASCADE (6.1), and
    chains of them.
    """
    for field in model._meta.local_concrete_fields:
        relation = field.remote_field
        if (
            relation
            and relation.on_delete not in BY_DJANGO
            and not hasattr(relation.on_delete, "deconstruct")
            and not isinstance(relation.model, str)  # not defined yet
            and relation.model._meta.concrete_model not in found
        ):
            found.add(relation.model._meta.concrete_model)
            deleted_by_database(relation.model._meta.concrete_model, found)
