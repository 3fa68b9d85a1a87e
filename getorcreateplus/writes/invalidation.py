"""
Which models are cached, and what tells the cache that their rows change.

A model is cached when one of its managers, or of its proxies' managers, makes
querysets that cache: every process that has the model's code then knows it.

Rows change by statements, whoever sends them: save(), any manager's update(),
a related manager's add(), a cascade, a migration, raw SQL. So an execute
wrapper on each connection reads them. In the form that Django gives it, an
UPDATE or DELETE tells its table, and its rows if it names them by primary key.
Of any other statement that may write, each table that it mentions counts.

Only an INSERT does not tell its row: post_save does.
"""

import copy
import logging
import os
import re
import threading
import weakref
from contextlib import contextmanager, nullcontext, suppress

from django.apps import apps
from django.conf import settings
from django.core.cache import DEFAULT_CACHE_ALIAS, caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ValidationError
from django.core.signals import setting_changed
from django.db import (
    DataError,
    Error,
    IntegrityError,
    ProgrammingError,
    connections,
    models,
    router,
)
from django.db.backends.signals import connection_created
from django.db.models.signals import class_prepared, post_save
from django.utils.functional import cached_property

from ..bypassing import concrete_model
from ..coherence import drivers
from ..coherence import protocol as coherence
from ..environment import identity
from ..environment.aliases import cache_faults, object_cache_alias, usable_connections
from ..environment.interruptions import reraise
from ..lookups.canonical import has_exact_pk, is_text_field, pk_text
from . import relations
from .captured_rows import SEQUENCES, is_exact
from .guards import Conflict
from .statements import (
    Names,
    effect_of,
    fold,
    statement_of,
    words,
    words_of,
)
from .text_columns import are_exact, refresh, watching

logger = logging.getLogger("getorcreateplus")


class Watched:
    """A cached model, and the caches that its querysets name."""

    def __init__(self, model):
        self.model = model
        self.declared = {}  # an object_cache_alias: the timeouts beside it
        self.key_cache_aliases = set()
        self.aliases = {}  # an object_cache_alias: alias of the rows' cache
        # (object_cache_alias, database, keys): region
        self.regions = {}
        self.others = weakref.WeakValueDictionary()
        self.without_keys = set()  # aliases of caches whose KEY_FUNCTION raised

    def declare(self, queryset_class):
        # Of a queryset that does not cache: the defaults of one that does.
        alias = getattr(queryset_class, "object_cache_alias", None)
        timeout = getattr(queryset_class, "cache_timeout", DEFAULT_TIMEOUT)
        self.declared.setdefault(alias, set()).add(timeout)
        self.key_cache_aliases.add(
            getattr(queryset_class, "key_cache_alias", DEFAULT_CACHE_ALIAS)
        )

    def region(self, using, declared):
        """
        Return the region of the database and of the keys of this moment, None
        where the rows' cache cannot be used.
        """
        alias = self.aliases.get(declared)
        if alias is None:
            alias = self.aliases[declared] = self.alias(declared)
        if not alias:
            return None  # getorcreateplus.E001
        name = identity.database_name(using, settings_of(using))
        try:
            at = declared, name, identity.key_identity(caches[alias])
        except Exception as error:  # noqa: BLE001 - of a KEY_FUNCTION
            reraise(error)
            self.warn_of_key_function(alias, error)
            return None
        try:
            return self.regions[at]
        except KeyError:
            with examining:
                return self._keep(at, using, alias)

    def warn_of_key_function(self, alias, error):
        if alias not in self.without_keys:
            self.without_keys.add(alias)
            logger.warning(
                "%s is not cached where KEY_FUNCTION of the cache %r raises: %r",
                self.model._meta.label,
                alias,
                error,
            )

    def alias(self, declared):
        """Return the alias of the rows' cache, "" where it cannot be used."""
        alias = object_cache_alias(self.model._meta, declared)
        return "" if cache_faults[alias] else alias

    def _keep(self, at, using, alias):
        region = self.regions.get(at) or self.others.get(at)
        if region is None:
            region = self._region(at, using, alias)
        if len(self.regions) >= MOST_REGIONS:
            # The others live for as long as something is kept under them.
            oldest = next(iter(self.regions))
            self.others[oldest] = self.regions.pop(oldest)
        self.regions[at] = region
        return region

    def _region(self, at, using, alias):
        declared, name, _ = at
        opts = self.model._meta
        return coherence.Region(
            self.model,
            using,
            alias,
            database=name,
            # In a cache that may be shared the keys name the model.
            own_cache=alias == opts.model_name != DEFAULT_CACHE_ALIAS,
            timeout=shortest(self.declared[declared], alias),
            version_per_row=has_exact_pk(opts, connections[using].vendor),
            one_table=len(tables(self.model)) == 1,
        )

    @cached_property
    def text_keys(self):
        """The (table, column)s of its primary keys that hold texts."""
        return frozenset(
            (table._meta.db_table, field.column)
            for table in tables(self.model)
            for field in table._meta.pk_fields
            if is_text_field(field)
        )

    def names_rows(self, connection):
        """
        Tell whether the rows that a statement writes are those with the texts
        of the primary keys that it names.
        """
        return not self.text_keys or are_exact(
            connection, self.text_keys, index(connection).text_keys
        )

    def all_regions(self, using, of_all_tenants=False):
        """
        Return the regions of what a write through this alias changes: of the
        tenant of this moment, or of all that this process has met.
        """
        aliases = identity.aliases_of_database(using, settings_of(using))
        regions = [
            self.region(alias, declared)
            for alias in aliases
            for declared in self.declared
        ]
        if of_all_tenants:
            known = [*self.regions.values(), *self.others.values()]
            regions += [region for region in known if region.using in aliases]
        return [region for region in dict.fromkeys(regions) if region is not None]

    def forget_regions(self):
        self.aliases.clear()
        self.regions.clear()
        self.others.clear()

    def faults(self):
        """Yield what is wrong with the caches that its querysets name."""
        opts = self.model._meta
        rows = {object_cache_alias(opts, declared) for declared in self.declared}
        for name, aliases in (
            ("key_cache_alias", self.key_cache_aliases),
            ("object_cache_alias", rows),
        ):
            for alias in sorted(aliases):
                if cache_faults[alias]:
                    yield (
                        f"{name} = {alias!r} of a queryset of {opts.label} "
                        f"{cache_faults[alias]}: see the system check "
                        "getorcreateplus.E001."
                    )


