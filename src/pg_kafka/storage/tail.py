"""The newest batches of partitions as they go on the wire, shared by all consumers that are near the end.

Each partition keeps a contiguous run of committed batches up to its high watermark; all of them together stay within one
byte budget, and what was appended first, anywhere, leaves first. Nothing uncommitted is ever put here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

# What a batch costs in memory beyond its bytes; keeps a tail of one-record batches within the budget.
BATCH_OVERHEAD_BYTES = 200


class Tail:
    """One partition's run of batches, oldest first."""

    __slots__ = ("_batches", "_cache", "_head", "_last_offsets", "base_offset")

    def __init__(self, cache: TailCache) -> None:
        self._cache = cache
        self._batches: list[bytes] = []
        self._last_offsets: list[int] = []
        self._head = 0
        self.base_offset = -1  # first offset held, -1 when empty

    def __len__(self) -> int:
        return len(self._batches) - self._head

    def append(self, base_offset: int, last_offset: int, batch: bytes) -> None:
        """Add the batch that follows; a gap empties the run first, so that it stays contiguous."""
        if len(self) and self._last_offsets[-1] + 1 != base_offset:
            self.clear()
        if not len(self):
            self.base_offset = base_offset
        self._batches.append(batch)
        self._last_offsets.append(last_offset)
        self._cache.added(self, len(batch) + BATCH_OVERHEAD_BYTES)

    def read(self, offset: int, max_bytes: int) -> list[bytes] | None:
        """Whole batches from the one that holds `offset` on, at least one; None when `offset` is not held."""
        if not len(self) or offset < self.base_offset:
            return None
        index = bisect_left(self._last_offsets, offset, self._head)
        batches = self._batches
        if index == len(batches):
            return None
        found = [batches[index]]
        size = len(batches[index])
        for position in range(index + 1, len(batches)):
            size += len(batches[position])
            if size > max_bytes:
                break
            found.append(batches[position])
        return found

    def drop_oldest(self) -> int:
        """Forget the oldest batch and return what it cost."""
        cost = len(self._batches[self._head]) + BATCH_OVERHEAD_BYTES
        self.base_offset = self._last_offsets[self._head] + 1
        self._batches[self._head] = b""
        self._head += 1
        if self._head == len(self._batches):
            self._batches.clear()
            self._last_offsets.clear()
            self._head = 0
            self.base_offset = -1
        elif self._head >= 64 and self._head * 2 > len(self._batches):
            del self._batches[: self._head]
            del self._last_offsets[: self._head]
            self._head = 0
        return cost

    def drop_below(self, offset: int) -> None:
        """Forget the batches that lie below an offset."""
        cost = entries = 0
        while len(self) and self._last_offsets[self._head] < offset:
            cost += self.drop_oldest()
            entries += 1
        if entries:
            self._cache.cleared(self, cost, entries)

    def clear(self) -> None:
        """Forget everything: the topic is gone, leadership has ended, or the server's history has changed."""
        if len(self):
            self._cache.cleared(
                self, sum(len(b) + BATCH_OVERHEAD_BYTES for b in self._batches[self._head :]), len(self)
            )
        self._batches.clear()
        self._last_offsets.clear()
        self._head = 0
        self.base_offset = -1


class TailCache:
    """The byte budget over all tails, and the order in which batches leave."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._order: deque[Tail] = deque()
        self._dead: dict[int, int] = {}  # id of a tail -> entries of it in _order that were cleared already
        self._dead_entries = 0  # all of them, never more than half of _order
        self.held_bytes = 0

    def added(self, tail: Tail, cost: int) -> None:
        self._order.append(tail)
        self.held_bytes += cost
        while self.held_bytes > self._budget:
            oldest = self._order.popleft()
            if not self._is_dead(oldest):
                self.held_bytes -= oldest.drop_oldest()

    def cleared(self, tail: Tail, cost: int, entries: int) -> None:
        # Its entries stay in _order (they keep the tail alive, so that its id stays its own) and are skipped later.
        self.held_bytes -= cost
        self._dead[id(tail)] = self._dead.get(id(tail), 0) + entries
        self._dead_entries += entries
        if 2 * self._dead_entries > len(self._order):
            self._order = deque(one for one in self._order if not self._is_dead(one))

    def _is_dead(self, tail: Tail) -> bool:
        """Whether the oldest entry of this tail that is left was cleared; counts it as gone then."""
        dead = self._dead.get(id(tail), 0)
        if not dead:
            return False
        self._dead_entries -= 1
        if dead == 1:
            del self._dead[id(tail)]
        else:
            self._dead[id(tail)] = dead - 1
        return True
