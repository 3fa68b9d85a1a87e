"""The comparable parts of a call of get(), ours and Django's."""

import warnings
from contextlib import contextmanager

import pytest
from django.db import connection, models, transaction
from django.db.models import QuerySet

from getorcreateplus import NonAtomicQuerySet
from getorcreateplus.selects import running


class Counter:
    """The number of kept SELECTs that were run."""

    def __init__(self, run):
        self.run = run
        self.count = 0

    def __call__(self, *args):
        self.count += 1
        return self.run(*args)


@pytest.fixture
def compiled(monkeypatch):
    counter = Counter(running.run)
    monkeypatch.setattr(running, "run", counter)
    return counter


@contextmanager
def statements_seen():
    """Collect the SELECTs that an execute wrapper sees."""
    seen = []

    def see(execute, sql, params, many, context):
        if sql.startswith("SELECT"):
            kinds = tuple((type(p), in_words(p)) for p in params or ())
            seen.append((sql, type(params), kinds))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(see):
        yield seen


def in_words(value):
    """Return a text that is the same for equal values."""
    if isinstance(value, models.Model):
        return f"{type(value).__name__} {value.pk}"
    return str(bytes(value)) if isinstance(value, memoryview) else repr(value)


def state_of(obj):
    """Return all values of an instance."""
    if not isinstance(obj, models.Model):
        return obj
    state = {
        name: (type(value), in_words(value))
        for name, value in vars(obj).items()
        if name != "_state"
    }
    about = vars(obj._state) | {
        "peers": len(getattr(obj._state, "peers", ())),
        "fields_cache": {
            name: in_words(value) for name, value in obj._state.fields_cache.items()
        },
    }
    return type(obj), state, about


def outcome(call):
    """Return the SQL, the result or exception, and the warnings of a call."""
    with (
        statements_seen() as seen,
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        try:
            with transaction.atomic():
                result = state_of(call())
        except Exception as error:
            result = type(error), str(error)
    return seen, result, [(w.category, str(w.message)) for w in warned]


def check(model, kwargs, args=(), prepare=lambda queryset: queryset):
    """
    Check that each of three calls does the same as Django's: first Django
    compiles the query, and in the end its SQL is kept.
    """
    expected = outcome(lambda: prepare(QuerySet(model)).get(*args, **kwargs))
    for _ in range(3):
        queryset = prepare(NonAtomicQuerySet(model))
        assert outcome(lambda q=queryset: q.get(*args, **kwargs)) == expected, kwargs
    return expected
