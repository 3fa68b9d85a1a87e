"""
The execute wrapper that reads each statement of a connection.

Statements of any origin change rows: save(), any manager's update(), a related
manager's add(), a cascade, a migration, raw SQL. In Django's form, an UPDATE
or DELETE names its table, and its rows if it has their primary keys. For any
other statement that may write, every table that it mentions counts as written.
"""

from contextlib import contextmanager, nullcontext

from django.apps import apps
from django.conf import settings
from django.db import DataError, Error, IntegrityError, ProgrammingError, connections
from django.db.backends.signals import connection_created
from django.db.models.signals import post_save

from ..coherence import by_hand, drivers, opened
from ..coherence.connection_methods import watch_connection
from ..coherence.endings import (
    after_error,
    after_interrupted_rollback,
    after_rollback,
    after_savepoint,
)
from ..coherence.transactions import in_transaction
from ..coherence.writing import (
    after_interrupted_write,
    after_unmatched,
    after_writes,
    before_write,
    wait_for_answers,
)
from ..environment import databases
from . import registry
from .inserted_rows import InsertedRows
from .on_conflict import Conflict
from .own_relations import OwnRelations, read_early
from .registry import examine
from .schema_changes import wrap_schema_change
from .sessions import (
    ROLLBACK_TO,
    after_statement,
    record_isolation,
    record_session,
    record_statement,
    savepoint_of,
    wrap_for_begins,
)
from .statements import effect_of, statement_of, word_set, words_of
from .tables import all_rows, table_index
from .text_columns import catalog_of
from .written_rows import (
    QUALIFIED,
    WRITE,
    NamedUpdate,
    alias_of,
    aliases_of,
    is_upsert,
    names_schema,
    rows_by_pk,
    rows_in_other_databases,
)

# MySQL may commit before any statement that begins with another word.
COMMITS_NOTHING = word_set(
    "DELETE EXPLAIN INSERT RELEASE REPLACE SAVEPOINT SELECT UPDATE VALUES WITH"
)


