"""
A cluster of Redis or Valkey servers. The steps are those of one server.

The keys of a model have a hash tag in common, so one server has all of them.
With GETORCREATEPLUS_BUCKETS, its rows have several hash tags, and may be on
other servers than the epoch and the clock. So may a payload whose key is only
the primary key.
"""

import threading
import time
from contextlib import suppress
from functools import partial

from django.core.cache import caches

from ...environment.forks import renew_in_child
from ..faults import LookFailed
from .base import Transport
from .packets import Answers, Commands, raise_error
from .redis import RedisTransport, gets_of
from .redis_servers import server_of_client

MAX_REDIRECTS = 5  # of one command

# Seconds between two requests for the servers of the keys, and seconds for
# which commands for a slot that is being moved are sent one by one.
PAUSE, CARE = 0.2, 1

# Errors instead of an answer. The command was not carried out.
REDIRECTS = {"MovedError", "AskError", "TryAgainError"}

inherited = []  # clients of the parent of a fork: never closed here


class Cluster:
    """The map of servers and their keys, for one alias and all threads."""

    def __init__(self, alias):
        self.alias = alias
        self.begin_anew()
        renew_in_child(self)

    def begin_anew(self):
        inherited.append(vars(self).get("connected"))
        self.lock = threading.RLock()
        self.connected = None
        self.asked = 0.0  # as time.monotonic() counts
        self.moving = {}  # slot: time until which it counts as being moved
        self.server_ids = {}  # name of a server: the part of tokens that names it

    @property
    def client(self):
        """
        The backend's client, which has the list of servers even if one fails.
        """
        if self.connected is None:
            with self.lock:
                if self.connected is None:
                    self.connected = connect(caches[self.alias].client)
        return self.connected

    def slot(self, key):
        return self.client.keyslot(key)

    def node_of(self, slot):
        return self.client.nodes_manager.get_node_from_slot(slot)

    def pool_of(self, key):
        return self.pool(self.node_of(self.slot(key)))

    def pool_at(self, error):
        """Return the connections to the server that an AskError names."""
        node = self.client.get_node(host=error.host, port=error.port)
        if node is None:
            self.ask()
            node = self.client.get_node(host=error.host, port=error.port)
        return self.pool(node)

    def pool(self, node):
        return node, self.client.get_valkey_connection(node).connection_pool

    def is_moving(self, key):
        return bool(self.moving) and self.moving.get(self.slot(key), 0) > (
            time.monotonic()
        )

    def note(self, error):
        """Update the map of servers and keys from an error."""
        name = type(error).__name__
        if name == "MovedError":
            self.client.nodes_manager.update_moved_exception(error)
            self.node_of(error.slot_id)  # otherwise the next such error replaces it
        elif name == "AskError":
            self.moving[error.slot_id] = time.monotonic() + CARE
        elif name != "TryAgainError":
            self.ask()

    def note_moving(self, key):
        self.moving[self.slot(key)] = time.monotonic() + CARE

    def ask(self):
        """
        Request the map from the servers again, unless that was just done.
        """
        with self.lock:
            if time.monotonic() - self.asked > PAUSE:
                self.asked = time.monotonic()
                with suppress(Exception):  # the first error is raised
                    self.client.nodes_manager.initialize()


def connect(client):
    """Connect to the first server of LOCATION that answers."""
    errors = []
    with suppress(IndexError):  # there are no other locations
        while True:
            try:
                return client.connect(len(errors))
            except IndexError:
                raise
            except Exception as error:  # noqa: BLE001 - of any client
                errors.append(error)
    raise errors[0]


