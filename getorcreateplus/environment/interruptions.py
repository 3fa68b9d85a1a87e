"""
What ends the call of a cache's client, and is no failure of the cache: the
exception of a time limit.

KeyboardInterrupt, SystemExit, gevent.Timeout and CancelledError are told by
their class: none is an Exception. But Celery, RQ and many a project raise an
Exception, from the handler of a signal: that comes out of the client's call as
the client's own exceptions do.

Python calls a handler with the frame that the signal interrupted, and that is
the frame below it: so the traceback tells. The client may have made another
exception of it, and then it is among the contexts.
"""

import functools
import inspect
import signal
from contextlib import contextmanager
from types import FrameType

# What another thread raises in this one leaves no frame of a handler. RQ does
# so where there is no SIGALRM.
KNOWN = {
    ("billiard.exceptions", "SoftTimeLimitExceeded"),
    ("rq.timeouts", "BaseTimeoutException"),
    ("stopit.utils", "TimeoutException"),
}

# An error that is raised over and over, because a client keeps it, has the
# frames of each time, the latest first.
MOST_FRAMES, MOST_ERRORS = 100, 20


def reraise(error):
    """
    Raise the exception of a time limit, if that is what an except block has
    caught; and do nothing if it is a failure.
    """
    limit = limit_of(error)
    if limit is not None:
        raise limit


@contextmanager
def failures_suppressed():
    """Suppress an Exception, but that of a time limit."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of whatever client or driver
        reraise(error)


def limit_of(error):
    """Return the exception of a time limit that ended a call, or None."""
    return next(filter(is_limit, chain_of(error)), None)


def chain_of(error):
    """Return an error and those that a call has made it of, the first last."""
    chain, live = [], set(callers())
    while error is not None and error not in chain and len(chain) < MOST_ERRORS:
        trace = error.__traceback__
        if chain and trace is not None and id(trace.tb_frame) in live:
            break  # What a caller handles is older than the call.
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def callers():
    """Yield the ids of the frames of now: a frame would keep itself alive."""
    frame = inspect.currentframe()
    while frame is not None:
        yield id(frame)
        frame = frame.f_back


def is_limit(error):
    return (
        isinstance(error, KeyboardInterrupt | SystemExit)
        or is_known(error)
        or is_of_handler(error)
    )


def is_known(error):
    return any((c.__module__, c.__qualname__) in KNOWN for c in type(error).__mro__)


def is_of_handler(error):
    """Tell whether the handler of a signal has raised it."""
    passed, trace, codes = set(), error.__traceback__, handler_codes()
    while trace is not None and len(passed) < MOST_FRAMES:
        frame = trace.tb_frame
        # It may have deleted its argument, or made another frame of it.
        if passed and (frame.f_code in codes or gets_frame(frame, passed)):
            return True
        passed.add(frame)
        trace = trace.tb_next
    return False


def gets_frame(frame, passed):
    """Tell whether a function was called with one of these frames."""
    code, local = frame.f_code, frame.f_locals
    number = code.co_argcount + code.co_kwonlyargcount
    number += bool(code.co_flags & inspect.CO_VARARGS)
    for name in code.co_varnames[:number]:
        value = local.get(name)  # None, if it has deleted the argument
        values = value if type(value) is tuple else (value,)
        if any(isinstance(each, FrameType) and each in passed for each in values):
            return True
    return False


def handler_codes():
    """Return the code of each handler of now."""
    found = map(signal.getsignal, signal.valid_signals())
    return {code for handler in found if (code := code_of(handler))}


def code_of(handler):
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    return getattr(handler, "__code__", None)
