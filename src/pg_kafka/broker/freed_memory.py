"""Memory that busy times have freed, given back to the system once traffic is low.

While batches flow glibc keeps what they free (`app.py`), which is what makes them fast. What it keeps is scattered between
the batches of the tail, so that a process would stay as large as it was at its busiest for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
from concurrent.futures import Executor
from typing import Final

LOOK_S: Final = 10.0

QUIET_BYTES: Final = 8 * 1024 * 1024
"""Less than this moved between two looks: memory that is given back now will not be wanted at once."""

BUSY_BYTES: Final = 32 * 1024 * 1024
"""Less than this moved since the last time: there is little to give back."""


class FreedMemory:
    """Looks now and then; `moved_bytes` is counted by connections, in both directions."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._seen_bytes = 0
        self._given_back_bytes = 0  # what had been moved then
        self.moved_bytes = 0

    def start(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.start()
        if self.is_worthwhile():
            # Takes some ms, and other threads allocate small objects meanwhile.
            self._pool.submit(give_back)

    def is_worthwhile(self) -> bool:
        """Whether a busy time has just ended; True once for each."""
        moved_bytes, seen_bytes = self.moved_bytes, self._seen_bytes
        self._seen_bytes = moved_bytes
        if moved_bytes - seen_bytes >= QUIET_BYTES or moved_bytes - self._given_back_bytes < BUSY_BYTES:
            return False
        self._given_back_bytes = moved_bytes
        return True


def give_back() -> None:
    """Return all unused pages of malloc's heaps. Elsewhere than on glibc nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
