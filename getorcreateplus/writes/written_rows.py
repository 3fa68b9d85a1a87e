"""
The rows that a statement in one of Django's forms names, and the databases
that a statement writes.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from django.db import connections

from ..environment import databases
from ..lookups.canonical import pk_text
from .captured_rows import SEQUENCES
from .registry import settings_of
from .sessions import GAP
from .statements import fold
from .tables import all_rows, has_exact_keys, table_index

NAME = r'"[^"]+"(?:\."[^"]+")*|`[^`]+`(?:\.`[^`]+`)*'
# The beginnings of Django's statements.
WRITE = re.compile(
    rf"(UPDATE|DELETE FROM|INSERT(?: OR IGNORE| IGNORE)? INTO) ({NAME})"
    r"(?: SET | WHERE | \(|\Z)"
)
# A name with a schema.
QUALIFIED = re.compile(rf"[\w\"`]{GAP}*+\.{GAP}*+[\w\"`]", re.DOTALL)


def rows_by_pk(index, using, write, sql, params):
    """
    Return {region: primary keys} that an UPDATE or DELETE in Django's form
    writes. None instead of the keys means all rows.
    """
    name = write[2]
    rows = {}
    for table in index.tables.get(name, ()):
        pks = named_pks(index, table, name, sql, params)
        if pks is not None and not has_exact_keys(
            table.cached_model, connections[using]
        ):
            pks = None
        for region in table.cached_model.all_regions(using, names_schema(name)):
            rows[region] = pks if region.version_per_row else None
    if write[1] == "DELETE FROM":
        rows |= all_rows(index.referring.get(name, ()), using, names_schema(name))
    return rows


PKS = re.compile(
    r" WHERE (?P<columns>.+) (?:=|IN) "
    r"(?P<values>%s|\(%s(?:, %s)*\)|\(\(%s(?:, %s)*\)(?:, \(%s(?:, %s)*\))*\))"
    r"(?: RETURNING [^%]+)?\Z"
)
MAX_NAMED_ROWS = 20  # if a statement names more, all rows count as written
MAX_KEPT_SQL = 4000  # characters; longer statements are not remembered


def named_pks(index, table, name, sql, params):
    """Return the primary keys that a statement names, None without them."""
    if not isinstance(params, SEQUENCES):
        return None
    # The place in the text is the same for all parameters.
    find: Callable = place_of_pks
    if len(sql) > MAX_KEPT_SQL:
        find = place_of_pks.__wrapped__
    place = find(index, table, name, sql)
    if place is None or place.number > len(params):
        return None
    number, attnames = place
    values, width = list(params)[-number:], len(attnames)
    pks = [
        pk_text(table.opts, dict(zip(attnames, values[i : i + width], strict=True)))
        for i in range(0, number, width)
    ]
    return None if None in pks else pks


class PlaceOfPks(NamedTuple):
    """The last parameters of a statement, which are primary keys."""

    number: int  # of these parameters
    attnames: list  # of one primary key


@lru_cache(maxsize=1000)
def place_of_pks(index, table, name, sql):
    """Return the place of the primary keys that a statement names, or None."""
    if not table.names_row or sql.count(" WHERE ") != 1:
        return None
    where = PKS.search(sql)
    if where is None:
        return None
    columns = [index.quote_name(field.column) for field in table.opts.pk_fields]
    names = ", ".join(f"{name}.{column}" for column in columns)
    if where["columns"] != (names if len(columns) == 1 else f"({names})"):
        return None
    assignments = sql[: where.start()]
    if any(re.search(f"(?: SET|,) {re.escape(c)} = ", assignments) for c in columns):
        return None  # the rows get other primary keys
    count = where["values"].count("%s")
    if count > MAX_NAMED_ROWS * len(columns):
        return None
    return PlaceOfPks(count, [field.attname for field in table.opts.pk_fields])


class NamedUpdate:
    """An UPDATE whose rows are not named in its text, but passed with it."""

    def __init__(self, connection, model, sql, keys):
        self.connection = connection
        self.opts = model._meta
        self.table = connection.ops.quote_name(self.opts.db_table)
        self.sql = sql
        self.keys = keys  # [{attname: value}]

    def rows(self, index, using):
        """Return {region: primary keys}, as rows_by_pk() does."""
        own, rows = self.opts.pk_fields, {}
        if not self.keys:
            return rows  # The UPDATE only locks SQLite's database.
        for table in index.tables.get(self.table, ()):
            pks, fields = None, table.opts.pk_fields
            if (
                table.names_row
                and [f.column for f in fields] == [f.column for f in own]
                and has_exact_keys(table.cached_model, self.connection)
            ):
                names = [
                    (f.attname, o.attname) for f, o in zip(fields, own, strict=True)
                ]
                pks = [
                    pk_text(table.opts, {name: key[its] for name, its in names})
                    for key in self.keys
                ]
                if None in pks:
                    pks = None
            qualified = names_schema(self.table)
            for region in table.cached_model.all_regions(using, qualified):
                rows[region] = pks if region.version_per_row else None
        return rows


def names_schema(name):
    """Return True if a quoted table has a schema, as a tenant's table has."""
    return name.count(name[0]) > 2


UPSERT = re.compile(r"\bUPDATE\b", re.IGNORECASE)


def is_upsert(text):
    # The search takes 3 us, and a thousand times as long for many rows.
    return "UPDATE" in text.upper() and UPSERT.search(text) is not None


# Databases


def alias_of(connection):
    """
    Return the alias in DATABASES of a connection's database, or None. The
    connection itself may have another alias, from connection.copy().
    """
    if connection.alias in connections.settings:
        return connection.alias
    server = databases.server_and_name(connection.settings_dict)
    others = (each for each in connections if server is not None)
    return next(
        (a for a in others if databases.server_and_name(settings_of(a)) == server), None
    )


def aliases_of(connection, text=None):
    """
    Return the aliases of a connection's database, and of the databases that a
    text names. Django sends CREATE DATABASE through a connection without a
    database and an alias.
    """
    aliases = {alias_of(connection)} - {None}
    for alias in connections if text is not None else ():
        name = str(connections[alias].settings_dict["NAME"])
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE):
            aliases.add(alias)
    return aliases


def rows_in_other_databases(connection, words):
    """
    Return the rows that MySQL writes in other databases that a statement
    names.
    """
    rows = {}
    for alias in connections if len(connections.settings) > 1 else ():
        other = settings_of(alias)
        if databases.is_same_server(connection.settings_dict, other):
            name = fold(str(other["NAME"]))
            if name in words and name != fold(str(connection.settings_dict["NAME"])):
                index = table_index(connections[alias])
                rows |= all_rows(
                    index.cached_models_of(index.cached_names.mentioned(words)), alias
                )
    return rows
