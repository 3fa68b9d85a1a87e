"""
Transports: how the steps of the protocol become commands of one cache alias.

A transport's methods are steps of the protocol and not get() and set(), so
that a transport for one kind of server can do a step in one round trip. This
folder uses cache backends. It does not use rows, rules or transactions, and it
does not handle failures: a transport raises the exceptions of the backend, and
coherence/outages.py handles them.
"""

from .choice import transport_of

__all__ = ["transport_of"]