class ClusterCommands:
    """
    Like Commands, but each packet is sent to the server that has its keys.
    """

    keeps = True

    def __init__(self, cluster):
        self.cluster = cluster
        self.by_server = {}

    def server_id(self, key):
        node, pool = self.cluster.pool_of(key)
        commands, known = self._at(node, pool), self.cluster.server_ids
        if not commands.server_id and node.name not in known:
            # A row may be the first entry that is set on this server.
            self._exchange(commands, [("PING",)])
        if commands.server_id or node.name not in known:
            known[node.name] = commands.server_id
        return known[node.name]

    def _of(self, key):
        return self._at(*self.cluster.pool_of(key))

    def _at(self, node, pool):
        commands = self.by_server.get(node.name)
        if commands is None or commands.pool is not pool:
            commands = self.by_server[node.name] = Commands(pool, True)
        return commands

    def packets(self, commands):
        """
        Return [Commands, list of commands] for each packet: successive
        commands for the same server, or all commands for it if they only read.
        """
        packets, is_read = [], only_read(commands)
        for command in commands:
            to = self._of(key_of(command))
            before = packets if is_read else packets[-1:]
            packet = next((each for each in before if each[0] is to), None)
            if packet is None:
                packets.append(packet := (to, []))
            packet[1].append(command)
        return packets

    def send(self, *commands):
        for _ in range(MAX_REDIRECTS):
            if any(self.cluster.is_moving(key_of(command)) for command in commands):
                return self._send_one_by_one(commands)
            done = self._send(commands)
            if done is not None:
                return done
        raise ConnectionError("the cluster is moving its keys")

    def _send(self, commands):
        """
        Return the answers. Return None if nothing was done, so that it can be
        repeated.
        """
        packets = self.packets(commands)
        if only_read(commands):
            return self._read(commands, packets)
        answers, server_ids = {}, {}
        for number, (to, part) in enumerate(packets):
            # Each packet is acknowledged before the next one is sent, because
            # other processes must not see the next one's entries first.
            found = self._exchange(to, part)
            redirects = self._note_redirects(part, found)
            if number == 0 and len(redirects) == len(part):
                return None
            if redirects:
                raise LookFailed from redirects[0]
            raise_error(found)
            answers |= zip(part, found, strict=True)
            server_ids |= dict.fromkeys(part, found.server_id)
        return in_order(commands, answers, server_ids)

    def _read(self, commands, packets):
        """Do the same as _send(), and wait only once, for all servers."""
        if len(packets) == 1:
            [(to, part)] = packets
            found = [self._exchange(to, part)]
        else:
            # All threads use the same order, because pools may be bounded.
            packets.sort(key=lambda packet: id(packet[0].pool))
            try:
                found = Commands.exchange_all(packets)
            except Exception as error:
                self.cluster.note(error)
                raise
        answers, server_ids, redirects = {}, {}, []
        for (_, part), some in zip(packets, found, strict=True):
            redirects += self._note_redirects(part, some)
            answers |= zip(part, some, strict=True)
            server_ids |= dict.fromkeys(part, some.server_id)
        if redirects:
            return None
        raise_error(answers.values())
        return in_order(commands, answers, server_ids)

    def _note_redirects(self, part, found):
        """
        Update the map from the redirects among these answers, and return them.
        """
        redirects = []
        for command, answer in zip(part, found, strict=True):
            if type(answer).__name__ in REDIRECTS:
                redirects.append(answer)
                self.cluster.note(answer)
                if type(answer).__name__ == "TryAgainError":
                    self.cluster.note_moving(key_of(command))
        return redirects

    def _exchange(self, to, part):
        try:
            return to.exchange(*part)
        except Exception as error:
            self.cluster.note(error)
            raise

    def _send_one_by_one(self, commands):
        """
        Do the same as send(), one key at a time, because keys may be on two
        servers. A command that gets several keys has an answer for each.
        """
        answers = Answers()
        answers.server_ids = []
        for command in commands:
            name, *keys = command
            singles = [command]
            if name in {"MGET", "DEL"}:
                singles = [(name, key) for key in keys]
            for single in singles:
                answer, server_id = self._send_alone(single)
                answers.append(answer)
                answers.server_ids.append(server_id)
        return answers

    def _send_alone(self, command):
        """Return the answer to a command for one key, and the server_id."""
        for _ in range(MAX_REDIRECTS):
            to = self._of(key_of(command))
            [answer] = answers = self._exchange(to, [command])
            if type(answer).__name__ == "AskError":
                to = self._at(*self.cluster.pool_at(answer))
                answers = self._exchange(to, [("ASKING",), command])
                answer = answers[-1]
            if type(answer).__name__ not in REDIRECTS:
                raise_error(answers)
                return answer, answers.server_id
            self.cluster.note(answer)
        raise LookFailed from answer

    def send_later(self, take, *commands):
        if any(self.cluster.is_moving(key_of(command)) for command in commands):
            take(self.send(*commands))
            return
        for to, part in self.packets(commands):
            to.send_later(partial(self._take, take), *part)

    def _take(self, take, answers):
        for answer in answers:
            if type(answer).__name__ in REDIRECTS:
                self.cluster.note(answer)
        take(answers)

    def read_later(self, *commands):
        """Return None if the keys are on several servers, or are moved."""
        if any(self.cluster.is_moving(key_of(command)) for command in commands):
            return None
        [(to, _), *others] = self.packets(commands)
        return None if others else to.read_later(*commands)

    def run(self, script, keys, *args):
        try:
            return self._of(keys[0]).run(script, keys, *args)
        except Exception as error:  # noqa: BLE001 - of any client
            self._raise(error, keys[0])

    def replace(self, key, *args):
        try:
            return self._of(key).replace(key, *args)
        except Exception as error:  # noqa: BLE001 - of any client
            self._raise(error, key)

    def _raise(self, error, key):
        """
        Raise an error. For a redirect raise LookFailed, because nothing was
        done.
        """
        self.cluster.note(error)
        name = type(error).__name__
        if name not in REDIRECTS:
            raise error
        if name != "MovedError":
            self.cluster.note_moving(key)
        raise LookFailed from error