MOST_REGIONS = 1000  # of one model, as many as there are databases and tenants


def settings_of(using):
    # Not those of DATABASES: a connection may have been given others.
    return connections[using].settings_dict


def shortest(timeouts, alias):
    """Return the shortest of the timeouts that share the rows of a cache."""
    if len(timeouts) == 1:
        [timeout] = timeouts
        return timeout
    default = caches[alias].default_timeout
    seconds = [default if t is DEFAULT_TIMEOUT else t for t in timeouts]
    return min((t for t in seconds if t is not None), default=None)


watched = {}  # concrete model: Watched
pending = []  # models whose managers nobody has looked at
examined = []  # those that somebody is just looking at
indexes = {}  # database alias: Index
examining = threading.RLock()


def begin_anew():
    """A thread of the parent of a fork may have been looking at a model."""
    global examining  # noqa: PLW0603
    examining = threading.RLock()
    pending[:0] = examined
    examined.clear()


os.register_at_fork(after_in_child=begin_anew)


def region_of(queryset):
    """
    Return the region of a queryset's rows, None if they are not watched, or
    its caches cannot be used.
    """
    examine()
    watch = watched.get(queryset.model._meta.concrete_model)
    if (
        watch is None
        or queryset.object_cache_alias not in watch.declared
        or cache_faults[queryset.key_cache_alias]
    ):
        return None
    return watch.region(queryset.db, queryset.object_cache_alias)


# Discovery


def notice(sender, **kwargs):
    """Have a new model's managers looked at, once all models are there."""
    # Models of a migration's state are written to by the same statements.
    if sender._meta.apps is apps:
        pending.append(sender)


def examine():
    """Look at the managers of the models that are new."""
    # Both lists are empty only when nobody is looking: another thread, which
    # is about to write, waits here.
    if not (pending or examined) or not apps.models_ready:
        return
    with examining:
        while pending:
            examined.append(pending[0])  # in a list at each moment, for a fork
            pending.pop(0)
            look_at(examined[-1])
            indexes.clear()
            examined.pop()


def look_at(model):
    opts = model._meta
    if opts.swapped:
        return  # it has no table
    for manager in opts.managers:
        queryset_class = queryset_class_of(manager)
        if not hasattr(queryset_class, "object_cache_alias"):
            # Elsewhere it may not raise, and cache: the writes count.
            raises = queryset_class is None
            queryset_class = manager._queryset_class
            if not (raises or hasattr(queryset_class, "object_cache_alias")):
                continue
        model = opts.concrete_model
        watched.setdefault(model, Watched(model)).declare(queryset_class)


def queryset_class_of(manager):
    """Return the class of the querysets that a manager makes, or None."""
    try:
        return type(manager.get_queryset())
    except Exception as error:  # noqa: BLE001 - it may want a request, or a tenant.
        reraise(error)
        return None


