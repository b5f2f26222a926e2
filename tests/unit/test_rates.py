"""How use is measured: against Kafka's formulas, and under whatever a client does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_kafka.security.rates import MOST_MS, Rate, TokenBucket, Window

KAFKAS = Window(11, 1000)
LIMITS = st.floats(0.001, 1e18)


def test_a_window_may_be_taken_at_once() -> None:
    rate = Rate(KAFKAS)
    rate.record(10_000, 1000, 0)
    assert rate.throttle_ms(1000, 0) == 0
    assert rate.throttle_ms(1000, 0, 1) == 10_001


def test_what_is_above_is_waited_for() -> None:
    rate = Rate(KAFKAS)
    rate.record(12_500, 1000, 0)
    assert rate.throttle_ms(1000, 0) == 12_500
    assert rate.throttle_ms(1000, 900) == 11_600
    assert rate.throttle_ms(1000, 12_500) == 0
    rate.record(500, 1000, 12_500)
    assert rate.throttle_ms(1000, 12_500) == 500


def test_a_little_too_much_is_waited_for_a_little() -> None:
    rate = Rate(KAFKAS)
    waits = []
    for now in range(0, 30_000, 100):
        rate.record(105, 1000, now + sum(waits))
        waits.append(rate.throttle_ms(1000, now + sum(waits)))
    assert sum(waits[:95]) == 0
    assert max(waits) < 600


def test_what_may_be_taken_at_once_comes_back_without_use() -> None:
    rate = Rate(KAFKAS)
    rate.record(10_000, 1000, 0)
    assert rate.throttle_ms(1000, 15_000, 5000) == 0
    assert rate.throttle_ms(1000, 15_000, 10_000) == 5000
    assert rate.throttle_ms(1000, 20_000, 10_000) == 0


def test_what_is_larger_than_a_window_may_be_taken_when_nothing_is_owed() -> None:
    rate = Rate(KAFKAS)
    assert rate.throttle_ms(1000, 0, 50_000) == 0
    rate.record(50_000, 1000, 0)
    assert rate.throttle_ms(1000, 0, 50_000) == 50_000
    assert rate.throttle_ms(1000, 50_000, 50_000) == 0


def test_more_is_asked_without_being_taken() -> None:
    rate = Rate(KAFKAS)
    rate.record(1, 1000, 0)
    assert rate.throttle_ms(1000, 0, 10_000) == 10_001
    assert rate.throttle_ms(1000, 0) == 0


def test_what_is_larger_than_a_window_is_owed_after_the_window() -> None:
    """In Kafka it is forgotten with its sample, after eleven seconds."""
    rate = Rate(KAFKAS)
    rate.record(100_000, 1000, 0)
    assert rate.throttle_ms(1000, 0) == 100_000
    assert rate.throttle_ms(1000, 60_000) == 40_000
    assert rate.throttle_ms(1000, 100_000) == 0


def test_a_lower_limit_counts_for_what_is_saved() -> None:
    bucket = TokenBucket()
    assert bucket.level(100, 1000, 0) == 100
    assert bucket.level(10, 1000, 0) == 10


def test_a_higher_limit_pays_sooner() -> None:
    rate = Rate(KAFKAS)
    rate.record(100_000, 1000, 0)
    assert rate.throttle_ms(1000, 20_000) == 80_000
    assert rate.throttle_ms(1_000_000, 20_000) == 80
    assert rate.throttle_ms(1_000_000, 20_080) == 0


def test_a_higher_limit_holds_from_the_beginning_of_a_window() -> None:
    rate = Rate(KAFKAS)
    rate.record(12_000, 1000, 0)
    assert rate.throttle_ms(1000, 5000) == 7000
    assert rate.throttle_ms(2000, 5000, 8000) == 0
    assert rate.throttle_ms(2000, 5000, 9000) == 5500


def test_a_lower_limit_forgives_nothing_and_asks_for_nothing() -> None:
    rate = Rate(KAFKAS)
    rate.record(12_000, 1000, 0)
    assert rate.throttle_ms(100, 10_000) == 20_000
    other = Rate(KAFKAS)
    other.record(9000, 1000, 0)
    assert other.throttle_ms(100, 5000) == 0


def test_a_bucket_fills_up_to_its_burst() -> None:
    bucket = TokenBucket()
    bucket.take(15, 1, 11_000, 0)
    assert bucket.throttle_ms(1, 11_000, 0) == 4000
    assert bucket.throttle_ms(1, 11_000, 4000) == 0
    assert bucket.level(1, 11_000, 1_000_000) == 11


@pytest.mark.parametrize("limit", [5e-324, 1e-9, 1e18, 1.7e308])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e18])
def test_no_limit_is_too_strange(limit: float, value: float) -> None:
    rate = Rate(KAFKAS)
    for now in (0, 5, 5, 10_000_000):
        rate.record(value, limit, now)
        assert 0 <= rate.throttle_ms(limit, now) <= MOST_MS
        assert 0 <= rate.throttle_ms(limit, now, value) <= MOST_MS


def test_a_clock_that_goes_back_stands_still() -> None:
    rate = Rate(KAFKAS)
    rate.record(20_000, 1000, 50_000)
    assert rate.throttle_ms(1000, 0) == 20_000
    rate.record(1000, 1000, 0)
    assert rate.throttle_ms(1000, 50_000) == 21_000


@settings(max_examples=200)
@given(
    LIMITS,
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 7), st.floats(0, 30), st.integers(0, 2000)), min_size=1, max_size=150),
)
def test_over_a_long_time_no_more_is_taken_than_the_limit(
    limit: float, connections: int, steps: list[tuple[int, float, int]]
) -> None:
    """Several connections, each of which waits as it is told; sizes are in seconds of the limit."""
    rate, now = Rate(KAFKAS), 0
    free_at = [0] * connections
    taken, largest = 0.0, 0.0
    for number, seconds, pause_ms in steps:
        connection = number % connections
        now = max(now + pause_ms, free_at[connection])
        value = seconds * limit
        rate.record(value, limit, now)
        wait_ms = rate.throttle_ms(limit, now)
        assert wait_ms <= MOST_MS
        taken, largest = taken + value, max(largest, value)
        free_at[connection] = now + wait_ms
    # A window at once, what each connection has sent last, and a millisecond of rounding for each.
    allowed = limit * max(10, now / 1000) + largest * connections + limit * 0.001 * len(steps)
    assert taken <= allowed * (1 + 1e-9)


@given(LIMITS, st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_nobody_starves(limit: float, sizes: list[float]) -> None:
    """Whoever waits as he is told is never told to wait again before he has taken something."""
    rate, now = Rate(KAFKAS), 0
    for seconds in sizes:
        rate.record(seconds * limit, limit, now)
        now += rate.throttle_ms(limit, now)
        assert rate.throttle_ms(limit, now) <= 1  # of rounding
        now += 1
