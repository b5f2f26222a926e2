"""The timers of many owners (groups, transactional ids) behind one timer of the event loop.

A heartbeat moves a deadline further away, which costs one entry in a dictionary: the heap keeps the earlier time, and
looks at the deadline again when that comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush

from pg_kafka.coordinator.timers import TimerName

# Timers handed out before the event loop gets its turn.
MAX_FIRED_AT_ONCE = 200
# Entries of the heap beyond two for each timer, before it is made anew.
SPARE_ENTRIES = 1_000


class Timers:
    """Named deadlines of owners; `on_due(owner, name)` is called once for each that has come, and it is gone then."""

    def __init__(self, steady_ms: Callable[[], int], on_due: Callable[[object, TimerName], None]) -> None:
        self._steady_ms = steady_ms
        self._on_due = on_due
        self._deadlines: dict[object, dict[TimerName, int]] = {}
        self._heap: list[tuple[int, int, object, TimerName]] = []
        self._count = 0  # of deadlines
        self._number = 0  # of the heap's last entry: what decides between equal times
        self._handle: asyncio.TimerHandle | None = None
        self._wakes_at = 0
        self._is_firing = False

    def __len__(self) -> int:
        return self._count

    def __contains__(self, owner: object) -> bool:
        """Has the owner any timer?"""
        return owner in self._deadlines

    def update(self, owner: object, timers: Mapping[TimerName, int | None]) -> None:
        """Set the named timers of an owner anew, or cancel those that are None; others stay."""
        known = self._deadlines.get(owner)
        if known is None:
            known = self._deadlines[owner] = {}
        for name, deadline in timers.items():
            before = known.get(name)
            if deadline is None:
                if before is not None:
                    del known[name]
                    self._count -= 1
                continue
            known[name] = deadline
            if before is None:
                self._count += 1
            if before is None or deadline < before:
                self._push(deadline, owner, name)
        if not known:
            del self._deadlines[owner]
        self._arm()

    def clear(self, owner: object) -> None:
        """Cancel all timers of an owner."""
        self._count -= len(self._deadlines.pop(owner, ()))

    def stop(self) -> None:
        """Cancel all timers there are."""
        self._deadlines.clear()
        self._heap.clear()
        self._count = 0
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _push(self, at_ms: int, owner: object, name: TimerName) -> None:
        self._number += 1
        if len(self._heap) > 2 * self._count + SPARE_ENTRIES:
            self._heap = [
                (deadline, number, owner, name)
                for number, (owner, name, deadline) in enumerate(
                    (owner, name, deadline)
                    for owner, known in self._deadlines.items()
                    for name, deadline in known.items()
                )
            ]
            heapify(self._heap)
            self._number += len(self._heap)
            return
        heappush(self._heap, (at_ms, self._number, owner, name))

    def _arm(self) -> None:
        """Have the loop wake us for the first entry, if it would not earlier."""
        if not self._heap or self._is_firing:
            return
        first = self._heap[0][0]
        if self._handle is not None:
            if self._wakes_at <= first:
                return
            self._handle.cancel()
        self._wakes_at = first
        delay_s = max(0, first - self._steady_ms()) / 1000
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._is_firing = True
        try:
            self._fire_due()
        finally:
            self._is_firing = False
            self._arm()

    def _fire_due(self) -> None:
        steady_ms = self._steady_ms()
        fired = 0
        while self._heap and self._heap[0][0] <= steady_ms and fired < MAX_FIRED_AT_ONCE:
            _, _, owner, name = heappop(self._heap)
            known = self._deadlines.get(owner, {})
            deadline = known.get(name)
            if deadline is None:
                continue
            if deadline > steady_ms:
                self._push(deadline, owner, name)
                continue
            del known[name]
            self._count -= 1
            if not known:
                self._deadlines.pop(owner, None)
            fired += 1
            self._on_due(owner, name)
