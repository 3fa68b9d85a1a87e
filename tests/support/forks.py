"""A child of this process, like those of Gunicorn and Celery."""

import os
import signal
import traceback
import warnings

from django.db import connections

PATIENCE = 20  # seconds


def in_child(call, meanwhile=None):
    """
    Run a call in a fork, which must neither raise nor wait forever, and
    another call in this process in the meantime.

    Call it before the first query, or after connections are closed, because
    Django does not prevent a fork from sharing them.
    """
    connections.close_all()
    with warnings.catch_warnings():
        # Python warns of other threads, but they are tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # it ends the child
            signal.alarm(PATIENCE)
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if meanwhile is not None:
        meanwhile()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
