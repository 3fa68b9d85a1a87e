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

ASKS_DATABASE = "It asks the database: SELECT, and INSERT if there is none"
KEEPS_ROW = f"{ASKS_DATABASE}. It keeps the row in {{alias!r}}."
KEEPS_NOTHING = f"{ASKS_DATABASE}. Nothing is put into the cache."


@dataclass(frozen=True)
class Words:
    sentence: str  # what has happened
    remedy: str = _("None is needed: the next call knows the row.")
    # What the call does. ``alias`` is that of the rows' cache.
    next: str = KEEPS_ROW


HITS = {
    Source.CACHE: _("The row has the stamp of now, and is the one that is looked for."),
    Source.MEMORY: _("This process has seen the row within local_timeout."),
    Source.TRANSACTION: _("This transaction has written the row, or read it, itself."),
}
NEXT_OF_HIT = "It returns this row, created=False, without a query."

MISSES = {
    Reason.NO_HINT: Words(
        _("This lookup has led nobody to a row, or not lately."),
    ),
    Reason.NO_ROW: Words(
        _(
            "The row was dropped by a write, has expired or was evicted, or was never "
            "put there."
        ),
        _(
            "None is needed: the next call knows the row. If it happens often, let the "
            "cache keep more, or longer (cache_timeout)."
        ),
    ),
    Reason.LOCKED: Words(
        _("Somebody is writing this row, or has died."),
        _("Wait for the commit, and keep transactions that write short."),
        f"{ASKS_DATABASE}. It keeps nothing while the lock is there.",
    ),
    Reason.STAMP: Words(
        _("The row, or the whole model, was written since it was put there."),
        _(
            "None is needed: the next call knows the row. If it happens often, write "
            "what is read often one by one, by save()."
        ),
    ),
    Reason.FIELDS: Words(
        _("Another release of the code, with other fields, has put it there."),
        _("None is needed once all processes run one release."),
    ),
    Reason.LOOKUP: Words(
        _("The row is no longer one that the lookup finds."),
        _(
            "None is needed: the next call knows the row. If it happens often, look up "
            "by what does not change."
        ),
    ),
    Reason.ERROR: Words(
        _("The cache failed, or what it holds is unreadable."),
        _("See the log of getorcreateplus, and whether the cache's server runs."),
        f"{ASKS_DATABASE}.",
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
        f"{ASKS_DATABASE}.",
    ),
    Reason.SELDOM: Words(
        _(
            "So few reads of this model were hits that this process asks the cache for "
            "a sample of them."
        ),
        _(
            "None is needed: a miss costs more than a query. If it lasts, give the "
            "model a manager that does not cache."
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
        _("force_select=True asks the database."),
        _("Leave force_select out."),
    ),
    Reason.BYPASS: Words(
        _("It is inside of bypass()."),
        _("None: so it was wanted."),
        KEEPS_NOTHING,
    ),
    Reason.NOT_CACHEABLE: Words(
        _("The lookup or the queryset is none of the cache."),
        _(
            "Look up by equality of the model's own columns, without joins, "
            "annotations or only(), and by a queryset whose lookups are Django's "
            "(manage.py check tells)."
        ),
        KEEPS_NOTHING,
    ),
}

# Cases that explain() can distinguish: the two of Reason.ERROR, and one of
# Reason.LOCKED.

UNREACHABLE = Words(
    "The cache does not answer.",
    "See to the cache; `getorcreateplus status` asks whether it answers.",
    f"{ASKS_DATABASE}.",
)
UNREADABLE = Words(
    "What the cache holds is unreadable.",
    next=f"{ASKS_DATABASE}. It drops what is unreadable.",
)
MODEL_LOCKED = Words(
    "Somebody is writing rows by a query, or has died.",
    MISSES[Reason.LOCKED].remedy,
    MISSES[Reason.LOCKED].next,
)
BROKEN_TRANSACTION = "It raises TransactionManagementError: the transaction is broken."
