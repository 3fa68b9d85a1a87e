"""
Decides whether a process reads the cache at all: only as long as that saves
time.

Results are right without the cache, because the database answers then. So
nothing here can make a row wrong, and each process decides alone.

* While all rows of a model are under LOCK, no read can be a hit or a fill. A
  process that has seen such a LOCK does not read the cache for some tenths of
  a second.
* A miss costs more than a query without a cache: it reads the cache, queries
  and fills. So the cache saves time above a certain share of hits, which
  depends on its backend and on the query. The process measures both. Below
  that share it reads the cache only for a sample of the lookups, until their
  share of hits has risen.
* A row that the cache has refused as too large is never a hit. For a minute,
  the process neither reads it from the cache nor sends it again.

One half of the sample are random reads: it detects a few rows that are read
often. The other half are all reads of some lookups: it detects many rows that
are read seldom, because a random read of such a row would hardly ever be its
second read.
"""

import random
import time
from contextlib import contextmanager
from zlib import crc32

from ..environment.databases import is_testing

REST = 0.3  # seconds without reading the cache, after a model was seen under LOCK
PATIENCE = 1000  # reads of the cache before the share of hits is judged
MAX_SAMPLE = 1 / 16  # of the reads are in a sample
OVERHEAD = 0.04  # of the time of the queries may be spent on the sample
# Factor by which reading the cache must be cheaper until all reads use it
# again.
PAYS_AGAIN = 1.1
STEP = 1 / 64  # of a moving average

LARGE = 2**16  # bytes of a row; a smaller row is refused for another reason
LARGE_REST = 60  # seconds
MAX_LARGE = 1000  # rows that are remembered


class Average:
    """
    A moving average. Large values are cut, because a process may have to wait.
    """

    def __init__(self, value=None):
        self.value = value

    def add(self, new):
        if self.value is None:
            self.value = new
        else:
            self.value += (min(new, 8 * self.value) - self.value) * STEP


class Asking:
    """
    Decides whether one process reads the cache for the rows of one region.
    """

    def __init__(self):
        self.rests_until = 0.0
        self.large = {}  # primary key: the time when the row may be sent again
        self.has_warned = False  # about a row that is too large
        # Seconds that a read of the cache takes, the query, and the fill after
        # it.
        self.look, self.query, self.fill = Average(), Average(), Average()
        self.begin()

    def begin(self):
        """Read the cache for all reads."""
        self.left = PATIENCE
        self.share = 1.0  # of hits
        # Share of the reads that are in the sample, None without a sample.
        self.rate = None

    def rest(self):
        self.rests_until = time.monotonic() + REST

    def is_resting(self):
        return self.rests_until != 0 and time.monotonic() < self.rests_until

    def record_too_large(self, pk):
        if is_testing():
            return  # Another test may have a small row with this key.
        if len(self.large) >= MAX_LARGE:
            self.large = {}
        self.large[pk] = time.monotonic() + LARGE_REST

    def is_too_large(self, pk):
        until = self.large.get(pk)
        return until is not None and time.monotonic() < until

    def sample(self, lookup):
        """
        Return "all" if all reads use the cache. Otherwise return the half of
        the sample to which the read belongs, or None.
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
        else:  # the same as add(), which is one more call for each hit
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
        """
        Return True if reading the cache saves time, with this share of hits.
        """
        if self.query.value is None:
            return True
        cost = self.look.value + (1 - share) * (self.fill.value or 0)
        return share * self.query.value >= cost * times
