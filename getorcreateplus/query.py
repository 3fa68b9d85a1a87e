from contextlib import nullcontext
from functools import partial, wraps

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.cache import DEFAULT_CACHE_ALIAS
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.exceptions import FieldDoesNotExist
from django.db import IntegrityError, connections, models, transaction
from django.db.models.query import ModelIterable
from django.db.models.sql import Query
from django.db.models.sql.datastructures import BaseTable, Join
from django.db.models.sql.where import WhereNode
from django.db.models.utils import resolve_callables

from .bulk.batch import Bulk, batched
from .bypassing import blocks, is_bypassed
from .coherence import protocol as coherence
from .coherence.many import ReadMany
from .lookups import equality as keys
from .lookups.django_path import (
    follows_django,
    has_django_query,
    has_django_steps,
    path_of,
    with_own_steps,
)
from .lookups.rows import layout, load
from .signals import (
    Reason,
    ask_and_tell,
    cache_hit,
    cache_miss,
    tell_not_asked,
    tell_savepoint_omitted,
)
from .writes.captured_rows import Recording, RecordingIterable
from .writes.guards import (
    InsertGuard,
    UpdateGuard,
    can_guard,
    is_by_hand,
    is_multi_table,
    locking_read,
    share_lock,
)
from .writes.invalidation import invalidate, invalidate_rows, region_of


class GetOrCreateBase:
    """
    What the mixins share: the public methods, in steps that a mixin replaces.

    Each mixin replaces another step, so that any order of them works.
    """

    # A subclass that overrides steps of a lookup sets it to True where they
    # change nothing: lookup_path.py.
    lookups_as_written = False
    _getorcreateplus_path = None  # the class's, which lookup_path.py sets

    # Whether get() creates what is missing: AlwaysGetOrCreateMixin.
    _creates = False

    def get_or_create(self, defaults=None, **kwargs):
        """
        Look up an object with the given kwargs, creating one if necessary.
        Return a tuple of (object, created), where created is a boolean
        specifying whether an object was created.
        """
        return self._get_or_create_row(defaults, kwargs)

    get_or_create.alters_data = True

    def update_or_create(self, defaults=None, create_defaults=None, **kwargs):
        """
        Look up an object with the given kwargs, updating one with defaults
        if it exists, otherwise create a new one. Optionally, an object can
        be created with different values than defaults by using
        create_defaults.
        Return a tuple (object, created), where created is a boolean
        specifying whether an object was created.
        """
        return self._update_or_create_row(defaults, create_defaults, kwargs)

    update_or_create.alters_data = True

    def bulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        """
        Look up all objects, creating those that are missing, by a few
        statements. As bulk_create(), do *not* call save(), and do not send any
        pre/post_save signals.

        ``objs`` are unsaved instances, or mappings, whose values may be
        callables, as those of defaults. ``unique_fields`` names the fields
        that identify an object; by default they are those of the one unique
        constraint all of whose fields the first object has.

        Return a list of tuples (object, created), in the order of ``objs``.
        Equal objects are one, created for the first.
        """
        self._for_write = True
        return self._bulk(unique_fields, batch_size).run(list(objs))

    bulk_get_or_create.alters_data = True

    def ibulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        """
        As bulk_get_or_create(), but yield the tuples, and consume ``objs``, as
        it goes: batch by batch, each a transaction of its own.
        """
        self._for_write = True
        bulk, start = self._bulk(unique_fields, batch_size), 0
        for batch in batched(objs, bulk.batch_size):
            yield from bulk.run(batch, start)
            start += len(batch)

    ibulk_get_or_create.alters_data = True

    async def abulk_get_or_create(self, objs, unique_fields=None, batch_size=None):
        return await sync_to_async(self.bulk_get_or_create)(
            objs, unique_fields, batch_size
        )

    abulk_get_or_create.alters_data = True

    def _get_or_create_row(self, defaults, kwargs):
        """Ask the database: stock Django, unless a mixin knows better."""
        self._for_write = True
        return super(GetOrCreateBase, self._without_creation()).get_or_create(
            **given(defaults=defaults), **kwargs
        )

    def _update_or_create_row(self, defaults, create_defaults, kwargs):
        """As _get_or_create_row(), for update_or_create()."""
        options = given(defaults=defaults, create_defaults=create_defaults)
        return super().update_or_create(**options, **kwargs)

    def _bulk(self, unique_fields, batch_size):
        whole = yields_whole_rows(self)
        return Bulk(self, unique_fields, batch_size, whole=whole)

    def _bulk_atomic(self):
        """Return what is around the INSERTs of bulk_get_or_create()."""
        return transaction.atomic(using=self.db)

    def _read_many(self):
        """Return a ReadMany of this queryset's rows, None without a cache."""

    def _tell_not_asked(self, lookup):
        """Tell that the cache is not asked, if there is one."""

    def _instance(self, using, values):
        """Return the instance that a SELECT would yield."""
        obj = load(self.model, using, values)
        if hasattr(self, "_fetch_mode"):  # Django 6.1
            obj._state.fetch_mode = self._fetch_mode
        # As ModelIterable does.
        for field, instances in self._known_related_objects.items():
            related = instances.get(field.get_local_related_value(obj)[0])
            if related is not None:
                setattr(obj, field.name, related)
        return obj

    def _find(self, **kwargs):
        """The get() of get_or_create(), which must not create by itself."""
        return self._without_creation().get(**kwargs)

    def _without_creation(self):
        """
        Return a queryset whose get() is Django's: this one, or a copy, as
        other threads may use this one (6 us; nobody pays without
        AlwaysGetOrCreateMixin).
        """
        if not self._creates:
            return self
        # Not _chain(), which is self while cloning is disabled (6.1).
        clone = with_own_steps(self._clone(), self)
        clone._creates = False
        return clone


