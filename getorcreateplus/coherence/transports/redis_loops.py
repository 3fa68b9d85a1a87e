"""
The connection of an event loop to a Redis server. A coroutine awaits it
instead of a call in a thread.

One connection per loop and cache serves all coroutines of the loop. Each read
is sent at once, and the answers come in the same order. So a cancelled
coroutine leaves no answer that another one could use as its own.

The backend's own library connects, in a thread, and then this module uses the
socket, because asyncio's transports would have to be closed before the loop.
"""

import math
import socket
import time
import weakref
from asyncio import get_running_loop
from collections import deque
from contextlib import suppress
from threading import Thread

from django.core.cache import caches

from ...environment.forks import renew_in_child
from .packets import PACKING_MODULES, pack, packs_as_redis
from .redis_identity import QUESTION, identity_of
from .redis_servers import load_pickle

# async_to_sync() makes a new loop for each call. Connecting takes as long as
# some calls in a thread.
FIRST_CALLS = 10  # calls in a loop before it connects
SECONDS = 1  # the limit for an answer, and the time from a failure until it connects
PAUSE = 60  # seconds after which it tries to connect again
CONNECTIONS = {"Connection", "UnixDomainSocketConnection"}


class Incomplete(Exception):
    """The answer is not complete yet."""


class LoopConnection:
    """One loop's connection to the server of one cache."""

    connection = None
    opened = None  # a connection that a thread has opened for the loop

    def __init__(self, server, settings):
        self.server, self.settings = server, settings
        self.waiting = deque()  # [whether the QUESTION was sent, future]
        self.data = b""
        self.held = []  # the connection
        leaving = weakref.finalize(self, disconnect, self.held)
        leaving.atexit = False
        self.calls = 0
        self.connects_after = 0.0  # as time.monotonic() counts

    def is_ready(self):
        """
        Return True if look() can be awaited. Otherwise it may start to
        connect, for later calls: this call does not wait for it.
        """
        if self.connection is not None:
            return True
        if self.opened is not None:
            connection, self.opened = self.opened, None
            sock = connection._sock
            if sock is None:  # drop() has closed it before the loop got it
                return False
            try:
                get_running_loop().add_reader(sock, self._receive)
            except NotImplementedError:  # by the ProactorEventLoop of Windows
                self.connects_after = math.inf
                return False
            self.connection = connection
            return True
        self.calls += 1
        now = time.monotonic()
        if self.calls > FIRST_CALLS and now > self.connects_after:
            self.connects_after = now + PAUSE
            with suppress(RuntimeError):  # at the end of the process
                Thread(target=self._connect, daemon=True).start()
        return False

    def _connect(self):
        pool = self.server.commands.pool
        try:
            connection = pool.connection_class(**pool.connection_kwargs)
            connection.connect()
            connection._sock.setblocking(False)
            if type(connection._sock) is socket.socket and packs_as_redis(connection):
                self.seconds = min(connection.socket_timeout or SECONDS, SECONDS)
                self.identity = identity_of(connection)
                self.held.append(connection)
                self.opened = connection
            else:
                connection.disconnect()
        except Exception:  # noqa: BLE001 - of two libraries
            pass  # The call in a thread finds the error, and reports it.

    async def look(self, keys):
        """
        Return the values under the cache's own keys, and the server_id. Return
        None if a call in a thread has to find them.
        """
        loop = get_running_loop()
        commands, asks = [("MGET", *keys)], self.identity.is_outdated()
        packet = pack([*QUESTION, *commands] if asks else commands, None)
        future = loop.create_future()
        entry = [asks, future]
        try:
            self.waiting.append(entry)
            if self.connection._sock.send(packet) != len(packet):
                raise ConnectionError("the server does not read")
        except OSError:
            self.drop()
        except BaseException:
            # Otherwise another read would get the next answer.
            self.drop()
            raise
        timer = loop.call_later(self.seconds, self.drop)
        try:
            return await future
        finally:
            timer.cancel()
            entry[1] = None  # otherwise a closed loop would stay in memory

    def _receive(self):
        try:
            received = self.connection._sock.recv(2**16)
            if not received:
                raise ConnectionError("the server has closed the connection")
            self.data += received
            while self.waiting:
                self._take(*self.waiting[0])
            if self.data:
                raise ValueError("no command has this answer")
        except (BlockingIOError, InterruptedError, Incomplete):
            return
        except (OSError, ValueError):
            self.drop()
        except BaseException:
            self.drop()
            raise

    def _take(self, asks, future):
        answers, end = [], 0
        for _ in range(len(QUESTION) * asks + 1):
            answer, end = parse(self.data, end)
            answers.append(answer)
        *said, values = answers
        if asks:
            self.identity.take(said)
        if type(values) is not list:
            raise ValueError("the server has refused the read")
        if future is not None and not future.done():  # and not cancelled
            future.set_result((values, self.identity.server_id))
        # Last, because drop() handles the waiting coroutines.
        self.data = self.data[end:]
        self.waiting.popleft()

    def drop(self):
        """
        Close the connection. Waiting coroutines then make a call in a thread.
        """
        connection, self.connection = self.connection, None
        if connection is not None:
            get_running_loop().remove_reader(connection._sock)
            disconnect(self.held)
        self.connects_after = time.monotonic() + SECONDS
        self.data = b""
        while self.waiting:
            _, future = self.waiting.popleft()
            if future is not None and not future.done():
                future.set_result(None)


