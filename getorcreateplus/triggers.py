"""
PostgreSQL triggers that send notifications of rows written without Django, and
a listener that invalidates these rows.

A trigger sends the former primary keys of rows that are updated or deleted. It
sends nothing for an INSERT, and not the new key that an UPDATE sets, because
the cache has no row with a key that was not in the table.

PostgreSQL sends a NOTIFY with the commit. Until the listener receives it, the
cache may serve the older row. While no listener runs, notifications are lost,
so the listener invalidates all rows whenever it begins to listen.
"""

import json
import logging
import selectors
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

from django.core.management import CommandError
from django.db import DEFAULT_DB_ALIAS, Error, connections, router
from django.db.models import Model

from .bypassing import concrete_model
from .coherence import clients
from .coherence.faults import CacheFault
from .lookups.canonical import digest
from .writes.invalidate import MAX_INVALIDATED, invalidate_rows
from .writes.model_tables import tables_of
from .writes.registry import cached_models, examine

CHANNEL = "getorcreateplus"
# PostgreSQL's limits, in bytes: of a name, and of what a NOTIFY sends.
MAX_NAME_LENGTH = 63
MAX_PAYLOAD_LENGTH = 7999

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


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of both commands: labels of models, and a database."""
    parser.add_argument(
        "labels",
        nargs="*",
        metavar="app_label.ModelName",
        help="Cached models. Defaults to all of them.",
    )
    parser.add_argument(
        "--database",
        default=DEFAULT_DB_ALIAS,
        help='The database of the models. Defaults to "default".',
    )


def chosen_tables(labels: Iterable[str], using: str) -> dict[str, type[Model]]:
    """
    Return {db_table: model} of the cached models with these labels, and of
    their parents. Without labels, take all cached models of the database.

    Raise CommandError if there is nothing to do.
    """
    if using not in connections:
        raise CommandError(
            f"{using!r} is not in DATABASES, which has "
            f"{', '.join(map(repr, connections))}."
        )
    vendor = connections[using].vendor
    if vendor != "postgresql":
        raise CommandError(
            f"The database {using!r} is {vendor}: triggers need postgresql."
        )
    examine()
    if labels:
        models = list(map(cached_model, labels))
    else:
        models = [
            model for model in cached_models if router.allow_migrate_model(using, model)
        ]
    if not models:
        raise CommandError(f"The database {using!r} has no cached model.")
    tables = [table for model in models for table in tables_of(model)]
    return {table._meta.db_table: table for table in tables}


def cached_model(label: str) -> type[Model]:
    try:
        model = concrete_model(label)
    except LookupError as error:
        raise CommandError(str(error)) from None
    if model not in cached_models:
        raise CommandError(
            f"{model._meta.label} is not cached: give it a CachedManager or a "
            "PlusManager."
        )
    return model


# The SQL


def create_sql(model: type[Model], connection: Any) -> str:
    """Return the SQL that creates or replaces a table's triggers."""
    return CREATE.format(**names(model, connection), body=body(model, connection))


def drop_sql(model: type[Model], connection: Any) -> str:
    """Return the SQL that drops a table's triggers, if it has any."""
    return DROP.format(**names(model, connection))


def names(model, connection):
    table = model._meta.db_table
    function = f"getorcreateplus_{table}"
    if len(function.encode()) > MAX_NAME_LENGTH or '"' in table:
        function = f"getorcreateplus_{digest(table)}"
    quote_name = connection.ops.quote_name
    return {"table": quote_name(table), "function": quote_name(function)}


def body(model, connection):
    quote_name, opts = connection.ops.quote_name, model._meta
    return BODY.format(
        name=literal(opts.db_table),
        pk=", ".join(f"OLD.{quote_name(field.column)}" for field in opts.pk_fields),
        longest=MAX_PAYLOAD_LENGTH,
        channel=CHANNEL,
    )


def literal(name):
    return "'" + name.replace("'", "''") + "'"


# The listener