class CachedGetOrCreateMixin(GetOrCreateBase):
    """
    Serve get_or_create() from the cache, and keep what it and
    update_or_create() find, create and update there.

    ``key_cache_alias`` names the cache of the lookups, ``object_cache_alias``
    that of the rows: by default the one that is named after the model
    (``model._meta.model_name``), or else ``default``. ``cache_timeout`` is in
    seconds, None for ever; by default it is the TIMEOUT of the row's cache.

    Within ``local_timeout`` seconds of having seen a row, this process serves
    it from its own memory: what it writes itself is seen at once, what other
    processes write after that time. None is for rows that never change; 0 is
    off.
    """

    key_cache_alias = DEFAULT_CACHE_ALIAS
    object_cache_alias = None
    cache_timeout = DEFAULT_TIMEOUT
    local_timeout = 0

    # What the SELECTs of a call on this queryset yield, and its writes.
    _recording = None

    def _clone(self):
        clone = super()._clone()
        clone._recording = self._recording
        return clone

    def get_or_create(self, defaults=None, **kwargs):
        """
        As QuerySet.get_or_create(), without a query where the cache knows the
        row. ``force_select=True`` asks the database, and refreshes the cache;
        a field of that name wins.
        """
        asks_database = self._pop_force_select(kwargs)
        # A hit belongs to the database that the get() would ask.
        self._for_write = True
        lookup = self._lookup(kwargs)
        if lookup is None:
            # With a recording this is the SELECT of an update_or_create().
            if self._recording is None:
                self._tell_not_asked(kwargs)
            return super().get_or_create(**given(defaults=defaults), **kwargs)
        read, pk = lookup
        if cache_hit.receivers or cache_miss.receivers:
            values = ask_and_tell(read, pk, not asks_database)
        else:
            values = read.ask(pk, not asks_database)
        if values is not None:
            return self._instance(read.region.using, values), False
        if read.is_of_no_use:
            with read.region.asking.timing_query():
                return super().get_or_create(defaults, **kwargs)
        recording = Recording(self.model, self.db)
        # What the SELECT finds can not be kept where the cache was not asked.
        queryset = self if read.is_new else self._recorded(recording)
        with recording:
            obj, created = super(CachedGetOrCreateMixin, queryset).get_or_create(
                **given(defaults=defaults), **kwargs
            )
        self._keep(read, recording, obj, created)
        return obj, created

    get_or_create.alters_data = True

    def update_or_create(self, defaults=None, create_defaults=None, **kwargs):
        """
        As QuerySet.update_or_create(). It always writes, and leaves the row in
        the cache.
        """
        self._for_write = True
        if "force_select" in kwargs:
            # Unless it is a field, Django raises FieldError. (Here, for the
            # get_or_create() of this queryset takes it.)
            self.filter(force_select=kwargs["force_select"])
        lookup = self._lookup(kwargs)
        options = given(defaults=defaults, create_defaults=create_defaults)
        if lookup is None:
            return super().update_or_create(**options, **kwargs)
        read, _ = lookup
        read.observe()
        recording = Recording(self.model, self.db)
        recording.on_update = partial(self._publish, read, recording)
        queryset = self._recorded(recording)
        with recording:
            obj, created = super(CachedGetOrCreateMixin, queryset).update_or_create(
                **options, **kwargs
            )
        if created:
            self._keep(read, recording, obj, created)
        elif not recording.is_undone():
            read.fill_updated()
        return obj, created

    update_or_create.alters_data = True

    def invalidate(self, *objs_or_pks):
        """
        Forget these rows, for something that Django does not see has written
        them: as getorcreateplus.invalidate(), of instances or primary keys.
        With using(), in that database alone.
        """
        if not objs_or_pks:
            raise TypeError(
                "invalidate() wants instances or primary keys; invalidate_all() "
                "forgets all rows."
            )
        invalidate_rows(self.model, objs_or_pks, self._db)

    invalidate.alters_data = True

    async def ainvalidate(self, *objs_or_pks):
        await sync_to_async(self.invalidate)(*objs_or_pks)

    ainvalidate.alters_data = True

    def invalidate_all(self):
        """As invalidate(), of all rows of the model."""
        invalidate(self.model, using=self._db)

    invalidate_all.alters_data = True

    async def ainvalidate_all(self):
        await sync_to_async(self.invalidate_all)()

    ainvalidate_all.alters_data = True

    def _pop_force_select(self, kwargs):
        """
        Take an option out of the kwargs, unless the model has such a field.
        """
        if "force_select" not in kwargs:
            return False
        try:
            self.model._meta.get_field("force_select")
        except FieldDoesNotExist:
            return kwargs.pop("force_select")
        return False

    def _lookup(self, kwargs, read_class=coherence.Read):
        """
        Return a Read, and the text of the primary key where the kwargs name
        it.

        None where the row cannot be known by them, or not be cached.
        """
        region = region_of(self)
        if (
            region is None
            or (blocks.get() and is_bypassed(region.model))
            or not has_django_steps(self)
            or not yields_whole_rows(self)
        ):
            return None
        opts, connection = self.model._meta, connections[region.using]
        vendor = connection.vendor
        try:
            values = keys.from_kwargs(opts, kwargs, vendor)
            if self.query.where.children:
                for attname, value in keys.from_query(self.query, vendor).items():
                    keys.add(values, attname, value)
        except keys.NotCanonical:
            return None
        if not values:
            return None
        columns = layout(self.model)
        pk = keys.pk_text(opts, values)
        read = read_class(
            region,
            coherence.stores[self.key_cache_alias],
            keys.lookup_of(values) if pk is None else None,
            columns.fingerprint(connection),
            partial(columns.matches, values),
            self.local_timeout,
            connection,
        )
        read.wanted = values
        return read, pk

    def _read_many(self):
        region = region_of(self)
        if region is None or is_bypassed(region.model):
            return None
        columns = layout(self.model)
        read = coherence.Read(
            region,
            coherence.stores[self.key_cache_alias],
            None,
            columns.fingerprint(connections[region.using]),
            None,
            self.local_timeout,
        )
        return ReadMany(read, columns)

    def _recorded(self, recording):
        """Return a copy that is recorded, and whose get() is Django's."""
        queryset = self._clone()
        queryset._creates = False
        queryset._iterable_class = RecordingIterable
        queryset._recording = recording
        return queryset

    def _keep(self, read, recording, obj, created):
        values = recording.inserted(obj) if created else recording.selected(obj)
        pk = None if values is None else layout(self.model).pk_text(values)
        read.note(created)
        if pk is None:
            return
        if created:
            read.fill_created(pk, values, recording.made_pk)
        else:
            read.fill(pk, values)

    def _publish(self, read, recording):
        """
        The row was updated, and is locked in the database until the commit.
        """
        for obj, _ in recording.rows:
            values = recording.updated(obj)
            pk = None if values is None else layout(self.model).pk_text(values)
            if pk is not None:
                read.publish(pk, values)

    def _tell_not_asked(self, lookup):
        if cache_miss.receivers:
            model = self.model._meta.concrete_model
            tell_not_asked(model, self.db, lookup, reason_without_lookup(model))


