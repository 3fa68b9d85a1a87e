"""
What a get_or_create() would do now, and why.

The cache is read, and that is all: nothing is put there, nothing is asked of
the database, and nothing is remembered by the process. What decides is the
code of the call itself (CachedGetOrCreateMixin._begin_reading() and the Read
that it returns), which is given caches that can only be looked at.

Two things happen that the next call would do anyway: inside a transaction the
driver may be asked for the isolation level, and inside a TestCase what its
atomic() blocks have written is released.
"""

import datetime
import json
import textwrap
import time
from dataclasses import dataclass, field, fields, replace
from typing import Any

from django.conf import settings
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import connections, models
from django.db.models.constants import LOOKUP_SEP
from django.utils import timezone

from .checks import queryset_classes
from .coherence import process_memory as memory
from .coherence.protocol import (
    LOCK,
    Garbage,
    Read,
    Store,
    Unavailable,
    is_locked,
    is_token,
)
from .conf import conf
from .diagnosis.suitability import hiding_flaw, keeping_flaw
from .environment.aliases import cache_faults, object_cache_alias
from .environment.failures import described
from .lookups import canonical, conditions
from .lookups.django_path import change_of, with_own_steps
from .lookups.queryset_shape import yields_whole_rows
from .lookups.rows import PARTS, layout
from .mixins.cached import CachedGetOrCreateMixin, reason_not_read
from .signals import Reason, Source
from .writes.invalidation import end_of_relation, region_of

WIDTH = 80


@dataclass
class Entry:
    """One entry of the cache; ``holds`` says in words what is there."""

    kind: str  # "hint", "payload", "version" or "epoch"
    alias: str
    key: str | None  # as caches[alias].get() takes it; None: it is not known
    holds: str
    values: dict[str, Any] | None = None  # of a row, by attname


