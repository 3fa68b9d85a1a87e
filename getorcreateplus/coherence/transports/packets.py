"""Commands to one Redis or Valkey server, on connections that are kept."""

import hashlib
import time
import weakref
from collections import deque
from contextlib import suppress

from .redis_identity import QUESTION, identity_of

MANY = 16  # commands; fewer are packed by the client
IDLE = 1  # seconds; after that the server may have closed a connection
MAX_UNREAD = 16  # packets
MAX_KEPT = 2  # connections, for the threads of an ASGI server that share them


class Script:
    """A Lua script, which is sent to the server by its hash."""

    def __init__(self, text):
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Line:
    """A connection, and the packets on it that wait for their answers."""

    def __init__(self, connection):
        self.connection = connection
        self.unread = deque()  # (number of answers, function that takes them)
        self.used = time.monotonic()
        self.identity = identity_of(connection)

    def write(self, commands):
        connection, identity = self.connection, self.identity
        connection.connect()  # otherwise the identity may be that of another server
        if asks := identity.is_outdated():
            commands = [*QUESTION, *commands]
            self.unread.append((len(QUESTION), identity.take))
        number = identity.connects
        if len(commands) == 1:
            packet = connection.pack_command(*commands[0])
        elif len(commands) < MANY or not packs_as_redis(connection):
            packet = connection.pack_commands(commands)
        else:
            packet = [pack(commands, connection.encoder.encode)]
        connection.send_packed_command(packet)
        if not asks and identity.connects != number:
            raise ConnectionError("the connection was lost before the command")

    def read(self, count):
        answers = Answers(answer_of(self.connection) for _ in range(count))
        answers.server_id = self.identity.server_id
        return answers

    def read_unread(self):
        while self.unread:
            count, take = self.unread[0]
            answers = self.read(count)
            self.unread.popleft()
            take(answers)

    def is_idle(self):
        return time.monotonic() - self.used > IDLE

    def is_closed(self):
        """
        Return True if the server has closed the connection in the meantime.
        """
        try:
            return self.connection.can_read()  # but there is nothing to be read
        except Exception:  # noqa: BLE001 - of two libraries
            return True


class Answers(list):
    """The answers to one packet, and the server_id of the server."""

    server_id = ""


class NotAdded(Exception):
    """There was another entry already."""


class Sent:
    """A packet whose answers will be waited for."""

    answers = ()

    def __init__(self, commands):
        self.commands = commands

    def take(self, answers):
        self.answers = answers

    def wait(self):
        """
        Wait until the server has done everything. Raise its error, if there is
        one.
        """
        if not self.answers:
            self.commands.read_unread()
        for answer in self.answers or [ConnectionError("no answer")]:
            if isinstance(answer, Exception):
                raise answer
        if None in self.answers:
            raise NotAdded

    def is_done(self, number):
        """Return True if the command with this number had an effect."""
        answers = self.answers
        return bool(answers) and type(answers[number]) is bytes


