"""
Settings of the sandbox. The demo replaces DATABASES and CACHES by what its
options say, see gazetteer/services.py.
"""

from pathlib import Path

SECRET_KEY = "sandbox"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "bulk",
    "gazetteer",
    "plain",
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(__file__).parent / "sandbox.sqlite3",
    }
}

CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# Cities share names, so that no name is unique; and one process imports them.
SILENCED_SYSTEM_CHECKS = ["getorcreateplus.W009"]
