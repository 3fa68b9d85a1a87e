"""
Writing a row that another connection may be writing as well.

A conflict has to fail alone, without a savepoint around it. SQLite and MySQL
undo just the statement that failed. PostgreSQL aborts the transaction, so its
INSERT is sent with ON CONFLICT DO NOTHING and the row count tells who won.
(Never MySQL's INSERT IGNORE: it truncates strings, stores NULL as 0 and skips
a row whose foreign key is missing, without a word.)

create() sends its INSERT through the base manager, somewhere among whatever a
project's create(), save() and signal handlers do. So the guards below watch
the statements of a connection, through its execute_wrapper().
"""

import re
from contextlib import contextmanager, nullcontext
from functools import lru_cache

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    connections,
    transaction,
)

from .signals import tell_savepoint_omitted

COMMENT = r"/\*(?:(?!\*/).)*\*/"
LEADING_COMMENTS = re.compile(rf"(?:\s|{COMMENT})*", re.DOTALL)

# The list of columns that Django has PostgreSQL return, if it does, and the
# comments that another wrapper appended.
COLUMN = r'"[^"]+"(?:\."[^"]+")*'
RETURNING = re.compile(
    rf"(?: RETURNING {COLUMN}(?:, {COLUMN})*)?(?:\s|;|{COMMENT})*\Z", re.DOTALL
)

# SQLite begins a transaction by a statement like any other.
READS = ("SELECT", "(SELECT", "BEGIN")
SAVEPOINTS = ("SAVEPOINT", "RELEASE", "ROLLBACK")


def can_guard(connection):
    """Return whether a conflict can be made to fail alone on the database."""
    return connection.vendor in {"mysql", "postgresql", "sqlite"}


def is_multi_table(model):
    """Return whether a row of the model has a part in a parent's table."""
    return bool(model._meta.concrete_model._meta.parents)


def is_deferrable(model):
    """
    Return whether a constraint is checked at the commit: PostgreSQL refuses ON
    CONFLICT on such a table.
    """
    constraints = model._meta.concrete_model._meta.constraints
    return any(getattr(each, "deferrable", None) for each in constraints)


def is_doomed(connection):
    """Return whether the transaction can only be rolled back."""
    return connection.in_atomic_block and connection.needs_rollback


def set_rollback(rollback, using):
    """As transaction.set_rollback(), except that it may be autocommit."""
    if connections[using].in_atomic_block:
        transaction.set_rollback(rollback, using)


def end_of_comments(sql):
    """Return where the statement behind any comments begins."""
    return LEADING_COMMENTS.match(sql).end()  # type: ignore[union-attr]  # or ""


def begins_with(sql, words):
    """Return whether the statement behind any comments is one of words."""
    if not isinstance(sql, str):
        return False  # psycopg's Composed: it may be anything.
    start = end_of_comments(sql)
    return sql[start : start + 10].upper().startswith(words)


@lru_cache(maxsize=1000)  # the search takes 30 us, and a model's INSERTs are alike
def ignore_conflict(sql):
    """
    Return the INSERT of one row with ON CONFLICT DO NOTHING, or None if it
    isn't understood well enough to say where that belongs.

    Without a conflict target, so that every unique and every exclusion
    constraint counts.
    """
    end = RETURNING.search(sql).start()  # type: ignore[union-attr]  # or ""
    insert = sql[:end]
    if (
        " ON CONFLICT " in insert  # Its author expects no row.
        or " RETURNING " in insert  # Not Django's list of columns.
        or "--" in insert  # What follows may be a comment.
        # More than one row: how many of them conflicted cannot be told.
        or "), (" in insert
        or " UNNEST(" in insert
    ):
        return None
    return f"{insert} ON CONFLICT DO NOTHING{sql[end:]}"


class Conflict(IntegrityError):
    """PostgreSQL did not insert the row, which is no error to it."""


class UpdateGuard:
    """
    Tell the transaction what an error in save() leaves behind.

    A context manager for the UPDATE of update_or_create() inside of a
    transaction. When save() raises an error after it wrote something, the
    transaction is marked for rollback: without a savepoint nothing less undoes
    it. When nothing was written, the transaction stays usable.
    """

    def __init__(self, connection):
        self.connection = connection
        self.using = connection.alias
        self.wrote = False
        self.rejected = False  # The last statement failed, and failed alone.

    def __enter__(self):
        # As connection.execute_wrapper() does, without a context manager.
        self.connection.execute_wrappers.append(self)
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        self.connection.execute_wrappers.pop()
        if exc_type is None:
            return
        if self.wrote:
            set_rollback(True, self.using)
        elif self.rejected:
            set_rollback(False, self.using)

    def __call__(self, execute, sql, params, many, context):
        if is_doomed(self.connection):
            return execute(sql, params, many, context)  # Django refuses it.
        self.rejected = False
        if many or not begins_with(sql, READS + SAVEPOINTS):
            result = self.try_to(execute, sql, params, many, context)
            self.wrote = True
            return result
        return execute(sql, params, many, context)

    def try_to(self, execute, *args):
        """Note an error after which the database goes on as if nothing was."""
        try:
            return execute(*args)
        except DatabaseError as exc:
            self.rejected = (
                isinstance(exc, (DataError, IntegrityError))
                and self.connection.vendor != "postgresql"
            )
            # save() does that, too, and bulk_create() doesn't always.
            set_rollback(True, self.using)
            raise


