"""
An exhaustive check of the protocol in getorcreateplus/coherence/.

It explores every interleaving of the steps of a few concurrent actors with one
row and its three cache entries, with evictions and crashes, and with a server
that starts again from a snapshot, or whose replica takes over. If states
differ only by exchanging two actors with the same program, one of them is
explored. Two properties are checked:

* no read that begins after a write has returned yields an older value;
* once all actors have finished, the cache would serve what the database holds.

``python -m tests.coherence_model`` prints the number of states per scenario
(it takes minutes for all of them), or the shortest interleaving that breaks a
property. ``--break NAME`` leaves one rule of the protocol out, to show that
the check detects this.
"""

import argparse
import itertools
import sys
from collections import deque
from typing import NamedTuple

LOCK = "LOCK"

RULES = {
    "lock": "a writer marks the version LOCKed before it commits",
    "clock": "a writer moves the model's clock before it releases the version",
    "recheck": "a cold reader reads the clock again before it fills the cache",
    "drop": "a writer that publishes nothing deletes the payload after its release",
    "waited": "a transaction that holds locks, or has waited for some, has no hits",
    "commit": "a transaction fills nothing before its commit",
    "answered": "a write returns after the cache has answered its release",
    "server": "a token that another server had first is invalid",
    "compared": "such a token is replaced if it is still there, not what followed",
}


class State(NamedTuple):
    row: int | None = 0  # committed value: the number of the last writer
    order: tuple = (0,)  # committed values, oldest first
    holder: int | None = None  # the actor that holds the row lock
    version: object = None  # cache entry: a token, LOCK, or None when absent
    payload: object = None  # cache entry: (stamp, value), or None when absent
    clock: object = None  # cache entry: a token, or None when absent
    returned: int = 0  # position in order that every read begun now must reach
    actors: tuple = ()  # per actor: (program counter, local variables)
    evictions: int = 0
    crashes: int = 0
    server: int = 0  # changes when a server takes over with older entries
    snapshot: tuple | None = None  # (version, payload, clock) of these


class Broken(Exception):
    pass


# Every actor is a function (state, me, pc, local, rules) -> new (pc, local,
# changes), or None when it has to wait. A token is (kind, actor, server), such
# as ("w", 1, 0) of a writer and ("r", 2, 0) of a reader. A stamp is (version,
# server): the epoch stays the same here, but for its server.


def is_valid(token, s, rules):
    return token is not None and (
        token == LOCK or token[2] == s.server or "server" not in rules
    )


def is_hit(version, s, rules):
    """Return True if the payload is one, with this version."""
    if version == LOCK or not is_valid(version, s, rules) or s.payload is None:
        return False
    (of_payload, server), _ = s.payload
    return of_payload == version and (server == s.server or "server" not in rules)


def txn_publisher(s, me, pc, local, rules):
    """
    update_or_create(): locks the row, publishes before the commit. A LOCK that
    is not waited for may arrive that late in every transaction.
    """
    if pc == 0:
        local = {"server": s.server}
        return (1, local, {"holder": me}) if s.holder is None else None
    local = dict(local)
    token = ("w", me, local["server"])
    if pc == 1:
        return 2, local, {"version": LOCK} if "lock" in rules else {}
    if pc == 2:
        return 3, local, {"payload": ((token, local["server"]), me)}
    if pc == 3:
        return 4, local, committed(s, me, rules)
    if pc == 4:
        return 5, local, {"clock": token}
    if pc == 5:
        return 6, local, {"version": token}
    return None, local, returned(s, me)


def txn_plain(s, me, pc, local, rules):
    """save() inside a transaction."""
    token = ("w", me, s.server)
    if pc == 0:
        return 1, local, {"version": LOCK} if "lock" in rules else {}
    if pc == 1:
        return (2, local, {"holder": me}) if s.holder is None else None
    if pc == 2:
        return 3, local, committed(s, me, rules)
    if pc == 3:
        return 4, local, {"clock": token} if "clock" in rules else {}
    if pc == 4:
        return 5, local, {"version": token}
    if pc == 5:
        return 6, local, {"payload": None} if "drop" in rules else {}
    return None, local, returned(s, me)


def autocommit_plain(s, me, pc, local, rules):
    """save() in autocommit: the commit is the statement itself."""
    if pc == 1:
        return (3, local, committed(s, me, rules)) if s.holder is None else None
    return txn_plain(s, me, pc, local, rules)


