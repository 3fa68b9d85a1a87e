"""
The names of the contenders, and the apps that have their tables. Imports no
models, so that a new process can read it before Django is set up.
"""

PLAIN = "plain Django"
PLUS = "getorcreateplus"  # row by row, by the calls of plain Django
BULK = "batches"  # by bulk_get_or_create() and bulk_update_or_create()

LABELS = {PLAIN: "sandbox_plain", PLUS: "sandbox_gazetteer", BULK: "sandbox_bulk"}


def contenders(*, in_bulk):
    return [PLAIN, PLUS, BULK] if in_bulk else [PLAIN, PLUS]
