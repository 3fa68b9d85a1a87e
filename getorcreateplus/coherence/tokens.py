"""Tokens: what the entries "version", "epoch" and "clock" hold."""

import secrets

LOCK = "LOCK"


def new_token(prefix):
    """Return a token that was never used before, by any process."""
    return prefix + secrets.token_hex(8)


def is_token(value, prefix):
    """
    Return True for a token, or a LOCK, of the transactions with this prefix.
    """
    if type(value) is not str:
        return False
    return value.startswith(prefix) if prefix else "." not in value


def is_locked(value):
    """Return True if an entry holds a LOCK, with any prefix."""
    return type(value) is str and value.endswith(LOCK)