def given(**options):
    """
    Return the options of a call that are not None, to be passed by name: an
    override may take no others, and not all of them.
    """
    return {name: value for name, value in options.items() if value is not None}


def reason_without_lookup(model):
    """Return the Reason of a call that asks the cache of a model nothing."""
    return Reason.BYPASS if is_bypassed(model) else Reason.NOT_CACHEABLE


NEW_QUERY = Query(None).__dict__.keys()


def yields_whole_rows(queryset):
    """Tell whether get() would return a row as it is in its table."""
    query = queryset.query
    return (
        queryset._iterable_class is ModelIterable  # not values(), nor subclasses
        and not queryset._prefetch_related_lookups
        and (is_new(query) or (has_django_query(query) and is_filter(query)))
        # Of FETCH_PEERS the peers would be missing (Django 6.1).
        and not getattr(getattr(queryset, "_fetch_mode", None), "track_peers", False)
    )


def is_new(query):
    """
    Tell whether nothing was done to a query since a manager made it, which is
    told faster than what was done.
    """
    return (
        type(query) is Query
        and query.__dict__.keys() == NEW_QUERY
        and type(query.where) is WhereNode
        and not (
            query.where.children
            or query.alias_refcount
            or query.annotations
            or query.extra
            or query._filtered_relations
        )
    )


