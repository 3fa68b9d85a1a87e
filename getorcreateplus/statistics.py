"""
Counts of what the cache does in this process.

.. code-block:: python

    from getorcreateplus.statistics import Statistics

    statistics = Statistics()
    statistics.start()
    ...
    statistics.models["shop.Tag"].hits
    statistics.reset()
"""

import threading
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field

from django.dispatch import Signal

from .environment.forks import renew_in_child
from .signals import (
    Reason,
    cache_hit,
    cache_invalidated,
    cache_miss,
    savepoint_omitted,
)

counting: ContextVar[tuple] = ContextVar("getorcreateplus_counting", default=())


@dataclass
class Counts:
    """What happened to the rows of one model, or of all."""

    hits: int = 0
    misses: Counter = field(default_factory=Counter)  # by Reason
    invalidations: int = 0  # a row or many, by one write or one commit
    savepoints_saved: int = 0  # of two statements each
    duration: float = 0  # seconds that the caches took

    @property
    def queries_saved(self):
        """The SELECTs that hits have saved."""
        return self.hits

    @property
    def hit_ratio(self):
        """Hits among all lookups, 0 to 1; None without any."""
        lookups = self.hits + self.misses.total()
        return self.hits / lookups if lookups else None

    def add(self, other):
        self.hits += other.hits
        self.misses += other.misses
        self.invalidations += other.invalidations
        self.savepoints_saved += other.savepoints_saved
        self.duration += other.duration


class Statistics:
    """
    Counts by model, from start() to stop(), or in a with block.

    It counts what the whole process does; with ``own_context`` only what this
    thread or task does, and what copies its context (sync_to_async()). Several
    may count at the same time.
    """

    def __init__(self, *, own_context=False):
        self.own_context = own_context
        self.begin_anew()
        renew_in_child(self)
        self.by_model = {}
        self.receivers: list[tuple[Signal, Callable]] = [
            (cache_hit, self._hit),
            (cache_miss, self._miss),
            (cache_invalidated, self._invalidated),
            (savepoint_omitted, self._savepoint_omitted),
        ]

    def begin_anew(self):
        self.lock = threading.Lock()

    @property
    def models(self):
        """A copy of the Counts, by the model's label ("shop.Tag")."""
        with self.lock:
            return deepcopy(self.by_model)

    @property
    def total(self):
        """The Counts of all models together."""
        total = Counts()
        for counts in self.models.values():
            total.add(counts)
        return total

    def start(self):
        """Count from now on, until stop()."""
        if self.own_context:
            counting.set((*counting.get(), self))
        for signal, receiver in self.receivers:
            signal.connect(receiver, weak=False)

    def stop(self):
        """Stop to count. The Counts stay."""
        for signal, receiver in self.receivers:
            signal.disconnect(receiver)
        if self.own_context:
            counting.set(tuple(each for each in counting.get() if each is not self))

    def reset(self):
        """Clear the Counts, and go on counting."""
        with self.lock:
            self.by_model.clear()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def _count(self, sender, duration=0, **counts):
        if self.own_context and self not in counting.get():
            return
        label = sender._meta.label
        with self.lock:
            self.by_model.setdefault(label, Counts()).add(
                Counts(duration=duration, **counts)
            )

    def _hit(self, sender, duration, **kwargs):
        self._count(sender, duration, hits=1)

    def _miss(self, sender, reason, duration, **kwargs):
        self._count(sender, duration, misses=Counter({Reason(reason): 1}))

    def _invalidated(self, sender, **kwargs):
        self._count(sender, invalidations=1)

    def _savepoint_omitted(self, sender, **kwargs):
        self._count(sender, savepoints_saved=1)
