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

import re
import threading
from contextlib import contextmanager, nullcontext

from django.apps import apps
from django.conf import settings
from django.core.cache import DEFAULT_CACHE_ALIAS, caches
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import ImproperlyConfigured, ValidationError
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

from . import coherence
from .bypassing import concrete_model
from .inserts import READS, Conflict, begins_with
from .keys import is_exact_pk, pk_text
from .recording import is_exact


class Watched:
    """A cached model, and the caches that its querysets name."""

    def __init__(self, model):
        self.model = model
        self.declared = {}  # an object_cache_alias: the timeouts beside it
        self.key_cache_aliases = set()
        self.regions = {}  # (database alias, object_cache_alias): region

    def declare(self, queryset_class):
        # Of a queryset that does not cache: the defaults of one that does.
        alias = getattr(queryset_class, "object_cache_alias", None)
        timeout = getattr(queryset_class, "cache_timeout", DEFAULT_TIMEOUT)
        self.declared.setdefault(alias, set()).add(timeout)
        self.key_cache_aliases.add(
            getattr(queryset_class, "key_cache_alias", DEFAULT_CACHE_ALIAS)
        )

    def region(self, using, declared):
        try:
            return self.regions[using, declared]
        except KeyError:
            return self.regions.setdefault(
                (using, declared), self._region(using, declared)
            )

    def _region(self, using, declared):
        opts = self.model._meta
        for alias in self.key_cache_aliases - set(settings.CACHES):
            raise ImproperlyConfigured(
                f"key_cache_alias = {alias!r} of a queryset of {opts.label} is not in "
                f"CACHES: add the alias, or leave out the attribute for "
                f"{DEFAULT_CACHE_ALIAS!r}."
            )
        alias = object_cache_alias(opts, declared)
        if alias not in settings.CACHES:
            raise ImproperlyConfigured(
                f"object_cache_alias = {alias!r} of a queryset of "
                f"{opts.label} is not in CACHES: add the alias, or leave the "
                f"attribute None for {opts.model_name!r} or else "
                f"{DEFAULT_CACHE_ALIAS!r}."
            )
        return coherence.Region(
            self.model,
            using,
            alias,
            # In a cache that may be shared the keys name the model.
            own_cache=alias == opts.model_name != DEFAULT_CACHE_ALIAS,
            timeout=shortest(self.declared[declared], alias),
            version_per_row=is_exact_pk(opts, connections[using].vendor),
            one_table=len(tables(self.model)) == 1,
        )

    def all_regions(self, using):
        return [self.region(using, declared) for declared in self.declared]


def object_cache_alias(opts, declared):
    """Return the alias of the cache where the rows of a model live."""
    if declared or opts.model_name in settings.CACHES:
        return declared or opts.model_name
    return DEFAULT_CACHE_ALIAS


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


def region_of(queryset):
    """Return the region of a queryset's rows, None if they are not watched."""
    examine()
    watch = watched.get(queryset.model._meta.concrete_model)
    if watch is None or queryset.object_cache_alias not in watch.declared:
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
            examined.append(pending.pop(0))
            look_at(examined[-1])
            indexes.clear()
            examined.pop()


def look_at(model):
    opts = model._meta
    if opts.swapped:
        return  # it has no table
    for manager in opts.managers:
        queryset_class = queryset_class_of(manager)
        if queryset_class is None:
            # Elsewhere it may not raise, and cache: the writes count.
            queryset_class = manager._queryset_class
        elif not hasattr(queryset_class, "object_cache_alias"):
            continue
        model = opts.concrete_model
        watched.setdefault(model, Watched(model)).declare(queryset_class)


def queryset_class_of(manager):
    """Return the class of the querysets that a manager makes, or None."""
    try:
        return type(manager.get_queryset())
    except Exception:  # noqa: BLE001 - it may want a request, or a tenant.
        return None