class Listener:
    """
    Invalidates the rows of some tables of one database, when their triggers
    send a notification.

    It needs Django's connection to the database for itself.
    """

    INTERVAL = 30  # seconds, after which a silent connection is checked
    FIRST_PAUSE = 0.1  # seconds
    MAX_PAUSE = 30  # seconds

    def __init__(self, tables: dict[str, type[Model]], using: str) -> None:
        self.tables = tables
        self.using = using
        self.connection: Any = connections[using]
        # db_table: {payload: primary key}, None for all rows
        self.received: dict[str, dict | None] = {}

    def begin(self) -> None:
        """Connect. Raise one of Django's database errors if that fails."""
        connection = self.connection
        connection.close()
        self.received.clear()
        connection.ensure_connection()
        connection.set_autocommit(True)
        connection.connection.add_notify_handler(self.receive)
        with connection.cursor() as cursor:
            cursor.execute(f'LISTEN "{CHANNEL}"')
        # After LISTEN, so that no write in between is missed.
        for model in self.tables.values():
            invalidate_rows(model, None, self.using)

    def run(self) -> NoReturn:
        """Listen forever, and reconnect whenever the connection fails."""
        while True:
            try:
                self.wait()
            except Error as error:
                self.reconnect(error)

    def wait(self) -> None:
        """Wait for notifications, for INTERVAL at most, and invalidate."""
        connection = self.connection
        seconds = 1 if pay_caches() else self.INTERVAL
        if self.received:  # during another query, as that of without_trigger()
            seconds = 0
        with connection.wrap_database_errors:
            socket = connection.connection.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(socket, selectors.EVENT_READ)
            selector.select(seconds)
        # Notifications come with the answer. Without one, the server is gone.
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        self.invalidate_received()

    def reconnect(self, error: Error) -> None:
        logger.warning(
            "Database %r failed, so notifications of its triggers do not arrive until "
            "it answers again: %r",
            self.using,
            error,
        )
        pause = self.FIRST_PAUSE
        while True:
            time.sleep(pause)
            pause = min(2 * pause, self.MAX_PAUSE)
            with suppress(Error):
                self.begin()
                break
        logger.info("Database %r answers again.", self.using)

    def receive(self, notification: Any) -> None:
        """Record a notification, which psycopg may pass during a query."""
        payload = notification.payload
        try:
            # As ["shop_tag", 1], or ["shop_tag"] for all rows.
            table, *pk = json.loads(payload, parse_float=str)
            known = self.received.setdefault(table, {})
        except (RecursionError, TypeError, ValueError):
            logger.warning(
                "Ignored a notification that no trigger of getorcreateplus sends: %r",
                payload,
            )
            return
        if known is not None:
            known[payload] = pk
            if not pk or len(known) > MAX_INVALIDATED:
                self.received[table] = None

    def invalidate_received(self) -> None:
        received, self.received = self.received, {}
        for table, keys in received.items():
            if table not in self.tables:
                continue  # a model that this listener does not have
            model, pks = self.tables[table], None
            if keys is not None:
                pks = [pk[0] if len(pk) == 1 else pk for pk in keys.values()]
            try:
                invalidate_rows(model, pks, self.using)
            except ValueError:
                # Python has no value for such a key, as for 'infinity'.
                invalidate_rows(model, None, self.using)

    def without_trigger(self) -> Iterator[tuple[type[Model], str]]:
        """Yield (model, fault) for each table without a valid trigger."""
        with self.connection.cursor() as cursor:
            for table, model in self.tables.items():
                name = self.connection.ops.quote_name(table)
                cursor.execute(FIND, [name])
                found = [source for (source,) in cursor.fetchall()]
                if not found:
                    yield model, "has no trigger"
                elif found != [body(model, self.connection)]:
                    yield model, "has a trigger that is out of date"


def pay_caches() -> bool:
    """
    Send the releases and locks that are owed to caches which had failed.
    Return True if one of them still fails.
    """
    is_owing = False
    for client in list(clients.by_alias.values()):
        try:
            client.ensure_usable()
        except CacheFault:
            is_owing = True
    return is_owing
