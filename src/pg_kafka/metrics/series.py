"""How many series a metric has, and which things get one of their own.

    chosen = Chosen()
    chosen.choose({("orders",): 9_000, ("clicks",): 10}, most=500)     labels that get a series, the heaviest ones
    bounded({("orders",): 3, ...}, chosen.labels)                       the rest summed up as ("(other)",)

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
    """Labels that have series of their own, the same ones for all metrics of a subject."""

    __slots__ = ("labels", "left_out")

    def __init__(self) -> None:
        self.labels: Collection[Labels] = frozenset()
        self.left_out = 0

    def choose(self, weights: Mapping[Labels, float], most: int) -> Collection[Labels]:
        """Choose among all there are; the weights decide about places that are free."""
        if len(weights) <= most:
            self.labels, self.left_out = frozenset(weights), 0
            return self.labels
        kept: Collection[Labels] = weights.keys() & self.labels
        if len(kept) > most:
            kept = heapq.nlargest(most, kept, key=weights.__getitem__)
        free = most - len(kept)
        newcomers = heapq.nlargest(free, weights.keys() - kept, key=weights.__getitem__) if free else ()
        self.labels = frozenset((*kept, *newcomers))
        self.left_out = len(weights) - len(self.labels)
        return self.labels


def bounded(values: Mapping[Labels, float], chosen: Collection[Labels]) -> dict[Labels, float]:
    """The same figures; those whose labels are not among the chosen ones are summed up under `(other)`."""
    kept: dict[Labels, float] = {}
    for labels, value in values.items():
        if labels in chosen:
            kept[labels] = value
        else:
            other = (OTHER,) * len(labels)
            kept[other] = kept.get(other, 0) + value
    return kept
