"""The budget over the tails of all partitions, and what clearing leaves behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pg_kafka.storage.tail import BATCH_OVERHEAD_BYTES, Tail, TailCache

COST = BATCH_OVERHEAD_BYTES + 1


@given(st.lists(st.tuples(st.sampled_from(["append", "clear"]), st.integers(0, 3)), max_size=200), st.integers(0, 12))
def test_any_order_of_appends_and_clears_keeps_the_newest_within_the_budget(
    steps: list[tuple[str, int]], room: int
) -> None:
    cache = TailCache(room * COST)
    tails = [Tail(cache) for _ in range(4)]
    alive: list[tuple[int, int]] = []  # (tail, offset), in the order of their appends
    ends = [0] * 4
    for what, which in steps:
        if what == "clear":
            tails[which].clear()
            alive = [entry for entry in alive if entry[0] != which]
        else:
            tails[which].append(ends[which], ends[which], b"x")
            alive = [*alive, (which, ends[which])][-room:] if room else []
            ends[which] += 1
        assert cache.held_bytes == len(alive) * COST
        assert [len(tail) for tail in tails] == [sum(entry[0] == n for entry in alive) for n in range(4)]
        assert len(cache._order) <= max(1, 2 * len(alive))


def test_partitions_that_come_and_go_leave_nothing_behind() -> None:
    cache = TailCache(1000 * COST)
    Tail(cache).append(0, 0, b"x")
    for _ in range(10_000):
        tail = Tail(cache)
        tail.append(0, 0, b"x")
        tail.clear()
    assert len(cache._order) <= 2
    assert cache.held_bytes == COST
