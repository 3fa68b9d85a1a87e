"""The actors' jobs. Each writes its own value: its number."""

from django.db import connection, transaction

from ..support.errors import Rollback, expect
from .interleavings import gate

WARM = {"name": "row"}  # Its hint is in the cache when the actors begin.
COLD = {"name": "row", "colour": "red"}  # The same row, by an unknown lookup.


def write(job):
    """Record that a write of row 1 returned: no later read may be older."""

    def written(stage, number):
        value = job(stage, number)
        gate(("returned", True))
        stage.returned.append((1, value))

    written.__name__ = job.__name__
    written.writes = True
    return written


def row(stage, number):
    obj = stage.model(pk=1, value=number, **COLD)
    obj._state.adding = False
    return obj


@write
def save(stage, number):
    row(stage, number).save()
    return number


@write
def save_in_transaction(stage, number):
    with transaction.atomic():
        row(stage, number).save()
    return number


@write
def save_and_read(stage, number):
    """
    A transaction that reads its own row, which is released after its commit.
    """
    with transaction.atomic():
        row(stage, number).save()
        read_own(stage, number)
    return number


@write
def publish(stage, number):
    stage.model.objects.update_or_create(defaults={"value": number}, **WARM)
    return number


@write
def publish_twice(stage, number):
    with transaction.atomic():
        stage.model.objects.update_or_create(defaults={"value": -number}, **WARM)
        stage.model.objects.update_or_create(defaults={"value": number}, **WARM)
        read_own(stage, number)
    return number


@write
def publish_and_save(stage, number):
    with transaction.atomic():
        obj, _ = stage.model.objects.update_or_create(
            defaults={"value": -number}, **WARM
        )
        obj.value = number
        obj.save()
    return number


@write
def update(stage, number):
    stage.model.objects.filter(**WARM).update(value=number)
    return number


@write
def update_in_transaction(stage, number):
    with transaction.atomic():
        if stage.model.objects.filter(**WARM).update(value=number):
            read_own(stage, number)
    return number


@write
def rename(stage, number):
    obj = row(stage, number)
    obj.name = "other"
    obj.save()


@write
def publish_another_name(stage, number):
    stage.model.objects.update_or_create(
        defaults={"name": "other", "value": number}, **WARM
    )


@write
def delete(stage, number):
    row(stage, number).delete()


def roll_back(stage, number):
    try:
        with transaction.atomic():
            row(stage, -number).save()
            stage.model.objects.get_or_create(**WARM)
            raise Rollback
    except Rollback:
        pass


def publish_and_roll_back(stage, number):
    try:
        with transaction.atomic():
            stage.model.objects.update_or_create(defaults={"value": -number}, **WARM)
            raise Rollback
    except Rollback:
        pass


def create_and_roll_back(stage, number):
    try:
        with transaction.atomic():
            read(stage, -number, WARM)
            raise Rollback
    except Rollback:
        pass


@write
def roll_back_to_savepoint(stage, number):
    with transaction.atomic():
        publish_and_roll_back(stage, number)
        row(stage, number).save()
        publish_and_roll_back(stage, number)
    return number


def warm_read(stage, number):
    read(stage, number, WARM)


def cold_read(stage, number):
    read(stage, number, COLD)


def read_in_transaction(stage, number):
    with transaction.atomic():
        read(stage, number, WARM)
        read(stage, number, WARM)


def lock_and_read(stage, number):
    """
    A transaction that has waited for a lock sees the row that was committed
    then.
    """
    with transaction.atomic():
        rows = stage.model.objects.select_for_update().filter(**WARM)
        locked = rows.values_list("value", flat=True).first()
        if locked is not None:
            obj, _ = stage.get_or_create(locked, WARM)
            expect(obj.value == locked, f"it locked {locked} and read {obj.value}")


def write_untold_and_roll_back(stage, number):
    """A transaction whose write Django does not see."""
    try:
        with transaction.atomic():
            gate(("lock", True), ("row", False))
            table = connection.ops.quote_name(stage.model._meta.db_table)
            with connection.connection.cursor() as cursor:
                cursor.execute(f"UPDATE {table} SET value = {-number}")
            stage.get_or_create(-number, WARM)
            raise Rollback
    except Rollback:
        pass


def create(stage, number):
    read(stage, number, WARM)


def create_in_transaction(stage, number):
    with transaction.atomic():
        read(stage, number, WARM)


def warm_read_in_bulk(stage, number):
    read(stage, number, WARM, in_bulk=True)


def cold_read_in_bulk(stage, number):
    read(stage, number, COLD, in_bulk=True)


def create_in_bulk_in_transaction(stage, number):
    with transaction.atomic():
        read(stage, number, WARM, in_bulk=True)


def create_in_bulk_and_roll_back(stage, number):
    try:
        with transaction.atomic():
            read(stage, -number, WARM, in_bulk=True)
            raise Rollback
    except Rollback:
        pass


def read(stage, number, lookup, *, in_bulk=False):
    gate(("returned", False))
    stage.read(number, lookup, in_bulk=in_bulk)


def read_own(stage, number):
    obj, _ = stage.model.objects.get_or_create(**WARM, defaults={"value": number})
    expect(
        obj.value == number,
        f"its own transaction wrote {number} and read {obj.value}",
    )


def evict_payload(stage, number):
    stage.evict(stage.region.payload_key("1"))


def evict_version(stage, number):
    stage.evict(stage.region.version_key("1"))


def evict_clock(stage, number):
    stage.evict(stage.region.clock_key)


def evict_epoch(stage, number):
    stage.evict(stage.region.epoch_key)
