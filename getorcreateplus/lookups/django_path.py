"""
Finds out whether a lookup takes Django's path.

A hit, a batch and a get() that creates rows use the arguments of a lookup as
they are written. Django's get_or_create() passes them through a chain of
methods, the steps. A project or another package that overrides a step may look
for something else (the active language, one region, live rows), add a filter
when the query is compiled, or change the rows that were fetched. So these
shortcuts are only for querysets whose steps are all Django's or this
package's. Any other queryset runs Django's own call.

``lookups_as_written = True`` on a class declares that its overrides, and those
of its bases, change nothing of that. It does not cover a subclass.
"""

from operator import attrgetter
from typing import NamedTuple

from django.db.models.expressions import Col
from django.db.models.fields.related_lookups import RelatedExact, RelatedIsNull
from django.db.models.lookups import Exact, IntegerFieldExact, IsNull
from django.db.models.query import ModelIterable, QuerySet
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.datastructures import BaseTable
from django.db.models.sql.where import WhereNode

from .origin import is_foreign, is_of_django, is_of_this_package, is_stock, module_of

DECLARATION = "lookups_as_written"

# Methods that get(), filter() and a batch's SELECT call, and methods that
# build a queryset for them.
STEPS = frozenset(
    {
        "__getattribute__",
        "__getitem__",
        "__init__",
        "__iter__",
        "__len__",
        "__new__",
        "_chain",
        "_clone",
        "_extract_model_params",
        "_fetch_all",
        "_filter_or_exclude",
        "_filter_or_exclude_inplace",
        "_iterator",
        "_not_support_combined_queries",
        "_values",
        "all",
        "complex_filter",
        "db",
        "exclude",
        "filter",
        "get",
        "iterator",
        "order_by",
        "query",
        "select_for_update",
        "using",
        "values_list",
    }
)
# A subclass of this package's classes may override them, because it calls
# super() with the arguments that are used. A class between these and QuerySet
# may not: a hit returns before it is called.
ENTRIES = frozenset({"get_or_create", "update_or_create"})

# Django's other classes on the path, which other code may have patched.
# (canonical.py checks the conversions of fields.)
BENEATH = tuple(
    dict.fromkeys(
        base
        for cls in (
            Query,
            SQLCompiler,
            ModelIterable,
            BaseTable,
            WhereNode,
            Exact,
            IntegerFieldExact,
            RelatedExact,
            IsNull,
            RelatedIsNull,
            Col,
        )
        for base in cls.__mro__
        if base is not object
    )
)
# Profilers patch execute_sql() to measure it, and django-stubs-ext patches
# __class_getitem__(). Neither changes a lookup.
PATCHABLE = frozenset({"__class_getitem__", "execute_sql"})

# Attributes that are not the state of a query, and that other code may set on
# it.
REPLACEABLE = frozenset(
    {"compiler", *(name for name in dir(Query) if callable(getattr(Query, name)))}
)

# The attributes that Django sets on each queryset. A queryset with a step of
# its own has more attributes than these.
STATE = frozenset(QuerySet().__dict__)
STATE_SIZE = len(STATE)

# A class is examined again if another function has replaced one of these,
# because packages and tests patch Django at any time. (All steps would take 1
# us.)
sampled_steps = attrgetter(
    "get",
    "filter",
    "_filter_or_exclude",
    "_filter_or_exclude_inplace",
    "_fetch_all",
)

# The attribute where a class keeps its LookupPath. (Not in a dict by class,
# which would keep all classes alive: some packages make one for each call.)
PATH_ATTRIBUTE = "_getorcreateplus_path"


class Change(NamedTuple):
    """A step that is not Django's. ``what`` is a clause, without a stop."""

    what: str
    remedy: str


class LookupPath(NamedTuple):
    """Facts about a queryset class."""

    cls: type
    change: Change | None  # of its lookups
    batch_change: Change | None  # of its batches
    entries: frozenset  # ENTRIES of a class between this package's and QuerySet
    steps: tuple  # sampled_steps() of it
    get: object  # of QuerySet, which AlwaysGetOrCreateMixin hides


def follows_django(queryset):
    """
    Return True if Django's get_or_create() would look up the arguments as they
    are written, and return the row as the iterable class makes it.
    """
    return has_django_steps(queryset) and has_django_query(queryset.query)


def has_django_steps(queryset):
    """
    Return True if no step is overridden. It is follows_django() without its
    check of the query, which takes 0.4 us of a hit.
    """
    cls = type(queryset)
    path = queryset._getorcreateplus_path
    if (
        path is None
        or path.cls is not cls
        # is_outdated(), without its call.
        or path.steps != sampled_steps(cls)
        or path.get is not QuerySet.get
    ):
        path = path_of(cls)
    own = queryset.__dict__
    return path.change is None and (len(own) <= STATE_SIZE or STEPS.isdisjoint(own))


