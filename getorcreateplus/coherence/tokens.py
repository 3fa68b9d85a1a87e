"""Tokens: the values of the entries "version", "epoch" and "clock"."""

import secrets

LOCK = "LOCK"
DIGITS = 16  # at the end of a token, hexadecimal
FOREIGN = "other."  # not a token, because of its dot


def new_token(prefix, server_id=""):
    """
    Return a token that no process has used before. ``server_id`` is that of
    the server that will have it, if it is known.
    """
    return prefix + server_id + secrets.token_hex(DIGITS // 2)


def new_tokens(count, prefix, server_id=""):
    """Return this number of new tokens, at the cost of a few."""
    start, digits = prefix + server_id, secrets.token_hex(count * DIGITS // 2)
    return [start + digits[i : i + DIGITS] for i in range(0, len(digits), DIGITS)]


def is_token(value, prefix):
    """Return True for a token or a LOCK of transactions with this prefix."""
    if type(value) is not str:
        return False
    return value.startswith(prefix) if prefix else "." not in value


def is_locked(value):
    """Return True if an entry holds a LOCK, with any prefix."""
    return type(value) is str and value.endswith(LOCK)