def forget_regions(*, setting, **kwargs):
    if setting == "CACHES":
        coherence.stores.clear()
        for watch in watched.values():
            watch.forget_regions()


# What a statement's table has to do with cached rows


class Part:
    """A table that holds a part of a cached model's rows."""

    def __init__(self, watch, model):
        opts = model._meta
        self.watch = watch
        self.opts = opts
        # Where they are only in tables of parents, a new row is none of its.
        self.is_own = model is watch.model
        # Whether the table's primary key tells the row: that of a child that
        # has a primary key of its own is another one.
        self.tells_row = has_pk_of(watch.model, model) and all(
            map(is_exact, map(end_of_relation, opts.pk_fields))
        )

    def written_by(self, models):
        """Return this part for statements of other models of its table."""
        part = copy.copy(self)
        own = dict(map(column_of, self.opts.pk_fields))
        for model in models:
            others = dict(map(column_of, model._meta.concrete_fields))
            if any(others.get(name, kind) != kind for name, kind in own.items()):
                part.tells_row = False
        return part


def column_of(field):
    return field.column, end_of_relation(field).get_internal_type()


def tables(model):
    """Return the models whose tables hold a row: its own, and its parents'."""
    opts = model._meta.concrete_model._meta
    parents = (parent._meta.concrete_model for parent in opts.all_parents)
    return list(dict.fromkeys((opts.concrete_model, *parents)))


def has_pk_of(model, parent):
    """Tell whether the primary key of a child is the link to the parent."""
    while model is not parent:
        link = model._meta.pk.remote_field
        if link is None or not link.parent_link:
            return False
        model = link.model._meta.concrete_model
    return True


def end_of_relation(field):
    while field.is_relation:
        field = field.target_field
    return field


# What Django does by a statement of its own, or refuses. SET() is told by its
# deconstruct().
BY_DJANGO = (
    models.CASCADE,
    models.PROTECT,
    models.RESTRICT,
    models.SET_DEFAULT,
    models.SET_NULL,
)


def deleted_by_database(model, found):
    """
    Add to found the models whose deletes may change this model's rows without
    a statement that says so: DO_NOTHING, DB_CASCADE (6.1), and chains of them.
    """
    for field in model._meta.local_concrete_fields:
        relation = field.remote_field
        if (
            relation
            and relation.on_delete not in BY_DJANGO
            and not hasattr(relation.on_delete, "deconstruct")
            and not isinstance(relation.model, str)  # not defined yet
            and relation.model._meta.concrete_model not in found
        ):
            found.add(relation.model._meta.concrete_model)
            deleted_by_database(relation.model._meta.concrete_model, found)


class Index:
    """The tables of a database that have to do with cached rows, by name."""

    def __init__(self, connection):
        quote_name = connection.ops.quote_name
        self.quote_name = quote_name
        self.parts = {}  # quoted table: parts
        self.referring = {}  # quoted table: watched models, by its deletes
        self.keys = {}  # quoted table: its folded name, without a schema
        models_of = {}  # quoted table: models
        for model in apps.get_models(include_auto_created=True):
            name = quote_name(model._meta.db_table)
            models_of.setdefault(name, []).append(model)
        for watch in watched.values():
            for model in tables(watch.model):
                name = quote_name(model._meta.db_table)
                self.parts.setdefault(name, []).append(Part(watch, model))
                deleted_by_database(model, found := set())
                for other in found:
                    name = quote_name(other._meta.db_table)
                    self.referring.setdefault(name, []).append(watch)
        self.text_keys = frozenset().union(*(w.text_keys for w in watched.values()))
        # Tables of which Django's spelling tells all that there is to know.
        self.spelt = set(models_of)
        self.quoted = {}  # a folded name: the quoted tables that it may be
        for name in dict.fromkeys((*self.parts, *self.referring, *self.spelt)):
            self.keys[name] = key = key_of(name)
            self.quoted.setdefault(key, []).append(name)
        for same in self.quoted.values():
            if len(same) > 1:
                self.unite(same, models_of)
        self.watches = {}  # a folded name: watched models, whose rows it holds
        for name in (*self.parts, *self.referring):
            found = self.watches.setdefault(self.keys[name], {})
            for part in self.parts.get(name, ()):
                found[part.watch] = None
            found |= dict.fromkeys(self.referring.get(name, ()))
        self.names = Names(self.watches)
        self.tables = Names(self.quoted)

    def watches_of(self, names):
        """Return the watched models whose rows these tables hold."""
        return [watch for name in names for watch in self.watches.get(name, ())]

    def unite(self, same, models_of):
        """
        Take several spellings of a table for one, with and without a schema.

        They may be two tables, of two schemas.
        """
        parts = {name: self.parts.get(name, []) for name in same}
        referring = [w for name in same for w in self.referring.get(name, ())]
        for name in same:
            others = [part for other in same if other != name for part in parts[other]]
            writers = models_of.get(name, ())
            united = [*parts[name], *(part.written_by(writers) for part in others)]
            if united:
                self.parts[name] = united
            if referring:
                self.referring[name] = referring

    def mentioned(self, sql):
        """Return the quoted tables that a statement of any form mentions."""
        found = self.names.mentioned(words_of(sql))
        return {
            name
            for key in found
            for name in self.quoted[key]
            if name in self.parts or name in self.referring
        }


