"""
The UPDATE of update_or_create(), which is compiled once.

This module keeps the SQL, like compiled_inserts.py, and all other steps are
Django's own. Between save() and the UPDATE, the instance has its own
_do_update(). It uses only the arguments that save() passes, so a copy of the
instance may have it, too.
"""

from operator import attrgetter

from django.db import DatabaseError, connections
from django.db.models.query import QuerySet
from django.db.models.signals import pre_save
from django.db.models.sql import UpdateQuery
from django.db.models.sql.compiler import SQLCompiler, SQLUpdateCompiler

from ..conf import conf
from ..environment.cached_functions import cached_until_models_change
from ..environment.interruptions import reraise
from ..lookups.origin import is_foreign
from ..selects.parameters import NotCompiled, arguments_of, parameters_of
from .compiled_inserts import has_foreign_steps, is_plain, makes_plain_sql, stock

# Methods that run between save() and the UPDATE, and see the instance.
STEPS_OF_MODEL = (
    "__delattr__",
    "__getattribute__",
    "__setattr__",
    "_do_update",
    "_get_pk_val",
    "_is_pk_set",
    "_prepare_related_fields_for_save",
    "_save_parents",
    "_save_table",
    "save",
    "save_base",
)
steps_of_model = attrgetter(*STEPS_OF_MODEL)

# Methods that compile an UPDATE, and run it.
STEPS_OF_COMPILER = "as_sql", "execute_sql", "pre_sql_setup"
find_steps = attrgetter(*STEPS_OF_COMPILER)
STEPS_OF_QUERYSET = "_update", "filter", "using"
steps_of_queryset = attrgetter(*STEPS_OF_QUERYSET)
STOCK_STEPS = [stock(step) for step in steps_of_queryset(QuerySet)]

MAX_UPDATES = 200  # of one model; there is one for each set of fields


def steps_of_compiler(compiler_class):
    """
    Return the steps, and those of the bases, which a backend's steps call.
    """
    return (
        find_steps(compiler_class)
        + find_steps(SQLUpdateCompiler)
        + find_steps(SQLCompiler)
    )


def save_row(queryset, obj, using, update_fields):
    """Do the same as obj.save(using=using, update_fields=update_fields)."""
    model = queryset.model
    plan = plan_of(model)
    if (
        plan is not None
        and type(obj) is model
        and queryset.compiled_selects
        and conf.COMPILED_SELECTS
        and steps_of_model(model) == plan.steps
        and not pre_save.has_listeners(model)
    ):
        vars(obj)["_do_update"] = OwnUpdate(obj, plan)
    try:
        obj.save(using=using, update_fields=update_fields)
    finally:
        vars(obj).pop("_do_update", None)


class Plan:
    """Facts about the UPDATEs of a model."""

    def __init__(self, model, pk):
        self.model = model
        self.pk = pk  # the Arguments of a lookup by primary key
        self.steps = steps_of_model(model)
        # (alias, backend, attnames, which of them are NULL): CompiledUpdate,
        # None if refused
        self.updates = {}


@cached_until_models_change
def plan_of(model):
    """
    Return the Plan of a model. Return None if code that is not Django's runs
    between save() and the UPDATE, or if there are several UPDATEs.
    """
    concrete = model._meta.concrete_model
    pk = arguments_of(concrete, ("pk",))
    if pk is None or has_foreign_steps(model, STEPS_OF_MODEL):
        return None
    return Plan(concrete, pk)


