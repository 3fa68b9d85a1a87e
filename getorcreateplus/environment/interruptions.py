"""
Exceptions that end the call of a cache's client, but are not failures of the
cache: those of time limits.

KeyboardInterrupt, SystemExit, gevent.Timeout and CancelledError are recognized
by their class, which is not an Exception. But Celery, RQ and many projects
raise an Exception from a signal handler, and it leaves the client's call just
as the client's own exceptions do.

Python calls a handler with the frame that the signal interrupted, and that is
also the frame below the handler's, so the traceback shows it. If the client
has raised another exception from it, it is among the contexts.
"""

import functools
import inspect
import signal
from contextlib import contextmanager
from types import FrameType

# An exception that another thread raises in this thread has no frame of a
# handler. RQ raises one on systems without SIGALRM.
KNOWN_LIMITS = {
    ("billiard.exceptions", "SoftTimeLimitExceeded"),
    ("rq.timeouts", "BaseTimeoutException"),
    ("stopit.utils", "TimeoutException"),
}

# An error that a client keeps and raises again and again has the frames of
# each time, the latest first.
MAX_FRAMES, MAX_ERRORS = 100, 20


def reraise(error):
    """
    Raise the exception of a time limit, if an except block has caught one. Do
    nothing if the error is a failure.
    """
    limit = limit_of(error)
    if limit is not None:
        raise limit


@contextmanager
def failures_suppressed():
    """Suppress each Exception except that of a time limit."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - by any client or driver
        reraise(error)


def limit_of(error):
    """Return the exception of a time limit that ended a call, or None."""
    return next(filter(is_limit, chain_of(error)), None)


def chain_of(error):
    """Return an error and the errors that caused it, the first one last."""
    chain, live = [], set(callers())
    while error is not None and error not in chain and len(chain) < MAX_ERRORS:
        trace = error.__traceback__
        if chain and trace is not None and id(trace.tb_frame) in live:
            break  # An exception that a caller handles is older than the call.
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def callers():
    """Yield the ids of the current frames. (A frame would keep itself.)"""
    frame = inspect.currentframe()
    while frame is not None:
        yield id(frame)
        frame = frame.f_back


def is_limit(error):
    """Return True if an error is the exception of a time limit."""
    return (
        isinstance(error, KeyboardInterrupt | SystemExit)
        or is_known_limit(error)
        or is_from_handler(error)
    )


def is_known_limit(error):
    return any(
        (c.__module__, c.__qualname__) in KNOWN_LIMITS for c in type(error).__mro__
    )


def is_from_handler(error):
    """Return True if a signal handler has raised the error."""
    passed, trace, codes = set(), error.__traceback__, handler_codes()
    while trace is not None and len(passed) < MAX_FRAMES:
        frame = trace.tb_frame
        # The handler may have deleted its argument, or assigned another frame
        # to it.
        if passed and (frame.f_code in codes or has_argument(frame, passed)):
            return True
        passed.add(frame)
        trace = trace.tb_next
    return False


def has_argument(frame, passed):
    """Return True if a function was called with one of these frames."""
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
    """Return the code of each handler that is installed now."""
    found = map(signal.getsignal, signal.valid_signals())
    return {code for handler in found if (code := code_of(handler))}


def code_of(handler):
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    return getattr(handler, "__code__", None)
