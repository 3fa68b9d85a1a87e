"""The INSERT of many rows that leaves existing rows as they are."""

from functools import partial

from django.db.models.sql import InsertQuery

from ..writes.refusals import Refused, try_clause


class Insert:
    """
    One INSERT of many rows, as bulk_create() sends it, except that it leaves
    existing rows as they are.
    """

    def __init__(self, connection, model, objs, fields):
        self.connection = connection
        self.model = model
        query = InsertQuery(model)
        query.insert_values(fields, list(objs))
        self.compiler = query.get_compiler(connection=connection)
        [(self.sql, self.params)] = self.compiler.as_sql()

    def send_plainly(self):
        """Send it without a clause for conflicts."""
        with self.connection.cursor() as cursor:
            cursor.execute(self.sql, self.params)

    def send(self, returned):
        """
        Return the columns of the rows that were inserted, and of those that
        existed already, if the database returns them.

        Not by INSERT OR IGNORE or INSERT IGNORE, which also store rows that
        violate other constraints, or leave them out.
        """
        quote, opts = self.connection.ops.quote_name, self.model._meta
        table = quote(opts.db_table)
        columns = ", ".join(f"{table}.{quote(field.column)}" for field in returned)
        others = []
        with self.connection.cursor() as cursor:
            if self.connection.vendor == "mysql":
                column = quote(opts.pk_fields[0].column)
                rows, others = self.send_counting(cursor, column, columns)
            else:
                attempt = partial(try_clause, self.connection, self.model)
                sql = f"{self.sql} ON CONFLICT DO NOTHING RETURNING {columns}"
                try:
                    with self.connection.execute_wrapper(attempt):
                        cursor.execute(sql, self.params)
                except Refused:
                    return [], []  # get_or_create() inserts them.
                rows = cursor.fetchall()
        if self.connection.vendor == "sqlite":
            rows = self.as_stored(rows, returned)
        cols = [field.get_col(opts.db_table) for field in returned]
        converters = self.compiler.get_converters(cols)
        if converters:
            convert = self.compiler.apply_converters
            rows, others = convert(rows, converters), convert(others, converters)
        return list(rows), list(others)

    def send_counting(self, cursor, column, columns):
        # MariaDB returns the existing rows too, so the statement counts them.
        # It updates nothing, but it takes an exclusive lock, so that writers
        # that wait for the same row do not deadlock on it.
        cursor.execute("SET @getorcreateplus = 0")
        cursor.execute(
            f"{self.sql} ON DUPLICATE KEY UPDATE {column} = IF("
            f"@getorcreateplus := @getorcreateplus + 1, {column}, {column}) "
            f"RETURNING {columns}, @getorcreateplus",
            self.params,
        )
        rows, others, before = [], [], 0
        for *values, count in cursor.fetchall():
            (rows if int(count) == before else others).append(values)
            before = int(count)
        return rows, others

    def as_stored(self, rows, returned):
        # SQLite returns an integer that was sent to a REAL column as an
        # integer.
        reals = [
            place
            for place, field in enumerate(returned)
            if (field.db_type(self.connection) or "")
            .upper()
            .startswith(("REAL", "FLOA", "DOUB"))
        ]
        if not reals:
            return rows
        rows = [list(row) for row in rows]
        for row in rows:
            for place in reals:
                if type(row[place]) is int:
                    row[place] = float(row[place])
        return rows
