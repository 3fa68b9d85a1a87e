"""
Whether a lookup takes Django's path.

A hit, a batch and a get() that creates take the arguments of a lookup as they
are written. Django's get_or_create() passes them through a chain of methods,
the steps: a project or a neighbour that overrides one may look for something
else (the active language, one region, live rows), add a filter when the query
is compiled, or change the rows that were fetched. So the shortcuts are for
querysets all of whose steps are Django's or this package's. Any other queryset
runs Django's own call.

``lookups_as_written = True`` on a class declares that its overrides, and those
of its bases, change nothing of this. It does not speak for a subclass.
"""

from functools import lru_cache
from operator import attrgetter
from types import FunctionType
from typing import NamedTuple

from django.db.models.expressions import Col
from django.db.models.fields.related_lookups import RelatedExact, RelatedIsNull
from django.db.models.lookups import Exact, IntegerFieldExact, IsNull
from django.db.models.query import ModelIterable, QuerySet
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.datastructures import BaseTable
from django.db.models.sql.where import WhereNode

DECLARATION = "lookups_as_written"

# What get(), filter() and a batch's SELECT call, and what builds a queryset
# that they are called on.
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
# A subclass of this package's classes may override them: it calls super() with
# the arguments that count. A class between these and QuerySet may not: a hit
# ends before it is called.
ENTRIES = frozenset({"get_or_create", "update_or_create"})

# Django's other classes on the path, which somebody may have patched. (Of the
# fields, keys.py looks at the conversions.)
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
# Profilers patch execute_sql() to measure it, and type checkers' runtime
# helpers the other one.
FREE = frozenset({"__class_getitem__", "execute_sql"})

# What is no state of a query, and set on one nevertheless.
REPLACEABLE = frozenset(
    {"compiler", *(name for name in dir(Query) if callable(getattr(Query, name)))}
)

# What Django sets on each queryset. One with a step among its attributes has
# more of them.
STATE = frozenset(QuerySet().__dict__)
NOT_MORE = len(STATE)

# A class is looked at again where one of these is another function by now,
# as packages and tests patch Django at any time. (All steps would be 1 us.)
watched_steps = attrgetter(
    "get",
    "filter",
    "_filter_or_exclude",
    "_filter_or_exclude_inplace",
    "_fetch_all",
)

# Where a class keeps its Path. (Not in a dict by class: neighbours make a
# class for each call, and it would keep all of them.)
PATH = "_getorcreateplus_path"


class Change(NamedTuple):
    """A step that is not Django's: ``what`` is a clause, without a stop."""

    what: str
    remedy: str


class Path(NamedTuple):
    """What there is to say of a queryset class."""

    cls: type
    change: Change | None  # of its lookups
    batch_change: Change | None  # of its batches
    entries: frozenset  # ENTRIES of a class between this package's and QuerySet
    steps: tuple  # watched_steps() of it
    get: object  # of QuerySet, which AlwaysGetOrCreateMixin hides


def follows_django(queryset):
    """
    Tell whether Django's get_or_create() would look up the arguments as they
    are written, and return the row as its iterable class makes it.
    """
    return has_django_steps(queryset) and has_django_query(queryset.query)


def has_django_steps(queryset):
    """As follows_django(), without a look at the query (0.4 us of a hit)."""
    cls = type(queryset)
    path = queryset._getorcreateplus_path
    if path is None or path.cls is not cls or is_outdated(path):
        path = path_of(cls)
    own = queryset.__dict__
    return path.change is None and (len(own) <= NOT_MORE or STEPS.isdisjoint(own))


def is_outdated(path):
    return path.steps != watched_steps(path.cls) or path.get is not QuerySet.get


def has_django_query(query):
    """Tell whether a query is compiled to the conditions that it shows."""
    return (
        (type(query) is Query or is_trusted(type(query)))
        and REPLACEABLE.isdisjoint(query.__dict__)
        and is_plain(query.where)
    )


def is_plain(node):
    """Tell whether a part of a WHERE is compiled by Django."""
    if type(node) is not WhereNode:
        return False
    for child in node.children:
        if hasattr(child, "children") and not is_plain(child):
            return False
    return True


def batch_follows_django(queryset):
    """As follows_django(), of each row of a batch."""
    return (
        follows_django(queryset)
        and path_of(type(queryset)).batch_change is None
        and is_of_django(queryset._iterable_class)
    )


def change_of(queryset):
    """Return the first Change of a queryset's lookups, None without one."""
    change = path_of(type(queryset)).change
    if change is not None:
        return change
    leave_out = f"Override it in a queryset class that declares {DECLARATION} = True."
    for name in sorted(STEPS & queryset.__dict__.keys()):
        return Change(f"this queryset has {spelled(name)} of its own", leave_out)
    query = queryset.query
    if not is_trusted(type(query)):
        return Change(
            f"its query is a {named(type(query))}",
            f"Set {DECLARATION} = True on that class, if its queries find the rows "
            "that Django's find.",
        )
    for name in sorted(REPLACEABLE & query.__dict__.keys()):
        return Change(f"its query has {spelled(name)} of its own", leave_out)
    if not is_plain(query.where):
        return Change("its WHERE has a node that is not Django's", leave_out)
    if not is_of_django(queryset._iterable_class):
        return Change(
            f"{named(queryset._iterable_class)} makes its rows",
            "Look up by a queryset that yields rows as they are in the table.",
        )
    return None