def forget_regions(*, setting, **kwargs):
    if setting == "CACHES":
        coherence.stores.clear()
        for watch in watched.values():
            watch.regions.clear()


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
        for watch in watched.values():
            for model in tables(watch.model):
                name = quote_name(model._meta.db_table)
                self.parts.setdefault(name, []).append(Part(watch, model))
                deleted_by_database(model, found := set())
                for other in found:
                    name = quote_name(other._meta.db_table)
                    self.referring.setdefault(name, []).append(watch)
        # Tables of which Django's spelling tells all that there is to know.
        self.spelt = {
            quote_name(model._meta.db_table)
            for model in apps.get_models(include_auto_created=True)
        }
        self.names = {}  # a table as raw SQL may spell it: quoted tables
        for name in (*self.parts, *self.referring):
            # Without the schema that a db_table of 'schema"."table' has.
            spelling = name[1:-1].rpartition(name[0])[2].lower()
            self.names.setdefault(spelling, set()).add(name)
        names = "|".join(map(re.escape, self.names))
        self.mention = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE)

    def mentioned(self, sql):
        """Return the quoted tables that a statement of any form mentions."""
        found = self.mention.findall(sql) if self.names else ()
        return {name for spelling in found for name in self.names[spelling.lower()]}


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
# A statement without any of these words only reads.
WORDS = re.compile(
    r"\b(?:ALTER|CALL|COPY|DELETE|DO|DROP|EXECUTE|INSERT|LOAD|MERGE|RENAME|REPLACE"
    r"|TRUNCATE|UPDATE)\b",
    re.IGNORECASE,
)
# It empties the tables that refer to the one that it names.
TRUNCATE = re.compile(r"\s*TRUNCATE\b.*\bCASCADE\b", re.IGNORECASE | re.DOTALL)
# What it writes is not in its text.
ROUTINE = re.compile(r"(?:\A|;|\*/)\s*(?:CALL|DO|EXECUTE)\b", re.IGNORECASE)
# It ends the transaction, or rolls back a part of it.
ENDS = re.compile(
    r"\b(?:CALL|COMMIT|ROLLBACK)\b|(?:\A|;|\*/)\s*(?:ABORT|END)\b", re.IGNORECASE
)
# Before any other statement MySQL may commit.
STAYS = ("DELETE", "INSERT", "RELEASE", "REPLACE", "SAVEPOINT", "SET", "UPDATE", "WITH")
UPSERT = re.compile(r"\bUPDATE\b", re.IGNORECASE)
MOST_ROWS = 20  # that a statement names; more are written as their whole model
MOST_FORGOTTEN = 1000  # rows of a queryset; more are forgotten with all others


class Statements:
    """What the statements of one connection do to cached rows."""

    def __init__(self):
        self.inserted = []  # (model, region); nobody knows yet which rows
        self.in_batch = False  # the INSERT is one whose rows are told after it

    def __call__(self, execute, sql, params, many, context):
        connection = context["connection"]
        try:
            if type(sql) is str and sql.startswith("SELECT") and ";" not in sql:
                self.note_inserted(connection)
                return execute(sql, params, many, context)
            return self.execute(connection, execute, sql, params, many, context)
        except Conflict:
            raise
        except Error as error:
            if connection.vendor == "postgresql" or not isinstance(
                # Elsewhere these undo nothing but their statement.
                error,
                (DataError, IntegrityError),
            ):
                coherence.after_error(connection)
            raise

    def execute(self, connection, execute, sql, params, many, context):
        rows, inserts = {}, []
        text = text_of(sql, connection)
        known = index(connection)
        write = None if ";" in text else WRITE.match(text)
        if write is None or write[2] not in known.spelt:
            self.note_inserted(connection)
            if ";" in text or not begins_with(text, READS):
                rows = by_mention(known, connection.alias, text)
                if ENDS.search(text) or (
                    connection.vendor == "mysql" and not begins_with(text, STAYS)
                ):
                    coherence.after_rollback(connection)
        elif write[1].startswith("INSERT"):
            parts = known.parts.get(write[2], ())
            if not self.in_batch and is_upsert(text):
                rows = all_rows((part.watch for part in parts), connection.alias)
            else:
                inserts = [part for part in parts if part.is_own]
        else:
            self.note_inserted(connection)
            rows = by_pk(known, connection.alias, write, text, None if many else params)
        if rows:
            result = write_rows(connection, rows, execute, sql, params, many, context)
        else:
            result = execute(sql, params, many, context)
        if inserts and coherence.in_transaction(connection):
            for part in inserts:
                model = part.watch.model
                for region in part.watch.all_regions(connection.alias):
                    self.inserted.append((model, region))
            if not self.in_batch and (
                many or "), (" in text or " VALUES (" not in text
            ):
                self.note_inserted(connection)  # several rows
        return result

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
            if isinstance(instance, model) and region not in told:
                told.add(region)
                pk = pk_of(instance, model)
            if pk is None:
                coherence.after_inserts(region)
            else:
                coherence.after_insert(region, pk)

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
            coherence.after_inserts(region, known if other is model else None)


