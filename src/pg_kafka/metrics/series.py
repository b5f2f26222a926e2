"""How many series a metric has, and which things get one of their own.

    chosen = Chosen()
    chosen.choose({"orders": 9_000, "clicks": 10}, most=500)       names with a series, the heaviest first
    bounded({("orders",): 3, ...}, chosen.names)                    the rest summed up as ("(other)",)

A figure of the moment (an offset, a size, a number of members) may be summed up anew at each look, so the heaviest get
a series. One who has it keeps it, or lines would break off in every picture: a place is free again when its topic
or group is gone. What is counted over time is bounded where it is counted (`counters.Tally`).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pg_kafka.metrics.counters import OTHER
from pg_kafka.metrics.families import Labels


@dataclass(slots=True)
class Bounds:
    """What the settings say at this moment; sources read it at each look."""

    most: int  # series of one metric: pg_kafka.metrics_max_series
    by_partition: bool  # instead of sums: pg_kafka.metrics_per_partition


class Chosen:
    """Names that have series of their own, the same for all metrics of a subject."""

    __slots__ = ("left_out", "names")

    def __init__(self) -> None:
        self.names: Collection[str] = frozenset()
        self.left_out = 0

    def choose(self, weights: Mapping[str, float], most: int) -> Collection[str]:
        """Choose among all there are; the weights decide about places that are free."""
        if len(weights) <= most:
            self.names, self.left_out = weights.keys(), 0
            return self.names
        kept = self.names & weights.keys() if isinstance(self.names, frozenset) else weights.keys() & self.names
        if len(kept) > most:
            kept = frozenset(heapq.nlargest(most, kept, key=weights.__getitem__))
        free = most - len(kept)
        newcomers = heapq.nlargest(free, weights.keys() - kept, key=weights.__getitem__) if free else ()
        self.names = frozenset((*kept, *newcomers))
        self.left_out = len(weights) - len(self.names)
        return self.names


def bounded(values: Mapping[Labels, float], names: Collection[str]) -> dict[Labels, float]:
    """The same figures; those whose first label is not among `names` are summed up under `(other)`."""
    kept: dict[Labels, float] = {}
    for labels, value in values.items():
        if not labels or labels[0] in names:
            kept[labels] = kept.get(labels, 0) + value
        else:
            other = (OTHER,) * len(labels)
            kept[other] = kept.get(other, 0) + value
    return kept
