"""
Tables that show or hold the rows of others: partitions, inheritance, views.

The driver's own cursor reads them from the catalog of a database, because this
is not the user's query: once in each process, and again after a statement that
changes the schema.
"""

import re
from contextlib import closing

from django.db import connections

from ..coherence import drivers
from .statements import Names, fold, word_set, words_of

relations_by_alias = {}  # database alias: (NAME of the database, Relations)


def relations_of(connection, tables, fresh=False):
    """
    Return the Relations of a connection's database, None if they cannot be
    read now. ``tables`` are the names of the tables that a view's text may
    mention.
    """
    name = connection.settings_dict["NAME"]
    found = relations_by_alias.get(connection.alias)
    if found is not None and found[0] == name and not fresh:
        return found[1]
    relations = read_relations(connection, tables)
    if relations is not None:
        relations_by_alias[connection.alias] = name, relations
    return relations


def discard_relations(connection):
    """Make relations_of() read again, because the schema has changed."""
    if connection.alias in connections:
        relations_by_alias.pop(connection.alias, None)
    else:  # Django creates and drops databases with a connection without an alias
        relations_by_alias.clear()


MAX_UNRELATED = 1000


class Relations:
    """The relations between the tables of a database, by folded names."""

    def __init__(self, edges):
        self.written = {}  # a table: tables whose rows a write of it may change
        self.shown = {}  # a table: tables that show its rows
        self.affected_tables = {}  # a table: affected()
        self.unrelated = set()  # targets of statements that have no relations
        for names in edges:
            dependent, source = map(fold, names[:2])
            _, _, is_child, shows = names
            if is_child:
                self.written.setdefault(source, set()).add(dependent)
                self.shown.setdefault(dependent, set()).add(source)
            else:
                self.written.setdefault(dependent, set()).add(source)
                if shows:
                    self.shown.setdefault(source, set()).add(dependent)
        self.names = Names(
            {*self.written, *self.shown, *ends_of(self.written), *ends_of(self.shown)}
        )

    def affected(self, name):
        """
        Return the tables that may show other rows after a write of this table.
        """
        try:
            return self.affected_tables[name]
        except KeyError:
            found = closure({name}, self.written)
            found = closure(found, self.shown) - {name}
            return self.affected_tables.setdefault(name, found)

    def covers(self, text, names):
        """
        Return True if each table that a statement may write is among these
        Names or in these Relations, or was not found in the catalog before.
        """
        targets = {fold(target) for target in targets_of(text)} - self.unrelated
        return all(
            names.mentioned(words) or self.names.mentioned(words)
            for words in map(words_of, targets)
        )

    def record_unrelated(self, text):
        """Record that these tables of a statement have no relations."""
        if len(self.unrelated) > MAX_UNRELATED:
            self.unrelated.clear()
        self.unrelated.update(fold(target) for target in targets_of(text))


def closure(names, edges):
    """
    Return these names, and all names that can be reached along the edges.
    """
    found, new = set(), set(names)
    while new:
        found |= new
        new = {end for name in new for end in edges.get(name, ())} - found
    return found


def ends_of(edges):
    return {end for found in edges.values() for end in found}


# The tables that a statement writes.
BEFORE_TARGETS = word_set(
    "concurrently copy exists from into only table truncate update view"
)
TARGET = re.compile(
    rf"\b(?:{'|'.join(BEFORE_TARGETS)})\s+"
    r'((?:[\w."`$-]|"[^"]*"|`[^`]*`)+)',
    re.IGNORECASE,
)


def targets_of(text):
    """Yield the names of the tables that a statement may write."""
    if not text.isascii():
        yield from TARGET.findall(text)
        return
    # Searching for each word first takes a tenth of the time.
    lower = text.lower()
    for word in BEFORE_TARGETS:
        place = lower.find(word)
        while place >= 0:
            if match := TARGET.match(text, place):
                yield match[1]
            place = lower.find(word, place + 1)


# Reading the catalog

NO_RELATIONS = Relations(())
# The dependent table, the table on which it depends, whether it is a child,
# and whether it shows rows. A rule of a table writes the tables that it names.
# A materialized view shows other rows after it is refreshed.
POSTGRESQL = """
SELECT child.relname, parent.relname, TRUE, TRUE
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class child ON child.oid = i.inhrelid
JOIN pg_catalog.pg_class parent ON parent.oid = i.inhparent
WHERE parent.relkind IN ('r', 'p', 'f')
UNION
SELECT view.relname, source.relname, FALSE, view.relkind = 'v'
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
JOIN pg_catalog.pg_class view ON view.oid = r.ev_class
JOIN pg_catalog.pg_class source ON source.oid = d.refobjid
JOIN pg_catalog.pg_namespace n ON n.oid = view.relnamespace
WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
AND view.oid <> source.oid
AND view.relkind IN ('r', 'p', 'v')
AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""
# These databases have only a view's text. The text of a table is NULL.
MYSQL = """
SELECT TABLE_NAME, VIEW_DEFINITION FROM information_schema.VIEWS
WHERE TABLE_SCHEMA = DATABASE()
UNION ALL
SELECT TABLE_NAME, NULL FROM information_schema.TABLES
WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE <> 'VIEW'
"""
SQLITE = """
SELECT name, CASE type WHEN 'view' THEN sql END FROM sqlite_master
WHERE type IN ('table', 'view')
UNION ALL
SELECT name, CASE type WHEN 'view' THEN sql END FROM sqlite_temp_master
WHERE type IN ('table', 'view')
"""


def read_relations(connection, tables):
    """Read the Relations from the database; return None if that fails."""
    if connection.vendor == "postgresql":
        rows = rows_of_catalog(connection, POSTGRESQL)
        return None if rows is None else Relations(rows)
    sql = {"mysql": MYSQL, "sqlite": SQLITE}.get(connection.vendor)
    if sql is None:
        return NO_RELATIONS
    rows = rows_of_catalog(connection, sql)
    if rows is None:
        return None
    names = Names({fold(table) for table in tables} | {fold(row[0]) for row in rows})
    return Relations(
        (view, source, False, True)
        for view, text in rows
        for source in names.mentioned(words_of(text or ""))
        if source != fold(view)
    )


def rows_of_catalog(connection, sql):
    if not drivers.can_ask(connection):
        return None
    with (
        connection.wrap_database_errors,
        closing(connection.connection.cursor()) as cursor,
    ):
        cursor.execute(sql)
        return cursor.fetchall()
