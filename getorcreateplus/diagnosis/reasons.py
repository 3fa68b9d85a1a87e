"""
The words for each Source of a hit and for each Reason of a miss.

This is the only place that has them. explain() and the command, the admin and
the panel all take them from here, docs/signals.rst and docs/panel.rst repeat
them, and a test compares.
"""

from dataclasses import dataclass

from django.utils.translation import gettext_noop

from ..signals import Reason, Source

# For makemessages. The admin and the panel translate, explain() does not.
_ = gettext_noop

QUERIES = "It queries the database: SELECT, and INSERT if there is no such row"
STORES_ROW = f"{QUERIES}. It stores the row in {{alias!r}}."
STORES_NOTHING = f"{QUERIES}. It stores nothing in the cache."


@dataclass(frozen=True)
class Words:
    sentence: str  # what has happened
    remedy: str = _("None is needed: the next call finds the row in the cache.")
    # What the call does. ``alias`` is that of the rows' cache.
    next: str = STORES_ROW


HITS = {
    Source.CACHE: _("The cached row has the current stamp, and matches the lookup."),
    Source.MEMORY: _("This process still has the row in its memory (local_timeout)."),
    Source.TRANSACTION: _("This transaction itself has written or read the row."),
}
NEXT_OF_HIT = "It returns this row with created=False, without a query."

MISSES = {
    Reason.NO_HINT: Words(
        _(
            "The cache has no primary key for this lookup: it has found no row yet, or "
            "the entry has expired or was evicted."
        ),
    ),
    Reason.NO_ROW: Words(
        _(
            "The row is not in the cache: it was invalidated, has expired, was evicted "
            "or was never stored."
        ),
        _(
            "None is needed: the next call finds the row in the cache. If it happens "
            "often, let the cache keep more rows, or keep them longer (cache_timeout)."
        ),
    ),
    Reason.LOCKED: Words(
        _(
            "A writer has locked this row: its transaction is still open, or its "
            "process has died."
        ),
        _("Wait for the commit, and keep transactions that write short."),
        f"{QUERIES}. It stores nothing in the cache while the lock is there.",
    ),
    Reason.STAMP: Words(
        _("The row, or the whole model, was written after the row was stored."),
        _(
            "None is needed: the next call finds the row in the cache. If it happens "
            "often, write rows that are read often one by one, with save()."
        ),
    ),
    Reason.FIELDS: Words(
        _("Another release of your code, with other fields, has stored the row."),
        _("None is needed once all processes run the same release."),
    ),
    Reason.LOOKUP: Words(
        _("The row that the cache has for this lookup no longer matches it."),
        _(
            "None is needed: the next call finds the row in the cache. If it happens "
            "often, look up by columns whose values do not change."
        ),
    ),
    Reason.ERROR: Words(
        _("The cache failed, or its entry cannot be read."),
        _("See the log of getorcreateplus, and check that the cache's server runs."),
        f"{QUERIES}.",
    ),
    Reason.TRANSACTION: Words(
        _(
            "This transaction reads from the database, because it has written or "
            "locked something, or because of its isolation level."
        ),
        _(
            "Look up before you write, or outside the transaction, or under READ "
            "COMMITTED."
        ),
        f"{QUERIES}.",
    ),
    Reason.SELDOM: Words(
        _(
            "Few reads of this model were hits, so this process reads the cache only "
            "for a sample of them."
        ),
        _(
            "None is needed: a query alone costs less than a miss. If it lasts, give "
            "the model a manager that does not cache."
        ),
    ),
    Reason.LARGE: Words(
        _("The cache has refused the row, because it is too large."),
        _(
            "Raise the limit of the cache's server, or keep the large columns in "
            "another model."
        ),
    ),
    Reason.FORCED: Words(
        _("force_select=True or refreshed() queries the database."),
        _("Leave it out."),
    ),
    Reason.BYPASS: Words(
        _("The call is inside bypass()."),
        _("None is needed: bypass() is meant to query the database."),
        STORES_NOTHING,
    ),
    Reason.NOT_CACHEABLE: Words(
        _("The lookup or the queryset cannot be cached."),
        _(
            "Look up by equality on the model's own columns, without joins, "
            "annotations or only(). If the queryset class overrides a step of "
            "Django's lookup, manage.py check names it."
        ),
        STORES_NOTHING,
    ),
}

# Cases that explain() can distinguish: the two of Reason.ERROR, and one of
# Reason.LOCKED.

UNREACHABLE = Words(
    "The cache does not answer.",
    "Check the cache's server; `getorcreateplus status` shows whether it answers.",
    f"{QUERIES}.",
)
UNREADABLE = Words(
    "The cache's entry cannot be read.",
    next=f"{QUERIES}. It deletes the unreadable entry.",
)
MODEL_LOCKED = Words(
    "A write of many rows, such as update(), has locked the whole model: its "
    "transaction is still open, or its process has died.",
    MISSES[Reason.LOCKED].remedy,
    MISSES[Reason.LOCKED].next,
)
BROKEN_TRANSACTION = "It raises TransactionManagementError: the transaction is broken."
