"""Reading and writing one row of Paper."""

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from getorcreateplus.writes.registry import region_of

from ..models import Paper
from .servers import another_process


def pages(model=Paper, title="a"):
    """Return the pages of the row, 0 if it is new, and the queries."""
    with CaptureQueriesContext(connection) as queries:
        obj, _ = model.objects.get_or_create(title=title, defaults={"pages": 0})
    return obj.pages, len(queries)


def warm(model=Paper):
    obj, _ = model.objects.get_or_create(title="a", defaults={"pages": 1})
    pages(model)
    assert pages(model) == (1, 0)
    return obj


def is_fresh(number=2):
    """
    Return True if all processes read this value, the second time as a hit.
    """
    assert pages()[0] == number
    with another_process():
        assert pages()[0] == number
    assert pages() == (number, 0)
    with another_process():
        assert pages() == (number, 0)
    return True


def store():
    return region_of(Paper.objects.all()).client


def save(obj, number=2):
    obj.pages = number
    obj.save()


def update(paper):
    Paper.objects.update(pages=2)


def save_in_transaction(paper):
    with transaction.atomic():
        save(paper)


def update_or_create_in_transaction(paper):
    with transaction.atomic():
        update_or_create(paper)


def update_or_create(paper):
    Paper.objects.update_or_create(title="a", defaults={"pages": 2})


def update_by_cursor(paper):
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {Paper._meta.db_table} SET pages = 2")


WRITES = [save, save_in_transaction, update, update_or_create_in_transaction]
