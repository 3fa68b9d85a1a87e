"""What projects put into the OPTIONS of a cache, in place of pickle."""

import json
import struct

from django.core.serializers.json import DjangoJSONEncoder


class Plain:
    """As json.dumps(): it refuses what JSON does not have."""

    def __init__(self, options=None):
        pass

    def dumps(self, value):
        return json.dumps(value).encode()

    def loads(self, data):
        return json.loads(data)


class Texts(Plain):
    """As that of django-redis: it makes texts of dates and numbers."""

    def dumps(self, value):
        return json.dumps(value, cls=DjangoJSONEncoder).encode()


class Short(Plain):
    """As msgpack with use_single_float."""

    def dumps(self, value):
        return json.dumps(shortened(value)).encode()


def shortened(value):
    if isinstance(value, float):
        return struct.unpack("f", struct.pack("f", value))[0]
    if isinstance(value, list | tuple):
        return list(map(shortened, value))
    if isinstance(value, dict):
        return {name: shortened(each) for name, each in value.items()}
    return value


class Bytes(Plain):
    """It gives back no texts."""

    def loads(self, data):
        found = json.loads(data)
        return found.encode() if isinstance(found, str) else found


class Serde:
    """For pymemcache."""

    def __init__(self, serializer):
        self.serializer = serializer

    def serialize(self, key, value):
        return self.serializer.dumps(value), 0

    def deserialize(self, key, data, flags):
        return self.serializer.loads(data)
