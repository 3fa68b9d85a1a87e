"""
Settings of the sandbox. The demo replaces DATABASES and CACHES by what its
options say, see gazetteer/services.py.
"""

from pathlib import Path

BASE_DIR = Path(__file__).parent

SECRET_KEY = "sandbox"
# Debugging keeps all queries, which takes time. See runserver's for the files.
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "bulk",
    "gazetteer",
    "plain",
    "web",  # before staticfiles, for its runserver
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "web.urls"
STATIC_URL = "static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": ["django.template.context_processors.request"]
        },
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "sandbox.sqlite3",
    }
}

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 1_000_000},
    }
}

# Cities share names, so that no name is unique; and one process imports them.
SILENCED_SYSTEM_CHECKS = ["getorcreateplus.W009"]
