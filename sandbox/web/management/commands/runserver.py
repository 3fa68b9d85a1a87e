import logging
import os

from django.conf import settings
from django.contrib.staticfiles.management.commands import runserver
from gazetteer import services


class Command(runserver.Command):
    help = (
        "Show the demo in a browser: choose the data, a database and a cache, watch "
        "plain Django and getorcreateplus do the same work, and look rows up."
    )

    def add_arguments(self, parser):
        super().add_arguments(parser)
        # There is one stylesheet and one script, and DEBUG is off.
        parser.set_defaults(insecure_serving=True)
        parser.add_argument(
            "--database",
            metavar="URL",
            help=(
                "Offer this database, too (default: DATABASE_URL, if it is set): "
                f"{services.DATABASE_FORMS}. It must exist. A run drops and creates "
                "tables named sandbox_* there, touches no other, and drops them at "
                "its end."
            ),
        )
        parser.add_argument(
            "--cache",
            metavar="URL",
            help=(
                "Offer this cache, too (default: CACHE_URL, if it is set): "
                f"{services.CACHE_FORMS}."
            ),
        )

    def handle(self, *, database, cache, **options):
        if database is not None:
            os.environ["DATABASE_URL"] = database
        if cache is not None:
            os.environ["CACHE_URL"] = cache
        super().handle(**options)

    def inner_run(self, *args, **options):
        # The address that was given to it, such as 192.168.1.5:8000.
        if self.addr not in ("0", "0.0.0.0", "::"):
            host = f"[{self.addr}]" if self._raw_ipv6 else self.addr
            settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, host]
        logging.getLogger("django.server").addFilter(is_worth_a_line)
        super().inner_run(*args, **options)

    def check_migrations(self):
        """Do nothing: to look for migrations would create a database."""


def is_worth_a_line(record):
    """Return False for the many requests of the progress."""
    return record.levelno > logging.INFO or "/progress" not in record.getMessage()
