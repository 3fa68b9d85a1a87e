"""The statements of one call, compared with Django's."""

import datetime
import re
import uuid
from decimal import Decimal

from django.apps import apps
from django.db import connection, models, transaction

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
VALUES = {
    "BinaryField": [b"a", b""],
    "BooleanField": [True, False],
    "CharField": ["a", "b%s"],
    "DateField": [datetime.date(2026, 1, 2), "2026-01-03"],
    "DateTimeField": [NOW, NOW + datetime.timedelta(days=1)],
    "DecimalField": [Decimal("1.5"), "2.25"],
    "DurationField": [datetime.timedelta(1), datetime.timedelta(2)],
    "FileField": ["a", "b"],
    "FloatField": [1.5, 2],
    "GenericIPAddressField": ["::1", "10.0.0.1"],
    "JSONField": [{"a": 1}, None],
    "SlugField": ["a", "b"],
    "TextField": ["a", ""],
    "TimeField": [datetime.time(1, 2), "03:04"],
    "UUIDField": [uuid.UUID(int=1), str(uuid.UUID(int=2))],
}


def arguments(model, number):
    """Return values of the row with this number, for all of its columns."""
    params = {}
    for field in model._meta.concrete_fields:
        if isinstance(field, models.AutoField) or field.generated:
            continue
        stored = field
        while stored.is_relation:
            stored = stored.target_field
        # The model may have no row with the key to which it refers.
        values = VALUES.get(stored.get_internal_type(), [30_001, 30_002])
        params[field.attname] = values[number % 2]
    return params


def shown(value):
    """Return a form of a value that only equal values share."""
    if isinstance(value, memoryview):
        value = bytes(value)
    return re.sub(r"0x[0-9a-f]+", "", repr(value))


MODELS = [
    model
    for model in apps.get_models()
    if model._meta.managed
    and model.__module__.startswith("tests.")
    # The current time, which a test cannot fix.
    and not any(
        isinstance(field, models.TimeField) and (field.auto_now or field.auto_now_add)
        for field in model._meta.concrete_fields
    )
]


class Sent:
    """The statements, result and exception of one call. The key may differ."""

    def __init__(self, call, model, params):
        self.statements = []
        self.obj = self.error = None
        with connection.execute_wrapper(self.record), transaction.atomic():
            try:
                with transaction.atomic():
                    self.obj = call(params)
            except Exception as error:
                self.error = type(error), str(error).partition("DETAIL")[0]
            transaction.set_rollback(True)
        self.seen = self.statements, self.error, self.attributes(model)

    def record(self, execute, sql, params, many, context):
        if "SAVEPOINT" not in sql:
            # Later statements, of receivers, may contain the key of the row.
            sent = None if self.statements else [*map(shown, params)]
            self.statements.append((sql, sent, [*map(type, params)], many))
        return execute(sql, params, many, context)

    def attributes(self, model):
        if self.obj is None:
            return None
        found = dict(vars(self.obj))
        state = dict(vars(found.pop("_state")))
        state.pop("fields_cache", None)
        state.pop("peers", None)
        for field in model._meta.pk_fields:
            if isinstance(field, models.AutoField):
                found[field.attname] = type(found[field.attname])
        values = {name: shown(value) for name, value in found.items()}
        return type(self.obj), values, state
