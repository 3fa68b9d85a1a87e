"""
The condition that a column has one of many values, without the work that
Django's ``__in`` does for each of them.

PostgreSQL gets them as one parameter, ``= ANY(%s)``: an array without a type,
which takes the column's, as each of the values of IN does. So both have the
same plan, whatever the type of the column.
"""

from django.db.models import F, Lookup

from ..lookups.canonical import prepared_type, stored_as


def one_of(field, values):
    """
    Return the condition that a field's column has one of these canonical
    values, None if Django has to prepare them.
    """
    stored = stored_as(field)
    kind = stored and prepared_type(field, stored)
    if kind not in SENT_UNCHANGED or not {kind}.issuperset(map(type, values)):
        return None
    return OneOf(F(field.attname), values)


SENT_UNCHANGED = {int, str}


class OneOf(Lookup):
    """A column, and the values that the database is sent."""

    lookup_name = "one_of"
    prepare_rhs = False

    def as_sql(self, compiler, connection):
        column, params = self.process_lhs(compiler, connection)
        if takes_arrays(connection):
            return f"{column} = ANY(%s)", (*params, self.rhs)
        placeholders = ", ".join(["%s"] * len(self.rhs))
        return f"{column} IN ({placeholders})", (*params, *self.rhs)


def takes_arrays(connection):
    """
    Return True if an array is sent without its type. With server-side binding,
    texts would be sent as text[], which is not the type of each text column.
    """
    if connection.vendor != "postgresql":
        return False
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return is_psycopg3 and not connection.features.uses_server_side_binding
