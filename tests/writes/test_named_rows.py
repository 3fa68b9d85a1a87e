"""Statements that name the primary keys of the rows that they write."""

import pytest
from django.db import connection, transaction

from getorcreateplus.writes import written_rows

from ..models import Paper, PlainPaper


@pytest.mark.parametrize(
    "where",
    [
        'WHERE "t"."id" = %s',
        'WHERE "t"."id" IN (%s)',
        'WHERE "t"."id" = %s RETURNING "t"."a"',
    ],
)
def test_statement_that_names_its_rows(where):
    assert written_rows.PKS.search(f'UPDATE "t" SET "a" = %s {where}')


@pytest.mark.parametrize(
    "where",
    [
        'WHERE "t"."id" = %s)',
        'WHERE "t"."id" = %s OR "t"."a" = 1',
        'WHERE "t"."id" > %s',
        'WHERE "t"."id" IN (SELECT %s)',
        'WHERE "t"."id" IN (%s))',
        'WHERE "t"."id" = 1',
        'WHERE "t"."id" = %s LIMIT %s',
    ],
)
def test_statement_that_does_not_name_its_rows(where):
    assert not written_rows.PKS.search(f'UPDATE "t" SET "a" = %s {where}')


def update_by_pk(model, params):
    quote = connection.ops.quote_name
    table = quote(model._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET {quote('pages')} = 5 WHERE {table}.{quote('id')} = %s",
            params,
        )


@pytest.mark.django_db
@pytest.mark.parametrize("params", [None, [], (), {}, {"id": 1}, [1, 2], "", 5])
def test_statement_whose_parameters_are_wrong_raises_the_drivers_error(params):
    """The same as for a table that is not cached."""
    raised = []
    for model in (PlainPaper, Paper):
        with pytest.raises(Exception) as error, transaction.atomic():  # noqa: PT011
            update_by_pk(model, params)
        message = str(error.value).replace("plainpaper", "paper")
        # PostgreSQL continues with a part of the statement.
        raised.append((type(error.value), message.splitlines()[:1]))
    assert raised[0] == raised[1]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "kind", [list, tuple, *([iter] if connection.vendor == "mysql" else [])]
)
def test_parameters_of_any_kind(kind):
    """
    mysqlclient accepts an iterator, which is empty after it is read once.
    """
    obj, _ = Paper.objects.get_or_create(title="a", defaults={"pages": 1})
    for _ in range(2):
        Paper.objects.get_or_create(title="a")
    update_by_pk(Paper, kind([obj.pk]))
    assert Paper.objects.get_or_create(title="a")[0].pages == 5
