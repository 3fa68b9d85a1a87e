"""The scripts that Redis and Valkey run, and their arguments."""

from ..tokens import DIGITS
from .packets import Script

# KEYS: the version, the clock, the entries to set. ARGV: the version to add,
# the clock before the SELECT, where the digits begin in the version (0: the
# payload cannot be changed), milliseconds of the timeout (0: forever), and
# for each entry its value and where the digits are in it (0: nowhere).
VOUCH_AND_FILL = Script("""
local function set(key, value, ...)
  if ARGV[4] == '0' then return redis.call('SET', key, value, ...) end
  return redis.call('SET', key, value, 'PX', ARGV[4], ...)
end
local version = ARGV[1]
if not set(KEYS[1], version, 'NX') then version = redis.call('GET', KEYS[1]) end
local clock = redis.call('GET', KEYS[2])
local at = tonumber(ARGV[3])
if clock ~= ARGV[2] then return {version, clock, 0} end
local function around(value, place)
  return value:sub(1, place - 1), value:sub(place + 16)
end
if version ~= ARGV[1] then
  if at == 0 or #version ~= #ARGV[1] then return {version, clock, 0} end
  local before, after = around(version, at)
  local own_before, own_after = around(ARGV[1], at)
  if before ~= own_before or after ~= own_after then return {version, clock, 0} end
end
for i = 3, #KEYS do
  local value, place = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  if place > 0 and version ~= ARGV[1] then
    local before, after = around(value, place)
    value = before .. version:sub(at, at + 15) .. after
  end
  set(KEYS[i], value)
end
return {version, clock, 1}
""")


# KEYS: the hint, and other keys to get. ARGV: the parts of the keys of a row's
# payload and version before the primary key. The hint is a pickled text: a
# header of 11 bytes, opcode and length of a text, the text, and two bytes.
LOOK_BY_HINT = Script("""
local found = redis.call('MGET', unpack(KEYS))
local hint = found[1]
if hint and hint:byte(12) == 140 and #hint == hint:byte(13) + 15 then
  local pk = hint:sub(14, -3)
  if pk:find('^[\\33-\\126]+$') then
    local row = redis.call('MGET', ARGV[1] .. pk, ARGV[2] .. pk)
    found[#KEYS + 1], found[#KEYS + 2] = row[1], row[2]
  end
end
return found
""")


class VouchAndFill:
    """
    The arguments of VOUCH_AND_FILL, as the server takes them. The values in
    ``entries`` have the new token.
    """

    def __init__(self, server, token, milliseconds, clock, entries):
        dumps, digits = server.dumps, token[-DIGITS:].encode()
        version, values = dumps(token), []
        place = place_of(digits, version) if server.keeps_bytes else 0
        for value in entries.values():
            data = dumps(value)
            if type(value) is tuple:  # a payload
                values += data, place_of(digits, data)
                place = place if values[-1] else 0
            else:
                values += data, 0
        # If there is another token, the script can put it into the payload.
        self.takes_any_token = place > 0
        self.args = version, dumps(clock), place, milliseconds, *values


def place_of(digits, data):
    """Return the position of the digits in the data, counted from 1, or 0."""
    return data.index(digits) + 1 if data.count(digits) == 1 else 0
