"""The public methods, in the steps that the other mixins replace."""

from contextlib import nullcontext

from django.db import IntegrityError, transaction
from django.db.models.utils import resolve_callables

from ..lookups.django_path import path_of, with_own_steps
from ..selects.running import select_rows
from ..writes.compiled_inserts import create_row
from .batches import BatchMethods
from .selecting import OWN_GETS, SelectingMixin


class GetOrCreateBase(BatchMethods, SelectingMixin):
    """
    The public methods, in steps, which the mixins replace.

    Each mixin replaces another step, so the mixins work in any order.
    """

    # A subclass that overrides steps of a lookup sets this to True if its
    # overrides change nothing: lookups/django_path.py.
    lookups_as_written = False
    _getorcreateplus_path = None  # of the class; lookups/django_path.py sets it

    # True if get() creates a missing row: AlwaysGetOrCreateMixin.
    _creates = False
    # True if get() reads the cache: CachedGetMixin. If it is None, the class
    # decides.
    _caches_get = None
    # True if a missing row is created in a savepoint, inside a transaction.
    _creates_in_savepoint = False

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

    # The steps

    def _may_create(self, kwargs):
        """Return True if get() with these arguments may create a row."""
        return False

    def _get_or_create_row(self, defaults, kwargs, recording=None):
        """
        Query the database: find the row, or create it. The recording is for
        CachedGetOrCreateMixin, and has not been entered yet.
        """
        self._for_write = True
        if "get_or_create" in path_of(type(self)).entries:
            # Another package's method, between this class and QuerySet. It
            # calls get(): super() of the queryset whose get() is Django's.
            return super(GetOrCreateBase, self._without_creation()).get_or_create(
                **omit_none(defaults=defaults), **kwargs
            )
        try:
            return self._find(kwargs, recording), False
        except self.model.DoesNotExist:
            return self._create_missing(defaults, kwargs, recording)

    def _create_missing(self, defaults, kwargs, recording):
        """Create the row. Follows QuerySet.get_or_create() in 5.2 to 6.1."""
        params = self._extract_model_params(defaults, **kwargs)
        # Try to create an object using passed params.
        try:
            with recording or nullcontext(), transaction.atomic(using=self.db):
                params = dict(resolve_callables(params))
                return create_row(self._without_creation(), params), True
        except IntegrityError:
            try:
                return self._find(kwargs, recording), False
            except self.model.DoesNotExist:
                pass
            raise

    def _update_or_create_row(self, defaults, create_defaults, kwargs):
        """Do the same for update_or_create()."""
        options = omit_none(defaults=defaults, create_defaults=create_defaults)
        return super().update_or_create(**options, **kwargs)

    def _bulk_atomic(self):
        """Return the context manager around the INSERTs of a batch."""
        return transaction.atomic(using=self.db)

    def _begin_batch(self):
        """Return a Reading for many rows, None without a cache."""

    def _send_unread_miss(self, lookup):
        """Send cache_miss for a lookup that does not read the cache."""

    def _find(self, kwargs, recording=None):
        """
        Run the get() of get_or_create(), which must not create itself. The
        recording gets the values of the row.
        """
        if type(self).get in OWN_GETS:
            # Not with get(), which takes two more calls.
            connection = None if recording is None else recording.connection
            rows = select_rows(self, (), kwargs, connection)
            if rows is not None:
                return self._one_of(rows, recording or self._recording)
        queryset = self._without_creation()
        if recording is not None:
            queryset = self._clone_recorded_by(recording)
        return queryset.get(**kwargs)

    def _clone_recorded_by(self, recording):
        """Return a copy that records what it selects, and creates nothing."""
        queryset = self._clone()
        queryset._creates = queryset._caches_get = False
        queryset._recording = recording
        return queryset

    def _without_creation(self):
        """
        Return a queryset whose get() is Django's: this one, or a copy, because
        other threads may use this one. (The copy takes 6 us, and is made only
        with AlwaysGetOrCreateMixin.)
        """
        if not (
            self._creates or getattr(self, "caches_get", False) or self._caches_get
        ):
            return self
        # Not _chain(), which returns self while cloning is disabled (6.1).
        clone = with_own_steps(self._clone(), self)
        clone._creates = clone._caches_get = False
        return clone


def omit_none(**options):
    """
    Return the options that are not None. They are passed by name, because an
    override may accept only some of them.
    """
    return {name: value for name, value in options.items() if value is not None}
