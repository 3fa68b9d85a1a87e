"""
For programs that write beside Django: PostgreSQL triggers that tell which rows
they write, and a listener that forgets these.

A trigger tells of rows that are updated or deleted, by the primary key that
they had. Of a key that was not in the table the cache has no row: there is
nothing to tell of an INSERT, nor of the key that an UPDATE gives.

PostgreSQL sends a NOTIFY with the commit. So until the listener has heard of
it, others may be served the older row; and of what is written while there is
no listener it never hears: whenever it begins to listen, it then forgets all.
"""

import json
import logging
import selectors
import time
from contextlib import suppress

from django.core.management import CommandError
from django.db import DEFAULT_DB_ALIAS, Error, connections, router

from .bypassing import concrete_model
from .coherence import protocol as coherence
from .lookups.canonical import digest
from .writes import invalidation

CHANNEL = "getorcreateplus"
# Of the names of PostgreSQL, and of a NOTIFY, in bytes.
LONGEST_NAME = 63
LONGEST_PAYLOAD = 7999

CREATE = """\
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
    LANGUAGE plpgsql AS $body${body}$body$;
CREATE OR REPLACE TRIGGER "getorcreateplus" AFTER UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION {function}();
CREATE OR REPLACE TRIGGER "getorcreateplus_truncate" AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
"""
BODY = """
DECLARE
    payload text := json_build_array({name})::text;
    of_row text;
BEGIN
    IF TG_OP <> 'TRUNCATE' THEN
        BEGIN
            of_row := json_build_array({name}, {pk})::text;
        EXCEPTION WHEN undefined_column THEN
            of_row := payload; -- it has another primary key by now
        END;
        IF octet_length(of_row) <= {longest} THEN
            payload := of_row;
        END IF;
    END IF;
    PERFORM pg_notify('{channel}', payload);
    RETURN NULL;
END
"""
DROP = """\
DROP TRIGGER IF EXISTS "getorcreateplus" ON {table};
DROP TRIGGER IF EXISTS "getorcreateplus_truncate" ON {table};
DROP FUNCTION IF EXISTS {function}();
"""
FIND = """
SELECT prosrc FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_proc
    ON pg_proc.oid = tgfoid
    WHERE tgrelid = to_regclass(%s) AND tgname = 'getorcreateplus'
    AND tgenabled <> 'D'
"""

logger = logging.getLogger("getorcreateplus")


def add_arguments(parser):
    """Add the arguments of both commands: labels of models, and a database."""
    parser.add_argument(
        "labels",
        nargs="*",
        metavar="app_label.ModelName",
        help="Cached models; all without any.",
    )
    parser.add_argument(
        "--database",
        default=DEFAULT_DB_ALIAS,
        help='The database of the models. Defaults to "default".',
    )


def tables_of(labels, using):
    """
    Return {db_table: model} of the cached models with these labels, and of
    their parents; without labels of all in a database.

    Raise CommandError where there is nothing to do.
    """
    if using not in connections:
        raise CommandError(
            f"{using!r} is not in DATABASES, which has "
            f"{', '.join(map(repr, connections))}."
        )
    vendor = connections[using].vendor
    if vendor != "postgresql":
        raise CommandError(
            f"The database {using!r} is {vendor}, and this is for postgresql alone."
        )
    invalidation.examine()
    if labels:
        models = list(map(cached_model, labels))
    else:
        models = [
            model
            for model in invalidation.watched
            if router.allow_migrate_model(using, model)
        ]
    if not models:
        raise CommandError(f"No model is cached of the database {using!r}.")
    tables = [table for model in models for table in invalidation.tables(model)]
    return {table._meta.db_table: table for table in tables}


def cached_model(label):
    try:
        model = concrete_model(label)
    except LookupError as error:
        raise CommandError(str(error)) from None
    if model not in invalidation.watched:
        raise CommandError(
            f"{model._meta.label} is not cached: none of its managers is one of "
            "getorcreateplus."
        )
    return model


# The SQL


def create_sql(model, connection):
    """Return the SQL that makes a table's triggers, or makes them anew."""
    return CREATE.format(**names(model, connection), body=body(model, connection))


def drop_sql(model, connection):
    """Return the SQL that drops a table's triggers, where it has some."""
    return DROP.format(**names(model, connection))


