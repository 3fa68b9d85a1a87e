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
from gazetteer.contenders import BULK, contenders
from gazetteer.contest import Contest, lines
from gazetteer.costs import Costs, look_for_each_call
from gazetteer.crowd import Failed, Lookups
from gazetteer.lookups import look_up
from gazetteer.verdict import Verdict, in_words, is_slower

from getorcreateplus import __version__

INTERVAL = 0.1  # seconds between two samples
BATCH = 250  # rows of a transaction: short turns, so that one can watch


class Stopped(Exception):
    pass


class Command(BaseCommand):
    help = (
        "Do what the demo does, then look rows up: the page starts this process for "
        "its work. It reads lines of JSON, first what to import and then what to look "
        "up, and writes lines of JSON. The end of its input stops it, and it removes "
        "all that it has put into the database."
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
        except Failed as error:
            self.emit("failed", message=f"The lookups failed. {error}")

    def read(self):
        with (
            # The last line is half a line if the server was killed.
            suppress(json.JSONDecodeError),
            # Without a buffer: its lock would stay locked when this thread,
            # a daemon, ends with the process.
            open(0, "rb", buffering=0, closefd=False) as lines,
        ):
            for line in lines:
                self.questions.put(json.loads(line))
        self.stopped.set()
        self.questions.put(None)

    def emit(self, event, **values):
        # The pipe is broken when the server is gone.
        with suppress(BrokenPipeError):
            os.write(1, json.dumps({"event": event, **values}).encode() + b"\n")

    def work(self, order):
        if order is None:
            raise Stopped
        use = services.new_database if order["new"] else services.chosen_database
        services.use_cache(order["cache"])
        look_for_each_call()
        with services.emptied_cache(), use(order["database"]):
            names = contenders(in_bulk=order["in_bulk"])
            contest = Contest(order["cities"], names, BATCH)
            self.emit(
                "start",
                names=names,
                batch=BATCH,
                django=get_version(),
                getorcreateplus=__version__,
                database=connection.display_name,
                cache=type(caches["default"]).__name__,
            )
            try:
                contest.create_tables()
                self.work_on(contest, order["lookups"])
                self.answer()
            finally:
                contest.drop_tables()

    def work_on(self, contest, number):
        """Go through the acts, until there is a verdict, or a difference."""
        for act in contest.imports:
            sentence, differences = self.compare(act)
            if any(differences):
                self.emit("done", verdict={}, differences=list(lines(differences)))
                return
            self.emit("equal", sentence=sentence)
        act = self.look_up(Lookups(number, contest.cities)) if number else None
        if act and act.wrong:
            wrong = f"{act.wrong:,} lookups of the four processes returned a wrong row"
            self.emit("done", verdict={}, differences=[wrong])
            return
        verdict = Verdict(contest, act, self.measure(Costs(contest.cities)))
        self.emit(
            "done",
            verdict={
                "lead": verdict.lead,
                "columns": verdict.columns,
                "ratios": [
                    [
                        title,
                        [(in_words(ratio), is_slower(ratio)) for ratio in ratios],
                    ]
                    for title, ratios in verdict.ratios
                ],
                "sentences": verdict.sentences,
            },
            differences=[],
        )

    def begin(self, act, names, total, note=""):
        self.emit(
            "act", key=act.key, title=act.title, names=names, total=total, note=note
        )

    def compare(self, act):
        """Run this import, and return what its check() does then."""
        self.begin(act, list(act.tallies), act.total)
        self.run(act)
        self.emit("compare")
        result = act.check()
        self.go_on()
        return result

    def go_on(self):
        if self.stopped.is_set():
            raise Stopped

    def run(self, act):
        last, due = None, 0
        run = act.run()
        try:
            for name, _ in run:
                self.go_on()
                if last and name != last:
                    self.sample(act, last)
                    due = 0
                # A batch imports its rows all at once, at its end.
                if name != BULK and time.perf_counter() >= due:
                    self.sample(act, name)
                    due = time.perf_counter() + INTERVAL
                last = name
        finally:
            run.close()  # and roll back
        for name in act.tallies:
            self.sample(act, name)

    def sample(self, act, name):
        tally = act.tallies[name]
        point = [round(tally.seconds, 3), tally.created]
        self.report(act, name, tally.imported, point)

    def report(self, act, name, done, point=None):
        measures = act.measures()
        self.emit("sample", name=name, done=done, point=point, measures=measures)

    def look_up(self, act):
        """Run the lookups. Return None if they are left out here."""
        self.begin(act, list(act.tallies), act.total, act.note)
        if act.is_skipped:
            return None
        run = act.run()
        try:
            for name, number in run:
                self.go_on()
                if number:
                    self.report(act, name, act.tallies[name].lookups)
        finally:
            run.close()  # and end the processes
        return act

    def measure(self, costs):
        self.begin(costs, costs.names, costs.rounds)
        for _ in costs.run():
            self.go_on()
        for name in costs.names:
            self.report(costs, name, costs.rounds)
        return costs

    def answer(self):
        while question := self.questions.get():
            # The database may have disconnected in the meantime.
            close_old_connections()
            self.emit("answer", **look_up(question["model"], question["name"]))