def key_of(name):
    """Return the folded name of a quoted table, without its schema."""
    # PostgreSQL drops what is behind 63 bytes.
    last = fold(name[1:-1].rpartition(name[0])[2]).encode()
    return last[:63].decode(errors="ignore")


def index(connection):
    examine()
    try:
        return indexes[connection.alias]
    except KeyError:
        with examining:
            return indexes.setdefault(connection.alias, Index(connection))


# What a statement writes

NAME = r'"[^"]+"(?:\."[^"]+")*|`[^`]+`(?:\.`[^`]+`)*'
# The forms that Django gives to its statements.
WRITE = re.compile(
    rf"(UPDATE|DELETE FROM|INSERT(?: OR IGNORE| IGNORE)? INTO) ({NAME})"
    r"(?: SET | WHERE | \(|\Z)"
)
PKS = re.compile(
    r" WHERE (?P<columns>.+) (?:=|IN) "
    r"(?P<values>%s|\(%s(?:, %s)*\)|\(\(%s(?:, %s)*\)(?:, \(%s(?:, %s)*\))*\))"
    r"(?: RETURNING [^%]+)?\Z"
)
# Before any other statement MySQL may commit.
STAYS = words(
    "DELETE EXPLAIN INSERT RELEASE REPLACE SAVEPOINT SELECT UPDATE VALUES WITH"
)
UPSERT = re.compile(r"\bUPDATE\b", re.IGNORECASE)
QUALIFIED = re.compile(
    rf"[\w\"`]{coherence.GAP}*+\.{coherence.GAP}*+[\w\"`]", re.DOTALL
)
MOST_ROWS = 20  # that a statement names; more are written as their whole model
MOST_FORGOTTEN = 1000  # rows of a queryset; more are forgotten with all others


