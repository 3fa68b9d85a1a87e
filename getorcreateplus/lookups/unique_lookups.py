"""Finds out which lookups a unique constraint covers."""

from ..environment.cached_functions import cached_until_models_change


def is_unique_lookup(model, values):
    """
    Return True if no two rows can have these values, {attname: value}.

    NULL does not count, because a unique column may be NULL in many rows.
    """
    given = {attname for attname, value in values.items() if value is not None}
    return any(map(given.issuperset, unique_attnames(model)))


@cached_until_models_change
def unique_attnames(model):
    """
    Return the attnames of each primary key and unique constraint of the model
    and its parents, without constraints that have a condition.
    """
    found = []
    for each in (model, *model._meta.all_parents):
        opts = each._meta
        named = [
            *opts.unique_together,
            *(constraint.fields for constraint in opts.total_unique_constraints),
            *([field.name] for field in opts.local_fields if field.unique),
        ]
        found.append({field.attname for field in opts.pk_fields})
        found += [{opts.get_field(name).attname for name in names} for names in named]
    return tuple(map(frozenset, found))