def committed(s, me, rules):
    done = {"row": me, "order": (*s.order, me), "holder": None}
    if "answered" not in rules:
        done |= returned(s._replace(**done), me)
    return done


def returned(s, me):
    return {"returned": max(s.returned, s.order.index(me))}


def serve(s, local, value):
    if value not in s.order:
        raise Broken(f"a read returned {value}, which was never committed")
    if s.order.index(value) < local["floor"]:
        raise Broken(f"a read returned {value} although a newer write had returned")


def warm_reader(s, me, pc, local, rules):
    """A reader whose hint has the pk: version and payload, then SELECT."""
    local = dict(local)
    if pc == 0:
        return (
            1,
            {"floor": s.returned, "version": s.version, "server": s.server},
            {},
        )
    if pc == 1:
        if is_hit(local["version"], s, rules):
            serve(s, local, s.payload[1])
            return None, local, {}
        return (3 if is_valid(local["version"], s, rules) else 2), local, {}
    if pc == 2:
        seen = local["version"]
        if seen is not None and "compared" not in rules:
            s = s._replace(version=seen)
        return 3, *observe_version(s, me, local, rules)
    if pc == 3:
        local["value"] = s.row
        serve(s, local, s.row)
        return (None if local["version"] == LOCK else 4), local, {}
    return None, local, filled(local, local["value"])


def filled(local, value):
    return {"payload": ((local["version"], local["server"]), value)}


def cold_reader(s, me, pc, local, rules):
    """A reader with the pk from the SELECT: the clock vouches."""
    if pc == 1 and s.row is None:
        return None, local, {}  # there is no row to read yet
    local = dict(local)
    if pc == 0:
        local["floor"] = s.returned
        local["server"] = s.server
        observe_clock(s, me, local, rules)
        return 1, local, {"clock": local["clock"]}
    if pc == 1:
        local["value"] = s.row
        serve(s, local, s.row)
        return 2, local, {}
    if pc == 2:
        local, changes = observe_version(s, me, local, rules)
        return (None if local["version"] == LOCK else 3), local, changes
    if pc == 3:
        vouched = s.clock == local["clock"] or "recheck" not in rules
        return (4 if vouched else None), local, {}
    return None, local, filled(local, local["value"])


def observe_version(s, me, local, rules):
    """
    add(): only if the token is absent or invalid. Return the token that is
    there then.
    """
    version = s.version if is_valid(s.version, s, rules) else ("r", me, s.server)
    return local | {"version": version}, {"version": version}


def observe_clock(s, me, local, rules):
    is_there = is_valid(s.clock, s, rules)
    local["clock"] = s.clock if is_there else ("r", me, s.server)


def creator(s, me, pc, local, rules):
    """
    create() in autocommit: like a reader without a hint, with the inserted
    row.
    """
    if pc == 1:
        return 2, dict(local) | {"value": me}, {"row": me, "order": (me,)}
    pc, local, changes = cold_reader(s, me, pc, local, rules)
    if pc is None:
        changes |= returned(s, me)
    return pc, local, changes


def txn_creator(s, me, pc, local, rules):
    """
    create() in a transaction: no other actor sees the row before the commit,
    so the version that is observed after the INSERT vouches for it.
    """
    local = dict(local)
    if pc == 0:
        local["server"] = s.server
        return 1, *observe_version(s, me, local, rules)
    if pc == 1:
        return 2, local, {"row": me, "order": (me,)}
    if pc == 2:
        return 3, local, {} if local["version"] == LOCK else filled(local, me)
    return None, local, returned(s, me)


def txn_locker(s, me, pc, local, rules):
    """
    A transaction that waits for the lock that the writers hold, then reads.

    It must see each commit before its lock, whether or not the write has
    returned: SELECT … FOR UPDATE would show it.
    """
    if pc == 0:
        if s.holder is not None:
            return None
        return 1, {"floor": len(s.order) - 1}, {"holder": me}
    if pc == 1 and "waited" not in rules:
        if is_hit(s.version, s, rules):
            serve(s, local, s.payload[1])
            return None, local, {"holder": None}
    elif pc == 2:
        serve(s, local, s.row)
        return None, local, {"holder": None}
    return 2, local, {}


