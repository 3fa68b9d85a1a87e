"""
The commands for users to type, with the Python that runs the sandbox. Imports
no Django, because manage.py needs it where Django is missing.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def pip_install(extra):
    """Return the command, to be typed in the checkout."""
    return f'{pip()} install -e ".[{extra}]"'


def pip():
    """
    Return the pip of the virtual environment that runs this. Outside of the
    checkout, or without a pip of its own, `python -m pip` is what is left.
    """
    program = in_checkout(Path(sys.executable).with_name(f"pip{suffix()}"))
    return program or "python -m pip"


def python():
    return in_checkout(Path(sys.executable)) or "python"


def in_checkout(program):
    """Return its path as typed in the checkout. None if it is not there."""
    is_own = sys.prefix != sys.base_prefix and program.is_relative_to(CHECKOUT)
    if not is_own or not program.exists():
        return None
    return str(program.relative_to(CHECKOUT))


def suffix():
    return Path(sys.executable).suffix  # ".exe" on Windows
