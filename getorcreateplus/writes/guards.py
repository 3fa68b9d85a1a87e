"""
Writing a row that another connection may be writing as well.

A conflict has to fail alone, without a savepoint around it. SQLite and MySQL
undo just the statement that failed, unless SQLite's schema says FAIL or
ROLLBACK; that wants the savepoint. PostgreSQL aborts the transaction, so its
INSERT is sent with ON CONFLICT DO NOTHING and the row count tells who won.
(Never MySQL's INSERT IGNORE: it truncates strings, stores NULL as 0 and skips
a row whose foreign key is missing, without a word.)

create() sends its INSERT through the base manager, somewhere among whatever a
project's create(), save() and signal handlers do. So the guards below watch
the statements of a connection, through its execute_wrapper(). In autocommit
the connection looks to that code as inside of the atomic() that Django has.
"""

import re
from contextlib import contextmanager
from functools import lru_cache, partial

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    connections,
    transaction,
)

from ..coherence import drivers
from ..coherence.drivers import last_result
from ..signals import tell_savepoint_omitted
from .recognizing import COMMENT, is_row_of
from .refusals import Refused, refuses, try_clause
from .statements import READING, statement_of
from .wrappers import Wrapper

# The list of columns that Django has PostgreSQL return, if it does, and the
# comments that another wrapper appended.
COLUMN = r'"[^"]+"(?:\."[^"]+")*'
RETURNING = re.compile(
    rf"(?: RETURNING {COLUMN}(?:, {COLUMN})*)?(?:\s|;|{COMMENT})*\Z", re.DOTALL
)


def can_guard(connection):
    """Return whether a conflict can be made to fail alone on the database."""
    return connection.vendor in {"mysql", "postgresql", "sqlite"}


def is_multi_table(model):
    """Return whether a row of the model has a part in a parent's table."""
    return bool(model._meta.concrete_model._meta.parents)


def is_by_hand(connection):
    """Return whether the project begins and ends its transactions itself."""
    return not connection.in_atomic_block and not connection.get_autocommit()


def is_doomed(connection):
    """Return whether the transaction can only be rolled back."""
    return connection.in_atomic_block and connection.needs_rollback


def set_rollback(rollback, using):
    """As transaction.set_rollback(), except that it may be autocommit."""
    if connections[using].in_atomic_block:
        transaction.set_rollback(rollback, using)


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


class UpdateGuard(Wrapper):
    """
    Tell the transaction what an error in save() leaves behind.

    A context manager for the UPDATE of update_or_create() inside of a
    transaction. When save() raises an error after it wrote something, the
    transaction is marked for rollback: without a savepoint nothing less undoes
    it. When nothing was written, the transaction stays usable.
    """

    def __init__(self, connection):
        super().__init__(connection)
        self.using = connection.alias
        self.wrote = False
        self.rejected = False  # The last statement failed, and failed alone.
        # A statement failed, or something else that this can't undo.
        self.failed = is_doomed(connection)

    def remove(self):
        was_there = super().remove()
        if not was_there:
            self.wrote = True  # It may have, unseen.
        return was_there

    def __exit__(self, exc_type, exc_value, traceback):
        self.remove()
        if exc_type is None:
            return
        self.mark()

    def mark(self):
        """
        Mark the transaction for rollback, if there is anything to undo.

        Django's save() marks it at any error, also of a value that no field
        takes.
        """
        if self.wrote:
            set_rollback(True, self.using)
        elif not (self.failed or self.connection.closed_in_transaction):
            set_rollback(False, self.using)

    def on_statement(self, execute, sql, params, many, context):
        if is_doomed(self.connection):
            return execute(sql, params, many, context)  # Django refuses it.
        self.rejected = False
        statement = statement_of(sql, self.connection)
        with self.noting_failure():
            if many or not (statement.is_read() or statement.is_of_savepoint()):
                result = self.try_to(execute, sql, params, many, context)
                self.wrote = True
                return result
            return execute(sql, params, many, context)

    @contextmanager
    def noting_failure(self):
        try:
            yield
        except BaseException:
            self.failed |= not self.rejected
            raise

    def try_to(self, execute, sql, params, many, context):
        """Note an error after which the database goes on as if nothing was."""
        before = drivers.changes(self.connection)
        try:
            return execute(sql, params, many, context)
        except DatabaseError as exc:
            self.rejected = (
                isinstance(exc, (DataError, IntegrityError))
                and not many
                and self.connection.vendor != "postgresql"
                # A trigger of SQLite's may say what to undo.
                and drivers.changes(self.connection) == before
            )
            # save() does that, too, and bulk_create() doesn't always.
            set_rollback(True, self.using)
            raise


