"""A parked fetch: it sleeps until enough has been appended, until something else concerns it, or until its deadline.

It is woken by calls, never by looking. Several partitions that grow in one commit wake it once, after the commit's last
callback, since waking goes through the event loop's queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Waiting:
    """Counts what arrives; while `wait` is in force, calls `on_wake` once, from the event loop."""

    __slots__ = ("_added_bytes", "_handle", "_is_stirred", "_loop", "_needed_bytes", "_on_wake", "_timer", "is_due")

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline: float, on_wake: Callable[[], None]) -> None:
        self._loop = loop
        self._on_wake = on_wake
        self._added_bytes = 0
        self._needed_bytes: int | None = None  # None: nobody sleeps now
        self._is_stirred = False
        self._handle: asyncio.Handle | None = None
        self.is_due = False  # the deadline has passed
        self._timer = loop.call_at(deadline, self._on_deadline)

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
        self._timer.cancel()
        if self._handle is not None:
            self._handle.cancel()

    def _on_deadline(self) -> None:
        self.is_due = True
        if self._needed_bytes is not None:
            self._fire()

    def _fire(self) -> None:
        self._needed_bytes = None
        self._handle = self._loop.call_soon(self._on_wake)