class Statements:
    """What the statements of one connection do to cached rows."""

    def __init__(self):
        self.inserted = []  # (model, region); nobody knows yet which rows
        self.in_batch = False  # the INSERT is one whose rows are told after it
        # Whether the open transaction has changed the schema, and then what
        # the relations between the tables are to it alone.
        self.changes_schema, self.own_relations = False, None

    def __call__(self, execute, sql, params, many, context):
        connection = context["connection"]
        if connection.in_atomic_block:
            coherence.note_statement(connection, sql)
        try:
            drivers.settle(connection)
            if (
                type(sql) is str
                and sql.startswith("SELECT")
                and ";" not in sql
                and "INTO" not in sql
                and "set_config" not in sql
            ):
                self.note_inserted(connection)
                return execute(sql, params, many, context)
            savepoint = coherence.savepoint_of(sql)
            if savepoint is not None:
                self.note_inserted(connection)
                if savepoint.command == coherence.ROLLBACK_TO:
                    self.own_relations = None
                try:
                    result = execute(sql, params, many, context)
                    coherence.after_savepoint(connection, savepoint)
                except BaseException:
                    # A time limit, or Ctrl-C. The database may have done it.
                    coherence.after_unknown(connection, savepoint)
                    raise
                return result
            return self.execute(connection, execute, sql, params, many, context)
        except Conflict:
            raise
        except Error as error:
            if (
                connection.vendor == "postgresql"
                or not isinstance(
                    # Elsewhere these undo nothing but their statement, unless
                    # SQLite has been told to roll back on a conflict.
                    error,
                    (DataError, IntegrityError),
                )
                or drivers.has_ended(connection)
            ):
                coherence.after_error(connection)
            raise

    def execute(self, connection, execute, sql, params, many, context):
        rows, inserts = {}, []
        statement = statement_of(sql, connection)
        text = statement.text
        known, alias = index(connection), alias_of(connection)
        write = None if ";" in text or alias is None else WRITE.match(text)
        if write is not None and write[2] not in known.spelt:
            write = None
        if write is None:
            self.note_inserted(connection)
            found = words_of(text)
            execute = watching_columns(execute, connection, statement, found)
            if self.changes_schema and is_outside(connection):
                self.forget_relations(connection)  # once more, after the commit
            effect = effect_of(text, found, connection.vendor)
            coherence.note_isolation(connection, text, effect.starts)
            coherence.note_session(connection, text, effect.starts)
            execute = drivers.watching_begins(execute, connection, text, effect.starts)
            rows = self.by_mention(connection, known, text, found, effect)
            if effect.ends or (
                connection.vendor == "mysql" and not effect.starts <= STAYS
            ):
                coherence.after_rollback(connection)
        else:
            # They are read after the database has told of its relations.
            others = self.others(connection, known, write[2])
            if write[1].startswith("INSERT"):
                rows, inserts = self.by_insert(connection, known, write, text)
            else:
                self.note_inserted(connection)
                rows = by_pk(known, alias, write, text, None if many else params)
            rows |= all_rows(others, alias, names_schema(write[2]))
        try:
            if rows:
                result = write_rows(
                    connection, rows, execute, sql, params, many, context
                )
            else:
                result = execute(sql, params, many, context)
        finally:
            if write is None:
                self.after_any(connection, text, effect, context)
        if inserts and coherence.in_transaction(connection):
            for part in inserts:
                model = part.watch.model
                for region in part.watch.all_regions(alias):
                    self.inserted.append((model, region))
            if not self.in_batch and (
                many or "), (" in text or " VALUES (" not in text
            ):
                self.note_inserted(connection)  # several rows
        return result

    def after_any(self, connection, text, effect, context):
        if effect.schema:
            self.forget_relations(connection)
        elif effect.ends:
            self.own_relations = None
        drivers.after_statement(connection, text, context)
        drivers.release_kept(connection)

    def by_mention(self, connection, known, text, found, effect):
        """Return what a statement of any form may write, as all_rows()."""
        if effect.everything:
            rows = {}
            for alias in aliases_of(connection, text if effect.database else None):
                rows |= all_rows(watched.values(), alias, of_all_tenants=True)
            return rows
        alias = alias_of(connection)
        if not effect.tables or alias is None:
            return {}
        relations = self.relations(connection, known, text)
        if relations is None:
            return all_rows(watched.values(), alias)
        names = known.names.mentioned(found) | relations.names.mentioned(found)
        for name in list(names):
            names |= relations.affected(name)
        rows, watches = {}, known.watches_of(names)
        if watches:
            # A name with a schema may be that of another tenant.
            is_qualified = (
                effect.schema
                or "search_path" in found
                or QUALIFIED.search(text) is not None
            )
            rows = all_rows(watches, alias, is_qualified)
        if connection.vendor == "mysql":
            rows |= by_other_database(connection, found)
        return rows

    def others(self, connection, known, name):
        """Return the watched models that show rows of a table, by its name."""
        relations = self.relations(connection, known)
        if relations is None:
            # On PostgreSQL the transaction is aborted, and so the statement.
            return () if connection.vendor == "postgresql" else watched.values()
        found = relations.affected(known.keys[name])
        return known.watches_of(found)

    # What the tables of the database have to do with each other

    def relations(self, connection, known, text=None):
        """Return the Relations, those that know the tables of a text."""
        if self.changes_schema and is_outside(connection):
            self.forget_relations(connection)  # once more, after the commit
        if self.changes_schema:
            if self.own_relations is None:
                self.own_relations = relations.read(connection, known.keys.values())
            return self.own_relations
        found = relations.relations_of(connection, known.keys.values())
        if text is not None and found and not found.knows(text, known.tables):
            # Another process may have made a partition, or a view.
            found = relations.relations_of(connection, known.keys.values(), fresh=True)
            if found:
                found.settle(text)
        return found

    def forget_relations(self, connection):
        relations.discard(connection)
        self.own_relations = None
        self.changes_schema = not is_outside(connection)
        if not self.changes_schema:
            ask_early(connection)

    def by_insert(self, connection, known, write, text):
        """Return the rows that an INSERT may update, and what it adds to."""
        parts = known.parts.get(write[2], ())
        if not self.in_batch and is_upsert(text):
            watches = (part.watch for part in parts)
            alias = alias_of(connection)
            return all_rows(watches, alias, names_schema(write[2])), []
        return {}, [part for part in parts if part.is_own]

    def note_inserted(self, connection, instance=None):
        """
        Tell the transaction that it inserted rows: until its end they are none
        for the cache. Of each region one is the instance's, if there is one.
        """
        if not self.inserted:
            return
        inserted, self.inserted = self.inserted, []
        if not coherence.in_transaction(connection):
            return  # the one that inserted them has ended
        told = set()
        for model, region in reversed(inserted):
            pk = None
            if (
                isinstance(instance, model)
                and region not in told
                # The database may keep another text than was sent.
                and (
                    not region.version_per_row or watched[model].names_rows(connection)
                )
            ):
                told.add(region)
                pk = pk_of(instance, model)
            if pk is None:
                coherence.after_inserts(connection, region)
            else:
                coherence.after_insert(connection, region, pk)

    @contextmanager
    def batch(self, connection, model, pks):
        """
        Send one INSERT of new rows of the model, whose primary keys are in the
        list by the end of the block.
        """
        self.note_inserted(connection)
        self.in_batch = True
        try:
            yield
        finally:
            self.in_batch = False
        inserted, self.inserted = self.inserted, []
        known = pks if None not in pks else None
        for other, region in inserted:
            pks = known if other is model else None
            coherence.after_inserts(connection, region, pks)


