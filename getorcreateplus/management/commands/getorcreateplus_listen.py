import signal
import sys

from django.core.management import BaseCommand, CommandError
from django.db import Error, connections

from getorcreateplus.triggers import Listener, add_arguments, chosen_tables


class Command(BaseCommand):
    help = (
        "Invalidates cached rows that are written without Django, when the triggers of "
        "getorcreateplus_triggers send a notification. Runs until SIGTERM or SIGINT."
    )
    # The checks may connect to every database.
    requires_system_checks = []

    def add_arguments(self, parser):
        add_arguments(parser)

    def handle(self, *, labels, database, **options):
        tables = chosen_tables(labels, database)
        driver = connections[database].Database.__name__  # type: ignore[attr-defined]
        if driver != "psycopg":
            raise CommandError(
                f"The driver of {database!r} is {driver}. Install psycopg 3."
            )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        listener = Listener(tables, database)
        try:
            listener.begin()
            for model, fault in listener.without_trigger():
                self.stderr.write(
                    f"The table {model._meta.db_table!r} {fault}: "
                    "run the SQL that `getorcreateplus_triggers` prints."
                )
        except Error as error:
            raise CommandError(f"Database {database!r} failed: {error}") from error
        self.stdout.write(f"Listening to {database!r} for {', '.join(tables)}.")
        self.stdout.flush()
        listener.run()


def end(number, frame):
    # It may stop at any point, because it invalidates all rows when it starts.
    sys.exit()
