"""
Entries of a cache that a coroutine awaits, for a synchronous method.

The method is called twice. The first call requests entries, the coroutine
awaits them, and the second call runs the same steps from the start. So each of
its conditions holds before the read, and again afterwards:

* No connection of this process to the database is in a transaction, before and
  after. The read gets what an autocommit connection would read at that moment,
  which is between the beginning and the end of the call. A transaction that
  has begun in the meantime, and is still open, may be that of the coroutine's
  thread, and is detected. If it has ended again, the call came before it. A
  transaction that was open before the read may have waited for a writer that
  has not released yet, and this call must not return an older row than that
  transaction has read. So it is detected before the read.
* The cache is in use, and no release is owed to it.
* The lookup leads to the same keys, in the same cache. Otherwise the current
  tenant or a value of the lookup has changed: a call in a thread handles this.
"""

import time


class Ahead:
    """The entries that one call of an async twin reads from a cache."""

    wanted: tuple = ()  # (what reads, the cache's own keys)
    answer = None  # the result of that read
    seconds = 0.0  # that the read took

    def entries(self, client, keys):
        """
        Return {key: value} as the client's look() does. If the entries were
        not awaited, request them and return None.
        """
        source = client.in_loop()
        if source is None:
            return None
        wanted = source, client.transport.keys(keys)
        if self.answer is None:
            self.wanted = wanted
            return None
        if wanted != self.wanted:
            return None
        try:
            return source.server.found(keys, *self.answer)
        except Exception as error:  # noqa: BLE001 - of any client
            client.raise_limit(error)
            return None

    async def look(self):
        """
        Await the entries that the first call has requested. Return False if
        the second call would be useless.
        """
        source, keys = self.wanted
        began = time.monotonic()
        self.answer = await source.look(keys)
        self.seconds = time.monotonic() - began
        return self.answer is not None
