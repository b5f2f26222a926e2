"""When a compacted partition is due."""

from __future__ import annotations

import pytest

from pg_kafka.coordinator.compaction import Figures, is_due, total

FOR_EVER = 2**63 - 1


@pytest.mark.parametrize(
    ("clean", "dirty", "expected"),
    [(0, 0, False), (0, 1, True), (100, 99, False), (100, 100, False), (100, 101, True), (100, 0, False)],
)
def test_more_than_the_ratio_must_be_dirty(clean: int, dirty: int, expected: bool) -> None:
    figures = Figures(clean_bytes=clean, dirty_bytes=dirty, first_dirty_timestamp=0)
    assert is_due(figures, min_dirty_ratio=0.5, max_lag_ms=FOR_EVER, now_ms=1_000) is expected


@pytest.mark.parametrize(("stamp", "expected"), [(None, False), (600, False), (500, False), (499, True)])
def test_what_has_been_dirty_for_too_long_is_due_whatever_the_ratio(stamp: int | None, expected: bool) -> None:
    figures = Figures(clean_bytes=1_000_000, dirty_bytes=1, first_dirty_timestamp=stamp)
    assert is_due(figures, min_dirty_ratio=0.5, max_lag_ms=500, now_ms=1_000) is expected


def test_nothing_is_due_when_nothing_is_dirty() -> None:
    assert not is_due(Figures(clean_bytes=10, first_dirty_timestamp=1), min_dirty_ratio=0, max_lag_ms=1, now_ms=1_000)


def test_figures_of_partitions_add_up() -> None:
    one = Figures(1, 2, 3, 4, 50)
    assert total([one, Figures(10, 20, 30, 40, None), Figures(0, 0, 0, 0, 7)]) == Figures(11, 22, 33, 44, 7)
    assert total([]) == Figures()
