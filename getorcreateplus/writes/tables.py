"""Finds the cached models for the name of a table in a statement."""

import copy

from django.apps import apps

from ..lookups.canonical import pk_text
from . import registry
from .model_tables import (
    column_of,
    deleted_by_database,
    end_of_relation,
    has_pk_of,
    tables_of,
)
from .registry import examine, examining, indexes
from .statements import Names, fold, words_of
from .stored_values import is_stored_as_sent
from .text_columns import are_exact


def table_index(connection):
    examine()
    try:
        return indexes[connection.alias]
    except KeyError:
        with examining:
            return indexes.setdefault(connection.alias, TableIndex(connection))


class TableIndex:
    """
    The tables of a database that hold cached rows or change them, by name.
    """

    def __init__(self, connection):
        quote_name = connection.ops.quote_name
        self.quote_name = quote_name
        self.tables = {}  # quoted table: [TableOfModel]
        self.referring = {}  # quoted table: cached models that its deletes change
        self.folded_names = {}  # quoted table: its folded name, without a schema
        models_of = {}  # quoted table: models
        for model in apps.get_models(include_auto_created=True):
            name = quote_name(model._meta.db_table)
            models_of.setdefault(name, []).append(model)
        for cached_model in registry.cached_models.values():
            for model in tables_of(cached_model.model):
                name = quote_name(model._meta.db_table)
                table = TableOfModel(cached_model, model)
                self.tables.setdefault(name, []).append(table)
                deleted_by_database(model, found := set())
                for other in found:
                    name = quote_name(other._meta.db_table)
                    self.referring.setdefault(name, []).append(cached_model)
        self.text_keys = frozenset().union(
            *(each.text_keys for each in registry.cached_models.values())
        )
        # The tables of the project's models, spelled as in Django's SQL.
        self.names_of_models = set(models_of)
        self.quoted_names = {}  # folded name: the quoted tables that it may be
        for name in dict.fromkeys((*self.tables, *self.referring, *models_of)):
            self.folded_names[name] = folded = folded_name(name)
            self.quoted_names.setdefault(folded, []).append(name)
        for same in self.quoted_names.values():
            if len(same) > 1:
                self.unite(same, models_of)
        self.cached = {}  # folded name: the cached models whose rows it holds
        for name in (*self.tables, *self.referring):
            found = self.cached.setdefault(self.folded_names[name], {})
            for table in self.tables.get(name, ()):
                found[table.cached_model] = None
            found |= dict.fromkeys(self.referring.get(name, ()))
        self.cached_names = Names(self.cached)
        self.all_names = Names(self.quoted_names)

    def cached_models_of(self, names):
        """Return the cached models whose rows these tables hold."""
        return [each for name in names for each in self.cached.get(name, ())]

    def unite(self, same, models_of):
        """
        Treat several spellings of a table as the same, with and without a
        schema.

        They may be two tables in two schemas: then both are invalidated.
        """
        tables = {name: self.tables.get(name, []) for name in same}
        referring = [each for name in same for each in self.referring.get(name, ())]
        for name in same:
            others = [
                table for other in same if other != name for table in tables[other]
            ]
            writers = models_of.get(name, ())
            united = [*tables[name], *(table.written_by(writers) for table in others)]
            if united:
                self.tables[name] = united
            if referring:
                self.referring[name] = referring

    def quoted_names_in(self, sql):
        """Return the quoted tables that any statement mentions."""
        found = self.cached_names.mentioned(words_of(sql))
        return {
            name
            for folded in found
            for name in self.quoted_names[folded]
            if name in self.tables or name in self.referring
        }


def folded_name(name):
    """Return the folded name of a quoted table, without its schema."""
    # PostgreSQL cuts a name after 63 bytes.
    last = fold(name[1:-1].rpartition(name[0])[2]).encode()
    return last[:63].decode(errors="ignore")


class TableOfModel:
    """A table that holds a part of a cached model's rows."""

    def __init__(self, cached_model, model):
        opts = model._meta
        self.cached_model = cached_model
        self.opts = opts
        # A new row of a parent's table is not a row of the model.
        self.is_own = model is cached_model.model
        # True if the table's primary key names the row of the model. It does
        # not if a child has its own primary key.
        self.names_row = has_pk_of(cached_model.model, model) and all(
            map(is_stored_as_sent, map(end_of_relation, opts.pk_fields))
        )

    def written_by(self, models):
        """Return a copy for statements of other models with the same table."""
        table = copy.copy(self)
        own = dict(map(column_of, self.opts.pk_fields))
        for model in models:
            others = dict(map(column_of, model._meta.concrete_fields))
            if any(others.get(name, kind) != kind for name, kind in own.items()):
                table.names_row = False
        return table


def has_exact_keys(cached_model, connection):
    """
    Return True if the primary keys in a statement are exactly the keys, as
    texts, of the rows that it writes.
    """
    return not cached_model.text_keys or are_exact(
        connection, cached_model.text_keys, table_index(connection).text_keys
    )


def all_rows(found, using, of_all_tenants=False):
    """Return {region: None}, for a write that does not name its rows."""
    return {
        region: None
        for cached_model in found
        for region in cached_model.all_regions(using, of_all_tenants)
    }


def pk_of(instance, model):
    """Return the text of the primary key of the instance's row in a table."""
    opts = model._meta
    names = [field.attname for field in opts.pk_fields]
    return pk_text(opts, {name: getattr(instance, name) for name in names})
