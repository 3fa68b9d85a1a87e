"""Commands to one Redis or Valkey server, on connections that are kept."""

import hashlib
import time
import weakref

IDLE = 1  # seconds; after that a connection may have been closed by the server


class Script:
    """A Lua script, which the server is sent by its hash."""

    def __init__(self, text):
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Commands:
    """
    Sends commands for one cache object, each packet on one connection.

    redis-py and valkey-py take a connection from the pool for each command,
    which costs more than the command. These connections are kept between
    commands, unless threads share a pool that is bounded: then one thread
    would keep what another waits for.
    """

    def __init__(self, pool, is_shared):
        self.pool = pool
        self.keeps = not is_shared or is_unbounded(pool)
        self.kept = []  # (connection, when it was used), the last one last
        closing = weakref.finalize(self, give_back, pool, self.kept)
        closing.atexit = False

    def send(self, *commands):
        """
        Send these commands, each a tuple, in one packet. Return the answers.
        If one of them is an error, raise it when all are read.
        """
        connection = self._take()
        try:
            if len(commands) == 1:
                packet = connection.pack_command(*commands[0])
            else:
                packet = connection.pack_commands(commands)
            connection.send_packed_command(packet)
            answers = [answer_of(connection) for _ in commands]
        except BaseException:
            # An answer that was not read would be that of the next command.
            connection.disconnect()
            self.pool.release(connection)
            raise
        for answer in answers:
            if isinstance(answer, Exception):
                # Such as READONLY: the next connection may find the primary.
                connection.disconnect()
                self.pool.release(connection)
                raise answer
        if self.keeps:
            self.kept.append((connection, time.monotonic()))
        else:
            self.pool.release(connection)
        return answers

    def run(self, script, keys, *args):
        """Run a script. The server may have lost it, or never had it."""
        try:
            return self.send(("EVALSHA", script.sha, len(keys), *keys, *args))[0]
        except Exception as error:
            if type(error).__name__ != "NoScriptError":
                raise
        return self.send(("EVAL", script.text, len(keys), *keys, *args))[0]

    def _take(self):
        try:
            connection, used = self.kept.pop()
        except IndexError:
            return connection_of(self.pool)
        if time.monotonic() - used > IDLE:
            try:
                is_stale = connection.can_read()  # nothing is to be read
            except Exception:  # noqa: BLE001 - of two libraries
                is_stale = True
            if is_stale:
                connection.disconnect()  # it connects again as it sends
        return connection


def answer_of(connection):
    try:
        return connection.read_response(disable_decoding=True)
    except Exception as error:
        # An error that the server has answered, and not one of the connection.
        if any(cls.__name__ == "ResponseError" for cls in type(error).__mro__):
            return error
        raise


def connection_of(pool):
    try:
        return pool.get_connection()
    except TypeError:  # before redis-py 5.3, and in valkey-py
        return pool.get_connection("EVALSHA")


def is_unbounded(pool):
    """Return True if each thread may have a connection of its own."""
    return getattr(pool, "max_connections", 0) >= 2**20


def give_back(pool, kept):
    for connection, _ in kept:
        pool.release(connection)