class Commands:
    """
    Sends commands for one cache object, each packet on one connection.

    redis-py and valkey-py take a connection from the pool for each command,
    which costs more than the command. These connections are kept between
    commands. If cache objects share a bounded pool, they keep at most half of
    its connections, because other code waits for one.
    """

    server_id = ""  # of the last answers

    def __init__(self, pool, is_shared):
        self.pool = pool
        self.keeps = not is_shared or may_keep(self, pool)
        self.kept = []  # Lines, the last one was used last
        if is_shared:
            leaving = weakref.finalize(self, left.append, (pool, self.kept))
            leaving.atexit = False

    def send(self, *commands):
        """
        Send these commands, each a tuple, in one packet. Return the answers.
        If one of them is an error, raise it after all are read.
        """
        line = self._take()
        answers = self._exchange(line, commands)
        try:
            raise_error(answers)
        except Exception:
            # For example READONLY: the next connection may find the primary.
            self._drop(line)
            raise
        self._keep(line)
        return answers

    def exchange(self, *commands):
        """Do the same as send(), but return errors among the answers."""
        line = self._take()
        answers = self._exchange(line, commands)
        self._keep(line)
        return answers

    def _exchange(self, line, commands):
        try:
            line.write(commands)
            line.read_unread()
            return line.read(len(commands))
        except BaseException:
            # An unread answer would be taken for that of the next command.
            self._drop(line)
            raise

    @staticmethod
    def exchange_all(packets):
        """
        Do the same as exchange() for each (Commands, commands), for several
        servers: send all of them before the first answer is read.
        """
        lines, answers = [], []
        try:
            for own, commands in packets:
                lines.append(own._take())
                lines[-1].write(commands)
            for line, (_, commands) in zip(lines, packets, strict=True):
                line.read_unread()
                answers.append(line.read(len(commands)))
        except BaseException:
            # This includes the connections to servers that have not failed,
            # because their answers may be unread.
            for line, (own, _) in zip(lines, packets, strict=False):
                own._drop(line)
            raise
        for line, (own, _) in zip(lines, packets, strict=True):
            own._keep(line)
        return answers

    def send_later(self, take, *commands):
        """
        Send these commands, and do not wait. The next read on the connection
        reads these answers first, and passes them to ``take``. If the
        connection fails before, ``take`` is not called. Only a kept connection
        can do this.
        """
        line = self._take()
        try:
            line.write(commands)
        except BaseException:
            self._drop(line)
            raise
        line.unread.append((len(commands), take))
        self._keep(line)

    def read_later(self, *commands):
        """
        Send these commands, and return a Sent, whose wait() waits for them.
        """
        sent = Sent(self)
        self.send_later(sent.take, *commands)
        return sent

    def read_unread(self):
        """
        Read all answers, except those to commands that other threads are
        sending.
        """
        for line in [line for line in self.kept if line.unread]:
            with suppress(ValueError):  # another thread has taken it
                self.kept.remove(line)
                try:
                    line.read_unread()
                except BaseException:
                    self._drop(line)
                    raise
                self._keep(line)

    def run(self, script, keys, *args):
        """Run a script, which the server may have lost, or never had."""
        try:
            return self.send(("EVALSHA", script.sha, len(keys), *keys, *args))
        except Exception as error:
            if type(error).__name__ != "NoScriptError":
                raise
        return self.send(("EVAL", script.text, len(keys), *keys, *args))

    def replace(self, key, successor_of, expiry):
        """
        Replace a value with the result of a function of the value and the
        server_id, unless another client changes it in the meantime. Return the
        value that the server has then, and the server_id.
        """
        line = self._take()
        try:
            line.write([("WATCH", key), ("GET", key)])
            line.read_unread()
            answers = line.read(2)
            raise_error(answers)
            found, server_id = answers[1], answers.server_id
            value = successor_of(found, server_id)
            commands = [("UNWATCH",)]
            if value is not found:
                commands = [("MULTI",), ("SET", key, value, *expiry), ("EXEC",)]
            line.write([*commands, ("GET", key)])
            line.read_unread()
            answers = line.read(len(commands) + 1)
            raise_error(answers)
        except BaseException:
            self._drop(line)
            raise
        self._keep(line)
        return answers[-1], answers.server_id

    def _take(self):
        line = None
        # So that an error of the connection does not have it as context.
        with suppress(IndexError):
            line = self.kept.pop()
        if line is None:
            return Line(connection_of(self.pool))
        if not (line.is_idle() or len(line.unread) > MAX_UNREAD):
            return line  # its answers are read after the next command
        try:
            line.read_unread()
        except Exception:  # noqa: BLE001 - of two libraries
            # The commands that were sent there may be lost. The next one is
            # not.
            self._drop(line)
            return Line(connection_of(self.pool))
        except BaseException:
            self._drop(line)
            raise
        if line.is_idle() and line.is_closed():
            line.connection.disconnect()  # it connects again when it sends
        return line

    def _keep(self, line):
        self.server_id = line.identity.server_id
        if self.keeps and (line.unread or len(self.kept) < MAX_KEPT):
            line.used = time.monotonic()
            self.kept.append(line)
        else:
            self.pool.release(line.connection)

    def _drop(self, line):
        line.connection.disconnect()
        self.pool.release(line.connection)


def packs_as_redis(connection):
    """Return True if a connection packs commands as its library does."""
    encoder = connection.encoder
    return (
        type(connection).pack_commands.__module__ in PACKING_MODULES
        and encoder.encoding.lower() in UTF_8
        and encoder.encoding_errors == "strict"
    )


PACKING_MODULES = {"redis.connection", "valkey.connection"}
UTF_8 = {"utf-8", "utf8"}


def pack(commands, encode):
    """
    Return commands in the format of the server. It is the same as
    pack_commands() of redis-py, which takes five times as long for a thousand
    commands.
    """
    lines = []
    for command in commands:
        lines.append(b"*%d" % len(command))
        for arg in command:
            kind = type(arg)
            if kind is str:
                data = arg.encode()
            elif kind is bytes:
                data = arg
            elif kind is int:
                data = b"%d" % arg
            else:
                data = bytes(encode(arg))
            lines += b"$%d" % len(data), data
    return b"\r\n".join([*lines, b""])


def answer_of(connection):
    try:
        return connection.read_response(disable_decoding=True)
    except Exception as error:
        # An error that the server has returned, and not one of the connection.
        if any(cls.__name__ == "ResponseError" for cls in type(error).__mro__):
            return error
        raise


def raise_error(answers):
    """Raise the first error that the server has returned."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def connection_of(pool):
    give_back()
    with suppress(TypeError):  # before redis-py 5.3, and in valkey-py
        return pool.get_connection()
    return pool.get_connection("EVALSHA")


keepers = weakref.WeakKeyDictionary()  # pool: Commands that keep connections


def may_keep(commands, pool):
    """Return True if Commands may keep connections of a shared pool."""
    those = keepers.setdefault(pool, weakref.WeakSet())
    if (len(those) + 1) * MAX_KEPT * 2 > getattr(pool, "max_connections", 0):
        return False
    those.add(commands)
    return True


# Lists of Lines of deleted Commands, each with its pool. They are not given
# back when the Commands are garbage-collected, because that may happen while
# this thread holds the pool's lock.
left = deque()


def give_back():
    """Give the connections of deleted Commands back to their pools."""
    while left:
        try:
            pool, kept = left.popleft()
        except IndexError:  # another thread has it
            return
        for line in kept:
            if line.unread:
                line.connection.disconnect()
            pool.release(line.connection)
