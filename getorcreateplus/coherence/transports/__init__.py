"""
Transports: how the steps of the protocol become commands of one cache alias.

A transport's methods are steps of the protocol and not get() and set(), so
that a transport for one kind of server can do a step in one round trip. This
folder knows cache backends. It does not know rows, rules or transactions, and
it does not handle failures: what a backend raises, a transport raises, and
coherence/outages.py decides what that means.
"""

from .choice import transport_of

__all__ = ["transport_of"]
