"""
Finds out whether code is Django's, this package's, or other code.

It compares the code of a function and not its name, because functools.wraps()
makes a patch look like Django's function, and one of Django's decorators may
wrap any function.
"""

from functools import lru_cache
from types import FunctionType

lru_cache_type = type(lru_cache(int))
DJANGO = "django"
OWN_PACKAGE = __name__.partition(".")[0]


def is_stock(name, value):
    """
    Return True if Django or this package defines this attribute of a class,
    which is a step of a lookup.
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
    """
    Return True if this attribute of one of Django's classes is other code.
    """
    if isinstance(value, type):
        return False
    for holder in ("func", "__func__", "fget"):  # of cached_property and others
        value = getattr(value, holder, value)
    if type(value) is lru_cache_type:
        value = value.__wrapped__
    if type(value) is FunctionType:
        return not is_code_of_django(value)
    return callable(value) and not is_of_django(type(value))


def is_of_django(cls):
    """Return True if Django or this package defines the class."""
    return top_package(cls) in {DJANGO, OWN_PACKAGE}


def is_of_this_package(cls):
    """Return True if this package defines the class."""
    return top_package(cls) == OWN_PACKAGE


def is_code_of_django(function):
    """
    Return True if a function was written in Django or in this package.

    A decorator may return a function inside of a function that wraps other
    code. The one of deconstructible() does not.
    """
    return function.__globals__.get("__name__", "").partition(".")[0] in {
        DJANGO,
        OWN_PACKAGE,
    } and (
        "<locals>" not in function.__code__.co_qualname
        or function.__code__.co_qualname.startswith("deconstructible.")
    )


def module_of(value):
    """Return the name of the module where a function was written."""
    return getattr(value, "__globals__", {}).get("__name__", "some code")


def top_package(cls):
    return cls.__module__.partition(".")[0]
