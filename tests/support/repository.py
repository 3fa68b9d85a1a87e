"""The checkout: its root, and what its files of settings say."""

import re
from configparser import ConfigParser
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def read_config(name):
    config = ConfigParser(interpolation=None)
    config.read_string((ROOT / name).read_text())
    return config


def tox_environments():
    """Return the names in tox.ini's env_list, with a{1,2} as a1 and a2."""
    for line in read_config("tox.ini")["tox"]["env_list"].split():
        choices = [part.split(",") for part in re.split(r"[{}]", line)]
        yield from map("".join, product(*choices))
