"""
Guards for writing a row that another connection may be writing, too.

A conflict must undo only its own statement, without a savepoint around it.
SQLite and MySQL undo only the statement that failed, unless SQLite's schema
has FAIL or ROLLBACK, which needs the savepoint. PostgreSQL aborts the
transaction, so its INSERT is sent with ON CONFLICT DO NOTHING, and the row
count shows who won. (MySQL's INSERT IGNORE is no alternative: it silently
truncates strings, stores NULL as 0 and skips a row whose foreign key is
missing.)

create() sends its INSERT through the base manager, somewhere among the
statements of a project's create(), save() and signal handlers. So the guards
below are execute wrappers, which see all statements of a connection. In
autocommit, that code runs inside an atomic(), as it does with Django's
get_or_create().
"""

from enum import Enum, auto
from functools import partial

from django.db import DatabaseError, DataError, IntegrityError, transaction

from ..coherence import drivers
from ..coherence.drivers import last_result
from ..signals import send_savepoint_omitted
from . import table_facts
from .on_conflict import ignore_conflict, raise_conflict
from .pending_transaction import (
    PendingTransaction,
    drop_hooks_after,
    is_doomed,
    set_rollback,
)
from .recognizing import is_row_of
from .refusals import Refused, refuses, try_clause
from .statements import statement_of
from .wrappers import Wrapper


def can_guard(connection):
    """
    Return True if a conflict can undo only its own statement on the database.
    """
    return connection.vendor in {"mysql", "postgresql", "sqlite"}


def is_multi_table(model):
    """Return True if a part of the model's row is in a parent's table."""
    return bool(model._meta.concrete_model._meta.parents)


def may_guard(connection, model):
    """Return True if a new row of the model needs no savepoint around it."""
    return (
        can_guard(connection)
        and not is_multi_table(model)  # two INSERTs
        # The project begins and ends its transactions itself.
        and (connection.in_atomic_block or connection.get_autocommit())
    )


class UpdateGuard(Wrapper):
    """
    Mark the transaction for rollback only if an error in save() needs it.

    A context manager for the UPDATE of update_or_create() inside a
    transaction. If save() raises an error after it has written something, the
    transaction is marked for rollback, because without a savepoint nothing
    else undoes the write. If nothing was written, the transaction stays
    usable.
    """

    def __init__(self, connection):
        super().__init__(connection)
        self.using = connection.alias
        self.has_written = False
        self.failed_alone = False  # the last statement failed, and undid itself
        # A statement failed, or something else that this can't undo.
        self.has_failed = is_doomed(connection)

    def remove(self):
        was_there = super().remove()
        if not was_there:
            self.has_written = True  # It may have done so unseen.
        return was_there

    def __exit__(self, exc_type, exc_value, traceback):
        self.remove()
        if exc_type is None:
            return
        self.mark()

    def mark(self):
        """
        Mark the transaction for rollback if there is anything to undo, and
        remove the mark otherwise.

        Django's save() sets the mark at any error, even if a field has refused
        a value.
        """
        if self.has_written:
            set_rollback(True, self.using)
        elif not (self.has_failed or self.connection.closed_in_transaction):
            set_rollback(False, self.using)

    def on_statement(self, execute, sql, params, many, context):
        if is_doomed(self.connection):
            return execute(sql, params, many, context)  # Django refuses it.
        self.failed_alone = False
        statement = statement_of(sql, self.connection)
        try:
            if many or not (statement.is_read() or statement.is_of_savepoint()):
                result = self.execute_write(execute, sql, params, many, context)
                self.has_written = True
                return result
            return execute(sql, params, many, context)
        except BaseException:
            self.has_failed |= not self.failed_alone
            raise

    def execute_write(self, execute, sql, params, many, context):
        """
        Run a statement that writes. If it fails, record whether the database
        has undone only this statement.
        """
        before = drivers.changes(self.connection)
        try:
            return execute(sql, params, many, context)
        except DatabaseError as exc:
            self.failed_alone = (
                isinstance(exc, (DataError, IntegrityError))
                and not many
                and self.connection.vendor != "postgresql"
                # A trigger on SQLite may decide what is undone.
                and drivers.changes(self.connection) == before
            )
            # save() does that, too, and bulk_create() doesn't always.
            set_rollback(True, self.using)
            raise


