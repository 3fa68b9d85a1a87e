"""
A synchronous call in a coroutine: Django refuses it, because a query would
block the event loop.

A hit sends no query, but belongs to the transaction of a connection, and the
connection that a coroutine sees is not that of sync_to_async(). So a hit is
refused as well, by Django's own exception and message.
"""

from asyncio import _get_running_loop

from django.utils.asyncio import async_unsafe

__all__ = ["_get_running_loop", "refuse_in_coroutine"]


@async_unsafe
def refuse_in_coroutine():
    """
    Raise SynchronousOnlyOperation if an event loop runs in this thread, unless
    DJANGO_ALLOW_ASYNC_UNSAFE is set.

    This takes 0.4 us without a loop. A hit calls _get_running_loop() first,
    which is a function of C and takes a tenth of that.
    """