def has_django_query(query):
    """Return True if Django compiles a query to the conditions in it."""
    return (
        (type(query) is Query or is_trusted(type(query)))
        and REPLACEABLE.isdisjoint(query.__dict__)
        and is_django_where(query.where)
    )


def is_django_where(node):
    """Return True if Django compiles this part of a WHERE."""
    if type(node) is not WhereNode:
        return False
    for child in node.children:
        if hasattr(child, "children") and not is_django_where(child):
            return False
    return True


def batch_follows_django(queryset):
    """Return True if follows_django() holds for each row of a batch."""
    return (
        follows_django(queryset)
        and path_of(type(queryset)).batch_change is None
        and is_of_django(queryset._iterable_class)
    )


def with_own_steps(clone, queryset):
    """Give a clone the steps that were set on the queryset itself."""
    for name in STEPS & queryset.__dict__.keys():
        clone.__dict__[name] = queryset.__dict__[name]
    return clone


def change_of(queryset):
    """Return the first Change of a queryset's lookups, None without one."""
    change = path_of(type(queryset)).change
    if change is not None:
        return change
    leave_out = f"Override it in a queryset class that declares {DECLARATION} = True."
    for name in sorted(STEPS & queryset.__dict__.keys()):
        return Change(f"this queryset has {step_in_words(name)} of its own", leave_out)
    query = queryset.query
    if not is_trusted(type(query)):
        return Change(
            f"its query is a {dotted_name(type(query))}",
            f"Set {DECLARATION} = True on that class, if its queries find the same "
            "rows as Django's.",
        )
    for name in sorted(REPLACEABLE & query.__dict__.keys()):
        return Change(f"its query has {step_in_words(name)} of its own", leave_out)
    if not is_django_where(query.where):
        return Change("its WHERE has a node that is not Django's", leave_out)
    if not is_of_django(queryset._iterable_class):
        return Change(
            f"{dotted_name(queryset._iterable_class)} makes its rows",
            "Use a queryset that yields rows as they are in the table.",
        )
    return None


# Examining a class


def path_of(cls):
    """Return the LookupPath of a queryset class."""
    path = cls.__dict__.get(PATH_ATTRIBUTE)  # not that of a base
    if path is None or is_outdated(path):
        path = examine_class(cls)
        setattr(cls, PATH_ATTRIBUTE, path)
    return path


def is_outdated(path):
    """Return True if a step of the class has been patched since then."""
    return path.steps != sampled_steps(path.cls) or path.get is not QuerySet.get


def examine_class(cls):
    change, entries, below = None, set(), None
    is_behind = False  # this package's get_or_create()
    for owner in cls.__mro__:
        if owner is object:
            continue
        trusted = is_declared(cls, owner)
        for name in sorted((STEPS | ENTRIES | STATE) & owner.__dict__.keys()):
            if name in STATE and not hasattr(owner.__dict__[name], "__set__"):
                continue  # Django sets it on the queryset, which hides it.
            if is_stock(name, owner.__dict__[name]):
                is_behind = is_behind or (
                    name == "get_or_create" and is_of_this_package(owner)
                )
                continue
            found = change_by_override(owner, name)
            if name in ENTRIES:
                if is_behind:
                    entries.add(name)
                else:
                    below = below or (None if trusted else found)
                    continue
            change = change or (None if trusted else found)
    if change is None and not is_declared(cls, QuerySet):
        change = change_beneath()
    return LookupPath(
        cls,
        change,
        change or below,
        frozenset(entries),
        sampled_steps(cls),
        QuerySet.get,
    )


def is_declared(cls, owner):
    """
    Return True if a class of the MRO declares that the owner's steps change
    nothing.
    """
    return any(
        each.__dict__.get(DECLARATION) is True and issubclass(each, owner)
        for each in cls.__mro__
    )


def is_trusted(query_class):
    """
    Return True if a class is Django's Query, or declares to work like it.
    """
    return all(
        owner is object or is_of_django(owner) or is_declared(query_class, owner)
        for owner in query_class.__mro__
    )


def change_by_override(owner, name):
    if is_of_django(owner):
        return change_by_patch(owner, name, module_of(owner.__dict__[name]))
    return Change(
        f"{dotted_name(owner)} overrides {step_in_words(name)}",
        f"Set {DECLARATION} = True on {owner.__name__} or on a subclass, if it finds "
        "the same rows as Django's, as they are in the table.",
    )


def change_beneath():
    """Return the Change by a patch of a class beneath QuerySet, or None."""
    for cls in BENEATH:
        for name, value in cls.__dict__.items():
            if name not in PATCHABLE and is_foreign(value):
                return change_by_patch(cls, name, module_of(value))
    return None


def change_by_patch(cls, name, module):
    return Change(
        f"{module} has replaced {cls.__name__}.{name}()",
        f"Set {DECLARATION} = True on the queryset class, if it finds the same rows "
        "as Django's.",
    )


def dotted_name(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


def step_in_words(name):
    is_method = callable(getattr(QuerySet, name, None) or getattr(Query, name, None))
    return f"{name}()" if is_method else name
