"""
An atomic() block that begins its transaction in the database only when a
statement needs it, and changes of Django's own state for such a block.
"""

from django.db import connections, transaction


def is_doomed(connection):
    """Return True if the transaction can only be rolled back."""
    return connection.in_atomic_block and connection.needs_rollback


def set_rollback(rollback, using):
    """
    Do the same as transaction.set_rollback(), but do nothing in autocommit.
    """
    if connections[using].in_atomic_block:
        transaction.set_rollback(rollback, using)


def drop_hooks_after(connection, last_hook):
    """Drop the on_commit() hooks that were added after ``last_hook``."""
    hooks = connection.run_on_commit
    count = len(hooks)
    while count and hooks[count - 1] is not last_hook:
        count -= 1
    if count < len(hooks):
        # A new list, because Django makes one, too, when it drops hooks.
        connection.run_on_commit = hooks[:count]


class PendingTransaction:
    """
    An atomic() block whose transaction has not begun in the database.

    Code that reads Django's state sees a transaction: on_commit() waits for
    its end, select_for_update() is allowed, and a block inside it makes a
    savepoint. The next statement either begins the transaction or runs without
    it.
    """

    def __init__(self, connection):
        self.connection = connection
        self.atomic = transaction.atomic(using=connection.alias)
        # The same as Atomic.__enter__() and set_autocommit() in 5.2 to 6.1.
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        connection.commit_on_exit = True
        connection.needs_rollback = False
        connection.autocommit = False
        connection.in_atomic_block = True
        connection.atomic_blocks.append(self.atomic)
        self.hooks = len(connection.run_on_commit)

    def is_used(self):
        """Return True if anything relies on it."""
        connection = self.connection
        return (
            connection.needs_rollback
            or len(connection.run_on_commit) > self.hooks
            or connection.atomic_blocks[-1] is not self.atomic
        )

    def begin(self):
        """Begin it in the database, as the atomic() block does."""
        connection = self.connection
        blocks, connection.atomic_blocks = connection.atomic_blocks, []
        connection.in_atomic_block = False
        connection.autocommit = True
        try:
            connection.set_autocommit(
                False, force_begin_transaction_with_broken_autocommit=True
            )
        finally:
            connection.in_atomic_block = True
            connection.atomic_blocks = blocks

    def drop(self):
        """Go back to autocommit."""
        connection = self.connection
        if connection.closed_in_transaction:
            connection.connection = None
        connection.atomic_blocks.remove(self.atomic)
        connection.needs_rollback = False
        connection.in_atomic_block = False
        connection.autocommit = True