def watching_columns(execute, connection, statement, found):
    """As catalog.watching(), and look at the columns while SQLite can."""
    if connection.vendor == "sqlite" and statement.begins_with(("BEGIN",)):
        if columns := index(connection).text_keys:
            refresh(connection, columns)
        return execute
    return watching(execute, connection, statement.text, found)


def is_upsert(text):
    # The search takes 3 us, and a thousand times that for many rows.
    return "UPDATE" in text.upper() and UPSERT.search(text) is not None


def pk_of(instance, model):
    """Return the text of the primary key of the instance's row in a table."""
    opts = model._meta
    names = [field.attname for field in opts.pk_fields]
    return pk_text(opts, {name: getattr(instance, name) for name in names})


def all_rows(watches, using, of_all_tenants=False):
    """Return {region: None}, of a write that does not tell its rows."""
    return {
        region: None
        for watch in watches
        for region in watch.all_regions(using, of_all_tenants)
    }


def alias_of(connection):
    """
    Return the alias in DATABASES of a connection's database, None without one:
    connection.copy() may give it another name.
    """
    if connection.alias in connections.settings:
        return connection.alias
    place = identity.server_and_name(connection.settings_dict)
    others = (each for each in connections if place is not None)
    return next(
        (a for a in others if identity.server_and_name(settings_of(a)) == place), None
    )


def is_outside(connection):
    """Tell whether no transaction is open, nor that around a TestCase."""
    return not connection.in_atomic_block and coherence.is_autocommit(connection)


def by_other_database(connection, found):
    """Return what a statement of MySQL writes in a database that it names."""
    rows = {}
    for alias in connections if len(connections.settings) > 1 else ():
        other = settings_of(alias)
        if identity.is_same_server(connection.settings_dict, other):
            name = fold(str(other["NAME"]))
            if name in found and name != fold(str(connection.settings_dict["NAME"])):
                known = index(connections[alias])
                rows |= all_rows(known.watches_of(known.names.mentioned(found)), alias)
    return rows


def aliases_of(connection, text=None):
    """
    Return the aliases of the database of a connection; and of those that a
    text names, such as CREATE DATABASE, which Django sends on a connection
    without a database and an alias.
    """
    aliases = {alias_of(connection)} - {None}
    for alias in connections if text is not None else ():
        name = str(connections[alias].settings_dict["NAME"])
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE):
            aliases.add(alias)
    return aliases


def by_pk(known, using, write, sql, params):
    """
    Return what an UPDATE or DELETE in Django's form writes, {region: primary
    keys}, None for those of all rows.
    """
    name = write[2]
    rows = {}
    for part in known.parts.get(name, ()):
        pks = named_pks(known, part, name, sql, params)
        if pks is not None and not part.watch.names_rows(connections[using]):
            pks = None
        for region in part.watch.all_regions(using, names_schema(name)):
            rows[region] = pks if region.version_per_row else None
    if write[1] == "DELETE FROM":
        rows |= all_rows(known.referring.get(name, ()), using, names_schema(name))
    return rows


def names_schema(name):
    """Tell whether a quoted table is named with a schema, as a tenant's is."""
    return name.count(name[0]) > 2


def named_pks(known, part, name, sql, params):
    """Return the primary keys that a statement names, None if it does not."""
    if (
        not part.tells_row
        or not isinstance(params, SEQUENCES)
        or sql.count(" WHERE ") != 1
    ):
        return None
    where = PKS.search(sql)
    if where is None:
        return None
    columns = [known.quote_name(field.column) for field in part.opts.pk_fields]
    names = ", ".join(f"{name}.{column}" for column in columns)
    if where["columns"] != (names if len(columns) == 1 else f"({names})"):
        return None
    assignments = sql[: where.start()]
    if any(re.search(f"(?: SET|,) {re.escape(c)} = ", assignments) for c in columns):
        return None  # rows that get another primary key
    width, count = len(columns), where["values"].count("%s")
    if count > MOST_ROWS * width or count > len(params):
        return None
    values = list(params)[-count:]
    attnames = [field.attname for field in part.opts.pk_fields]
    pks = [
        pk_text(part.opts, dict(zip(attnames, values[i : i + width], strict=True)))
        for i in range(0, count, width)
    ]
    return None if None in pks else pks


