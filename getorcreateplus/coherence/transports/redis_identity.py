"""
The server of a connection, and the tokens of that server.

A server that starts from a snapshot, or a replica that becomes the primary,
may have entries that a writer has replaced in the meantime. Each token names
the server that had it first. On another server it is not valid: a reader
replaces it.
"""

import hashlib
import re
import time

from ..entries import is_hint_key
from ..tokens import FOREIGN, is_locked

# Redis 6.2 takes one section per command.
QUESTION = ("INFO", "server"), ("INFO", "replication")

# Seconds after which a connection queries this again. A server does not become
# a replica and a primary again within that time.
MAX_AGE = 1

# It changes with each start, and with each change from a replica to a primary.
names_of = re.compile(rb"\b(run_id|master_replid|role):(\w+)").findall


class IsReplica(ConnectionError):
    """Its entries may be older than those of the primary."""


class Identity:
    """
    The server of a connection, as ``server_id``: "" if it is unknown.

    It is an attribute of the connection, because a pool may give the
    connection to other code in the meantime.
    """

    server_id = ""
    asked = None  # as time.monotonic() counts

    def __init__(self, connection):
        self.connects = 0
        # The pool keeps a connection that the server has closed.
        connection.register_connect_callback(self.reset)

    def reset(self, connection):
        self.connects += 1
        self.asked = None

    def is_outdated(self):
        """
        Return True if the next packet has to send the QUESTION. Record that it
        does.
        """
        now = time.monotonic()
        if self.asked is not None and now - self.asked <= MAX_AGE:
            return False
        self.asked = now
        return True

    def take(self, answers):
        """Take the answers to the QUESTION."""
        said = {}
        for answer in answers:
            if isinstance(answer, bytes):  # and not an error: an ACL may forbid it
                said |= names_of(answer)
        if said.get(b"role") == b"slave":
            self.asked = None
            raise IsReplica("the server is a replica, and not the primary")
        names = said.get(b"run_id", b""), said.get(b"master_replid", b"")
        self.server_id = ""
        if all(names):
            digest = hashlib.sha1(b"".join(names), usedforsecurity=False).hexdigest()
            self.server_id = f"{digest[:8]}-"


def identity_of(connection):
    try:
        return connection.getorcreateplus_identity
    except AttributeError:
        connection.getorcreateplus_identity = Identity(connection)
        return connection.getorcreateplus_identity


def marked(key, value):
    """
    Mark a token that names no server, or another server than its own. Do not
    mark other values: hints, and LOCKs, which are valid on each server.
    """
    if is_locked(value) or is_hint_key(key):
        return value
    return FOREIGN + value
