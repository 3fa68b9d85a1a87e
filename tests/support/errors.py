"""Errors that tests raise."""


class Rollback(Exception):
    """It undoes the atomic() block that it leaves."""


class Wrong(AssertionError):
    """What is served is not what there is."""


def refuse():
    """A callable of defaults, which must not be called, or fails."""
    raise LookupError


def expect(truth, message):
    if not truth:
        raise Wrong(message)
