"""Flaws in the settings of a cache, and the log messages of a failure."""

import logging
import re
import subprocess
import sys

import pytest
import redis
import valkey
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from django.test import override_settings

from getorcreateplus import CachedQuerySet, checks
from getorcreateplus.coherence import clients
from getorcreateplus.diagnosis import suitability
from getorcreateplus.environment.failures import cache_in_words, error_in_words
from getorcreateplus.explaining import explain

from ..models import Paper
from ..support.papers import pages, warm
from ..support.repository import ROOT

DJANGO = "django.core.cache.backends"
REDIS, MEMCACHED = f"{DJANGO}.redis.RedisCache", f"{DJANGO}.memcached.PyMemcacheCache"
LOCMEM, DATABASE = f"{DJANGO}.locmem.LocMemCache", f"{DJANGO}.db.DatabaseCache"
FILES = f"{DJANGO}.filebased.FileBasedCache"
CLUSTER = "django_valkey.cluster_cache.cache.ClusterValkeyCache"
PYLIBMC = f"{DJANGO}.memcached.PyLibMCCache"
URL = "redis://127.0.0.1:1/0"


class OfDjangoRedis(BaseCache):
    __module__ = "django_redis.cache"


class Prefixed(OfDjangoRedis):
    """A project's own backend, on top of django-redis."""


class TenantRedis(RedisCache):
    pass


def backend(cls):
    return f"{__name__}.{cls.__name__}"


def cache(name, location=URL, **options):
    config = {"BACKEND": name, "LOCATION": location, "OPTIONS": options}
    return override_settings(CACHES={"default": config})


def ids(known=(Paper,)):
    return [message.id.partition(".")[2] for message in checks.check_alone(known)]


# W021


def before_8(self, socket_timeout=None):
    """Like redis-py up to 7, without a default."""


@pytest.mark.parametrize(
    ("name", "location", "options", "missing"),
    [
        (REDIS, URL, {}, "socket_timeout"),
        (backend(TenantRedis), URL, {}, "socket_timeout"),
        (REDIS, URL, {"socket_connect_timeout": 1}, "socket_timeout"),
        (REDIS, URL, {"socket_timeout": 1}, None),
        (REDIS, [URL, URL], {}, "socket_timeout"),
        (REDIS, f"{URL}?socket_timeout=1", {}, None),
        (REDIS, [f"{URL}?socket_timeout=1", URL], {}, "socket_timeout"),
        (backend(Prefixed), URL, {}, "SOCKET_TIMEOUT"),
        (backend(Prefixed), URL, {"SOCKET_TIMEOUT": 1}, None),
        (
            backend(Prefixed),
            URL,
            {"CONNECTION_POOL_KWARGS": {"socket_timeout": 1}},
            None,
        ),
        (CLUSTER, URL, {}, "socket_timeout in BASE_CLIENT_KWARGS"),
        (CLUSTER, URL, {"SOCKET_TIMEOUT": 1}, "socket_timeout in BASE_CLIENT_KWARGS"),
        (CLUSTER, URL, {"BASE_CLIENT_KWARGS": {"socket_timeout": 1}}, None),
        (MEMCACHED, "127.0.0.1:1", {}, "timeout and no connect_timeout"),
        (MEMCACHED, "127.0.0.1:1", {"timeout": 1}, "connect_timeout"),
        (MEMCACHED, "127.0.0.1:1", {"timeout": 1, "connect_timeout": 1}, None),
        (PYLIBMC, "127.0.0.1:1", {}, None),  # libmemcached has defaults
        (LOCMEM, "", {"MAX_ENTRIES": 1000}, None),
        ("tests.support.diskcache.DiskCache", "/nowhere", {}, None),
    ],
)
def test_client_without_a_timeout(name, location, options, missing, monkeypatch):
    for library in redis, valkey:
        owner = library.connection.AbstractConnection
        monkeypatch.setattr(owner, "__init__", before_8)
    with cache(name, location, **options):
        found = list(checks.check_alone([Paper]))
    if missing is None:
        assert found == []
    else:
        [message] = found
        assert message.id == "getorcreateplus.W021"
        assert message.msg.startswith(f"The cache 'default' has no {missing}: ")


@pytest.mark.parametrize(
    ("options", "warns"), [({}, False), ({"socket_timeout": None}, True)]
)
def test_client_with_a_default(options, warns):
    """Like redis-py from 8 on."""
    with cache(REDIS, **options):
        assert ids() == ["W021"] * warns


