"""What a call sends to the database: how many statements, and which."""

from django.db import connection
from django.test.utils import CaptureQueriesContext


def count(call):
    """Return what a call returns, and the number of its queries."""
    with CaptureQueriesContext(connection) as queries:
        result = call()
    return result, len(queries)


def queries_of(call):
    """Return the number of queries of a call."""
    return count(call)[1]


def count_row_statements(call):
    """Return what a call returns, and how many statements were about rows."""
    with CaptureQueriesContext(connection) as queries:
        result = call()
    return result, sum(
        query["sql"].startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        for query in queries
    )


def pages_of_row(model, title="a"):
    """Return the pages of a row, and how many statements were about rows."""
    (obj, created), queries = count_row_statements(
        lambda: model.objects.get_or_create(title=title)
    )
    assert not created
    return obj.pages, queries