def with_own_steps(clone, queryset):
    """Give a clone the steps that were set on the queryset itself."""
    for name in STEPS & queryset.__dict__.keys():
        clone.__dict__[name] = queryset.__dict__[name]
    return clone


def path_of(cls):
    """Return the Path of a queryset class."""
    path = cls.__dict__.get(PATH)  # not a base's
    if path is None or is_outdated(path):
        path = examine(cls)
        setattr(cls, PATH, path)
    return path


def examine(cls):
    change, entries, below = None, set(), None
    is_behind = False  # this package's get_or_create()
    for owner in cls.__mro__:
        if owner is object:
            continue
        trusted = is_declared(cls, owner)
        for name in sorted((STEPS | ENTRIES | STATE) & owner.__dict__.keys()):
            if name in STATE and not hasattr(owner.__dict__[name], "__set__"):
                continue  # What Django sets on the queryset hides it.
            if is_stock(name, owner.__dict__[name]):
                is_behind = is_behind or (
                    name == "get_or_create" and root(owner) == OWN_PACKAGE
                )
                continue
            found = overriding(owner, name)
            if name in ENTRIES:
                if is_behind:
                    entries.add(name)
                else:
                    below = below or (None if trusted else found)
                    continue
            change = change or (None if trusted else found)
    if change is None and not is_declared(cls, QuerySet):
        change = patched()
    return Path(
        cls,
        change,
        change or below,
        frozenset(entries),
        watched_steps(cls),
        QuerySet.get,
    )


def is_declared(cls, owner):
    """Tell whether a class of the MRO speaks for the steps of the owner."""
    return any(
        each.__dict__.get(DECLARATION) is True and issubclass(each, owner)
        for each in cls.__mro__
    )


def is_trusted(query_class):
    """Tell whether a class is Django's Query, or declares to be like it."""
    return all(
        owner is object or is_of_django(owner) or is_declared(query_class, owner)
        for owner in query_class.__mro__
    )


def overriding(owner, name):
    value = owner.__dict__[name]
    if is_of_django(owner):
        module = getattr(value, "__globals__", {}).get("__name__", "some code")
        return replaced(owner, name, module)
    return Change(
        f"{named(owner)} overrides {spelled(name)}",
        f"Set {DECLARATION} = True on {owner.__name__}, or on a class below it, if "
        "it finds the rows that Django's finds, as they are in the table.",
    )


def patched():
    """Return the Change of a patch of what is beneath QuerySet, or None."""
    for cls in BENEATH:
        for name, value in cls.__dict__.items():
            if name not in FREE and is_foreign(value):
                module = getattr(value, "__globals__", {}).get("__name__", "some code")
                return replaced(cls, name, module)
    return None


def replaced(cls, name, module):
    return Change(
        f"{module} has replaced {cls.__name__}.{name}()",
        f"Set {DECLARATION} = True on the queryset class, if it finds the rows that "
        "Django's finds.",
    )


# Whose is it?

lru_cache_type = type(lru_cache(int))
DJANGO = "django"
OWN_PACKAGE = __name__.partition(".")[0]


def root(cls):
    return cls.__module__.partition(".")[0]


def is_of_django(cls):
    return root(cls) in {DJANGO, OWN_PACKAGE}


def is_stock(name, value):
    """
    Tell whether Django or this package defines what a class has for a step.

    By the code, because functools.wraps() makes a patch look like Django's,
    and a decorator of Django's may be around anything.
    """
    functions = [value]
    if type(value) is property:
        functions = [f for f in (value.fget, value.fset, value.fdel) if f is not None]
    return all(
        type(function) is FunctionType
        and is_code_of_django(function)
        and function.__code__.co_name == name
        for function in functions
    )


def is_foreign(value):
    """Tell whether a class of Django's has somebody else's code as this."""
    if isinstance(value, type):
        return False
    for holder in ("func", "__func__", "fget"):  # of cached_property and such
        value = getattr(value, holder, value)
    if type(value) is lru_cache_type:
        value = value.__wrapped__
    if type(value) is FunctionType:
        return not is_code_of_django(value)
    return callable(value) and not is_of_django(type(value))


def is_code_of_django(function):
    return function.__globals__.get("__name__", "").partition(".")[0] in {
        DJANGO,
        OWN_PACKAGE,
    } and (
        "<locals>" not in function.__code__.co_qualname
        or function.__code__.co_qualname.startswith("deconstructible.")
    )


# In words


def named(cls):
    return f"{cls.__module__}.{cls.__qualname__}"


def spelled(name):
    is_method = callable(getattr(QuerySet, name, None) or getattr(Query, name, None))
    return f"{name}()" if is_method else name
