"""
Whether a process asks the cache at all: only as long as that pays.

Not to ask is always right, because the database answers then. So nothing here
can make a row wrong, and each process decides for itself.

* While a model is under LOCK, no row of it can be a hit or a fill. A process
  that has seen that asks nothing for some tenths of a second.
* A miss costs more than a query without a cache: it asks, queries and fills.
  So the cache pays above a certain share of hits, which depends on its
  backend and on the query. The process measures both. Below that share it asks
  for a sample of the reads alone, until their share of hits has risen.
* A row that the cache has refused as too large is never a hit. The process
  asks nothing of it, and does not send it again, for a minute.

One half of the sample are reads at random, which tell of a few rows that are
read often. The other half are all reads of some lookups, which tell of many
rows that are read seldom: of these, no random read would be the second one.
"""

import random
import time
from contextlib import contextmanager
from zlib import crc32

from ..environment.identity import is_testing

REST = 0.3  # seconds without a question, after a model was seen under LOCK
PATIENCE = 1000  # reads that ask before the share of hits is judged
MOST = 1 / 16  # of the reads are asked for in a sample
OVERHEAD = 0.04  # of the time of the queries may be spent on the sample
PAYS_AGAIN = 1.1  # times that asking must be cheaper until all reads ask again
STEP = 1 / 64  # of a moving average

LARGE = 2**16  # bytes of a row; a smaller one is refused for another reason
LARGE_REST = 60  # seconds
MOST_LARGE = 1000  # rows that are remembered


class Average:
    """A moving average. A value of a process that had to wait is cut."""

    def __init__(self, value=None):
        self.value = value

    def add(self, new):
        if self.value is None:
            self.value = new
        else:
            self.value += (min(new, 8 * self.value) - self.value) * STEP


class Asking:
    """Whether one process asks for the rows of one region."""

    def __init__(self):
        self.rests_until = 0.0
        self.large = {}  # primary key: when it may be sent again
        self.has_told = False  # of a row that is too large
        # Seconds that a question takes, the query, and the fill after it.
        self.question, self.query, self.fill = Average(), Average(), Average()
        self.begin()

    def begin(self):
        """Ask for all reads."""
        self.left = PATIENCE
        self.share = 1.0  # of hits
        self.rate = None  # of the reads that are asked for, in a sample

    def rest(self):
        self.rests_until = time.monotonic() + REST

    def is_resting(self):
        return self.rests_until != 0 and time.monotonic() < self.rests_until

    def note_too_large(self, pk):
        if is_testing():
            return  # Another test may have a small row of this key.
        if len(self.large) >= MOST_LARGE:
            self.large = {}
        self.large[pk] = time.monotonic() + LARGE_REST

    def is_too_large(self, pk):
        until = self.large.get(pk)
        return until is not None and time.monotonic() < until

    def sample(self, lookup):
        """
        Return whether to ask for a read: "all" if all reads ask, and otherwise
        the half of the sample that it belongs to, or None.
        """
        if self.rate is None:
            return "all"
        if crc32(repr(lookup).encode()) < self.rate / 2 * 2**32:
            return "lookups"
        return "reads" if random.random() < self.rate / 2 else None

    def note_answer(self, sample, seconds, is_hit):
        self.question.add(seconds)
        if sample == "all":
            self.share += (is_hit - self.share) * STEP
            self.left -= 1
            if self.left <= 0 and not self.pays(self.share):
                self.begin_sample()
        elif self.rate is not None:
            self.shares[sample] += (is_hit - self.shares[sample]) * STEP
            if self.pays(self.shares[sample], PAYS_AGAIN):
                self.begin()

    @contextmanager
    def timing_query(self):
        began = time.monotonic()
        yield
        self.query.add(time.monotonic() - began)

    def begin_sample(self):
        if is_testing():
            return  # a test counts its hits
        self.shares = {"lookups": 0.0, "reads": 0.0}
        cost = self.question.value + (self.fill.value or 0)
        self.rate = min(MOST, OVERHEAD * self.query.value / cost)

    def pays(self, share, times=1):
        """Tell whether asking saves time, with this share of hits."""
        if self.query.value is None:
            return True
        cost = self.question.value + (1 - share) * (self.fill.value or 0)
        return share * self.query.value >= cost * times
