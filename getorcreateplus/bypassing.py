"""bypass(): use no cache in a block."""

from collections.abc import Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

from django.apps import apps
from django.db import models

# The concrete models of each open block; an empty set means all models. The
# blocks that are open for all threads (getorcreateplus.test.caching_off()) are
# the default of the others, so that a hit reads only one variable.
everywhere: list[frozenset] = []
blocks: ContextVar[Sequence[frozenset]] = ContextVar(
    "getorcreateplus_bypass", default=everywhere
)


class bypass(ContextDecorator):  # noqa: N801 - as contextlib names its own
    """
    Query the database in this block, or in the function that it decorates:
    nothing is a hit, and nothing is put into the cache. Writes invalidate as
    usual.

    The arguments are models, or labels ("shop.Tag"); without any, all models
    are bypassed. It applies in this thread or task, and in what copies its
    context (sync_to_async(), asyncio.create_task()).

    Raise TypeError for anything but a model, LookupError for an unknown label.
    """

    def __init__(self, *args):
        for model in args:
            if not isinstance(model, str):
                concrete_model(model)
        self.models = args

    def __enter__(self):
        # Nothing is stored on self: several threads may enter one object.
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
    """Return True if the cache of a concrete model must not be used."""
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
