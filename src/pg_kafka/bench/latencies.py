"""Percentiles of latencies, each of which may count for several records."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

SHOWN = (50.0, 99.0, 99.9)


@dataclass(frozen=True)
class Percentiles:
    """Sorted values with the number of records up to each."""

    values: Sequence[float]
    up_to: Sequence[int]

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles:
        ordered = sorted(values)
        return cls(ordered, range(1, len(ordered) + 1))

    @classmethod
    def weighted(cls, pairs: Iterable[tuple[float, int]]) -> Percentiles:
        """From values, each with the number of records it stands for."""
        ordered = sorted(pairs)
        return cls([value for value, _ in ordered], list(accumulate(count for _, count in ordered)))

    @property
    def count(self) -> int:
        return self.up_to[-1] if self.up_to else 0

    def at(self, percent: float) -> float:
        """The smallest value that `percent` of the records do not exceed. Raises ValueError without values."""
        if not self.values:
            raise ValueError("no percentile of nothing")
        return self.values[bisect_left(self.up_to, max(1, math.ceil(self.count * percent / 100)))]

    def figures(self, prefix: str = "") -> dict[str, float]:
        """p50, p99, p99.9 and the largest, by name."""
        found = {f"{prefix}p{percent:g}_ms": self.at(percent) for percent in SHOWN}
        return {**found, f"{prefix}max_ms": self.values[-1]}