class PendingTransaction:
    """
    An atomic() block whose transaction has not begun in the database.

    To all who ask Django it is a transaction: on_commit() waits for its end,
    select_for_update() is allowed, a block inside it makes a savepoint. The
    next statement either begins it, or goes without it.
    """

    def __init__(self, connection):
        self.connection = connection
        self.atomic = transaction.atomic(using=connection.alias)
        # As Atomic.__enter__() and set_autocommit() in 5.2 to 6.1.
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        connection.commit_on_exit = True
        connection.needs_rollback = False
        connection.autocommit = False
        connection.in_atomic_block = True
        connection.atomic_blocks.append(self.atomic)
        self.hooks = len(connection.run_on_commit)

    def is_used(self):
        """Tell whether anything relies on it."""
        connection = self.connection
        return (
            connection.needs_rollback
            or len(connection.run_on_commit) > self.hooks
            or connection.atomic_blocks[-1] is not self.atomic
        )

    def begin(self):
        """Begin it in the database, as the atomic() block would."""
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


class InsertGuard(UpdateGuard):
    """
    Make a conflict of the INSERT in create() harmless to the transaction.

    A context manager for all that runs between the two SELECTs of
    get_or_create(); call watch() when it comes to create(). What is written
    before that INSERT, by a callable in defaults or an overridden save(), has
    to be undone when the race is lost: a savepoint is made just before it. In
    autocommit a transaction begins before any other statement than the INSERT,
    and before an on_commit() hook has to wait for its end. Most models need
    neither.

    Afterwards intact tells whether the transaction is as it was before, and
    hidden whether PostgreSQL kept the reason of a conflict to itself.
    """

    def __init__(self, connection, model):
        super().__init__(connection)
        self.model = model
        self.table = connection.ops.quote_name(model._meta.db_table)
        self.insert = f"INSERT INTO {self.table} "
        self.params = None  # those of create(), when it comes to it
        self.is_own = False  # The statement on its way is create()'s INSERT.
        self.busy = False  # A savepoint of this guard's own is on its way.
        self.savepoint = None
        self.pending = None
        self.atomic = None
        self.omits_savepoint = connection.in_atomic_block
        hooks = connection.run_on_commit
        self.last_hook = hooks[-1] if hooks else None
        self.intact = True
        self.hidden = False
        self.foresight = Foresight(self)

    def __enter__(self):
        if not self.connection.in_atomic_block:
            self.pending = PendingTransaction(self.connection)
        self.foresight.__enter__()
        return super().__enter__()

    def watch(self, params):
        """Look out for the INSERT of create(**params)."""
        self.params = params

    def __exit__(self, exc_type, exc_value, traceback):
        connection = self.connection
        if not (self.foresight.remove() & self.remove()):
            self.wrote = True  # Nobody knows: it has not seen all statements.
        if self.omits_savepoint:
            tell_savepoint_omitted(self.model, self.using)
        if self.pending:
            is_kept = exc_type is None and not is_doomed(connection)
            self.pending.drop()
            if is_kept:
                connection.run_and_clear_commit_hooks()
            else:
                self.drop_hooks()
            return
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
        else:
            self.mark()
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

    def foresee(self, execute, sql, params, many, context):
        """Prepare the transaction for a statement, before other wrappers."""
        guards = [
            wrapper.guard
            for wrapper in self.connection.execute_wrappers
            if isinstance(wrapper, Foresight) and wrapper.is_open
        ]
        if (
            self.wrote
            or is_doomed(self.connection)  # Django refuses the statement.
            or [guard for guard in guards if guard.busy]
        ):
            return execute(sql, params, many, context)
        self.rejected = False
        statement = statement_of(sql, self.connection)
        was_own = self.is_own
        self.is_own = (
            self is guards[-1]  # Not a get_or_create() inside of create().
            and not many
            and statement.text.startswith(self.insert)
            and self.params is not None
            and is_row_of(
                self.connection,
                self.model,
                self.params,
                statement.text,
                statement.own_params(params),
            )
        )
        fails_alone = self.is_own and self.fails_alone()
        try:
            with self.noting_failure():
                if self.pending:
                    if fails_alone and not self.pending.is_used():
                        self.pending.drop()
                        self.pending = None
                    else:
                        self.begin(self.pending)
                elif not fails_alone and (many or not statement.is_read()):
                    self.hold()
                return execute(sql, params, many, context)
        finally:
            # Another wrapper may send a statement in the middle of one.
            self.is_own = was_own

    def fails_alone(self):
        """Tell whether an INSERT that fails undoes itself, and no more."""
        from . import table_facts as tables  # which needs this module

        connection = self.connection
        return (
            connection.vendor != "sqlite"
            or tables.table_of(connection, self.model).fails_alone
        )

    def on_statement(self, execute, sql, params, many, context):
        if not self.is_own or self.busy:
            return execute(sql, params, many, context)
        result = self.send(execute, sql, params, context)
        self.wrote = True
        return result

    def begin(self, pending):
        """Begin the transaction that is pending."""
        self.busy = True
        try:
            self.atomic = pending.atomic
            pending.begin()
        finally:
            self.pending = None
            self.busy = False

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
        if (
            self.connection.vendor != "postgresql"
            or drivers.is_pipelined(self.connection)
            # Without the clause the error has its reason, for a create() that
            # catches it: its block has got one of these.
            or self.savepoint
            or self.atomic
        ):
            return self.try_to(execute, sql, params, False, context)
        from . import table_facts as tables  # which needs this module

        statement, ignoring = statement_of(sql, self.connection), None
        if (
            not refuses(self.connection, self.model)
            # A row that a trigger puts elsewhere would look like a conflict.
            and tables.table_of(self.connection, self.model).is_plain
        ):
            ignoring = ignore_conflict(statement.text + statement.after)
        if ignoring is None:
            return self.send_plainly(execute, sql, params, context)
        ignoring = statement.before + ignoring
        attempt = partial(try_clause, self.connection, self.model, execute)
        try:
            result = self.try_to(attempt, ignoring, params, False, context)
        except Refused:
            return self.send_plainly(execute, sql, params, context)
        with last_result(context["cursor"]) as cursor:
            inserted = cursor.rowcount
        if inserted == 0:
            self.rejected = self.hidden = True
            tables.forget(self.connection, self.model)
            message = (
                f"The new row of {self.table} conflicts with another one. (With ON "
                "CONFLICT DO NOTHING PostgreSQL doesn't name the constraint.)"
            )
            # Whoever catches it may look at its cause, as for Django's.
            cause = self.connection.Database.errors.UniqueViolation(message)
            raise Conflict(message) from cause
        return result

    def send_plainly(self, execute, sql, params, context):
        # A single statement is its own transaction in autocommit.
        if self.connection.in_atomic_block:
            self.hold()
        return self.try_to(execute, sql, params, False, context)


class Foresight(Wrapper):
    """The execute wrapper by which an InsertGuard comes before all others."""

    def __init__(self, guard):
        super().__init__(guard.connection)
        self.guard = guard

    def __enter__(self):
        # Before the wrapper that tells the cache what a transaction writes,
        # and behind those of the guards around this one.
        wrappers = self.connection.execute_wrappers
        others = sum(isinstance(wrapper, Foresight) for wrapper in wrappers)
        wrappers.insert(others, self)
        self.is_open = True
        return self

    def on_statement(self, *args):
        return self.guard.foresee(*args)


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

    with locking_read(using), ShareLock(connections[using]):
        yield


class ShareLock(Wrapper):
    def on_statement(self, execute, sql, params, many, context):
        before, text, after = statement = statement_of(sql, self.connection)
        if statement.begins_with(READING):
            sql = f"{before}{text} LOCK IN SHARE MODE{after}"
        return execute(sql, params, many, context)