def is_filter(query):
    """Tell whether a query is at most a filter on the table's own columns."""
    return (
        not query.select_related
        and not query.annotations
        and not query.extra
        and not query.extra_tables
        and not query.distinct
        and not query.is_sliced
        and not query.combinator
        and not query.select_for_update  # whoever locks a row wants the database's
        and query.default_cols  # not defer(), nor only()
        and query.deferred_loading == (frozenset(), True)
        and not query._filtered_relations
        # A join may filter rows.
        and sum(count > 0 for count in query.alias_refcount.values()) <= 1
        and is_of_its_table(query)
    )


def is_of_its_table(query):
    """
    Tell whether a query reads its model's table, joins aside: an archive or a
    CTE may stand in its place.
    """
    return all(
        type(table) is Join
        or (type(table) is BaseTable and table.table_name == query.get_meta().db_table)
        for alias, table in query.alias_map.items()
        if query.alias_refcount[alias]
    )


class AlwaysGetOrCreateMixin(GetOrCreateBase):
    """
    Create what get() misses.

    get() is get_or_create() when it is given keyword arguments alone, each an
    exact lookup (name=, name__exact=, fk=, fk_id=) of a plain value on a
    concrete field, none of them a primary key that is generated, and when the
    queryset carries no filter but a related manager's own: the new row then
    gets that manager's foreign key. Any other get() is Django's, and so is
    every get() on what all() returns.
    """

    _creates = True

    # What a generic relation's manager gives to a new row, {field: value}:
    # unlike a foreign key's, it cannot be told from the queryset.
    _generic_row = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # loaddata calls them, and so do logins.
        wrap(cls, "get_by_natural_key", without_creation)
        wrap(cls, "aget_by_natural_key", without_creation_async)

    def as_manager(cls):  # noqa: N805
        # managers.py builds its classes from the ones here.
        from .managers import BaseAlwaysManager

        # Named as by Django's as_manager(): that is how django-stubs finds it.
        name = f"ManagerFrom{cls.__name__}"
        manager = BaseAlwaysManager.from_queryset(cls, name)()
        manager._built_with_as_manager = True
        return manager

    as_manager.queryset_only = True
    as_manager = classmethod(as_manager)  # type: ignore[assignment]

    def get(self, *args, **kwargs):
        """
        Perform the query and return a single object matching the given
        keyword arguments.
        """
        if (
            self._creates
            and kwargs
            and not args
            # One that was set on this queryset has called this one.
            and "get" not in self.__dict__
            and (row := self._row_to_create(kwargs)) is not None
        ):
            if not follows_django(self):
                return self._get_or_create_as_django(kwargs, row)
            return self.get_or_create(**row)[0]
        return super().get(*args, **kwargs)

    def _get_or_create_as_django(self, kwargs, row):
        """
        Create what Django's get() misses, where a step of it is overridden.
        """
        queryset = self._without_creation()
        queryset._for_write = True
        get = super(AlwaysGetOrCreateMixin, queryset).get
        try:
            # As they are spelled: an override may know fk=, and not fk_id=.
            return get(**kwargs)
        except self.model.DoesNotExist:
            # A subclass's get() has been called, and may have added what it
            # would add to these arguments once more.
            queryset.get = get
            return queryset.get_or_create(**row)[0]

    def all(self):
        """
        Return a new QuerySet that is a copy of the current one. This allows a
        QuerySet to proxy for a model manager in some cases.
        """
        clone = super().all()
        # Form fields, generic views and REST framework look up by all().
        clone._creates = False
        return clone

    def _clone(self):
        clone = super()._clone()
        clone._creates = self._creates
        clone._generic_row = self._generic_row
        return clone

    def _row_to_create(self, kwargs):
        """
        Return the arguments for get_or_create() if get() with these kwargs
        may create, None if not.
        """
        related = self._related_row()
        if (
            related is None
            or not filters_only(self.query, related)
            or not issubclass(self._iterable_class, ModelIterable)  # values()
        ):
            return None
        opts = self.model._meta
        fields = set(related)
        row = {}
        for key, value in kwargs.items():
            name = key.removesuffix("__exact")
            try:
                field = opts.pk if name == "pk" else opts.get_field(name)
            except FieldDoesNotExist:  # name__iexact, a misspelt name.
                return None
            if (
                field in fields  # fk= and fk_id=: which is meant?
                or not may_be_created(self.model, field)
                or not is_plain(field, value)
            ):
                return None
            fields.add(field)
            if isinstance(value, models.Model):
                name = field.name  # create(fk_id=obj) fails.
            elif field.is_relation:
                name = field.attname  # create(fk=1) fails.
            row[name] = value
        row |= {field.name: value for field, value in related.items()}
        if "defaults" in row:  # A field that is called as the argument is.
            value = row.pop("defaults")
            row |= {"defaults": {"defaults": value}, "defaults__exact": value}
        return row

    def _related_row(self):
        """
        Return what the related manager that made this queryset gives to a
        new row, as {field: value}: {} without a related manager, None for one
        whose get() is Django's.
        """
        instance = self._hints.get("instance")
        if instance is None or self._generic_row:
            return self._generic_row
        # One-to-one access and many-to-many managers give the hint as well,
        # but only a foreign key's manager tells the objects that it knows.
        if len(self._known_related_objects) != 1:
            return None
        [(field, known)] = self._known_related_objects.items()
        if (
            not isinstance(field, models.ForeignKey)  # ForeignObject: columns.
            or instance._state.adding  # No row yet to refer to.
            # The instance has got another key since.
            or known != {getattr(instance, field.target_field.attname): instance}
        ):
            return None
        return {field: instance}


