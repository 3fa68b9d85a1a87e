"""The checkout: its root, and the contents of its settings files."""

import os
import re
from configparser import ConfigParser
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def read_config(name):
    config = ConfigParser(interpolation=None)
    config.read_string((ROOT / name).read_text())
    return config


def environment_without_tests():
    """Return the environment, without what a test run adds to it."""
    own = ("DJANGO_", "PYTEST_", "TEST_")
    return {
        name: value for name, value in os.environ.items() if not name.startswith(own)
    }


def tox_environments():
    """Return the names in tox.ini's env_list, with a{1,2} as a1 and a2."""
    for line in read_config("tox.ini")["tox"]["env_list"].split():
        choices = [part.split(",") for part in re.split(r"[{}]", line)]
        yield from map("".join, product(*choices))