class State(Enum):
    """
    What an InsertGuard can undo, and therefore which statements it may send::

        in autocommit:                              inside atomic():

           PENDING ---------- (1) ----> AUTOCOMMIT     BARE
              |                             |           |
             (2)                           (3)         (4)
              v                             |           v
        OWN_TRANSACTION <-------------------+       SAVEPOINT

    1. The INSERT comes first, and no on_commit() hook and no inner block
       relies on the transaction. A single statement is its own transaction in
       autocommit, so the guard begins no transaction.
    2. Any other statement comes first, or something relies on the transaction.
       A transaction begins, which can be rolled back when the race is lost.
    3. The INSERT has failed, and create() writes something else.
    4. Something is written before the INSERT, by a callable in defaults or an
       overridden save(). Or SQLite's schema has FAIL or ROLLBACK, so a failed
       INSERT may not undo only itself. Or the INSERT cannot have ON CONFLICT
       DO NOTHING, so PostgreSQL would abort the transaction at a conflict. (If
       create() is inside its own atomic(), 4 replaces 3.)

    When the INSERT has run (``has_written``), there are no more transitions:
    the row was not in conflict, and the guard waits for the end of the block.

    ================ ========================== ==============================
    at the end       without an error           after an error
    ================ ========================== ==============================
    PENDING          on_commit() hooks run      they are dropped; nothing was
                                                sent
    OWN_TRANSACTION  COMMIT                     ROLLBACK
    AUTOCOMMIT       nothing                    nothing
    SAVEPOINT        RELEASE SAVEPOINT          ROLLBACK TO SAVEPOINT
    BARE             nothing                    the transaction is marked for
                                                rollback if anything was
                                                written, because no savepoint
                                                undoes it
    ================ ========================== ==============================
    """

    PENDING = auto()
    OWN_TRANSACTION = auto()
    AUTOCOMMIT = auto()
    BARE = auto()
    SAVEPOINT = auto()


UNDOABLE = State.OWN_TRANSACTION, State.SAVEPOINT


class InsertGuard(UpdateGuard):
    """
    Make a conflict of the INSERT in create() harmless to the transaction.

    A context manager for everything that runs between the two SELECTs of
    get_or_create(). Call arm() just before create(); until then, no statement
    can be the INSERT of create(). Most models send no other statement. See
    State for its states.

    Afterwards, ``is_transaction_intact`` is True if the transaction is as it
    was before, and ``is_reason_hidden`` is True if PostgreSQL has not returned
    the reason of a conflict.
    """

    # Each of these is valid only in one state.
    pending: PendingTransaction  # PENDING
    atomic: transaction.Atomic  # OWN_TRANSACTION
    savepoint: str  # SAVEPOINT

    def __init__(self, connection, model):
        super().__init__(connection)
        self.model = model
        self.table = connection.ops.quote_name(model._meta.db_table)
        self.insert = f"INSERT INTO {self.table} "
        self.create_params = None  # the arguments of create(), once armed
        self.own_params = None  # of the INSERT, if create_row() sends it
        self.is_create_insert = False  # the statement that is being sent
        self.is_preparing = False  # It is sending its own BEGIN or SAVEPOINT.
        self.state = State.BARE if connection.in_atomic_block else State.PENDING
        self.omits_savepoint = connection.in_atomic_block
        hooks = connection.run_on_commit
        self.last_hook = hooks[-1] if hooks else None
        self.is_transaction_intact = True
        self.is_reason_hidden = False
        self.foresight = Foresight(self)

    def __enter__(self):
        if self.state is State.PENDING:
            self.pending = PendingTransaction(self.connection)
        self.foresight.__enter__()
        return super().__enter__()

    def arm(self, params):
        """Expect the INSERT of create(**params) from now on."""
        self.create_params = params

    def __exit__(self, exc_type, exc_value, traceback):
        connection = self.connection
        if not (self.foresight.remove() & self.remove()):
            self.has_written = True  # It may have done so unseen.
        if self.omits_savepoint:
            send_savepoint_omitted(self.model, self.using)
        if self.state is State.PENDING:
            is_kept = exc_type is None and not is_doomed(connection)
            self.pending.drop()
            if is_kept:
                connection.run_and_clear_commit_hooks()
            else:
                drop_hooks_after(connection, self.last_hook)
        elif self.state is State.OWN_TRANSACTION:
            self.atomic.__exit__(exc_type, exc_value, traceback)
        elif exc_type is not None or is_doomed(connection):
            self.undo()
        elif self.state is State.SAVEPOINT:
            connection.savepoint_commit(self.savepoint)

    def undo(self):
        """Undo what was written, or mark the transaction for rollback."""
        connection, has_savepoint = self.connection, self.state is State.SAVEPOINT
        if has_savepoint:
            set_rollback(False, self.using)
            try:
                connection.savepoint_rollback(self.savepoint)
                connection.savepoint_commit(self.savepoint)
            except DatabaseError:
                # InnoDB's deadlock took the whole transaction, savepoints too.
                set_rollback(True, self.using)
        else:
            self.mark()
        is_undone = has_savepoint or not self.has_written
        self.is_transaction_intact = is_undone and not is_doomed(connection)
        # Like the rollback of a savepoint: the object was not created.
        drop_hooks_after(connection, self.last_hook)

    def leave_pending(self, fails_alone):
        """Make transition 1 or 2, before the first statement."""
        pending = self.pending
        if fails_alone and not pending.is_used():
            pending.drop()
            self.state = State.AUTOCOMMIT
            return
        self.is_preparing = True
        try:
            self.atomic = pending.atomic
            pending.begin()
        finally:
            self.state = State.OWN_TRANSACTION
            self.is_preparing = False

    def make_undoable(self):
        """Make transition 3 or 4, before something that has to be undone."""
        if self.state in UNDOABLE:
            return
        self.is_preparing = True
        try:
            if not self.connection.in_atomic_block:
                atomic = transaction.atomic(using=self.using)
                atomic.__enter__()
                self.state, self.atomic = State.OWN_TRANSACTION, atomic
            else:
                # Not an atomic(), which has to end before the atomic() around
                # it: create() may have entered that one, without a savepoint.
                self.savepoint = self.connection.savepoint()
                self.state = State.SAVEPOINT
                self.omits_savepoint = False
        finally:
            self.is_preparing = False

    def on_statement(self, execute, sql, params, many, context):
        if not self.is_create_insert or self.is_preparing:
            return execute(sql, params, many, context)
        result = self.send(execute, sql, params, context)
        self.has_written = True
        return result

    def send(self, execute, sql, params, context):
        """Send the INSERT of create()."""
        connection, model = self.connection, self.model
        if (
            connection.vendor != "postgresql"
            or drivers.is_pipelined(connection)
            # They undo the error, which names the constraint only without the
            # clause. create() may catch the error inside its own block.
            or self.state in UNDOABLE
        ):
            return self.execute_write(execute, sql, params, False, context)
        statement = statement_of(sql, connection)
        ignoring = with_clause(connection, model, statement)
        if ignoring is None:
            return self.send_plainly(execute, sql, params, context)
        attempt = partial(try_clause, connection, model, execute)
        try:
            result = self.execute_write(attempt, ignoring, params, False, context)
        except Refused:
            return self.send_plainly(execute, sql, params, context)
        with last_result(context["cursor"]) as cursor:
            inserted = cursor.rowcount
        if inserted == 0:
            self.failed_alone = self.is_reason_hidden = True
            table_facts.discard_facts(connection, model)
            raise_conflict(connection, self.table)
        return result

    def send_plainly(self, execute, sql, params, context):
        # A single statement is its own transaction in autocommit.
        if self.connection.in_atomic_block:
            self.make_undoable()
        return self.execute_write(execute, sql, params, False, context)


