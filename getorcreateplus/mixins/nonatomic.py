"""get_or_create() and update_or_create() without a savepoint."""

from contextlib import nullcontext

from django.db import IntegrityError, connections, models, transaction
from django.db.models.utils import resolve_callables

from ..lookups.django_path import path_of
from ..signals import send_savepoint_omitted
from ..writes.compiled_inserts import create_row
from ..writes.compiled_updates import save_row
from ..writes.guards import (
    InsertGuard,
    UpdateGuard,
    can_guard,
    may_guard,
)
from ..writes.locking_reads import locking_read, share_lock
from .base import GetOrCreateBase


class NonAtomicGetOrCreateMixin(GetOrCreateBase):
    """
    Create rows without a savepoint, and lose a race without an error.

    get_or_create() is SELECT and INSERT. Inside a transaction
    update_or_create() is SELECT … FOR UPDATE and INSERT or UPDATE. Any error
    that is raised after a write, except a conflict of the INSERT, marks the
    transaction for rollback, because there is no savepoint to return to.
    """

    def _create_missing(self, defaults, kwargs, recording):
        # Follows QuerySet.get_or_create(), with InsertGuard for atomic().
        connection = connections[self.db]
        if self._creates_in_savepoint or not may_guard(connection, self.model):
            return super()._create_missing(defaults, kwargs, recording)
        params = self._extract_model_params(defaults, **kwargs)
        guard = InsertGuard(connection, self.model)
        try:
            with recording or nullcontext(), guard:
                params = dict(resolve_callables(params))
                guard.arm(params)
                return create_row(self, params, guard), True
        except IntegrityError:
            if not guard.is_transaction_intact:
                raise
            try:
                winner = self._find_winner(kwargs, recording)
            except self.model.DoesNotExist:
                pass
            else:
                self._detach_loser(params, winner)
                return winner, False
            if not guard.is_reason_hidden:
                raise
        # The conflict is with another row, or the winner's row is gone, and
        # the database has not returned the error that shows which. With a
        # savepoint, this either creates the row or raises that error.
        try:
            return self._find(kwargs, recording), False
        except self.model.DoesNotExist:
            return super()._create_missing(defaults, kwargs, recording)

    def _bulk_atomic(self):
        connection = connections[self.db]
        if can_guard(connection) and connection.in_atomic_block:
            send_savepoint_omitted(self.model, connection.alias)
            return UpdateGuard(connection)
        return super()._bulk_atomic()

    def _find(self, kwargs, recording=None):
        if not self._query.select_for_update:
            return super()._find(kwargs, recording)
        guards = may_guard(connections[self.db], self.model)
        with locking_read(self.db) if guards else nullcontext():
            return super()._find(kwargs, recording)

    def _find_winner(self, kwargs, recording):
        """Return the row of the writer that has won the race."""
        try:
            # First without a lock: the winner may be about to delete the row,
            # and then waits for the lock of this transaction's duplicate key.
            return self._find(kwargs, recording)
        except self.model.DoesNotExist:
            connection = connections[self.db]
            if (
                connection.vendor != "mysql"
                or not connection.in_atomic_block  # Each SELECT sees the latest.
                or self.query.select_for_update  # So does this one.
            ):
                raise
        with share_lock(self.db):
            return self._find(kwargs, recording)

    def _detach_loser(self, params, winner):
        # The object that lost the race has set itself as the cached other side
        # of its one-to-one relations (#36489).
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

    # Follows QuerySet.update_or_create() in 5.2 to 6.1, except that inside a
    # transaction it omits atomic(): FOR UPDATE needs a transaction, not a
    # savepoint. (Not atomic(savepoint=False): it would mark the transaction
    # for rollback on errors that left it usable.)
    def _update_or_create_row(self, defaults, create_defaults, kwargs):
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
            send_savepoint_omitted(self.model, using)
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
                    save_row(self, obj, using, update_fields)
                else:
                    obj.save(using=using)
        return obj, False