def txn_untold(s, me, pc, local, rules):
    """
    A transaction whose write the package does not see (by a trigger, or by
    COPY): it reads that row, fills it, and is rolled back.
    """
    local = dict(local)
    if pc == 0:
        if s.holder is not None:
            return None
        local["server"] = s.server
        observe_clock(s, me, local, rules)
        return 1, local, {"holder": me, "clock": local["clock"]}
    if pc == 1:
        local, changes = observe_version(s, me, local, rules)
        return (4 if local["version"] == LOCK else 2), local, changes
    if pc == 2:
        return (3 if s.clock == local["clock"] else 4), local, {}
    if pc == 3 and "commit" not in rules:
        return 4, local, filled(local, me)
    return None, local, {"holder": None}


def txn_rolled_back(s, me, pc, local, rules):
    """save() inside a transaction that is rolled back, and released then."""
    token = ("w", me, s.server)
    if pc == 0:
        return 1, local, {"version": LOCK}
    if pc == 1:
        return (2, local, {"holder": me}) if s.holder is None else None
    if pc == 2:
        return 3, local, {"holder": None}
    if pc == 3:
        return 4, local, {"clock": token}
    if pc == 4:
        return 5, local, {"version": token}
    return None, local, {"payload": None}


CREATORS = (creator, txn_creator)
WRITERS = (txn_publisher, txn_plain, autocommit_plain)
READERS = (warm_reader, cold_reader)
TRANSACTIONS = (txn_locker, txn_untold, txn_rolled_back)


def successors(state, programs, rules, max_evictions, max_crashes, takes_over):
    for me, program in enumerate(programs, start=1):
        pc, local = state.actors[me - 1]
        if pc is None:
            continue
        if state.row is None and program in (*WRITERS, *TRANSACTIONS, warm_reader):
            continue  # no actor has the pk before the row exists
        step = program(state, me, pc, dict(local), rules)
        if step is not None:
            new_pc, new_local, changes = step
            # The variables of an actor that has ended have no effect any
            # longer.
            kept = () if new_pc is None else tuple(sorted(dict(new_local).items()))
            actors = (*state.actors[: me - 1], (new_pc, kept), *state.actors[me:])
            name = f"{me}:{program.__name__}@{pc}"
            yield name, state._replace(actors=actors, **changes)
        if state.crashes < max_crashes and program in WRITERS:
            # The process dies here: its transaction rolls back unless it had
            # committed.
            actors = (*state.actors[: me - 1], (None, ()), *state.actors[me:])
            yield (
                f"{me}:crash@{pc}",
                state._replace(
                    actors=actors,
                    holder=None if state.holder == me else state.holder,
                    crashes=state.crashes + 1,
                ),
            )
    if state.evictions < max_evictions:
        for entry in ("version", "payload", "clock"):
            # A LOCK outlives every transaction: only its timeout ends it.
            if getattr(state, entry) not in (None, LOCK):
                lost = {entry: None, "evictions": state.evictions + 1}
                yield f"evict {entry}", state._replace(**lost)
    if takes_over and state.snapshot is None:
        entries = state.version, state.payload, state.clock
        yield "snapshot", state._replace(snapshot=entries)
    elif takes_over and state.server == 0:
        version, payload, clock = state.snapshot
        yield (
            "another server takes over",
            state._replace(version=version, payload=payload, clock=clock, server=1),
        )


def check_end(state, rules):
    if is_hit(state.version, state, rules):
        _, value = state.payload
        if value != state.row:
            raise Broken(
                f"at rest the cache serves {value}, the database has {state.row}"
            )


def explore(programs, rules, max_evictions, max_crashes, takes_over=False):
    """Return (number of states, what is broken and how, or None)."""
    start = State(actors=tuple((0, ()) for _ in programs))
    if set(CREATORS) & set(programs):
        came_by = {start._replace(row=None, order=()): None}
    else:
        token = ("x", 0, 0)
        payload = (token, 0), 0
        warm = start._replace(version=token, payload=payload, clock=token)
        came_by = {start: None, warm: None}
        if not takes_over:
            # Another server has taken over, which has missed the last write.
            older = warm._replace(row=9, order=(0, 9), returned=1, server=1)
            came_by[older] = None
    twins = twins_of(programs)
    seen = set(came_by)
    queue = deque(came_by)
    while queue:
        state = queue.popleft()
        try:
            if all(pc is None for pc, _ in state.actors):
                check_end(state, rules)
            for label, new in successors(
                state, programs, rules, max_evictions, max_crashes, takes_over
            ):
                same = in_order(new, twins)
                if same not in seen:
                    seen.add(same)
                    came_by[new] = (state, label)
                    queue.append(new)
        except Broken as error:
            trail = [f"  in {state}"]
            while came_by[state]:
                state, label = came_by[state]
                trail.insert(0, f"  {label}")
            return len(seen), "\n".join([str(error), *trail])
    return len(seen), None


