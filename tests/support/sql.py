"""SQL: by a cursor of Django's, and by one of the driver."""

from contextlib import closing

from django.db import connection


def execute(*statements):
    with connection.cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)


def behind_the_back(sql):
    """Write as another program does, unseen by Django."""
    connection.ensure_connection()
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(sql)
