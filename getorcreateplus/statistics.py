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
from typing import Any, Self

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
    """Counts of the rows of one model, or of all models."""

    hits: int = 0
    misses: Counter[Reason] = field(default_factory=Counter)
    invalidations: int = 0  # a row or many, by one write or one commit
    savepoints_saved: int = 0  # of two statements each
    duration: float = 0  # seconds that the caches took

    @property
    def queries_saved(self) -> int:
        """The SELECTs that hits have saved."""
        return self.hits

    @property
    def hit_ratio(self) -> float | None:
        """Hits among all lookups, 0 to 1; None without any."""
        lookups = self.hits + self.misses.total()
        return self.hits / lookups if lookups else None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, as json.dumps() takes them; misses by reason."""
        return {
            "hits": self.hits,
            "misses": {str(reason): n for reason, n in self.misses.items()},
            "hit_ratio": self.hit_ratio,
            "invalidations": self.invalidations,
            "savepoints_saved": self.savepoints_saved,
            "duration": self.duration,
        }

    def add(self, other: "Counts") -> None:
        self.hits += other.hits
        self.misses += other.misses
        self.invalidations += other.invalidations
        self.savepoints_saved += other.savepoints_saved
        self.duration += other.duration


class Statistics:
    """
    Counts by model, from start() to stop(), or in a with block.

    It counts the events of the whole process. With ``own_context`` it counts
    only those of this thread or task, and of those that copy its context
    (sync_to_async()). Several Statistics may count at the same time.
    """

    def __init__(self, *, own_context: bool = False) -> None:
        self.own_context = own_context
        self.begin_anew()
        renew_in_child(self)
        self.by_model: dict[str, Counts] = {}
        self.receivers: list[tuple[Signal, Callable]] = [
            (cache_hit, self._hit),
            (cache_miss, self._miss),
            (cache_invalidated, self._invalidated),
            (savepoint_omitted, self._savepoint_omitted),
        ]

    def begin_anew(self) -> None:
        self.lock = threading.Lock()

    @property
    def models(self) -> dict[str, Counts]:
        """A copy of the Counts, by the model's label ("shop.Tag")."""
        with self.lock:
            return deepcopy(self.by_model)

    @property
    def total(self) -> Counts:
        """The Counts of all models together."""
        total = Counts()
        for counts in self.models.values():
            total.add(counts)
        return total

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return {label of a model: Counts.as_dict()}."""
        return {label: counts.as_dict() for label, counts in self.models.items()}

    def __repr__(self) -> str:
        total = self.total
        return (
            f"<Statistics: {total.hits} hits, {total.misses.total()} misses, "
            f"{total.invalidations} invalidations of {len(self.models)} models>"
        )

    def start(self) -> None:
        """Start counting, until stop()."""
        if self.own_context:
            counting.set((*counting.get(), self))
        for signal, receiver in self.receivers:
            signal.connect(receiver, weak=False)

    def stop(self) -> None:
        """Stop to count. The Counts stay."""
        for signal, receiver in self.receivers:
            signal.disconnect(receiver)
        if self.own_context:
            counting.set(tuple(each for each in counting.get() if each is not self))

    def reset(self) -> None:
        """Clear the Counts, and go on counting."""
        with self.lock:
            self.by_model.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
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
