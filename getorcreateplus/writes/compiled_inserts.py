"""
The INSERT of create(), which is compiled once.

Django compiles the INSERT of each new row, although its SQL is the same for
all rows of a model. This module keeps that SQL. All other steps are Django's
own: save() with its signals, the values that the fields make, the cursor, and
the values that the database returns.

Between save() and the INSERT, the instance has its own _do_insert(). So this
is only for models where only Django's code runs in between.
"""

from operator import attrgetter

from django.db import connections, models
from django.db.models.query import QuerySet
from django.db.models.signals import pre_save
from django.db.models.sql import InsertQuery
from django.db.models.sql.compiler import SQLInsertCompiler

from ..conf import conf
from ..environment.cached_functions import cached_until_models_change
from ..environment.interruptions import reraise
from ..lookups.origin import is_foreign, is_of_django

# Methods that run between create() and the INSERT, and see the instance.
STEPS_OF_MODEL = (
    "__delattr__",
    "__getattribute__",
    "__setattr__",
    "_do_insert",
    "_prepare_related_fields_for_save",
    "_save_parents",
    "_save_table",
    "save",
    "save_base",
)
steps_of_model = attrgetter(*STEPS_OF_MODEL)

# Methods that compile an INSERT.
STEPS_OF_COMPILER = (
    "as_sql",
    "assemble_as_sql",
    "field_as_sql",
    "pre_save_val",
    "prepare_value",
)
find_steps = attrgetter(*STEPS_OF_COMPILER)


def stock(method):
    """Return one of Django's methods; None if other code has replaced it."""
    return None if is_foreign(method) else method


STOCK_CREATE = stock(QuerySet.create)
STOCK_INSERT = stock(QuerySet._insert)  # type: ignore[attr-defined]
STOCK_GET_QUERYSET = stock(models.Manager.get_queryset)


def steps_of_compiler(compiler_class):
    """
    Return the steps, and those of the base, which PostgreSQL's steps call.
    """
    return find_steps(compiler_class) + find_steps(SQLInsertCompiler)


def create_row(queryset, params, guard=None):
    """
    Do the same as queryset.create(**params). An InsertGuard then recognizes
    the INSERT by its parameters.
    """
    model = queryset.model
    plan = plan_of(model)
    if (
        plan is None
        or not plan.names.issuperset(params)
        or not (queryset.compiled_selects and conf.COMPILED_SELECTS)
        or type(queryset).create is not STOCK_CREATE
        or "create" in vars(queryset)
        or steps_of_model(model) != plan.steps
        or pre_save.has_listeners(model)
    ):
        return queryset.create(**params)
    # Follows QuerySet.create() in 5.2 to 6.1.
    obj = model(**params)
    queryset._for_write = True
    if type(obj) is model:
        vars(obj)["_do_insert"] = OwnInsert(obj, plan, guard)
    try:
        obj.save(force_insert=True, using=queryset.db)
    finally:
        vars(obj).pop("_do_insert", None)
    if hasattr(queryset, "_fetch_mode"):
        obj._state.fetch_mode = queryset._fetch_mode
    return obj


class Plan:
    """Facts about the INSERTs of a model."""

    def __init__(self, model):
        fields = model._meta.concrete_fields
        self.names = {"pk", *(f.name for f in fields), *(f.attname for f in fields)}
        self.steps = steps_of_model(model)
        # (alias, backend, number of fields): CompiledInsert, None if refused
        self.inserts = {}


@cached_until_models_change
def plan_of(model):
    """
    Return the Plan of a model. Return None if code that is not Django's runs
    between create() and the INSERT, or if there are several INSERTs.
    """
    return None if has_foreign_steps(model, STEPS_OF_MODEL) else Plan(model)


def has_foreign_steps(model, names):
    """
    Return True if save() writes several tables, or if one of these steps of
    the model, or a step of its fields, is not Django's.
    """
    return bool(
        model._meta.concrete_model._meta.parents
        or any(is_foreign_step(getattr(model, name)) for name in names)
        or hasattr(model, "__getattr__")
        or any(
            is_foreign(type(field).pre_save) or "pre_save" in vars(field)
            for field in model._meta.concrete_fields
        )
    )


def is_foreign_step(step):
    # The attributes of object are not functions.
    return step not in OF_OBJECT and is_foreign(step)


OF_OBJECT = object.__delattr__, object.__getattribute__, object.__setattr__


