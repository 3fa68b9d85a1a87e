"""
The run of this server: a process that imports, and then looks rows up, until
it is told to stop or the server is gone.
"""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress

from django.conf import settings

MOST_POINTS = 200  # of a line of the chart
PATIENCE = 10  # seconds until a process that was told to stop is made to
ANSWER_TIMEOUT = 30  # seconds


class Busy(Exception):
    pass


class NoAnswer(Exception):
    pass


class Run:
    """
    `order` is what the worker is to do, `title` how people call it, `chosen`
    what they have chosen.
    """

    def __init__(self, order, title, chosen):
        self.title, self.chosen = title, chosen
        self.state = "starting"
        self.start, self.done, self.message = {}, {}, ""
        self.imported, self.points, self.measures = {}, {}, {}
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
        return self.state in ("starting", "importing", "comparing", "stopping")

    @property
    def can_answer(self):
        return self.state == "done"

    def write(self, value):
        with suppress(OSError, ValueError):  # it has ended, or is told to
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
        self.answers.put(None)  # to whoever waits for one

    def end_of_worker(self):
        """It has said nothing of its end."""
        if self.state == "stopping":
            self.state = "stopped"
        elif self.state != "done" or not self.process.stdin.closed:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").split("\n")
            last = [line for line in lines if line.strip()][-1:] or ["no reason given"]
            self.on_failed(f"The process of the import has ended: {last[0]}")

    def on_start(self, **values):
        self.imported = dict.fromkeys(values["names"], 0)
        self.points = {name: Points() for name in values["names"]}
        self.start = values  # last: whoever sees it looks at the others
        if self.state == "starting":
            self.state = "importing"

    def on_sample(self, name, imported, point, measures):
        self.imported[name] = imported
        self.points[name].add(point)
        self.measure(measures)

    def measure(self, measures):
        for title, spec, numbers in measures:
            known = self.measures.setdefault(title, (spec, {}))[1]
            # What can't be told at the moment is what it was.
            known.update({k: v for k, v in numbers.items() if v is not None})

    def on_compare(self):
        if self.state == "importing":
            self.state = "comparing"

    def on_done(self, measures, **values):
        self.measure(measures)
        self.done = values
        if self.state == "comparing":
            self.state = "done"

    def on_stopped(self):
        self.state = "stopped"

    def on_failed(self, message):
        self.message, self.state = message, "failed"

    def on_answer(self, **values):
        self.answers.put(values)

    def stop(self):
        """Tell the worker to end: it rolls back and cleans up by itself."""
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
        """Forget the run, and wait until it has cleaned up."""
        run, self.current = self.current, None
        if run is not None:
            run.stop()
            run.ended.join(3 * PATIENCE)


runs = Runs()