def test_writes_that_wait_without_end():
    with cache("diskcache.DjangoCache", "/nowhere"):
        [message] = checks.check_alone([Paper])
    assert message.id == "getorcreateplus.W021"
    assert message.msg.startswith("The cache 'default' is a DjangoCache of diskcache: ")


# W023


@pytest.mark.parametrize(
    ("name", "options", "more", "hides"),
    [
        (DATABASE, {"MAX_ENTRIES": 1000}, {}, True),
        (backend(Prefixed), {"IGNORE_EXCEPTIONS": True}, {}, True),
        (backend(Prefixed), {}, {"DJANGO_REDIS_IGNORE_EXCEPTIONS": True}, True),
        (
            backend(Prefixed),
            {"IGNORE_EXCEPTIONS": False},
            {"DJANGO_REDIS_IGNORE_EXCEPTIONS": True},
            False,
        ),
        (REDIS, {}, {"DJANGO_REDIS_IGNORE_EXCEPTIONS": True}, False),
        (MEMCACHED, {"ignore_exc": True}, {}, True),
        (MEMCACHED, {"ignore_exc": False}, {}, False),
        (PYLIBMC, {"behaviors": {"_noreply": True}}, {}, True),
        (PYLIBMC, {"behaviors": {"tcp_nodelay": True}}, {}, False),
        (PYLIBMC, {}, {}, False),
    ],
)
def test_cache_that_hides_its_errors(name, options, more, hides):
    timeouts = {"timeout": 1, "connect_timeout": 1} if name == MEMCACHED else {}
    if name == backend(Prefixed):
        timeouts = {"SOCKET_TIMEOUT": 1}
    with cache(name, **options, **timeouts), override_settings(**more):
        assert ids() == ["W023"] * hides


@pytest.mark.django_db
def test_explain_says_that_errors_are_hidden():
    with cache(LOCMEM, "hiding", MAX_ENTRIES=1000, IGNORE_EXCEPTIONS=True):
        found = explain(Paper.objects, title="a")
    assert (
        "Or the cache failed: 'default' hides its errors, because of IGN" in found.why
    )


# W024


@pytest.mark.parametrize("name", [LOCMEM, FILES, DATABASE])
@pytest.mark.parametrize(
    ("options", "few"),
    [({}, True), ({"MAX_ENTRIES": 300}, True), ({"MAX_ENTRIES": "1000"}, False)],
)
def test_cache_with_room_for_few(name, options, few, tmp_path):
    with cache(name, str(tmp_path), **options):
        assert ("W024" in ids()) is few


def test_servers_have_room_of_their_own():
    with cache(REDIS):
        assert suitability.max_entries("default") is None
        assert ids() == []


# W022


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("timeout", [0, "0", -1])
def test_cache_that_keeps_rows_for_no_time(timeout):
    config = {"BACKEND": LOCMEM, "LOCATION": "no time", "TIMEOUT": timeout}
    with override_settings(CACHES={"default": config}):
        for _ in range(2):
            assert pages()[1] > 0
        [message] = checks.check_kept(Paper)
        assert (message.id, message.msg) == (
            "getorcreateplus.W022",
            "Rows of tests.Paper are never served from the cache 'default': it keeps "
            f"rows for {timeout} seconds.",
        )
        found = explain(Paper.objects, title="a")
        assert found.why == f"The cache 'default' keeps rows for {timeout} seconds."
        assert found.remedy.startswith("Set a longer TIMEOUT")


@pytest.mark.parametrize(
    ("name", "timeout", "warns"),
    [
        (REDIS, 0.5, True),
        (MEMCACHED, 0.5, True),
        (LOCMEM, 0.5, False),
        (REDIS, 1.5, False),
        (REDIS, None, False),
        (LOCMEM, -1, True),
    ],
)
def test_time_of_less_than_a_second(name, timeout, warns, monkeypatch):
    monkeypatch.setattr(CachedQuerySet, "cache_timeout", timeout)
    with cache(name):
        assert bool([*checks.check_kept(Paper)]) == warns


@pytest.mark.django_db(transaction=True)
def test_cache_that_keeps_rows():
    warm()
    assert list(checks.check_kept(Paper)) == []


# A missing client

