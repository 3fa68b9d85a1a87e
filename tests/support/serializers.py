"""
Serializers that projects set in the OPTIONS of a cache, instead of pickle.
"""

import json
import struct

from django.core.serializers.json import DjangoJSONEncoder


class Plain:
    """Like json.dumps(): it refuses types that JSON does not have."""

    def __init__(self, options=None):
        pass

    def dumps(self, value):
        return json.dumps(value).encode()

    def loads(self, data):
        return json.loads(data)


class Texts(Plain):
    """Like that of django-redis: it turns dates and numbers into texts."""

    def dumps(self, value):
        return json.dumps(value, cls=DjangoJSONEncoder).encode()


class Short(Plain):
    """Like msgpack with use_single_float."""

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
    """It does not return texts."""

    def loads(self, data):
        found = json.loads(data)
        return found.encode() if isinstance(found, str) else found


class Serde:
    """A serializer for pymemcache."""

    def __init__(self, serializer):
        self.serializer = serializer

    def serialize(self, key, value):
        return self.serializer.dumps(value), 0

    def deserialize(self, key, data, flags):
        return self.serializer.loads(data)
