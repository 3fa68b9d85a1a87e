"""
The failures of a cache in words: with the server and the error, and without
passwords.
"""

import re
from urllib.parse import unquote, urlsplit

from django.conf import settings

from .aliases import MISCONFIGURED
from .interruptions import chain_of

SECRET = re.compile("password|passwd|secret|token|credential", re.IGNORECASE)
USERINFO = re.compile(r"(?<=://)[^/@\s]*@")


def cache_in_words(alias):
    """Return the name of a cache in a message: its alias and its servers."""
    locations = ", ".join(locations_of(alias))
    return f"{alias!r} ({locations})" if locations else repr(alias)


def locations_of(alias):
    """Return the locations of a cache, without user names and passwords."""
    found = settings.CACHES.get(alias, {}).get("LOCATION") or ()
    found = [found] if isinstance(found, str) else map(str, found)
    locations = [
        location
        for each in found
        for location in re.split("[;,]", re.sub(r"(?<=://)[^/]*@", "", each))
    ]
    return [each.rpartition("@")[2].partition("?")[0] for each in locations]


def error_in_words(error, alias):
    """
    Return an error as a text, with the error that caused it, because the
    message of some clients is only that they have caught one.
    """
    text = type_and_message(error)
    first = chain_of(error)[-1]
    if str(first) not in text:
        text += f", because of {type_and_message(first)}"
    return without_secrets(text, alias)


def is_misconfigured(error):
    """Return True if a client cannot work with the project's settings."""
    return isinstance(error, MISCONFIGURED)


def type_and_message(error):
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    text = str(error).strip()
    return f"{name}: {text}" if text else name


def without_secrets(text, alias):
    config = settings.CACHES.get(alias, {})
    for secret in sorted(secrets_in(config), key=len, reverse=True):
        text = text.replace(secret, "***")
    return USERINFO.sub("***@", text)


def secrets_in(config, is_secret=False):
    """Yield the passwords in the settings of a cache."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield from secrets_in(value, bool(SECRET.search(str(name))))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from secrets_in(value, is_secret)
    elif isinstance(config, str):
        if is_secret and config:
            yield config
        for password in passwords_in(config):
            yield from {password, unquote(password)}


def passwords_in(location):
    """Yield the passwords of a URL, in its userinfo or in its query."""
    try:
        parts = urlsplit(location)
        if parts.password:
            yield parts.password
    except ValueError:
        return
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        if value and SECRET.search(name):
            yield value
