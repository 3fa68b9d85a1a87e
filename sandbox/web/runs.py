"""
The run of this server: a process that goes through the acts of the demo and
then looks rows up, until this server stops it or ends.
"""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress

from django.conf import settings

GOING_ON = ("starting", "importing", "comparing", "lookups", "costs", "stopping")
MOST_POINTS = 200  # of a line of the chart
PATIENCE = 10  # seconds until a process that was to stop is made to
ANSWER_TIMEOUT = 30  # seconds


class Busy(Exception):
    pass


class NoAnswer(Exception):
    pass


class Run:
    """
    `order` is the work of the worker, `title` its name on the page, `chosen`
    the values of the form.
    """

    def __init__(self, order, title, chosen):
        self.title, self.chosen = title, chosen
        self.state = "starting"
        self.start, self.done, self.message = {}, {}, ""
        self.acts = []  # the last one is going on
        self.answers = queue.SimpleQueue()
        self.asking = threading.Lock()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - until the end
        self.process = subprocess.Popen(
            [sys.executable, settings.BASE_DIR / "manage.py", "worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            # The CTRL-C of a terminal is for the server: the worker sees the
            # end of its input, and cleans up.
            start_new_session=True,
        )
        self.ended = threading.Thread(target=self.read, daemon=True)
        self.ended.start()
        self.write(order)

    @property
    def is_going_on(self):
        return self.state in GOING_ON

    @property
    def can_answer(self):
        return self.state == "done"

    def write(self, value):
        with suppress(OSError, ValueError):  # it has ended, or its input has
            self.process.stdin.write(json.dumps(value).encode() + b"\n")
            self.process.stdin.flush()

    def read(self):
        for line in self.process.stdout:
            event = json.loads(line)
            getattr(self, f"on_{event.pop('event')}")(**event)
        self.process.wait()
        if self.is_going_on or self.state == "done":
            self.end_of_worker()
        self.errors.close()
        self.process.stdout.close()
        with suppress(OSError):
            self.process.stdin.close()
        self.answers.put(None)  # to a request that waits for one

    def end_of_worker(self):
        """The worker has ended without an event that says so."""
        if self.state == "stopping":
            self.state = "stopped"
        elif self.state != "done" or not self.process.stdin.closed:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").split("\n")
            last = [line for line in lines if line.strip()][-1:] or ["no reason given"]
            self.on_failed(f"The process of the import has ended: {last[0]}")

    def on_start(self, **values):
        self.start = values

    def on_act(self, **values):
        self.acts = [*self.acts, Act(**values)]  # views may read the old list
        if self.state != "stopping":
            key = self.acts[-1].key
            self.state = key if key in GOING_ON else "importing"

    def on_sample(self, name, done, point, measures):
        act = self.acts[-1]
        act.done[name] = done
        if point:
            act.points[name].add(point)
        act.measure(measures)

    def on_compare(self):
        if self.state == "importing":
            self.state = "comparing"

    def on_equal(self, sentence):
        self.acts[-1].equality = sentence

    def on_done(self, **values):
        self.done = values
        if self.state != "stopping":
            self.state = "done"

    def on_stopped(self):
        self.state = "stopped"

    def on_failed(self, message):
        self.message, self.state = message, "failed"

    def on_answer(self, **values):
        self.answers.put(values)

    def stop(self):
        """Close the input of the worker: it rolls back, cleans up and ends."""
        if self.is_going_on:
            self.state = "stopping"
        with self.asking, suppress(OSError):
            self.process.stdin.close()
        threading.Thread(target=self.insist, daemon=True).start()

    def insist(self):
        for end in (self.process.terminate, self.process.kill):
            self.ended.join(PATIENCE)
            if not self.ended.is_alive():
                return
            end()

    def ask(self, model, name):
        """
        Return what gazetteer.lookups.look_up() does. Raise NoAnswer when the
        worker is busy or gone.
        """
        with self.asking:
            if not self.can_answer:
                raise NoAnswer
            self.write({"model": model, "name": name})
            try:
                answer = self.answers.get(timeout=ANSWER_TIMEOUT)
            except queue.Empty:
                self.on_failed(f"No answer within {ANSWER_TIMEOUT} seconds.")
                raise NoAnswer from None
        if answer is None:
            raise NoAnswer
        return answer


class Act:
    """What the worker has reported of one of its acts."""

    def __init__(self, key, title, names, total, note):
        self.key, self.title, self.note = key, title, note
        self.names, self.total = names, total
        self.done = dict.fromkeys(names, 0)
        self.points = {name: Points() for name in names}
        self.measures = {}
        self.equality = ""  # the sentence for tables that are equal

    def measure(self, measures):
        for title, spec, numbers in measures:
            known = self.measures.setdefault(title, (spec, {}))[1]
            # A number that is not known at the moment keeps its last value.
            known.update({k: v for k, v in numbers.items() if v is not None})

    @property
    def tenths(self):
        """Return how much of it is done, in percent, rounded to tens."""
        return sum(self.done.values()) * 10 // (self.total * len(self.names)) * 10


class Points(list):
    """(seconds, rows), thinned out when there are too many to draw."""

    step, passed = 1, 0

    def add(self, point):
        self.passed += 1
        if self and self.passed % self.step:
            self[-1] = point  # the last one is always there
            return
        self.append(point)
        if len(self) > MOST_POINTS:
            del self[1:-1:2]
            self.step *= 2


class Runs:
    """The run of this server: one at a time."""

    def __init__(self):
        self.lock = threading.Lock()
        self.current = None

    @property
    def is_going_on(self):
        run = self.current
        return run is not None and run.is_going_on

    def start(self, order, title, chosen):
        """Start a run. Raise Busy while there is one."""
        with self.lock:
            if self.is_going_on:
                raise Busy
            self.end()
            self.current = Run(order, title, chosen)

    def stop(self):
        """Stop the run that is going on, if any."""
        if self.is_going_on:
            self.current.stop()

    def end(self):
        """End the run, and wait until it has cleaned up."""
        run, self.current = self.current, None
        if run is not None:
            run.stop()
            run.ended.join(3 * PATIENCE)


runs = Runs()
