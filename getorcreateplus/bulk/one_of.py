"""
The condition that a column has one of many values, or that several columns
have one of many combinations, without the work of Django's ``__in`` for each
value.

PostgreSQL gets the values as one parameter for each column: an array. An array
of texts has no type, and gets the type of the column, as each value of IN
does. So both have the same plan, for any type of the column.
"""

from django.db.models import BooleanField, F, Func, Lookup

from ..lookups.canonical import prepared_type, stored_as


def one_of(field, values):
    """
    Return the condition that a field's column has one of these canonical
    values, None if Django has to prepare them.
    """
    return OneOf(F(field.attname), values) if sent_unchanged(field, values) else None


def one_combination_of(fields, rows, connection):
    """
    Return the condition that the columns of these fields have the canonical
    values of one of these rows, None if each combination needs a condition.
    """
    if not takes_arrays(connection):
        return None
    columns = [list(column) for column in zip(*rows, strict=True)]
    if all(map(sent_unchanged, fields, columns)):
        return OneCombinationOf(fields, columns)
    return None


def sent_unchanged(field, values):
    """Return True if Django would not change any of these values."""
    stored = stored_as(field)
    kind = stored and prepared_type(field, stored)
    return kind in {int, str} and {kind}.issuperset(map(type, values))


class OneOf(Lookup):
    """A column, and the values that are sent to the database."""

    lookup_name = "one_of"
    prepare_rhs = False

    def as_sql(self, compiler, connection):
        column, params = self.process_lhs(compiler, connection)
        if takes_arrays(connection):
            return f"{column} = ANY(%s)", (*params, self.rhs)
        placeholders = ", ".join(["%s"] * len(self.rhs))
        return f"{column} IN ({placeholders})", (*params, *self.rhs)


class OneCombinationOf(Func):
    """
    Several columns, and a list of the values of each. An OR for each
    combination takes PostgreSQL and Django several times as long.
    """

    output_field = BooleanField()

    def __init__(self, fields, columns):
        super().__init__(*(F(field.attname) for field in fields))
        self.fields, self.columns = fields, columns

    def as_sql(self, compiler, connection):  # type: ignore[override]
        sources = self.get_source_expressions()
        columns = ", ".join(compiler.compile(source)[0] for source in sources)
        quote, arrays = connection.ops.quote_name, []
        for field, values in zip(self.fields, self.columns, strict=True):
            if type(values[0]) is int:
                arrays.append("%s")
                continue
            # UNNEST() needs a type, and that of the column may differ from
            # that of the field: citext, an enum, char(n). PostgreSQL removes
            # the subquery when it plans, and has the length of the array then.
            column, table = quote(field.column), quote(field.model._meta.db_table)
            arrays.append(
                f"CASE WHEN FALSE THEN ARRAY(SELECT {column} FROM {table}) ELSE %s END"
            )
        sql = f"({columns}) IN (SELECT * FROM UNNEST({', '.join(arrays)}))"
        return sql, tuple(self.columns)


def takes_arrays(connection):
    """
    Return True if an array is sent without its type. With server-side binding,
    texts would be sent as text[], but some text columns have another type.
    """
    if connection.vendor != "postgresql":
        return False
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return is_psycopg3 and not connection.features.uses_server_side_binding
