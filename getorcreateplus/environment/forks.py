"""
The objects that the child of a fork has to renew.

The child has one thread, and copies of everything: of locks that a thread of
the parent may hold, and of connections whose replies the parent also reads.

Gunicorn forks with --preload, Celery for its prefork pool, and pytest, uWSGI
and multiprocessing fork, too.
"""

import os
import weakref

owners = weakref.WeakSet()


def renew_in_child(owner):
    """Call the object's begin_anew() in each child."""
    owners.add(owner)


def begin_anew():
    for owner in list(owners):
        owner.begin_anew()


os.register_at_fork(after_in_child=begin_anew)
