"""SQL with Django's cursor, and with the driver's cursor."""

from contextlib import closing

from django.db import connection


def execute(*statements):
    with connection.cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)


def behind_the_back(sql):
    """Write like another program, unseen by Django."""
    connection.ensure_connection()
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(sql)
