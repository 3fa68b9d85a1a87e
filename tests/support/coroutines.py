"""Coroutines under an event loop, and the threads that they use."""

import asyncio

from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import close_caches
from django.db import connections


def close_all():
    connections.close_all()
    close_caches()


def by_asyncio(function, *args):
    """Run a coroutine function, whose sync calls share one thread."""

    async def main():
        try:
            return await function(*args)
        finally:
            await sync_to_async(close_all)()

    return asyncio.run(main())


def by_async_to_sync(function, *args):
    """Run a coroutine function, whose sync calls are in this thread."""
    return async_to_sync(function)(*args)


RUNNERS = [by_asyncio, by_async_to_sync]


async def with_hops(awaitable):
    """Return the result of an awaitable, and its number of thread hops."""
    loop, made = asyncio.get_running_loop(), []
    run_in_executor = loop.run_in_executor

    def counted(*args):
        made.append(args)
        return run_in_executor(*args)

    loop.run_in_executor = counted
    try:
        result = await awaitable
    finally:
        del loop.run_in_executor
    return result, len(made)


async def hops(awaitable):
    return (await with_hops(awaitable))[1]
