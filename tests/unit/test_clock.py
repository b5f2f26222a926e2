"""The clock: two times that a set clock sets apart."""

import time

import pytest

from pg_kafka.clock import Clock


def test_steady_time_begins_at_the_time_of_day_and_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    wall_ns, steady_ns = 1_700_000_000_000_000_000, 5_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns)
    monkeypatch.setattr(time, "monotonic_ns", lambda: steady_ns)
    clock = Clock()
    assert clock.wall_ms() == clock.steady_ms() == 1_700_000_000_000
    wall_ns -= 3_600_000_000_000  # somebody sets the clock back by an hour
    steady_ns += 250_000_000
    assert clock.wall_ms() == 1_699_996_400_000
    assert clock.steady_ms() == 1_700_000_000_250


def test_seconds_are_those_of_the_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: 7_000_000_000)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    clock = Clock()
    assert clock.steady_s() == pytest.approx(clock.steady_ms() / 1000)