def names(model, connection):
    table = model._meta.db_table
    function = f"getorcreateplus_{table}"
    if len(function.encode()) > LONGEST_NAME or '"' in table:
        function = f"getorcreateplus_{digest(table)}"
    quote_name = connection.ops.quote_name
    return {"table": quote_name(table), "function": quote_name(function)}


def body(model, connection):
    quote_name, opts = connection.ops.quote_name, model._meta
    return BODY.format(
        name=literal(opts.db_table),
        pk=", ".join(f"OLD.{quote_name(field.column)}" for field in opts.pk_fields),
        longest=LONGEST_PAYLOAD,
        channel=CHANNEL,
    )


def literal(name):
    return "'" + name.replace("'", "''") + "'"


# The listener


class Listener:
    """
    Forget the rows that the triggers of some tables tell, of one database.

    It takes over Django's connection to the database.
    """

    INTERVAL = 30  # seconds, after which a silent connection is tried
    FIRST_PAUSE = 0.1  # seconds
    LONGEST_PAUSE = 30  # seconds

    def __init__(self, tables, using):
        self.tables = tables
        self.using = using
        self.connection = connections[using]
        self.heard = {}  # db_table: {payload: primary key}, None for all rows

    def begin(self):
        """Connect. Raise an Error of Django's where that fails."""
        connection = self.connection
        connection.close()
        self.heard.clear()
        connection.ensure_connection()
        connection.set_autocommit(True)
        connection.connection.add_notify_handler(self.note)
        with connection.cursor() as cursor:
            cursor.execute(f'LISTEN "{CHANNEL}"')
        # Not before it listens, or what is written in between is missed.
        for model in self.tables.values():
            invalidation.invalidate_rows(model, None, self.using)

    def run(self):
        """Listen for ever, and begin anew whenever the connection fails."""
        while True:
            try:
                self.wait()
            except Error as error:
                self.begin_anew(error)

    def wait(self):
        """Wait for something to be told, for INTERVAL at most."""
        connection = self.connection
        seconds = 1 if pay_caches() else self.INTERVAL
        if self.heard:  # by another query, as that of without_trigger()
            seconds = 0
        with connection.wrap_database_errors:
            socket = connection.connection.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(socket, selectors.EVENT_READ)
            selector.select(seconds)
        # The answer brings what was told; without one, the server is gone.
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        self.forget()

    def begin_anew(self, error):
        logger.warning(
            "Database %r failed, and what its triggers tell is not heard: %r",
            self.using,
            error,
        )
        pause = self.FIRST_PAUSE
        while True:
            time.sleep(pause)
            pause = min(2 * pause, self.LONGEST_PAUSE)
            with suppress(Error):
                self.begin()
                break
        logger.info("Database %r is heard again.", self.using)

    def note(self, notification):
        """Called by psycopg, in the middle of a query."""
        payload = notification.payload
        try:
            # As ["shop_tag", 1], or ["shop_tag"] for all rows.
            table, *pk = json.loads(payload, parse_float=str)
            known = self.heard.setdefault(table, {})
        except (RecursionError, TypeError, ValueError):
            logger.warning("No trigger of getorcreateplus has told %r.", payload)
            return
        if known is not None:
            known[payload] = pk
            if not pk or len(known) > invalidation.MOST_FORGOTTEN:
                self.heard[table] = None

    def forget(self):
        heard, self.heard = self.heard, {}
        for table, keys in heard.items():
            if table not in self.tables:
                continue  # of a model that it was not asked for
            model, pks = self.tables[table], None
            if keys is not None:
                pks = [pk[0] if len(pk) == 1 else pk for pk in keys.values()]
            try:
                invalidation.invalidate_rows(model, pks, self.using)
            except ValueError:
                # Of keys that Python has no value for, such as 'infinity'.
                invalidation.invalidate_rows(model, None, self.using)

    def without_trigger(self):
        """Yield (model, fault) of each table that does not tell all."""
        with self.connection.cursor() as cursor:
            for table, model in self.tables.items():
                name = self.connection.ops.quote_name(table)
                cursor.execute(FIND, [name])
                found = [source for (source,) in cursor.fetchall()]
                if not found:
                    yield model, "has no trigger"
                elif found != [body(model, self.connection)]:
                    yield model, "has a trigger that is out of date"


def pay_caches():
    """
    Pay what caches are owed that had failed. Return whether one still fails.
    """
    is_owing = False
    for store in list(coherence.stores.values()):
        try:
            store.wait()
        except (coherence.Unavailable, coherence.Garbage):
            is_owing = True
    return is_owing
