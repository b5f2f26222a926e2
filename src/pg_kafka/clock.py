"""What time it is. Everything that decides by time is given a Clock; nothing else of the program reads the time.

The loop of asyncio has its own steady time, by which it calls back; `loop.time()` is for that.
"""

from __future__ import annotations

import time


class Clock:
    """Two times, which must not be compared with each other.

    Wall time is the time of day, as people and other machines know it: it jumps when somebody sets the clock. Steady
    time never jumps and never goes back. It begins at the time of day when the Clock is made, so that what is stored of
    it means something to the next process.
    """

    __slots__ = ("_begin_ms",)

    def __init__(self) -> None:
        self._begin_ms = time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def steady_ms(self) -> int:
        """Milliseconds, for durations and deadlines."""
        return self._begin_ms + time.monotonic_ns() // 1_000_000

    def steady_s(self) -> float:
        """The same in seconds, as the deadlines of asyncio are given."""
        return self._begin_ms / 1000 + time.monotonic()

    def processor_ns(self) -> int:
        """Nanoseconds of the processor that this thread has used, for comparing two moments."""
        return time.thread_time_ns()
