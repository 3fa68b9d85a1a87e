"""Invalidate rows that were written without Django."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections, models, router

from ..bypassing import concrete_model
from ..coherence import writing
from ..environment.aliases import usable_connections
from ..environment.coroutines import refuse_in_coroutine
from ..lookups.canonical import pk_text
from .model_tables import has_pk_of, tables_of
from .tables import has_exact_keys, pk_of, table_index

# Rows of a queryset. If there are more, all rows of the model are invalidated.
MAX_INVALIDATED = 1000


def invalidate(
    target: models.Model
    | type[models.Model]
    | str
    | models.QuerySet[Any, Any]
    | models.Manager[Any],
    using: str | None = None,
) -> None:
    """
    Invalidate cached rows that were written without Django, by another
    program, a trigger, or a driver's own cursor.

    ``target`` is an instance; or a model or its label ("shop.Tag"), for all
    its rows; or a queryset, for the rows that it selects now, with a query; or
    a manager, for the rows of its queryset. They are invalidated in every
    database, or only in that of the alias ``using``. Inside atomic() this
    takes effect at once for this transaction, and again for all others after
    its commit.

    Raise TypeError for any other target, LookupError for an unknown label,
    ValueError for an instance without a primary key. Do nothing for a model
    that is not cached.
    """
    if isinstance(target, str):
        target = concrete_model(target)
    if isinstance(target, models.Manager):
        target = target.all()
    if isinstance(target, models.QuerySet):
        using = using or target._db  # type: ignore[attr-defined]
        invalidate_rows(target.model, selected_pks(target, using), using)
    elif isinstance(target, models.Model):
        invalidate_rows(type(target), [target], using)
    elif isinstance(target, type) and issubclass(target, models.Model):
        invalidate_rows(target, None, using)
    else:
        raise TypeError(
            f"invalidate() takes an instance, a model or its label, a queryset or a "
            f"manager, not {target!r}."
        )


def invalidate_rows(model, rows, using=None):
    """
    Invalidate rows of a model, which are instances or primary keys; None means
    all rows.

    Return [(region, primary keys as texts, or None)] of the invalidated rows.

    It refuses to run in a coroutine, which has other connections than
    sync_to_async(): if these are in a transaction, the rows would be released
    before its commit.
    """
    refuse_in_coroutine()
    if using is not None:
        check_alias(using)
    model = concrete_model(model)
    for row in rows or ():
        check_row(model, row)
    if rows is not None and not rows:
        return []  # a queryset that selects none
    invalidated = []
    targets = usable_connections() if using is None else [connections[using]]
    for connection in targets:
        alias, pks_of_regions = connection.alias, {}
        for parent in tables_of(model):
            pks = None if rows is None else pks_in(parent, model, rows)
            name = connection.ops.quote_name(parent._meta.db_table)
            for table in table_index(connection).tables.get(name, ()):
                for region in table.cached_model.all_regions(alias):
                    if not (
                        table.names_row
                        and region.version_per_row
                        and has_exact_keys(table.cached_model, connection)
                    ):
                        pks_of_regions[region] = None
                    elif pks_of_regions.setdefault(region, pks) is not None:
                        pks_of_regions[region] = pks
        for region, pks in pks_of_regions.items():
            writing.invalidate_rows(connection, region, pks)
        invalidated += pks_of_regions.items()
    return invalidated


def selected_pks(queryset, using):
    """
    Query the primary keys that a queryset selects. Return None for all rows.

    The query goes to the database that the queryset names, or to ``using``.
    """
    query = queryset.query
    if not (query.where.children or query.is_sliced or query.combinator):
        return None
    using = queryset._db or using
    if using is None:
        # Not a replica, which may be behind.
        using = router.db_for_write(queryset.model, **queryset._hints)
    check_alias(using)
    selected = queryset.using(using).values_list("pk", flat=True)
    pks = list(selected[: MAX_INVALIDATED + 1])
    return pks if len(pks) <= MAX_INVALIDATED else None


def check_alias(using):
    if using not in connections:
        raise ValueError(
            f"using = {using!r} is not in DATABASES, which has "
            f"{', '.join(map(repr, connections))}."
        )


def check_row(model, row):
    opts = model._meta
    if isinstance(row, models.Model):
        if not isinstance(row, model):
            raise TypeError(f"{row!r} is not an instance of {opts.label}.")
        if not row._is_pk_set():
            raise ValueError(
                f"{row!r} has no primary key: a row that is not saved is not cached."
            )
        return
    values = row if len(opts.pk_fields) > 1 else [row]
    try:
        for field, value in zip(opts.pk_fields, values, strict=True):
            if value is None:
                raise ValueError(value)
            field.to_python(value)
    except (ArithmeticError, TypeError, ValueError, ValidationError):
        raise ValueError(f"{row!r} is not a primary key of {opts.label}.") from None


def pks_in(parent, model, rows):
    """
    Return the primary keys of a model's rows in a parent's table, as texts.
    Return None if one of them is unknown.
    """
    is_same, opts, pks = has_pk_of(model, parent), parent._meta, []
    for row in rows:
        if isinstance(row, models.Model):
            pks.append(pk_of(row, parent))
        elif is_same:
            values = row if len(opts.pk_fields) > 1 else [row]
            names = [field.attname for field in opts.pk_fields]
            pks.append(pk_text(opts, dict(zip(names, values, strict=True))))
        else:
            return None
    return None if None in pks else pks
