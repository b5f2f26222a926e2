"""What is counted in where it must cost next to nothing: whole numbers, on one thread, without locks.

    self.records += 1                       a counter is an attribute
    latency = Histogram(); latency.observe(0.003)
    tally = Tally(500); tally.add(("orders",), 3)

Counters are only ever added to, and live as long as the process: one who reads them can tell what happened between two
looks. `Tally` is for labels that clients choose: it holds so many of them and no more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

Labels = tuple[str, ...]
"""The values of a series' labels, in the order of the catalogue."""

# Seconds. From a request that memory answers to one that waits for a disk that has gone bad.
LATENCY_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
# Bytes. From one small record to the largest transaction that a lane makes.
SIZE_BYTES: Final = tuple(float(1 << bits) for bits in range(8, 29, 2))
# The label of what has no series of its own. No topic can be called so; a group or client that is, is counted with the
# others.
OTHER: Final = "(other)"


class Histogram:
    """How many observations fell where. One bisection and two additions for each."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_S) -> None:
        self.bounds = (
            bounds  # upper ones, each included, smallest first; seconds unless the metric's name says otherwise
        )
        self.counts = [0] * (len(bounds) + 1)  # by bound, not summed up; the last one is for all above
        self.total = 0.0  # of what was observed

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)


class Tally:
    """Counters by labels. Once there are `most` of them, further labels count together as `(other)`.

    What has a series keeps it, and what is counted as `(other)` stays there, so no counter ever goes back.
    `forget` frees the place of a topic or group that is deleted.
    """

    __slots__ = ("_fields", "counts", "most")

    def __init__(self, most: int, fields: int = 1) -> None:
        self.most = most
        self._fields = fields
        self.counts: dict[Labels, int] = {}

    def add(self, labels: Labels, amount: int = 1) -> None:
        counts = self.counts
        if labels in counts:
            counts[labels] += amount
        elif len(counts) < self.most:
            counts[labels] = amount
        else:
            others = (OTHER,) * self._fields
            counts[others] = counts.get(others, 0) + amount

    def forget(self, labels: Labels) -> None:
        self.counts.pop(labels, None)
