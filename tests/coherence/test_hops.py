"""How many functions of the package a hit calls, and how deep."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection, connections

import getorcreateplus
from getorcreateplus.coherence.asking import Asking
from getorcreateplus.writes.registry import region_of

from ..models import Paper

PACKAGE = str(Path(getorcreateplus.__file__).parent)

pytestmark = [
    pytest.mark.database("sqlite"),
    pytest.mark.django_db(transaction=True),
]


@contextmanager
def calls_of_package(found):
    """Add (depth, name) of each call of a function of the package."""
    depth = 0

    def note(frame, event, arg):  # pragma: no cover - runs without a tracer
        nonlocal depth
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return
        if event == "call":
            depth += 1
            found.append((depth, frame.f_code.co_qualname))
        elif event == "return":
            depth -= 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def test_a_hit_calls_few_functions(monkeypatch):
    """
    Each call is a hop for the reader of the code, and takes 0.1 us or more.
    """
    one = {"default": connections.settings["default"]}
    monkeypatch.setattr(connections, "settings", one)
    # What other tests have left: LOCKs by hand, and a rest after a LOCK.
    monkeypatch.delattr(connection, "getorcreateplus_kept", raising=False)
    monkeypatch.setattr(region_of(Paper.objects.all()), "asking", Asking())
    Paper.objects.get_or_create(title="a")
    Paper.objects.get_or_create(title="a")
    found = []
    with calls_of_package(found):
        _, created = Paper.objects.get_or_create(title="a")
    assert not created
    assert max(depth for depth, _ in found) <= 4, found
    assert len(found) <= 25, found
    # A hit has gone all the way.
    assert "verdict" in [name for _, name in found]