class StatementWatcher:
    """
    The outermost execute wrapper of a connection, which invalidates the cached
    rows that its statements write.
    """

    def __init__(self):
        self.inserted = InsertedRows()
        self.relations = OwnRelations()
        self.named = None  # the NamedUpdate that is sent next

    def __call__(self, execute, sql, params, many, context):
        connection = context["connection"]
        if connection.in_atomic_block and record_statement(connection, sql):
            after_rollback(connection)
        try:
            by_hand.settle(connection)
            if (
                type(sql) is str
                and sql.startswith("SELECT")
                and ";" not in sql
                and "INTO" not in sql
                and "set_config" not in sql
            ):
                self.inserted.record(connection)
                return execute(sql, params, many, context)
            savepoint = savepoint_of(sql)
            if savepoint is not None:
                self.inserted.record(connection)
                return self.execute_savepoint(
                    connection, savepoint, execute, sql, params, many, context
                )
            return self.execute(connection, execute, sql, params, many, context)
        except Conflict:
            raise
        except Error as error:
            if (
                connection.vendor == "postgresql"
                or not isinstance(
                    # On other databases, these errors undo only their
                    # statement, unless SQLite rolls back on a conflict.
                    error,
                    (DataError, IntegrityError),
                )
                or drivers.has_ended(connection)
            ):
                after_error(connection)
            raise

    def execute_savepoint(self, connection, savepoint, execute, *args):
        is_rollback = savepoint.command == ROLLBACK_TO
        if is_rollback:
            self.relations.own = None
        try:
            result = execute(*args)
            after_savepoint(connection, *savepoint)
        except BaseException:
            # A time limit, or Ctrl-C. The database may have rolled back.
            if is_rollback:
                after_interrupted_rollback(connection)
            raise
        return result

    def execute(self, connection, execute, sql, params, many, context):
        named, self.named = self.named, None
        index, alias = table_index(connection), alias_of(connection)
        if (
            named is not None
            and sql is named.sql
            and named.table in index.names_of_models
            and alias is not None
        ):
            self.inserted.record(connection)
            others = self.relations.cached_models_of(connection, index, named.table)
            rows = named.rows(index, alias)
            rows |= all_rows(others, alias, names_schema(named.table))
            args = sql, params, many, context
            return write_rows(connection, rows, execute, *args, commits=False)
        statement = statement_of(sql, connection)
        text = statement.text
        write = None if ";" in text or alias is None else WRITE.match(text)
        if write is None or write[2] not in index.names_of_models:
            return self.execute_any(
                connection, index, statement, execute, sql, params, many, context
            )
        # The relations are read before the write, because a failure to read
        # them must not break a transaction that has written.
        others = self.relations.cached_models_of(connection, index, write[2])
        rows, inserts = {}, []
        if write[1].startswith("INSERT"):
            rows, inserts = self.rows_of_insert(index, alias, write, text)
        else:
            self.inserted.record(connection)
            rows = rows_by_pk(index, alias, write, text, None if many else params)
        rows |= all_rows(others, alias, names_schema(write[2]))
        # An INSERT, UPDATE or DELETE commits nothing.
        args = sql, params, many, context
        result = write_rows(connection, rows, execute, *args, commits=False)
        if inserts and in_transaction(connection):
            for table in inserts:
                regions = table.cached_model.all_regions(alias)
                self.inserted.add(table.cached_model, regions)
            has_several = many or "), (" in text or " VALUES (" not in text
            if has_several and not self.inserted.is_batch:
                self.inserted.record(connection)
        return result

    def execute_any(self, connection, index, statement, execute, *args):
        """Run a statement that does not have one of Django's forms."""
        context, text = args[-1], statement.text
        self.inserted.record(connection)
        wait_for_answers(connection)  # because it may commit
        words = words_of(text)
        execute = wrap_for_columns(execute, connection, statement, words)
        self.relations.discard_after_commit(connection)
        effect = effect_of(text, words, connection.vendor)
        record_isolation(connection, text, effect.starts)
        record_session(connection, text, effect.starts)
        execute = wrap_for_begins(execute, connection, text, effect.starts)
        rows = self.rows_by_tables(connection, index, text, words, effect)
        if effect.ends or (
            connection.vendor == "mysql" and not effect.starts <= COMMITS_NOTHING
        ):
            after_rollback(connection)
        try:
            return write_rows(connection, rows, execute, *args)
        finally:
            if effect.schema:
                self.relations.discard(connection)
            elif effect.ends:
                self.relations.own = None
            after_statement(connection, text, context)
            by_hand.release_ended(connection)

    def rows_by_tables(self, connection, index, text, words, effect):
        """
        Return the rows that a statement of any form may write, as all_rows()
        does.
        """
        if effect.everything:
            rows = {}
            for alias in aliases_of(connection, text if effect.database else None):
                rows |= all_rows(
                    registry.cached_models.values(), alias, of_all_tenants=True
                )
            return rows
        alias = alias_of(connection)
        if not effect.tables or alias is None:
            return {}
        relations = self.relations.current(connection, index, text)
        if relations is None:
            return all_rows(registry.cached_models.values(), alias)
        names = index.cached_names.mentioned(words) | relations.names.mentioned(words)
        for name in list(names):
            names |= relations.affected(name)
        rows, models = {}, index.cached_models_of(names)
        if models:
            # A name with a schema may belong to another tenant.
            is_qualified = (
                effect.schema
                or "search_path" in words
                or QUALIFIED.search(text) is not None
            )
            rows = all_rows(models, alias, is_qualified)
        if connection.vendor == "mysql":
            rows |= rows_in_other_databases(connection, words)
        return rows

    def rows_of_insert(self, index, alias, write, text):
        """
        Return the rows that an INSERT may update, and the tables to which it
        adds.
        """
        tables = index.tables.get(write[2], ())
        if not self.inserted.is_batch and is_upsert(text):
            models = (table.cached_model for table in tables)
            return all_rows(models, alias, names_schema(write[2])), []
        return {}, [table for table in tables if table.is_own]


def wrap_for_columns(execute, connection, statement, words):
    """
    Do the same as wrap_schema_change(). Read the columns while SQLite can do
    that.
    """
    if connection.vendor == "sqlite" and statement.begins_with(("BEGIN",)):
        if columns := table_index(connection).text_keys:
            catalog_of(connection, columns)
        return execute
    return wrap_schema_change(execute, connection, statement.text, words)


