"""
Explains what a get_or_create() would do now, and why.

explain() reads the cache and changes nothing: it stores nothing there, sends
no query, and the process remembers nothing of it. The call's own code decides
(CachedGetOrCreateMixin._begin_reading() and the Reading that it returns), with
cache clients that only read: diagnosis/looking.py.

Two things happen that the next call would do anyway. In a transaction the
driver may query the isolation level. In a TestCase the rows that its atomic()
blocks have written are released.
"""

import textwrap
from dataclasses import dataclass, field, fields, replace
from typing import Any

from django.db import models

from .conf import conf
from .diagnosis import WIDTH
from .diagnosis.looking import (
    DryReading,
    Entry,
    by_attname,
    entries_of,
    is_model_locked,
)
from .diagnosis.managers import caches_get
from .diagnosis.obstacles import error_of, obstacle
from .diagnosis.reasons import (
    BROKEN_TRANSACTION,
    HITS,
    MISSES,
    MODEL_LOCKED,
    NEXT_OF_HIT,
    UNREACHABLE,
    UNREADABLE,
)
from .diagnosis.suitability import hiding_flaw, keeping_flaw
from .diagnosis.texts import from_text, pk_from_text
from .environment.coroutines import refuse_in_coroutine
from .lookups.django_path import with_own_steps
from .mixins.cached import CachedGetOrCreateMixin, reason_not_read
from .signals import Reason, Source

ALSO_GET = "get() with this lookup reads the cache, too."

__all__ = ["Entry", "Explanation", "check", "explain", "from_text", "pk_from_text"]


