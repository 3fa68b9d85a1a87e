"""
The purpose of each rule of the protocol: without it, an order is wrong.

Each test replaces a rule, which is a function, by one that breaks it; for
single calls and for batches.
"""

import threading
from functools import partial

import pytest

from getorcreateplus.coherence import rules, situations
from getorcreateplus.coherence.fills import fill_now
from getorcreateplus.coherence.journal import Journal
from getorcreateplus.coherence.looking import SoughtRow
from getorcreateplus.coherence.region import Region
from getorcreateplus.coherence.transports.django import DjangoTransport
from getorcreateplus.lookups.rows import unpack
from getorcreateplus.signals import Reason

from ..support.errors import Wrong
from .interleavings import Actor
from .jobs import (
    cold_read,
    create_and_roll_back,
    lock_and_read,
    publish,
    publish_another_name,
    save_in_transaction,
    update,
    warm_read,
    write_untold_and_roll_back,
)
from .stages import explored

pytestmark = [
    pytest.mark.slow,
    # SQLite has one writer at a time: the others wait until it has ended.
    pytest.mark.database("postgresql"),
    pytest.mark.django_db(transaction=True, available_apps=["tests"]),
]

entries_to_lock = rules.entries_to_lock
steps_of_release = rules.steps_of_release
verdict = rules.verdict
release = Region.release
vouch = DjangoTransport.vouch


def lock_no_rows(region, pks, prefix):
    return entries_to_lock(region, pks, prefix) if pks is None else {}


def lock_no_models(region, pks, prefix):
    return {} if pks is None else entries_to_lock(region, pks, prefix)


def see_no_lock(seen, reading, sought):
    reason = verdict(seen, reading, sought)
    return None if reason is Reason.LOCKED and has_stamp(seen) else reason


def has_stamp(seen):
    payload, version, epoch = seen
    return type(payload) is tuple and payload[0] == (epoch, version)


def leave_clock(*args):
    _, versions, dropped = steps_of_release(*args)
    return {}, versions, dropped


def leave_payloads(*args):
    clock, versions, _ = steps_of_release(*args)
    return clock, versions, {}


def move_version_first(*args):
    clock, versions, dropped = steps_of_release(*args)
    return versions, clock, dropped


def look_at_clock_first(transport, fresh, timeout, clock_key, max_added):
    clock = transport.look([clock_key]).get(clock_key)
    versions, _ = vouch(transport, fresh, timeout, clock_key, max_added)
    return versions, clock


def fill_at_once(own, fills):
    for fill in fills:
        sought = SoughtRow({}, fill.lookup, None)
        row = sought, fill.pk, unpack(fill.values), fill.version
        fill_now(fill.reading, [row])


def take_any_row(seen, reading, sought):
    reason = verdict(seen, reading, sought)
    return None if reason is Reason.LOOKUP else reason


def ignore_epoch(seen, reading, sought):
    reason = verdict(seen, reading, sought)
    payload, version, _ = seen
    is_old = reason is Reason.STAMP and payload[0][1] == version
    return None if is_old else reason


releases = {}  # by actor, the commands that it has not sent


def release_later(region, *args, **kwargs):
    actor = threading.current_thread()
    if not isinstance(actor, Actor):
        release(region, *args, **kwargs)
        return
    if actor not in releases:
        releases[actor] = []
        actor.unsent.append(partial(send_releases, actor))
    releases[actor].append(partial(release, region, *args, **kwargs))


def send_releases(actor):
    while releases[actor]:
        releases[actor].pop(0)()


def keep_no_order(transport):
    return False


# rule: ([(its module, its name, its replacement)], jobs, options of play())
RULES = {
    "lock": (
        [(rules, "entries_to_lock", lock_no_rows)],
        [save_in_transaction, warm_read],
        {"mortal": {"save_in_transaction"}},
    ),
    "lock of all rows": (
        [(rules, "entries_to_lock", lock_no_models)],
        [update, warm_read],
        {"mortal": {"update"}},
    ),
    "lock, as readers see it": (
        [
            (rules, "is_locked", lambda value: False),
            (rules, "verdict", see_no_lock),
        ],
        [save_in_transaction, warm_read, warm_read],
        {"start": "evicted", "mortal": {"save_in_transaction"}},
    ),
    "clock": (
        [(rules, "steps_of_release", leave_clock)],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "recheck": (
        [(rules, "has_clock_stayed", lambda before, now: True)],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "drop": (
        [(rules, "steps_of_release", leave_payloads)],
        [publish, save_in_transaction, warm_read],
        {},
    ),
    "the clock before the version": (
        [
            (rules, "steps_of_release", move_version_first),
            (DjangoTransport, "keeps_order", keep_no_order),
        ],
        [save_in_transaction, cold_read],
        {"switches": 3},
    ),
    "the version before the clock": (
        [
            (DjangoTransport, "vouch", look_at_clock_first),
            (DjangoTransport, "keeps_order", keep_no_order),
        ],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "the commit of a created row": (
        [(Journal, "fill_later", fill_at_once)],
        [create_and_roll_back, warm_read],
        {"start": "absent"},
    ),
    "commit": (
        [(Journal, "fill_later", fill_at_once)],
        [write_untold_and_roll_back, warm_read],
        {"start": "evicted"},
    ),
    "waited": (
        [(situations, "has_waited", lambda connection: False)],
        [save_in_transaction, save_in_transaction, warm_read, lock_and_read],
        {"switches": 2},
    ),
    "answered": (
        [(Region, "release", release_later)],
        [save_in_transaction, save_in_transaction, warm_read, warm_read],
        {"switches": 3},
    ),
    "the lookup of a hit": (
        [(rules, "verdict", take_any_row)],
        [publish_another_name, warm_read],
        {},
    ),
    "the epoch of a hit": (
        [(rules, "verdict", ignore_epoch)],
        [update, warm_read],
        {},
    ),
}


@pytest.mark.parametrize("in_bulk", [False, True], ids=["single", "batch"])
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(stage, monkeypatch, rule, in_bulk):
    replacements, jobs, options = RULES[rule]
    stage.in_bulk = in_bulk
    for place, name, function in replacements:
        monkeypatch.setattr(place, name, function)
    with pytest.raises(Wrong):
        explored(stage, jobs, **{"switches": 1} | options)