class OwnUpdate:
    """The _do_update() of one instance."""

    def __init__(self, instance, plan):
        self.instance = instance
        self.plan = plan

    def __call__(self, base_qs, using, pk_val, values, *args):
        # Follows Model._do_update() in 5.2 to 6.1. Since 6.0, it gets the
        # fields that are to be returned, and returns a list of rows.
        update_fields, _, *returning_fields = args
        vars(self.instance).pop("_do_update", None)
        rows = None
        if (
            values
            and update_fields  # not select_on_save
            and not any(returning_fields)
            and is_plain(self.plan.model._base_manager)
            and is_unfiltered(base_qs, using)
        ):
            rows = self.update(base_qs, connections[using], pk_val, values)
        if rows is None:
            return self.instance._do_update(base_qs, using, pk_val, values, *args)
        return [()] * rows if returning_fields else rows > 0

    def update(self, base_qs, connection, pk_val, values):
        """Send the UPDATE. Return the row count; None if it is Django's."""
        params = params_of(values, connection)
        if params is None:
            return None
        try:
            pk_params, marks = parameters_of(self.plan.pk, {"pk": pk_val}, connection)
        except NotCompiled:
            return None
        if marks:
            return None
        attnames = tuple([field.attname for field, _, _ in values])
        nulls = tuple([param is None for param in params])
        updates = self.plan.updates
        at = connection.alias, type(connection), attnames, nulls
        sent = params + pk_params
        if at not in updates:
            if len(updates) >= MAX_UPDATES:
                updates.clear()
            # For the next row. This one is Django's.
            updates[at] = compiled_update(base_qs, connection, pk_val, values, sent)
            return None
        update = updates[at]
        if update is None:
            return None
        if not update.is_current(base_qs.model, values):
            updates.pop(at, None)
            return None
        if not update.sends_nulls:
            sent = [param for param in sent if param is not None]
        return execute(connection, update.sql, tuple(sent))


class CompiledUpdate:
    """The UPDATE of these fields of one row. Threads share it."""

    def __init__(self, compiler, sql, values, sends_nulls):
        self.sql = sql
        self.fields = [field for field, _, _ in values]
        self.sends_nulls = sends_nulls
        self.table = compiler.query.get_meta().db_table
        self.compiler_class = type(compiler)
        self.steps = steps_of_compiler(type(compiler))

    def is_current(self, model, values):
        """Return True if Django would still compile this SQL, and run it."""
        return (
            self.table == model._meta.db_table
            and self.fields == [field for field, _, _ in values]
            and self.steps == steps_of_compiler(self.compiler_class)
        )


def is_unfiltered(queryset, using):
    """Return True if Django's own filter() and _update() run on all rows."""
    return (
        type(queryset) is QuerySet
        and queryset._db == using  # type: ignore[attr-defined]
        and not queryset._query.where  # type: ignore[attr-defined]
        and [*steps_of_queryset(QuerySet)] == STOCK_STEPS
    )


def params_of(values, connection):
    """
    Return the parameters that Django sends for these (field, model, value).
    Return None if one of them is not a parameter, but SQL.
    """
    params = []
    for field, _, value in values:
        # The same as SQLUpdateCompiler.as_sql().
        if hasattr(value, "resolve_expression") or hasattr(
            value, "prepare_database_save"
        ):
            return None
        param = field.get_db_prep_save(value, connection=connection)
        if hasattr(param, "as_sql"):
            return None
        params.append(param)
    return params


def execute(connection, sql, params):
    """
    Run an UPDATE. Return the row count, as SQLUpdateCompiler.execute_sql()
    does.
    """
    cursor = connection.cursor()
    try:
        cursor.execute(sql, params)
    except Exception as error:
        try:
            cursor.close()
        except DatabaseError:
            raise error from None
        raise
    try:
        return cursor.rowcount or 0
    finally:
        cursor.close()


def compiled_update(base_qs, connection, pk_val, values, params):
    """
    Return the CompiledUpdate of a row that Django is about to update. Return
    None if its SQL may depend on its values.
    """
    try:
        # The same as QuerySet._update().
        query = base_qs.filter(pk=pk_val).query.chain(UpdateQuery)
        query.add_update_fields(values)
        compiler = query.get_compiler(using=connection.alias)
        if not compiles_as_django(compiler, values):
            return None
        sql, sent = compiler.as_sql()
        sends_nulls = len(sent) == len(params)  # not "= NULL", as in 5.2
        if not sends_nulls:
            params = [param for param in params if param is not None]
        if (
            sql.count("%") != len(sent)
            or sql.count("%s") != len(sent)
            or [*map(type, sent)] != [*map(type, params)]
            or [*sent] != params
        ):
            return None
    except Exception as error:  # noqa: BLE001 - Django is going to raise it
        reraise(error)
        return None
    return CompiledUpdate(compiler, sql, values, sends_nulls)


def compiles_as_django(compiler, values):
    """Return True if only Django's code compiles an UPDATE of these fields."""
    return (
        isinstance(compiler, SQLUpdateCompiler)
        and not any(map(is_foreign, steps_of_compiler(type(compiler))))
        and makes_plain_sql(compiler, [field for field, _, _ in values])
    )