def filters_only(query, fields):
    """Whether the query is all rows, or those with a value in each field."""
    return (
        len(query.where.children) == len(fields)
        and all(is_exact(child, fields) for child in query.where.children)
        and not query.annotations
        and not query._filtered_relations  # annotate() as well.
        and not query.extra
        and not query.extra_tables
        and not query.distinct
        and not query.is_sliced
        and not query.select_for_update  # update_or_create() is looking.
        and not query.combinator
        and is_of_its_table(query)
    )


def is_exact(child, fields):
    """Whether this part of a WHERE is field = value for one of the fields."""
    return (
        getattr(child, "lookup_name", None) == "exact"
        and getattr(child.lhs, "target", None) in fields
    )


def may_be_created(model, field):
    """Whether a lookup on this field may create a row of the model."""
    if (
        not field.concrete  # GenericForeignKey, and relations of others.
        or field.many_to_many  # Concrete, but without a column.
        or field.generated  # The database computes it.
        # Saving the child would overwrite the parent's row.
        or getattr(field.remote_field, "parent_link", False)
    ):
        return False
    if model._meta.label_lower == settings.AUTH_USER_MODEL.lower() and (
        # Sessions and password reset links ask for users who are gone.
        field in field.model._meta.pk_fields
        # changepassword asks for what was typed, and so do logins.
        or field.name == getattr(model, "USERNAME_FIELD", None)
    ):
        return False
    return field not in field.model._meta.pk_fields or not (
        isinstance(field, models.AutoField)  # The database generates it,
        or field.has_default()  # or Django does,
        or field.has_db_default()  # or the database again.
        # The parent's, in multi-table inheritance: as for parent_link.
        or field.model is not model._meta.concrete_model
    )


