from django.core.management import BaseCommand
from django.db import connections

from getorcreateplus.triggers import add_arguments, chosen_tables, create_sql, drop_sql


class Command(BaseCommand):
    help = (
        "Prints the SQL of PostgreSQL triggers that notify getorcreateplus_listen of "
        "rows of cached models that are written without Django."
    )
    # The checks may connect to every database.
    requires_system_checks = []

    def add_arguments(self, parser):
        add_arguments(parser)
        parser.add_argument(
            "--drop", action="store_true", help="Print the SQL that drops them."
        )

    def handle(self, *, labels, drop, database, **options):
        sql = drop_sql if drop else create_sql
        tables = chosen_tables(labels, database)
        return "\n".join(sql(model, connections[database]) for model in tables.values())
