"""When a partition of a compacted topic is due, by Kafka's rules. Pure.

is_due(figures, min_dirty_ratio=0.5, max_lag_ms=LONG_MAX, now_ms=...)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """What is in a partition, or in all of a topic, below the first offset that may not be cleaned."""

    clean_bytes: int = 0  # below where the last compaction ended
    dirty_bytes: int = 0  # above
    clean_records: int = 0
    dirty_records: int = 0
    first_dirty_timestamp: int | None = None  # of the first record of some dirty row, the smallest, ms

    def __add__(self, other: Figures) -> Figures:
        stamps = [f.first_dirty_timestamp for f in (self, other) if f.first_dirty_timestamp is not None]
        return Figures(
            self.clean_bytes + other.clean_bytes,
            self.dirty_bytes + other.dirty_bytes,
            self.clean_records + other.clean_records,
            self.dirty_records + other.dirty_records,
            min(stamps, default=None),
        )


def total(figures: Iterable[Figures]) -> Figures:
    """The figures of several partitions together."""
    return sum(figures, start=Figures())


def is_due(figures: Figures, *, min_dirty_ratio: float, max_lag_ms: int, now_ms: int) -> bool:
    """Is enough dirty (min.cleanable.dirty.ratio), or has something been for too long (max.compaction.lag.ms)?"""
    if figures.dirty_bytes == 0:
        return False
    if figures.first_dirty_timestamp is not None and figures.first_dirty_timestamp < now_ms - max_lag_ms:
        return True
    return figures.dirty_bytes / (figures.clean_bytes + figures.dirty_bytes) > min_dirty_ratio