def write_rows(connection, rows, execute, sql, params, many, context):
    """Run a statement that writes these {region: primary keys}."""
    rows = {
        region: None if drivers.keeps_many(connection, region) else pks
        for region, pks in rows.items()
    }
    new = {
        region: coherence.before_write(connection, region, pks)
        for region, pks in rows.items()
    }
    matched = -1
    try:
        result = execute(sql, params, many, context)
        if any(new.values()):
            with drivers.last_result(context["cursor"]) as cursor:
                matched = cursor.rowcount
    except (DataError, IntegrityError, ProgrammingError):
        # Of any other error nobody knows whether the statement was done, or is
        # still being done: LOCK goes by its timeout.
        release(connection, rows)
        raise
    except BaseException:
        if coherence.is_autocommit(connection):
            for region, pks in rows.items():
                region.store.doubt(region, pks)
        raise
    finally:
        for region, pks in new.items():
            if (
                pks
                and matched != len(set(rows[region]))
                # Whoever writes has the whole database; and the rows that
                # RETURNING gives are not counted yet.
                and connection.vendor != "sqlite"
            ):
                coherence.after_unmatched(connection, region, pks)
    release(connection, rows)
    return result


def release(connection, rows):
    if not coherence.is_autocommit(connection):
        if not coherence.in_transaction(connection):
            drivers.keep_locked(connection, rows)
        return
    try:
        for region, pks in rows.items():
            region.release(connection, pks)
    except BaseException:
        # A time limit, or Ctrl-C.
        for region, pks in rows.items():
            region.store.owe(region, pks)
        raise


# What Django does not see


def invalidate(target, using=None):
    """
    Forget cached rows, for something that Django does not see has written
    them: another program, a trigger, a driver's own cursor.

    ``target`` is an instance, or a model: all its rows. Or it is a queryset:
    the rows that it selects now, by a query; or a manager: as its queryset. In
    every database, or in that of the alias ``using``. Inside atomic() that
    holds at once for it, and for all others once more when it has committed.

    Raise TypeError for anything else, ValueError for an instance without a
    primary key. A model that is not cached has nothing to forget.
    """
    if isinstance(target, models.Manager):
        target = target.all()
    if isinstance(target, models.QuerySet):
        using = using or target._db  # type: ignore[attr-defined]
        invalidate_rows(target.model, selected_pks(target, using), using)
    elif isinstance(target, models.Model):
        invalidate_rows(type(target), [target], using)
    elif isinstance(target, type) and issubclass(target, models.Model):
        invalidate_rows(target, None, using)
    else:
        raise TypeError(
            f"invalidate() wants an instance, a model, a queryset or a manager, not "
            f"{target!r}."
        )


def selected_pks(queryset, using):
    """
    Return the primary keys that a queryset selects; None for all rows. Of the
    database that it names itself, or that of ``using``.
    """
    query = queryset.query
    if not (query.where.children or query.is_sliced or query.combinator):
        return None
    using = queryset._db or using
    if using is None:
        # Not of a replica, which may be behind.
        using = router.db_for_write(queryset.model, **queryset._hints)
    check_alias(using)
    selected = queryset.using(using).values_list("pk", flat=True)
    pks = list(selected[: MOST_FORGOTTEN + 1])
    return pks if len(pks) <= MOST_FORGOTTEN else None


def invalidate_rows(model, rows, using=None):
    """
    Forget rows, instances or primary keys of a model; None for all.

    Return the (region, primary keys as texts, or None) that were forgotten.
    """
    if using is not None:
        check_alias(using)
    model = concrete_model(model)
    for row in rows or ():
        check_row(model, row)
    if rows is not None and not rows:
        return []  # a queryset that selects none
    done = []
    targets = usable_connections() if using is None else [connections[using]]
    for connection in targets:
        alias, forgotten = connection.alias, {}
        for table in tables(model):
            pks = None if rows is None else pks_in(table, model, rows)
            name = connection.ops.quote_name(table._meta.db_table)
            for part in index(connection).parts.get(name, ()):
                for region in part.watch.all_regions(alias):
                    if not (
                        part.tells_row
                        and region.version_per_row
                        and part.watch.names_rows(connection)
                    ):
                        forgotten[region] = None
                    elif forgotten.setdefault(region, pks) is not None:
                        forgotten[region] = pks
        for region, pks in forgotten.items():
            forget(connection, region, pks)
        done += forgotten.items()
    return done


