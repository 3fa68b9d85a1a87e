"""get() with the SELECTs of ``selects``, and the instances that it returns."""

from contextlib import nullcontext
from operator import attrgetter

from django.db import models

from ..lookups.rows import MemoryViewBytes, layout, private_copy, with_memory_views
from ..selects.running import select_rows

try:
    from django.db.models.query import _get_from_db
except ImportError:  # Django < 6.1
    _get_from_db = None

STOCK_FROM_DB = models.Model.from_db.__func__


class SelectingMixin:
    """Django's get(), whose SQL is compiled once."""

    # True if the SQL of a lookup is kept, and not compiled for each call.
    compiled_selects = True

    # The Recording of one call of CachedGetOrCreateMixin on this queryset.
    _recording = None

    def get(self, *args, **kwargs):
        """
        Perform the query and return a single object matching the given
        keyword arguments.
        """
        rows = select_rows(self, args, kwargs)
        if rows is None:
            return super().get(*args, **kwargs)
        return self._one_of(rows, self._recording)

    def _one_of(self, rows, recording):
        """Return the instance of a single row, or raise what get() raises."""
        using, attnames, values, limit = rows
        if len(values) == 1:
            return self._make_selected(using, attnames, values[0], recording)
        name = self.model._meta.object_name
        if not values:
            raise self.model.DoesNotExist(f"{name} matching query does not exist.")
        for row in values:  # as Django does
            self._make_instance(using, row, attnames)
        is_cut = limit and len(values) >= limit
        count = f"more than {limit - 1}" if is_cut else len(values)
        raise self.model.MultipleObjectsReturned(
            f"get() returned more than one {name} -- it returned {count}!"
        )

    def _make_selected(self, using, attnames, values, recording):
        """Return the instance of a row that a SELECT has returned."""
        if recording is None:
            return self._make_instance(using, values, attnames)
        # This comes before from_db(), which may change them.
        kept = private_copy(values) if attnames == layout(self.model).attnames else None
        # from_db(), or a receiver of post_init, may write this very row.
        with nullcontext() if recording.is_open else recording:
            obj = self._make_instance(using, values, attnames)
        recording.rows.append((obj, kept))
        return obj

    def _make_instance(self, using, values, attnames=None):
        """
        Return an instance of column values, as ModelIterable does. Without
        attnames they are those of a cached row.
        """
        model = self.model
        if attnames is None:
            attnames = layout(model).attnames
            if MemoryViewBytes in map(type, values):
                values = with_memory_views(values)
        if _get_from_db is None:
            obj = model.from_db(using, list(attnames), values)
        elif model.from_db.__func__ is STOCK_FROM_DB:
            # The same as _get_from_db(), which is one more call for each row.
            obj = model.from_db(
                using, list(attnames), values, fetch_mode=self._fetch_mode
            )
        else:
            from_db = _get_from_db(model, self._fetch_mode)
            obj = from_db(using, list(attnames), values)
        if self._known_related_objects:
            set_known_related(obj, self._known_related_objects)
        return obj


def set_known_related(obj, known_related_objects):
    """
    Set the known related objects of a related manager, as ModelIterable does.
    """
    get_field = obj._meta.get_field
    for field, instances in known_related_objects.items():
        if field.is_cached(obj):
            continue
        attnames = [
            field.attname if name == "self" else get_field(name).attname
            for name in field.from_fields
        ]
        if any(attname not in obj.__dict__ for attname in attnames):
            continue
        key = attrgetter(*attnames)(obj)
        if key in instances:
            setattr(obj, field.name, instances[key])


OWN_GETS = [SelectingMixin.get]  # the get() methods that a project may override