def twins_of(programs):
    """Return the pairs of actors that run the same program."""
    actors = enumerate(programs, start=1)
    return [
        (a, b)
        for (a, program), (b, other) in itertools.combinations(actors, 2)
        if program is other
    ]


def in_order(state, twins):
    """
    Return one state for those that differ only in which twin is which: the one
    where the first twin is not ahead of the second.
    """
    for a, b in twins:
        (pc, _), (other, _) = state.actors[a - 1], state.actors[b - 1]
        if other is not None and (pc is None or pc > other):
            state = swapped(state, a, b)
    return state


def swapped(state, a, b):
    """Return the state where these two twins have changed places."""
    names = {a: b, b: a}

    def actor(value):
        return names.get(value, value)

    def token(entry):
        if entry is None or entry == LOCK:
            return entry
        return entry[0], actor(entry[1]), entry[2]

    def payload(entry):
        if entry is None:
            return None
        (version, server), value = entry
        return (token(version), server), actor(value)

    def value_of(variable, value):
        if variable in {"version", "clock"}:
            return token(value)
        return actor(value) if variable == "value" else value

    actors = [
        (pc, tuple((key, value_of(key, value)) for key, value in local))
        for pc, local in state.actors
    ]
    actors[a - 1], actors[b - 1] = actors[b - 1], actors[a - 1]
    snapshot = state.snapshot
    if snapshot is not None:
        snapshot = token(snapshot[0]), payload(snapshot[1]), token(snapshot[2])
    return State(
        actor(state.row),
        tuple(map(actor, state.order)),
        actor(state.holder),
        token(state.version),
        payload(state.payload),
        token(state.clock),
        state.returned,
        tuple(actors),
        state.evictions,
        state.crashes,
        state.server,
        snapshot,
    )


def scenarios(writers=3):
    """
    Yield (programs, crashes, whether another server takes over): small enough
    to exhaust, large enough to show every race.

    Not both a crash and another server, which may not have the LOCK of the
    writer that dies: only the timeout heals such a double fault. A crash is
    explored with one writer, because a second writer of the same row may
    release the version while the first one is dead, another double fault.
    """
    some = itertools.combinations_with_replacement
    readers = list(some(READERS, 2))
    for programs in itertools.product(some(WRITERS, 1), readers):
        yield sum(programs, ()), 1, False
        yield sum(programs, ()), 0, True
    for programs in itertools.product(zip(CREATORS), some(WRITERS, 1), readers):
        yield sum(programs, ()), 0, False
    for programs in itertools.product(
        zip(CREATORS), some(WRITERS, 1), some(READERS, 1)
    ):
        yield sum(programs, ()), 0, True
    for programs in itertools.product(
        some(WRITERS, 1), some(READERS, 1), zip(TRANSACTIONS)
    ):
        yield sum(programs, ()), 0, False
    if writers == 1:
        return
    for programs in itertools.product(
        some(WRITERS, 2), some(READERS, 1), zip(TRANSACTIONS)
    ):
        yield sum(programs, ()), 0, False
    for programs in itertools.product(some(WRITERS, 2), readers):
        yield sum(programs, ()), 0, False
    for programs in itertools.product(some(WRITERS, 2), some(READERS, 1)):
        yield sum(programs, ()), 0, True
    for programs in itertools.product(some(WRITERS, 3), some(READERS, 1)):
        yield sum(programs, ()), 0, False


def main(args=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.coherence_model",
        description="Explore every interleaving of the cache protocol.",
    )
    add = parser.add_argument
    add("--break", dest="broken", choices=RULES, help="leave this rule out")
    add("--writers", type=int, choices=[1, 3], default=3, help="at most (3)")
    options = parser.parse_args(args)
    rules = set(RULES) - {options.broken}
    failures = 0
    for programs, crashes, takes_over in scenarios(options.writers):
        states, failure = explore(programs, rules, 1, crashes, takes_over)
        names = " + ".join(p.__name__ for p in programs) + " + a crash" * crashes
        names += " + another server" * takes_over
        verdict = "BROKEN" if failure else "ok"
        sys.stdout.write(f"{states:>8} states  {names}  {verdict}\n")
        if failure:
            sys.stdout.write(f"{failure}\n")
            failures += 1
            if options.broken:
                break
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
