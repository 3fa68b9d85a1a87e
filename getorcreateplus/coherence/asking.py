"""
Whether a process looks into the cache at all: only as long as that saves time.

Not to look is always right, because the database answers then. So nothing here
can make a row wrong, and each process decides alone.

* While all rows of a model are under LOCK, no read can be a hit or a fill. A
  process that has seen such a LOCK does not look for some tenths of a second.
* A miss costs more than a query without a cache: it looks, queries and fills.
  So the cache saves time above a certain share of hits, which depends on its
  backend and on the query. The process measures both. Below that share it
  looks for a sample of the reads only, until their share of hits has risen.
* A row that the cache has refused as too large is never a hit. The process
  does not look for it, and does not send it again, for a minute.

One half of the sample is chosen read by read, at random: it finds out about a
few rows that are read often. The other half are all reads of some lookups: it
finds out about many rows that are read seldom, because a random read of such a
row would hardly ever be the second one.
"""

import random
import time
from contextlib import contextmanager
from zlib import crc32

from ..environment.databases import is_testing

REST = 0.3  # seconds without a look, after a model was seen under LOCK
PATIENCE = 1000  # reads that look before the share of hits is judged
MAX_SAMPLE = 1 / 16  # of the reads are in a sample
OVERHEAD = 0.04  # of the time of the queries may be spent on the sample
PAYS_AGAIN = 1.1  # times that looking must be cheaper until all reads look again
STEP = 1 / 64  # of a moving average

LARGE = 2**16  # bytes of a row; the cache has another reason to refuse a smaller one
LARGE_REST = 60  # seconds
MAX_LARGE = 1000  # rows that are remembered


class Average:
    """A moving average. Values are cut, because a process may have to wait."""

    def __init__(self, value=None):
        self.value = value

    def add(self, new):
        if self.value is None:
            self.value = new
        else:
            self.value += (min(new, 8 * self.value) - self.value) * STEP


class Asking:
    """Whether one process looks into the cache for the rows of one region."""

    def __init__(self):
        self.rests_until = 0.0
        self.large = {}  # primary key: when it may be sent again
        self.has_warned = False  # about a row that is too large
        # Seconds that a look takes, the query, and the fill after it.
        self.look, self.query, self.fill = Average(), Average(), Average()
        self.begin()

    def begin(self):
        """Look for all reads."""
        self.left = PATIENCE
        self.share = 1.0  # of hits
        self.rate = None  # of the reads that are in the sample, None without one

    def rest(self):
        self.rests_until = time.monotonic() + REST

    def is_resting(self):
        return self.rests_until != 0 and time.monotonic() < self.rests_until

    def record_too_large(self, pk):
        if is_testing():
            return  # Another test may have a small row of this key.
        if len(self.large) >= MAX_LARGE:
            self.large = {}
        self.large[pk] = time.monotonic() + LARGE_REST

    def is_too_large(self, pk):
        until = self.large.get(pk)
        return until is not None and time.monotonic() < until

    def sample(self, lookup):
        """
        Return "all" if all reads look into the cache. Otherwise return the
        half of the sample that the read belongs to, or None.
        """
        if self.rate is None:
            return "all"
        if crc32(repr(lookup).encode()) < self.rate / 2 * 2**32:
            return "lookups"
        return "reads" if random.random() < self.rate / 2 else None

    def record_look(self, sample, seconds, is_hit):
        look = self.look
        if look.value is None:
            look.value = seconds
        else:  # as add(), which is a call more for each hit
            look.value += (min(seconds, 8 * look.value) - look.value) * STEP
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
        cost = self.look.value + (self.fill.value or 0)
        self.rate = min(MAX_SAMPLE, OVERHEAD * self.query.value / cost)

    def pays(self, share, times=1):
        """Return True if looking saves time, with this share of hits."""
        if self.query.value is None:
            return True
        cost = self.look.value + (1 - share) * (self.fill.value or 0)
        return share * self.query.value >= cost * times