def is_plain(field, value):
    """Whether this is a value that a row can have in this field."""
    if isinstance(value, models.Model):
        return (
            isinstance(field, models.ForeignKey)
            # Not the parent of it, which a lookup takes as well.
            and isinstance(value, field.remote_field.model._meta.concrete_model)
            and not value._state.adding  # No row yet to refer to.
        )
    return (
        value is not None  # IS NULL would find any number of rows.
        and not hasattr(value, "resolve_expression")  # F(), QuerySet
        and not callable(value)  # create() gets what it returns.
        # A text field would take it, and save its repr().
        and not (
            isinstance(value, (dict, list, set, tuple))
            and isinstance(field, (models.CharField, models.TextField))
        )
    )


def wrap(cls, name, wrapper):
    """Wrap a method, the class's own or an inherited one, unless it is."""
    method = cls.__dict__.get(name)
    if method is None:
        inherited = getattr(cls, name, None)
        if inherited is None or hasattr(inherited, "wrapped_by"):
            return

        @wraps(inherited)
        def method(self, *args, **kwargs):
            return getattr(super(cls, self), name)(*args, **kwargs)

    method = wrapper(method)
    method.wrapped_by = wrapper
    setattr(cls, name, method)


def without_creation(method):
    """Run the method on a manager or queryset whose get() is Django's."""

    @wraps(method)
    def wrapped(self, *args, **kwargs):
        return method(self._without_creation(), *args, **kwargs)

    return wrapped


def without_creation_async(method):
    """As without_creation(), for a coroutine function."""

    @wraps(method)
    async def wrapped(self, *args, **kwargs):
        return await method(self._without_creation(), *args, **kwargs)

    return wrapped


