"""
The child of a fork has one thread, and copies of everything: of locks, which a
thread may have held that there is no longer, and of connections, whose answers
are also the parent's.

Gunicorn forks with --preload, Celery for its prefork pool, and pytest, uWSGI
and multiprocessing in ways of their own.
"""

import os
import weakref

owners = weakref.WeakSet()


def renew_in_child(owner):
    """Have begin_anew() of an object called in each child."""
    owners.add(owner)


def begin_anew():
    for owner in list(owners):
        owner.begin_anew()


os.register_at_fork(after_in_child=begin_anew)
