"""Errors that tests raise."""


class Rollback(Exception):
    """It rolls back the atomic() block that it leaves."""


class Wrong(AssertionError):
    """A served row differs from the row of the database."""


def refuse():
    """A callable in defaults that must not be called, or that fails."""
    raise LookupError


def expect(truth, message):
    if not truth:
        raise Wrong(message)
