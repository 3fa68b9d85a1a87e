"""bypass(): do without the cache for a while."""

from collections.abc import Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

from django.apps import apps
from django.db import models

# Of each block that is open the concrete models; none are all. Those that are
# open for all threads (getorcreateplus.test.caching_off()) are the default of
# the others, so that a hit looks at one variable.
everywhere: list[frozenset] = []
blocks: ContextVar[Sequence[frozenset]] = ContextVar(
    "getorcreateplus_bypass", default=everywhere
)


class bypass(ContextDecorator):  # noqa: N801 - as contextlib names its own
    """
    Ask the database in this block, or in the function that it decorates:
    nothing is a hit, and nothing is put into the cache. What is written
    invalidates as ever.

    The arguments are models, or labels ("shop.Tag"); none are all models. It
    holds in this thread or task, and in what takes over its context
    (sync_to_async(), asyncio.create_task()).

    Raise TypeError for what is no model, LookupError for an unknown label.
    """

    def __init__(self, *args):
        for model in args:
            if not isinstance(model, str):
                concrete_model(model)
        self.models = args

    def __enter__(self):
        # Nothing is kept here: several threads may enter one object.
        blocks.set((*own_blocks(), frozenset(map(concrete_model, self.models))))

    def __exit__(self, *exc_info):
        blocks.set(own_blocks()[:-1] or everywhere)

    def __call__(self, func):
        refuse_generator(func, "bypass")
        if isinstance(func, type):
            raise TypeError(f"{func!r} is a class: decorate its methods.")
        if not iscoroutinefunction(func):
            return super().__call__(func)

        @wraps(func)
        async def inner(*args, **kwargs):
            with self:
                return await func(*args, **kwargs)

        return inner


def is_bypassed(model):
    """Tell whether the cache of a concrete model is not to be used."""
    return any(not block or model in block for block in (*own_blocks(), *everywhere))


def own_blocks():
    """Return the blocks of this thread or task."""
    found = blocks.get()
    return () if found is everywhere else found


def refuse_generator(func, name):
    if isgeneratorfunction(func) or isasyncgenfunction(func):
        raise TypeError(
            f"{func!r} is a generator, whose caller runs in the middle of it: "
            f"use `with {name}():` inside, around what does not yield."
        )


def concrete_model(model):
    """Return the concrete model of a model, or of a label."""
    if isinstance(model, str):
        if model.count(".") != 1:
            raise LookupError(f"{model!r} is no label of a model: say 'app.Model'.")
        model = apps.get_model(model)
    if not isinstance(model, type) or not issubclass(model, models.Model):
        raise TypeError(f"{model!r} is no model: give a model, or its label.")
    if model is models.Model or model._meta.abstract:
        raise TypeError(
            f"{model!r} is abstract, and has no rows: give a model that has a table."
        )
    return model._meta.concrete_model