def write_rows(connection, rows, execute, sql, params, many, context, *, commits=True):
    """
    Run a statement that writes these {region: primary keys}, and may commit.
    """
    if not rows:
        return execute(sql, params, many, context)
    rows = {
        region: None if by_hand.has_locked_many(connection, region) else pks
        for region, pks in rows.items()
    }
    locked = {
        region: before_write(connection, region, pks, commits=commits)
        for region, pks in rows.items()
    }
    matched = -1
    try:
        result = execute(sql, params, many, context)
        if any(locked.values()):
            with drivers.last_result(context["cursor"]) as cursor:
                matched = cursor.rowcount
    except (DataError, IntegrityError, ProgrammingError):
        # These errors undo their statement. After any other error, the
        # statement may have run, or may still run, so its LOCKs stay until
        # their timeout.
        after_writes(connection, rows)
        raise
    except BaseException:
        after_interrupted_write(connection, rows)
        raise
    finally:
        for region, pks in locked.items():
            if (
                pks
                and matched != len(set(rows[region]))
                # A writer has locked the whole database of SQLite. And the
                # rows of RETURNING are not counted yet.
                and connection.vendor != "sqlite"
            ):
                after_unmatched(connection, region, pks)
    after_writes(connection, rows)
    return result


# The connections


def install(connection, **kwargs):
    """Read all statements of a connection, beginning with the first one."""
    opened.record_opened(connection)
    examine()
    # A pool may return this connection after other code has used it.
    connection.getorcreateplus_answer = None, None
    if watcher_of(connection) is None:
        # The first wrapper is the outermost: the steps of other wrappers after
        # a statement come before the release of its rows. It is inserted into
        # the list, because execute_wrapper() is a context manager.
        connection.execute_wrappers.insert(0, StatementWatcher())
        watch_connection(connection)
        if apps.models_ready:
            read_early(connection)
    if apps.models_ready:
        # Also in a fork of --parallel, whose connection has its parent's
        # execute wrapper.
        invalidate_earlier_run(connection)


test_databases = set()  # names of the databases whose earlier runs are invalidated


def invalidate_earlier_run(connection):
    """
    Invalidate all rows of a test database, once in each process.

    A killed run has left its rows in the cache. If this database is a clone
    (--parallel, TEMPLATE), no CREATE TABLE has invalidated them.
    """
    if not databases.is_testing() or connection.alias not in connections.settings:
        return
    name = databases.database_name(connection.alias, connection.settings_dict)
    if name not in test_databases:
        test_databases.add(name)
        examine()
        for region in all_rows(registry.cached_models.values(), connection.alias):
            region.release(connection, None)


def watcher_of(connection):
    wrappers = connection.execute_wrappers
    if wrappers and type(wrappers[0]) is StatementWatcher:
        return wrappers[0]  # as nearly always
    return next((each for each in wrappers if type(each) is StatementWatcher), None)


def batch_of_inserts(connection, model, pks):
    """As InsertedRows.batch()."""
    watcher = watcher_of(connection)
    if watcher is None:
        return nullcontext()
    return watcher.inserted.batch(connection, model._meta.concrete_model, pks)


@contextmanager
def naming_rows(connection, model, sql, keys):
    """
    Send one UPDATE of rows of the model's table, which may be too many to be
    named in its text. ``keys`` are their primary keys, as {attname: value}.
    """
    watcher = watcher_of(connection)
    if watcher is None:
        yield
        return
    watcher.named = NamedUpdate(connection, model, sql, keys)
    try:
        yield
    finally:
        watcher.named = None


def after_save(instance, created, using, **kwargs):
    connection = connections[using]
    watcher = watcher_of(connection)
    if watcher is not None:
        watcher.inserted.record(connection, instance if created else None)


connection_created.connect(install)
post_save.connect(after_save)

# Connections that were opened before this module was imported. Without
# settings there is no connection, and `connections` would require settings.
if settings.configured:
    for opened_before in connections.all(initialized_only=True):
        install(opened_before)