@dataclass
class Explanation:
    """
    The expected result of a get_or_create(). str() is a text of 80 columns.
    """

    model: str  # its label
    call: str
    using: str  # the alias of the database that is queried
    lookup: dict[str, Any] | None  # by attname; None if it is not cacheable
    reason: Reason | None  # of a miss
    source: Source | None  # of a hit
    why: str
    next: str
    remedy: str
    entries: list[Entry] = field(default_factory=list)
    values: dict[str, Any] | None = None  # of the row that a hit returns
    caches_get: bool = False  # get() reads the cache, too
    pk: str | None = None  # text of the primary key that the lookup leads to
    # Set by check() only. None if there is nothing to compare.
    is_right: bool | None = None
    checked: str | None = None

    @property
    def is_hit(self) -> bool:
        return self.reason is None

    @property
    def outcome(self) -> str:
        if self.reason is None:
            return f"hit ({self.source})"
        return f"miss ({self.reason})"

    def as_dict(self) -> Any:
        """Return all fields, as json.dumps() takes them."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        data["entries"] = [vars(entry) for entry in self.entries]
        return as_json({"outcome": "hit" if self.is_hit else "miss"} | data)

    def __str__(self) -> str:
        lines = [*wrapped(self.call, " " * 4), f"Database {self.using}", ""]
        if self.lookup is not None:
            lines += ["Lookup", *columns_of(self.lookup, 2), ""]
        for entry in self.entries:
            lines += section(entry.kind.capitalize(), entry.holds)
            lines += [f"{'':<9}{entry.alias}: {entry.key}"] if entry.key else []
            lines += columns_of(entry.values, 11) if entry.values else []
        lines += [""] if self.entries else []
        lines += [f"Outcome: {self.outcome}"]
        for name, text in [
            ("Why", self.why),
            ("Next", self.next),
            ("Remedy", self.remedy),
            ("get()", ALSO_GET if self.caches_get else None),
            ("Checked", self.checked),
        ]:
            lines += section(name, text) if text else []
        return "\n".join(lines)


def explain(
    source: models.QuerySet[Any, Any] | models.Manager[Any], /, **kwargs: Any
) -> Explanation:
    """
    Return an Explanation of what ``source.get_or_create(**kwargs)`` would do;
    ``source`` is a queryset or a manager.

    Raise TypeError for anything else. Raise SynchronousOnlyOperation in a
    coroutine, because it would use another connection than the call does. Use
    ``await sync_to_async(explain)(source, ...)`` there.
    """
    refuse_in_coroutine()
    queryset, name = queryset_of(source)
    call = f"{name}.get_or_create({spelled(kwargs)})"
    forced, begun = False, None
    if isinstance(queryset, CachedGetOrCreateMixin):
        forced = pop_force_select(queryset, kwargs) or queryset._refreshes
        begun = queryset._begin_reading(kwargs)
    if begun is None:
        return unread(queryset, kwargs, call)
    reading, sought = DryReading(begun[0]), begun[1]
    values = reading.ask(sought, may_hit=not forced)
    entries, pk = entries_of(reading, sought)
    found = Explanation(
        model=queryset.model._meta.label,
        call=call,
        using=queryset.db,
        lookup=dict(sought.wanted),
        reason=None,
        source=sought.source,
        why=HITS[sought.source],
        next=NEXT_OF_HIT,
        remedy="",
        entries=entries,
        pk=pk,
        caches_get=answers_get(source),
    )
    if values is not None:
        return replace(found, values=by_attname(reading.region.model, values))
    reason = Reason.FORCED if forced else reading.reason(sought)
    return replace(
        found,
        reason=reason,
        source=None,
        **Miss(reason, reading, sought, found).in_words(),
    )


def unread(queryset, kwargs, call):
    """Return the Explanation of a call that does not read the cache."""
    reason = reason_not_read(queryset.model._meta.concrete_model)
    words = MISSES[reason]
    why, then, remedy = words.sentence, words.next, words.remedy
    if reason is Reason.NOT_CACHEABLE:
        why, remedy = obstacle(queryset, kwargs)
        error = error_of(queryset, kwargs)
        if error is not None:
            then = f"Django raises {error.__name__}."
    return Explanation(
        model=queryset.model._meta.label,
        call=call,
        using=queryset.db,
        lookup=None,
        reason=reason,
        source=None,
        why=why,
        next=then,
        remedy=remedy,
    )


def check(
    source: models.QuerySet[Any, Any] | models.Manager[Any], /, **kwargs: Any
) -> Explanation:
    """
    Do the same as explain(), and SELECT the row to compare it with the cached
    one. ``is_right`` is True if the call would return the row of the database;
    ``checked`` says the result in words.
    """
    queryset, _ = queryset_of(source)
    found = explain(source, **kwargs)
    if found.lookup is None:
        return replace(found, checked="There is nothing to compare.")
    conditions = dict(kwargs)
    pop_force_select(queryset, conditions)
    for _ in range(3):
        rows = list(queryset.filter(**conditions).order_by()[:2])
        before, found = found, explain(source, **kwargs)
        if found == before:
            return replace(found, **compared(queryset, found, rows))
    return replace(found, checked="The row is being written: run the check again.")


def compared(queryset, found, rows):
    """Return what check() adds to an Explanation."""
    if len(rows) > 1:
        return {
            "checked": "The database has several such rows, and a hit returns one of "
            "them: look up by columns that are unique.",
        }
    if found.values is None:
        row = "this row" if rows else "no such row"
        return {
            "is_right": True,
            "checked": f"The database has {row}. A miss queries the database, so the "
            "result is right.",
        }
    if not rows:
        wrong = "the database has no such row"
    else:
        model, [row] = queryset.model, rows
        served = queryset._make_instance(found.using, tuple(found.values.values()))
        wrong = "; ".join(
            f"{f.attname} is {getattr(served, f.attname)!r}, but "
            f"{getattr(row, f.attname)!r} in the database"
            for f in model._meta.concrete_fields
            if getattr(served, f.attname) != getattr(row, f.attname)
        )
    if not wrong:
        return {"is_right": True, "checked": "The database has the same row."}
    return {
        "is_right": False,
        "checked": f"The hit is wrong: {wrong}. The row was written without Django. "
        f"Run `getorcreateplus invalidate {found.model} {found.pk}`.",
    }


# The call


def queryset_of(source):
    """Return the queryset of a queryset or a manager, and its name."""
    if isinstance(source, models.Manager):
        queryset = source.get_queryset()
    elif isinstance(source, models.QuerySet):
        queryset = source
    else:
        raise TypeError(f"explain() takes a queryset or a manager, not {source!r}.")
    label, name = source.model._meta.label, getattr(source, "name", None)
    named = f"{label}.{name}" if name else f"{type(source).__name__} of {label}"
    queryset = with_own_steps(queryset._clone(), queryset)
    queryset._for_write = True  # as get_or_create() does
    return queryset, named


def answers_get(source):
    """Return True if get() of this queryset or manager reads the cache."""
    if isinstance(source, models.Manager):
        return caches_get(source)
    own = source._caches_get
    return source.caches_get if own is None else own


def pop_force_select(queryset, kwargs):
    """Remove the option from the kwargs. Return True if it forces a query."""
    return "force_select" in kwargs and queryset._pop_force_select(kwargs)


def spelled(kwargs):
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())


# Why it would miss


class Miss:
    """Describes a miss that explain() expects."""

    # A cache that keeps nothing, or changes values, causes these.
    LEFT_BY_FLAWS = (Reason.ERROR, Reason.NO_HINT, Reason.NO_ROW)

    def __init__(self, reason, reading, sought, found):
        self.reason = reason
        self.reading = reading
        self.sought = sought
        self.found = found
        self.words = self.words_of_case()

    def words_of_case(self):
        if self.reason is Reason.ERROR:
            return UNREACHABLE if self.reading.error else UNREADABLE
        if self.reason is Reason.LOCKED and is_model_locked(self.sought):
            return MODEL_LOCKED
        return MISSES[self.reason]

    def in_words(self):
        flaw = self.flaw()
        return {"why": self.why(flaw), "next": self.next(), "remedy": self.remedy(flaw)}

    def flaw(self):
        """Return the Flaw that may keep the row out of the cache, or None."""
        if self.reason not in self.LEFT_BY_FLAWS or self.words is UNREACHABLE:
            return None
        region = self.reading.region
        return keeping_flaw(region.model, region.client.alias, [region.timeout])

    def why(self, flaw):
        sentence, reading = self.words.sentence, self.reading
        if self.words is UNREACHABLE:
            return f"{sentence} {reading.error}"
        if flaw is not None:
            return f"The cache {reading.client.alias!r} {flaw.what}"
        if self.reason in self.LEFT_BY_FLAWS:
            for alias in dict.fromkeys(
                (reading.client.alias, reading.key_client.alias)
            ):
                if hiding := hiding_flaw(alias):
                    return f"{sentence} Or the cache failed: {alias!r} {hiding.what}"
        return sentence

    def next(self):
        if self.reading.connection.needs_rollback:
            return BROKEN_TRANSACTION
        return self.words.next.format(alias=self.reading.client.alias)

    def remedy(self, flaw):
        if flaw is not None:
            return f"{flaw.remedy} See the system check {flaw.id}."
        if self.reason is not Reason.LOCKED:
            return self.words.remedy
        rows = "--all" if self.words is MODEL_LOCKED else self.found.pk
        return (
            f"{self.words.remedy} A lock that is not released expires within "
            f"{conf.LOCK_TIMEOUT} s (GETORCREATEPLUS_LOCK_TIMEOUT). `getorcreateplus "
            f"invalidate {self.found.model} {rows}` removes it at once."
        )


# As a text of 80 columns, and as JSON


def section(name, text):
    return wrapped(f"{name:<9}{text}", " " * 9)


def wrapped(text, indent):
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def columns_of(values, indent):
    width = max(map(len, values))
    for attname, value in values.items():
        text = f"{'':<{indent}}{attname:<{width}}  {value!r}"
        yield text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def as_json(value):
    if isinstance(value, dict):
        return {str(name): as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
