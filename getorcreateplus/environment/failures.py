"""
The failures of a cache in words: which server, what error, and no password.
"""

import re
from urllib.parse import unquote, urlsplit

from django.conf import settings

from .aliases import MISCONFIGURED
from .interruptions import chain_of

SECRET = re.compile("password|passwd|secret|token|credential", re.IGNORECASE)
USERINFO = re.compile(r"(?<=://)[^/@\s]*@")


def named(alias):
    """Return what a cache is called in a message: its alias and servers."""
    places = ", ".join(places_of(alias))
    return f"{alias!r} ({places})" if places else repr(alias)


def places_of(alias):
    """Return the locations of a cache, without user names and passwords."""
    found = settings.CACHES.get(alias, {}).get("LOCATION") or ()
    found = [found] if isinstance(found, str) else map(str, found)
    places = [
        place
        for each in found
        for place in re.split("[;,]", re.sub(r"(?<=://)[^/]*@", "", each))
    ]
    return [place.rpartition("@")[2].partition("?")[0] for place in places]


def described(error, alias):
    """
    Return an error as a text, with what has caused it: some clients say no
    more of it than that they have caught one.
    """
    text = in_words(error)
    first = chain_of(error)[-1]
    if str(first) not in text:
        text += f", because of {in_words(first)}"
    return without_secrets(text, alias)


def in_words(error):
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
    """Yield the passwords of a URL, in its user's part or in its query."""
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


def is_misconfigured(error):
    """Tell whether a client cannot work as the project is set up."""
    return isinstance(error, MISCONFIGURED)