@dataclass
class Explanation:
    """What a get_or_create() would do now; str() is a text of 80 columns."""

    model: str  # its label
    call: str
    using: str  # the database that is asked
    lookup: dict[str, Any] | None  # as columns, by attname; None: it is none
    reason: Reason | None  # of a miss
    source: Source | None  # of a hit
    why: str
    next: str
    remedy: str
    entries: list[Entry] = field(default_factory=list)
    values: dict[str, Any] | None = None  # of the row that a hit returns
    pk: str | None = None  # text of the primary key that the lookup leads to
    # Of check() alone: None where there is nothing to compare.
    is_right: bool | None = None
    checked: str | None = None

    @property
    def is_hit(self):
        return self.reason is None

    @property
    def outcome(self):
        if self.reason is None:
            return f"hit ({self.source})"
        return f"miss ({self.reason})"

    def as_dict(self):
        """Return what there is to know, as json.dumps() takes it."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}
        data["entries"] = [vars(entry) for entry in self.entries]
        return as_json({"outcome": "hit" if self.is_hit else "miss"} | data)

    def __str__(self):
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
            ("Checked", self.checked),
        ]:
            lines += section(name, text) if text else []
        return "\n".join(lines)


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


def explain(source, /, **kwargs):
    """
    Return an Explanation of what ``source.get_or_create(**kwargs)`` would do;
    ``source`` is a queryset or a manager.

    Raise TypeError for anything else.
    """
    queryset, name = queryset_of(source)
    call = f"{name}.get_or_create({spelled(kwargs)})"
    forced, read = False, None
    if isinstance(queryset, CachedGetOrCreateMixin):
        forced = queryset._pop_force_select(kwargs)
        read = queryset._begin_reading(kwargs)
    label = queryset.model._meta.label
    if read is None:
        reason = reason_not_read(queryset.model._meta.concrete_model)
        why, remedy = obstacle(queryset, kwargs)
        if reason is Reason.BYPASS:
            why, remedy = "It is inside of bypass().", "None: so it was wanted."
        return Explanation(
            model=label,
            call=call,
            using=queryset.db,
            lookup=None,
            reason=reason,
            source=None,
            why=why,
            next=f"{ASKS_DATABASE}. Nothing is put into the cache.",
            remedy=remedy,
        )
    read, pk = Peek(read), read.named_pk
    read.insists = True
    values = read.ask(pk, may_hit=not forced)
    entries, pk = entries_of(read, pk)
    found = Explanation(
        model=label,
        call=call,
        using=queryset.db,
        lookup=dict(read.wanted),
        reason=None,
        source=read.source,
        why=HITS[read.source],
        next="It returns this row, created=False, without a query.",
        remedy="",
        entries=entries,
        pk=pk,
    )
    if values is not None:
        return replace(found, values=by_attname(read.region.model, values))
    reason = Reason.FORCED if forced else read.reason(read)
    flaw = flaw_of(read)
    return replace(
        found,
        reason=reason,
        source=None,
        why=why_missed(reason, read, flaw),
        next=what_next(reason, read),
        remedy=how_to_hit(reason, read, label, pk, flaw),
    )


def check(source, /, **kwargs):
    """
    As explain(), and SELECT the row, to compare it with what the cache has.

    ``is_right`` tells whether the call would return what the database has,
    ``checked`` says so.
    """
    queryset, _ = queryset_of(source)
    found = explain(source, **kwargs)
    if found.lookup is None:
        return replace(found, checked="There is nothing to compare.")
    conditions = dict(kwargs)
    queryset._pop_force_select(conditions)
    for _ in range(3):
        rows = list(queryset.filter(**conditions).order_by()[:2])
        before, found = found, explain(source, **kwargs)
        if found == before:
            return replace(found, **compared(queryset, found, rows))
    return replace(found, checked="The row is being written: ask once more.")


def compared(queryset, found, rows):
    """Return what check() adds to an Explanation."""
    if len(rows) > 1:
        return {
            "checked": "The database has several such rows, of which a hit returns "
            "one: a lookup of the cache is to be unique.",
        }
    if found.values is None:
        row = "this row" if rows else "no such row"
        return {
            "is_right": True,
            "checked": f"The database has {row}, and is asked: nothing can be wrong.",
        }
    if not rows:
        wrong = "the database has no such row."
    else:
        model, [row] = queryset.model, rows
        served = queryset._make_instance(found.using, tuple(found.values.values()))
        wrong = "; ".join(
            f"{f.attname} is {getattr(served, f.attname)!r}, and in the database "
            f"{getattr(row, f.attname)!r}"
            for f in model._meta.concrete_fields
            if getattr(served, f.attname) != getattr(row, f.attname)
        )
    if not wrong:
        return {"is_right": True, "checked": "The database has the same row."}
    return {
        "is_right": False,
        "checked": f"The hit is wrong: {wrong}. Something has written that Django "
        f"does not see: `getorcreateplus invalidate {found.model} {found.pk}`.",
    }


# What was called


def queryset_of(source):
    """Return the queryset of a queryset or a manager, and what to call it."""
    if isinstance(source, models.Manager):
        queryset = source.get_queryset()
    elif isinstance(source, models.QuerySet):
        queryset = source
    else:
        raise TypeError(f"explain() wants a queryset or a manager, not {source!r}.")
    label, name = source.model._meta.label, getattr(source, "name", None)
    named = f"{label}.{name}" if name else f"{type(source).__name__} of {label}"
    queryset = with_own_steps(queryset._clone(), queryset)
    queryset._for_write = True  # as get_or_create() does
    return queryset, named


def spelled(kwargs):
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())


def by_attname(model, values):
    return dict(zip(layout(model).attnames, values, strict=True))


# What a call would find


class Look(Store):
    """A cache that is only looked at: it is not left alone, nor paid."""

    def __init__(self, store):
        super().__init__(store.alias)
        self.entries = {}
        self.error = None
        if store.down_until is not None:
            seconds = max(store.down_until - time.monotonic(), 0)
            if seconds or store.owed or store.owed_locks:
                self.error = f"It failed, and is left alone for {seconds:.0f} s."
                self.down_until = store.down_until

    def get_many(self, keys):
        found = super().get_many(keys)
        self.entries |= dict.fromkeys(keys) | found
        return found

    def try_again(self):
        raise Unavailable

    def down(self, error):
        self.error = f"It failed, {described(error, self.alias)}"
        self.down_until = time.monotonic()

    def words(self, key, say):
        """Return what there is under a key, as ``say`` puts it."""
        if key not in self.entries:
            try:
                self.get_many([key])
            except Unavailable:
                return "no answer"
            except Garbage as error:
                return f"unreadable: {error.__cause__!r}"
        value = self.entries[key]
        return "nothing" if value is None else say(value)


class Peek(Read):
    """A Read that is only asked, and changes nothing."""

    def __init__(self, read):
        self.__dict__.update(read.__dict__)
        self.store = Look(read.store)
        shared = read.key_store is read.store
        self.key_store = self.store if shared else Look(read.key_store)

    def _observe(self, entries):
        pass

    def _remember(self, pk, values):
        pass

    def _sweep(self):
        pass


def entries_of(read, pk):
    """
    Return the entries that the call would look at, and the primary key that
    the lookup leads to.
    """
    region, store, entries = read.region, read.store, []
    if read.lookup is not None:
        known = memory.hints.get((region, read.lookup))
        holds = read.key_store.words(read.hint, lambda value: f"primary key {value}")
        found = read.key_store.entries.get(read.hint)
        if known is not None and known != found:
            holds += f"; this process remembers {known}"
        entries.append(Entry("hint", read.key_store.alias, read.hint, holds))
        pk = read.pk or known or (found if type(found) is str else None)
    if read.values is not None:
        pk = canonical.pk_text(
            region.model._meta, by_attname(region.model, read.values)
        )
    if pk is None:
        unknown = "not known without a hint"
        entries += [Entry(kind, store.alias, None, unknown) for kind in ROW_ENTRIES]
    else:
        key = region.payload(pk)
        holds = store.words(key, payload_in_words)
        values = row_of(read, store.entries.get(key))
        entries.append(Entry("payload", store.alias, key, holds, values))
        key = region.version(pk)
        entries.append(Entry("version", store.alias, key, token_at(read, key)))
    holds = token_at(read, region.epoch)
    entries.append(Entry("epoch", store.alias, region.epoch, holds))
    return entries, pk


ROW_ENTRIES = ("payload", "version")


def token_at(read, key):
    def say(value):
        if not is_token(value, read.place):
            return f"{value!r}, which is no token of this database's"
        return LOCK if is_locked(value) else f"token {value}"

    return read.store.words(key, say)


def payload_in_words(payload):
    if type(payload) is not tuple or len(payload) != PARTS:
        return f"no row, but {payload!r}"
    (epoch, version), *_ = payload
    return f"a row, stamped {version} in {epoch}"


def row_of(read, payload):
    """Return {attname: value} of a payload, None if its fields are others."""
    if (
        type(payload) is tuple
        and len(payload) == PARTS
        and payload[1] == read.fingerprint
    ):
        return by_attname(read.region.model, payload[2])
    return None


# In words

ASKS_DATABASE = "It asks the database: SELECT, and INSERT if there is none"

HITS = {
    Source.CACHE: "The row has the stamp of now, and is the one that is looked for.",
    Source.MEMORY: "This process has seen the row within local_timeout.",
    Source.TRANSACTION: "This transaction has written the row.",
}

MISSES = {
    Reason.NO_HINT: "This lookup has led nobody to a row, or not lately.",
    Reason.NO_ROW: "The row was dropped by a write, has expired or was evicted.",
    Reason.LOCKED: "Somebody is writing this row, or has died.",
    Reason.STAMP: "The row, or the whole model, was written since it was put there.",
    Reason.FIELDS: "Another release of the code, with other fields, has put it there.",
    Reason.LOOKUP: "The row is no longer one that the lookup finds.",
    Reason.ERROR: "What the cache holds is unreadable.",
    Reason.TRANSACTION: "This transaction reads from the database, because it has "
    "written or locked something, or because of its isolation level.",
    Reason.SELDOM: "So few reads of this model were hits that this process asks the "
    "cache for a sample of them.",
    Reason.LARGE: "The cache has refused the row, because it is too large.",
    Reason.FORCED: "force_select=True asks the database.",
}


def error_of(read):
    return read.store.error or read.key_store.error


# What a cache leaves that keeps nothing, or not what it was given.
MISSING = {Reason.ERROR, Reason.NO_HINT, Reason.NO_ROW}


def flaw_of(read):
    """Return the Flaw by which a cache may never have the row, or None."""
    region = read.region
    return keeping_flaw(region.model, region.store.alias, [region.timeout])


def locks_all(read):
    """Tell whether it is a write by query that holds the lock."""
    return is_locked(str(read.seen[2]))


def why_missed(reason, read, flaw):
    if reason is Reason.ERROR and error_of(read):
        return f"The cache does not answer. {error_of(read)}"
    if reason in MISSING:
        if flaw is not None:
            return f"The cache {read.store.alias!r} {flaw.what}"
        for alias in dict.fromkeys((read.store.alias, read.key_store.alias)):
            if hiding := hiding_flaw(alias):
                return f"{MISSES[reason]} Or it failed: {alias!r} {hiding.what}"
    if reason is Reason.LOCKED and locks_all(read):
        return "Somebody is writing rows by a query, or has died."
    return MISSES[reason]


def what_next(reason, read):
    if read.connection.needs_rollback:
        return "It raises TransactionManagementError: the transaction is broken."
    if reason is Reason.LOCKED:
        return f"{ASKS_DATABASE}. It keeps nothing while the lock is there."
    if reason is Reason.TRANSACTION or (reason is Reason.ERROR and error_of(read)):
        return f"{ASKS_DATABASE}."
    if reason is Reason.ERROR:
        return f"{ASKS_DATABASE}. It drops what is unreadable."
    return f"{ASKS_DATABASE}. It keeps the row in {read.store.alias!r}."


def how_to_hit(reason, read, label, pk, flaw):
    if flaw is not None and reason in MISSING and not error_of(read):
        return f"{flaw.remedy} See the system check {flaw.id}."
    if reason is Reason.LOCKED:
        rows = "--all" if locks_all(read) else pk
        return (
            "Wait for the commit. A lock that nobody releases goes within "
            f"{conf.LOCK_TIMEOUT} s (GETORCREATEPLUS_LOCK_TIMEOUT), or at once by "
            f"`getorcreateplus invalidate {label} {rows}`."
        )
    if reason is Reason.ERROR and error_of(read):
        return "See to the cache; `getorcreateplus status` asks whether it answers."
    return REMEDIES.get(reason, "None is needed: the next call knows the row.")


REMEDIES = {
    Reason.NO_ROW: "None is needed: the next call knows the row. If it happens often, "
    "let the cache keep more, or longer (cache_timeout).",
    Reason.FIELDS: "None is needed once all processes run one release.",
    Reason.TRANSACTION: "Look up before you write, or outside the transaction, or "
    "under READ COMMITTED.",
    Reason.FORCED: "Leave force_select out.",
}


# Why a lookup is none of the cache


def obstacle(queryset, kwargs):
    """Return why a call asks the cache nothing, and the remedy."""
    model = queryset.model
    opts, name = model._meta, type(queryset).__name__
    if not isinstance(queryset, CachedGetOrCreateMixin):
        caching = sorted(queryset_classes(model, CachedGetOrCreateMixin))
        if caching:
            managers = ", ".join(f"{opts.label}.{manager}" for manager in caching)
            return f"{name} does not cache.", f"Ask by what does: {managers}."
        return (
            f"{name} does not cache.",
            "Give the model a CachedManager or a PlusManager.",
        )
    declared = queryset.object_cache_alias
    for alias in (queryset.key_cache_alias, object_cache_alias(opts, declared)):
        if cache_faults[alias]:
            return (
                f"The cache {alias!r} of {name} {cache_faults[alias]}.",
                "Run `manage.py check`: getorcreateplus.E001 says what to do.",
            )
    if region_of(queryset) is None:
        return (
            f"No manager of {opts.label} makes a {name}, so that nobody would "
            "invalidate what it keeps.",
            f"Give the model a manager: {name}.as_manager().",
        )
    change = change_of(queryset)
    if change is not None:
        return f"Its lookups may not be Django's: {change.what}.", change.remedy
    if not yields_whole_rows(queryset):
        return (
            "The queryset is more than a filter on the model's own columns.",
            "Leave out values(), annotate(), only(), select_related(), slices, "
            "locks, joins and the like.",
        )
    vendor = connections[queryset.db].vendor
    for argument, value in kwargs.items():
        try:
            conditions.from_kwargs(opts, {argument: value}, vendor)
        except canonical.NotCanonical:
            return argument_obstacle(opts, argument, value, vendor)
    try:
        conditions.from_query(queryset.query, vendor)
    except canonical.NotCanonical:
        return (
            "The queryset has a filter that is no equality on the model's own columns.",
            "Filter by equality, or pass the condition as an argument.",
        )
    if not kwargs:
        return "It is called without an argument.", "Name the columns of one row."
    return (
        "Two conditions want different values of one column.",
        "Leave one of them out: no row has both.",
    )


def argument_obstacle(opts, argument, value, vendor):
    """Return why an argument is no column of a lookup, and the remedy."""
    name, *rest = argument.split(LOOKUP_SEP)
    try:
        column = opts.pk if name == "pk" else opts.get_field(name)
    except FieldDoesNotExist:
        return (
            f"{argument}: {opts.label} has no field {name!r}; Django raises "
            "FieldError.",
            f"It has {', '.join(names_of(opts))}.",
        )
    equality = "Look up by equality on the model's own columns."
    if rest and rest != ["exact"]:
        if column.is_relation and not column.get_lookup(rest[0]):
            return f"{argument}: it asks another table.", equality
        return f"{argument}: it is no equality.", equality
    if column is opts.pk and len(opts.pk_fields) > 1:
        columns = ", ".join(part.name for part in opts.pk_fields)
        return (
            f"{argument}: {value!r} is no key of ({columns}).",
            "Name its columns one by one.",
        )
    if column not in opts.concrete_fields:
        return f"{argument}: it is no column of the model's own table.", equality
    return column_obstacle(column, argument, value, vendor)


def column_obstacle(column, argument, value, vendor):
    stored = canonical.stored_as(column)
    kind = type(column).__name__
    other = "Look up by another column; this one is asked of the database."
    if stored is None or stored.get_internal_type() not in canonical.COMPARABLE_FIELDS:
        return f"{argument}: {kind} has conversions or comparisons of its own.", other
    if stored.get_internal_type() in canonical.INCOMPARABLE_FIELDS.get(vendor, ()):
        return f"{argument}: {kind} compares otherwise on {vendor}.", other
    if column.get_lookup("exact") not in conditions.EXACT_LOOKUPS:
        return f"{argument}: its exact lookup is none of Django's.", other
    return f"{argument}: {value_obstacle(column, value)}", "Pass a plain value."


def value_obstacle(column, value):
    if hasattr(value, "resolve_expression"):
        return f"{value!r} is an expression, which the database computes."
    if isinstance(value, models.Model):
        return f"{value!r} is not saved, or of another model."
    if isinstance(value, dict | list | set | tuple):
        return f"a {type(value).__name__} may hold expressions, or change."
    try:
        canonical.refuse_naive(column, value)
        column.get_prep_value(value)
    except canonical.NotCanonical:
        return f"{value!r} has no time zone."
    except (ArithmeticError, TypeError, ValueError, ValidationError) as error:
        return f"{value!r} is no value of {type(column).__name__}: {said(error)}"
    return f"{value!r} has no form that is one for all that are equal to it."


def said(error):
    return error.messages[0] if isinstance(error, ValidationError) else str(error)


def names_of(opts):
    return sorted({f.name for f in opts.concrete_fields} | {"pk"})


# From texts, as a command line has them


def from_text(model, argument, text):
    """
    Return the value that a text stands for, of the field that a keyword
    argument names: as the field's to_python() says, in the current time zone.

    ``null`` and ``None`` are None where the field has no such value; true and
    false are those of a BooleanField. Of a lookup that is none of the cache
    the text is returned.

    Raise ValueError for an unknown field, and for what is no value of it.
    """
    opts = model._meta
    name, *rest = argument.split(LOOKUP_SEP)
    try:
        column = opts.pk if name == "pk" else opts.get_field(name)
    except FieldDoesNotExist:
        raise ValueError(
            f"{opts.label} has no field {name!r}. It has {', '.join(names_of(opts))}."
        ) from None
    if column is opts.pk and len(opts.pk_fields) > 1 and rest in ([], ["exact"]):
        return pk_from_text(model, text)
    if rest not in ([], ["exact"]) or column not in opts.concrete_fields:
        return text
    return value_from_text(column, argument, text)


def pk_from_text(model, text):
    """
    Return the primary key that a text stands for. One of several columns is
    their values with commas between them, or a list of JSON: "1,2", "[1, 2]".
    """
    opts = model._meta
    if len(opts.pk_fields) == 1:
        return value_from_text(opts.pk, "pk", text)
    parts = text.split(",")
    if text.startswith("["):
        try:
            parts = json.loads(text)
        except ValueError:
            pass
    if len(parts) != len(opts.pk_fields):
        columns = ",".join(part.name for part in opts.pk_fields)
        raise ValueError(
            f"pk={text!r}: the primary key of {opts.label} is {columns}; say its "
            "values with commas between them, or as a list of JSON."
        )
    return tuple(
        value_from_text(part, part.name, str(value))
        for part, value in zip(opts.pk_fields, parts, strict=True)
    )


def value_from_text(column, argument, text):
    end = end_of_relation(column)
    if isinstance(end, models.BooleanField) and text in {"true", "false"}:
        text = text.capitalize()
    try:
        value = end.to_python(text)
    except (ArithmeticError, TypeError, ValueError, ValidationError) as error:
        if text in {"null", "None"}:
            return None
        raise ValueError(
            f"{argument}={text!r} is no value of {column.model._meta.label}."
            f"{column.name} ({type(column).__name__}): {said(error)}"
        ) from None
    if (
        settings.USE_TZ
        and isinstance(value, datetime.datetime)
        and timezone.is_naive(value)
    ):
        return timezone.make_aware(value)
    return value