def check_alias(using):
    if using not in connections:
        raise ValueError(
            f"using = {using!r} is not in DATABASES, which has "
            f"{', '.join(map(repr, connections))}."
        )


def check_row(model, row):
    opts = model._meta
    if isinstance(row, models.Model):
        if not isinstance(row, model):
            raise TypeError(f"{row!r} is no instance of {opts.label}.")
        if not row._is_pk_set():
            raise ValueError(
                f"{row!r} has no primary key: of a row that is not saved nothing is "
                "cached."
            )
        return
    parts = row if len(opts.pk_fields) > 1 else [row]
    try:
        for field, value in zip(opts.pk_fields, parts, strict=True):
            if value is None:
                raise ValueError(value)
            field.to_python(value)
    except (ArithmeticError, TypeError, ValueError, ValidationError):
        raise ValueError(f"{row!r} is no primary key of {opts.label}.") from None


def pks_in(table, model, rows):
    """
    Return the primary keys of these rows' parts in a table, as texts; None
    where they are not known.
    """
    is_same, opts, pks = has_pk_of(model, table), table._meta, []
    for row in rows:
        if isinstance(row, models.Model):
            pks.append(pk_of(row, table))
        elif is_same:
            parts = row if len(opts.pk_fields) > 1 else [row]
            names = [field.attname for field in opts.pk_fields]
            pks.append(pk_text(opts, dict(zip(names, parts, strict=True))))
        else:
            return None
    return None if None in pks else pks


def forget(connection, region, pks):
    if coherence.is_autocommit(connection):
        region.release(connection, pks)
        return
    coherence.before_write(connection, region, pks)
    if not coherence.in_transaction(connection):
        drivers.keep_locked(connection, {region: pks})
    if pks is not None:
        # It need not hold their locks in the database.
        coherence.after_unmatched(connection, region, pks)


# Signals


def watch(connection, **kwargs):
    """Read the statements of a connection from its first one on."""
    examine()
    # A pool may give this connection back after another one has used it.
    connection.getorcreateplus_answer = None, None
    if statements_of(connection) is None:
        # First is outermost: what others do after a statement comes before its
        # release. Into the list, for execute_wrapper() is a context manager.
        connection.execute_wrappers.insert(0, Statements())
        coherence.watch_end(connection)
        if apps.models_ready:
            ask_early(connection)
    if apps.models_ready:
        # Also in a fork of --parallel, which has its parent's execute wrapper.
        forget_earlier_run(connection)


test_databases = set()  # those whose earlier runs are forgotten


def forget_earlier_run(connection):
    """
    Invalidate all rows of a test database that this process meets.

    A run that was killed has left its rows in the cache. Where this database
    is a clone (--parallel, TEMPLATE), no CREATE TABLE has told of it.
    """
    if not identity.is_testing() or connection.alias not in connections.settings:
        return
    name = identity.database_name(connection.alias, connection.settings_dict)
    if name not in test_databases:
        test_databases.add(name)
        examine()
        for region in all_rows(watched.values(), connection.alias):
            region.release(connection, None)


def ask_early(connection):
    """
    Ask SQLite for its Relations before a transaction needs them: a SELECT at
    the beginning of one that writes may fail where others write.
    """
    if connection.vendor == "sqlite" and connection.connection is not None:
        with suppress(Error):
            relations.relations_of(connection, index(connection).keys.values())


def statements_of(connection):
    wrappers = connection.execute_wrappers
    if wrappers and type(wrappers[0]) is Statements:
        return wrappers[0]  # as nearly always
    return next((each for each in wrappers if type(each) is Statements), None)


def batch_of_inserts(connection, model, pks):
    """As Statements.batch()."""
    statements = statements_of(connection)
    if statements is None:
        return nullcontext()
    return statements.batch(connection, model._meta.concrete_model, pks)


def after_save(instance, created, using, **kwargs):
    connection = connections[using]
    statements = statements_of(connection)
    if statements is not None:
        statements.note_inserted(connection, instance if created else None)


class_prepared.connect(notice)
connection_created.connect(watch)
post_save.connect(after_save)
setting_changed.connect(forget_regions)

# Models and connections that were there before this module. Without settings
# there is no connection, and asking for them would want settings.
for registered in apps.all_models.values():
    pending.extend(registered.values())
if settings.configured:
    for opened in connections.all(initialized_only=True):
        watch(opened)
