"""Commits of offsets that wait for transactions."""

from __future__ import annotations

from pg_kafka.broker.pending_offsets import PendingOffsets


def test_offset_waits_until_no_transaction_has_it() -> None:
    pending = PendingOffsets()
    pending.add("a", "g", (1, 0), 5)
    pending.add("b", "g", (1, 0), 4)
    pending.add("b", "g", (1, 1), 6)
    assert "g" in pending
    assert set(pending.of("g")) == {(1, 0), (1, 1)}
    assert pending.ids("g", None) == {"a", "b"}
    assert pending.ids("g", [(1, 1), (7, 7)]) == {"b"}
    assert [pending.newest_ms("g", (1, index)) for index in range(3)] == [5, 6, None]
    assert [pending.time_of(each, "g", (1, 0)) for each in "abc"] == [5, 4, None]
    pending.remove("b", "g", (1, 0), 4)
    assert (1, 0) in pending.of("g")
    pending.remove("a", "g", (1, 0), 5)
    assert set(pending.of("g")) == {(1, 1)}
    pending.remove("a", "g", (1, 0), 5)
    pending.remove("b", "g", (1, 1), 6)
    assert "g" not in pending
    assert list(pending.of("g")) == []
    assert pending.newest_ms("g", (1, 0)) is None


def test_offset_of_the_next_transaction_outlives_the_end_of_the_one_before() -> None:
    pending = PendingOffsets()
    pending.add("a", "g", (1, 0), 5)
    pending.add("a", "g", (1, 0), 6)
    pending.remove("a", "g", (1, 0), 5)
    assert pending.newest_ms("g", (1, 0)) == 6
    pending.remove("a", "g", (1, 0), 6)
    assert "g" not in pending


def test_clear_forgets_all() -> None:
    pending = PendingOffsets()
    pending.add("a", "g", (1, 0), 5)
    pending.clear()
    assert "g" not in pending