class InsertGuard(UpdateGuard):
    """
    Make a conflict of the INSERT in create() harmless to the transaction.

    A context manager for all that runs between the two SELECTs of
    get_or_create(); call watch() when it comes to create(). What is written
    before that INSERT, by a callable in defaults or an overridden save(), has
    to be undone when the race is lost: a savepoint is made just before it, and
    in autocommit a transaction is begun. Most models write nothing, and get
    neither.

    Afterwards intact tells whether the transaction is as it was before, and
    hidden whether PostgreSQL kept the reason of a conflict to itself.
    """

    def __init__(self, connection, model):
        super().__init__(connection)
        self.model = model
        self.table = connection.ops.quote_name(model._meta.db_table)
        self.insert = f"INSERT INTO {self.table} "
        self.armed = False
        self.busy = False  # A savepoint of this guard's own is on its way.
        self.savepoint = None
        self.atomic = None
        self.omits_savepoint = connection.in_atomic_block
        hooks = connection.run_on_commit
        self.last_hook = hooks[-1] if hooks else None
        self.intact = True
        self.hidden = False

    def watch(self):
        """Take the next INSERT into the model's table for create()'s."""
        self.armed = True

    def __exit__(self, exc_type, exc_value, traceback):
        connection = self.connection
        self.connection.execute_wrappers.pop()
        if self.omits_savepoint:
            tell_savepoint_omitted(self.model, self.using)
        if self.atomic:
            self.atomic.__exit__(exc_type, exc_value, traceback)
            return
        if exc_type is None and not is_doomed(self.connection):
            if self.savepoint:
                connection.savepoint_commit(self.savepoint)
            return
        if self.savepoint:
            set_rollback(False, self.using)
            try:
                connection.savepoint_rollback(self.savepoint)
                connection.savepoint_commit(self.savepoint)
            except DatabaseError:
                # InnoDB's deadlock took the whole transaction, savepoints too.
                set_rollback(True, self.using)
        elif self.wrote:
            set_rollback(True, self.using)
        elif self.rejected:
            set_rollback(False, self.using)
        undone = self.savepoint is not None or not self.wrote
        self.intact = undone and not is_doomed(self.connection)
        # As a savepoint's rollback does: the object was not created.
        self.drop_hooks()

    def drop_hooks(self):
        """Drop the on_commit() hooks behind those that were there before."""
        hooks = self.connection.run_on_commit
        count = len(hooks)
        while count and hooks[count - 1] is not self.last_hook:
            count -= 1
        if count < len(hooks):
            # A new list, as Django makes one when it drops hooks.
            self.connection.run_on_commit = hooks[:count]

    def __call__(self, execute, sql, params, many, context):
        connection = self.connection
        guards = [
            wrapper
            for wrapper in connection.execute_wrappers
            if isinstance(wrapper, InsertGuard)
        ]
        if (
            self.wrote
            or is_doomed(self.connection)  # Django refuses the statement.
            or [guard for guard in guards if guard.busy]
        ):
            return execute(sql, params, many, context)
        self.rejected = False
        if (
            self.armed
            and self is guards[-1]  # Not a get_or_create() inside of create().
            and not many
            and isinstance(sql, str)
            and (
                sql.startswith(self.insert)
                or sql.startswith(self.insert, end_of_comments(sql))
            )
        ):
            result = self.send(execute, sql, params, context)
            self.wrote = True
            return result
        if many or not begins_with(sql, READS):
            self.hold()
        return execute(sql, params, many, context)

    def hold(self):
        """Be ready to undo what is written before the INSERT."""
        if self.savepoint or self.atomic:
            return
        self.busy = True
        try:
            if not self.connection.in_atomic_block:
                atomic = transaction.atomic(using=self.using)
                atomic.__enter__()
                self.atomic = atomic
            else:
                # Not an atomic(), which has to end before the one around it:
                # create() may have entered that, without a savepoint.
                self.savepoint = self.connection.savepoint()
                self.omits_savepoint = False
        finally:
            self.busy = False

    def send(self, execute, sql, params, context):
        if self.connection.vendor != "postgresql":
            return self.try_to(execute, sql, params, False, context)
        ignoring = None if is_deferrable(self.model) else ignore_conflict(sql)
        if ignoring is None:
            return self.send_in_savepoint(execute, sql, params, context)
        result = self.try_to(execute, ignoring, params, False, context)
        if context["cursor"].rowcount == 0:
            self.rejected = self.hidden = True
            raise Conflict(
                f"The new row of {self.table} conflicts with another one. (With ON "
                "CONFLICT DO NOTHING PostgreSQL doesn't name the constraint.)"
            )
        return result

    def send_in_savepoint(self, execute, sql, params, context):
        # A single statement is its own transaction in autocommit.
        autocommit = self.connection.get_autocommit()
        self.omits_savepoint = False
        self.busy = True
        try:
            with nullcontext() if autocommit else transaction.atomic(self.using):
                return execute(sql, params, False, context)
        except (DataError, IntegrityError):
            self.rejected = True
            raise
        finally:
            self.busy = False


@contextmanager
def locking_read(using):
    """
    Mark the transaction for rollback when a SELECT that locks fails.

    InnoDB rolls all of it back by itself on a deadlock (1213) or a row that
    changed since the snapshot (1020), and the next statement would begin
    another transaction, silently.
    """
    try:
        yield
    except DatabaseError:
        set_rollback(True, using)
        raise


@contextmanager
def share_lock(using):
    """
    Have SELECT see the latest row, behind the snapshot of REPEATABLE READ.

    MySQL and MariaDB only. Not FOR UPDATE: two losers of the same race, each
    with the shared lock of its duplicate key, would deadlock.
    """

    def lock(execute, sql, params, many, context):
        locking = " LOCK IN SHARE MODE" if begins_with(sql, READS) else ""
        return execute(sql + locking, params, many, context)

    with locking_read(using), connections[using].execute_wrapper(lock):
        yield
