"""
A process of the benchmark. It reads its settings and then the cases to run, as
one line of JSON each, and answers with the times of the calls.
"""

import json
import os
import random
import signal
import sys

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .cases import OPERATIONS, OURS

LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
TIMEOUT = 3600  # seconds


def serve(process):
    # The parent handles Ctrl-C, and closes stdin: then the tables are dropped.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A package may print, and that must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        options = json.loads(sys.stdin.readline())
        is_mate = options.pop("is_mate")
        start(process, **options)
        # It imports models, which need django.setup().
        from .contenders import contenders_of

        contenders = contenders_of(process)
    except ModuleNotFoundError as error:
        answer(fails=f"{error}. Run: python -m pip install -e '.[benchmark]'")
        return
    except Exception as error:  # noqa: BLE001 - of any package
        answer(fails=str(error))
        return
    if is_mate:
        for contender in contenders.values():
            contender.join()
    answer()
    try:
        for line in sys.stdin:
            try:
                answer(**measure(process, contenders, **json.loads(line)))
            except Exception as error:  # noqa: BLE001 - of any package
                answer(fails=f"{type(error).__name__}: {error}")
    finally:
        for contender in () if is_mate else contenders.values():
            contender.drop()


def start(process, database, cache):
    """Set up Django with only the package of this process."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    settings.INSTALLED_APPS = ["benchmarks"]
    settings.DATABASES = {"default": database}
    prefix = f"{cache['KEY_PREFIX']}:{process}"
    settings.CACHES = cache_aliases(cache | {"KEY_PREFIX": prefix})
    if process in PACKAGES:
        PACKAGES[process](settings.CACHES["default"])
    django.setup()


def cache_aliases(default):
    large = default | {"KEY_PREFIX": f"{default['KEY_PREFIX']}:large"}
    if default["BACKEND"] == LOCMEM:
        large["LOCATION"] = "large"
    memory = {"BACKEND": LOCMEM, "OPTIONS": {"MAX_ENTRIES": 10_000}}
    return {"default": default, "large": large, "memory": memory}


def add_cacheops(cache):
    import cacheops  # noqa: F401 - installed?

    if not cache["BACKEND"].endswith(".RedisCache"):
        raise ImproperlyConfigured("It needs --cache redis://host:6379/0.")
    settings.INSTALLED_APPS.append("cacheops")
    settings.CACHEOPS_REDIS = cache["LOCATION"]
    settings.CACHEOPS_PREFIX = lambda query: cache["KEY_PREFIX"]
    settings.CACHEOPS = {"benchmark.*": {"ops": "all", "timeout": TIMEOUT}}


def add_cachalot(cache):
    import cachalot  # noqa: F401 - installed?

    settings.INSTALLED_APPS.append("cachalot")
    settings.CACHALOT_TIMEOUT = TIMEOUT


PACKAGES = {"cacheops": add_cacheops, "cachalot": add_cachalot}


def measure(process, contenders, operation, contender, seed, counts):
    """
    Return the means of a call: microseconds, or queries and commands. Raise
    AssertionError if this package would take part of the time of the others.
    """
    if not counts and process != OURS and OURS in sys.modules:
        raise AssertionError(f"The process of {process} has imported {OURS}.")
    from .measures import MEASURES, Counter, Stopwatch

    calls = OPERATIONS[operation].calls
    meter = Counter() if counts else Stopwatch()
    MEASURES[operation](contenders[contender], meter, calls, random.Random(seed))
    return {name: value / calls for name, value in meter.result().items()}
