"""Failures of a cache."""

import pickle


class CacheFault(Exception):
    """A cache did not do a step of the protocol."""


class Unreachable(CacheFault):
    """
    The cache did not do a step, or is not in use because an earlier step
    failed.
    """

    is_slow = False  # it took a long time to fail
    is_of_look = False  # it was not a write, so the cache does not refuse writes


class Unreadable(CacheFault):
    """The cache holds an entry that cannot be unpickled."""


class LookFailed(Exception):
    """A read failed in the middle of a step that also writes."""


# Exceptions of unpickling an entry that this release of the code cannot read.
UNREADABLE = (
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    pickle.PickleError,
    TypeError,
    ValueError,
)


def cause_of(fault):
    """Return the exception of the cache's client."""
    return fault.__cause__ or fault
