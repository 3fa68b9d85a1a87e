"""
A TCP proxy that delays as a network does: every byte arrives some milliseconds
later, in each direction. Any number of bytes may be under way at once, so
there is no limit of the bandwidth.

Each proxy is a process of its own, because a thread of a measured process
would wait for the GIL of that process.
"""

import asyncio
import selectors
import signal
import subprocess
import sys
from collections import deque
from contextlib import contextmanager

HOST = "127.0.0.1"
# Seconds that a process may take to wake up. A proxy sleeps less by this time,
# and stays awake until then: bytes leave 2 µs late instead of 100 µs.
WAKING_UP = 0.0002
CLOSED = None  # among the bytes under way: the end of the connection


@contextmanager
def proxy(host, port, milliseconds):
    """Put a proxy in front of a server. Yield the proxy's port at HOST."""
    process = subprocess.Popen(
        [sys.executable, __file__, host, str(port), str(milliseconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:  # closes stdin, which ends the process
        yield int(process.stdout.readline())


# What runs in the process of a proxy


def main(host, port, milliseconds):
    """Print the port, and serve until the parent closes stdin."""
    # The benchmark handles Ctrl-C: its processes still have tables to drop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # epoll() and poll() take milliseconds, and asyncio rounds up to them.
    # select() takes microseconds.
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(serve(host, port, milliseconds / 1000))


async def serve(host, port, delay):
    """Serve with this delay, in seconds."""
    loop = asyncio.get_running_loop()
    stdin_closed = asyncio.Event()
    ends = set()
    server = await loop.create_server(
        lambda: ClientEnd(host, port, delay, ends), HOST, 0
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(sys.stdin, stdin_closed.set)
    await stdin_closed.wait()
    server.close()
    for end in ends:
        end.transport.abort()


class End(asyncio.Protocol):
    """
    One of the two ends of a connection through the proxy. Bytes that arrive
    here leave at the other end, in order, after the delay.
    """

    def __init__(self, delay, ends):
        self.loop = asyncio.get_running_loop()
        self.delay = delay
        self.ends = ends
        self.transport = None
        self.under_way = deque()  # (when it leaves, bytes or CLOSED)

    def connection_made(self, transport):
        # asyncio has set TCP_NODELAY.
        self.transport = transport
        self.ends.add(self)

    def data_received(self, data):
        self.send(data)

    def connection_lost(self, error):
        self.ends.discard(self)
        self.send(CLOSED)

    def send(self, data):
        self.under_way.append((self.loop.time() + self.delay, data))
        if len(self.under_way) == 1:
            self.wait()

    def wait(self):
        # One timer at a time, because timers of the same moment have no order.
        when, _ = self.under_way[0]
        if when - self.loop.time() > WAKING_UP:
            self.loop.call_at(when - WAKING_UP, self.deliver)
        else:
            self.loop.call_soon(self.deliver)

    def deliver(self):
        now = self.loop.time()
        while self.under_way and self.under_way[0][0] <= now:
            _, data = self.under_way.popleft()
            self.other.leave(data)
        if self.under_way:
            self.wait()

    def leave(self, data):
        if self.transport is None or self.transport.is_closing():
            return
        if data is CLOSED:
            self.transport.close()
        else:
            self.transport.write(data)


class ClientEnd(End):
    """The end to which a client has connected."""

    def __init__(self, host, port, *args):
        super().__init__(*args)
        self.server = host, port

    def connection_made(self, transport):
        super().connection_made(transport)
        self.other = End(self.delay, self.ends)
        self.other.other = self
        # The other end is not connected yet.
        transport.pause_reading()
        self.connecting = self.loop.create_task(self.connect())

    async def connect(self):
        try:
            await self.loop.create_connection(lambda: self.other, *self.server)
        except OSError:
            self.transport.abort()
        else:
            self.transport.resume_reading()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
