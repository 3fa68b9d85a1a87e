import json
import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress

from django import get_version
from django.core.cache import caches
from django.core.management import BaseCommand, CommandError
from django.db import DatabaseError, close_old_connections, connection
from gazetteer import services
from gazetteer.contest import BULK, Contest, contenders, equality, lines, verdict
from gazetteer.lookups import look_up

from getorcreateplus import __version__

INTERVAL = 0.1  # seconds between two samples
BATCH = 250  # rows of a transaction: short turns, which one can watch


class Stopped(Exception):
    pass


class Command(BaseCommand):
    help = (
        "Import as the demo does, then look rows up: what the page has do the work. "
        "Reads lines of JSON, first what to import and then what to look up, and "
        "writes lines of JSON. The end of its input stops it, and nothing of what it "
        "has put into the database is left."
    )

    def handle(self, **options):
        signal.signal(signal.SIGTERM, lambda *args: sys.exit(1))
        self.questions = queue.SimpleQueue()
        self.stopped = threading.Event()
        threading.Thread(target=self.read, daemon=True).start()
        try:
            self.work(self.questions.get())
        except Stopped:
            self.emit("stopped")
        except CommandError as error:
            # The reason alone: a URL may have a password.
            self.emit("failed", message=f"The service {error.__cause__}")
        except DatabaseError as error:
            message = f"The database gave up: {services.one_line(error)}"
            self.emit("failed", message=message)

    def read(self):
        with (
            # Half a line is the last one, of a server that was killed.
            suppress(json.JSONDecodeError),
            # Without a buffer, whose lock a daemon thread would take to its
            # grave.
            open(0, "rb", buffering=0, closefd=False) as lines,
        ):
            for line in lines:
                self.questions.put(json.loads(line))
        self.stopped.set()
        self.questions.put(None)

    def emit(self, event, **values):
        # Nobody listens any more, when the server is gone.
        with suppress(BrokenPipeError):
            os.write(1, json.dumps({"event": event, **values}).encode() + b"\n")

    def work(self, order):
        if order is None:
            raise Stopped
        use = services.new_database if order["new"] else services.chosen_database
        services.use_cache(order["cache"])
        with services.emptied_cache(), use(order["database"]):
            names = contenders(in_bulk=order["in_bulk"])
            contest = Contest(order["cities"], names, BATCH)
            self.emit(
                "start",
                names=names,
                total=contest.total,
                batch=BATCH,
                django=get_version(),
                getorcreateplus=__version__,
                database=connection.display_name,
                cache=type(caches["default"]).__name__,
            )
            try:
                contest.create_tables()
                self.run(contest)
                self.compare(contest)
                self.answer()
            finally:
                contest.drop_tables()

    def run(self, contest):
        last, due = None, 0
        run = contest.run()
        try:
            for name, _ in run:
                if self.stopped.is_set():
                    raise Stopped
                if last and name != last:
                    self.sample(contest, last)
                    due = 0
                # A batch has its rows all at once, at its end.
                if name != BULK and time.perf_counter() >= due:
                    self.sample(contest, name)
                    due = time.perf_counter() + INTERVAL
                last = name
        finally:
            run.close()  # and roll back
        for name in contest.tallies:
            self.sample(contest, name)

    def sample(self, contest, name):
        tally = contest.tallies[name]
        self.emit(
            "sample",
            name=name,
            imported=tally.imported,
            point=[round(tally.seconds, 3), tally.created],
            measures=contest.measures(),
        )

    def compare(self, contest):
        self.emit("compare")
        rows, differences = contest.compare()
        if self.stopped.is_set():
            raise Stopped
        self.emit(
            "done",
            measures=contest.measures(),
            verdict=verdict(contest.measures()),
            equality=equality(rows, in_bulk=BULK in contest.tallies),
            differences=list(lines(differences)),
        )

    def answer(self):
        while question := self.questions.get():
            # The database may have hung up in the meantime.
            close_old_connections()
            self.emit("answer", **look_up(question["model"], question["name"]))
