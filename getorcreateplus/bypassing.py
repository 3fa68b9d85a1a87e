"""bypass() turns the cache off in a block."""

from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar, cast

from django.apps import apps
from django.db import models

F = TypeVar("F", bound=Callable[..., Any])

# The concrete models of each open block; an empty set means all models. The
# default of this variable are the blocks that are open for all threads
# (getorcreateplus.test.caching_off()), so that a hit reads only one variable.
everywhere: list[frozenset] = []
blocks: ContextVar[Sequence[frozenset]] = ContextVar(
    "getorcreateplus_bypass", default=everywhere
)


class bypass(ContextDecorator):  # noqa: N801 - as contextlib names its own
    """
    Query the database in this block, or in the function that it decorates:
    there are no hits, and nothing is stored in the cache. Writes invalidate as
    usual.

    The arguments are models, or labels ("shop.Tag"). Without an argument, it
    applies to all models. It applies in this thread or task, and in those that
    copy its context (sync_to_async(), asyncio.create_task()).

    Raise TypeError for anything but a model, LookupError for an unknown label.
    """

    def __init__(self, *args: type[models.Model] | str) -> None:
        for model in args:
            if not isinstance(model, str):
                concrete_model(model)
        self.models = args

    def __enter__(self) -> None:
        # Nothing is stored on self, because several threads may enter one
        # object.
        blocks.set((*own_blocks(), frozenset(map(concrete_model, self.models))))

    def __exit__(self, *exc_info: object) -> None:
        blocks.set(own_blocks()[:-1] or everywhere)

    def __call__(self, func: F) -> F:
        refuse_generator(func, "bypass")
        if isinstance(func, type):
            raise TypeError(f"{func!r} is a class: decorate its methods.")
        if not iscoroutinefunction(func):
            return super().__call__(func)

        @wraps(func)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await func(*args, **kwargs)

        return cast("F", inner)


def is_bypassed(model: type[models.Model]) -> bool:
    """Return True if the cache of a concrete model must not be used."""
    return any(not block or model in block for block in (*own_blocks(), *everywhere))


def own_blocks() -> Sequence[frozenset]:
    """Return the blocks of this thread or task."""
    found = blocks.get()
    return () if found is everywhere else found


def refuse_generator(func: Callable[..., Any] | type, name: str) -> None:
    if isgeneratorfunction(func) or isasyncgenfunction(func):
        raise TypeError(
            f"{func!r} is a generator, so code of its caller would run in the block: "
            f"use `with {name}():` inside it, around code that does not yield."
        )


def concrete_model(model: type[models.Model] | str) -> type[models.Model]:
    """Return the concrete model of a model, or of a label."""
    if isinstance(model, str):
        if model.count(".") != 1:
            raise LookupError(f"{model!r} is not a model's label, such as 'app.Model'.")
        model = apps.get_model(model)
    if not isinstance(model, type) or not issubclass(model, models.Model):
        raise TypeError(f"{model!r} is not a model: pass a model or its label.")
    if model is models.Model or model._meta.abstract:
        raise TypeError(
            f"{model!r} is abstract and has no rows: pass a model that has a table."
        )
    return model._meta.concrete_model  # type: ignore[return-value]