def key_of(command):
    return command[3] if command[0] in {"EVALSHA", "EVAL"} else command[1]


def only_read(commands):
    return all(command[0] == "MGET" for command in commands)


def in_order(commands, answers, server_ids):
    """
    Return the answers to these commands in their order, from {command:
    answer}.
    """
    found = Answers(answers[command] for command in commands)
    found.server_ids = [server_ids[command] for command in commands]
    return found


class RedisClusterTransport(RedisTransport):
    """The steps of the protocol in a cluster, through django-valkey."""

    name = "redis-cluster"
    has_hash_tags = True

    def __init__(self, alias):
        super().__init__(alias)
        self.cluster = Cluster(alias)

    def in_loop(self):
        return None

    def server(self):
        # Never None, because set_many() of this backend uses the timeout as
        # the version of the keys.
        cache = caches[self.alias]
        try:
            return vars(cache)["getorcreateplus_server"]
        except KeyError:
            server = server_of_client(cache, ClusterCommands(self.cluster))
            cache.getorcreateplus_server = server
            return server

    def by_slot(self, keys):
        """
        Return [keys, the server's own keys] for each slot, the slots of one
        server after each other.
        """
        slots = {}
        for key, made in zip(keys, self.keys(keys), strict=True):
            some = slots.setdefault(self.cluster.slot(made), ([], []))
            some[0].append(key)
            some[1].append(made)
        if len(slots) > 1:
            slots = {slot: slots[slot] for slot in sorted(slots, key=self.name_of)}
        return slots.values()

    def name_of(self, slot):
        return self.cluster.node_of(slot).name

    def by_server(self, commands):
        """Return these commands, grouped by server."""
        if len(commands) > 1:
            slot = self.cluster.slot
            commands.sort(key=lambda command: self.name_of(slot(command[1])))
        return commands

    def sets(self, server, entries, timeout):
        # So each server gets one packet, unless the steps have an order.
        return self.by_server(super().sets(server, entries, timeout))

    def adds(self, server, entries, timeouts):
        return self.by_server(super().adds(server, entries, timeouts))

    def gets(self, keys, last=()):
        order, commands = [], []
        # Not together, because the last keys may be in the slot of the first
        # ones.
        for some, made in [*self.by_slot(keys), *self.by_slot(last)]:
            order += some
            commands += gets_of(made)
        return order, commands

    def look_by_hint(self, keys, payload_key, version_key):
        return self.look(keys)  # a script has to name its keys

    def dels(self, keys):
        return [("DEL", *made) for _, made in self.by_slot(keys)]

    def found(self, server, keys, answers, first=0):
        found, keys = {}, iter(keys)
        pairs = zip(answers[first:], answers.server_ids[first:], strict=True)
        for values, server_id in pairs:
            # Not strict, because the other keys belong to the answers that
            # follow.
            some = [key for _, key in zip(values, keys, strict=False)]
            found |= server.found(some, values, server_id)
        return found

    def vouch_and_fill(self, key, token, timeout, clock_key, clock, entries):
        args = key, token, timeout, clock_key, clock, entries
        made = self.keys([key, clock_key, *entries])
        if len(set(map(self.cluster.slot, made))) > 1 or self.cluster.is_moving(
            made[0]
        ):
            return Transport.vouch_and_fill(self, *args)
        try:
            return super().vouch_and_fill(*args)
        except LookFailed as failed:
            if type(failed.__cause__).__name__ not in REDIRECTS:
                raise
            return Transport.vouch_and_fill(self, *args)

    def take(self, answers):
        super().take([a for a in answers if type(a).__name__ not in REDIRECTS])

    def server_id(self, key):
        [made] = self.keys([key])
        return self.server().commands.server_id(made)

    def has_several_servers(self):
        return True
