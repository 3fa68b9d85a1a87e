"""The statements that a call sends to the database, and their number."""

from django.db import connection
from django.test.utils import CaptureQueriesContext


def count(call):
    """Return the result of a call, and the number of its queries."""
    with CaptureQueriesContext(connection) as queries:
        result = call()
    return result, len(queries)


def queries_of(call):
    """Return the number of queries of a call."""
    return count(call)[1]


def count_row_statements(call):
    """Return the result of a call, and the number of statements for rows."""
    with CaptureQueriesContext(connection) as queries:
        result = call()
    return result, sum(
        query["sql"].startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        for query in queries
    )


def pages_of_row(model, title="a"):
    """Return the pages of a row, and the number of statements for rows."""
    (obj, created), queries = count_row_statements(
        lambda: model.objects.get_or_create(title=title)
    )
    assert not created
    return obj.pages, queries
