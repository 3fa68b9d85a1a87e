"""
INSERT ... ON CONFLICT DO NOTHING, for a single row on PostgreSQL.

PostgreSQL aborts the transaction at any error. With this clause a conflict is
not an error: the row count shows whether the row was inserted.
"""

import re
from functools import lru_cache

from django.db import IntegrityError

from .recognizing import COMMENT

# The list of columns that PostgreSQL returns to Django, if there is one, and
# the comments that another wrapper appended.
COLUMN = r'"[^"]+"(?:\."[^"]+")*'
RETURNING = re.compile(
    rf"(?: RETURNING {COLUMN}(?:, {COLUMN})*)?(?:\s|;|{COMMENT})*\Z", re.DOTALL
)


class Conflict(IntegrityError):
    """PostgreSQL did not insert the row, and raised no error."""


@lru_cache(maxsize=1000)  # the search takes 30 us, and a model's INSERTs are alike
def ignore_conflict(sql):
    """
    Return the INSERT of one row with ON CONFLICT DO NOTHING. Return None if
    the place of the clause in the SQL is uncertain.

    The clause has no conflict target, so every unique and every exclusion
    constraint counts.
    """
    end = RETURNING.search(sql).start()  # type: ignore[union-attr]  # or empty
    insert = sql[:end]
    if (
        " ON CONFLICT " in insert  # Its author expects that no row is inserted.
        or " RETURNING " in insert  # Not Django's list of columns.
        or "--" in insert  # The rest may be a comment.
        # With several rows, the row count does not show which conflicted.
        or "), (" in insert
        or " UNNEST(" in insert
    ):
        return None
    return f"{insert} ON CONFLICT DO NOTHING{sql[end:]}"


def raise_conflict(connection, table):
    """Raise the Conflict of a row that was not inserted into a table."""
    message = (
        f"The new row of {table} conflicts with another one. (With ON "
        "CONFLICT DO NOTHING PostgreSQL doesn't name the constraint.)"
    )
    # Code that catches it may read its cause, as with Django's own error.
    cause = connection.Database.errors.UniqueViolation(message)
    raise Conflict(message) from cause
