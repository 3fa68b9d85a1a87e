"""
The Redis or Valkey server of a cache object: its connections, and the format
in which the backend writes and reads values.
"""

import pickle
from functools import partial

from django.core.cache.backends.redis import RedisCache, RedisSerializer

from ...lookups.rows import revive
from ..tokens import DIGITS
from .packets import Commands
from .redis_identity import marked


class Server:
    """The parts of one cache object that a transport needs."""

    def __init__(self, commands, dumps, loads, keeps_bytes):
        self.commands = commands
        self.dumps, self.loads = dumps, loads
        self.knows_script = False  # the server has run it
        self.unfilled = set()  # version keys of rows that it has not filled
        # A value contains the bytes of its texts unchanged.
        self.keeps_bytes = keeps_bytes

    def found(self, keys, answer, server_id):
        """Return {key: value} from this server's answer for these keys."""
        loads, found = self.loads, {}
        start = -DIGITS - len(server_id)
        for key, data in zip(keys, answer, strict=True):
            if data is None:
                continue
            value = loads(data)
            if type(value) is str:
                if value[start:-DIGITS] != server_id:
                    value = marked(key, value)
            elif type(value) is list:
                value = revive(value)
            found[key] = value
        return found

    def sets(self, keys, values, expiry):
        """Return the commands that set values, and delete keys with None."""
        dumps = self.dumps
        return [
            ("DEL", key) if value is None else ("SET", key, dumps(value), *expiry)
            for key, value in zip(keys, values, strict=True)
        ]


def server_of(cache):
    is_django = isinstance(cache, RedisCache)
    return server_of_django(cache) if is_django else server_of_client(cache)


def server_of_django(cache):
    serializer = cache._cache._serializer
    dumps, loads = serializer.dumps, serializer.loads
    if is_plain := type(serializer) is RedisSerializer:
        dumps = partial(pickle.dumps, protocol=serializer.protocol)
        loads = partial(load_pickle, loads)
    pool = cache._cache.get_client(write=True).connection_pool
    return Server(Commands(pool, is_shared=False), dumps, loads, is_plain)


def server_of_client(cache, commands=None):
    """
    Return the Server of a cache of django-redis or django-valkey. ``commands``
    sends the commands; without it, they go to the one server of the backend's
    client.
    """
    client = cache.client
    loads = client.decode
    is_plain = type(client._compressor).__name__ == "IdentityCompressor"
    if is_plain and type(client._serializer).__name__ == "PickleSerializer":
        loads = partial(load_pickle, loads)
    if hasattr(client, "_unpack"):
        # A herd client wraps the values of its set(). These steps do not,
        # because an entry of this package may disappear at any time.
        loads = partial(load_packed, client, loads)
    if commands is None:
        pool = client.get_client(write=True).connection_pool
        commands = Commands(pool, is_shared=True)
    return Server(commands, client.encode, loads, is_plain)


def load_pickle(loads, data):
    return pickle.loads(data) if data[:1] == b"\x80" else loads(data)


def load_packed(client, loads, data):
    return client._unpack(loads(data))[0]