class NonAtomicGetOrCreateMixin(GetOrCreateBase):
    """
    Create without a savepoint, and lose a race without an error.

    get_or_create() is SELECT and INSERT, update_or_create() inside a
    transaction SELECT … FOR UPDATE and INSERT or UPDATE. Any error but a
    conflict of the INSERT, raised once something was written, marks the
    transaction for rollback: there is no savepoint to roll back to.
    """

    def _get_or_create_row(self, defaults, kwargs):
        # As QuerySet.get_or_create(), with InsertGuard for atomic().
        self._for_write = True
        connection = connections[self.db]
        if (
            not can_guard(connection)
            or is_multi_table(self.model)
            or is_by_hand(connection)
            # A neighbour's, which this would leave out.
            or "get_or_create" in path_of(type(self)).entries
        ):
            return super()._get_or_create_row(defaults, kwargs)
        try:
            return self._find_row(kwargs), False
        except self.model.DoesNotExist:
            params = self._extract_model_params(defaults, **kwargs)
            guard = InsertGuard(connection, self.model)
            try:
                with guard:
                    params = dict(resolve_callables(params))
                    guard.watch(params)
                    return self.create(**params), True
            except IntegrityError:
                if not guard.intact:
                    raise
                try:
                    winner = self._find_winner(kwargs)
                except self.model.DoesNotExist:
                    pass
                else:
                    self._forget_loser(params, winner)
                    return winner, False
                if not guard.hidden:
                    raise
        # The conflict is with some other row, or the winner is gone, and the
        # error that would tell is not known. With a savepoint: either this
        # creates the row, or it raises that error.
        return super()._get_or_create_row(defaults, kwargs)

    def _bulk_atomic(self):
        connection = connections[self.db]
        if can_guard(connection) and connection.in_atomic_block:
            tell_savepoint_omitted(self.model, connection.alias)
            return UpdateGuard(connection)
        return super()._bulk_atomic()

    def _find_row(self, kwargs):
        if self.query.select_for_update:
            with locking_read(self.db):
                return self._find(**kwargs)
        return self._find(**kwargs)

    def _find_winner(self, kwargs):
        try:
            # Without a lock first: the winner may be about to delete the row,
            # and then waits for the lock of this transaction's duplicate key.
            return self._find_row(kwargs)
        except self.model.DoesNotExist:
            connection = connections[self.db]
            if (
                connection.vendor != "mysql"
                or not connection.in_atomic_block  # Each SELECT sees the latest.
                or self.query.select_for_update  # So does this one.
            ):
                raise
        with share_lock(self.db):
            return self._find(**kwargs)

    def _forget_loser(self, params, winner):
        # The object that lost the race made itself the cached other side of
        # its one-to-one relations (#36489).
        for field in self.model._meta.concrete_fields:
            value = params.get(field.name)
            if not (
                field.one_to_one
                and isinstance(value, models.Model)
                and field.remote_field.is_cached(value)
            ):
                continue
            if (
                isinstance(winner, models.Model)  # It's a dict with values().
                and getattr(winner, field.attname)
                == getattr(value, field.target_field.attname)
            ):
                field.remote_field.set_cached_value(value, winner)
            else:
                field.remote_field.delete_cached_value(value)

    def _update_or_create_row(self, defaults, create_defaults, kwargs):
        # As QuerySet.update_or_create() in 5.2 to 6.1, except that atomic() is
        # left out inside of a transaction: FOR UPDATE needs one, not a
        # savepoint. (Not atomic(savepoint=False): it would mark the
        # transaction for rollback on errors that left it usable.)
        self._for_write = True
        using = self.db
        connection = connections[using]
        if (
            not can_guard(connection)
            or "update_or_create" in path_of(type(self)).entries
        ):
            return super()._update_or_create_row(defaults, create_defaults, kwargs)
        update_defaults = defaults or {}
        if create_defaults is None:
            create_defaults = update_defaults

        in_transaction = connection.in_atomic_block
        if in_transaction:
            tell_savepoint_omitted(self.model, using)
        with nullcontext() if in_transaction else transaction.atomic(using=using):
            # Lock the row so that a concurrent update is blocked until
            # update_or_create() has performed its save.
            obj, created = self.select_for_update().get_or_create(
                create_defaults, **kwargs
            )
            if created:
                return obj, created
            with UpdateGuard(connection):
                for k, v in resolve_callables(update_defaults):
                    setattr(obj, k, v)

                update_fields = set(update_defaults)
                concrete_field_names = self.model._meta._non_pk_concrete_field_names
                # update_fields does not support non-concrete fields.
                if concrete_field_names.issuperset(update_fields):
                    # Add fields which are set on pre_save(), e.g. auto_now
                    # fields. This is to maintain backward compatibility as
                    # these fields are not updated unless explicitly specified
                    # in the update_fields list.
                    pk_fields = self.model._meta.pk_fields
                    for field in self.model._meta.local_concrete_fields:
                        if not (
                            field in pk_fields
                            or field.__class__.pre_save is models.Field.pre_save
                        ):
                            update_fields |= {field.name, field.attname}
                    obj.save(using=using, update_fields=update_fields)
                else:
                    obj.save(using=using)
        return obj, False


class CachedQuerySet(CachedGetOrCreateMixin, models.QuerySet):
    pass


class AlwaysQuerySet(AlwaysGetOrCreateMixin, models.QuerySet):
    pass


class NonAtomicQuerySet(NonAtomicGetOrCreateMixin, models.QuerySet):
    pass


class PlusQuerySet(
    CachedGetOrCreateMixin,
    AlwaysGetOrCreateMixin,
    NonAtomicGetOrCreateMixin,
    models.QuerySet,
):
    pass
