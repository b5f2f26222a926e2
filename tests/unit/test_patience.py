"""What may be forgotten as too old, while clocks are set forward and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.coordinator.patience import JUMP_MS, NOTHING_IS_OLD, Patience

DAY_MS = 86_400_000
HOLD_MS = 900_000


def test_after_a_start_nothing_is_forgotten_for_a_while() -> None:
    patience = Patience(HOLD_MS)
    assert patience.oldest(DAY_MS) == NOTHING_IS_OLD
    patience.observe(5 * DAY_MS, 0)
    assert patience.oldest(DAY_MS) == NOTHING_IS_OLD
    patience.observe(5 * DAY_MS + HOLD_MS, HOLD_MS)
    assert patience.oldest(DAY_MS) == 4 * DAY_MS + HOLD_MS


def test_a_clock_that_is_set_is_told_and_nothing_is_forgotten_for_a_while() -> None:
    for jump_ms in (2 * DAY_MS, -2 * DAY_MS):
        patience = Patience(HOLD_MS)
        patience.observe(5 * DAY_MS, 0)
        assert patience.observe(5 * DAY_MS + HOLD_MS, HOLD_MS) == 0
        assert patience.observe(5 * DAY_MS + HOLD_MS + 1000 + jump_ms, HOLD_MS + 1000) == jump_ms
        assert patience.oldest(DAY_MS) == NOTHING_IS_OLD
        assert patience.observe(5 * DAY_MS + 2 * HOLD_MS + 1000 + jump_ms, 2 * HOLD_MS + 1000) == 0
        assert patience.oldest(DAY_MS) == 4 * DAY_MS + 2 * HOLD_MS + 1000 + jump_ms


@given(st.lists(st.tuples(st.integers(0, 10 * DAY_MS), st.integers(-3 * DAY_MS, 3 * DAY_MS)), max_size=30))
def test_what_was_used_a_moment_ago_is_never_forgotten(steps: list[tuple[int, int]]) -> None:
    """Each step: time that passes by the steady clock, and how far the wall clock is set at its end."""
    patience = Patience(HOLD_MS)
    wall = steady = 30 * DAY_MS
    used: list[tuple[int, int]] = []
    for passed, jump in steps:
        patience.observe(wall, steady)
        used.append((wall, steady))
        wall, steady = wall + passed + jump, steady + passed
        patience.observe(wall, steady)
        for used_wall, used_steady in used:
            if steady - used_steady < HOLD_MS - JUMP_MS:
                assert used_wall >= patience.oldest(DAY_MS)
