"""
A panel of Django Debug Toolbar: what the cache did for a request, and why not
more.

It listens to the signals while a request runs, and changes nothing.
"""

import datetime
import decimal
import reprlib
import uuid
from collections import Counter, defaultdict
from typing import Any

from debug_toolbar.panels import Panel
from django.apps import apps
from django.core import checks
from django.db import models
from django.template.loader import render_to_string
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .signals import Reason, Source
from .statistics import Statistics, counting

# Of one request. Those that follow are counted, and not listed.
MAX_LOOKUPS = 500

HITS = {
    Source.CACHE: _("The cache had the row."),
    Source.MEMORY: _("This process had seen the row within local_timeout."),
    Source.TRANSACTION: _("This transaction has written the row, or read it, itself."),
}

# What has happened, and the remedy.
MISSES = {
    Reason.NO_HINT: _(
        "Nobody has looked this up lately: the next lookup is a hit, once one outside "
        "of a transaction has found the row."
    ),
    Reason.NO_ROW: _(
        "The row was written, has expired or was evicted, and is put there again: "
        "where nobody writes it, raise cache_timeout or the cache's memory."
    ),
    Reason.LOCKED: _(
        "Somebody is writing the row or its table, or has died: keep transactions "
        "that write short."
    ),
    Reason.STAMP: _(
        "The row, or by a query its table, was written since it was put there: "
        "write what is read often one by one, by save()."
    ),
    Reason.FIELDS: _(
        "A release with other fields has put the row there: this ends once all "
        "processes run the same code."
    ),
    Reason.LOOKUP: _(
        "The row that this lookup led to is not one that it finds now, for its "
        "values have changed: look up by what does not change."
    ),
    Reason.ERROR: _(
        "The cache failed, or held what cannot be read: see the log of "
        "getorcreateplus, and whether its server runs."
    ),
    Reason.TRANSACTION: _(
        "This transaction reads from the database, because it has written or locked "
        "something, or because of its isolation level: look up before you write."
    ),
    Reason.SELDOM: _(
        "So few lookups of this model were hits that this process asks the cache for "
        "a sample of them, because a miss costs more than a query."
    ),
    Reason.LARGE: _(
        "The cache has refused the row, because it is too large: raise the limit of "
        "its server, or keep the large columns in another model."
    ),
    Reason.FORCED: _("force_select=True: leave it out where the cache will do."),
    Reason.BYPASS: _("This runs inside of bypass(): look up outside of it."),
    Reason.NOT_CACHEABLE: _(
        "The lookup or the queryset is none of the cache: look up by equality of the "
        "model's own columns, without joins, annotations or only(), and by a queryset "
        "whose lookups are Django's (manage.py check tells)."
    ),
}

# Their repr() runs no code of a project: that of a model or a queryset may
# send a query.
PLAIN: tuple[Any, ...] = (
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    decimal.Decimal,
    uuid.UUID,
    datetime.datetime,  # before date, which it is
    datetime.date,
    datetime.time,
    datetime.timedelta,
)


class GetOrCreatePanel(Panel):
    """The lookups of a request that CachedGetOrCreateMixin was asked."""

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
        # Not recorded: the explanations are in the language of who reads.
        stats = self.get_stats()
        lookups = [
            lookup | {"explanation": explanation(lookup)}
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
                    described(label, counts, recorder.sources[label])
                    for label, counts in sorted(recorder.models.items())
                ],
                "total": described("", total, sources),
                "lookups": recorder.lookups,
                "left_out": recorder.left_out,
            }
        )

    @classmethod
    def run_checks(cls):
        if apps.is_installed("getorcreateplus"):
            return []
        return [
            checks.Error(
                f"{cls.__module__}.{cls.__qualname__} is in DEBUG_TOOLBAR_PANELS, and "
                "'getorcreateplus' is not in INSTALLED_APPS, by which its template is "
                "found.",
                hint="Add 'getorcreateplus' to INSTALLED_APPS.",
                id="getorcreateplus.E018",
            )
        ]


class Recorder(Statistics):
    """The Statistics of one request, with its lookups in order."""

    def __init__(self):
        super().__init__(own_context=True)
        self.sources = defaultdict(Counter)  # by the model's label
        self.lookups = []
        self.left_out = 0

    def _hit(self, sender, duration, **kwargs):
        super()._hit(sender, duration)
        self._note(sender, "hit", kwargs["source"], duration, **kwargs)

    def _miss(self, sender, reason, duration, **kwargs):
        super()._miss(sender, reason, duration)
        self._note(sender, "miss", reason, duration, **kwargs)

    def _note(self, sender, outcome, why, duration, *, using, lookup, **kwargs):
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
                    "time": duration * 1000,
                }
            )


def described(label, counts, sources):
    """Return Counts as what JSON can hold, times in ms."""
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
    """Return the sentence that says why a lookup was a hit, or none."""
    explanations = HITS if lookup["outcome"] == "hit" else MISSES
    return explanations[lookup["why"]]


def shown(lookup):
    """Return a lookup as keyword arguments."""
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
        for plain in PLAIN:
            if isinstance(x, plain):
                text = plain.__repr__(x)
                if len(text) > self.maxother:
                    text = f"{text[: self.maxother]}..."
                return text
        return f"<{type(x).__name__}>"


brief = BriefRepr()
