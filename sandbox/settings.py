"""
Settings of the sandbox. The options of the demo replace DATABASES and CACHES,
see gazetteer/services.py.
"""

from pathlib import Path

BASE_DIR = Path(__file__).parent

SECRET_KEY = "sandbox"
# Django keeps all queries under DEBUG, which takes time. The web page's
# runserver serves the static files without it.
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "bulk",
    "gazetteer",
    "plain",
    "web",  # before staticfiles: its runserver replaces that of staticfiles
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

# W009: no name is unique, because cities share names. I027: one process writes
# to LocMemCache, and others do not read from it.
SILENCED_SYSTEM_CHECKS = ["getorcreateplus.W009", "getorcreateplus.I027"]
