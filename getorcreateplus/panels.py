"""
A panel for Django Debug Toolbar. It shows what the cache did for a request,
and why lookups were misses.

It receives the signals while a request runs, and changes nothing.
"""

import datetime
import decimal
import reprlib
import uuid
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from debug_toolbar.panels import Panel
from debug_toolbar.utils import get_stack_trace, render_stacktrace
from django import dispatch
from django.apps import apps
from django.core import checks
from django.db import models
from django.template.loader import render_to_string
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .coherence import clients
from .diagnosis.reasons import HITS, MISSES
from .signals import Result, cache_miss_ended
from .statistics import Statistics, counting

# So many lookups of a request are listed. Later ones are only counted.
MAX_LOOKUPS = 500

# Frames that are left out of stacks: the package's own, and those of signals.
LEFT_OUT = {Path(__file__).parent, Path(dispatch.__file__).parent}

# Their repr() runs no code of the project. The repr() of a model or a queryset
# may send a query.
PLAIN_TYPES: tuple[Any, ...] = (
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    decimal.Decimal,
    uuid.UUID,
    datetime.datetime,  # before its base class, date
    datetime.date,
    datetime.time,
    datetime.timedelta,
)


class GetOrCreatePanel(Panel):
    """Shows the lookups by CachedGetOrCreateMixin in one request."""

    is_async = True
    nav_title = "get_or_create()"
    title = _("get_or_create() and the cache")
    template = "getorcreateplus/panel.html"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.recorder = Recorder()

    @property
    def nav_subtitle(self):
        stats = self.get_stats()
        hits, misses = stats.get("hits", 0), stats.get("misses", 0)
        return ", ".join(
            [
                ngettext("%(count)d hit", "%(count)d hits", hits) % {"count": hits},
                ngettext("%(count)d miss", "%(count)d misses", misses)
                % {"count": misses},
            ]
        )

    @property
    def content(self):
        # Not recorded, because they are in the language of the current user.
        stats = self.get_stats()
        lookups = [
            lookup
            | {
                "explanation": explanation(lookup),
                "stack": render_stacktrace(lookup["stack"]),
                "place": place_of(lookup["stack"]),
            }
            for lookup in stats.get("lookups", ())
        ]
        return render_to_string(self.template, {**stats, "lookups": lookups})

    def enable_instrumentation(self):
        self.recorder.start()

    def disable_instrumentation(self):
        self.recorder.stop()

    def generate_stats(self, request, response):
        recorder, total = self.recorder, self.recorder.total
        sources = sum(recorder.sources.values(), Counter())
        self.record_stats(
            {
                "hits": total.hits,
                "misses": total.misses.total(),
                "models": [
                    facts_of(label, counts, recorder.sources[label])
                    for label, counts in sorted(recorder.models.items())
                ],
                "total": facts_of("", total, sources),
                "lookups": grouped(recorder.lookups),
                "left_out": recorder.left_out,
                "transports": ", ".join(
                    f"{alias}: {client.transport.name}"
                    for alias, client in sorted(clients.by_alias.items())
                ),
            }
        )

    @classmethod
    def run_checks(cls):
        if apps.is_installed("getorcreateplus"):
            return []
        return [
            checks.Error(
                f"{cls.__module__}.{cls.__qualname__} is in DEBUG_TOOLBAR_PANELS, but "
                "'getorcreateplus' is not in INSTALLED_APPS: Django does not find the "
                "panel's template.",
                hint="Add 'getorcreateplus' to INSTALLED_APPS.",
                id="getorcreateplus.E018",
            )
        ]