class Foresight(Wrapper):
    """
    The execute wrapper with which an InsertGuard comes before all others.

    It prepares the transaction for a statement: see State.
    """

    def __init__(self, guard):
        super().__init__(guard.connection)
        self.guard = guard

    def __enter__(self):
        # Before the StatementWatcher, and after the Foresights of the guards
        # around this one.
        wrappers = self.connection.execute_wrappers
        others = sum(isinstance(wrapper, Foresight) for wrapper in wrappers)
        wrappers.insert(others, self)
        self.is_open = True
        return self

    def on_statement(self, execute, sql, params, many, context):
        connection, guard = self.connection, self.guard
        guards = open_guards(connection)
        if (
            guard.has_written
            or is_doomed(connection)  # Django refuses the statement.
            or [each for each in guards if each.is_preparing]
        ):
            return execute(sql, params, many, context)
        guard.failed_alone = False
        statement = statement_of(sql, connection)
        was_create_insert = guard.is_create_insert
        guard.is_create_insert = (
            guard is guards[-1]  # Not a get_or_create() inside create().
            and not many
            and guard.create_params is not None
            and statement.text.startswith(guard.insert)
            and (
                (params is guard.own_params and params is not None)
                or is_row_of(
                    connection,
                    guard.model,
                    guard.create_params,
                    statement.text,
                    statement.own_params(params),
                )
            )
        )
        fails_alone = guard.is_create_insert and (
            connection.vendor != "sqlite"
            or table_facts.facts_of(connection, guard.model).fails_alone
        )
        try:
            if guard.state is State.PENDING:
                guard.leave_pending(fails_alone)
            elif not fails_alone and (many or not statement.is_read()):
                guard.make_undoable()
            return execute(sql, params, many, context)
        except BaseException:
            guard.has_failed |= not guard.failed_alone
            raise
        finally:
            # Another wrapper may send a statement while one is being sent.
            guard.is_create_insert = was_create_insert


def open_guards(connection):
    """Return the InsertGuards of a connection, the innermost at the end."""
    return [
        wrapper.guard
        for wrapper in connection.execute_wrappers
        if isinstance(wrapper, Foresight) and wrapper.is_open
    ]


def with_clause(connection, model, statement):
    """
    Return an INSERT with ON CONFLICT DO NOTHING, None if that may do harm.
    """
    if (
        refuses(connection, model)
        # A row that a trigger puts elsewhere would look like a conflict.
        or not table_facts.facts_of(connection, model).takes_each_row
    ):
        return None
    ignoring = ignore_conflict(statement.text + statement.after)
    return None if ignoring is None else statement.before + ignoring
