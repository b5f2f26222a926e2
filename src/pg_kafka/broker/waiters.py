"""Parked fetches: one sleeps until enough has been appended, until something else concerns it, or until its deadline.

It is woken by calls, never by looking. Several partitions that grow in one commit wake it once, after the commit's last
callback, since waking goes through the event loop's queue. A thousand that wait for one partition are answered in several
turns of the event loop, so that what others send is not held up until the last of them is.

A thousand consumers that were woken together wait together, and would come back together at each deadline: `Deadlines`
spreads them, and ends only a few waits in a turn of the event loop, so that a record does not queue behind them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import ceil
from typing import Final

TICK_MS: Final = 8
"""Waits that are long against it end together, one timer for all of them; they may last this much longer."""

SHORT_MS: Final = 80
"""Shorter waits end at their own millisecond."""

CROWD: Final = 16
"""More waits than these in one tick are a crowd: some of it leaves earlier."""

EARLY_SHARE: Final = 10
"""A tenth of its time is what a wait may lose when it is in a crowd."""

ENDS_PER_TURN: Final = 8
"""Waits that end in one turn of the event loop, each with an answer and, at once, the client's next request."""

WAKES_PER_TURN: Final = 32
"""Fetches that are answered in one turn because something has been appended."""

LATE_MS: Final = 100
"""What is overdue by so much ends whatever else there is to do."""


class Waiting:
    """Counts what arrives; while `wait` is in force, calls `on_wake` once, from the event loop."""

    __slots__ = ("_added_bytes", "_deadlines", "_is_stirred", "_needed_bytes", "end_ms", "is_due", "is_woken")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._added_bytes = 0
        self._needed_bytes: int | None = None  # None: nobody sleeps now
        self._is_stirred = False
        self.is_woken = False  # its turn to be answered comes
        self.end_ms = 0  # where it stands in `Deadlines`; 0: nowhere
        self.is_due = False  # the deadline has passed

    def on_wake(self) -> None:
        """Enough has arrived, something else has happened, or the time is over."""

    def restart(self) -> None:
        """Count from now on."""
        self._added_bytes = 0
        self._is_stirred = False

    def wait(self, needed_bytes: int) -> None:
        """Wake when so many bytes have been added since `restart`, which may be at once."""
        self._needed_bytes = needed_bytes
        if self._is_stirred or self.is_due or self._added_bytes >= needed_bytes:
            self._fire()

    def on_news(self, bytes_added: int) -> None:
        self._added_bytes += bytes_added
        if self._needed_bytes is not None and self._added_bytes >= self._needed_bytes:
            self._fire()

    def wake(self) -> None:
        self._is_stirred = True
        if self._needed_bytes is not None:
            self._fire()

    def cancel(self) -> None:
        """Never call `on_wake` again."""
        self._needed_bytes = None
        if self.end_ms:
            self._deadlines.discard(self)
        self.is_woken = False

    def on_deadline(self) -> None:
        self.is_due = True
        if self._needed_bytes is not None:
            self._needed_bytes = None
            self.on_wake()

    def _fire(self) -> None:
        self._needed_bytes = None
        self._deadlines.wake_soon(self)


class Deadlines:
    """Calls `on_deadline` of each wait when its time is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self._ticks: dict[int, tuple[dict[Waiting, None], asyncio.TimerHandle]] = {}
        # What is over; as long as something stands here, `_end_some` is under way.
        self._due: deque[tuple[int, dict[Waiting, None]]] = deque()
        self._woken: deque[Waiting] = deque()  # as long as something stands here, `_wake_some` is under way
        self._is_waking = False
        self._next_early = 0  # whose turn it is to be chosen by a wait that leaves a crowd

    def __len__(self) -> int:
        """How many wait."""
        return sum(len(waits) for waits, _ in self._ticks.values()) + sum(len(waits) for _, waits in self._due)

    def add(self, waiting: Waiting, from_s: float, max_wait_ms: int) -> None:
        """End it `max_wait_ms` after `from_s`, a time of the event loop; earlier in a crowd."""
        end_ms = ceil(from_s * 1000) + max_wait_ms
        if max_wait_ms >= SHORT_MS:
            end_ms += -end_ms % TICK_MS
            end_ms = self._away_from_crowd(end_ms, max_wait_ms)
        waiting.end_ms = end_ms
        tick = self._ticks.get(end_ms)
        if tick is None:
            timer = self.loop.call_at(end_ms / 1000, self._on_tick, end_ms)
            self._ticks[end_ms] = ({waiting: None}, timer)
        else:
            tick[0][waiting] = None

    def discard(self, waiting: Waiting) -> None:
        """Do not end it any more."""
        end_ms, waiting.end_ms = waiting.end_ms, 0
        tick = self._ticks.get(end_ms)
        if tick is not None:
            waits, timer = tick
            waits.pop(waiting, None)
            if not waits:
                timer.cancel()
                del self._ticks[end_ms]
            return
        for due_ms, waits in self._due:
            if due_ms == end_ms:
                waits.pop(waiting, None)

    def wake_all(self) -> None:
        """Wake all that wait, a few in each turn of the event loop: what they have looked up may be wrong."""
        for waits in [waits for waits, _ in self._ticks.values()] + [waits for _, waits in self._due]:
            for waiting in waits:
                waiting.wake()

    def wake_soon(self, waiting: Waiting) -> None:
        """Call its `on_wake` in a later turn of the event loop, unless it is cancelled before."""
        waiting.is_woken = True
        self._woken.append(waiting)
        if not self._is_waking:
            self._is_waking = True
            self.loop.call_soon(self._wake_some)

    def _wake_some(self) -> None:
        woken = self._woken
        left = WAKES_PER_TURN
        try:
            while woken and left:
                waiting = woken.popleft()
                if waiting.is_woken:
                    left -= 1
                    waiting.is_woken = False
                    waiting.on_wake()
        finally:
            self._is_waking = bool(woken)
            if woken:
                self.loop.call_soon(self._wake_some)

    def _away_from_crowd(self, end_ms: int, max_wait_ms: int) -> int:
        """A tick before `end_ms` with fewer waits, if that has many."""
        tick = self._ticks.get(end_ms)
        if tick is None or len(tick[0]) < CROWD:
            return end_ms
        self._next_early += 1
        choices = max_wait_ms // (EARLY_SHARE * TICK_MS)
        early_ms = end_ms - TICK_MS * (1 + self._next_early % choices)
        earlier = self._ticks.get(early_ms)
        return early_ms if earlier is None or len(earlier[0]) < len(tick[0]) else end_ms

    def _on_tick(self, end_ms: int) -> None:
        waits, _ = self._ticks.pop(end_ms)
        self._due.append((end_ms, waits))
        if len(self._due) == 1:
            self.loop.call_soon(self._end_some)

    def _end_some(self) -> None:
        """A few now, the rest in the next turn: what has arrived in between goes first."""
        late_ms = self.loop.time() * 1000 - LATE_MS
        due = self._due
        ended = 0
        try:
            while due:
                end_ms, waits = due[0]
                while waits:
                    if ended >= ENDS_PER_TURN and end_ms > late_ms:
                        return
                    ended += 1
                    waiting, _ = waits.popitem()
                    waiting.end_ms = 0
                    waiting.on_deadline()
                due.popleft()
        finally:
            if due:
                self.loop.call_soon(self._end_some)