def disconnect(connections):
    while connections:
        connections.pop().disconnect()


def parse(data, start):
    """Return an answer of the server, and the position of the next one."""
    end = data.find(b"\r\n", start)
    if end < 0:
        raise Incomplete
    kind, number, end = data[start : start + 1], data[start + 1 : end], end + 2
    if kind == b"-":
        return ValueError(number), end
    if kind == b"_":
        return None, end
    number = int(number)
    if kind == b"*":
        values = []
        for _ in range(number):
            value, end = parse(data, end)
            values.append(value)
        return values, end
    if kind not in {b"$", b"="}:
        raise ValueError(f"{kind!r} does not begin an answer to a read")
    if number < 0:
        return None, end
    if len(data) < end + number + 2:
        raise Incomplete
    return data[end : end + number], end + number + 2


class Loops:
    """The LoopConnections of all event loops."""

    def __init__(self):
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self):
        # A child of a fork must not read the parent's answers.
        self.by_loop = weakref.WeakKeyDictionary()

    def of_running(self):
        """Return {alias: LoopConnection} of the running loop."""
        loop = get_running_loop()
        found = self.by_loop.get(loop)
        if found is None:
            for other in list(self.by_loop):
                if other.is_closed():
                    self.by_loop.pop(other, None)
            found = self.by_loop[loop] = {}
        return found


loops = Loops()


def connection_of_loop(transport):
    """
    Return the LoopConnection of the running loop for a transport's cache, None
    if the loop can have none.
    """
    own = loops.of_running()
    alias = transport.alias
    settings, found = caches.settings.get(alias), own.get(alias)
    if found is None or found.settings is not settings:
        if found is not None:
            found.drop()
        server = transport.server()
        if server is None or not is_readable(server):
            return None
        found = own[alias] = LoopConnection(server, settings)
    return found


def is_readable(server):
    """
    Return True if a coroutine may read a server's entries, because no code of
    the project connects to it.
    """
    pool = server.commands.pool
    connects = pool.connection_class
    return (
        getattr(server.loads, "func", None) is load_pickle
        and type(pool).__module__ in PACKING_MODULES
        and connects.__module__ in PACKING_MODULES
        and connects.__name__ in CONNECTIONS
        and not pool.connection_kwargs.get("credential_provider")
    )
