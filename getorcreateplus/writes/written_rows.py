"""
The rows that a statement names, if it has one of Django's forms, and the
databases that a statement writes.
"""

import re

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
    writes; None in place of the keys means all rows.
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


def named_pks(index, table, name, sql, params):
    """
    Return the primary keys that a statement names, None if it names none.
    """
    if (
        not table.names_row
        or not isinstance(params, SEQUENCES)
        or sql.count(" WHERE ") != 1
    ):
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
        return None  # the rows get another primary key
    width, count = len(columns), where["values"].count("%s")
    if count > MAX_NAMED_ROWS * width or count > len(params):
        return None
    values = list(params)[-count:]
    attnames = [field.attname for field in table.opts.pk_fields]
    pks = [
        pk_text(table.opts, dict(zip(attnames, values[i : i + width], strict=True)))
        for i in range(0, count, width)
    ]
    return None if None in pks else pks


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
    connection itself may have another alias, which connection.copy() has given
    it.
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
    text names: Django sends CREATE DATABASE on a connection that has neither a
    database nor an alias.
    """
    aliases = {alias_of(connection)} - {None}
    for alias in connections if text is not None else ():
        name = str(connections[alias].settings_dict["NAME"])
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE):
            aliases.add(alias)
    return aliases


def rows_in_other_databases(connection, words):
    """Return what MySQL writes in other databases that a statement names."""
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