class OwnInsert:
    """The _do_insert() of one instance."""

    def __init__(self, instance, plan, guard):
        self.instance = instance
        self.plan = plan
        self.guard = guard

    def __call__(self, manager, using, fields, returning_fields, raw):
        instance = self.instance
        del vars(instance)["_do_insert"]
        args = manager, using, fields, returning_fields, raw
        if raw or not is_plain(manager):
            return instance._do_insert(*args)
        connection = connections[using]
        at = using, type(connection), len(fields)
        inserts = self.plan.inserts
        try:
            insert = inserts[at]
        except KeyError:
            # For the next row. This one is Django's.
            inserts[at] = compiled_insert(instance, connection, *args[:-1])
            return instance._do_insert(*args)
        if insert is None:
            return instance._do_insert(*args)
        if not insert.is_current(connection, manager.model, fields, returning_fields):
            inserts.pop(at, None)
            return instance._do_insert(*args)
        params = params_of(instance, fields, connection)
        if params is None:
            return instance._do_insert(*args)
        if self.guard is not None:
            self.guard.own_params = params
        compiler = compiler_of(instance, manager, using, fields)
        compiler.as_sql = lambda: [(insert.sql, params)]
        return compiler.execute_sql(returning_fields)


class CompiledInsert:
    """The INSERT of one row of a model. Threads share it."""

    def __init__(self, compiler, sql, fields, returning_fields):
        self.sql = sql
        self.fields, self.returning_fields = list(fields), list(returning_fields)
        self.table = compiler.query.get_meta().db_table
        self.compiler_class = type(compiler)
        self.steps = steps_of_compiler(type(compiler))
        self.features = features_of(compiler.connection)

    def is_current(self, connection, model, fields, returning_fields):
        """Return True if Django would still compile this SQL."""
        return (
            self.table == model._meta.db_table
            and self.fields == fields
            and self.returning_fields == returning_fields
            and self.steps == steps_of_compiler(self.compiler_class)
            and self.features == features_of(connection)
        )


# Features that change the SQL of an INSERT. Tests change these.
features_of = attrgetter(
    "features.can_return_columns_from_insert",
    "features.can_return_rows_from_bulk_insert",
    "features.has_bulk_insert",
)


def is_plain(manager):
    """Return True if a base manager's _insert() is Django's."""
    return (
        type(manager) is models.Manager
        and manager._queryset_class is QuerySet  # type: ignore[attr-defined]
        and QuerySet._insert is STOCK_INSERT  # type: ignore[attr-defined]
        and models.Manager.get_queryset is STOCK_GET_QUERYSET
    )


def compiler_of(instance, manager, using, fields):
    """Return the compiler of an INSERT, as QuerySet._insert() does."""
    query = InsertQuery(manager.model)
    query.insert_values(fields, [instance])
    return query.get_compiler(using=using)


def params_of(instance, fields, connection, is_saved=False):
    """
    Return the parameters that Django sends for these fields. Return None if
    one of them is not a parameter, but SQL. If the instance ``is_saved``, it
    has the values that its fields have made in pre_save(), such as the time.
    """
    params = []
    for field in fields:
        # The same as SQLInsertCompiler.pre_save_val() and prepare_value().
        if is_saved:
            value = getattr(instance, field.attname)
        else:
            value = field.pre_save(instance, add=True)
        if hasattr(value, "resolve_expression"):
            return None
        param = field.get_db_prep_save(value, connection=connection)
        if hasattr(param, "as_sql"):
            return None
        params.append(param)
    return tuple(params)


def compiled_insert(instance, connection, manager, using, fields, returning_fields):
    """
    Return the CompiledInsert of a row that Django is about to insert. Return
    None if its SQL may depend on its values.
    """
    try:
        compiler = compiler_of(instance, manager, using, fields)
        compiler.returning_fields = returning_fields
        if not compiles_as_django(compiler, fields):
            return None
        [(sql, sent)] = compiler.as_sql()
        params = params_of(instance, fields, connection, is_saved=True)
    except Exception as error:  # noqa: BLE001 - Django is going to raise it
        reraise(error)
        return None
    if (
        params is None
        or compiler.returning_params
        or sql.count("%") != len(params)
        or sql.count("%s") != len(params)
        or tuple(map(type, sent)) != tuple(map(type, params))
        or tuple(sent) != params
    ):
        return None
    return CompiledInsert(compiler, sql, fields, returning_fields)


def compiles_as_django(compiler, fields):
    """Return True if only Django's code compiles an INSERT of these fields."""
    return (
        isinstance(compiler, SQLInsertCompiler)
        and not any(map(is_foreign, steps_of_compiler(type(compiler))))
        and makes_plain_sql(compiler, fields)
    )


def makes_plain_sql(compiler, fields):
    """Return True if Django's own compiler has only %s for each field."""
    classes = {*type(compiler).__mro__, *type(compiler.connection.ops).__mro__}
    return all(is_of_django(cls) for cls in classes - {object}) and not any(
        # PostGIS and arrays: SQL around the parameter.
        hasattr(field, "get_placeholder") or hasattr(field, "get_placeholder_sql")
        for field in fields
    )