def is_upsert(text):
    # The search takes 3 us, and a thousand times that for many rows.
    return "UPDATE" in text.upper() and UPSERT.search(text) is not None


def text_of(sql, connection):
    """Return the text of what a cursor was given to execute."""
    if isinstance(sql, bytes):
        return sql.decode(errors="replace")
    if hasattr(sql, "as_string"):  # psycopg's
        return sql.as_string(connection.connection)
    return sql if type(sql) is str else str(sql)


def pk_of(instance, model):
    """Return the text of the primary key of the instance's row in a table."""
    opts = model._meta
    names = [field.attname for field in opts.pk_fields]
    return pk_text(opts, {name: getattr(instance, name) for name in names})


def all_rows(watches, using):
    """Return {region: None}, of a write that does not tell its rows."""
    return {region: None for watch in watches for region in watch.all_regions(using)}


def by_mention(known, using, sql):
    """Return what a statement of any form may write, as all_rows()."""
    if not WORDS.search(sql):
        return {}
    if TRUNCATE.match(sql) or ROUTINE.search(sql):
        return all_rows(watched.values(), using)
    watches = []
    for name in known.mentioned(sql):
        watches += [part.watch for part in known.parts.get(name, ())]
        watches += known.referring.get(name, ())
    return all_rows(watches, using)


def by_pk(known, using, write, sql, params):
    """
    Return what an UPDATE or DELETE in Django's form writes, {region: primary
    keys}, None for those of all rows.
    """
    name = write[2]
    rows = {}
    for part in known.parts.get(name, ()):
        pks = named_pks(known, part, name, sql, params)
        for region in part.watch.all_regions(using):
            rows[region] = pks if region.version_per_row else None
    if write[1] == "DELETE FROM":
        rows |= all_rows(known.referring.get(name, ()), using)
    return rows


def named_pks(known, part, name, sql, params):
    """Return the primary keys that a statement names, None if it does not."""
    if not part.tells_row or params is None or sql.count(" WHERE ") != 1:
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
    if count > MOST_ROWS * width:
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
    new = {region: coherence.before_write(region, pks) for region, pks in rows.items()}
    matched = -1
    try:
        result = execute(sql, params, many, context)
        matched = context["cursor"].rowcount
    except (DataError, IntegrityError, ProgrammingError):
        # Of any other error nobody knows whether the statement was done, or is
        # still being done: LOCK goes by its timeout.
        release(connection, rows)
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
                coherence.after_unmatched(region, pks)
    release(connection, rows)
    return result


def release(connection, rows):
    if coherence.is_autocommit(connection):
        for region, pks in rows.items():
            region.release(pks)


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
    for alias in connections if using is None else [using]:
        connection, forgotten = connections[alias], {}
        for table in tables(model):
            pks = None if rows is None else pks_in(table, model, rows)
            name = connection.ops.quote_name(table._meta.db_table)
            for part in index(connection).parts.get(name, ()):
                for region in part.watch.all_regions(alias):
                    if not (part.tells_row and region.version_per_row):
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
        region.release(pks)
        return
    coherence.before_write(region, pks)
    if pks is not None:
        # It need not hold their locks in the database.
        coherence.after_unmatched(region, pks)


# Signals


def watch(connection, **kwargs):
    """Read the statements of a connection from its first one on."""
    examine()
    if statements_of(connection) is None:
        # First is outermost: what others do after a statement comes before its
        # release. Into the list, for execute_wrapper() is a context manager.
        connection.execute_wrappers.insert(0, Statements())


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
