from django.core.management import BaseCommand
from django.db import DEFAULT_DB_ALIAS, connections

from getorcreateplus.triggers import create_sql, drop_sql, tables_of


class Command(BaseCommand):
    help = (
        "Prints the SQL of PostgreSQL triggers that tell getorcreateplus_listen which "
        "rows of cached models are written beside Django."
    )
    # They may connect to every database.
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument(
            "labels",
            nargs="*",
            metavar="app_label.ModelName",
            help="Cached models; all without any.",
        )
        parser.add_argument(
            "--drop", action="store_true", help="Print the SQL that drops them."
        )
        parser.add_argument(
            "--database",
            default=DEFAULT_DB_ALIAS,
            help='The database of the models. Defaults to "default".',
        )

    def handle(self, *, labels, drop, database, **options):
        sql = drop_sql if drop else create_sql
        tables = tables_of(labels, database)
        return "\n".join(sql(model, connections[database]) for model in tables.values())
