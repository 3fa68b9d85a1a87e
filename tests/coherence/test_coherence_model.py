"""The model of the protocol holds, and its rules are those of the module."""

import re

import pytest

from getorcreateplus import coherence

from ..coherence_model import (
    RULES,
    cold_reader,
    explore,
    scenarios,
    txn_locker,
    txn_plain,
    txn_publisher,
    txn_untold,
    warm_reader,
)

# They need no database: one is enough.
pytestmark = pytest.mark.database("sqlite")


@pytest.mark.slow
def test_no_interleaving_of_one_writer_is_wrong():
    for programs, crashes, takes_over in scenarios(writers=1):
        evictions = int(not takes_over)  # both at once take minutes
        _, failure = explore(programs, set(RULES), evictions, crashes, takes_over)
        assert failure is None


NEEDED = {
    "lock": ((txn_publisher, warm_reader, warm_reader), 1),
    "clock": ((txn_plain, warm_reader, cold_reader), 0),
    "recheck": ((txn_publisher, warm_reader, cold_reader), 0),
    "drop": ((txn_publisher, txn_plain, warm_reader), 0),
    "waited": ((txn_plain, txn_plain, warm_reader, txn_locker), 0),
    "commit": ((txn_untold, warm_reader), 0),
    "server": ((txn_plain, warm_reader), 0),
    "compared": ((txn_plain, warm_reader), 1),
    "answered": ((txn_plain, txn_plain, warm_reader, warm_reader), 0),
}


# Those that take seconds.
SLOW = {"answered", "drop", "lock", "waited"}


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, marks=pytest.mark.slow if rule in SLOW else ())
        for rule in RULES
    ],
)
def test_each_rule_is_needed(rule):
    programs, crashes = NEEDED[rule]
    assert explore(programs, set(RULES), 1, crashes)[1] is None
    assert explore(programs, set(RULES) - {rule}, 1, crashes)[1] is not None


def test_module_names_the_rules_of_the_model():
    assert set(re.findall(r"\*(\w+)\*\)", coherence.__doc__)) == set(RULES)