MISSING = """
import sys
if not %r:
    sys.modules["redis"] = sys.modules["pymemcache"] = None
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["shop"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES={"default": {"BACKEND": "%s", "LOCATION": "%s", "OPTIONS": %r}},
)
import django
django.setup()
from django.core import signals
from django.db import connection
from getorcreateplus import checks
from shop.models import Tag
with connection.schema_editor() as editor:
    editor.create_model(Tag)
for _ in range(2):
    tag, _ = Tag.objects.get_or_create(name="a")
tag.save()
for message in checks.check_caches():
    if ".E" in message.id:
        print(message.id, message.msg, message.hint)
signals.request_finished.send(sender=None)
"""
SHOP = """
from django.db import models
from getorcreateplus import PlusManager

class Tag(models.Model):
    name = models.CharField(max_length=9, unique=True)
    objects = PlusManager()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "location", "options", "said", "hint"),
    [
        (REDIS, URL, {}, "cannot be loaded", "Install"),
        (MEMCACHED, "127.0.0.1:1", {}, "cannot be loaded", "Install"),
        (
            MEMCACHED,
            "127.0.0.1:1",
            {"conect_timeout": 1},
            "has a LOCATION or OPTIONS that its client does not take",
            "Correct the LOCATION or the OPTIONS",
        ),
    ],
)
def test_client_that_cannot_be_made(name, location, options, said, hint, tmp_path):
    """The client is not installed, or gets an unknown option."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text(SHOP)
    source = MISSING % (options, name, location, options)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    # No outage.
    assert re.fullmatch(
        r"The cache 'default' has a .+: see the system check getorcreateplus\.E001\.\n",
        result.stderr,
    )
    assert "getorcreateplus.E001" in result.stdout
    assert said in result.stdout
    assert hint in result.stdout


class Lazy(LocMemCache):
    """It imports its client at the first command."""

    def get_many(self, *args, **kwargs):
        import nothing_of_this_name  # noqa: F401

    get = set_many = add = delete_many = get_many


@pytest.mark.django_db(transaction=True)
def test_client_that_the_first_command_misses(caplog, monkeypatch):
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    with cache(backend(Lazy), "lazy"):
        for _ in range(3):
            Paper.objects.get_or_create(title="a")
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        "Cache 'default' (lazy) is misconfigured and cannot be used: "
        "ModuleNotFoundError: No module named 'nothing_of_this_name'. Install what its "
        "BACKEND imports, or correct CACHES."
    )


# Log messages


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("name", "location"), [(REDIS, URL), (MEMCACHED, "127.0.0.1:1")]
)
def test_warning_names_host_and_cause(name, location, caplog, monkeypatch):
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    with cache(name, location):
        Paper.objects.get_or_create(title="a")
    [record] = caplog.records
    text = record.getMessage()
    assert text.startswith(f"Cache 'default' ({location}) failed and is not used")
    assert "ConnectionRefusedError" in text or "Connection refused" in text


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("location", "options"),
    [
        ("redis://me:hu%21sh@127.0.0.1:1/0", {}),
        ("redis://:hu%21sh@127.0.0.1:1/0?socket_timeout=1", {}),
        ("redis://127.0.0.1:1/0?password=hu%21sh", {}),
        (URL, {"password": "hu!sh"}),
    ],
)
def test_no_password_is_shown(location, options, caplog, monkeypatch):
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    caplog.set_level(logging.DEBUG, "getorcreateplus")
    with cache(REDIS, location, **options):
        Paper.objects.get_or_create(title="a")
        texts = [record.getMessage() for record in caplog.records]
        texts.append(str(explain(Paper.objects, title="a")))
        error = ConnectionError(f"{location} by {options} and hu!sh")
        texts.append(error_in_words(error, "default"))
    assert any("127.0.0.1:1" in text for text in texts)
    assert not any("hu!sh" in text or "hu%21sh" in text for text in texts)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("", "'default'"),
        (URL, f"'default' ({URL})"),
        (
            "redis://a:b@h:1/0;redis://c:d@i:2/0",
            "'default' (redis://h:1/0, redis://i:2/0)",
        ),
        (["redis://a:b,c@h:1/0"], "'default' (redis://h:1/0)"),
        ("me:b@h:1", "'default' (h:1)"),
        ("unix:///tmp/x?password=b", "'default' (unix:///tmp/x)"),
    ],
)
def test_name_of_a_cache(location, name):
    with cache(REDIS, location):
        assert cache_in_words("default") == name


class Silent(Exception):
    def __str__(self):
        return ""


def fail():
    """Like a client that catches an error of the socket."""
    try:
        raise OSError(111, "refused")
    except OSError as error:
        raise Silent from error


def test_cause_is_named():
    name = f"{__name__}.Silent"
    try:
        fail()
    except Silent as error:
        text = error_in_words(error, "default")
    assert text == f"{name}, because of ConnectionRefusedError: [Errno 111] refused"
    try:
        raise KeyError("of the caller")
    except KeyError:
        try:
            raise Silent
        except Silent as error:
            text = error_in_words(error, "default")
    assert text == name
