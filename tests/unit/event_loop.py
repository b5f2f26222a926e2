"""An event loop that stands still: time moves when a test says so, and callbacks run turn by turn."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any


class _Handle:
    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self._callback = callback
        self._arguments = arguments
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def run(self) -> None:
        if not self.is_cancelled:
            self._callback(*self._arguments)


class StillLoop:
    """What `Deadlines` needs of an asyncio event loop."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._soon: list[_Handle] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = count()

    @property
    def is_idle(self) -> bool:
        """Nothing will ever happen."""
        return not self._soon and all(handle.is_cancelled for _, _, handle in self._timers)

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> Any:
        handle = _Handle(callback, arguments)
        self._soon.append(handle)
        return handle

    def call_at(self, when: float, callback: Callable[..., object], *arguments: Any) -> Any:
        handle = _Handle(callback, arguments)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def turn(self, takes_s: float = 0.0) -> None:
        """Timers that are due, then what was to be called soon; none of what these add."""
        while self._timers and self._timers[0][0] <= self._now + 1e-9:
            heapq.heappop(self._timers)[2].run()
        soon, self._soon = self._soon, []
        for handle in soon:
            handle.run()
        self._now += takes_s

    def run_until(self, when: float, takes_s: float = 0.0) -> None:
        """Turns of some length, and sleep between them, until a time."""
        while self._now < when:
            self.turn(takes_s)
            if not self._soon and self._now < when:
                self._now = max(
                    self._now, min([when, *(at for at, _, handle in self._timers if not handle.is_cancelled)])
                )
        self.turn()
