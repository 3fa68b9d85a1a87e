"""
What each rule of the protocol prevents: without it, an order is wrong.

The rules are named as in getorcreateplus/coherence/.
"""

import inspect
import textwrap

import pytest

from getorcreateplus.coherence import protocol as coherence

from ..support.errors import Wrong
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
    # SQLite has one writer at a time: nobody else moves before it has ended.
    pytest.mark.database("postgresql"),
    pytest.mark.django_db(transaction=True, available_apps=["tests"]),
]


def without(monkeypatch, cls, name, line, instead):
    """Replace one line of a method."""
    source = textwrap.dedent(inspect.getsource(getattr(cls, name)))
    assert source.count(line) == 1
    scope = {}
    exec(source.replace(line, instead), vars(coherence), scope)
    monkeypatch.setattr(cls, name, scope[name])


RULES = {
    "lock": (
        [
            (
                coherence.Region,
                "lock_now",
                "keys = [self.epoch] if pks is None else map(self.version, pks)",
                "keys = [self.epoch] if pks is None else []",
            )
        ],
        [save_in_transaction, warm_read],
        {"mortal": {"save_in_transaction"}},
    ),
    "lock of all rows": (
        [
            (
                coherence.Region,
                "lock_now",
                "keys = [self.epoch] if pks is None else map(self.version, pks)",
                "keys = [] if pks is None else map(self.version, pks)",
            )
        ],
        [update, warm_read],
        {"mortal": {"update"}},
    ),
    "lock, as readers see it": (
        [
            (
                coherence.Read,
                "_is_vouched_for",
                "return not is_locked(self.version)",
                "return True",
            ),
            (
                coherence.Read,
                "_is_hit",
                "and not is_locked(version)  # rule lock",
                "",
            ),
            (
                coherence.Read,
                "_is_locked",
                "return any(is_locked(str(entries.get(name))) for name in names)",
                "return False",
            ),
        ],
        [save_in_transaction, warm_read, warm_read],
        {"start": "evicted", "mortal": {"save_in_transaction"}},
    ),
    "clock": (
        [
            (
                coherence.Region,
                "release_now",
                "clock = {self.clock: token(place)}  # rule clock",
                "clock = {}",
            )
        ],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "recheck": (
        [
            (
                coherence.Read,
                "_is_vouched_for",
                "return clock is not None and clock == self.clock  # rule recheck",
                "return True",
            )
        ],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "drop": (
        [
            (
                coherence.Region,
                "release_now",
                "dropped,  # rule drop",
                "",
            )
        ],
        [publish, save_in_transaction, warm_read],
        {},
    ),
    "the clock before the version": (
        [
            (
                coherence.Region,
                "release_now",
                "clock,\n            versions,",
                "versions,\n            clock,",
            ),
            (coherence.Store, "keeps_order", "return not", "return False and not"),
        ],
        [save_in_transaction, cold_read],
        {"switches": 3},
    ),
    "the version before the clock": (
        [
            (
                coherence.Read,
                "_is_vouched_for",
                "entries = store.get_in_order([name, region.clock])",
                "entries = store.get_in_order([region.clock, name])",
            ),
            (coherence.Store, "keeps_order", "return not", "return False and not"),
        ],
        [save_in_transaction, cold_read, warm_read],
        {},
    ),
    "the commit of a created row": (
        [
            (
                coherence.Read,
                "fill_created",
                "own.fill_later(self.connection, self, pk, memory.pack(values))",
                "self._fill(pk, values)",
            )
        ],
        [create_and_roll_back, warm_read],
        {"start": "absent"},
    ),
    "commit": (
        [
            (
                coherence.Read,
                "_keep",
                "own.fill_later(connection, self, pk, memory.pack(values))",
                "self._fill(pk, values)",
            )
        ],
        [write_untold_and_roll_back, warm_read],
        {"start": "evicted"},
    ),
    "waited": (
        [
            (
                coherence,
                "has_locked",
                "return locking is not None and locking is first_block(connection)",
                "return False",
            )
        ],
        [save_in_transaction, save_in_transaction, warm_read, lock_and_read],
        {"switches": 2},
    ),
    "the lookup of a hit": (
        [(coherence.Read, "_is_hit", "and self.matches(payload[2])", "")],
        [publish_another_name, warm_read],
        {},
    ),
    "the epoch of a hit": (
        [
            (
                coherence.Read,
                "_is_hit",
                "payload[0] == (epoch, version)",
                "payload[0][1] == version",
            )
        ],
        [update, warm_read],
        {},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(stage, monkeypatch, rule):
    lines, jobs, options = RULES[rule]
    for cls, name, line, instead in lines:
        without(monkeypatch, cls, name, line, instead)
    with pytest.raises(Wrong):
        explored(stage, jobs, **{"switches": 1} | options)