class Recorder(Statistics):
    """The Statistics of one request, with its lookups in order."""

    def __init__(self):
        super().__init__(own_context=True)
        self.sources = defaultdict(Counter)  # by the model's label
        self.receivers.append((cache_miss_ended, self._miss_ended))
        self.lookups = []
        self.left_out = 0

    def _hit(self, sender, duration, **kwargs):
        super()._hit(sender, duration)
        self._record(sender, "hit", kwargs["source"], duration, **kwargs)

    def _miss(self, sender, reason, duration, **kwargs):
        super()._miss(sender, reason, duration)
        self._record(sender, "miss", reason, duration, **kwargs)

    def _record(self, sender, outcome, why, duration, *, using, lookup, **kwargs):
        if self not in counting.get():
            return
        label = sender._meta.label
        with self.lock:
            if outcome == "hit":
                self.sources[label][why] += 1
            if len(self.lookups) == MAX_LOOKUPS:
                self.left_out += 1
                return
            self.lookups.append(
                {
                    "model": label,
                    "using": using,
                    "lookup": shown(lookup),
                    "outcome": outcome,
                    "why": str(why),
                    "row": str(Result.FOUND) if outcome == "hit" else "",
                    "time": duration * 1000,
                    "times": 1,
                    "stack": stack_of_call(),
                }
            )

    def _miss_ended(self, sender, using, lookup, result, **kwargs):
        if self not in counting.get():
            return
        ended = {"model": sender._meta.label, "using": using, "lookup": shown(lookup)}
        with self.lock:
            for each in reversed(self.lookups):
                if not each["row"] and ended.items() <= each.items():
                    each["row"] = str(result)
                    break


def stack_of_call():
    """Return the stack as the toolbar does, without the frames LEFT_OUT."""
    return [
        list(frame)
        for frame in get_stack_trace()
        if LEFT_OUT.isdisjoint(Path(frame[0]).parents)
    ]


def place_of(stack):
    """Return where a call is, in short."""
    if not stack:
        return ""
    filename, number, function, *_ = stack[-1]
    return f"{Path(filename).name}:{number} in {function}"


def grouped(lookups):
    """
    Return these lookups: those of the same row after each other, and each call
    with the same outcome only once.
    """
    groups = {}
    for each in lookups:
        lines = groups.setdefault((each["model"], each["using"], each["lookup"]), {})
        key = each["outcome"], each["why"], each["row"], str(each["stack"][-1:])
        if key in lines:
            lines[key]["times"] += 1
            lines[key]["time"] += each["time"]
        else:
            lines[key] = dict(each)
    return [line for lines in groups.values() for line in lines.values()]


def facts_of(label, counts, sources):
    """Return Counts in a form for JSON, with times in ms."""
    return {
        "model": label,
        "hits": counts.hits,
        "sources": [(str(source), n) for source, n in sources.most_common()],
        "misses": counts.misses.total(),
        "reasons": [(str(reason), n) for reason, n in counts.misses.most_common()],
        "hit_percentage": None if counts.hit_ratio is None else 100 * counts.hit_ratio,
        "queries_saved": counts.queries_saved,
        "savepoints_saved": counts.savepoints_saved,
        "invalidations": counts.invalidations,
        "time": counts.duration * 1000,
    }


def explanation(lookup):
    """Return why a lookup was a hit; or why it was a miss, and the remedy."""
    if lookup["outcome"] == "hit":
        return _(HITS[lookup["why"]])
    words = MISSES[lookup["why"]]
    return f"{_(words.sentence)} {_('Remedy:')} {_(words.remedy)}"


def shown(lookup):
    """Return a lookup as the text of keyword arguments."""
    return ", ".join(f"{name}={brief.repr(value)}" for name, value in lookup.items())


class BriefRepr(reprlib.Repr):
    """repr() that is short, and sends no query."""

    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxlong = self.maxother = 80

    def repr_instance(self, x, level):
        if isinstance(x, models.Model):
            return f"<{type(x).__name__} pk={self.repr1(x.pk, level - 1)}>"
        for plain_type in PLAIN_TYPES:
            if isinstance(x, plain_type):
                text = plain_type.__repr__(x)
                if len(text) > self.maxother:
                    text = f"{text[: self.maxother]}..."
                return text
        return f"<{type(x).__name__}>"


brief = BriefRepr()
