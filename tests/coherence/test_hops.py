"""The number and depth of the package's functions that a hit calls."""

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings
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
def calls_of_package(found, skipped=None):
    """
    Add (depth, name) for each call of a function of the package, except for
    functions in one of its folders and the functions that they call.
    """
    depth = depth_in_folder = 0

    def note(frame, event, arg):  # pragma: no cover - runs without a tracer
        nonlocal depth, depth_in_folder
        filename = frame.f_code.co_filename
        if not filename.startswith(PACKAGE) or event not in {"call", "return"}:
            return
        step = 1 if event == "call" else -1
        if depth_in_folder or (skipped and skipped in filename):
            depth_in_folder += step
            return
        depth += step
        if event == "call":
            found.append((depth, frame.f_code.co_qualname))

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
    # Other tests have left LOCKs by hand, and a rest after a LOCK.
    monkeypatch.delattr(connection, "getorcreateplus_kept", raising=False)
    monkeypatch.setattr(region_of(Paper.objects.all()), "asking", Asking())
    Paper.objects.get_or_create(title="a")
    Paper.objects.get_or_create(title="a")
    found = []
    # A transport to a server makes a packet, and parses the answer.
    is_local = settings.CACHES["default"]["BACKEND"].endswith("LocMemCache")
    with calls_of_package(found, None if is_local else "/coherence/transports/"):
        _, created = Paper.objects.get_or_create(title="a")
    assert not created
    assert max(depth for depth, _ in found) <= 4, found
    assert len(found) <= 25, found
    # A hit has gone all the way.
    assert "verdict" in [name for _, name in found]
